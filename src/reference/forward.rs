//! The whole forward pass of any architecture, one sequence at a time.

use nalgebra::DMatrix;

use super::{delta_net, kernels, mixture, scores};
use crate::{
    error::{Error, Result},
    model::{
        Config, HostBlock, HostDeltaNet, HostEnds, HostLayer, HostLinear, HostMatrix, HostNorm, HostStep, WeightStore,
        architecture::{BlockKind, Position, Role},
        fuse,
    },
    ops::{Bound, DeltaRun, Gate, HeadSpan, Norm, Sequence},
};

/// A weight and a bias: of a linear layer `[out, in]`, or of a norm `[1, width]`, `[heads, head_dim]` where each head
/// has its own.
#[derive(Debug, Clone)]
pub struct Affine {
    pub weight: DMatrix<f64>,
    pub bias: Option<Vec<f64>>,
}

impl Affine {
    fn norm(norm: &HostNorm) -> Self {
        let width = norm.weight.len() / norm.heads;
        Self { weight: kernels::matrix(norm.heads, width, &norm.weight), bias: norm.bias.as_deref().map(wide) }
    }

    pub(super) fn apply(&self, x: &DMatrix<f64>) -> DMatrix<f64> {
        kernels::linear(x, &self.weight, self.bias.as_deref())
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn host(matrix: &HostMatrix) -> Result<DMatrix<f64>> {
    Ok(kernels::matrix(matrix.rows, matrix.cols, &matrix.to_f32()?))
}

/// The weights of one block.
#[derive(Debug, Clone)]
pub struct Block {
    pub(super) kind: BlockKind,
    pub linears: Vec<(Role, Affine)>,
    /// Whether it reads the residual through a norm.
    has_norm: bool,
    norm: Option<Affine>,
    /// Whether its result goes through a norm.
    pub(super) has_norm_after: bool,
    norm_after: Option<Affine>,
    head_norms: Option<[Affine; 2]>,
    /// One of each head, that has no value; none without.
    sinks: Vec<f64>,
    delta: Option<HostDeltaNet>,
    /// Of a mixture, those that the router chooses from, and after them the one that every token goes to.
    pub experts: Vec<Expert>,
}

/// An expert of a mixture.
#[derive(Debug, Clone)]
pub struct Expert {
    pub linears: Vec<(Role, Affine)>,
    /// `[1, width]`, where every token goes to it, as much as the sigmoid of this product says.
    pub gate: Option<Affine>,
}

impl Expert {
    fn new(linears: &[HostLinear], gate: Option<&HostLinear>) -> Result<Self> {
        let affine = |linear: &HostLinear| -> Result<Affine> {
            Ok(Affine { weight: host(&linear.matrix)?, bias: linear.bias.as_deref().map(wide) })
        };
        let linears = linears.iter().map(|linear| Ok((linear.role, affine(linear)?))).collect::<Result<_>>()?;
        Ok(Self { linears, gate: gate.map(affine).transpose()? })
    }

    /// What writes the residual.
    pub(super) fn down(&self) -> &Affine {
        &self.linears.iter().find(|(role, _)| *role == Role::Down).expect("an expert that writes").1
    }
}

impl Block {
    fn role(&self, role: Role) -> Option<&Affine> {
        self.linears.iter().find(|(held, _)| *held == role).map(|(_, affine)| affine)
    }

    pub(super) fn output(&self) -> Result<&Affine> {
        let output = self.role(Role::Output).or(self.role(Role::Down));
        output.ok_or_else(|| Error::shape("reference", "a block that writes nothing"))
    }
}

/// The weights of a step of a layer.
#[derive(Debug, Clone)]
pub struct Step {
    pub blocks: Vec<Block>,
    /// `[width before, width after]`.
    pub shortcut: Option<DMatrix<f64>>,
}

impl Step {
    fn new(step: &HostStep) -> Result<Self> {
        let linear = |linear: &HostLinear| {
            let bias = linear.bias.as_deref().map(wide);
            Ok((linear.role, Affine { weight: host(&linear.matrix)?, bias }))
        };
        let blocks = step.blocks.iter().map(|block| {
            Ok(Block {
                kind: block.spec.kind,
                linears: block.linears.iter().map(linear).collect::<Result<_>>()?,
                has_norm: block.spec.norm.is_some(),
                norm: block.norm.as_ref().map(Affine::norm),
                has_norm_after: block.spec.norm_after.is_some(),
                norm_after: block.norm_after.as_ref().map(Affine::norm),
                head_norms: block.head_norms.as_ref().map(|norms| [0, 1].map(|i| Affine::norm(&norms[i]))),
                sinks: wide(block.sinks.as_deref().unwrap_or_default()),
                delta: block.delta.clone(),
                experts: Vec::new(),
            })
        });
        let shortcut =
            step.shortcut.as_ref().map(|shortcut| Ok::<_, Error>(host(shortcut)?.transpose())).transpose()?;
        Ok(Self { blocks: blocks.collect::<Result<_>>()?, shortcut })
    }

    /// The linear weights that read the residual stream, or those that write it.
    pub fn linears_mut(&mut self, reads: bool) -> impl Iterator<Item = &mut Affine> {
        let all = self.blocks.iter_mut().flat_map(|Block { linears, experts, .. }| {
            linears.iter_mut().chain(experts.iter_mut().flat_map(|expert| &mut expert.linears))
        });
        let chosen = all.filter(move |(role, _)| matches!(role, Role::Output | Role::Down) != reads);
        chosen.map(|(_, affine)| affine)
    }
}

/// The weights of a decoder layer, step by step.
#[derive(Debug, Clone)]
pub struct Layer {
    pub steps: Vec<Step>,
}

impl Layer {
    /// Widens a layer.
    ///
    /// # Errors
    /// [`Error::BadTensor`] if a stored value is not finite.
    pub fn new(layer: &HostLayer) -> Result<Self> {
        Ok(Self { steps: layer.steps.iter().map(Step::new).collect::<Result<_>>()? })
    }
}

/// A whole model in f64.
#[derive(Debug, Clone)]
pub struct Network<'a> {
    pub config: &'a Config,
    /// Whether the norms are in the weights.
    pub fused: bool,
    pub layers: Vec<Layer>,
    pub embedding: DMatrix<f64>,
    pub positions: Option<DMatrix<f64>>,
    pub(super) final_norm: Option<Affine>,
    pub head: Affine,
}

/// The logits `[tokens, vocab_size]` of one sequence, of a dense or a sliced checkpoint.
///
/// # Errors
/// [`Error::BadTensor`] if a stored value is not finite.
pub fn logits(store: &WeightStore, row: &[u32]) -> Result<DMatrix<f64>> {
    Network::load(store)?.logits(row)
}

impl<'a> Network<'a> {
    /// Widens the weights of a model.
    ///
    /// # Errors
    /// [`Error::BadTensor`] if a stored value is not finite.
    pub fn new(config: &'a Config, layers: &[HostLayer], ends: &HostEnds) -> Result<Self> {
        Ok(Self {
            config,
            fused: ends.fused,
            layers: layers.iter().map(Layer::new).collect::<Result<_>>()?,
            embedding: host(&ends.embedding)?,
            positions: ends.positions.as_ref().map(host).transpose()?,
            final_norm: ends.final_norm.as_ref().map(Affine::norm),
            head: Affine { weight: host(&ends.head)?, bias: ends.head_bias.as_deref().map(wide) },
        })
    }

