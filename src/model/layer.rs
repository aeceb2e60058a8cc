//! The forward pass of one decoder layer, dense or sliced: its steps one after the other, the blocks of a step side by
//! side.

use std::ops::Range;

use super::{
    adapter::Adapter,
    architecture::{Block, BlockKind, Role, Space, Weight},
    config::Config,
    delta_weights::{DeltaWeights, LayerCache},
    host::{HostBlock, HostLayer, HostLinear, HostNorm, HostStep},
    layer_spec::LayerSpec,
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    ops::{Bound, HeadSpan, Norm, Sequence},
};

/// A linear weight `[out, in]` on the GPU.
#[derive(Debug, Clone)]
pub struct Linear {
    /// The stored tensor that holds it.
    pub spec: &'static Weight,
    pub role: Role,
    pub weight: Matrix,
    pub bias: Option<Matrix>,
}

impl Linear {
    /// Uploads a weight in its stored type.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::BadTensor`], [`Error::Read`].
    pub fn upload(gpu: &Gpu, HostLinear { spec, role, matrix, bias }: &HostLinear) -> Result<Self> {
        let bias = bias.as_deref().map(|bias| upload_row(gpu, bias)).transpose()?;
        Ok(Self { spec, role: *role, weight: matrix.upload(gpu, 0..matrix.rows)?, bias })
    }
}

/// The parameters of a norm on the GPU: one row, or one for each head that has its own.
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
        let width = norm.weight.len() / norm.heads.max(1);
        let upload = |values: &Vec<f32>| gpu.upload(values, norm.heads, width);
        Ok(Self { weight: upload(&norm.weight)?, bias: norm.bias.as_ref().map(upload).transpose()? })
    }
}

impl NormWeights {
    /// The heads of `span`, of `head_dim` each, as what the norm takes for heads: one, where it spans all of them.
    pub(super) fn span(&self, span: HeadSpan, head_dim: usize) -> HeadSpan {
        HeadSpan { heads: span.heads * head_dim / self.weight.cols().max(1), ..span }
    }
}

fn upload_row(gpu: &Gpu, values: &[f32]) -> Result<Matrix> {
    gpu.upload(values, 1, values.len())
}

/// The weights of one block on the GPU.
#[derive(Debug, Clone)]
pub struct BlockWeights {
    pub spec: &'static Block,
    /// Whether the norm before it is in the weights: then it is an RMS norm without parameters.
    pub fused: bool,
    /// The norm before it; without parameters if `None`.
    pub norm: Option<NormWeights>,
    /// The norm of its result, where the row has one.
    pub norm_after: Option<NormWeights>,
    /// Of queries and keys.
    pub head_norms: Option<[NormWeights; 2]>,
    /// A logit of each query head that stands for no key.
    pub sinks: Option<Vec<f32>>,
    /// Of a gated delta net.
    pub delta: Option<DeltaWeights>,
    pub linears: Vec<Linear>,
    /// Of some of the linear weights.
    pub adapters: Vec<Adapter>,
}

impl BlockWeights {
    /// What is trained beside a linear weight.
    pub(super) fn adapter(&self, linear: &Linear) -> Option<&Adapter> {
        self.adapters.iter().find(|one| one.role == linear.role && one.spec.name == linear.spec.name)
    }

    fn upload(gpu: &Gpu, block: &HostBlock, fused: bool) -> Result<Self> {
        let linears = block.linears.iter().map(|linear| Linear::upload(gpu, linear)).collect::<Result<_>>()?;
        Ok(Self { linears, ..Self::without_linears(gpu, block, fused)? })
    }

    /// All but the linear weights.
    fn without_linears(gpu: &Gpu, block: &HostBlock, fused: bool) -> Result<Self> {
        let [norm, norm_after] = upload_norms(gpu, block)?;
        let head_norms = upload_head_norms(gpu, block)?;
        let delta = block.delta.as_ref().map(|delta| DeltaWeights::upload(gpu, delta)).transpose()?;
        let (sinks, linears, adapters) = (block.sinks.clone(), Vec::new(), Vec::new());
        Ok(Self { spec: block.spec, fused, norm, norm_after, head_norms, sinks, delta, linears, adapters })
    }

