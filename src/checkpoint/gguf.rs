//! GGUF, the file that llama.cpp and what is built on it load: one file with metadata, vocabulary and tensors. Version
//! 3, little-endian.
//!
//! `"GGUF"`, version u32, number of tensors u64, number of metadata entries u64; for each entry its key, the type of
//! its value u32 and the value; for each tensor its name, number of dimensions u32, dimensions u64 (the innermost
//! first), element type u32 and the offset u64 of its data; then, from the next multiple of 32 on, the data, each
//! tensor at a multiple of 32. Strings are a length u64 and UTF-8.

use std::fmt;

use half::f16;

use super::{AtomicFile, FileTarget, quantised::to_mxfp4};
use crate::error::{Error, Result};

/// Tensors begin at multiples of this many bytes, counted from the first one.
const ALIGNMENT: u64 = 32;

/// Values of a row that share a scale in [`GgufType::Q8_0`] and [`GgufType::Mxfp4`].
const BLOCK: usize = 32;

/// How the values of a tensor are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GgufType {
    F32,
    #[default]
    F16,
    /// Blocks of 32 values of a row: a scale in f16, then 32 signed bytes, of −127 to 127, that it multiplies.
    Q8_0,
    /// Blocks of 32 values of a row: the exponent of a scale in a byte, then 32 floats of four bits that it multiplies.
    Mxfp4,
}

impl fmt::Display for GgufType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Mxfp4 => "mxfp4",
        })
    }
}

impl GgufType {
    fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 8,
            Self::Mxfp4 => 39,
        }
    }

    /// Whether rows of this width can be stored so.
    pub fn fits(self, width: usize) -> bool {
        matches!(self, Self::F32 | Self::F16) || width.is_multiple_of(BLOCK)
    }

    fn byte_len(self, values: u64) -> u64 {
        match self {
            Self::F32 => 4 * values,
            Self::F16 => 2 * values,
            Self::Q8_0 => values / BLOCK as u64 * (2 + BLOCK as u64),
            Self::Mxfp4 => values / BLOCK as u64 * (1 + BLOCK as u64 / 2),
        }
    }

    /// The stored form of whole rows; `None` if a value is beyond what this type holds.
    fn encode(self, values: &[f32]) -> Option<Vec<u8>> {
        match self {
            Self::F32 => Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Self::F16 => {
                let halves = values.iter().map(|&value| f16::from_f32(value));
                halves
                    .map(|half| half.is_finite().then(|| half.to_le_bytes()))
                    .collect::<Option<Vec<_>>>()
                    .map(|bytes| bytes.concat())
            }
            Self::Mxfp4 => Some(values.chunks(BLOCK).flat_map(to_mxfp4).collect()),
            Self::Q8_0 => {
                let mut bytes = Vec::with_capacity(values.len() / BLOCK * (2 + BLOCK));
                for block in values.chunks(BLOCK) {
                    let largest = block.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                    let scale = f16::from_f32(largest / 127.0);
                    if !scale.is_finite() {
                        return None;
                    }
                    bytes.extend(scale.to_le_bytes());
                    // Against the scale as it is stored, so that its own rounding costs nothing more.
                    let scale = scale.to_f32();
                    let quantised = |&value: &f32| {
                        if scale == 0.0 { 0 } else { (value / scale).round().clamp(-127.0, 127.0) as i8 }
                    };
                    bytes.extend(block.iter().map(|value| quantised(value) as u8));
                }
                Some(bytes)
            }
        }
    }
}

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
}

impl GgufValue {
    fn type_id(&self) -> u32 {
        match self {
            Self::U32(_) => 4,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Text(_) => 8,
            Self::Texts(_) | Self::F32s(_) | Self::I32s(_) => 9,
        }
    }

    fn append_to(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::U32(value) => bytes.extend(value.to_le_bytes()),
            Self::F32(value) => bytes.extend(value.to_le_bytes()),
            Self::Bool(value) => bytes.push(u8::from(*value)),
            Self::Text(text) => append_text(bytes, text),
            Self::Texts(texts) => {
                append_array(bytes, 8, texts.len());
                texts.iter().for_each(|text| append_text(bytes, text));
            }
            Self::F32s(values) => {
                append_array(bytes, 6, values.len());
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::I32s(values) => {
                append_array(bytes, 5, values.len());
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
    }
}

fn append_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn append_array(bytes: &mut Vec<u8>, element: u32, len: usize) {
    bytes.extend(element.to_le_bytes());
    bytes.extend((len as u64).to_le_bytes());
}

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    pub name: String,
    /// The outermost dimension first, as everywhere here.
    pub shape: Vec<usize>,
    pub kind: GgufType,
}

impl GgufTensor {
    fn values(&self) -> u64 {
        self.shape.iter().map(|&size| size as u64).product()
    }

