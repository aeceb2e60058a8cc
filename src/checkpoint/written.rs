//! What has been written of tensors, so that a resumed run notices where something else has come in its place.

use std::{cell::RefCell, collections::BTreeMap, path::Path, rc::Rc};

use sha2::{Digest, Sha256};

use super::reader::{Checkpoint, hex};
use crate::error::{Error, Result};

/// sha256 of each finished tensor, by the directory that it lies in and its name.
pub type Written = BTreeMap<String, BTreeMap<String, String>>;

/// The same while it grows, of one directory among those that share it.
#[derive(Debug, Clone)]
pub(super) struct Hashes {
    all: Rc<RefCell<Written>>,
    directory: &'static str,
}

impl Hashes {
    /// Of a directory that nothing is written to yet.
    pub fn new(directory: &'static str) -> Self {
        Self { all: Rc::default(), directory }
    }

    /// Of another one beside it.
    pub fn beside(&self, directory: &'static str) -> Self {
        Self { all: Rc::clone(&self.all), directory }
    }

    /// Of all directories.
    pub fn all(&self) -> Written {
        self.all.borrow().clone()
    }

    /// Takes back what an earlier run has kept.
    pub fn restore(&self, written: &Written) {
        self.all.replace(written.clone());
    }

    /// Nothing of this directory is written any longer.
    pub fn clear(&self) {
        self.all.borrow_mut().remove(self.directory);
    }

    /// A tensor is being written.
    pub fn forget(&self, name: &str) {
        if let Some(tensors) = self.all.borrow_mut().get_mut(self.directory) {
            tensors.remove(name);
        }
    }

    /// A tensor is finished.
    pub fn add(&self, name: &str, hasher: Sha256) {
        let mut all = self.all.borrow_mut();
        all.entry(self.directory.to_owned()).or_default().insert(name.to_owned(), hex(hasher.finalize()));
    }
}

/// Bytes read at a time.
const PIECE: usize = 4 << 20;

/// Checks that the tensors of a directory are those that were written.
///
/// # Errors
/// [`Error::BadFile`] that names one that is not; [`Error::Read`]; those of `each`, which is called after each tensor.
pub(super) fn check(directory: &Path, tensors: &BTreeMap<String, String>, each: &dyn Fn() -> Result<()>) -> Result<()> {
    let bad = |path: &Path, reason: String| Error::bad_file(path, format!("{reason}; --force starts over"));
    let checkpoint = Checkpoint::open(directory)
        .map_err(|error| bad(directory, format!("{error}; damaged, or missing from the unfinished run")))?;
    for (name, expected) in tensors {
        let tensor = checkpoint.tensor(name).ok_or_else(|| bad(directory, format!("{name} is missing")))?;
        let mut hasher = Sha256::new();
        for first in (0..tensor.byte_len).step_by(PIECE) {
            hasher.update(tensor.read_range(first..tensor.byte_len.min(first + PIECE))?);
        }
        each()?;
        if hex(hasher.finalize()) != *expected {
            return Err(bad(tensor.path, format!("{name} is not as the unfinished run has left it")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::checkpoint::{Dtype, OutputDirectory, TensorPlan, TensorWriter};

    #[test]
    fn a_finished_tensor_that_was_changed_is_named_and_one_that_is_not_may_change() -> Result<()> {
        let parent = tempfile::tempdir().map_err(Error::internal)?;
        let plan = |name: &str, size| TensorPlan { name: name.into(), shape: vec![size], dtype: Dtype::F32 };
        let output = OutputDirectory::create(&parent.path().join("out"), false)?;
        let mut writer = TensorWriter::new(&output, &[plan("a", 4), plan("b", 2)], 100)?;
        for (name, bytes) in [("b", [2; 5].as_slice()), ("a", &[1; 9]), ("b", &[3; 3])] {
            writer.write(name, bytes)?;
        }
        let written = output.written();
        assert_eq!(written["output"].keys().collect::<Vec<_>>(), ["b"], "a is not whole");
        output.check(&written, &|| Ok(()))?;
        let path = output.path().join("model.safetensors");
        let bytes = fs::read(&path).map_err(Error::read(&path))?;
        let changed = |from_end: usize| {
            let mut other = bytes.clone();
            other[bytes.len() - from_end] ^= 1;
            fs::write(&path, other).map_err(Error::write(&path))?;
            output.check(&written, &|| Ok(()))
        };
        changed(9)?;
        let error = changed(8).expect_err("another b");
        assert!(error.exit_code() == 3 && error.to_string().contains("b is not as the unfinished run"), "{error}");
        // Begun again, it is not finished.
        drop(writer);
        fs::write(&path, &bytes).map_err(Error::write(&path))?;
        let mut writer = TensorWriter::resume(&output, &[plan("a", 4), plan("b", 2)], 100, |_| false)?;
        writer.write("b", &[4; 5])?;
        assert!(output.written()["output"].is_empty());
        writer.write("b", &[4; 3])?;
        assert_ne!(output.written(), written);
        Ok(())
    }
}
