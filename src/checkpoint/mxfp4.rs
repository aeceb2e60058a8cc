//! Tensors in MXFP4 (OCP Microscaling Formats 1.0) beside others: blocks of 32 floats of four bits in one tensor, and
//! the scale of each block, a power of two, in another. They are read as BF16, which holds every such value, and as the
//! transposes of what is stored.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::quantised::{E2M1, half_of_e8m0};
use crate::error::{Error, Result};

/// Values of a block.
pub const BLOCK: usize = 32;
/// Bytes of the values of a block: of every two values, the first one is in the lower four bits.
pub const BLOCK_BYTES: usize = BLOCK / 2;

/// The files of a checkpoint.
pub type Files = [(PathBuf, Mutex<File>)];

/// Matrices that are stored in MXFP4.
#[derive(Debug)]
pub struct Mxfp4 {
    /// `[matrices, in, out]`: as they are read.
    pub shape: [usize; 3],
    /// `[matrices, out, in]`: as they are stored, a row in whole blocks.
    pub stored_shape: [usize; 3],
    pub blocks: Stored,
    pub scales: Stored,
    /// What is stored of one of the matrices, while its transpose is read.
    held: Mutex<Option<(usize, Arc<Blocks>)>>,
}

/// A tensor of bytes.
#[derive(Debug)]
pub struct Stored {
    pub name: String,
    pub file: usize,
    /// Where it begins there.
    pub offset: usize,
}

impl Stored {
    fn read(&self, range: Range<usize>, files: &Files) -> Result<Vec<u8>> {
        let (path, file) = &files[self.file];
        let mut bytes = vec![0; range.len()];
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start((self.offset + range.start) as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(Error::read(path))?;
        Ok(bytes)
    }
}

/// So many of these, from `first` on.
fn part<T: Copy>(mut all: Vec<T>, first: usize, count: usize) -> Vec<T> {
    if first > 0 {
        all.drain(..first);
    }
    all.truncate(count);
    all
}

/// Some blocks that follow each other.
#[derive(Debug)]
struct Blocks {
    values: Vec<u8>,
    scales: Vec<u8>,
}

impl Blocks {
    /// The values of a block, as the bits of BF16.
    fn block(&self, index: usize) -> [u16; BLOCK] {
        let scale = half_of_e8m0(self.scales[index]);
        // Digits that are cut off are zero. The sign is the highest of four bits.
        let size = |bits: usize| ((scale * E2M1[bits & 7]).to_bits() >> 16) as u16;
        let known: [u16; 16] = std::array::from_fn(|bits| size(bits) | ((bits >> 3) as u16) << 15);
        let mut values = [0; BLOCK];
        let packed = &self.values[index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES];
        for (pair, &byte) in values.chunks_exact_mut(2).zip(packed) {
            pair[0] = known[usize::from(byte & 15)];
            pair[1] = known[usize::from(byte >> 4)];
        }
        values
    }
}

impl Mxfp4 {
    /// Of the blocks of `[matrices, out, in / 32]`.
    pub fn new([matrices, out, groups]: [usize; 3], blocks: Stored, scales: Stored) -> Self {
        let inner = groups * BLOCK;
        let (shape, stored_shape) = ([matrices, inner, out], [matrices, out, inner]);
        Self { shape, stored_shape, blocks, scales, held: Mutex::new(None) }
    }

    /// How many blocks there are.
    pub fn count(&self) -> usize {
        self.shape.iter().product::<usize>() / BLOCK
    }

    /// Bytes of all values, as they are read.
    pub fn byte_len(&self) -> usize {
        2 * self.shape.iter().product::<usize>()
    }

