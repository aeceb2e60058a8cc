//! Leaving tokens out of a model before anything else is done with it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use tempfile::TempDir;
use tokenizers::{Model as _, Tokenizer};

use super::{companions::Companions, inputs::build_tokenizer, log::Log};
use crate::{
    checkpoint::is_foreign_vocabulary,
    data::{ChatTemplate, TokenizerFiles, Tokens, VocabularyCut, Wanted, fenced, ids_in, object, renumber_ids},
    error::{Error, Result},
    model::{Model, Narrowing},
    progress::Progress,
};

/// Which tokens are to stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VocabularyRequest {
    /// Up to this many, the most used of the calibration first.
    Most(usize),
    /// Those of the texts in a file.
    Texts(PathBuf),
}

impl VocabularyRequest {
    /// The file that is read.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Most(_) => None,
            Self::Texts(path) => Some(path),
        }
    }
}

impl FromStr for VocabularyRequest {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.parse() {
            Ok(0) => Err("expected a number of tokens above 0, or a file of text".into()),
            Ok(most) => Ok(Self::Most(most)),
            Err(_) if text.is_empty() => Err("expected a number of tokens, or a file of text".into()),
            Err(_) => Ok(Self::Texts(text.into())),
        }
    }
}

impl Serialize for VocabularyRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Most(most) => serializer.collect_str(most),
            Self::Texts(path) => serializer.collect_str(&path.display()),
        }
    }
}

/// Files that say which tokens there are in a way that tokenizer.json does, too.
const OTHER_VOCABULARIES: &[&str] = &["vocab.json", "merges.txt", "added_tokens.json"];

/// Leaves tokens out of a model, and says how many are left; `calibration` is the file that says which are used most,
/// if there is one.
///
/// # Errors
/// [`Error::Usage`] if fewer are asked for than must stay; [`Error::BadFile`] for tokenizers that cannot be cut;
/// [`Error::BadTokens`], [`Error::Read`], [`Error::Write`].
pub fn narrow(model: Model, request: &VocabularyRequest, calibration: Option<&Path>, log: &Log) -> Result<Model> {
    let (directory, size) = (model.directory().to_owned(), model.config().vocab_size);
    let shown = model.shown().to_owned();
    let files = TokenizerFiles::read(&directory)?;
    let broken = directory.join("tokenizer.json").is_symlink();
    if files.is_empty() && !broken && !files.settings().contains_key("auto_map") {
        let instead = if shown == directory { "put its tokenizer.json there" } else { "convert it with its tokenizer" };
        let reason = format!("has no tokenizer, of which --vocabulary leaves tokens out; {instead}");
        return Err(Error::bad_file(&shown, reason));
    }
    let built = build_tokenizer(&model, &files, log)?;
    let source = files.source();
    let bad = |reason: String| Error::bad_file(&source, format!("--vocabulary: {reason}"));
    let generation = object(&directory.join("generation_config.json"))?;
    let special: BTreeSet<u32> = (built.tokenizer.get_added_tokens_decoder().keys().copied())
        .chain(built.roles.iter().map(|(_, id)| *id))
        .chain(ids_in(&model.config().raw).chain(ids_in(&generation)).filter(|&id| (id as usize) < size))
        .collect();
    let cut = VocabularyCut::new(&files.json_as_stored(&built)?, special).map_err(&bad)?;
    let read = |path: &Path| Tokens::read(path, &|| ChatTemplate::find_for(&shown, &directory, &built), log);
    let texts = request.file().or(calibration).map(read).transpose()?;
    let encoded = match &texts {
        None => Vec::new(),
        Some(Tokens::Rows(rows)) => rows.concat(),
        Some(Tokens::Text(text)) => text.encoded(&built.tokenizer)?,
    };
    let mut counts = vec![0; size];
    for id in &encoded {
        *counts.get_mut(*id as usize).ok_or_else(|| {
            Error::BadTokens(format!("the token {id} is outside of the vocabulary of {size}; is it another model's?"))
        })? += 1;
    }
    let wanted = match *request {
        VocabularyRequest::Most(most) if most < cut.least() => {
            return Err(Error::Usage(format!(
                "--vocabulary {most}: special tokens and what any text can be written in are {} tokens, which stay",
                cut.least()
            )));
        }
        VocabularyRequest::Most(most) => Wanted::Most(most),
        VocabularyRequest::Texts(_) => Wanted::Counted,
    };
    let kept = cut.kept(&counts, wanted);
    let made = TempDir::with_prefix("slicegpt-gpu-").map_err(Error::write(&std::env::temp_dir()))?;
    let tokenizer = cut.rewritten(&kept).map_err(&bad)?;
    write(&made, "tokenizer.json", tokenizer.as_bytes())?;
    let renumbered = |mut fields: Map<String, Value>, name: &str| {
        let renumbered = renumber_ids(&mut fields, &kept, size);
        renumbered.map_err(|reason| Error::bad_file(&directory.join(name), reason)).map(|()| fields)
    };
    let rows = kept.iter().filter(|&&id| (id as usize) < size).count();
    let mut config = model.config().raw.clone();
    // What the class would fill in are tokens of the whole vocabulary.
    for name in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        config.entry(name).or_insert(Value::Null);
    }
    let mut config = renumbered(config, "config.json")?;
    config.insert("vocab_size".into(), rows.into());
    write_fields(&made, "config.json", &config)?;
    if !generation.is_empty() {
        write_fields(&made, "generation_config.json", &renumbered(generation, "generation_config.json")?)?;
    }
    if directory.join("tokenizer_config.json").exists() {
        write_fields(&made, "tokenizer_config.json", &settings(files.settings(), &kept))?;
    }
    copy_others(&directory, &made, log)?;
    let files = TokenizerFiles::read(made.path())?;
    let left = files.build(&model.config().tokenizer_class(files.named_class(), files.of_bytes()))?;
    let written_as = written_as(&cut, &built.tokenizer, &left.tokenizer, &kept, size).map_err(&bad)?;
    let model = model.narrowed(Narrowing { written_as, directory: made, kept }, config)?;
    if let (VocabularyRequest::Texts(path), Some(Tokens::Text(text))) = (request, &texts) {
        let name = path.display().to_string();
        // What the cut rests on; a tokenizer with a step that is not thought of here is found out.
        if model.renumbered(vec![encoded], &name)? != [text.encoded(&left.tokenizer)?] {
            return Err(bad(format!("{name} would be encoded otherwise with the tokens that it is made of")));
        }
    }
    log.say(&format!("vocabulary: {size} tokens to {rows}"));
    Ok(model)
}

