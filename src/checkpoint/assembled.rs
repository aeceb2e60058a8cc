//! Tensors put together from rows of GGUF files, which are widened when they are read.

use std::{
    io::{Read, Seek, SeekFrom},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use half::bf16;
use safetensors::Dtype;

use super::{mxfp4::Files, quantised::Encoding};
use crate::error::{Error, Result};

/// Rows of a tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub encoding: Encoding,
    /// Which of the files has the tensor.
    pub file: usize,
    /// Where it begins there.
    pub offset: u64,
    /// Values of a row.
    pub width: usize,
    /// Which of its rows these are, in the order they are wanted.
    pub rows: Arc<[usize]>,
}

/// What becomes of values as they are read.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Nothing,
    Plus(f32),
    /// ln(−x).
    LogOfNegative,
}

/// A tensor of a checkpoint, made of parts that follow each other.
#[derive(Debug)]
pub struct Assembled {
    pub shape: Vec<usize>,
    pub parts: Vec<Part>,
    /// Whether rows of the parts come in turn: one of each, then the next one of each.
    in_turn: bool,
    /// Of a tensor whose matrices are the transposes of what the parts make: the shape of that.
    pub stored_shape: Option<Vec<usize>>,
    /// The type in which it is read.
    pub dtype: Dtype,
    /// The type in which it is written by default.
    pub written: Dtype,
    /// Where the columns are there, if in another order.
    columns: Option<Vec<usize>>,
    /// What becomes of every value, of a tensor in f32.
    change: Change,
    /// The last matrix of a transposed tensor that was read, by its number, until its end is read.
    held: Mutex<Option<(usize, Arc<Vec<u8>>)>>,
}

impl Assembled {
    /// Of these parts. Values are read in the parts' own type, or in f32 where they are quantised or differ; quantised
    /// ones are written in f16 by default. Those in MXFP4 are read and written in bf16, which holds them.
    pub fn new(shape: Vec<usize>, parts: Vec<Part>, transposed: bool) -> Self {
        let first = parts.first().map_or(Dtype::F32, |part| part.encoding.dtype());
        let alike = parts.iter().all(|part| part.encoding.dtype() == first);
        let dtype = if alike { first } else { Dtype::F32 };
        let quantised = parts.iter().any(|part| part.encoding.float().is_none());
        let written = if quantised && dtype == Dtype::F32 { Dtype::F16 } else { dtype };
        let stored_shape = transposed.then(|| {
            let mut stored = shape.clone();
            let last = stored.len().saturating_sub(2);
            stored[last..].reverse();
            stored
        });
        Self {
            shape,
            parts,
            in_turn: false,
            stored_shape,
            dtype,
            written,
            columns: None,
            change: Change::Nothing,
            held: Mutex::new(None),
        }
    }

    /// This tensor with the rows of its parts, of which each has as many, in turn.
    pub fn in_turn(self) -> Self {
        Self { in_turn: true, ..self }
    }

    /// This tensor, in f32, with a number added to every value as it is read.
    pub fn plus(self, plus: f32) -> Self {
        Self { dtype: Dtype::F32, change: Change::Plus(plus), ..self }
    }

    /// This tensor, in f32, of the logarithms of rates, which are there below zero.
    pub fn of_rates(self) -> Self {
        Self { dtype: Dtype::F32, change: Change::LogOfNegative, ..self }
    }

    /// This tensor with its columns in another order: for each, where it is there.
    pub fn with_columns(self, columns: Vec<usize>) -> Self {
        Self { columns: Some(columns), ..self }
    }

    fn element(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    /// Bytes of all values, as they are read.
    pub fn byte_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.element()
    }

    /// Bytes that the files have for them.
    pub fn stored_len(&self) -> u64 {
        let bytes = |part: &Part| (part.rows.len() * (part.width / part.encoding.block) * part.encoding.bytes) as u64;
        self.parts.iter().map(bytes).sum()
    }

    /// Some bytes of the tensor, or of what the parts make where it is the transpose of that; the range has been
    /// checked, and is of whole values.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn read_range(&self, range: Range<usize>, as_stored: bool, files: &Files) -> Result<Vec<u8>> {
        let bytes = self.read_unchanged(range, as_stored, files)?;
        let changed = |value: f32| match self.change {
            Change::Nothing => value,
            Change::Plus(more) => value + more,
            Change::LogOfNegative => (-f64::from(value)).ln() as f32,
        };
        if self.change == Change::Nothing {
            return Ok(bytes);
        }
        let value = |bytes: &[u8]| changed(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        Ok(bytes.chunks_exact(4).flat_map(|bytes| value(bytes).to_le_bytes()).collect())
    }

    fn read_unchanged(&self, range: Range<usize>, as_stored: bool, files: &Files) -> Result<Vec<u8>> {
        if let Some(columns) = &self.columns {
            return self.columns_range(columns, range, files);
        }
        match &self.shape[..] {
            [.., rows, cols] if self.stored_shape.is_some() && !as_stored => {
                self.transposed_range([*rows, *cols], range, files)
            }
            _ => self.rows_range(range, files),
        }
    }

