//! Writing tensors: into one file from its beginning to its end, or into the files of a checkpoint in any order.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use safetensors::Dtype;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{AtomicFile, FileTarget, OutputDirectory, written::Hashes};
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

/// Which tensors go into which file: one `model.safetensors`, or shards of at most `most` bytes (or one tensor, where
/// that is larger).
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

/// What stands before the data of a file with these tensors, one after the other.
fn header(tensors: &[TensorPlan]) -> Vec<u8> {
    let mut fields = Map::new();
    fields.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.byte_len();
        fields.insert(
            tensor.name.clone(),
            json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end] }),
        );
        offset = end;
    }
    let text = Value::Object(fields).to_string();
    let padded = text.len().next_multiple_of(8);
    let mut header = (padded as u64).to_le_bytes().to_vec();
    header.extend_from_slice(text.as_bytes());
    header.resize(8 + padded, b' ');
    header
}

/// A whole file of these tensors, one after the other, of which `bytes` has the data.
pub fn tensor_file(tensors: &[TensorPlan], bytes: &[u8]) -> Vec<u8> {
    [&header(tensors), bytes].concat()
}

/// Writes planned tensors into the files of a checkpoint, each to its place: in any order, and piece by piece, so that
/// no tensor need be in memory whole. What is finished stays on disk when the work is interrupted.
pub struct TensorWriter {
    files: Vec<(PathBuf, File)>,
    places: HashMap<String, Place>,
    hashes: Hashes,
}

struct Place {
    file: usize,
    offset: u64,
    byte_len: u64,
    written: u64,
    /// Of what is written.
    hasher: Sha256,
}

impl TensorWriter {
    /// Makes the files, of at most `most` bytes each, and an index if there are several.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn new(directory: &OutputDirectory, tensors: &[TensorPlan], most: u64) -> Result<Self> {
        let shards = shards(tensors, most);
        if shards.len() > 1 {
            let map: Map<String, Value> = shards
                .iter()
                .flat_map(|(file, group)| group.iter().map(move |tensor| (tensor.name.clone(), json!(file))))
                .collect();
            let total: u64 = tensors.iter().map(TensorPlan::byte_len).sum();
            let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
            directory.write("model.safetensors.index.json", format!("{index:#}\n").as_bytes())?;
        }
        directory.hashes().clear();
        Self::open(directory, shards, |path, header, size| {
            let mut file = File::create(path).map_err(Error::write(path))?;
            file.write_all(header).and_then(|()| file.set_len(size)).map_err(Error::write(path))?;
            Ok(file)
        })
    }

    /// Goes on with the files that an earlier writer of the same tensors has left: those that `finished` names are
    /// there, the others will be written anew.
    ///
    /// # Errors
    /// [`Error::BadFile`] if a file is not as it was left; [`Error::Write`].
    pub fn resume(
        directory: &OutputDirectory,
        tensors: &[TensorPlan],
        most: u64,
        finished: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let mut this = Self::open(directory, shards(tensors, most), |path, header, size| {
            let mut file =
                OpenOptions::new().read(true).write(true).open(path).map_err(Error::kept(path, Error::write(path)))?;
            let mut found = vec![0; header.len()];
            let same = file.read_exact(&mut found).is_ok()
                && found == header
                && file.metadata().is_ok_and(|metadata| metadata.len() == size);
            if same {
                Ok(file)
            } else {
                Err(Error::bad_file(path, "not as the unfinished run has left it; --force starts over"))
            }
        })?;
        for (_, place) in this.places.iter_mut().filter(|(name, _)| finished(name)) {
            place.written = place.byte_len;
        }
        Ok(this)
    }

    fn open(
        directory: &OutputDirectory,
        shards: Vec<(String, Vec<TensorPlan>)>,
        open: impl Fn(&Path, &[u8], u64) -> Result<File>,
    ) -> Result<Self> {
        let (mut files, mut places) = (Vec::new(), HashMap::new());
        for (name, tensors) in shards {
            let (path, header) = (directory.path().join(name), header(&tensors));
            let mut offset = header.len() as u64;
            for tensor in tensors {
                let (byte_len, hasher) = (tensor.byte_len(), Sha256::new());
                places.insert(tensor.name, Place { file: files.len(), offset, byte_len, written: 0, hasher });
                offset += byte_len;
            }
            let file = open(&path, &header, offset)?;
            files.push((path, file));
        }
        Ok(Self { files, places, hashes: directory.hashes().clone() })
    }

    /// Appends bytes to the tensor `name`.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Shape`] if it is not planned, or longer than planned.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let place = self.places.get_mut(name).ok_or_else(|| Error::shape("write", format!("{name} is not planned")))?;
        let missing = place.byte_len - place.written;
        if bytes.len() as u64 > missing {
            return Err(Error::shape("write", format!("{} bytes of {name}, where {missing} are missing", bytes.len())));
        }
        let (path, file) = &mut self.files[place.file];
        file.seek(SeekFrom::Start(place.offset + place.written))
            .and_then(|_| file.write_all(bytes))
            .map_err(Error::write(path))?;
        if place.written == 0 {
            self.hashes.forget(name);
        }
        place.written += bytes.len() as u64;
        place.hasher.update(bytes);
        if place.written == place.byte_len {
            self.hashes.add(name, std::mem::take(&mut place.hasher));
        }
        Ok(())
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn sync(&self) -> Result<()> {
        self.files.iter().try_for_each(|(path, file)| file.sync_all().map_err(Error::write(path)))
    }

    /// Checks that everything planned was written, and makes it durable.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Shape`] if a tensor is missing.
    pub fn finish(self) -> Result<()> {
        match self.places.iter().filter(|(_, place)| place.written < place.byte_len).map(|(name, _)| name).min() {
            Some(missing) => Err(Error::shape("write", format!("{missing} is not complete"))),
            None => self.sync(),
        }
    }
}

/// One safetensors file, written tensor by tensor in the planned order. It has a temporary name until it is complete.
pub struct TensorFile {
    file: AtomicFile,
    tensors: std::vec::IntoIter<TensorPlan>,
    /// The tensor under way and how many of its bytes are missing.
    current: Option<(TensorPlan, u64)>,
}

impl TensorFile {
    /// Writes the header.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn create(target: FileTarget, tensors: Vec<TensorPlan>) -> Result<Self> {
        let mut file = AtomicFile::create(target)?;
        file.append(&header(&tensors))?;
        Ok(Self { file, tensors: tensors.into_iter(), current: None })
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
                self.file.append(bytes)
            }
            Some((tensor, missing)) => Err(Error::shape(
                "write",
                format!("{} bytes of {name}, where {missing} of {} are due", bytes.len(), tensor.name),
            )),
            None => Err(Error::shape("write", format!("{name} is not planned"))),
        }
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// As [`AtomicFile::finish`]; [`Error::Shape`] if a tensor is missing.
    pub fn finish(self) -> Result<()> {
        if self.current.is_some() || self.tensors.len() > 0 {
            return Err(self.file.incomplete());
        }
        self.file.finish().map(drop)
    }
}
