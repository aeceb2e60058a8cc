//! A file that has its name only when it is complete.

use std::{
    fs::{self, File},
    io::{self, BufWriter, ErrorKind, Write},
};

use tempfile::{PathPersistError, TempPath};

use super::{
    target::{Place, temporary_beside},
    writes::FileTarget,
};
use crate::error::{Error, Result};

/// A file that is written under another name beside it, gets its own at the end, and is removed if the end is not
/// reached. Pipes and devices are written to as it comes.
pub struct AtomicFile {
    target: FileTarget,
    out: BufWriter<File>,
    temporary: Option<TempPath>,
    written: u64,
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl AtomicFile {
    /// Begins to write.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn create(target: FileTarget) -> Result<Self> {
        let new = || match target.place() {
            Place::Stream(stream) => Ok((stream.try_clone()?, None)),
            Place::New(path) => {
                temporary_beside(path).map(|file| file.into_parts()).map(|(file, temporary)| (file, Some(temporary)))
            }
            Place::Replaced(path) => {
                let (file, temporary) = temporary_beside(path)?.into_parts();
                fs::set_permissions(&temporary, fs::metadata(path)?.permissions())?;
                Ok((file, Some(temporary)))
            }
        };
        let (file, temporary) = new().map_err(Error::write(target.path()))?;
        Ok(Self { out: BufWriter::with_capacity(1 << 20, file), temporary, target, written: 0 })
    }

    /// Writes what comes next.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(Error::write(self.target.path()))
    }

    /// The error of a file that lacks something.
    pub(super) fn incomplete(&self) -> Error {
        Error::shape("write", format!("{} is not complete", self.target.path().display()))
    }

    /// Makes the file durable and gives it its name; returns how many bytes it has. If that may not be done any more,
    /// what was written is kept under another.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Usage`] if something has come to stand there that may not be replaced.
    pub fn finish(self) -> Result<u64> {
        let Self { target, mut out, temporary, written } = self;
        let path = target.path();
        out.flush().map_err(Error::write(path))?;
        let Some(temporary) = temporary else { return Ok(written) };
        out.get_ref().sync_all().map_err(Error::write(path))?;
        // Open files cannot be renamed everywhere.
        drop(out);
        let unnamed = |PathPersistError { error, path: temporary }| (Error::write(path)(error), temporary);
        let named = match target.check_again() {
            // Fails if something has come there since; some file systems cannot rename so at all.
            Ok(Place::New(place)) => match temporary.persist_noclobber(&place) {
                Err(refused)
                    if refused.error.kind() != ErrorKind::AlreadyExists && place.symlink_metadata().is_err() =>
                {
                    refused.path.persist(place).map_err(unnamed)
                }
                result => result.map_err(unnamed),
            },
            Ok(Place::Replaced(place)) => temporary.persist(place).map_err(unnamed),
            Ok(Place::Stream(_)) => {
                Err((Error::Usage(format!("{} has become a pipe or a device", path.display())), temporary))
            }
            Err(error) => Err((error, temporary)),
        };
        named.map(|()| written).map_err(|(error, temporary)| match temporary.keep() {
            Ok(kept) => Error::Displaced { kept, source: Box::new(error) },
            Err(_) => error,
        })
    }
}