    /// The model as it is stored.
    ///
    /// # Errors
    /// [`Error::BadTensor`] if a stored value is not finite.
    pub fn load(store: &'a WeightStore) -> Result<Self> {
        let layers = (0..store.config.layers.len()).map(|layer| store.layer(layer)).collect::<Result<Vec<_>>>()?;
        Self::new(&store.config, &layers, &store.ends()?)?.with_experts(store, |_, linear| linear.widened())
    }

    /// The same with the experts of its mixtures, whose weights are what `map` makes of those of the block.
    fn with_experts(
        mut self,
        store: &WeightStore,
        map: impl Fn(&HostBlock, &HostLinear) -> Result<HostLinear<'static>>,
    ) -> Result<Self> {
        for (layer, spec) in store.config.layers.iter().enumerate() {
            let Some(experts) = spec.experts else { continue };
            let stored = store.layer(layer)?;
            let (mut blocks, host) =
                (self.layers[layer].steps.iter_mut().flat_map(|step| &mut step.blocks), stored.blocks());
            let Some((block, host)) = blocks.by_ref().zip(host).find(|(block, _)| block.kind == BlockKind::Mixture)
            else {
                continue;
            };
            let mapped = |linears: &[HostLinear]| linears.iter().map(|one| map(host, one)).collect::<Result<Vec<_>>>();
            for expert in 0..experts.count {
                block.experts.push(Expert::new(&mapped(&store.expert(layer, expert)?)?, None)?);
            }
            if let Some((gate, linears)) = mapped(&store.shared_expert(layer)?)?.split_last() {
                block.experts.push(Expert::new(linears, Some(gate))?);
            }
        }
        Ok(self)
    }

