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
use tempfile::TempDir;

use super::{
    assembled::Assembled,
    contents::regular,
    diagnose,
    mxfp4::{BLOCK_BYTES, Files, Mxfp4, Stored},
    select::{Selection, select},
};
use crate::error::{Error, Result};

/// A checkpoint whose files are open: no tensor is read until it is asked for, and none is kept.
pub struct Checkpoint {
    directory: PathBuf,
    files: Vec<(PathBuf, Mutex<File>)>,
    tensors: BTreeMap<String, Place>,
    /// Where what was made for a file that has no directory of its own lies, as long as it is open.
    made: Option<TempDir>,
    /// Names that were left out because another tensor is the same, and its name.
    aliases: HashMap<String, String>,
    /// What the user should know about the files.
    notes: Vec<String>,
}

enum Place {
    Stored {
        file: usize,
        /// Where the data of the file begins.
        base: usize,
        info: TensorInfo,
    },
    Assembled(Assembled),
    Mxfp4(Mxfp4),
}

/// A tensor as it is stored, little-endian and row-major.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub path: &'a Path,
    /// How long it is.
    pub byte_len: usize,
    /// The type in which it is written by default: mostly its own.
    pub written: Dtype,
    source: Source<'a>,
    file: &'a Mutex<File>,
}

