//! Reading: every header is checked before any tensor is believed, and tensors are read piece by piece.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors, tensor::TensorInfo};
use sha2::{Digest, Sha256};

use super::{
    diagnose,
    select::{Selection, select},
};
use crate::error::{Error, Result};

/// A checkpoint whose files are open: no tensor is read until it is asked for, and none is kept.
pub struct Checkpoint {
    directory: PathBuf,
    files: Vec<(PathBuf, Mutex<File>)>,
    tensors: BTreeMap<String, Place>,
    /// Names that were left out because another tensor is the same, and its name.
    aliases: HashMap<String, String>,
    /// What the user should know about the files.
    notes: Vec<String>,
}

#[derive(Clone)]
struct Place {
    file: usize,
    /// Where the data of the file begins.
    base: usize,
    info: TensorInfo,
}

/// A tensor as it is stored, little-endian and row-major.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub path: &'a Path,
    /// How long it is.
    pub byte_len: usize,
    /// Where it begins in the file.
    offset: usize,
    file: &'a Mutex<File>,
}

impl Tensor<'_> {
    /// All of its bytes.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn read(&self) -> Result<Vec<u8>> {
        self.read_range(0..self.byte_len)
    }

    /// Whether this is the same place of the same file.
    pub fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self.file, other.file) && self.offset == other.offset && self.byte_len == other.byte_len
    }

    /// Whether another tensor is stored alike, to the last bit.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn equals(&self, other: &Self) -> Result<bool> {
        if (self.dtype, self.shape, self.byte_len) != (other.dtype, other.shape, other.byte_len) {
            return Ok(false);
        }
        for first in (0..self.byte_len).step_by(4 << 20) {
            let range = first..self.byte_len.min(first + (4 << 20));
            if self.read_range(range.clone())? != other.read_range(range)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Some of its bytes.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Shape`] if the range goes beyond the tensor.
    pub fn read_range(&self, range: Range<usize>) -> Result<Vec<u8>> {
        if range.start > range.end || range.end > self.byte_len {
            return Err(Error::shape("read", format!("bytes {range:?} of a tensor of {}", self.byte_len)));
        }
        let mut bytes = vec![0; range.len()];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start((self.offset + range.start) as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(Error::read(self.path))?;
        Ok(bytes)
    }
}

impl Checkpoint {
    /// Opens a `.safetensors` file, or a directory, whose files count as in transformers.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::BadFile`] for headers that lie, shards outside of the directory, or files that are
    /// something else.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_named(path, None)
    }

    /// As [`Checkpoint::open`]; of a directory, the file or index `named`, if it is given.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_named(path: &Path, named: Option<&str>) -> Result<Self> {
        let Selection { directory, files, notes } = select(path, named)?;
        let mut checkpoint =
            Self { directory, files: Vec::new(), tensors: BTreeMap::new(), aliases: HashMap::new(), notes };
        let mut differing = Vec::new();
        for file in files {
            checkpoint.add(file, &mut differing)?;
        }
        if let Some((name, earlier, later)) = differing.first() {
            checkpoint.notes.push(format!(
                "{} tensors are in two files with different values, {name} first: that of {} counts, as in transformers, and that of {} is left out",
                differing.len(),
                later.display(),
                earlier.display()
            ));
        }
        Ok(checkpoint)
    }

    /// Adds the tensors of a file; those that an earlier file has otherwise are noted in `differing`.
    fn add(&mut self, path: PathBuf, differing: &mut Vec<(String, PathBuf, PathBuf)>) -> Result<()> {
        // Looked at before it is opened: opening a pipe would wait for somebody to write.
        if !std::fs::metadata(&path).map_err(Error::read(&path))?.is_file() {
            return Err(Error::bad_file(&path, "not a regular file"));
        }
        let file = File::open(&path).map_err(Error::read(&path))?;
        #[expect(unsafe_code, reason = "a map is the way to read a header without its tensors")]
        // SAFETY: the map is read-only, and only lives until the header is parsed. Another process that shortens the
        // file in that moment could make a read fault, as with any mapped file. Tensors are read, not mapped: pages of
        // a map that were touched count as memory of this process until it ends, and a model is larger than what a run
        // may take.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::read(&path))?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| {
            let reason = diagnose::tensors(&map).unwrap_or_else(|| error.to_string());
            Error::bad_file(&path, format!("not a valid safetensors file: {reason}"))
        })?;
        self.aliases.extend(metadata.metadata().iter().flatten().map(|(name, kept)| (name.clone(), kept.clone())));
        let tensors = metadata.tensors();
        drop(map);
        let number = self.files.len();
        self.files.push((path, Mutex::new(file)));
        for (name, info) in tensors {
            let place = Place { file: number, base: 8 + header, info: info.clone() };
            if let Some(earlier) = self.tensors.insert(name.clone(), place)
                && let Some(later) = self.tensor(&name)
                && let Some(before) = self.tensor_at(&earlier)
                && !before.equals(&later)?
            {
                differing.push((name, self.files[earlier.file].0.clone(), self.files[number].0.clone()));
            }
        }
        Ok(())
    }

    /// What the user should know about which files count.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Where config.json and the tokenizer lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The files of this checkpoint.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// sha256 of each file, by its name in the directory: it takes one reading of everything.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn sha256(&self) -> Result<BTreeMap<String, String>> {
        let name = |path: &Path| path.strip_prefix(&self.directory).unwrap_or(path).to_string_lossy().into_owned();
        let of = |file: &Mutex<File>| sha256(&mut file.lock().unwrap_or_else(PoisonError::into_inner));
        self.files.iter().map(|(path, file)| Ok((name(path), of(file).map_err(Error::read(path))?))).collect()
    }

    /// Bytes of all tensors.
    pub fn byte_len(&self) -> u64 {
        self.tensors.values().map(|place| (place.info.data_offsets.1 - place.info.data_offsets.0) as u64).sum()
    }

    /// Names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor of this name, or the one that the file's metadata says is the same.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.tensor_at(self.tensors.get(name).or_else(|| self.tensors.get(self.aliases.get(name)?))?)
    }

    fn tensor_at<'a>(&'a self, place: &'a Place) -> Option<Tensor<'a>> {
        let (path, file) = self.files.get(place.file)?;
        let (start, end) = place.info.data_offsets;
        Some(Tensor {
            dtype: place.info.dtype,
            shape: &place.info.shape,
            path,
            byte_len: end - start,
            offset: place.base + start,
            file,
        })
    }
}

/// sha256 of a whole file.
///
/// # Errors
/// Whatever reading it reports.
pub fn sha256(file: &mut File) -> io::Result<String> {
    let (mut hasher, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    file.rewind()?;
    loop {
        match file.read(&mut piece)? {
            0 => break,
            count => hasher.update(&piece[..count]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
