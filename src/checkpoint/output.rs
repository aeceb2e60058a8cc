//! The directory of an output: it appears whole or not at all, and what an interrupted run has done is kept beside it.

use std::{
    cell::Cell,
    ffi::OsString,
    fs::{self, File, TryLockError},
    io::Write,
    path::{Path, PathBuf},
};

use super::{
    made::{RECORD, check_replaceable, files},
    written::{Hashes, Written, check},
};
use crate::error::{Error, Result};

/// A directory that is filled under another name, `.NAME.partial/output`, and gets its own at the end. Beside it, in
/// `.NAME.partial`, is what the run needs to resume after an interruption, once [`OutputDirectory::commit`] has said
/// that there is something to resume; until then, and at the end, all of it is removed. One process at a time works
/// on it.
pub struct OutputDirectory {
    partial: PathBuf,
    output: PathBuf,
    target: PathBuf,
    force: bool,
    /// Held while this process works here.
    lock: Option<File>,
    /// Directories above it that were not there before, the innermost first.
    parents: Vec<PathBuf>,
    kept: Cell<bool>,
    hashes: Hashes,
}

/// What a run needs to know to resume.
const STATE: &str = "state";
/// The next one, until it is whole.
const STATE_NEW: &str = "state.new";
const LOCK: &str = "lock";
const OUTPUT: &str = "output";
/// What the output is made of, where that is made first.
const DRAFT: &str = "draft";
/// What had the output's name before, for the moment between two renamings.
const REPLACED: &str = "replaced";

impl OutputDirectory {
    /// The file beside the output with the tokens that a run calibrates on.
    pub const TOKENS: &str = "tokens.json";

    /// Begins anew.
    ///
    /// # Errors
    /// [`Error::OutputExists`] if `target` is there and `force` is false; [`Error::Usage`] if it is a file, or a
    /// directory that is neither empty nor an output of this program and nothing else, or if another run works on it
    /// or, unless `force`, has left it unfinished; [`Error::Write`].
    pub fn create(target: &Path, force: bool) -> Result<Self> {
        let this = Self::open(&resolved(target)?, force)?;
        if this.partial.join(STATE).symlink_metadata().is_ok() && !force {
            this.kept.set(true);
            return Err(Error::Usage(format!(
                "{} holds an unfinished run to {}: --resume continues it, --force starts over",
                this.partial.display(),
                target.display()
            )));
        }
        this.clear()?;
        fs::create_dir(&this.output).map_err(Error::write(&this.output))?;
        Ok(this)
    }

    /// Resumes an earlier run; returns the state that it committed.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is nothing to resume; as [`OutputDirectory::create`] otherwise.
    pub fn resume(target: &Path, force: bool) -> Result<(Self, Vec<u8>)> {
        let target = &resolved(target)?;
        let partial = partial(target)?;
        let nothing = || {
            Error::Usage(format!(
                "nothing to resume: {} holds no unfinished run to {}",
                partial.display(),
                target.display()
            ))
        };
        // Looked for first, so that nothing is made where nothing is.
        if !partial.join(STATE).is_file() {
            return Err(nothing());
        }
        let this = Self::open(target, force)?;
        if !this.output.is_dir() {
            return Err(nothing());
        }
        this.kept.set(true);
        let path = this.partial.join(STATE);
        let state = fs::read(&path).map_err(Error::read(&path))?;
        Ok((this, state))
    }

