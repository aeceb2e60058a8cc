//! A file of a model that is read at once, such as its config.json → its bytes.

use std::{fs, path::Path};

use crate::error::{Error, Result};

/// No config, index or tokenizer is larger.
const MOST: u64 = 1 << 30;

/// Checks that a path leads to a regular file: to be called before it is opened, since opening a pipe waits for
/// somebody to write, and a device may have no end.
///
/// # Errors
/// [`Error::Read`]; [`Error::BadFile`].
pub fn regular(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).map_err(Error::read(path))?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(Error::bad_file(path, "not a regular file")) }
}

/// Reads a whole file.
///
/// # Errors
/// [`Error::Read`]; [`Error::BadFile`] if it is no regular file, or one that no such file can be.
pub fn contents(path: &Path) -> Result<Vec<u8>> {
    let length = regular(path)?;
    if length > MOST {
        return Err(Error::bad_file(path, format!("{length} bytes, and no such file has more than {MOST}")));
    }
    fs::read(path).map_err(Error::read(path))
}
