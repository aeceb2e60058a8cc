//! Which files of a repository count for a model: those that are read, and the terms of use.

use crate::{
    checkpoint::GgufSplit,
    error::{Error, Result},
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// What the names of files hold that say what a model may be used for.
const TERMS: &[&str] = &["license", "licence", "notice", "use_policy"];

/// The weights of a repository.
#[derive(Debug, PartialEq, Eq)]
pub enum Weights {
    /// One safetensors file.
    Single(String),
    /// The shards that this index names.
    Index(String),
    /// One GGUF file, or all that a model is split into.
    Files(Vec<String>),
}

/// The file of weights that a config.json names, which then counts in place of the usual ones.
pub fn named(config: &[u8]) -> Option<String> {
    let fields: serde_json::Value = serde_json::from_slice(config).ok()?;
    fields.get("transformers_weights")?.as_str().map(str::to_owned)
}

/// The weights that a model of these files has: of a repository or of a copy of it. Those of its config.json are
/// `named`.
pub fn usual(named: Option<&str>, is_there: impl Fn(&str) -> bool) -> Option<Weights> {
    let name = match named {
        Some(name) => name,
        None if is_there(SINGLE) => SINGLE,
        None => INDEX,
    };
    let weights = if name.ends_with(".index.json") { Weights::Index } else { Weights::Single };
    is_there(name).then(|| weights(name.to_owned()))
}

/// The weights that count, of these files: a GGUF `file`, or those that config.json has `named`, or the usual ones.
///
/// # Errors
/// [`Error::BadFile`] that says what is there instead.
pub fn weights(names: &[&str], file: Option<&str>, named: Option<&str>, repository: &str) -> Result<Weights> {
    let bad = |reason: String| Err(Error::bad_file(repository.as_ref(), reason));
    let ending = |ends: &[&str]| -> Vec<&str> {
        names.iter().copied().filter(|name| ends.iter().any(|end| name.ends_with(end))).collect()
    };
    // Of those that a model is split into, the first stands for all.
    let mut ggufs = ending(&[".gguf"]);
    ggufs.retain(|name| GgufSplit::parse(name).is_none_or(|split| split.number == 1));
    let few = |names: &[&str]| {
        let shown = names.iter().take(6).copied().collect::<Vec<_>>().join(", ");
        if names.len() > 6 { format!("{shown} and {} more", names.len() - 6) } else { shown }
    };
    if let Some(file) = file {
        let wanted = ggufs_with(file);
        let Some(missing) = wanted.iter().find(|file| !names.contains(&file.as_str())) else {
            return Ok(Weights::Files(wanted));
        };
        let reason = if names.contains(&file) { format!(", which goes with {file}") } else { String::new() };
        return bad(format!("the repository has no {missing}{reason}; its GGUF files: {}", few(&ggufs)));
    }
    if let Some(weights) = usual(named, |name| names.contains(&name)) {
        return Ok(weights);
    }
    if let Some(named) = named {
        return bad(format!(
            "its config.json names {named:?} as transformers_weights, which the repository does not have; it has {}",
            few(names)
        ));
    }
    match () {
        () if names.is_empty() => bad("the repository is empty".into()),
        () if !ggufs.is_empty() => bad(format!(
            "the repository has GGUF files alone: name one of them, such as {repository}/{}; there are {}",
            ggufs[0],
            few(&ggufs)
        )),
        () if names.contains(&"adapter_config.json") => {
            bad("the repository holds a LoRA adapter; merge it into its base model first".into())
        }
        () if !ending(&[".bin", ".pt", ".pth"]).is_empty() => {
            bad("the repository has PyTorch files alone; load it in transformers and save it with save_pretrained"
                .into())
        }
        () => bad(format!("the repository has no weights that are read here: {}", few(names))),
    }
}

/// A GGUF file, and those that have the rest of its model, by their names.
pub fn ggufs_with(file: &str) -> Vec<String> {
    GgufSplit::parse(file).map_or_else(|| vec![file.to_owned()], |split| split.names().collect())
}

/// Whether a small file goes along: what stands at the top and says how to read the model, and the chat templates.
pub fn goes_along(name: &str) -> bool {
    let lower = name.to_lowercase();
    let terms = TERMS.iter().any(|term| lower.starts_with(term));
    let Some((directory, file)) = name.rsplit_once('/') else {
        let read = [".json", ".jinja", ".model", ".tiktoken"].iter().any(|end| name.ends_with(end));
        let texts = ["merges.txt", "vocab.txt", "README.md"].contains(&name);
        return read && !name.ends_with(".index.json") || texts || terms;
    };
    directory == "additional_chat_templates" && file.ends_with(".jinja")
}

/// The shards that an index names.
///
/// # Errors
/// The reason.
pub fn shards(index: &[u8]) -> std::result::Result<Vec<String>, String> {
    let fields: serde_json::Value = serde_json::from_slice(index).map_err(|error| error.to_string())?;
    let map = fields.get("weight_map").and_then(serde_json::Value::as_object).ok_or("it has no weight_map")?;
    let mut names: Vec<String> = map.values().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() { Err("it names no file".into()) } else { Ok(names) }
}
