//! Models by their names on the Hugging Face Hub, in the cache that Python's huggingface_hub has, too.
//!
//! A repository lies in `models--ORGANISATION--NAME`: `blobs` has each file by its hash, `snapshots/COMMIT` links to
//! them by their names, and `refs/BRANCH` says which commit a branch was. What is there is not downloaded again, by
//! whomever it was put there. Only files that count for a model are taken.

mod cache;
mod client;
mod download;
mod name;
mod select;
mod settings;
mod transfer;

use std::path::{Path, PathBuf};

use cache::Cache;
use client::Client;
pub use name::Name;
pub use settings::Settings;

use crate::{
    error::{Error, Result},
    progress::Progress,
};

/// Where the model is that a command line names: the path itself if something is there, or else the snapshot of the
/// repository of that name, which is downloaded as far as it is not in the cache. What is neither stays as it is, for
/// whoever opens it to say so.
///
/// # Errors
/// [`Error::BadFile`] if the repository, its revision or its files cannot be had, or if it is named by an address, with
/// what to do; [`Error::Write`] if the cache cannot be written; [`Error::Interrupted`].
pub fn find(model: &Path, settings: &Settings, progress: &dyn Progress) -> Result<PathBuf> {
    // A broken link is a local matter, too.
    if model.symlink_metadata().is_ok() {
        return Ok(model.to_owned());
    }
    let text = model.to_str().unwrap_or_default();
    let Some(name) = Name::parse(text) else {
        return match Name::in_address(text) {
            Some(name) => Err(Error::bad_file(model, format!("an address; give the name alone: {name}"))),
            None => Ok(model.to_owned()),
        };
    };
    let cache = Cache::of(settings, &name);
    let commit = name.revision();
    if name.is_commit() && cache.is_whole(commit, &name) && cache.has_tokenizer(commit, &name) {
        return Ok(cache.model(name.revision(), &name));
    }
    if settings.offline {
        return cached(&cache, &name).ok_or_else(|| {
            let reason = format!(
                "no such file or directory, and not in the cache {}; HF_HUB_OFFLINE keeps it from being downloaded",
                settings.cache.display()
            );
            Error::bad_file(model, reason)
        });
    }
    let client = Client::new(settings, &name);
    match client.listing() {
        Ok(listing) => {
            let snapshot = download::snapshot(&client, &cache, &listing, progress)?;
            progress.end();
            Ok(snapshot)
        }
        // Without a network, what was there before is what there is.
        Err(client::Failure::Unreachable(reason)) => match cached(&cache, &name) {
            Some(path) => {
                progress.note(&format!("the Hub cannot be reached ({reason}): the copy in the cache is taken"));
                Ok(path)
            }
            None => Err(Error::bad_file(
                model,
                format!(
                    "no such file or directory, and {} cannot be reached to look for a repository of that name: \
                     {reason}",
                    settings.endpoint
                ),
            )),
        },
        Err(client::Failure::Refused(error)) => Err(error),
    }
}

/// The snapshot that the cache has of a revision.
fn cached(cache: &Cache, name: &Name) -> Option<PathBuf> {
    let commit = if name.is_commit() { name.revision().to_owned() } else { cache.commit(name.revision())? };
    cache.is_whole(&commit, name).then(|| cache.model(&commit, name))
}