    /// Some bytes of the matrices, or of what is stored of them, as BF16; the range has been checked.
    ///
    /// # Errors
    /// [`Error::BadTensor`] for a scale that is no number; [`Error::Read`].
    pub fn read_range(&self, range: Range<usize>, as_stored: bool, files: &Files) -> Result<Vec<u8>> {
        let values = range.start / 2..range.end.div_ceil(2);
        let read = if as_stored { self.rows(values.clone(), files)? } else { self.columns(values.clone(), files)? };
        let mut bytes = vec![0; 2 * read.len()];
        bytes.chunks_exact_mut(2).zip(read).for_each(|(bytes, bits)| bytes.copy_from_slice(&bits.to_le_bytes()));
        Ok(part(bytes, range.start - 2 * values.start, range.len()))
    }

    /// What is stored of one of the matrices: its blocks, and their scales.
    ///
    /// # Errors
    /// As [`Mxfp4::read_range`].
    pub fn stored(&self, matrix: usize, files: &Files) -> Result<[Vec<u8>; 2]> {
        let each = self.shape[1] * self.shape[2] / BLOCK;
        let Blocks { values, scales } = self.blocks(matrix * each..(matrix + 1) * each, files)?;
        Ok([values, scales])
    }

    fn blocks(&self, blocks: Range<usize>, files: &Files) -> Result<Blocks> {
        let scales = self.scales.read(blocks.clone(), files)?;
        if let Some(at) = scales.iter().position(|&scale| scale == u8::MAX) {
            let (name, path) = (self.scales.name.clone(), files[self.scales.file].0.clone());
            let at = blocks.start + at;
            let reason = format!("scale {at} is 255, which stands for no number; the checkpoint is damaged");
            return Err(Error::BadTensor { name, path, reason });
        }
        let values = self.blocks.read(blocks.start * BLOCK_BYTES..blocks.end * BLOCK_BYTES, files)?;
        Ok(Blocks { values, scales })
    }

    /// Some values in the order in which they are stored.
    fn rows(&self, values: Range<usize>, files: &Files) -> Result<Vec<u16>> {
        let first = values.start / BLOCK;
        let read = self.blocks(first..values.end.div_ceil(BLOCK), files)?;
        let mut all = Vec::with_capacity(read.scales.len() * BLOCK);
        (0..read.scales.len()).for_each(|index| all.extend_from_slice(&read.block(index)));
        Ok(part(all, values.start - first * BLOCK, values.len()))
    }

    /// Some values of the transposes.
    fn columns(&self, values: Range<usize>, files: &Files) -> Result<Vec<u16>> {
        let [_, inner, out] = self.shape;
        let rows = values.start / out.max(1)..values.end.div_ceil(out.max(1));
        let mut all = vec![0; rows.len() * out];
        let mut first = rows.start;
        while first < rows.end {
            let matrix = first / inner;
            let end = rows.end.min((matrix + 1) * inner);
            let blocks = self.matrix(matrix, end == (matrix + 1) * inner, files)?;
            let within = first - matrix * inner..end - matrix * inner;
            let place = &mut all[(first - rows.start) * out..(end - rows.start) * out];
            for group in within.start / BLOCK..within.end.div_ceil(BLOCK) {
                for column in 0..out {
                    let block = blocks.block(column * (inner / BLOCK) + group);
                    for (row, value) in (group * BLOCK..).zip(block).filter(|(row, _)| within.contains(row)) {
                        place[(row - within.start) * out + column] = value;
                    }
                }
            }
            first = end;
        }
        Ok(part(all, values.start - rows.start * out, values.len()))
    }

    /// What is stored of a matrix, which is kept until its `last` rows are read.
    fn matrix(&self, matrix: usize, last: bool, files: &Files) -> Result<Arc<Blocks>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let blocks = match held.take().filter(|(which, _)| *which == matrix) {
            Some((_, blocks)) => blocks,
            None => {
                let each = self.shape[1] * self.shape[2] / BLOCK;
                Arc::new(self.blocks(matrix * each..(matrix + 1) * each, files)?)
            }
        };
        *held = (!last).then(|| (matrix, Arc::clone(&blocks)));
        Ok(blocks)
    }
}
