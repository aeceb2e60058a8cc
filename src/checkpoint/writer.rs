//! Writing: a checkpoint appears whole or not at all.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlan {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: Dtype,
}

impl TensorPlan {
    /// Bytes of its data.
    pub fn byte_len(&self) -> u64 {
        self.shape.iter().map(|&size| size as u64).product::<u64>() * self.dtype.bitsize() as u64 / 8
    }
}

/// The size above which checkpoints are split: 5 GB, as transformers does.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// Which tensors go into which file: one `model.safetensors`, or shards of at most `most` bytes (or one tensor, where that is larger).
pub fn shards(tensors: &[TensorPlan], most: u64) -> Vec<(String, Vec<TensorPlan>)> {
    let mut groups: Vec<Vec<TensorPlan>> = vec![Vec::new()];
    let mut bytes = 0;
    for tensor in tensors {
        if bytes > 0 && bytes + tensor.byte_len() > most {
            groups.push(Vec::new());
            bytes = 0;
        }
        bytes += tensor.byte_len();
        if let Some(group) = groups.last_mut() {
            group.push(tensor.clone());
        }
    }
    let count = groups.len();
    let name = |index: usize| match count {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    };
    groups.into_iter().enumerate().map(|(index, group)| (name(index), group)).collect()
}

/// A directory under a temporary name beside the final one; removed again unless [`OutputDirectory::finish`] is reached.
pub struct OutputDirectory {
    temporary: PathBuf,
    target: PathBuf,
    /// Directories above it that were not there before, the innermost first.
    parents: Vec<PathBuf>,
    done: bool,
}

impl OutputDirectory {
    /// Makes the temporary directory.
    ///
    /// # Errors
    /// [`Error::OutputExists`] if `target` is there and `force` is false; [`Error::Usage`] if it is a file; [`Error::Write`].
    pub fn create(target: &Path, force: bool) -> Result<Self> {
        if target.symlink_metadata().is_ok() && !force {
            return Err(Error::OutputExists { path: target.into() });
        }
        if target.exists() && !target.is_dir() {
            return Err(Error::Usage(format!("{} is not a directory, and will not be replaced; give another --output", target.display())));
        }
        let name = target.file_name().ok_or_else(|| Error::Usage(format!("{} is not a name for an output directory", target.display())))?;
        let temporary = target.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(Error::write(&temporary))?;
        }
        let above = target.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
        let parents = above.take_while(|parent| !parent.exists()).map(Path::to_owned).collect();
        // Made first, so that whatever fails from here on is cleaned up.
        let this = Self { temporary, target: target.into(), parents, done: false };
        fs::create_dir_all(&this.temporary).map_err(Error::write(&this.temporary))?;
        Ok(this)
    }

    /// Where files are written until the end.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Writes a small file.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.temporary.join(name);
        let mut file = File::create(&path).map_err(Error::write(&path))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::write(&path))
    }

    /// Gives the directory its final name; what was there before is removed only once the new one is in place.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn finish(mut self) -> Result<()> {
        sync(&self.temporary)?;
        let old = self.temporary.with_extension("old");
        let replaces = self.target.symlink_metadata().is_ok();
        if replaces {
            fs::rename(&self.target, &old).map_err(Error::write(&self.target))?;
        }
        if let Err(source) = fs::rename(&self.temporary, &self.target) {
            if replaces {
                let _ = fs::rename(&old, &self.target);
            }
            return Err(Error::Write { path: self.target.clone(), source });
        }
        self.done = true;
        if let Some(parent) = self.target.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync(parent)?;
        }
        if replaces {
            fs::remove_dir_all(&old).map_err(Error::write(&old))?;
        }
        Ok(())
    }
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
        if !self.done {
            let _ = fs::remove_dir_all(&self.temporary);
            // Fails, as it should, where somebody else has put something meanwhile.
            let _ = self.parents.iter().try_for_each(fs::remove_dir);
        }
    }
}

/// Writes planned tensors, in the planned order, piece by piece: no tensor need be in memory whole.
pub struct TensorWriter {
    directory: PathBuf,
    shards: std::vec::IntoIter<(String, Vec<TensorPlan>)>,
    open: Option<TensorFile>,
}

