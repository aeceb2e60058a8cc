//! The backward pass of one step of a layer: the forward upside down. What the forward has worked out inside of a step
//! is worked out again; only what lies between steps is kept.

use std::ops::Range;

use super::{
    architecture::{Block, BlockKind, Role, Weight},
    layer::{BlockWeights, LayerContext, Linear, NormWeights, StepWeights},
    places::PlaceSums,
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    ops::{Bound, COVARIANCE_TOKENS, Gate, HeadSpan, Norm, NormInput},
};

/// Sums over tokens of the gradients of a weight and of its bias, in the shapes of these, in f32.
#[derive(Debug, Clone, Default)]
pub struct AffineGradients {
    pub weight: Option<Matrix>,
    pub bias: Option<Matrix>,
}

/// The gradients of a linear weight `[out, in]` and its bias `[1, out]`.
#[derive(Debug, Clone)]
pub struct LinearGradients {
    /// The stored tensor that holds it.
    pub spec: &'static Weight,
    pub role: Role,
    pub affine: AffineGradients,
    /// Of A and B, where the weight has an adapter: then it has no gradient of its own.
    pub low_rank: [Option<Matrix>; 2],
}

/// Which gradients are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Of linear weights without an adapter, and of shortcuts.
    pub weights: bool,
    pub biases: bool,
    /// Of norms.
    pub norms: bool,
    /// Second moments of those of what blocks make, by direction and by place.
    pub results: bool,
}

impl Wanted {
    /// All of them.
    pub const ALL: Self = Self { weights: true, biases: true, norms: true, results: false };
    /// Those of adapters alone.
    pub const ADAPTERS: Self = Self { weights: false, biases: false, norms: false, results: false };
    /// Of what blocks make alone.
    pub const RESULTS: Self = Self { results: true, ..Self::ADAPTERS };
}

/// The gradients of the parameters of a block.
#[derive(Debug, Clone)]
pub struct BlockGradients {
    pub spec: &'static Block,
    /// Of the norm before it.
    pub norm: AffineGradients,
    /// Of the norm of its result.
    pub norm_after: AffineGradients,
    /// Of the norms of queries and keys, head by head: `[1, heads · head_dim]`, to be added up over heads that share
    /// their weights.
    pub head_norms: [AffineGradients; 2],
    pub linears: Vec<LinearGradients>,
    /// Σ d·dᵀ over tokens of the gradient d of what the block makes, before the norm of that, `[hidden_size,
    /// hidden_size]`, of which the upper triangle means something.
    pub result: Option<Matrix>,
}

/// The gradients of the parameters of a step, sums over the tokens of all batches so far.
#[derive(Debug, Clone)]
pub struct StepGradients {
    pub blocks: Vec<BlockGradients>,
    /// Of the shortcut, as the forward pass has it: `[width after, width before]`.
    pub shortcut: Option<Matrix>,
    /// Σ‖d‖²·ms(y) over the tokens of each kind of place, d the gradient of the residual y after the step: what an
    /// error as large as a share of y does, to second order. Without ms(y) where a norm comes after a block, which
    /// makes what comes before it as large as any other. Nothing where results are not wanted.
    pub places: PlaceSums,
    pub wanted: Wanted,
}

impl StepGradients {
    /// No tokens yet.
    pub fn new(weights: &StepWeights, wanted: Wanted) -> Self {
        let none = |linear: &Linear| LinearGradients {
            spec: linear.spec,
            role: linear.role,
            affine: AffineGradients::default(),
            low_rank: Default::default(),
        };
        let block = |block: &BlockWeights| BlockGradients {
            spec: block.spec,
            norm: AffineGradients::default(),
            norm_after: AffineGradients::default(),
            head_norms: Default::default(),
            linears: block.linears.iter().map(none).collect(),
            result: None,
        };
        Self {
            blocks: weights.blocks.iter().map(block).collect(),
            shortcut: None,
            places: PlaceSums::default(),
            wanted,
        }
    }
}

