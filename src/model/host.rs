//! Weights on their way from the file to the GPU: read when they are needed, checked, kept nowhere.

use std::{borrow::Cow, ops::Range};

use super::{
    architecture::{Block, Role, Weight},
    layer_spec::DeltaNet,
    storage::Rows,
};
use crate::{
    checkpoint::{Dtype, Tensor},
    error::{Error, Result},
    gpu::{ElementType, Gpu, Matrix},
    ops::Norm,
};

/// Columns of a transpose that are put in place together.
const TOGETHER: usize = 32;

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
        /// Which rows of the tensor these are; columns of it where the file has the transpose.
        stored: Rows,
        transposed: bool,
        /// Rows of the tensor before those of the transpose.
        above: usize,
        element: ElementType,
        /// What every value is multiplied by, in f32.
        scale: f32,
        /// The norm that every row goes through.
        norm: Option<RowNorm>,
    },
}

impl<'a> HostMatrix<'a> {
    /// A matrix of f32 values.
    pub fn from_f32(rows: usize, cols: usize, values: Vec<f32>) -> HostMatrix<'static> {
        HostMatrix { rows, cols, element: ElementType::F32, source: Source::Memory(values) }
    }

    /// Rows of the tensor `name` of a checkpoint, whose shape has been checked; columns of it where it has the
    /// transpose.
    pub(super) fn stored(
        name: String,
        tensor: Tensor<'a>,
        stored: Rows,
        cols: usize,
        element: ElementType,
        transposed: bool,
    ) -> Self {
        let rows = stored.len();
        Self {
            rows,
            cols,
            element,
            source: Source::File { name, tensor, stored, transposed, above: 0, element, scale: 1.0, norm: None },
        }
    }

    /// This matrix, whose transpose begins after some rows of its tensor.
    pub(super) fn below(mut self, rows: usize) -> Self {
        if let Source::File { above, .. } = &mut self.source {
            *above = rows;
        }
        self
    }

    /// This matrix times a factor: of f32 values, unless it is 1.
    pub(super) fn scaled(mut self, factor: f32) -> Self {
        if factor != 1.0
            && let Source::File { scale, .. } = &mut self.source
        {
            *scale *= factor;
            self.element = ElementType::F32;
        }
        self
    }

    /// Whether both have the same values, made of the same tensor in the same way.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (&self.source, &other.source) {
            (Source::File { name, scale, norm, .. }, Source::File { name: also, scale: times, norm: of, .. }) => {
                name == also && scale == times && norm.is_none() && of.is_none()
            }
            _ => false,
        }
    }

    /// This matrix with a norm of every row: of f32 values.
    pub(super) fn normed(mut self, with: RowNorm) -> Self {
        if let Source::File { norm, .. } = &mut self.source {
            *norm = Some(with);
            self.element = ElementType::F32;
        }
        self
    }

    /// The bytes of some rows, little-endian.
    ///
    /// # Errors
    /// [`Error::BadTensor`] if a value is NaN or infinite; [`Error::Read`].
    pub fn row_bytes(&self, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let size = self.element.size();
        match &self.source {
            Source::Memory(all) => {
                let all: &[u8] = bytemuck::cast_slice(all);
                let bytes = rows.start * self.cols * size..rows.end * self.cols * size;
                let there = all.get(bytes).map(Cow::Borrowed);
                there.ok_or_else(|| Error::shape("read", "rows beyond the end of a matrix"))
            }
            Source::File { element, scale, norm, .. } => {
                let read = self.stored_bytes(rows)?;
                if *scale == 1.0 && norm.is_none() {
                    return Ok(Cow::Owned(read));
                }
                let mut values: Vec<f32> = element.decode(&read).map(|value| value * scale).collect();
                if let Some(norm) = norm {
                    values.chunks_exact_mut(self.cols).for_each(|row| norm.apply(row));
                }
                Ok(Cow::Owned(values.into_iter().flat_map(f32::to_le_bytes).collect()))
            }
        }
    }

    /// Some rows as the file has their values.
    fn stored_bytes(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        let Source::File { name, tensor, stored, transposed, above, element, .. } = &self.source else {
            return Err(Error::shape("read", "not in a file"));
        };
        let size = element.size();
        let read = |first: usize, count: usize| {
            let stored = tensor.dtype.bitsize() / 8;
            let mut bytes = tensor.read_range(first * stored..(first + count) * stored)?;
            if tensor.dtype == Dtype::F64 {
                bytes = narrowed(&bytes, first, name, tensor)?;
            }
            check(&bytes, *element, first, name, tensor)?;
            Ok::<_, Error>(bytes)
        };
        if !transposed {
            let runs = stored.runs(rows);
            return match runs.as_slice() {
                [run] => read(run.start * self.cols, run.len() * self.cols),
                runs => {
                    let parts = runs.iter().map(|run| read(run.start * self.cols, run.len() * self.cols));
                    Ok(parts.collect::<Result<Vec<_>>>()?.concat())
                }
            };
        }
        let width = tensor.shape.last().copied().unwrap_or(1);
        let above = above * width;
        let wanted: Vec<usize> = rows.map(|row| stored.stored(row)).collect();
        let (Some(&first), Some(&last)) = (wanted.iter().min(), wanted.iter().max()) else { return Ok(Vec::new()) };
        let span = last + 1 - first;
        // All at once, unless most of it is other weights'.
        let whole = if 2 * span > width { Some(read(above, self.cols * width)?) } else { None };
        let mut transpose = vec![0; wanted.len() * self.cols * size];
        // Some columns at a time: neither what is read nor what is written is far from what was before.
        for begin in (0..self.cols).step_by(TOGETHER) {
            let line = |col: usize| match &whole {
                Some(whole) => Ok(Cow::Borrowed(&whole[(col * width + first) * size..][..span * size])),
                None => read(above + col * width + first, span).map(Cow::Owned),
            };
            let lines = (begin..self.cols.min(begin + TOGETHER)).map(line).collect::<Result<Vec<_>>>()?;
            for (row, from) in wanted.iter().map(|at| (at - first) * size).enumerate() {
                let to = (row * self.cols + begin) * size;
                let places = transpose[to..].chunks_exact_mut(size);
                places.zip(&lines).for_each(|(place, line)| place.copy_from_slice(&line[from..from + size]));
            }
        }
        Ok(transpose)
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
        Ok(self.element.decode(&self.row_bytes(rows)?).collect())
    }
}

