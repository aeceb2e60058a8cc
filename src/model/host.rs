//! Weights on their way from the file to the GPU: read when they are needed, checked, kept nowhere.

use std::{borrow::Cow, ops::Range};

use half::{bf16, f16};

use super::architecture::Weight;
use crate::{
    checkpoint::{Dtype, Tensor},
    error::{Error, Result},
    gpu::{ElementType, Gpu, Matrix},
};

/// A row-major matrix, in host memory or still in its file.
#[derive(Debug, Clone)]
pub struct HostMatrix<'a> {
    pub rows: usize,
    pub cols: usize,
    pub element: ElementType,
    source: Source<'a>,
}

#[derive(Debug, Clone)]
enum Source<'a> {
    Memory(Vec<f32>),
    File {
        name: String,
        tensor: Tensor<'a>,
        /// The file has the transpose.
        transposed: bool,
    },
}

impl<'a> HostMatrix<'a> {
    /// A matrix of f32 values.
    pub fn from_f32(rows: usize, cols: usize, values: Vec<f32>) -> HostMatrix<'static> {
        HostMatrix { rows, cols, element: ElementType::F32, source: Source::Memory(values) }
    }

    /// The tensor `name` of a checkpoint, whose shape has been checked; in f32 if it is stored in f64. `None` if it is not of floating-point numbers
    /// of at least 16 bits.
    pub(super) fn stored(name: String, tensor: Tensor<'a>, rows: usize, cols: usize) -> Option<Self> {
        let element = match tensor.dtype {
            Dtype::F32 | Dtype::F64 => ElementType::F32,
            Dtype::F16 => ElementType::F16,
            Dtype::BF16 => ElementType::Bf16,
            _ => return None,
        };
        Some(Self { rows, cols, element, source: Source::File { name, tensor, transposed: false } })
    }

    /// The transpose of a matrix that is in its file.
    pub(super) fn transposed(mut self) -> Self {
        if let Source::File { transposed, .. } = &mut self.source {
            *transposed = !*transposed;
            (self.rows, self.cols) = (self.cols, self.rows);
        }
        self
    }

    /// The bytes of some rows, little-endian.
    ///
    /// # Errors
    /// [`Error::BadTensor`] if a value is NaN or infinite; [`Error::Read`].
    pub fn row_bytes(&self, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let size = self.element.size();
        let bytes = |rows: Range<usize>| rows.start * self.cols * size..rows.end * self.cols * size;
        match &self.source {
            Source::Memory(all) => {
                let all: &[u8] = bytemuck::cast_slice(all);
                all.get(bytes(rows)).map(Cow::Borrowed).ok_or_else(|| Error::shape("read", "rows beyond the end of a matrix"))
            }
            Source::File { name, tensor, transposed: false } => {
                let range = bytes(rows);
                Ok(Cow::Owned(self.read(range.start / size..range.end / size, name, tensor)?))
            }
            Source::File { name, tensor, transposed: true } => {
                let stored = self.read(0..self.rows * self.cols, name, tensor)?;
                let mut turned = Vec::with_capacity(rows.len() * self.cols * size);
                for row in rows {
                    for col in 0..self.cols {
                        let at = (col * self.rows + row) * size;
                        turned.extend_from_slice(&stored[at..at + size]);
                    }
                }
                Ok(Cow::Owned(turned))
            }
        }
    }

    /// Some values of a stored tensor in this matrix's type, all of them numbers.
    fn read(&self, values: Range<usize>, name: &str, tensor: &Tensor) -> Result<Vec<u8>> {
        let size = tensor.dtype.bitsize() / 8;
        let mut read = tensor.read_range(values.start * size..values.end * size)?;
        if tensor.dtype == Dtype::F64 {
            // What f32 cannot hold becomes infinite, and is refused below.
            let narrow = |b: &[u8]| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32;
            read = read.chunks_exact(8).flat_map(|value| narrow(value).to_le_bytes()).collect();
        }
        check(&read, self.element, values.start, name, tensor)?;
        Ok(read)
    }

    /// All bytes.
    ///
    /// # Errors
    /// As [`HostMatrix::row_bytes`].
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        self.row_bytes(0..self.rows)
    }

    /// Puts some rows onto the GPU, in their stored type.
    ///
    /// # Errors
    /// As [`HostMatrix::row_bytes`]; [`Error::OutOfMemory`].
    pub fn upload(&self, gpu: &Gpu, rows: Range<usize>) -> Result<Matrix> {
        gpu.upload_bytes(&self.row_bytes(rows.clone())?, rows.len(), self.cols, self.element)
    }

    /// All values, widened.
    ///
    /// # Errors
    /// As [`HostMatrix::row_bytes`].
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        self.rows_f32(0..self.rows)
    }

    /// The values of some rows, widened.
    ///
    /// # Errors
    /// As [`HostMatrix::row_bytes`].
    pub fn rows_f32(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        let bytes = self.row_bytes(rows)?;
        Ok(match self.element {
            ElementType::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            ElementType::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            ElementType::F32 | ElementType::U32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        })
    }
}

/// Refuses values that are not numbers; `first` is the number of the first one in the tensor.
fn check(bytes: &[u8], element: ElementType, first: usize, name: &str, tensor: &Tensor) -> Result<()> {
    let broken = match element {
        ElementType::F32 | ElementType::U32 => bytes.chunks_exact(4).position(|b| b[3] & 0x7f == 0x7f && b[2] & 0x80 == 0x80),
        ElementType::F16 => bytes.chunks_exact(2).position(|b| b[1] & 0x7c == 0x7c),
        ElementType::Bf16 => bytes.chunks_exact(2).position(|b| b[1] & 0x7f == 0x7f && b[0] & 0x80 == 0x80),
    };
    match broken {
        Some(index) => Err(Error::BadTensor {
            name: name.into(),
            path: tensor.path.into(),
            reason: format!("value {} is NaN or infinite; the checkpoint is damaged", first + index),
        }),
        None => Ok(()),
    }
}

/// A linear weight `[out, in]` of a layer, whatever its layout in the file.
#[derive(Debug, Clone)]
pub struct HostLinear<'a> {
    pub spec: &'static Weight,
    pub matrix: HostMatrix<'a>,
    pub bias: Option<Vec<f32>>,
}

/// The parameters of a norm.
#[derive(Debug, Clone)]
pub struct HostNorm {
    pub weight: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

/// The weights of one decoder layer.
#[derive(Debug, Clone)]
pub struct HostLayer<'a> {
    /// Whether the norms are in the weights: then every norm is an RMS norm without parameters.
    pub fused: bool,
    pub linears: Vec<HostLinear<'a>>,
    /// Of the attention and of the MLP; the first serves both where the second is missing. `None` once fused.
    pub norms: [Option<HostNorm>; 2],
    /// Of queries and keys.
    pub head_norms: Option<[HostNorm; 2]>,
    /// `[width after, width before]`, as the weight of a linear layer; the file has the transpose. Of the attention (or of the whole parallel
    /// layer) and of the MLP.
    pub shortcuts: [Option<HostMatrix<'a>>; 2],
}

/// What comes before the first layer and after the last.
#[derive(Debug, Clone)]
pub struct HostEnds<'a> {
    /// As [`HostLayer::fused`].
    pub fused: bool,
    pub embedding: HostMatrix<'a>,
    pub positions: Option<HostMatrix<'a>>,
    pub final_norm: Option<HostNorm>,
    pub head: HostMatrix<'a>,
    pub head_bias: Option<Vec<f32>>,
}