    /// The dense model with its norms in its weights (in f32, as slicing has them).
    ///
    /// # Errors
    /// As [`Network::load`].
    pub fn load_fused(store: &'a WeightStore) -> Result<Self> {
        let config = &store.config;
        let layers = (0..config.layers.len())
            .map(|layer| fuse::layer(config, &store.layer(layer)?))
            .collect::<Result<Vec<_>>>()?;
        let ends = store.ends()?;
        let embedding = |table: &HostMatrix| {
            Ok::<_, Error>(HostMatrix::from_f32(
                table.rows,
                table.cols,
                fuse::embedding_rows(config, table, 0..table.rows)?,
            ))
        };
        let (head, head_bias) = fuse::head_rows(&ends, 0..ends.head.rows)?;
        let fused = HostEnds {
            fused: true,
            embedding: embedding(&ends.embedding)?,
            positions: ends.positions.as_ref().map(embedding).transpose()?,
            final_norm: None,
            logit_softcap: ends.logit_softcap,
            head: HostMatrix::from_f32(ends.head.rows, ends.head.cols, head),
            head_bias,
        };
        Self::new(config, &layers, &fused)?.with_experts(store, |block, linear| fuse::linear(config, block, linear))
    }

    /// The logits `[tokens, vocab_size]` of one sequence.
    ///
    /// # Errors
    /// [`Error::Shape`] if a weight is missing.
    pub fn logits(&self, row: &[u32]) -> Result<DMatrix<f64>> {
        let x = (0..self.layers.len()).try_fold(self.embed(row), |x, layer| self.layer(layer, &x))?;
        Ok(self.read_out(&x))
    }

    /// The logits of the residual after the last layer.
    pub fn read_out(&self, x: &DMatrix<f64>) -> DMatrix<f64> {
        let logits = self.head.apply(&self.norm(self.final_norm.as_ref(), x));
        match self.config.logit_softcap {
            Some(limit) => scores::bound(Bound::SoftCap, &logits, f64::from(limit)),
            None => logits,
        }
    }

    /// exp of the mean over the rows of their mean negative log-likelihood.
    ///
    /// # Errors
    /// As [`Network::logits`].
    pub fn perplexity(&self, rows: &[Vec<u32>]) -> Result<f64> {
        let mut sum = 0.0;
        for row in rows {
            let predicted = row.len() - 1;
            let losses = kernels::loss(&self.logits(row)?.rows(0, predicted).into_owned(), &row[1..]);
            sum += losses.iter().sum::<f64>() / predicted as f64;
        }
        Ok((sum / rows.len() as f64).exp())
    }

    /// The residual before the first layer.
    pub fn embed(&self, row: &[u32]) -> DMatrix<f64> {
        let x = kernels::embed(row, &self.embedding);
        match (&self.positions, self.config.architecture.attention.position) {
            (Some(table), Position::Learned { offset, .. }) => {
                x + kernels::embed_positions(&(0..row.len() as u32).collect::<Vec<_>>(), offset, table)
            }
            _ => x,
        }
    }

    /// The residual after a layer.
    ///
    /// # Errors
    /// As [`Network::logits`].
    pub fn layer(&self, index: usize, x: &DMatrix<f64>) -> Result<DMatrix<f64>> {
        (0..self.layers[index].steps.len()).try_fold(x.clone(), |x, step| self.step(index, step, &x))
    }

    /// The residual after a step of a layer: `x · shortcut + Σ norm(block(norm(x)))`, with the norms that there are.
    ///
    /// # Errors
    /// As [`Network::logits`].
    pub fn step(&self, layer: usize, step: usize, x: &DMatrix<f64>) -> Result<DMatrix<f64>> {
        let weights = &self.layers[layer].steps[step];
        let carried = weights.shortcut.as_ref().map_or_else(|| x.clone(), |shortcut| x * shortcut);
        let add = |sum: DMatrix<f64>, block: &Block| {
            if block.kind == BlockKind::Mixture {
                return Ok(sum + self.mixed(layer, block, x));
            }
            let result = block.output()?.apply(&self.inner(layer, block, x));
            Ok(if block.has_norm_after { sum + self.norm_after(block, &result) } else { sum + result })
        };
        weights.blocks.iter().try_fold(carried, add)
    }

    /// What the weight that writes the residual reads.
    pub(super) fn inner(&self, layer: usize, block: &Block, x: &DMatrix<f64>) -> DMatrix<f64> {
        match block.kind {
            BlockKind::Attention => self.attended(layer, block, x),
            BlockKind::Mlp { gated } => self.hidden(block, gated, x),
            BlockKind::DeltaNet => self.recalled(block, x),
            BlockKind::Mixture => panic!("each expert of a mixture has inner signals of its own"),
        }
    }

