//! Which files of a directory hold the weights: those that transformers takes.
//!
//! In this order: the file that config.json names as `transformers_weights`, `model.safetensors`, the shards that
//! `model.safetensors.index.json` names. Nothing else counts: not other shards, not variants, not other formats.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use serde_json::Value;

use super::{contents::contents, diagnose};
use crate::error::{Error, Result};

/// The file that counts first.
pub const SINGLE: &str = "model.safetensors";
/// The file that names the shards.
pub const INDEX: &str = "model.safetensors.index.json";

/// The files that hold the weights.
pub struct Selection {
    /// Where config.json and the tokenizer lie.
    pub directory: PathBuf,
    /// In the order of their names: of a tensor in several, the last one counts.
    pub files: Vec<PathBuf>,
    /// What else is there and does not count, in words.
    pub notes: Vec<String>,
}

/// Finds the files of a checkpoint: of the directory `path`, or `path` itself; `named` is what config.json says of it.
///
/// # Errors
/// [`Error::Read`]; [`Error::BadFile`] that says what is there instead.
pub fn select(path: &Path, named: Option<&str>) -> Result<Selection> {
    if !path.is_dir() {
        std::fs::metadata(path).map_err(Error::read(path))?;
        if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("safetensors")) {
            return Err(Error::bad_file(
                path,
                format!("expected a .safetensors file or a directory with one{}", diagnose::named(path, "; this is ")),
            ));
        }
        let directory =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        return Ok(Selection { directory, files: vec![path.to_owned()], notes: Vec::new() });
    }
    let selection = |files, notes| Selection { directory: path.to_owned(), files, notes };
    if let Some(name) = named {
        let file = inside(path, name).ok_or_else(|| {
            Error::bad_file(
                &path.join("config.json"),
                format!("transformers_weights: {name:?} is not the name of a file in its directory"),
            )
        })?;
        let files = match name {
            name if name.ends_with(".safetensors.index.json") => shards(path, &file)?,
            name if name.ends_with(".safetensors") => vec![file],
            name => {
                let what = diagnose::named(&file, "; it is ");
                return Err(Error::bad_file(
                    &path.join("config.json"),
                    format!(
                        "transformers_weights: {name:?} is neither a .safetensors nor a .safetensors.index.json \
                         file{what}"
                    ),
                ));
            }
        };
        return Ok(selection(files, Vec::new()));
    }
    if let Some(name) = diagnose::distributed_shard(path) {
        return Err(Error::bad_file(
            path,
            format!(
                "holds {name}, a shard of a distributed checkpoint, which transformers would load in place of \
                 {SINGLE}: load it there and save it with save_pretrained"
            ),
        ));
    }
    let (single, index) = (path.join(SINGLE), path.join(INDEX));
    if single.is_file() {
        let beside = index
            .is_file()
            .then(|| format!("{} counts, as in transformers; {INDEX} beside it is not read", single.display()));
        return Ok(selection(vec![single], beside.into_iter().collect()));
    }
    if index.is_file() {
        return Ok(selection(shards(path, &index)?, Vec::new()));
    }
    // Something that stands there under the right name is not the same as nothing.
    match [single, index].into_iter().find(|file| file.symlink_metadata().is_ok()) {
        Some(file) if file.exists() => Ok(selection(vec![file], Vec::new())),
        Some(link) => Err(Error::bad_file(&link, "a link to a file that is not there; download the model again")),
        None => Err(Error::bad_file(path, format!("has neither {SINGLE} nor {INDEX}{}", diagnose::directory(path)))),
    }
}

/// The shards that an index names, in the order of their names.
fn shards(directory: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let bad = |reason: String| Error::bad_file(index, reason);
    let text = contents(index)?;
    // As a value, since of a key that is there twice the last one counts.
    let fields: Value = serde_json::from_slice(&text).map_err(|error| {
        let found = diagnose::mistaken(&text, "; the file is ");
        bad(format!("{error}{found}"))
    })?;
    let fields = fields.as_object().ok_or_else(|| bad("expected an object with a weight_map".into()))?;
    let map = fields
        .get("weight_map")
        .ok_or_else(|| bad("missing field `weight_map`: expected the file of each tensor".into()))?;
    let map = map
        .as_object()
        .ok_or_else(|| bad(format!("weight_map: expected a map from tensors to files, found {}", kind(map))))?;
    let mut names = BTreeSet::new();
    for (tensor, name) in map {
        let text =
            name.as_str().ok_or_else(|| bad(format!("weight_map: {tensor}: expected a string, found {name}")))?;
        names.insert(text);
    }
    if names.is_empty() {
        return Err(bad("weight_map names no file".into()));
    }
    let mut files = Vec::new();
    for name in &names {
        let file = inside(directory, name)
            .ok_or_else(|| bad(format!("shard {name:?} is not a plain file name in its directory")))?;
        if file.extension().is_none_or(|extension| extension != "safetensors") {
            return Err(bad(format!(
                "shard {name:?} is not a .safetensors file{}",
                diagnose::named(&file, ": it is ")
            )));
        }
        files.push(file);
    }
    let gone: Vec<&str> = names.iter().zip(&files).filter(|(_, file)| !file.exists()).map(|(name, _)| *name).collect();
    if gone.is_empty() {
        return Ok(files);
    }
    Err(bad(format!(
        "cannot read {} of the {} shards that it names, which are not there: {}; download them into {}",
        gone.len(),
        names.len(),
        diagnose::list(&gone),
        directory.display()
    )))
}

/// The file of this name below a directory; `None` if the name leads out of it.
fn inside(directory: &Path, name: &str) -> Option<PathBuf> {
    let plain = !name.is_empty()
        && !name.contains('\\')
        && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    // Components drop what changes nothing, such as `a/.`; here a name says what it means.
    (plain && !name.split('/').any(|part| part.is_empty() || part == ".")).then(|| directory.join(name))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
