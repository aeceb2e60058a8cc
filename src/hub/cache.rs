//! The part of the cache that is one repository's.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::{
    name::{Name, is_hash},
    select::{Weights, ggufs_with, named, shards, usual},
    settings::Settings,
};
use crate::error::{Error, Result};

/// What tokenizers lie in, any of them.
const TOKENIZERS: &[&str] = &["tokenizer.json", "vocab.json", "tokenizer.model"];

/// `models--ORGANISATION--NAME`, and its locks.
pub struct Cache {
    directory: PathBuf,
    locks: PathBuf,
}

impl Cache {
    /// That of a repository.
    pub fn of(settings: &Settings, name: &Name) -> Self {
        let directory = format!("models--{}", name.repository().replace('/', "--"));
        Self { locks: settings.cache.join(".locks").join(&directory), directory: settings.cache.join(directory) }
    }

    /// The files of a commit by their names.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.directory.join("snapshots").join(commit)
    }

    /// What is given to whoever opens the model.
    pub fn model(&self, commit: &str, name: &Name) -> PathBuf {
        let snapshot = self.snapshot(commit);
        name.file().map_or_else(|| snapshot.clone(), |file| snapshot.join(file))
    }

    /// A file by its hash.
    pub fn blob(&self, hash: &str) -> PathBuf {
        self.directory.join("blobs").join(hash)
    }

    /// The commit that a branch or a tag was when it was last looked at.
    pub fn commit(&self, revision: &str) -> Option<String> {
        let text = fs::read_to_string(self.directory.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_hash(commit, 40))
    }

    /// Notes what a branch or a tag is.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn note_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.directory.join("refs").join(revision);
        create_parent(&path)?;
        fs::write(&path, commit).map_err(Error::write(&path))
    }

    /// Whether everything that a model needs is there.
    pub fn is_whole(&self, commit: &str, name: &Name) -> bool {
        let snapshot = self.snapshot(commit);
        let there = |name: &str| snapshot.join(name).is_file();
        if let Some(file) = name.file() {
            return ggufs_with(file).iter().all(|file| there(file));
        }
        let Ok(config) = fs::read(snapshot.join("config.json")) else { return false };
        match usual(named(&config).as_deref(), there) {
            Some(Weights::Index(index)) => {
                let index = fs::read(snapshot.join(index)).ok();
                let shards = index.and_then(|index| shards(&index).ok());
                shards.is_some_and(|shards| shards.iter().all(|shard| there(shard)))
            }
            weights => weights.is_some(),
        }
    }

    /// Whether there is something that texts are made into tokens by: who put the weights there may not have wanted it.
    pub fn has_tokenizer(&self, commit: &str, name: &Name) -> bool {
        let snapshot = self.snapshot(commit);
        name.file().is_some() || TOKENIZERS.iter().any(|name| snapshot.join(name).is_file())
    }

    /// Waits until no other process downloads this file, and keeps others waiting as long as it is held.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn lock(&self, hash: &str) -> Result<File> {
        let path = self.locks.join(format!("{hash}.lock"));
        create_parent(&path)?;
        let file = File::options().create(true).append(true).open(&path).map_err(Error::write(&path))?;
        // Where the file system has no locks, processes are not kept apart.
        if let Err(error) = file.lock()
            && error.kind() != std::io::ErrorKind::Unsupported
        {
            return Err(Error::Write { path, source: error });
        }
        Ok(file)
    }

    /// Gives a file of a commit its name.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn link(&self, commit: &str, name: &str, hash: &str) -> Result<()> {
        let path = self.snapshot(commit).join(name);
        create_parent(&path)?;
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path).map_err(Error::write(&path))?;
        }
        // Relative, so that the cache can be moved.
        let up = "../".repeat(2 + name.matches('/').count());
        let linked = link(Path::new(&format!("{up}blobs/{hash}")), &self.blob(hash), &path);
        linked.map_err(Error::write(&path))
    }
}

#[cfg(unix)]
fn link(relative: &Path, _: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(relative, path)
}

/// Links need rights that users seldom have.
#[cfg(not(unix))]
fn link(_: &Path, blob: &Path, path: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, path).or_else(|_| fs::copy(blob, path).map(drop))
}

/// Makes the directory that a file will lie in.
///
/// # Errors
/// [`Error::Write`].
pub fn create_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::create_dir_all(parent).map_err(Error::write(parent))
}
