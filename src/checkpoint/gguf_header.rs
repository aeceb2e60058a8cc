//! What stands in a GGUF file before its data, read with suspicion: no count, length or offset is believed before it is
//! held against what the file has, and nothing is allocated that the file could not fill.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{assembled::Part, quantised::Encoding};
use crate::error::{Error, Result};

/// Beyond these, numbers are mistakes or attacks.
const MAX_ELEMENTS: u64 = 1 << 24;
const MAX_NAME: usize = 512;
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 20;
const MAX_DIMENSIONS: u32 = 4;
const MAX_ALIGNMENT: u64 = 1 << 20;

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufField {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
    Bools(Vec<bool>),
    Texts(Vec<String>),
}

/// A tensor as a file lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufEntry {
    /// The outermost dimension first, as everywhere here.
    pub shape: Vec<usize>,
    pub encoding: Encoding,
    /// Which of the files of a model has it.
    pub file: usize,
    /// Where its data begins there.
    pub offset: u64,
    /// How long that is.
    pub byte_len: u64,
}

impl GgufEntry {
    /// Rows of it, in this order, of `width` values each.
    pub fn part(&self, width: usize, rows: Arc<[usize]>) -> Part {
        Part { encoding: self.encoding, file: self.file, offset: self.offset, width, rows }
    }
}

/// Metadata and list of tensors of a GGUF file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufHeader {
    pub metadata: BTreeMap<String, GgufField>,
    pub tensors: BTreeMap<String, GgufEntry>,
}

impl GgufHeader {
    /// Reads what `bytes`, all of a file, begin with; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::BadFile`] that says what is wrong, and where.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let mut cursor = Cursor { bytes, at: 0 };
        parse(&mut cursor).map_err(|reason| {
            Error::bad_file(path, format!("not a valid GGUF file: {reason}; download or convert it again"))
        })
    }
}

/// What went wrong, in words.
type Parsed<T> = std::result::Result<T, String>;

fn parse(cursor: &mut Cursor) -> Parsed<GgufHeader> {
    if cursor.take(4, "the first word")? != b"GGUF" {
        return Err("it does not begin with GGUF".into());
    }
    match cursor.u32("the version")? {
        2 | 3 => {}
        version if version & 0xffff == 0 => return Err("its numbers are big-endian, which is not read here".into()),
        version => return Err(format!("version {version}, where 2 and 3 are known")),
    }
    let tensors = cursor.count(MAX_TENSORS, "tensors")?;
    let keys = cursor.count(MAX_KEYS, "metadata entries")?;
    let mut header = GgufHeader::default();
    for _ in 0..keys {
        let key = cursor.name("the key of a metadata entry")?;
        let value = cursor.value(&key)?;
        if header.metadata.insert(key.clone(), value).is_some() {
            return Err(format!("{key} is there twice"));
        }
    }
    let alignment = match header.metadata.get("general.alignment") {
        None => 32,
        Some(GgufField::Integer(number)) if *number > 0 && *number <= i128::from(MAX_ALIGNMENT) => *number as u64,
        Some(other) => return Err(format!("general.alignment: expected 1 to {MAX_ALIGNMENT}, found {other:?}")),
    };
    if !alignment.is_power_of_two() {
        return Err(format!("general.alignment: expected a power of two, found {alignment}"));
    }
    for _ in 0..tensors {
        let (name, entry) = cursor.tensor()?;
        if entry.offset % alignment != 0 {
            return Err(format!("tensor {name} begins at {}, no multiple of {alignment}", entry.offset));
        }
        if header.tensors.insert(name.clone(), entry).is_some() {
            return Err(format!("tensor {name} is there twice"));
        }
    }
    place(&mut header.tensors, cursor.at.next_multiple_of(alignment as usize) as u64, cursor.bytes.len() as u64)?;
    Ok(header)
}

/// Counts offsets from the beginning of the file, and finds out whether each tensor has a place of its own there.
fn place(tensors: &mut BTreeMap<String, GgufEntry>, base: u64, file: u64) -> Parsed<()> {
    let mut spans = Vec::with_capacity(tensors.len());
    for (name, entry) in tensors.iter_mut() {
        let begins = base.checked_add(entry.offset).filter(|begins| *begins <= file);
        let ends = begins.and_then(|begins| begins.checked_add(entry.byte_len)).filter(|ends| *ends <= file);
        let (Some(begins), Some(ends)) = (begins, ends) else {
            return Err(format!(
                "tensor {name} goes beyond the end of the file, which has {file} bytes: it is cut off"
            ));
        };
        entry.offset = begins;
        spans.push((begins, ends, name));
    }
    spans.sort_unstable();
    match spans.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        Some(pair) => Err(format!("tensors {} and {} share bytes", pair[0].2, pair[1].2)),
        None => Ok(()),
    }
}