    /// A norm's scaling of `x`, without parameters where they are in the weights.
    pub(super) fn norm(&self, parameters: Option<&Affine>, x: &DMatrix<f64>) -> DMatrix<f64> {
        let kind = if self.fused { Norm::Rms } else { self.config.architecture.norm.kind };
        let weight = parameters.map(|norm| norm.weight.as_slice());
        let bias = parameters.and_then(|norm| norm.bias.as_deref());
        kernels::norm(kind, x, weight, bias, self.config.hidden_size, f64::from(self.config.norm_eps))
    }

    /// The norm of a block's result, which nothing has been fused into.
    pub(super) fn norm_after(&self, block: &Block, result: &DMatrix<f64>) -> DMatrix<f64> {
        let weight = block.norm_after.as_ref().map(|norm| norm.weight.as_slice());
        let bias = block.norm_after.as_ref().and_then(|norm| norm.bias.as_deref());
        let (kind, eps) = (self.config.architecture.norm.kind, f64::from(self.config.norm_eps));
        kernels::norm(kind, result, weight, bias, self.config.hidden_size, eps)
    }

    /// What a block reads.
    fn read(&self, block: &Block, x: &DMatrix<f64>) -> DMatrix<f64> {
        if block.has_norm { self.norm(block.norm.as_ref(), x) } else { x.clone() }
    }

    /// What a mixture adds to the residual.
    fn mixed(&self, layer: usize, block: &Block, x: &DMatrix<f64>) -> DMatrix<f64> {
        let (gates, hidden) = self.experts(layer, block, x);
        let each = block.experts.iter().zip(hidden).enumerate().map(|(at, (expert, hidden))| {
            let mut result = expert.down().apply(&hidden);
            result.row_iter_mut().zip(gates.column(at).iter()).for_each(|(mut row, gate)| row *= *gate);
            result
        });
        each.sum()
    }

    /// How much each expert of a mixture counts for each token, `[tokens, experts]`, none of those that it does not go
    /// to; and what the last projection of each expert reads of all tokens.
    pub(super) fn experts(&self, layer: usize, block: &Block, x: &DMatrix<f64>) -> (DMatrix<f64>, Vec<DMatrix<f64>>) {
        let (input, spec) = (self.read(block, x), &self.config.layers[layer]);
        let mut gates = DMatrix::zeros(x.nrows(), block.experts.len());
        if let (Some(router), Some(experts)) = (block.role(Role::Router), spec.experts) {
            let chosen = mixture::route(&router.apply(&input), experts.chosen, experts.normalised);
            for (token, chosen) in chosen.into_iter().enumerate() {
                chosen.into_iter().for_each(|(expert, gate)| gates[(token, expert as usize)] = gate);
            }
        }
        let hidden = block.experts.iter().enumerate().map(|(at, expert)| {
            if let Some(gate) = &expert.gate {
                gates.column_mut(at).copy_from(&gate.apply(&input).map(|logit| 1.0 / (1.0 + (-logit).exp())).column(0));
            }
            let read = |role: Role| {
                let weight = expert.linears.iter().find(|(held, _)| *held == role).expect("an expert's weight");
                weight.1.apply(&input)
            };
            let (gate, up) = (read(Role::Gate), read(Role::Up));
            let width = gate.ncols();
            let mut both = gate.insert_columns(width, width, 0.0);
            both.columns_mut(width, width).copy_from(&up);
            match spec.swiglu {
                Some(swiglu) => mixture::clamped_swiglu(swiglu, &both),
                None => kernels::activation(self.config.activation, true, &both),
            }
        });
        let hidden = hidden.collect();
        (gates, hidden)
    }