/// Adds `factor` times a part to a sum that may have none yet.
pub(super) fn add(gpu: &Gpu, sum: &mut Option<Matrix>, part: Matrix, factor: f32) -> Result<()> {
    match sum {
        None if factor == 1.0 => *sum = Some(part),
        None => {
            let scaled = gpu.zeros(part.rows(), part.cols())?;
            gpu.subtract(&scaled, &part, -factor)?;
            *sum = Some(scaled);
        }
        Some(sum) => gpu.subtract(sum, &part, -factor)?,
    }
    Ok(())
}

/// Adds the sums over tokens of some columns of `d`, each times `by` where that is given.
pub(super) fn add_sums(
    gpu: &Gpu,
    sum: &mut Option<Matrix>,
    d: &Matrix,
    by: Option<&Matrix>,
    columns: Range<usize>,
) -> Result<()> {
    let begun = sum.is_some();
    let sums = match sum.take() {
        Some(sums) => sums,
        None => gpu.unfilled(1, columns.len())?,
    };
    gpu.column_sums(d, by, columns, &sums, begun)?;
    *sum = Some(sums);
    Ok(())
}

impl AffineGradients {
    /// These times a factor each.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn scaled(self, gpu: &Gpu, weight: f32, bias: f32) -> Result<Self> {
        let scaled = |part: Option<Matrix>, factor| {
            let mut sum = None;
            part.map_or(Ok(()), |part| add(gpu, &mut sum, part, factor)).map(|()| sum)
        };
        Ok(Self { weight: scaled(self.weight, weight)?, bias: scaled(self.bias, bias)? })
    }

    /// Adds those of a norm with these parameters: of what it made, `d`, and of the values that it multiplied, `n`.
    pub(super) fn add_norm(&mut self, gpu: &Gpu, norm: &NormWeights, d: &Matrix, n: &Matrix) -> Result<()> {
        add_sums(gpu, &mut self.weight, d, Some(n), 0..d.cols())?;
        if norm.bias.is_some() {
            add_sums(gpu, &mut self.bias, d, None, 0..d.cols())?;
        }
        Ok(())
    }
}

/// What the weights of a block that read the residual have read.
pub(super) struct Read<'a> {
    pub x: &'a Matrix,
    /// Its norm.
    pub input: &'a Matrix,
}

/// The gradients of a block so far, and which of them are wanted.
pub(super) struct Sums<'a> {
    pub block: &'a mut BlockGradients,
    pub wanted: Wanted,
}