/// What is left of a file.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn take(&mut self, count: u64, what: &str) -> Parsed<&'a [u8]> {
        if count > self.left() {
            return Err(format!("it ends within {what}: {count} bytes from {} on, of {}", self.at, self.bytes.len()));
        }
        let taken = &self.bytes[self.at..self.at + count as usize];
        self.at += count as usize;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Parsed<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: &str) -> Parsed<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Parsed<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn count(&mut self, most: u64, what: &str) -> Parsed<u64> {
        let count = self.u64(&format!("the number of {what}"))?;
        if count > most { Err(format!("{count} {what}, where {most} are already absurd")) } else { Ok(count) }
    }

    fn text(&mut self, what: &str) -> Parsed<String> {
        let len = self.u64(what)?;
        let bytes = self.take(len, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| format!("{what} is not UTF-8"))
    }

    fn name(&mut self, what: &str) -> Parsed<String> {
        let name = self.text(what)?;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(format!("{what} has {} bytes, where 1 to {MAX_NAME} are expected", name.len()));
        }
        Ok(name)
    }

    fn value(&mut self, key: &str) -> Parsed<GgufField> {
        let kind = self.u32(key)?;
        if kind == 9 { self.list(key) } else { self.scalar(kind, key) }
    }

    fn scalar(&mut self, kind: u32, key: &str) -> Parsed<GgufField> {
        Ok(match kind {
            0 => GgufField::Integer(u8::from_le_bytes(self.array(key)?).into()),
            1 => GgufField::Integer(i8::from_le_bytes(self.array(key)?).into()),
            2 => GgufField::Integer(u16::from_le_bytes(self.array(key)?).into()),
            3 => GgufField::Integer(i16::from_le_bytes(self.array(key)?).into()),
            4 => GgufField::Integer(self.u32(key)?.into()),
            5 => GgufField::Integer(i32::from_le_bytes(self.array(key)?).into()),
            6 => GgufField::Float(f32::from_le_bytes(self.array(key)?).into()),
            7 => GgufField::Bool(bool_of(self.array::<1>(key)?[0], key)?),
            8 => GgufField::Text(self.text(key)?),
            10 => GgufField::Integer(self.u64(key)?.into()),
            11 => GgufField::Integer(i64::from_le_bytes(self.array(key)?).into()),
            12 => GgufField::Float(f64::from_le_bytes(self.array(key)?)),
            other => return Err(format!("{key} has a value of type {other}, which is none")),
        })
    }

    fn list(&mut self, key: &str) -> Parsed<GgufField> {
        let kind = self.u32(key)?;
        let count = self.count(MAX_ELEMENTS, &format!("elements in {key}"))?;
        // As much as the shortest elements take: what is allocated below is then in proportion to the file.
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10 | 11 | 12 => 8,
            9 => return Err(format!("{key} is a list of lists, which no GGUF file needs")),
            other => return Err(format!("{key} has elements of type {other}, which is none")),
        };
        if count * least > self.left() {
            return Err(format!("{key} says that it has {count} elements, more than the file has bytes for"));
        }
        let elements = (0..count).map(|_| self.scalar(kind, key));
        Ok(match kind {
            6 | 12 => GgufField::Floats(
                elements
                    .map(|element| match element? {
                        GgufField::Float(number) => Ok(number as f32),
                        other => Err(format!("{key} has {other:?} among its numbers")),
                    })
                    .collect::<Parsed<_>>()?,
            ),
            7 => GgufField::Bools(
                elements
                    .map(|element| match element? {
                        GgufField::Bool(flag) => Ok(flag),
                        other => Err(format!("{key} has {other:?} among its flags")),
                    })
                    .collect::<Parsed<_>>()?,
            ),
            8 => GgufField::Texts(
                elements
                    .map(|element| match element? {
                        GgufField::Text(text) => Ok(text),
                        other => Err(format!("{key} has {other:?} among its texts")),
                    })
                    .collect::<Parsed<_>>()?,
            ),
            _ => GgufField::Integers(
                elements
                    .map(|element| match element? {
                        GgufField::Integer(number) => {
                            i64::try_from(number).map_err(|_| format!("{key} has {number} in it, too large a number"))
                        }
                        other => Err(format!("{key} has {other:?} among its numbers")),
                    })
                    .collect::<Parsed<_>>()?,
            ),
        })
    }

    fn tensor(&mut self) -> Parsed<(String, GgufEntry)> {
        let name = self.name("the name of a tensor")?;
        let dimensions = self.u32(&name)?;
        if dimensions == 0 || dimensions > MAX_DIMENSIONS {
            return Err(format!("tensor {name} has {dimensions} dimensions, where 1 to {MAX_DIMENSIONS} are expected"));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = self.u64(&name)?;
            let fits = usize::try_from(size).ok().filter(|&size| size > 0 && size <= isize::MAX as usize);
            shape.push(fits.ok_or_else(|| format!("tensor {name} has a dimension of {size}"))?);
        }
        let kind = self.u32(&name)?;
        let encoding = Encoding::of(kind).ok_or_else(|| {
            let known: Vec<_> = Encoding::names().collect();
            format!("tensor {name} is of type {kind}, which is not known here; known: {}", known.join(", "))
        })?;
        // A tensor is widened in memory at most once: its size in f32 must be a number, too.
        let values = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let values = values.filter(|values| *values <= isize::MAX as usize / 4);
        let absurd = || format!("tensor {name} has absurd dimensions, {shape:?}");
        let values = values.ok_or_else(absurd)?;
        if !shape[0].is_multiple_of(encoding.block) {
            let Encoding { name: kind, block, .. } = encoding;
            return Err(format!("tensor {name} has rows of {} values, no multiple of the {block} of {kind}", shape[0]));
        }
        let byte_len = encoding.byte_len(values).ok_or_else(absurd)? as u64;
        shape.reverse();
        let offset = self.u64(&name)?;
        Ok((name, GgufEntry { shape, encoding, file: 0, offset, byte_len }))
    }
}

fn bool_of(byte: u8, key: &str) -> Parsed<bool> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(format!("{key} is {other}, where 0 or 1 are expected")),
    }
}