/// Values of F64 as F32. What is no number stays none, and is refused as such.
fn narrowed(bytes: &[u8], first: usize, name: &str, tensor: &Tensor) -> Result<Vec<u8>> {
    let wide = |b: &[u8]| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
    let mut narrow = Vec::with_capacity(bytes.len() / 2);
    for (index, value) in bytes.chunks_exact(8).map(wide).enumerate() {
        if value.is_finite() && (value as f32).is_infinite() {
            return Err(Error::BadTensor {
                name: name.into(),
                path: tensor.path.into(),
                reason: format!(
                    "value {} is {value:e}, which is too large for F32, in which F64 is computed",
                    first + index
                ),
            });
        }
        narrow.extend((value as f32).to_le_bytes());
    }
    Ok(narrow)
}

/// Refuses values that are not numbers; `first` is the number of the first one in the tensor.
fn check(bytes: &[u8], element: ElementType, first: usize, name: &str, tensor: &Tensor) -> Result<()> {
    match element.first_not_finite(bytes) {
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
    /// The stored tensor that holds it.
    pub spec: &'static Weight,
    pub role: Role,
    pub matrix: HostMatrix<'a>,
    pub bias: Option<Vec<f32>>,
}

impl HostLinear<'_> {
    /// The weight in f32.
    ///
    /// # Errors
    /// As [`HostMatrix::row_bytes`].
    pub fn widened(&self) -> Result<HostLinear<'static>> {
        let matrix = HostMatrix::from_f32(self.matrix.rows, self.matrix.cols, self.matrix.to_f32()?);
        Ok(HostLinear { spec: self.spec, role: self.role, matrix, bias: self.bias.clone() })
    }
}