impl LayerContext<'_> {
    /// One step backward: from the gradient `d` `[tokens, width after]` of the result of [`LayerContext::step`], that
    /// of `x` `[tokens, width before]`. Adds the gradients of the step's parameters to `gradients`, which was made of
    /// the same weights. Sequences are whole.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::OutOfMemory`].
    pub fn step_backward(
        &self,
        weights: &StepWeights,
        x: &Matrix,
        d: &Matrix,
        gradients: &mut StepGradients,
    ) -> Result<Matrix> {
        if self.cache.is_some() || weights.blocks.len() != gradients.blocks.len() {
            return Err(Error::shape("step_backward", "sequences with a cache, or gradients of another step"));
        }
        let dx = self.gpu.zeros(x.rows(), x.cols())?;
        let wanted = gradients.wanted;
        for (block, sums) in weights.blocks.iter().zip(&mut gradients.blocks) {
            let sums = &mut Sums { block: sums, wanted };
            match block.spec.kind {
                BlockKind::Attention => self.attention_backward(block, x, d, &dx, sums)?,
                BlockKind::Mixture => {
                    return Err(Error::shape("step_backward", "a mixture goes through its experts one by one"));
                }
                BlockKind::DeltaNet => self.delta_net_backward(block, x, d, &dx, sums)?,
                BlockKind::Mlp { .. } => {
                    let rows = self.mlp_rows();
                    for first in (0..x.rows()).step_by(rows) {
                        let tokens = first..x.rows().min(first + rows);
                        let [x, d, dx] = [x.view(tokens.clone())?, d.view(tokens.clone())?, dx.view(tokens)?];
                        self.mlp_backward(block, first, &x, &d, &dx, sums)?;
                    }
                }
            }
        }
        match &weights.shortcut {
            Some(shortcut) => {
                self.gpu.linear_backward(d, 0..d.cols(), shortcut, &dx, true)?;
                if wanted.weights {
                    let part = self.gpu.linear_weight_backward(d, 0..d.cols(), x)?;
                    add(self.gpu, &mut gradients.shortcut, part, 1.0)?;
                }
            }
            None => self.gpu.subtract(&dx, d, -1.0)?,
        }
        Ok(dx)
    }

    /// `first` is the number of the first token.
    fn mlp_backward(
        &self,
        block: &BlockWeights,
        first: usize,
        x: &Matrix,
        d: &Matrix,
        dx: &Matrix,
        sums: &mut Sums,
    ) -> Result<()> {
        let (gpu, gated) = (self.gpu, block.gated());
        let input = self.norm(block, x)?;
        let inner = self.projected(block, &input, first)?;
        let hidden = gpu.activation(self.config.activation, gated, &inner)?;
        let d = self.output_backward(block, first, &hidden, d, sums)?;
        drop(hidden);
        let d = gpu.activation_backward(self.config.activation, gated, &inner, &d)?;
        drop(inner);
        self.reads_backward(block, first, Read { x, input: &input }, &d, dx, sums)
    }

    fn attention_backward(
        &self,
        block: &BlockWeights,
        x: &Matrix,
        d: &Matrix,
        dx: &Matrix,
        sums: &mut Sums,
    ) -> Result<()> {
        let (gpu, spec) = (self.gpu, self.spec());
        let shape = spec.attention_shape();
        let input = self.norm(block, x)?;
        let qkv = self.projected(block, &input, 0)?;
        // What the norms of queries and keys read is needed again, and what was clipped.
        let clip = self.clip(block);
        let raw = (block.head_norms.is_some() || clip.is_some()).then(|| gpu.columns(&qkv, 0..qkv.cols()));
        let raw = raw.transpose()?;
        self.place_in_place(block, &qkv)?;
        let sinks = block.sinks.as_deref().unwrap_or_default();
        let out = gpu.attention_with_sinks(&shape, sinks, &qkv, &qkv, self.sequences)?;
        let gate = spec.output_gate.then(|| spec.gate_column());
        let inner = match gate {
            None => out.clone(),
            Some(column) => {
                let gated = gpu.columns(&out, 0..out.cols())?;
                gpu.gate_in_place(Gate::Sigmoid, &gated, &qkv, column)?;
                gated
            }
        };
        let d_out = self.output_backward(block, 0, &inner, d, sums)?;
        drop(inner);
        let d = gpu.zeros(qkv.rows(), qkv.cols())?;
        if let Some(column) = gate {
            gpu.gate_backward_in_place(Gate::Sigmoid, &out, (&qkv, &d), column, &d_out)?;
        }
        drop(out);
        gpu.attention_backward_into((&shape, sinks), &qkv, &d_out, self.sequences, &d)?;
        drop((qkv, d_out));
        if let Some((span, table)) = self.turned() {
            gpu.rope_backward_in_place(&d, span, spec.head_dim, self.positions, table)?;
        }
        if let (Some(norms), Some(raw)) = (&block.head_norms, &raw) {
            for ((span, norm), head_sums) in [shape.q, shape.k].into_iter().zip(norms).zip(&mut sums.block.head_norms) {
                let (span, head_sums) = (norm.span(span, spec.head_dim), sums.wanted.norms.then_some(head_sums));
                self.head_norm_backward(span, norm, raw, &d, head_sums)?;
            }
        }
        if let (Some(limit), Some(raw)) = (clip, &raw) {
            gpu.bound_backward_in_place(Bound::Clip, raw, limit, &d)?;
        }
        self.reads_backward(block, 0, Read { x, input: &input }, &d, dx, sums)
    }

    /// The gradient of heads before their norm, in place of that after it in `d`.
    fn head_norm_backward(
        &self,
        span: HeadSpan,
        norm: &NormWeights,
        raw: &Matrix,
        d: &Matrix,
        sums: Option<&mut AffineGradients>,
    ) -> Result<()> {
        let Some(qk) = self.config.qk_norm() else { return Ok(()) };
        let (gpu, eps, head_dim) = (self.gpu, self.config.head_norm_eps, norm.weight.cols());
        let columns = span.column..span.end(head_dim);
        if let Some(sums) = sums {
            // Without parameters, what the weight multiplied.
            let n = gpu.columns(raw, columns.clone())?;
            let ones = gpu.upload(&vec![1.0; head_dim], 1, head_dim)?;
            gpu.head_norm(qk.norm, &n, HeadSpan { column: 0, heads: span.heads }, &ones, None, eps)?;
            sums.add_norm(gpu, norm, &gpu.columns(d, columns)?, &n)?;
        }
        gpu.head_norm_backward_in_place(qk.norm, raw, span, &norm.weight, eps, d)
    }

    /// The gradient of what the weight that writes the residual has read, `inner`, from that of the residual.
    pub(super) fn output_backward(
        &self,
        block: &BlockWeights,
        first: usize,
        inner: &Matrix,
        d: &Matrix,
        sums: &mut Sums,
    ) -> Result<Matrix> {
        let output = block.output()?;
        let d_inner = self.gpu.unfilled(inner.rows(), inner.cols())?;
        let d = &match block.spec.norm_after {
            Some(_) => self.norm_after_backward(block, first, inner, d, sums)?,
            None => d.clone(),
        };
        if sums.wanted.results {
            for first in (0..d.rows()).step_by(COVARIANCE_TOKENS) {
                let part = self.gpu.covariance(&d.view(first..d.rows().min(first + COVARIANCE_TOKENS))?)?;
                add(self.gpu, &mut sums.block.result, part, 1.0)?;
            }
        }
        self.gpu.linear_backward(d, 0..d.cols(), &output.weight, &d_inner, false)?;
        self.add_linear((block, output), first, inner, (d, 0..d.cols()), &d_inner, sums)?;
        Ok(d_inner)
    }

    /// The gradient of a block's result before the norm of that, from that of the residual.
    fn norm_after_backward(
        &self,
        block: &BlockWeights,
        first: usize,
        inner: &Matrix,
        d: &Matrix,
        sums: &mut Sums,
    ) -> Result<Matrix> {
        let (gpu, config) = (self.gpu, self.config);
        let result = self.result(block, inner, first)?;
        if let (Some(norm), true) = (&block.norm_after, sums.wanted.norms) {
            sums.block.norm_after.add_norm(gpu, norm, d, &self.normed_after(None, &result)?)?;
        }
        let before = gpu.unfilled(d.rows(), d.cols())?;
        let norm = NormInput {
            kind: config.architecture.norm.kind,
            x: &result,
            weight: block.norm_after.as_ref().map(|norm| &norm.weight),
            norm_width: config.hidden_size,
            eps: config.norm_eps,
        };
        gpu.norm_backward(norm, d, &before, false)?;
        Ok(before)
    }

    /// Adds the gradient of the residual that a block has read, `x`, to `dx`, from that of all that its weights made of
    /// `input`, the norm of `x`.
    pub(super) fn reads_backward(
        &self,
        block: &BlockWeights,
        first: usize,
        Read { x, input }: Read,
        d: &Matrix,
        dx: &Matrix,
        sums: &mut Sums,
    ) -> Result<()> {
        let gpu = self.gpu;
        let d_input = gpu.unfilled(x.rows(), x.cols())?;
        for (index, read) in block.linears(true).enumerate() {
            let columns = self.projected_columns(block, read);
            gpu.linear_backward(d, columns.clone(), &read.weight, &d_input, index > 0)?;
            self.add_linear((block, read), first, input, (d, columns), &d_input, sums)?;
        }
        self.norm_backward(block, x, &d_input, dx, sums)
    }

    /// Adds the gradient of the residual that a block has read, `x`, to `dx`, from that of its norm.
    pub(super) fn norm_backward(
        &self,
        block: &BlockWeights,
        x: &Matrix,
        d_input: &Matrix,
        dx: &Matrix,
        sums: &mut Sums,
    ) -> Result<()> {
        let (gpu, config) = (self.gpu, self.config);
        if block.spec.norm.is_none() {
            return gpu.subtract(dx, d_input, -1.0);
        }
        let kind = if block.fused { Norm::Rms } else { config.architecture.norm.kind };
        if let (Some(norm), true) = (&block.norm, sums.wanted.norms) {
            let n = gpu.norm(kind, x, None, None, config.hidden_size, config.norm_eps)?;
            sums.block.norm.add_norm(gpu, norm, d_input, &n)?;
        }
        let weight = block.norm.as_ref().map(|norm| &norm.weight);
        let norm = NormInput { kind, x, weight, norm_width: config.hidden_size, eps: config.norm_eps };
        gpu.norm_backward(norm, d_input, dx, true)
    }

    /// Adds the gradients of a linear weight that has read `x` and made what has the gradient `d[:, columns]`; and to
    /// that of `x`, `dx`, what comes of an adapter that is not in the weight.
    pub(super) fn add_linear(
        &self,
        (block, linear): (&BlockWeights, &Linear),
        first: usize,
        x: &Matrix,
        (d, columns): (&Matrix, Range<usize>),
        dx: &Matrix,
        sums: &mut Sums,
    ) -> Result<()> {
        let (gpu, wanted) = (self.gpu, sums.wanted);
        let mut linears = sums.block.linears.iter_mut();
        let sums = linears.find(|one| one.role == linear.role && one.spec.name == linear.spec.name);
        let sums = sums.ok_or_else(|| Error::shape("step_backward", "gradients of another step"))?;
        if linear.bias.is_some() && wanted.biases {
            add_sums(gpu, &mut sums.affine.bias, d, None, columns.clone())?;
        }
        let Some(adapter) = block.adapter(linear) else {
            if wanted.weights {
                let part = gpu.linear_weight_backward(d, columns, x)?;
                add(gpu, &mut sums.affine.weight, part, 1.0)?;
            }
            return Ok(());
        };
        // Through the low rank both ways: dA = s·(d·B)ᵀ·x and dB = s·dᵀ·(x·Aᵀ), without the gradient of the whole.
        let (input, scale) = adapter.input(gpu, x, first)?;
        let rank = adapter.a.rows();
        let d_low = gpu.unfilled(x.rows(), rank)?;
        gpu.linear_backward(d, columns.clone(), &adapter.b, &d_low, false)?;
        let low = gpu.product(&input, &adapter.a)?;
        let [da, db] = &mut sums.low_rank;
        add(gpu, da, gpu.linear_weight_backward(&d_low, 0..rank, &input)?, scale)?;
        add(gpu, db, gpu.linear_weight_backward(d, columns, &low)?, scale)?;
        if let Some(dropout) = adapter.dropout {
            let through = gpu.unfilled(x.rows(), x.cols())?;
            gpu.linear_backward(&d_low, 0..rank, &adapter.a, &through, false)?;
            gpu.dropout(dropout, first, &through, dx, true)?;
        }
        Ok(())
    }
}