    /// A directory beside the output for what that is made of: written to like the output, kept and removed with what a
    /// run needs to resume. It is there already where the run was resumed.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn draft(&self) -> Result<Self> {
        let output = self.beside(DRAFT);
        fs::create_dir_all(&output).map_err(Error::write(&output))?;
        let (partial, target, kept) = (self.partial.clone(), self.target.clone(), Cell::new(true));
        let hashes = self.hashes.beside(DRAFT);
        Ok(Self { partial, output, target, force: self.force, lock: None, parents: Vec::new(), kept, hashes })
    }

    /// Removes what an earlier run has left.
    fn clear(&self) -> Result<()> {
        // The state first: without it, nothing of the rest is believed.
        let state = self.partial.join(STATE);
        if state.symlink_metadata().is_ok() {
            fs::remove_file(&state).map_err(Error::write(&state))?;
        }
        for entry in fs::read_dir(&self.partial).map_err(Error::read(&self.partial))? {
            let path = entry.map_err(Error::read(&self.partial))?.path();
            if !path.ends_with(LOCK) {
                let removed = if path.is_dir() && !path.is_symlink() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                };
                removed.map_err(Error::write(&path))?;
            }
        }
        self.kept.set(false);
        Ok(())
    }

    /// Locks the directory and repairs what an interrupted run left.
    fn open(target: &Path, force: bool) -> Result<Self> {
        let partial = partial(target)?;
        let there = partial.symlink_metadata().is_ok();
        if !there {
            check_target("--output", target, force)?;
        }
        let above = partial.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
        if there
            && !partial.join(LOCK).exists()
            && fs::read_dir(&partial).map_err(Error::write(&partial))?.next().is_some()
        {
            return Err(Error::Usage(format!(
                "{} is in the way, and no unfinished run of this program; move it elsewhere",
                partial.display()
            )));
        }
        if let Some(foreign) = there.then(|| foreign(&partial)).transpose()?.flatten() {
            return Err(Error::Usage(format!(
                "{} holds {foreign}, which this program has not written and would be lost; move it elsewhere",
                partial.display()
            )));
        }
        let parents = above.take_while(|parent| !parent.exists()).map(Path::to_owned).collect();
        // Made first, so that whatever fails from here on is cleaned up; but what is there already is not ours before
        // it is locked.
        let mut this = Self {
            output: partial.join(OUTPUT),
            partial,
            target: target.into(),
            force,
            lock: None,
            parents,
            kept: Cell::new(there),
            hashes: Hashes::new(OUTPUT),
        };
        fs::create_dir_all(&this.partial).map_err(Error::write(&this.partial))?;
        this.lock = Some(lock(&this.partial).inspect_err(|_| this.kept.set(true))?);
        let replaced = this.partial.join(REPLACED);
        let missing = target.symlink_metadata().is_err();
        if replaced.symlink_metadata().is_ok() && missing {
            fs::rename(&replaced, target).map_err(Error::write(target))?;
        } else if there && !this.output.exists() && !missing {
            // It was finished, but for this.
            this.kept.set(false);
        } else {
            this.kept.set(this.partial.join(STATE).exists());
        }
        check_target("--output", target, force)?;
        Ok(this)
    }

    /// Where files are written until the end.
    pub fn path(&self) -> &Path {
        &self.output
    }

    /// The files of the output so far, by their paths in it, and the one that lists them.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn files_with_record(&self) -> Result<Vec<String>> {
        let mut files = files(&self.output)?;
        if let Err(place) = files.binary_search_by(|name| name.as_str().cmp(RECORD)) {
            files.insert(place, RECORD.into());
        }
        Ok(files)
    }

    /// The tensors of the output and its draft that are finished: what [`OutputDirectory::check`] is to be given when
    /// the run is resumed.
    pub fn written(&self) -> Written {
        self.hashes.all()
    }

    /// Checks that tensors that an earlier run has written are as they were.
    ///
    /// # Errors
    /// [`Error::BadFile`] if one is not; [`Error::Read`]; those of `each`, which is called after each tensor.
    pub fn check(&self, written: &Written, each: &dyn Fn() -> Result<()>) -> Result<()> {
        for (name, tensors) in written {
            check(&self.beside(name), tensors, each)?;
        }
        self.hashes.restore(written);
        Ok(())
    }

    /// What keeps account of the tensors that are finished.
    pub(super) fn hashes(&self) -> &Hashes {
        &self.hashes
    }

    /// Where a file of this name lies that is no part of the output, but needed to resume.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.partial.join(name)
    }

    /// Writes a small file of the output, in a directory within it where `name` has one.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.output.join(name);
        let within = path.parent().filter(|parent| *parent != self.output);
        within.map_or(Ok(()), |parent| fs::create_dir_all(parent).map_err(Error::write(parent)))?;
        write_durably(&path, bytes)?;
        within.map_or(Ok(()), sync)
    }

    /// Writes a small file beside the output.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write_beside(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_durably(&self.beside(name), bytes)
    }

    /// Commits `state`, from which `--resume` continues: from now on, everything is kept if the run stops. What `state`
    /// refers to must be durable already.
    ///
    /// # Errors
    /// [`Error::Write`]; the state before is still there then.
    pub fn commit(&self, state: &[u8]) -> Result<()> {
        let temporary = self.beside(STATE_NEW);
        write_durably(&temporary, state)?;
        // The names in the output, of files that were made since.
        sync(&self.output)?;
        fs::rename(&temporary, self.beside(STATE)).map_err(Error::write(&self.partial))?;
        sync(&self.partial)?;
        if !self.kept.replace(true) {
            // The first time: the directory itself must not be lost either.
            self.partial.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync)?;
        }
        Ok(())
    }

    /// Whether there is something to resume.
    pub fn is_committed(&self) -> bool {
        self.kept.get()
    }

    /// Forgets what was committed: everything is removed when this is dropped.
    pub fn abandon(&self) {
        self.kept.set(false);
    }

    /// Gives the directory its final name; what was there before is removed only once the new one is in place, and only
    /// if nothing has come into it that is not ours.
    ///
    /// # Errors
    /// [`Error::Usage`] if something has, [`Error::OutputExists`] if the name has been taken; [`Error::Write`].
    pub fn finish(self) -> Result<()> {
        sync(&self.output)?;
        let replaced = self.partial.join(REPLACED);
        let replaces = self.target.symlink_metadata().is_ok();
        if replaces {
            check_target("--output", &self.target, self.force)?;
            fs::rename(&self.target, &replaced).map_err(Error::write(&self.target))?;
            // Once more where nobody looks for it any longer.
            if let Err(error) = check_replaceable(&replaced) {
                fs::rename(&replaced, &self.target).map_err(Error::write(&self.target))?;
                return Err(error);
            }
        }
        if let Err(source) = fs::rename(&self.output, &self.target) {
            if replaces {
                let _ = fs::rename(&replaced, &self.target);
            }
            return Err(Error::Write { path: self.target.clone(), source });
        }
        if let Some(parent) = self.target.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync(parent)?;
        }
        // The state goes first: a directory with neither state nor output means nothing.
        let _ = fs::remove_file(self.beside(STATE));
        let partial = self.partial.clone();
        self.kept.set(true);
        drop(self);
        fs::remove_dir_all(&partial).map_err(Error::write(&partial))
    }
}