    /// The weight that writes the residual stream.
    pub(super) fn output(&self) -> Result<&Linear> {
        self.linears(false).next().ok_or_else(|| Error::shape("layer", "a block that writes nothing"))
    }

    /// Whether it is an MLP whose activations are multiplied by others.
    pub(super) fn gated(&self) -> bool {
        self.spec.kind == BlockKind::Mlp { gated: true }
    }

    /// The weights that read the residual stream, or those that write it.
    pub(super) fn linears(&self, reads: bool) -> impl Iterator<Item = &Linear> {
        self.linears.iter().filter(move |linear| (linear.spec.reads == Space::Residual) == reads)
    }
}

/// The norm before a block, and that of its result.
fn upload_norms(gpu: &Gpu, block: &HostBlock) -> Result<[Option<NormWeights>; 2]> {
    let upload = |norm: &Option<HostNorm>| norm.as_ref().map(|norm| NormWeights::upload(gpu, norm)).transpose();
    Ok([upload(&block.norm)?, upload(&block.norm_after)?])
}

fn upload_head_norms(gpu: &Gpu, block: &HostBlock) -> Result<Option<[NormWeights; 2]>> {
    Ok(match &block.head_norms {
        Some([q, k]) => Some([NormWeights::upload(gpu, q)?, NormWeights::upload(gpu, k)?]),
        None => None,
    })
}

/// The weights of a step of a layer on the GPU.
#[derive(Debug, Clone)]
pub struct StepWeights {
    pub blocks: Vec<BlockWeights>,
    /// `[width after, width before]`, what carries the residual past the step; the identity if `None`.
    pub shortcut: Option<Matrix>,
}

impl StepWeights {
    /// Uploads the weights of a step in their stored types, `fused` or not.
    ///
    /// # Errors
    /// As [`Linear::upload`].
    pub fn upload(gpu: &Gpu, step: &HostStep, fused: bool) -> Result<Self> {
        let blocks = step.blocks.iter().map(|block| BlockWeights::upload(gpu, block, fused)).collect::<Result<_>>()?;
        let shortcut = step.shortcut.as_ref().map(|matrix| matrix.upload(gpu, 0..matrix.rows)).transpose()?;
        Ok(Self { blocks, shortcut })
    }

    /// Fused weights that are on the GPU already, with the norms of queries and keys that `host` has.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn fused(gpu: &Gpu, host: &[HostBlock], linears: Vec<Linear>) -> Result<Self> {
        Self::of(gpu, host, linears, true)
    }

    /// Weights that are on the GPU already, `fused` or not, with the norms that `host` has.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn of(gpu: &Gpu, host: &[HostBlock], linears: Vec<Linear>, fused: bool) -> Result<Self> {
        let mut blocks = Vec::with_capacity(host.len());
        for block in host {
            let whole = BlockWeights::without_linears(gpu, block, fused)?;
            let norm = whole.norm.clone().filter(|_| !fused);
            blocks.push(BlockWeights { norm, ..whole });
        }
        let mut this = Self { blocks, shortcut: None };
        linears.into_iter().for_each(|linear| this.add(linear));
        Ok(this)
    }

    /// The mixture that the step is, if it is one.
    pub fn mixture(&self) -> Option<&BlockWeights> {
        self.blocks.iter().find(|block| block.spec.kind == BlockKind::Mixture)
    }

    /// Gives a weight to the block that it belongs to.
    pub fn add(&mut self, linear: Linear) {
        let of = |block: &&mut BlockWeights| block.spec.weights.iter().any(|weight| weight.name == linear.spec.name);
        if let Some(block) = self.blocks.iter_mut().find(of) {
            block.linears.push(linear);
        }
    }

    /// Takes all weights out, those that read the residual stream and those that write it.
    pub fn take_linears(&mut self) -> (Vec<Linear>, Vec<Linear>) {
        let all = self.blocks.iter_mut().flat_map(|block| block.linears.drain(..));
        all.partition(|linear| linear.spec.reads == Space::Residual)
    }
}

