//! A file that has its name only when it is complete.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::PathBuf,
};

use crate::error::{Error, Result};

/// A file that is written under another name beside it, gets its own at the end, and is removed if the end is not reached.
pub(super) struct AtomicFile {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    done: bool,
}

impl AtomicFile {
    pub fn create(path: PathBuf) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| Error::Usage(format!("{} is not a name for a file", path.display())))?;
        let temporary = path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
        let file = File::create(&temporary).map_err(Error::write(&path))?;
        Ok(Self { path, temporary, file: BufWriter::with_capacity(1 << 20, file), done: false })
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::write(&self.path))
    }

    /// The error of a file that lacks something.
    pub fn incomplete(&self) -> Error {
        Error::shape("write", format!("{} is not complete", self.path.display()))
    }

    /// Makes the file durable and gives it its name.
    pub fn finish(mut self) -> Result<()> {
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).map_err(Error::write(&self.path))?;
        fs::rename(&self.temporary, &self.path).map_err(Error::write(&self.path))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