/// Where a run to `target` keeps what it has done.
pub(super) fn partial(target: &Path) -> Result<PathBuf> {
    let name = target
        .file_name()
        .ok_or_else(|| Error::Usage(format!("{} is not a name for an output directory", target.display())))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".partial");
    Ok(target.with_file_name(hidden))
}

/// Something that no run has put beside its output, if there is any: another name, or a link under one of ours.
fn foreign(partial: &Path) -> Result<Option<String>> {
    let numbered = |name: &str| {
        name.rsplit_once('.').is_some_and(|(stem, number)| {
            stem.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
                && !number.is_empty()
                && number.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    let own = |name: &str| {
        [STATE, STATE_NEW, LOCK, OUTPUT, DRAFT, REPLACED, OutputDirectory::TOKENS].contains(&name) || numbered(name)
    };
    let entries = fs::read_dir(partial).map_err(Error::read(partial))?;
    for entry in entries.collect::<std::io::Result<Vec<_>>>().map_err(Error::read(partial))? {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        // An output that was there before is as it was found.
        let expected =
            if name == REPLACED { true } else { is_own_kind(&path, [OUTPUT, DRAFT].contains(&name.as_str()))? };
        if !own(&name) || !expected {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Whether this is a file, or a directory of files, that has no other name: what is written to a link lands elsewhere.
fn is_own_kind(path: &Path, directory: bool) -> Result<bool> {
    let metadata = path.symlink_metadata().map_err(Error::read(path))?;
    if !directory {
        return Ok(metadata.is_file() && !has_other_names(&metadata));
    }
    if !metadata.is_dir() {
        return Ok(false);
    }
    for entry in fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>).map_err(Error::read(path))? {
        let within = entry.file_type().map_err(Error::read(path))?.is_dir();
        if !is_own_kind(&entry.path(), within)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(unix)]
fn has_other_names(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(metadata) > 1
}

#[cfg(not(unix))]
fn has_other_names(_: &fs::Metadata) -> bool {
    false
}

/// Where an output goes: a link stays, and the directory that it leads to is written.
pub(super) fn resolved(target: &Path) -> Result<PathBuf> {
    // Without what stands for nothing, such as a slash at the end.
    let target: PathBuf = target.components().collect();
    match target.is_symlink() {
        true => fs::canonicalize(&target).map_err(|_| {
            let to = fs::read_link(&target).unwrap_or_default();
            Error::Usage(format!(
                "{} is a link to {}, which is not there; remove the link, or give another --output",
                target.display(),
                to.display()
            ))
        }),
        false => Ok(target),
    }
}

/// Refuses to write over what is there.
pub(super) fn check_target(option: &'static str, target: &Path, force: bool) -> Result<()> {
    let target = &resolved(target)?;
    match target.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Write { path: target.clone(), source }),
        Ok(_) if !force => Err(Error::OutputExists { option, path: target.clone() }),
        Ok(metadata) if !metadata.is_dir() => Err(Error::Usage(format!(
            "{} is not a directory, and will not be replaced; give another directory",
            target.display()
        ))),
        Ok(_) => check_replaceable(target),
    }
}

fn lock(partial: &Path) -> Result<File> {
    let path = partial.join(LOCK);
    let file = File::create(&path).map_err(Error::write(&path))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::Usage(format!(
            "another run is at work in {}; wait for it, or give another --output",
            partial.display()
        ))),
        // Some file systems have no locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(Error::write(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::write(path))
}

/// Makes the names in a directory durable, where the platform lets one open a directory.
fn sync(directory: &Path) -> Result<()> {
    match File::open(directory) {
        Ok(handle) if cfg!(unix) => handle.sync_all().map_err(Error::write(directory)),
        _ => Ok(()),
    }
}

impl Drop for OutputDirectory {
    fn drop(&mut self) {
        // Open files cannot be removed everywhere.
        self.lock = None;
        if !self.kept.get() {
            let _ = fs::remove_file(self.beside(STATE));
            let _ = fs::remove_dir_all(&self.partial);
            // Fails, as it should, where somebody else has put something meanwhile.
            let _ = self.parents.iter().try_for_each(fs::remove_dir);
        }
    }
}
