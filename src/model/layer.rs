//! The forward pass of one decoder layer, dense or sliced: attention and MLP, in sequence or in parallel.

use std::ops::Range;

use super::{
    architecture::{Position, Role, Space, Weight},
    config::Config,
    host::{HostLayer, HostLinear, HostNorm},
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    ops::{AttentionShape, Block, HeadSpan, Norm, RowCopy},
};

/// A linear weight `[out, in]` on the GPU.
#[derive(Debug, Clone)]
pub struct Linear {
    pub spec: &'static Weight,
    pub weight: Matrix,
    pub bias: Option<Matrix>,
}

impl Linear {
    /// Uploads a weight in its stored type.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::BadTensor`], [`Error::Read`].
    pub fn upload(gpu: &Gpu, HostLinear { spec, matrix, bias }: &HostLinear) -> Result<Self> {
        Ok(Self { spec, weight: matrix.upload(gpu, 0..matrix.rows)?, bias: bias.as_deref().map(|bias| upload_row(gpu, bias)).transpose()? })
    }
}

/// The parameters of a norm on the GPU.
#[derive(Debug, Clone)]
pub struct NormWeights {
    pub weight: Matrix,
    pub bias: Option<Matrix>,
}

impl NormWeights {
    /// Uploads a norm.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn upload(gpu: &Gpu, norm: &HostNorm) -> Result<Self> {
        Ok(Self { weight: upload_row(gpu, &norm.weight)?, bias: norm.bias.as_deref().map(|bias| upload_row(gpu, bias)).transpose()? })
    }
}

fn upload_row(gpu: &Gpu, values: &[f32]) -> Result<Matrix> {
    gpu.upload(values, 1, values.len())
}

/// The weights of one layer on the GPU.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    /// Whether the norms are in the weights.
    pub fused: bool,
    pub linears: Vec<Linear>,
    /// Of the attention and of the MLP, which reads the attention's where it has none; without parameters once fused.
    pub norms: [Option<NormWeights>; 2],
    pub head_norms: Option<[NormWeights; 2]>,
    /// `[width after, width before]`, what carries the residual past each half; the identity where `None`.
    pub shortcuts: [Option<Matrix>; 2],
}

impl LayerWeights {
    /// Uploads a layer in its stored types, one matrix at a time.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::BadTensor`], [`Error::Read`].
    pub fn upload(gpu: &Gpu, layer: &HostLayer) -> Result<Self> {
        let norm = |norm: &Option<HostNorm>| norm.as_ref().map(|norm| NormWeights::upload(gpu, norm)).transpose();
        let shortcut = |half: usize| {
            let matrix = layer.shortcuts[half].as_ref();
            matrix.map(|matrix| matrix.upload(gpu, 0..matrix.rows)).transpose()
        };
        Ok(Self {
            fused: layer.fused,
            linears: layer.linears.iter().map(|linear| Linear::upload(gpu, linear)).collect::<Result<_>>()?,
            norms: [norm(&layer.norms[0])?, norm(&layer.norms[1])?],
            head_norms: match &layer.head_norms {
                Some([q, k]) => Some([NormWeights::upload(gpu, q)?, NormWeights::upload(gpu, k)?]),
                None => None,
            },
            shortcuts: [shortcut(0)?, shortcut(1)?],
        })
    }

    /// Fused weights that are on the GPU already, with the norms of queries and keys beside them.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn fused(gpu: &Gpu, linears: Vec<Linear>, head_norms: Option<&[HostNorm; 2]>, shortcuts: [Option<Matrix>; 2]) -> Result<Self> {
        let head_norms = match head_norms {
            Some([q, k]) => Some([NormWeights::upload(gpu, q)?, NormWeights::upload(gpu, k)?]),
            None => None,
        };
        Ok(Self { fused: true, linears, norms: [None, None], head_norms, shortcuts })
    }

    fn of(&self, attention: bool, reads: Space) -> impl Iterator<Item = &Linear> {
        self.linears.iter().filter(move |linear| linear.spec.role.is_attention() == attention && linear.spec.reads == reads)
    }
}

/// A part of a layer between two points of the residual stream: it reads one and writes the next, past one shortcut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Half {
    pub attention: bool,
    pub mlp: bool,
    /// Which shortcut carries the residual past it.
    pub shortcut: usize,
}

impl Half {
    /// Whether a weight belongs to this half.
    pub fn has(&self, role: Role) -> bool {
        if role.is_attention() { self.attention } else { self.mlp }
    }
}