/// One safetensors file, written tensor by tensor in the planned order. It has a temporary name until it is complete.
pub struct TensorFile {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    tensors: std::vec::IntoIter<TensorPlan>,
    /// The tensor under way and how many of its bytes are missing.
    current: Option<(TensorPlan, u64)>,
    done: bool,
}

impl TensorWriter {
    /// Writes the index if there are several files of at most `most` bytes, and prepares the first.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn new(directory: &OutputDirectory, tensors: &[TensorPlan], most: u64) -> Result<Self> {
        let shards = shards(tensors, most);
        if shards.len() > 1 {
            let map: Map<String, Value> =
                shards.iter().flat_map(|(file, group)| group.iter().map(move |tensor| (tensor.name.clone(), json!(file)))).collect();
            let total: u64 = tensors.iter().map(TensorPlan::byte_len).sum();
            let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
            directory.write("model.safetensors.index.json", format!("{index:#}\n").as_bytes())?;
        }
        Ok(Self { directory: directory.path().into(), shards: shards.into_iter(), open: None })
    }

    /// Appends bytes to the tensor `name`, which must be the one under way or the next planned one.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Shape`] if the name or the number of bytes is not as planned.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        if self.open.as_ref().is_none_or(TensorFile::is_complete) {
            self.close()?;
            let (file, tensors) = self.shards.next().ok_or_else(|| Error::shape("write", format!("{name} is not planned")))?;
            self.open = Some(TensorFile::create(self.directory.join(file), tensors)?);
        }
        match &mut self.open {
            Some(file) => file.write(name, bytes),
            None => Ok(()),
        }
    }

    fn close(&mut self) -> Result<()> {
        match self.open.take() {
            Some(file) => file.finish(),
            None => Ok(()),
        }
    }

    /// Checks that everything planned was written, and makes it durable.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Shape`] if a tensor is missing.
    pub fn finish(mut self) -> Result<()> {
        self.close()?;
        match self.shards.next() {
            Some((file, _)) => Err(Error::shape("write", format!("{file} was not written"))),
            None => Ok(()),
        }
    }
}

impl TensorFile {
    /// Writes the header.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn create(path: PathBuf, tensors: Vec<TensorPlan>) -> Result<Self> {
        let mut header = Map::new();
        header.insert("__metadata__".into(), json!({ "format": "pt" }));
        let mut offset = 0;
        for tensor in &tensors {
            let end = offset + tensor.byte_len();
            header.insert(tensor.name.clone(), json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end] }));
            offset = end;
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let name = path.file_name().ok_or_else(|| Error::Usage(format!("{} is not a name for a file", path.display())))?;
        let temporary = path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
        let file = File::create(&temporary).map_err(Error::write(&path))?;
        let mut this =
            Self { path, temporary, file: BufWriter::with_capacity(1 << 20, file), tensors: tensors.into_iter(), current: None, done: false };
        this.append(&(header.len() as u64).to_le_bytes())?;
        this.append(&header)?;
        Ok(this)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::write(&self.path))
    }

    /// Appends bytes to the tensor `name`, which must be the one under way or the next planned one.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Shape`] if the name or the number of bytes is not as planned.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        if self.current.is_none() {
            self.current = self.tensors.next().map(|tensor| (tensor.clone(), tensor.byte_len()));
        }
        match &mut self.current {
            Some((tensor, missing)) if tensor.name == name && bytes.len() as u64 <= *missing => {
                *missing -= bytes.len() as u64;
                if *missing == 0 {
                    self.current = None;
                }
                self.append(bytes)
            }
            Some((tensor, missing)) => {
                Err(Error::shape("write", format!("{} bytes of {name}, where {missing} of {} are due", bytes.len(), tensor.name)))
            }
            None => Err(Error::shape("write", format!("{name} is not planned"))),
        }
    }

    fn is_complete(&self) -> bool {
        self.current.is_none() && self.tensors.len() == 0
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Shape`] if a tensor is missing.
    pub fn finish(mut self) -> Result<()> {
        if !self.is_complete() {
            return Err(Error::shape("write", format!("{} is not complete", self.path.display())));
        }
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).map_err(Error::write(&self.path))?;
        fs::rename(&self.temporary, &self.path).map_err(Error::write(&self.path))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for TensorFile {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
