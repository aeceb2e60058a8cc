//! What paths are called: in reports, and where an output is given no name.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Serialize, Serializer};

use crate::{checkpoint::GgufSplit, model::is_gguf};

/// Serialises a path as text, also where it is not UTF-8.
///
/// # Errors
/// Those of the serialiser.
pub fn as_shown<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// The same where there is one.
///
/// # Errors
/// Those of the serialiser.
pub fn as_shown_if<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.display().to_string()).serialize(serializer)
}

/// Serialises paths as text.
///
/// # Errors
/// Those of the serialiser.
pub fn as_shown_all<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.display().to_string()))
}

/// The path with a name at its end: `.` and `..` are resolved, links are not.
pub fn named(path: &Path) -> PathBuf {
    match path.file_name() {
        Some(_) => path.to_owned(),
        None => fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
    }
}

/// The name of an output that was given none: the model's and an ending, beside the model. A snapshot in a Hugging Face
/// cache is named by a hash, and nothing should be written there: its output is called after the repository, in the
/// current directory.
pub fn beside(model: &Path, ending: &str) -> PathBuf {
    let named = named(model);
    let directory = named.parent().and_then(|parent| fs::canonicalize(parent).ok());
    if let Some(repository) = repository(&named).or_else(|| repository(&directory?)) {
        return format!("{repository}{ending}").into();
    }
    // By the name as it was given: a file of a model may be a link to one with a meaningless name.
    let name = || named.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned());
    let stem = if model.is_dir() { name() } else { stem_of(&named) };
    named.with_file_name(format!("{stem}{ending}"))
}

/// What a file is called, without its ending; one of several GGUF files, without its number.
pub fn stem_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match GgufSplit::parse(&name) {
        Some(split) => split.stem.to_owned(),
        None => path.file_stem().map_or("model".into(), |stem| stem.to_string_lossy().into_owned()),
    }
}

/// The name of the repository that a path into a Hugging Face cache, `models--ORGANISATION--NAME/snapshots/HASH`,
/// speaks of.
fn repository(path: &Path) -> Option<String> {
    in_cache(path)?.pop()
}

/// The parts of its name: mostly an organisation and a name.
fn in_cache(path: &Path) -> Option<Vec<String>> {
    let path = std::path::absolute(path).ok()?;
    let names: Vec<_> = path.components().map(|component| component.as_os_str().to_string_lossy()).collect();
    let place = names.windows(3).rev().find(|names| names[0].starts_with("models--") && names[1] == "snapshots")?;
    let parts: Vec<String> = place[0].split("--").skip(1).map(str::to_owned).collect();
    parts.last().is_some_and(|name| !name.is_empty()).then_some(parts)
}

/// What the model is called on the Hub, organisation and name, where its path tells.
pub fn repository_of(path: &Path) -> Option<String> {
    in_cache(&named(path)).map(|parts| parts.join("/"))
}

/// What to call the model: its repository in a Hugging Face cache, its directory, or its GGUF file.
pub fn name_of(path: &Path) -> String {
    if let Some(repository) = repository(&named(path)) {
        return repository;
    }
    let path = std::path::absolute(named(path)).unwrap_or_else(|_| path.to_owned());
    // A file that is all of a model has its name.
    if is_gguf(&path) {
        return stem_of(&path);
    }
    let directory = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
    directory.and_then(Path::file_name).map_or("model".into(), |name| name.to_string_lossy().into_owned())
}