fn write(made: &TempDir, name: &str, bytes: &[u8]) -> Result<()> {
    let path = made.path().join(name);
    let directory = path.parent().unwrap_or(made.path());
    fs::create_dir_all(directory).and_then(|()| fs::write(&path, bytes)).map_err(Error::write(&path))
}

fn write_fields(made: &TempDir, name: &str, fields: &Map<String, Value>) -> Result<()> {
    let text = serde_json::to_string_pretty(fields).map_err(Error::internal)?;
    write(made, name, format!("{text}\n").as_bytes())
}

/// tokenizer_config.json with the new numbers.
fn settings(settings: &Map<String, Value>, kept: &[u32]) -> Map<String, Value> {
    let mut settings = settings.clone();
    // There is one tokenizer.json now.
    settings.shift_remove("fast_tokenizer_files");
    if let Some(Value::Object(tokens)) = settings.get_mut("added_tokens_decoder") {
        let place = |id: &String| Some(kept.binary_search(&id.parse().ok()?).ok()?.to_string());
        *tokens = std::mem::take(tokens).into_iter().filter_map(|(id, token)| Some((place(&id)?, token))).collect();
    }
    settings
}

/// Copies what else goes along, without the files that have the whole vocabulary.
fn copy_others(directory: &Path, made: &TempDir, log: &Log) -> Result<()> {
    for name in Companions::within(directory).copied {
        let stale = OTHER_VOCABULARIES.contains(&name.as_str()) || is_foreign_vocabulary(&name);
        if stale {
            log.note(&format!(
                "{name} does not go along: it has the whole vocabulary; tokenizer.json has what is left"
            ));
        } else if !made.path().join(&name).exists() && !is_other_version(&name) {
            let path = directory.join(&name);
            write(made, &name, &fs::read(&path).map_err(Error::read(&path))?)?;
        }
    }
    Ok(())
}

/// Whether this is the tokenizer for another version of transformers.
fn is_other_version(name: &str) -> bool {
    name.starts_with("tokenizer.") && name.ends_with(".json") && name != "tokenizer.json"
}

/// How the text of each token is written with those that stay, by its old id.
///
/// # Errors
/// The reason, if a token that stays is not found under its new number.
fn written_as(
    cut: &VocabularyCut,
    whole: &Tokenizer,
    left: &Tokenizer,
    kept: &[u32],
    size: usize,
) -> std::result::Result<Vec<Vec<u32>>, String> {
    let written = |id: u32| {
        let Ok(place) = kept.binary_search(&id) else {
            let Some(text) = cut.text(id) else { return Ok(Vec::new()) };
            let tokens = fenced(|| left.get_model().tokenize(text))?;
            return Ok(tokens.into_iter().map(|token| token.id).collect());
        };
        let place = place as u32;
        // A row without a token has no other name.
        match whole.id_to_token(id).map(|text| (left.token_to_id(&text), text)) {
            Some((found, text)) if found != Some(place) => {
                Err(format!("the token {text:?} would not be found under its new number {place}"))
            }
            _ => Ok(vec![place]),
        }
    };
    (0..size as u32).map(written).collect()
}