    /// What the attention's output projection reads.
    fn attended(&self, layer: usize, block: &Block, x: &DMatrix<f64>) -> DMatrix<f64> {
        let (config, spec) = (self.config, &self.config.layers[layer]);
        let (h, heads, kv) = (spec.head_dim, spec.heads, spec.kv_heads);
        let input = self.read(block, x);
        // All queries, then all keys, then all values.
        let mut qkv = DMatrix::zeros(x.nrows(), (heads + 2 * kv) * h);
        for (role, column) in [(Role::Query, 0), (Role::Key, heads * h), (Role::Value, (heads + kv) * h)] {
            if let Some(projection) = block.role(role) {
                let values = projection.apply(&input);
                qkv.columns_mut(column, values.ncols()).copy_from(&values);
            }
        }
        if let Some(limit) = spec.clip_qkv {
            qkv = scores::bound(Bound::Clip, &qkv, f64::from(limit));
        }
        let (q, k) = (HeadSpan { column: 0, heads }, HeadSpan { column: heads * h, heads: kv });
        if let (Some(norms), Some(qk)) = (&block.head_norms, config.qk_norm()) {
            for (span, norm) in [q, k].into_iter().zip(norms) {
                let (each, rows) = (norm.weight.ncols(), norm.weight.nrows());
                for head in 0..span.heads * h / each {
                    let own = HeadSpan { column: span.column + head * each, heads: 1 };
                    let weight: Vec<f64> = norm.weight.row(head % rows).iter().copied().collect();
                    let bias = norm.bias.as_deref().map(|bias| &bias[head % rows * each..][..each]);
                    kernels::head_norm(qk.norm, &mut qkv, own, &weight, bias, f64::from(config.head_norm_eps));
                }
            }
        }
        if let Some(rope) = spec.rope.map(|table| &config.ropes[table]) {
            let positions: Vec<u32> = (0..x.nrows() as u32).collect();
            for span in [q, k] {
                let factor = f64::from(rope.attention_factor);
                kernels::rope(&mut qkv, span, h, &positions, rope.frequencies(x.nrows()), factor);
            }
        }
        let sequence = Sequence { first: 0, tokens: x.nrows(), kv_row: 0, position: 0 };
        let out = kernels::attention_with_sinks(&spec.attention_shape(), &block.sinks, &qkv, &qkv, &[sequence]);
        match block.role(Role::OutputGate) {
            Some(gate) => delta_net::gate(Gate::Sigmoid, &out, &gate.apply(&input), 0),
            None => out,
        }
    }

    /// What the output projection of a gated delta net reads.
    fn recalled(&self, block: &Block, x: &DMatrix<f64>) -> DMatrix<f64> {
        let input = self.read(block, x);
        let of = |role: Role| block.role(role).map(|weight| weight.apply(&input));
        let (Some(net), Some(mixed), Some(gate), Some(beta), Some(decay)) =
            (&block.delta, of(Role::Mixed), of(Role::OutputGate), of(Role::Beta), of(Role::Decay))
        else {
            panic!("a gated delta net without its weights")
        };
        let (shape, taps) = (net.net.shape, net.net.taps);
        let convolution = kernels::matrix(shape.qkv_width(), taps, &net.convolution).transpose();
        let places: Vec<[u32; 2]> = (0..x.nrows() as u32).map(|row| [row, row + 1]).collect();
        let mut qkv = delta_net::short_conv(&mixed, &convolution, &places);
        for mut token in qkv.row_iter_mut() {
            for head in 0..2 * shape.key_heads {
                let mut own = token.columns_mut(head * shape.key_dim, shape.key_dim);
                let root = if head < shape.key_heads { shape.key_dim as f64 } else { 1.0 };
                let length = (own.norm_squared() + 1e-6).sqrt() * root.sqrt();
                own.unscale_mut(length);
            }
        }
        let heads = shape.value_heads;
        let parameters = DMatrix::from_fn(2, heads, |row, head| match row {
            0 => f64::from(net.rate[head]).exp(),
            _ => f64::from(net.decay_bias[head]),
        });
        let mut gates = beta.insert_columns(heads, heads, 0.0);
        gates.columns_mut(heads, heads).copy_from(&decay);
        let gates = delta_net::delta_gates(&gates, 0, heads, &parameters);
        let mut states = DMatrix::zeros(shape.state_rows(), shape.value_dim);
        let run = DeltaRun { first: 0, tokens: x.nrows(), state: 0, begins: true };
        let mut out = delta_net::delta_rule(&shape, &qkv, &gates, &mut states, &[run]);
        let eps = f64::from(self.config.head_norm_eps);
        kernels::head_norm(Norm::Rms, &mut out, HeadSpan { column: 0, heads }, &wide(&net.norm), None, eps);
        delta_net::gate(Gate::Silu, &out, &gate, 0)
    }

    /// What the MLP's last projection reads.
    fn hidden(&self, block: &Block, gated: bool, x: &DMatrix<f64>) -> DMatrix<f64> {
        let input = self.read(block, x);
        let mut inner = DMatrix::zeros(x.nrows(), 0);
        for read in [Role::Gate, Role::Up].into_iter().filter_map(|role| block.role(role)) {
            let (values, before) = (read.apply(&input), inner.ncols());
            inner = inner.insert_columns(before, values.ncols(), 0.0);
            inner.columns_mut(before, values.ncols()).copy_from(&values);
        }
        kernels::activation(self.config.activation, gated, &inner)
    }
}