/// The weights of one layer on the GPU.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    pub steps: Vec<StepWeights>,
}

impl LayerWeights {
    /// Uploads a layer in its stored types, one matrix at a time.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::BadTensor`], [`Error::Read`].
    pub fn upload(gpu: &Gpu, layer: &HostLayer) -> Result<Self> {
        let steps = layer.steps.iter().map(|step| StepWeights::upload(gpu, step, layer.fused));
        Ok(Self { steps: steps.collect::<Result<_>>()? })
    }
}

/// What looks on while a step runs. Nothing that it is given may be kept beyond the call but as a copy.
pub trait Tap {
    /// What the weights of a block read: the normed residual `[tokens, width before]`.
    ///
    /// # Errors
    /// Whatever the implementation reports.
    fn reads(&mut self, _block: &Block, _normed: &Matrix) -> Result<()> {
        Ok(())
    }

    /// What the weights that write the residual read, of a run of tokens: of each block in turn the attention's result
    /// `[tokens, heads · head_dim]` or the MLP's inner activations `[tokens, intermediate_size]`.
    ///
    /// # Errors
    /// Whatever the implementation reports.
    fn inner(&mut self, _tokens: Range<usize>, _inner: &[Matrix]) -> Result<()> {
        Ok(())
    }

    /// What a run of tokens of a block becomes before the norm of its result, `[tokens, width after]`, where it has
    /// one.
    ///
    /// # Errors
    /// Whatever the implementation reports.
    fn written(&mut self, _tokens: Range<usize>, _result: &Matrix) -> Result<()> {
        Ok(())
    }
}

/// Looks at nothing.
pub struct NoTap;

impl Tap for NoTap {}

/// A tap of inner signals alone.
pub struct InnerTap<F>(pub F);

impl<F: FnMut(Range<usize>, &[Matrix]) -> Result<()>> Tap for InnerTap<F> {
    fn inner(&mut self, tokens: Range<usize>, inner: &[Matrix]) -> Result<()> {
        self.0(tokens, inner)
    }
}

/// What a layer needs to know beside its weights and its input.
#[derive(Clone, Copy)]
pub struct LayerContext<'a> {
    pub gpu: &'a Gpu,
    pub config: &'a Config,
    pub layer: usize,
    pub positions: &'a Matrix,
    /// As [`super::Model::rope_tables`] makes them.
    pub rope_tables: &'a [Matrix],
    pub sequences: &'a [Sequence],
    /// What is kept of earlier tokens, to be added to; `None` if the sequences are complete.
    pub cache: Option<&'a LayerCache>,
}

