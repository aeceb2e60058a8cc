//! What this program has made itself: only that may be removed to make room, and only if nothing else lies in it.
//!
//! A directory is an output if `slicegpt.json` in it lists the files that were written. Earlier versions wrote no list:
//! their outputs are recognised by that file, by the model card or by the form of what `synthesize` writes, and hold no
//! other names than those below.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use serde_json::Value;

use super::sha256;
use crate::error::{Error, Result};

/// The file that marks an output; its field `output` lists all of the output's files.
pub const RECORD: &str = "slicegpt.json";

/// What earlier versions put beside the weights.
const EARLIER: &[&str] = &[
    RECORD,
    "README.md",
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.json",
    "chat_template.jinja",
    "generation_config.json",
];
/// What `synthesize` of earlier versions wrote beside the weights.
const EARLIER_SYNTHESIZED: &[&str] =
    &["config.json", "tokens.json", "model.safetensors", "model.safetensors.index.json"];
/// What operating systems put into any directory.
const OF_THE_SYSTEM: &[&str] = &[".DS_Store", "Thumbs.db", "desktop.ini"];

/// How files begin that only this program writes: traces, logits.
const BEGINNINGS: &[(usize, &[u8])] =
    &[(0, b"{\"traceEvents\": ["), (8, b"{\"__metadata__\":{\"format\":\"pt\"},\"logits.0\":{")];

/// Whether a file is an output, and no part of the model in whose directory it lies.
pub fn is_output_file(path: &Path) -> bool {
    let mut start = Vec::new();
    File::open(path).and_then(|file| file.take(64).read_to_end(&mut start)).is_ok()
        && BEGINNINGS.iter().any(|(at, bytes)| start.get(*at..).is_some_and(|rest| rest.starts_with(bytes)))
}

/// Refuses to give up a directory unless it is empty or an output of this program with nothing else in it, and with the
/// weights in it that were written: what has been trained in place since is the user's.
///
/// # Errors
/// [`Error::Usage`] that names what would be lost; [`Error::Read`].
pub fn check_replaceable(directory: &Path) -> Result<()> {
    if fs::read_dir(directory).map_err(Error::read(directory))?.next().is_none() {
        return Ok(());
    }
    let Some(written) = Written::find(directory) else {
        return Err(Error::Usage(format!(
            "{} is neither empty nor an output of this program, and will not be replaced; give another directory, or \
             remove it yourself",
            directory.display()
        )));
    };
    if let Some(foreign) = files(directory)?.into_iter().find(|name| !written.includes(name)) {
        return Err(Error::Usage(format!(
            "{} holds {foreign}, which this program has not written and would be lost; move it elsewhere, or give \
             another directory",
            directory.display()
        )));
    }
    match changed(directory)? {
        None => Ok(()),
        Some(name) => Err(Error::Usage(format!(
            "{} has been changed since this program wrote it, and what was changed would be lost; move it elsewhere, \
             or give another directory",
            directory.join(name).display()
        ))),
    }
}

/// A file of an output that is no longer what its record says, if there is one. Only files that are younger than the
/// record, which is written last, are read.
fn changed(directory: &Path) -> Result<Option<String>> {
    let Some(record) = record(directory) else { return Ok(None) };
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let path = directory.join(RECORD);
    let written = modified(&path).map_err(Error::read(&path))?;
    for (name, expected) in record["files"].as_object().into_iter().flatten() {
        let path = directory.join(name);
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file())
            && modified(&path).map_err(Error::read(&path))? > written
        {
            let found = File::open(&path).and_then(|mut file| sha256(&mut file)).map_err(Error::read(&path))?;
            if expected.as_str().is_some_and(|expected| expected != found) {
                return Ok(Some(name.clone()));
            }
        }
    }
    Ok(None)
}

/// The text of a small file that lies in a directory itself.
fn text(directory: &Path, name: &str) -> Option<String> {
    let path = directory.join(name);
    // Looked at before it is opened: opening a pipe would wait for somebody to write.
    fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file).and_then(|_| fs::read_to_string(&path).ok())
}

/// What this program has recorded beside an output.
fn record(directory: &Path) -> Option<Value> {
    let record: Value = serde_json::from_str(&text(directory, RECORD)?).ok()?;
    record["tool_version"].is_string().then_some(record)
}

/// The files below a directory, by their paths in it with `/` between names, in order; of a directory without files its
/// own, ending in `/`.
///
/// # Errors
/// [`Error::Read`].
pub fn files(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut pending = vec![(directory.to_owned(), String::new())];
    while let Some((path, prefix)) = pending.pop() {
        let entries =
            fs::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(Error::read(&path))?;
        if entries.is_empty() && !prefix.is_empty() {
            found.push(prefix.clone());
        }
        for entry in entries {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            // A link is a thing of its own, wherever it leads.
            match entry.file_type().map_err(Error::read(&path))?.is_dir() {
                true => pending.push((entry.path(), format!("{name}/"))),
                false => found.push(name),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The names that an output of this program consists of.
enum Written {
    Listed(BTreeSet<String>),
    Earlier,
    EarlierSynthesized,
}

impl Written {
    /// `None` if the directory is no output.
    fn find(directory: &Path) -> Option<Self> {
        let text = |name: &str| text(directory, name);
        if let Some(record) = record(directory) {
            return Some(match record["output"].as_array() {
                Some(names) => Self::Listed(names.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
                None => Self::Earlier,
            });
        }
        if text("README.md")
            .is_some_and(|card| card.contains("(arXiv 2401.15024): ") && card.contains(" coordinates by slicegpt-gpu "))
        {
            return Some(Self::Earlier);
        }
        let config: Value = serde_json::from_str(&text("config.json")?).ok()?;
        // Never downloaded, nor written by transformers, which says its version: in the form in which this program
        // writes JSON.
        let own = text("config.json")? == format!("{config:#}\n")
            && config["transformers_version"].is_null()
            && config["torch_dtype"].is_string();
        (own && text("tokens.json")?.starts_with("{\"input_ids\":[[")).then_some(Self::EarlierSynthesized)
    }

    fn includes(&self, name: &str) -> bool {
        let between = |start: &str, end: &str| {
            name.len() > start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        };
        let shard = between("model-", ".safetensors") && name.contains("-of-");
        let code = between("configuration_sliced_", ".py") || between("modeling_sliced_", ".py");
        OF_THE_SYSTEM.contains(&name)
            || match self {
                Self::Listed(names) => names.contains(name),
                Self::Earlier => EARLIER.contains(&name) || shard || code,
                Self::EarlierSynthesized => EARLIER_SYNTHESIZED.contains(&name) || shard,
            }
    }
}
