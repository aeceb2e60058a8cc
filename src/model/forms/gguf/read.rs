//! A GGUF file as a model: a config and a tokenizer are made of its metadata, and its tensors become those of an
//! ordinary checkpoint, widened when they are read.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::{keys::Keys, read_metadata, read_rotary::Factors, read_tensors, read_vocabulary};
use crate::{
    checkpoint::{Checkpoint, GgufEntry, GgufField, GgufFiles, GgufHeader},
    error::{Error, Result},
    model::Config,
};

/// Whether a file is a GGUF file, by its ending or by what it begins with.
pub fn is_gguf(path: &Path) -> bool {
    let named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let begins = || {
        let mut start = [0; 4];
        File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && &start == b"GGUF"
    };
    path.is_file() && (named || begins())
}

/// Opens a GGUF file, or all of them if a model is in several of which `path` is one.
///
/// # Errors
/// [`Error::Read`]; [`Error::BadFile`] and [`Error::BadTensor`] for what is damaged or hostile;
/// [`Error::UnknownArchitecture`] and [`Error::UnsupportedField`] for models that are not implemented;
/// [`Error::Write`] if there is no room for the files that are made of the metadata.
pub fn open(path: &Path) -> Result<(Config, Checkpoint)> {
    let GgufFiles { mut files, header } = GgufFiles::open(path)?;
    // Of several files, the first has the metadata.
    let path = &files[0].0.clone();
    let keys = Keys::of(&header, path)?;
    let mut factors = Factors::default();
    for (name, values) in factors.named() {
        if let Some(entry) = read_tensors::list(&header, name, path)? {
            let (path, file) = &mut files[entry.file];
            *values = Some(floats(file, entry).map_err(Error::read(path))?);
        }
    }
    let (source, mut fields) = read_metadata::fields(&header, &keys, &factors, path)?;
    let vocab_size = fields.get("vocab_size").and_then(Value::as_u64).unwrap_or(0) as usize;
    let rstrip = source.strips_after_special(keys.text_at("general.name")?);
    let vocabulary = read_vocabulary::read(&keys, vocab_size, rstrip, path)?;
    fields.insert("bos_token_id".into(), vocabulary.bos.into());
    fields.insert("eos_token_id".into(), vocabulary.eos.first().copied().into());
    // Where there is none, too: that of the class may be outside of the vocabulary, and then it does not load.
    fields.insert("pad_token_id".into(), vocabulary.pad.into());
    let config = Config::from_fields(fields.clone(), path)?;
    let tensors = read_tensors::assemble(&config, source, &header, path)?;
    let made = made(path, &files[0].1, &fields, &vocabulary, card(&header))?;
    Ok((config, Checkpoint::assembled(files, tensors, made)))
}

fn floats(file: &mut File, entry: &GgufEntry) -> std::io::Result<Vec<f32>> {
    let mut bytes = vec![0; entry.byte_len as usize];
    file.seek(SeekFrom::Start(entry.offset))?;
    file.read_exact(&mut bytes)?;
    Ok(entry.encoding.widen(&bytes))
}

/// What a model card says of terms and languages, where the file does.
fn card(header: &GgufHeader) -> Option<String> {
    let name =
        |text: &String| text.len() <= 64 && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c));
    let text = |key: &str| match header.metadata.get(key) {
        Some(GgufField::Text(text)) if name(text) => Some(text),
        _ => None,
    };
    let mut card = format!("---\nlicense: {}\n", text("general.license")?);
    if let Some(name) = text("general.license.name") {
        card += &format!("license_name: {name}\n");
    }
    if let Some(GgufField::Texts(languages)) = header.metadata.get("general.languages") {
        let languages: Vec<String> =
            languages.iter().filter(|text| name(text)).take(128).map(|text| format!("- \"{text}\"\n")).collect();
        if !languages.is_empty() {
            card += &format!("language:\n{}", languages.concat());
        }
    }
    Some(card + "---\n")
}

/// The files that would lie beside a checkpoint, where they are read like others.
fn made(
    path: &Path,
    file: &File,
    fields: &Map<String, Value>,
    vocabulary: &read_vocabulary::Read,
    card: Option<String>,
) -> Result<TempDir> {
    let directory =
        tempfile::Builder::new().prefix("slicegpt-gpu-gguf.").tempdir().map_err(Error::write(&std::env::temp_dir()))?;
    // They are as old as what they are made of: a run that is resumed finds the same inputs.
    let modified = file.metadata().and_then(|metadata| metadata.modified()).map_err(Error::read(path))?;
    let write = |name: &str, text: String| {
        let target = directory.path().join(name);
        let written =
            fs::write(&target, text).and_then(|()| File::options().append(true).open(&target)?.set_modified(modified));
        written.map_err(Error::write(&target))
    };
    let pretty = |value: &Value| serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(Error::internal);
    write("config.json", pretty(&fields.clone().into())?)?;
    let mut generation = Map::new();
    if let Some(bos) = vocabulary.bos {
        generation.insert("bos_token_id".into(), bos.into());
    }
    match vocabulary.eos.as_slice() {
        [] => {}
        [eos] => drop(generation.insert("eos_token_id".into(), json!(eos))),
        all => drop(generation.insert("eos_token_id".into(), json!(all))),
    }
    if !generation.is_empty() {
        write("generation_config.json", pretty(&generation.into())?)?;
    }
    if let Some(card) = card {
        write("README.md", card)?;
    }
    if let Some(json) = &vocabulary.json {
        write("tokenizer.json", json.clone())?;
        write("tokenizer_config.json", pretty(&vocabulary.settings.clone().into())?)?;
    }
    Ok(directory)
}