impl LayerContext<'_> {
    pub(super) fn spec(&self) -> &LayerSpec {
        &self.config.layers[self.layer]
    }

    /// The whole layer. Where there are no shortcuts, `x` itself becomes the result.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::OutOfMemory`].
    pub fn forward(&self, weights: &LayerWeights, x: Matrix) -> Result<Matrix> {
        weights.steps.iter().try_fold(x, |x, step| self.step(step, x, &mut NoTap))
    }

    /// One step: `y = x · shortcut + Σ norm(block(norm(x)))` with the norms that the row has, `x` `[tokens, width
    /// before]`, `y` `[tokens, width after]`.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::OutOfMemory`]; those of `tap`.
    pub fn step(&self, weights: &StepWeights, x: Matrix, tap: &mut dyn Tap) -> Result<Matrix> {
        let y = match &weights.shortcut {
            // In f32 whatever the precision: the residual has values that f16 cannot hold.
            Some(shortcut) => self.gpu.product(&x, shortcut)?,
            None => x.clone(),
        };
        // The result may share the memory of x: nothing is written there before all that reads it has been worked out.
        self.inner(weights, &x, &mut Writer { context: self, weights, residual: &y, tap })?;
        Ok(y)
    }

    /// What the weights that write the residual read, without writing it: `tap` gets it of some tokens at a time. `x`
    /// is `[tokens, width before]`; those of its tokens that were handed out are not read again.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::OutOfMemory`]; those of `tap`.
    pub fn inner(&self, weights: &StepWeights, x: &Matrix, tap: &mut dyn Tap) -> Result<()> {
        if weights.mixture().is_some() {
            return Err(Error::shape("layer", "a mixture goes through its experts one by one"));
        }
        let looks_back = |block: &BlockWeights| block.spec.kind.looks_back();
        // Attention looks at all tokens, an MLP at one.
        let mut attended = Vec::new();
        for block in weights.blocks.iter().filter(|block| looks_back(block)) {
            let normed = self.norm(block, x)?;
            tap.reads(block.spec, &normed)?;
            attended.push(match block.spec.kind {
                BlockKind::DeltaNet => self.delta_net(block, &normed)?,
                _ => self.attention(block, &normed)?,
            });
        }
        let rows = if weights.blocks.iter().all(looks_back) { x.rows().max(1) } else { self.mlp_rows() };
        for first in (0..x.rows()).step_by(rows) {
            let tokens = first..x.rows().min(first + rows);
            let mut inner = Vec::with_capacity(weights.blocks.len());
            let mut attended = attended.iter();
            for block in &weights.blocks {
                if looks_back(block) {
                    inner.extend(attended.next().map(|all| all.view(tokens.clone())).transpose()?);
                } else {
                    let normed = self.norm(block, &x.view(tokens.clone())?)?;
                    tap.reads(block.spec, &normed)?;
                    inner.push(self.hidden(block, &normed, tokens.start)?);
                }
            }
            tap.inner(tokens, &inner)?;
        }
        Ok(())
    }

    /// How many tokens the MLP takes at once: what one binding holds of its inner activations.
    pub(super) fn mlp_rows(&self) -> usize {
        self.gpu.rows_per_binding(2 * self.spec().intermediate_size.next_multiple_of(4) * 4)
    }

    /// What a block reads of `x` `[tokens, width before]`; where no norm is between them, that itself.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn norm(&self, block: &BlockWeights, x: &Matrix) -> Result<Matrix> {
        let config = self.config;
        if block.spec.norm.is_none() {
            return Ok(x.clone());
        }
        // Once fused, a layer norm is the RMS norm of a residual whose mean is already zero.
        let kind = if block.fused { Norm::Rms } else { config.architecture.norm.kind };
        let weight = block.norm.as_ref().map(|norm| &norm.weight);
        let bias = block.norm.as_ref().and_then(|norm| norm.bias.as_ref());
        self.gpu.norm(kind, x, weight, bias, config.hidden_size, config.norm_eps)
    }

    /// What the MLP's second linear layer reads, `[tokens, intermediate_size]`.
    fn hidden(&self, block: &BlockWeights, input: &Matrix, first: usize) -> Result<Matrix> {
        self.gpu.activation(self.config.activation, block.gated(), &self.projected(block, input, first)?)
    }

    /// What the weights of a block that read the residual make of it, side by side: queries, keys and values, or what a
    /// gated delta net has for these, `[tokens, qkv_width]`, or gate and up `[tokens, 2 · intermediate_size]`, or up
    /// alone. `first` is the number of the first token.
    pub(super) fn projected(&self, block: &BlockWeights, input: &Matrix, first: usize) -> Result<Matrix> {
        let all = self.gpu.unfilled(input.rows(), self.projected_width(block))?;
        for read in block.linears(true) {
            let column = self.projected_columns(block, read).start;
            self.gpu.linear_layer(input, &read.weight, read.bias.as_ref(), &all, column, false)?;
            if let Some(adapter) = block.adapter(read) {
                adapter.add(self.gpu, input, first, &all, column)?;
            }
        }
        if let Some(limit) = self.clip(block) {
            self.gpu.bound_in_place(Bound::Clip, &all, limit)?;
        }
        Ok(all)
    }

    /// Beyond which size queries, keys and values are clipped.
    pub(super) fn clip(&self, block: &BlockWeights) -> Option<f32> {
        self.spec().clip_qkv.filter(|_| block.spec.kind == BlockKind::Attention)
    }

    /// What a block makes of `inner`, which its last weight reads, before a norm of its result; `first` is the number
    /// of the first token.
    pub(super) fn result(&self, block: &BlockWeights, inner: &Matrix, first: usize) -> Result<Matrix> {
        let (gpu, output) = (self.gpu, block.output()?);
        let result = gpu.unfilled(inner.rows(), output.weight.rows())?;
        gpu.linear_layer(inner, &output.weight, output.bias.as_ref(), &result, 0, false)?;
        if let Some(adapter) = block.adapter(output) {
            adapter.add(gpu, inner, first, &result, 0)?;
        }
        Ok(result)
    }

    /// The norm of what a block has made, `[tokens, width after]`, with `weights` or without parameters.
    pub(super) fn normed_after(&self, weights: Option<&NormWeights>, result: &Matrix) -> Result<Matrix> {
        let (config, kind) = (self.config, self.config.architecture.norm.kind);
        let bias = weights.and_then(|norm| norm.bias.as_ref());
        self.gpu.norm(kind, result, weights.map(|norm| &norm.weight), bias, config.hidden_size, config.norm_eps)
    }

    fn projected_width(&self, block: &BlockWeights) -> usize {
        match block.spec.kind {
            BlockKind::Attention | BlockKind::DeltaNet => self.spec().qkv_width(),
            BlockKind::Mlp { gated } => self.spec().intermediate_size * if gated { 2 } else { 1 },
            BlockKind::Mixture => 2 * self.spec().intermediate_size,
        }
    }

    /// Where the result of a weight lies in [`Self::projected`].
    pub(super) fn projected_columns(&self, block: &BlockWeights, read: &Linear) -> Range<usize> {
        let spec = self.spec();
        let shape = spec.attention_shape();
        let first = match (read.role, spec.delta) {
            (Role::Key, _) => shape.k.column,
            (Role::Value, _) => shape.v.column,
            (Role::OutputGate, None) => spec.gate_column(),
            (Role::OutputGate, Some(delta)) => delta.gate_column(),
            (Role::Beta, Some(delta)) => delta.beta_column(),
            (Role::Decay, Some(delta)) => delta.decay_column(),
            (Role::Up, _) if block.gated() => spec.intermediate_size,
            _ => 0,
        };
        first..first + read.weight.rows()
    }
}

