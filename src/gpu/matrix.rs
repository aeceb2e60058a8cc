//! A matrix in GPU memory: a buffer, its shape and the type of its elements.

use std::{ops::Range, sync::Arc};

use bytemuck::cast_slice;

use super::{
    Gpu,
    element::{ElementType, ROW_ALIGNMENT},
    pool::Pooled,
    queue::Mapping,
};
use crate::error::{Error, Result};

/// A row-major matrix on the GPU, or a run of rows of one.
///
/// Rows start at multiples of [`Matrix::stride`] elements, a multiple of 4, so that kernels read four elements at a
/// time at any width. The padding is zero and stays zero: no kernel writes to it. Cloning shares the buffer.
#[derive(Debug, Clone)]
pub struct Matrix {
    pub(super) buffer: Arc<Pooled>,
    first_row: usize,
    rows: usize,
    cols: usize,
    element: ElementType,
}

impl Matrix {
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn element(&self) -> ElementType {
        self.element
    }

    /// Distance between rows, in elements: `cols` rounded up to a multiple of 4.
    pub fn stride(&self) -> usize {
        self.cols.next_multiple_of(4)
    }

    /// Bytes that a binding of the whole matrix takes.
    pub fn byte_len(&self) -> u64 {
        self.rows as u64 * self.element.row_bytes(self.cols)
    }

    pub(super) fn byte_offset(&self) -> u64 {
        self.first_row as u64 * self.element.row_bytes(self.cols)
    }

    /// The rows `range` of this matrix, sharing its memory. The first must be a multiple of 64.
    ///
    /// # Errors
    /// [`Error::Shape`] if the range is outside of the matrix or starts elsewhere.
    pub fn view(&self, range: Range<usize>) -> Result<Self> {
        if range.start > range.end || range.end > self.rows || !range.start.is_multiple_of(ROW_ALIGNMENT) {
            return Err(Error::shape(
                "view",
                format!("rows {range:?} of {} (the first must be a multiple of {ROW_ALIGNMENT})", self.rows),
            ));
        }
        Ok(Self { first_row: self.first_row + range.start, rows: range.len(), ..self.clone() })
    }
}

impl Gpu {
    /// A matrix of zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the device cannot hold it.
    pub fn zeros(&self, rows: usize, cols: usize) -> Result<Matrix> {
        let matrix = self.allocate(rows, cols, ElementType::F32)?;
        self.clear(&matrix);
        Ok(matrix)
    }

    /// A matrix whose values mean nothing until a kernel has written all of them; its padding is zero.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the device cannot hold it.
    pub fn unfilled(&self, rows: usize, cols: usize) -> Result<Matrix> {
        let matrix = self.allocate(rows, cols, ElementType::F32)?;
        if matrix.stride() != cols {
            self.clear(&matrix);
        }
        Ok(matrix)
    }

    fn clear(&self, matrix: &Matrix) {
        // A new buffer is all zeros.
        if matrix.buffer.recycled && matrix.byte_len() > 0 {
            self.record(|encoder| encoder.clear_buffer(&matrix.buffer, 0, Some(matrix.byte_len())));
        }
    }

    fn allocate(&self, rows: usize, cols: usize, element: ElementType) -> Result<Matrix> {
        let bytes = rows as u64 * element.row_bytes(cols);
        Ok(Matrix { buffer: self.storage(bytes)?, first_row: 0, rows, cols, element })
    }

    /// Uploads a row-major `[rows, cols]` f32 matrix.
    ///
    /// # Errors
    /// [`Error::Shape`] if `values` is not `rows · cols` long; [`Error::OutOfMemory`].
    pub fn upload(&self, values: &[f32], rows: usize, cols: usize) -> Result<Matrix> {
        self.upload_bytes(cast_slice(values), rows, cols, ElementType::F32)
    }

