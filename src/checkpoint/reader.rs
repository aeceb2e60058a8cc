//! Reading: every header is checked before any tensor is believed, and tensors are read piece by piece.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    path::{Component, Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors, tensor::TensorInfo};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A checkpoint whose files are open: no tensor is read until it is asked for, and none is kept.
pub struct Checkpoint {
    directory: PathBuf,
    files: Vec<(PathBuf, Mutex<File>)>,
    tensors: BTreeMap<String, Place>,
}

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
        file.seek(SeekFrom::Start((self.offset + range.start) as u64)).and_then(|_| file.read_exact(&mut bytes)).map_err(Error::read(self.path))?;
        Ok(bytes)
    }
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl Checkpoint {
    /// Opens a `.safetensors` file, or a directory with `model.safetensors` or `model.safetensors.index.json` in it.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::BadFile`] for headers that lie, shards outside of the directory, or tensors that are missing or double.
    pub fn open(path: &Path) -> Result<Self> {
        let (directory, names) = if path.is_dir() {
            (path.to_owned(), files_of_directory(path)?)
        } else {
            if path.extension().is_none_or(|extension| extension != "safetensors") {
                std::fs::metadata(path).map_err(Error::read(path))?;
                return Err(Error::bad_file(path, "expected a .safetensors file or a directory with one"));
            }
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
            (directory, vec![path.to_owned()])
        };
        let mut checkpoint = Self { directory, files: Vec::new(), tensors: BTreeMap::new() };
        for name in names {
            checkpoint.add(name)?;
        }
        Ok(checkpoint)
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        // Looked at before it is opened: opening a pipe would wait for somebody to write.
        if !std::fs::metadata(&path).map_err(Error::read(&path))?.is_file() {
            return Err(Error::bad_file(&path, "not a regular file"));
        }
        let file = File::open(&path).map_err(Error::read(&path))?;
        // SAFETY: the map is read-only, and only lives until the header is parsed. Another process that shortens the file in that moment could
        // make a read fault, as with any mapped file. Tensors are read, not mapped: pages of a map that were touched count as memory of this
        // process until it ends, and a model is larger than what a run may take.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::read(&path))?;
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|error| Error::bad_file(&path, format!("not a valid safetensors file: {error}")))?;
        for (name, info) in metadata.tensors() {
            let place = Place { file: self.files.len(), base: 8 + header, info: info.clone() };
            if self.tensors.insert(name.clone(), place).is_some() {
                return Err(Error::bad_file(&path, format!("tensor {name} is also in another file of this checkpoint")));
            }
        }
        drop(map);
        self.files.push((path, Mutex::new(file)));
        Ok(())
    }

    /// Where config.json and the tokenizer lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The files of this checkpoint.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// sha256 of each file, by its name: it takes one reading of everything.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn sha256(&self) -> Result<BTreeMap<String, String>> {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
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

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let Place { file, base, info } = self.tensors.get(name)?;
        let (path, file) = self.files.get(*file)?;
        let (start, end) = info.data_offsets;
        Some(Tensor { dtype: info.dtype, shape: &info.shape, path, byte_len: end - start, offset: base + start, file })
    }
}

fn files_of_directory(directory: &Path) -> Result<Vec<PathBuf>> {
    let index = directory.join(INDEX);
    if !index.exists() {
        let single = directory.join(SINGLE);
        if !single.exists() {
            return Err(Error::bad_file(directory, format!("has neither {SINGLE} nor {INDEX}")));
        }
        return Ok(vec![single]);
    }
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let text = std::fs::read(&index).map_err(Error::read(&index))?;
    let Index { weight_map } = serde_json::from_slice(&text).map_err(|error| Error::bad_file(&index, error.to_string()))?;
    let names: BTreeSet<&String> = weight_map.values().collect();
    if names.is_empty() {
        return Err(Error::bad_file(&index, "weight_map names no file"));
    }
    let mut files = Vec::new();
    for name in names {
        let mut parts = Path::new(name).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) || name.contains('\\') {
            return Err(Error::bad_file(&index, format!("shard {name:?} is not a plain file name")));
        }
        files.push(directory.join(name));
    }
    Ok(files)
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