/// The parameters of a norm.
#[derive(Debug, Clone)]
pub struct HostNorm {
    /// How many heads have weights of their own, one after the other; 1 of any other norm.
    pub heads: usize,
    pub weight: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

/// A norm of rows of a table, worked out in f64 as they are read.
#[derive(Debug, Clone)]
pub(super) struct RowNorm {
    pub kind: Norm,
    pub eps: f32,
    pub parameters: Option<HostNorm>,
}

impl RowNorm {
    fn apply(&self, row: &mut [f32]) {
        let width = row.len() as f64;
        let mean = match self.kind {
            Norm::Rms => 0.0,
            Norm::Layer => row.iter().map(|&value| f64::from(value)).sum::<f64>() / width,
        };
        let squares = row.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>();
        let scale = 1.0 / (squares / width + f64::from(self.eps)).sqrt();
        for (i, value) in row.iter_mut().enumerate() {
            let normed = (f64::from(*value) - mean) * scale;
            let parameters = self.parameters.as_ref();
            let weight = parameters.map_or(1.0, |norm| norm.weight[i]);
            let bias = parameters.and_then(|norm| norm.bias.as_ref()).map_or(0.0, |bias| bias[i]);
            *value = (normed * f64::from(weight) + f64::from(bias)) as f32;
        }
    }
}

impl HostNorm {
    /// A norm whose results are `factor` times as large.
    pub(super) fn scaled(mut self, factor: f32) -> Self {
        if factor != 1.0 {
            self.weight.iter_mut().chain(self.bias.iter_mut().flatten()).for_each(|value| *value *= factor);
        }
        self
    }
}

/// What a gated delta net has beside its linear weights, as it is stored.
#[derive(Debug, Clone)]
pub struct HostDeltaNet {
    pub net: DeltaNet,
    /// `[channels, taps]`.
    pub convolution: Vec<f32>,
    /// Logarithms, of each value head.
    pub rate: Vec<f32>,
    /// Of each value head.
    pub decay_bias: Vec<f32>,
    /// `[value_dim]`, which all heads share.
    pub norm: Vec<f32>,
}

/// The weights of one block.
#[derive(Debug, Clone)]
pub struct HostBlock<'a> {
    pub spec: &'static Block,
    /// The norm before it; `None` once fused, or without parameters.
    pub norm: Option<HostNorm>,
    /// The norm of its result, where there is one.
    pub norm_after: Option<HostNorm>,
    /// Of queries and keys.
    pub head_norms: Option<[HostNorm; 2]>,
    /// A logit of each query head that stands for no key.
    pub sinks: Option<Vec<f32>>,
    /// Of a gated delta net.
    pub delta: Option<HostDeltaNet>,
    pub linears: Vec<HostLinear<'a>>,
}

/// The weights of a step of a layer.
#[derive(Debug, Clone)]
pub struct HostStep<'a> {
    pub blocks: Vec<HostBlock<'a>>,
    /// `[width after, width before]`, as the weight of a linear layer; the file has the transpose.
    pub shortcut: Option<HostMatrix<'a>>,
}

/// The weights of one decoder layer.
#[derive(Debug, Clone)]
pub struct HostLayer<'a> {
    /// Whether the norms are in the weights: then every norm is an RMS norm without parameters.
    pub fused: bool,
    pub steps: Vec<HostStep<'a>>,
}

impl<'a> HostLayer<'a> {
    pub fn blocks(&self) -> impl Iterator<Item = &HostBlock<'a>> {
        self.steps.iter().flat_map(|step| &step.blocks)
    }

    pub fn linears(&self) -> impl Iterator<Item = &HostLinear<'a>> {
        self.blocks().flat_map(|block| &block.linears)
    }
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
    /// The c in c·tanh(logit / c), where logits go through that.
    pub logit_softcap: Option<f32>,
    pub head_bias: Option<Vec<f32>>,
}