/// The halves of a layer: attention, then MLP; or both at once in parallel blocks.
pub fn halves(config: &Config) -> &'static [Half] {
    const SEQUENTIAL: &[Half] = &[Half { attention: true, mlp: false, shortcut: 0 }, Half { attention: false, mlp: true, shortcut: 1 }];
    const PARALLEL: &[Half] = &[Half { attention: true, mlp: true, shortcut: 0 }];
    if config.parallel { PARALLEL } else { SEQUENTIAL }
}

/// What a layer needs to know beside its weights and its input.
pub struct LayerContext<'a> {
    pub gpu: &'a Gpu,
    pub config: &'a Config,
    pub layer: usize,
    pub positions: &'a Matrix,
    pub rope_table: Option<&'a Matrix>,
    pub sequences: &'a [Block],
    /// Keys and values of earlier tokens, `[rows, 2 · num_key_value_heads · head_dim]`, to be added to; `None` if the sequences are complete.
    pub cache: Option<&'a Matrix>,
}

impl LayerContext<'_> {
    /// The whole layer. Where there are no shortcuts, `x` itself becomes the result.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::OutOfMemory`].
    pub fn forward(&self, weights: &LayerWeights, x: Matrix) -> Result<Matrix> {
        halves(self.config).iter().try_fold(x, |x, half| self.half(weights, *half, x))
    }

    /// One half: `y = x · shortcut + [attention(norm(x))] + [mlp(norm(x))]`, `x` `[tokens, width before]`, `y` `[tokens, width after]`.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::OutOfMemory`].
    pub fn half(&self, weights: &LayerWeights, half: Half, x: Matrix) -> Result<Matrix> {
        let y = match &weights.shortcuts[half.shortcut] {
            Some(shortcut) => {
                let y = self.gpu.unfilled(x.rows(), shortcut.rows())?;
                // In f32 whatever the precision: the residual has values that f16 cannot hold.
                self.gpu.linear(&x, shortcut, None, &y, 0, false)?;
                y
            }
            None => x.clone(),
        };
        // The result may share the memory of x: nothing is written there before all that reads it has been worked out.
        self.inner(weights, half, &x, |tokens, inner| self.write(weights, half, inner, &y.view(tokens)?))?;
        Ok(y)
    }

    /// What the weights that write the residual read, of some tokens at a time: the attention's result `[tokens, num_attention_heads · head_dim]`
    /// and the MLP's inner activations `[tokens, intermediate_size]`, where `half` has them, in this order. `x` is `[tokens, width before]`; those
    /// of its tokens that were handed out are not read again.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::OutOfMemory`]; those of `each`.
    pub fn inner(&self, weights: &LayerWeights, half: Half, x: &Matrix, mut each: impl FnMut(Range<usize>, &[Matrix]) -> Result<()>) -> Result<()> {
        let attended = if half.attention { Some(self.attention(weights, &self.norm(weights, 0, x)?)?) } else { None };
        let rows = if half.mlp { self.mlp_rows() } else { x.rows().max(1) };
        for first in (0..x.rows()).step_by(rows) {
            let tokens = first..x.rows().min(first + rows);
            let mut inner = Vec::with_capacity(2);
            if let Some(attended) = &attended {
                inner.push(attended.view(tokens.clone())?);
            }
            if half.mlp {
                inner.push(self.hidden(weights, &x.view(tokens.clone())?)?);
            }
            each(tokens, &inner)?;
        }
        Ok(())
    }

    /// How many tokens the MLP takes at once: what one binding holds of its inner activations.
    fn mlp_rows(&self) -> usize {
        self.gpu.rows_per_binding(2 * self.config.intermediate_size.next_multiple_of(4) * 4)
    }

    /// What the attention (0) or the MLP (1) reads of `x` `[tokens, width before]`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn norm(&self, weights: &LayerWeights, which: usize, x: &Matrix) -> Result<Matrix> {
        let config = self.config;
        // Once fused, a layer norm is the RMS norm of a residual whose mean is already zero.
        let kind = if weights.fused { Norm::Rms } else { config.architecture.norm };
        let which = if config.architecture.mlp_norm.is_none() { 0 } else { which };
        let parameters = weights.norms[which].as_ref();
        let bias = parameters.and_then(|norm| norm.bias.as_ref());
        self.gpu.norm(kind, x, parameters.map(|norm| &norm.weight), bias, config.hidden_size, config.norm_eps)
    }

    /// What the MLP's second linear layer reads, `[tokens, intermediate_size]`.
    fn hidden(&self, weights: &LayerWeights, x: &Matrix) -> Result<Matrix> {
        let config = self.config;
        let input = self.norm(weights, 1, x)?;
        let width = config.intermediate_size * if config.architecture.gated { 2 } else { 1 };
        let inner = self.gpu.unfilled(x.rows(), width)?;
        for read in weights.of(false, Space::Residual) {
            let column = if read.spec.role == Role::Up && config.architecture.gated { config.intermediate_size } else { 0 };
            self.gpu.linear_layer(&input, &read.weight, read.bias.as_ref(), &inner, column, false)?;
        }
        self.gpu.activation(config.activation, config.architecture.gated, &inner)
    }

    /// What the attention's output projection reads, `[tokens, num_attention_heads · head_dim]`.
    fn attention(&self, weights: &LayerWeights, input: &Matrix) -> Result<Matrix> {
        let (gpu, config) = (self.gpu, self.config);
        let shape = config.attention_shape(self.layer);
        let qkv = gpu.unfilled(input.rows(), config.qkv_width())?;
        for read in weights.of(true, Space::Residual) {
            let column = match read.spec.role {
                Role::Key => shape.k.column,
                Role::Value => shape.v.column,
                _ => 0,
            };
            gpu.linear_layer(input, &read.weight, read.bias.as_ref(), &qkv, column, false)?;
        }
        if let (Some(norms), Some(qk)) = (&weights.head_norms, config.architecture.qk_norm) {
            for (span, norm) in [shape.q, shape.k].into_iter().zip(norms) {
                gpu.head_norm(qk.norm, &qkv, span, &norm.weight, norm.bias.as_ref(), config.norm_eps)?;
            }
        }
        if let (Some(table), Position::Rope { pairing, .. }) = (self.rope_table, config.architecture.position) {
            for span in side_by_side(shape.q, shape.k, shape.head_dim) {
                gpu.rope(pairing, &qkv, span, self.positions, table)?;
            }
        }
        match self.cache {
            None => gpu.attention(&shape, &qkv, &qkv, self.sequences),
            Some(cache) => {
                self.remember(&shape, &qkv, cache)?;
                let width = shape.k.heads * shape.head_dim;
                let cached = |column| HeadSpan { column, stride: shape.head_dim, heads: shape.k.heads };
                gpu.attention(&AttentionShape { k: cached(0), v: cached(width), ..shape }, &qkv, cache, self.sequences)
            }
        }
    }

    fn remember(&self, shape: &AttentionShape, qkv: &Matrix, cache: &Matrix) -> Result<()> {
        let rows: Vec<(usize, usize)> = self
            .sequences
            .iter()
            .flat_map(|block| (0..block.tokens).map(move |token| (block.first + token, block.kv_row + block.position + token)))
            .collect();
        let width = shape.k.heads * shape.head_dim;
        let mut to_column = 0;
        for from in side_by_side(shape.k, shape.v, shape.head_dim) {
            self.gpu.copy_rows(qkv, cache, &rows, RowCopy { from, head_dim: shape.head_dim, to_column })?;
            to_column += width;
        }
        Ok(())
    }

    /// Adds what the blocks of a half have computed to the residual.
    fn write(&self, weights: &LayerWeights, half: Half, inner: &[Matrix], residual: &Matrix) -> Result<()> {
        let spaces = [(half.attention, true, Space::Heads), (half.mlp, false, Space::Hidden)];
        for ((_, attention, reads), values) in spaces.into_iter().filter(|(there, ..)| *there).zip(inner) {
            let output = weights.of(attention, reads).next().ok_or_else(|| Error::shape("layer", "a block that writes nothing"))?;
            self.gpu.linear_layer(values, &output.weight, output.bias.as_ref(), residual, 0, true)?;
        }
        Ok(())
    }
}

/// Two spans of heads, as one if they lie one behind the other: what is done to both then takes one dispatch.
fn side_by_side(first: HeadSpan, second: HeadSpan, head_dim: usize) -> Vec<HeadSpan> {
    if first.stride == head_dim && second.stride == head_dim && second.column == first.end(head_dim) {
        return vec![HeadSpan { heads: first.heads + second.heads, ..first }];
    }
    vec![first, second]
}