    /// Some bytes of matrices `[rows, cols]` that are the transposes of what the parts make.
    fn transposed_range(&self, [rows, cols]: [usize; 2], range: Range<usize>, files: &Files) -> Result<Vec<u8>> {
        let each = rows * cols * self.element();
        let mut read = Vec::with_capacity(range.len());
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for matrix in range.start / each.max(1)..range.end.div_ceil(each.max(1)) {
            let first = matrix * each;
            let bytes = match held.take().filter(|(which, _)| *which == matrix) {
                Some((_, bytes)) => bytes,
                None => Arc::new(self.transpose(&self.rows_range(first..first + each, files)?, [rows, cols])),
            };
            let end = range.end.min(first + each);
            read.extend_from_slice(&bytes[range.start.max(first) - first..end - first]);
            // Columns are read from the first row to the last: after that, the rest of the model is what matters.
            *held = (end < first + each).then_some((matrix, bytes));
        }
        Ok(read)
    }

    /// Some bytes of the parts with these columns.
    fn columns_range(&self, columns: &[usize], range: Range<usize>, files: &Files) -> Result<Vec<u8>> {
        let size = self.element();
        let row = columns.len() * size;
        let first = range.start / row * row;
        let stored = self.rows_range(first..range.end.next_multiple_of(row), files)?;
        let mut ordered = Vec::with_capacity(stored.len());
        for row in stored.chunks_exact(row) {
            columns.iter().for_each(|at| ordered.extend_from_slice(&row[at * size..][..size]));
        }
        Ok(ordered[range.start - first..range.end - first].to_vec())
    }

    fn transpose(&self, stored: &[u8], [rows, cols]: [usize; 2]) -> Vec<u8> {
        let size = self.element();
        let mut transposed = vec![0; stored.len()];
        for row in 0..rows {
            for col in 0..cols {
                let (from, to) = ((col * rows + row) * size, (row * cols + col) * size);
                transposed[to..to + size].copy_from_slice(&stored[from..from + size]);
            }
        }
        transposed
    }

    /// Some bytes of the parts one after the other, or in turn.
    fn rows_range(&self, range: Range<usize>, files: &Files) -> Result<Vec<u8>> {
        let size = self.element();
        if self.in_turn {
            return self.turns_range(range, files);
        }
        let mut bytes = Vec::with_capacity(range.len());
        let mut begins = 0;
        for part in &self.parts {
            let row = part.width * size;
            let ends = begins + part.rows.len() * row;
            let within = range.start.max(begins)..range.end.min(ends);
            if within.start < within.end {
                let (start, end) = (within.start - begins, within.end - begins);
                let rows = start / row..end.div_ceil(row);
                let skipped = start - rows.start * row;
                let read = self.part_rows(part, rows, files)?;
                bytes.extend_from_slice(&read[skipped..skipped + (end - start)]);
            }
            begins = ends;
        }
        Ok(bytes)
    }

    /// Some bytes of the parts in turn.
    fn turns_range(&self, range: Range<usize>, files: &Files) -> Result<Vec<u8>> {
        let count = self.parts.len().max(1);
        let row = self.parts.first().map_or(1, |part| part.width).max(1) * self.element();
        let rows = range.start / row..range.end.div_ceil(row);
        let mut bytes = vec![0; rows.len() * row];
        for (which, part) in self.parts.iter().enumerate() {
            // Row i of the part is row i · count + which here.
            let own = |end: usize| end.saturating_sub(which).div_ceil(count);
            let first = own(rows.start);
            let read = self.part_rows(part, first..own(rows.end), files)?;
            for (at, values) in read.chunks_exact(row).enumerate() {
                let place = ((first + at) * count + which - rows.start) * row;
                bytes[place..place + row].copy_from_slice(values);
            }
        }
        Ok(bytes[range.start - rows.start * row..range.end - rows.start * row].to_vec())
    }

    /// Some rows of a part, in the type of the tensor.
    fn part_rows(&self, part: &Part, rows: Range<usize>, files: &Files) -> Result<Vec<u8>> {
        let Part { encoding, offset, width, .. } = part;
        let (path, file) = &files[part.file];
        let stored_row = width / encoding.block * encoding.bytes;
        let row = width * self.element();
        let mut bytes = Vec::with_capacity(rows.len() * row);
        for group in groups(&part.rows[rows]) {
            let (Some(&first), Some(&last)) = (group.iter().min(), group.iter().max()) else { continue };
            let mut stored = vec![0; (last + 1 - first) * stored_row];
            {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(offset + (first * stored_row) as u64))
                    .and_then(|_| file.read_exact(&mut stored))
                    .map_err(Error::read(path))?;
            }
            let read = if encoding.float() == Some(self.dtype) {
                stored
            } else if self.dtype == Dtype::BF16 {
                // What is cut off is zero.
                encoding.widen(&stored).into_iter().flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect()
            } else {
                encoding.widen(&stored).into_iter().flat_map(f32::to_le_bytes).collect()
            };
            group.iter().for_each(|at| bytes.extend_from_slice(&read[(at - first) * row..][..row]));
        }
        Ok(bytes)
    }
}

/// Rows that are near each other, to be read at once: no group spans more than about twice what it has.
fn groups(rows: &[usize]) -> Vec<&[usize]> {
    const SLACK: usize = 256;
    let mut found = Vec::new();
    let mut begins = 0;
    let (mut least, mut most) = (usize::MAX, 0);
    for (at, &row) in rows.iter().enumerate() {
        let (lower, upper) = (least.min(row), most.max(row));
        if upper - lower > 2 * (at - begins) + SLACK && at > begins {
            found.push(&rows[begins..at]);
            begins = at;
            (least, most) = (row, row);
        } else {
            (least, most) = (lower, upper);
        }
    }
    if begins < rows.len() {
        found.push(&rows[begins..]);
    }
    found
}