    /// Bytes of its data.
    pub fn byte_len(&self) -> u64 {
        self.kind.byte_len(self.values())
    }
}

/// A GGUF file, written tensor by tensor in the planned order. It has a temporary name until it is complete.
pub struct GgufFile {
    file: AtomicFile,
    tensors: std::vec::IntoIter<GgufTensor>,
    /// The tensor under way and how many of its values are missing.
    current: Option<(GgufTensor, u64)>,
}

impl GgufFile {
    /// Writes everything that stands before the data.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Shape`] if rows of a tensor cannot be stored in its type.
    pub fn create(target: FileTarget, metadata: &[(String, GgufValue)], tensors: Vec<GgufTensor>) -> Result<Self> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            append_text(&mut bytes, key);
            bytes.extend(value.type_id().to_le_bytes());
            value.append_to(&mut bytes);
        }
        let mut offset = 0;
        for tensor in &tensors {
            if !tensor.kind.fits(tensor.shape.last().copied().unwrap_or_default()) {
                return Err(Error::shape(
                    "write",
                    format!("{} of shape {:?} does not fit {:?}", tensor.name, tensor.shape, tensor.kind),
                ));
            }
            append_text(&mut bytes, &tensor.name);
            bytes.extend((tensor.shape.len() as u32).to_le_bytes());
            bytes.extend(tensor.shape.iter().rev().flat_map(|&size| (size as u64).to_le_bytes()));
            bytes.extend(tensor.kind.id().to_le_bytes());
            bytes.extend(u64::to_le_bytes(offset));
            offset += tensor.byte_len().next_multiple_of(ALIGNMENT);
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
        let mut file = AtomicFile::create(target)?;
        file.append(&bytes)?;
        Ok(Self { file, tensors: tensors.into_iter(), current: None })
    }

    /// Appends whole rows to the tensor `name`, which must be the one under way or the next planned one, in its type.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Shape`] if the name or the number of values is not as planned, or no whole rows;
    /// [`Error::Usage`] if a value is beyond what the type holds.
    pub fn write(&mut self, name: &str, rows: &[f32]) -> Result<()> {
        if self.current.is_none() {
            self.current = self.tensors.next().map(|tensor| (tensor.clone(), tensor.values()));
        }
        let (tensor, missing) = match &mut self.current {
            Some((tensor, missing))
                if tensor.name == name
                    && rows.len() as u64 <= *missing
                    && rows.len().is_multiple_of(tensor.shape.last().copied().unwrap_or(1)) =>
            {
                (tensor, missing)
            }
            Some((tensor, missing)) => {
                return Err(Error::shape(
                    "write",
                    format!("{} values of {name}, where {missing} of {} are due", rows.len(), tensor.name),
                ));
            }
            None => return Err(Error::shape("write", format!("{name} is not planned"))),
        };
        let bytes = tensor.kind.encode(rows).ok_or_else(|| {
            Error::Usage(format!("{name} has values that are too large for {:?}; --type f32 holds them", tensor.kind))
        })?;
        *missing -= rows.len() as u64;
        self.file.append(&bytes)?;
        if *missing == 0 {
            let len = tensor.byte_len();
            let padding = len.next_multiple_of(ALIGNMENT) - len;
            self.current = None;
            self.file.append(&[0; ALIGNMENT as usize][..padding as usize])?;
        }
        Ok(())
    }

    /// Makes the file durable and gives it its name; returns how many bytes it has.
    ///
    /// # Errors
    /// As [`AtomicFile::finish`]; [`Error::Shape`] if a tensor is missing.
    pub fn finish(self) -> Result<u64> {
        if self.current.is_some() || self.tensors.len() > 0 {
            return Err(self.file.incomplete());
        }
        self.file.finish()
    }
}