    /// Uploads one row of token ids, positions or row numbers.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn upload_u32(&self, values: &[u32]) -> Result<Matrix> {
        self.upload_bytes(cast_slice(values), 1, values.len(), ElementType::U32)
    }

    /// Uploads a row-major `[rows, cols]` matrix whose little-endian elements of type `element` are `bytes`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `bytes` has another length; [`Error::OutOfMemory`].
    pub fn upload_bytes(&self, bytes: &[u8], rows: usize, cols: usize, element: ElementType) -> Result<Matrix> {
        let row_bytes = cols * element.size();
        if bytes.len() != rows * row_bytes {
            return Err(Error::shape(
                "upload",
                format!("{} bytes given for [{rows}, {cols}] {element:?}", bytes.len()),
            ));
        }
        let matrix = self.allocate(rows, cols, element)?;
        let padded = element.row_bytes(cols) as usize;
        if rows == 0 || cols == 0 {
            return Ok(matrix);
        }
        // In pieces: each write takes as much staging memory as it is long, until the next submission.
        let rows_per_piece = (STAGING_BYTES / padded).max(1);
        let mut piece = Vec::new();
        for (index, rows) in bytes.chunks(rows_per_piece * row_bytes).enumerate() {
            let data = if padded == row_bytes {
                rows
            } else {
                piece.clear();
                for row in rows.chunks_exact(row_bytes) {
                    piece.extend_from_slice(row);
                    piece.resize(piece.len() + padded - row_bytes, 0);
                }
                &piece
            };
            self.write(&matrix.buffer, (index * rows_per_piece * padded) as u64, data)?;
        }
        Ok(matrix)
    }

    /// Reads a f32 matrix back, row-major, without its padding.
    ///
    /// # Errors
    /// Whatever went wrong on the device since the last readback: [`Error::DeviceLost`], [`Error::OutOfMemory`],
    /// [`Error::Gpu`].
    pub fn download(&self, matrix: &Matrix) -> Result<Vec<f32>> {
        self.download_later(matrix)?.wait(self)
    }

    /// Begins to read a f32 matrix back, as it is after all work recorded so far; work recorded later runs
    /// meanwhile.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub fn download_later(&self, matrix: &Matrix) -> Result<Readback> {
        debug_assert_ne!(matrix.element, ElementType::U32);
        let mapping = if matrix.byte_len() == 0 {
            None
        } else {
            Some(self.map(&matrix.buffer, matrix.byte_offset(), matrix.byte_len())?)
        };
        Ok(Readback { mapping, cols: matrix.cols, stride: matrix.stride(), element: matrix.element })
    }

    /// Reads token ids back.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub fn download_u32(&self, matrix: &Matrix) -> Result<Vec<u32>> {
        if matrix.byte_len() == 0 {
            return Ok(Vec::new());
        }
        let mapping = self.map(&matrix.buffer, matrix.byte_offset(), matrix.byte_len())?;
        self.mapped(mapping, |bytes| unpad(bytemuck::pod_collect_to_vec(bytes), matrix.cols, matrix.stride()))
    }
}

/// A matrix on its way from the GPU.
pub struct Readback {
    mapping: Option<Mapping>,
    cols: usize,
    stride: usize,
    element: ElementType,
}

impl Readback {
    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Waits for the values, row-major, without padding.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub fn wait(self, gpu: &Gpu) -> Result<Vec<f32>> {
        let Some(mapping) = self.mapping else { return Ok(Vec::new()) };
        gpu.mapped(mapping, |bytes| {
            let widened: Vec<f32> = match self.element {
                ElementType::F32 | ElementType::U32 => bytemuck::pod_collect_to_vec(bytes),
                narrow => narrow.decode(bytes).collect(),
            };
            unpad(widened, self.cols, self.stride)
        })
    }

    /// Waits for the values of a f32 matrix and lends them where the GPU put them: row-major, each row `stride` long.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub fn wait_with<T>(self, gpu: &Gpu, read: impl FnOnce(&[f32], usize) -> T) -> Result<T> {
        debug_assert_eq!(self.element, ElementType::F32);
        let stride = self.stride;
        match self.mapping {
            Some(mapping) => gpu.mapped(mapping, |bytes| match bytemuck::try_cast_slice(bytes) {
                Ok(values) => read(values, stride),
                Err(_) => read(&bytemuck::pod_collect_to_vec::<u8, f32>(bytes), stride),
            }),
            None => Ok(read(&[], stride)),
        }
    }
}

/// Two of them wait at a time: one recorded, and one in the submission under way.
const STAGING_BYTES: usize = 32 << 20;

fn unpad<T: Copy>(values: Vec<T>, cols: usize, stride: usize) -> Vec<T> {
    if cols == stride {
        return values;
    }
    values.chunks_exact(stride).flat_map(|row| &row[..cols]).copied().collect()
}