#[derive(Debug, Clone, Copy)]
enum Source<'a> {
    /// From here on in the file.
    At(usize),
    Assembled {
        tensor: &'a Assembled,
        as_stored: bool,
        files: &'a Files,
    },
    Mxfp4 {
        tensor: &'a Mxfp4,
        as_stored: bool,
        files: &'a Files,
    },
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
        let alike = match (self.source, other.source) {
            (Source::At(here), Source::At(there)) => here == there,
            (Source::Assembled { tensor: one, .. }, Source::Assembled { tensor: other, .. }) => {
                one.parts == other.parts
            }
            (Source::Mxfp4 { tensor: one, .. }, Source::Mxfp4 { tensor: other, .. }) => std::ptr::eq(one, other),
            _ => false,
        };
        std::ptr::eq(self.file, other.file) && alike && self.byte_len == other.byte_len
    }

    /// What is stored of each matrix of a tensor whose transpose is; `None` of any other.
    pub fn transposed(self) -> Option<Self> {
        let (shape, source): (&[usize], _) = match self.source {
            Source::Mxfp4 { tensor, files, .. } => {
                (&tensor.stored_shape, Source::Mxfp4 { tensor, files, as_stored: true })
            }
            Source::Assembled { tensor, files, .. } => {
                (tensor.stored_shape.as_deref()?, Source::Assembled { tensor, files, as_stored: true })
            }
            Source::At(_) => return None,
        };
        Some(Self { shape, source, ..self })
    }

    /// Whether it is stored in MXFP4, as blocks and scales.
    pub fn is_mxfp4(&self) -> bool {
        matches!(self.source, Source::Mxfp4 { .. })
    }

    /// What is stored of one of the matrices of a tensor in MXFP4: its blocks, and their scales.
    ///
    /// # Errors
    /// [`Error::BadTensor`] for a scale that is no number; [`Error::Read`]; [`Error::Shape`] of any other tensor, and
    /// for a matrix that is not there.
    pub fn mxfp4(&self, matrix: usize) -> Result<[Vec<u8>; 2]> {
        match self.source {
            Source::Mxfp4 { tensor, files, .. } if matrix < tensor.shape[0] => tensor.stored(matrix, files),
            _ => Err(Error::shape("read", format!("matrix {matrix} in MXFP4 of a tensor of {:?}", self.shape))),
        }
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
        let offset = match self.source {
            Source::At(offset) => offset,
            Source::Assembled { tensor, as_stored, files } => return tensor.read_range(range, as_stored, files),
            Source::Mxfp4 { tensor, as_stored, files } => return tensor.read_range(range, as_stored, files),
        };
        let mut bytes = vec![0; range.len()];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start((offset + range.start) as u64))
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
            Self { directory, files: Vec::new(), tensors: BTreeMap::new(), made: None, aliases: HashMap::new(), notes };
        let mut differing = Vec::new();
        for file in files {
            checkpoint.add(file, &mut differing)?;
        }
        if let Some((name, earlier, later)) = differing.first() {
            checkpoint.notes.push(format!(
                "{} tensors are in two files with different values, {name} first: that of {} counts, as in \
                 transformers, and that of {} is left out",
                differing.len(),
                later.display(),
                earlier.display()
            ));
        }
        Ok(checkpoint)
    }

    /// A checkpoint of tensors that are put together from GGUF files; config.json and tokenizer lie in `made`.
    pub fn assembled(files: Vec<(PathBuf, File)>, tensors: Vec<(String, Assembled)>, made: TempDir) -> Self {
        Self {
            directory: made.path().to_owned(),
            files: files.into_iter().map(|(path, file)| (path, Mutex::new(file))).collect(),
            tensors: tensors.into_iter().map(|(name, tensor)| (name, Place::Assembled(tensor))).collect(),
            made: Some(made),
            aliases: HashMap::new(),
            notes: Vec::new(),
        }
    }

    /// Adds the tensors of a file; those that an earlier file has with other contents go to `differing`.
    fn add(&mut self, path: PathBuf, differing: &mut Vec<(String, PathBuf, PathBuf)>) -> Result<()> {
        let (file, map) = open(&path)?;
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
            let place = Place::Stored { file: number, base: 8 + header, info: info.clone() };
            if let Some(earlier) = self.tensors.insert(name.clone(), place)
                && let Some(later) = self.tensor(&name)
                && let Some(before) = self.tensor_at(&earlier)
                && !before.equals(&later)?
            {
                let (before, later) = (before.path.to_owned(), later.path.to_owned());
                differing.push((name, before, later));
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

    /// What to name in messages: the directory, or the first of the files whose tensors are put together.
    pub fn shown(&self) -> &Path {
        let file = self.files.first().filter(|_| self.made.is_some());
        file.map_or(&self.directory, |(path, _)| path)
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
        let within = |path: &'_ Path| path.strip_prefix(&self.directory).ok().map(|path| path.as_os_str().to_owned());
        let name = |path: &Path| {
            let name = within(path).or_else(|| path.file_name().map(ToOwned::to_owned)).unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        let of = |file: &Mutex<File>| sha256(&mut file.lock().unwrap_or_else(PoisonError::into_inner));
        self.files.iter().map(|(path, file)| Ok((name(path), of(file).map_err(Error::read(path))?))).collect()
    }

    /// Bytes of all tensors as they are read: quantised ones are widened.
    pub fn byte_len(&self) -> u64 {
        self.tensors.values().filter_map(|place| self.tensor_at(place)).map(|tensor| tensor.byte_len as u64).sum()
    }

    /// Bytes that the files have for all tensors.
    pub fn stored_len(&self) -> u64 {
        let stored = |place: &Place| match place {
            Place::Stored { info, .. } => (info.data_offsets.1 - info.data_offsets.0) as u64,
            Place::Assembled(tensor) => tensor.stored_len(),
            Place::Mxfp4(tensor) => (tensor.count() * (BLOCK_BYTES + 1)) as u64,
        };
        self.tensors.values().map(stored).sum()
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
        match place {
            Place::Stored { file, base, info } => {
                let (path, file) = self.files.get(*file)?;
                let (start, end) = info.data_offsets;
                let source = Source::At(base + start);
                let (dtype, byte_len) = (info.dtype, end - start);
                Some(Tensor { dtype, shape: &info.shape, path, byte_len, written: dtype, source, file })
            }
            Place::Assembled(tensor) => {
                let (path, file) = self.files.get(tensor.parts.first()?.file)?;
                let (dtype, written) = (tensor.dtype, tensor.written);
                let source = Source::Assembled { tensor, as_stored: false, files: &self.files };
                let byte_len = tensor.byte_len();
                Some(Tensor { dtype, shape: &tensor.shape, path, byte_len, written, source, file })
            }
            Place::Mxfp4(tensor) => {
                let (path, file) = self.files.get(tensor.blocks.file)?;
                let (dtype, byte_len) = (Dtype::BF16, tensor.byte_len());
                let source = Source::Mxfp4 { tensor, as_stored: false, files: &self.files };
                Some(Tensor { dtype, shape: &tensor.shape, path, byte_len, written: dtype, source, file })
            }
        }
    }

    /// Makes of a tensor of values in MXFP4 `[matrices, out, in / 32, 16]`, and one of their scales
    /// `[matrices, out, in / 32]`, the tensor `name` `[matrices, in, out]` of BF16, which takes their place.
    ///
    /// # Errors
    /// [`Error::BadTensor`] if one of them is missing, or of another type or shape.
    pub fn join_mxfp4(&mut self, name: &str, [blocks, scales]: [&str; 2]) -> Result<()> {
        let bad =
            |name: &str, reason: String| Error::BadTensor { name: name.into(), path: self.shown().into(), reason };
        let missing = |name: &str, other: &str| bad(name, format!("missing, where {other} is there, in MXFP4"));
        let find = |name: &str, other: &str| self.tensors.get(name).ok_or_else(|| missing(name, other));
        let bytes = |name: &str, place: &Place| match place {
            Place::Stored { file, base, info } if info.dtype == Dtype::U8 => {
                let stored = Stored { name: name.into(), file: *file, offset: base + info.data_offsets.0 };
                Ok((stored, info.shape.clone()))
            }
            _ => Err(bad(name, "expected U8, as MXFP4 is stored".into())),
        };
        let (values, shape) = bytes(blocks, find(blocks, scales)?)?;
        let (powers, scales_shape) = bytes(scales, find(scales, blocks)?)?;
        let &[matrices, out, groups, BLOCK_BYTES] = shape.as_slice() else {
            let reason = format!("expected shape [experts, out, in / 32, {BLOCK_BYTES}], found {shape:?}");
            return Err(bad(blocks, reason));
        };
        if scales_shape != [matrices, out, groups] {
            let expected = [matrices, out, groups];
            return Err(bad(scales, format!("expected shape {expected:?} beside its values, found {scales_shape:?}")));
        }
        let joined = Mxfp4::new([matrices, out, groups], values, powers);
        self.tensors.remove(blocks);
        self.tensors.remove(scales);
        self.tensors.insert(name.to_owned(), Place::Mxfp4(joined));
        Ok(())
    }
}

/// Opens a file, and maps it to read its header.
///
/// # Errors
/// [`Error::Read`]; [`Error::BadFile`] if it is not a regular file.
pub fn open(path: &Path) -> Result<(File, Mmap)> {
    regular(path)?;
    let file = File::open(path).map_err(Error::read(path))?;
    #[expect(unsafe_code, reason = "a map is the way to read a header without its tensors")]
    // SAFETY: the map is read-only, and only lives until the header is parsed. Another process that shortens the
    // file in that moment could make a read fault, as with any mapped file. Tensors are read, not mapped: pages of
    // a map that were touched count as memory of this process until it ends, and a model is larger than what a run
    // may take.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::read(path))?;
    Ok((file, map))
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
    Ok(hex(hasher.finalize()))
}

/// A hash in hexadecimal digits.
pub fn hex(hash: impl AsRef<[u8]>) -> String {
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