/// Adds what the blocks of a step have computed to the residual.
struct Writer<'w> {
    context: &'w LayerContext<'w>,
    weights: &'w StepWeights,
    residual: &'w Matrix,
    tap: &'w mut dyn Tap,
}

impl Tap for Writer<'_> {
    fn reads(&mut self, block: &Block, normed: &Matrix) -> Result<()> {
        self.tap.reads(block, normed)
    }

    fn inner(&mut self, tokens: Range<usize>, inner: &[Matrix]) -> Result<()> {
        self.tap.inner(tokens.clone(), inner)?;
        let (gpu, first) = (self.context.gpu, tokens.start);
        let residual = self.residual.view(tokens.clone())?;
        for (block, values) in self.weights.blocks.iter().zip(inner) {
            let output = block.output()?;
            if block.spec.norm_after.is_none() {
                gpu.linear_layer(values, &output.weight, output.bias.as_ref(), &residual, 0, true)?;
                if let Some(adapter) = block.adapter(output) {
                    adapter.add(gpu, values, first, &residual, 0)?;
                }
                continue;
            }
            let result = self.context.result(block, values, first)?;
            self.tap.written(tokens.clone(), &result)?;
            gpu.subtract(&residual, &self.context.normed_after(block.norm_after.as_ref(), &result)?, -1.0)?;
        }
        Ok(())
    }
}
