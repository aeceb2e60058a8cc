//! The tensors of a GGUF file: their names, and how their rows come from the checkpoint.

use super::{
    delta::{self, DeltaTensor},
    metadata::frequency_factors,
    names::{
        EMBEDDING, EMBEDDING_NORM, FINAL_NORM, FREQUENCY_FACTORS, HEAD, HEAD_NORMS, LONG_FACTORS, POSITIONS, SINKS,
        norms, stem, stem_of_fused,
    },
};
use crate::{
    checkpoint::{GgufTensor, GgufType},
    error::{Error, Result},
    model::{
        Config, HostLayer, HostLinear, HostMatrix, HostNorm, Names, TensorSpec, WeightStore,
        architecture::{Block, Order, QkSpan, Role},
        forms::{Gguf, GgufBiases, GgufHead},
        side_by_side,
    },
};

/// About this many bytes of a matrix are in memory at a time.
const PIECE_BYTES: usize = 4 << 20;

/// A tensor of the file and where its values are.
pub struct Entry {
    pub tensor: GgufTensor,
    source: Source,
}

enum Source {
    /// As the checkpoint has it, by its name there; to each value something may be added.
    Stored(TensorSpec, f32),
    Values(Vec<f32>),
    /// Of a layer: the norm of its queries (0) or its keys (1).
    HeadNorm(usize, usize),
    /// One weight after the other.
    Weights(usize, &'static [Role]),
    /// Their biases, or zeros for those that llama.cpp loads and the model lacks.
    Biases(usize, &'static [Role]),
    /// Of all experts of a layer.
    Experts(usize, Role),
    /// Their biases.
    ExpertBiases(usize, Role),
    /// Of a gated delta net.
    Delta(DeltaTensor),
    /// Of the expert of a layer that every token goes to: which of its weights.
    Shared(usize, usize),
}

/// Every tensor of the file, in order: matrices in `kind` where their width allows it, vectors in f32. In MXFP4 are
/// experts alone, other matrices then in f16.
pub fn entries(config: &Config, target: Gguf, kind: GgufType) -> Vec<Entry> {
    let mut list = List { config, kind, entries: Vec::new() };
    list.before_layers(target);
    (0..config.layers.len()).for_each(|layer| list.layer(layer, target));
    list.after_layers();
    list.entries
}

struct List<'a> {
    config: &'a Config,
    kind: GgufType,
    entries: Vec<Entry>,
}

impl List<'_> {
    fn add(&mut self, name: String, shape: &[usize], source: Source) {
        let kind = match (shape, &source) {
            // What rounding may do is send a token elsewhere; llama.cpp's converter leaves all of these, too.
            (_, Source::Weights(_, [Role::Router]) | Source::HeadNorm(..) | Source::ExpertBiases(..)) => GgufType::F32,
            _ if name == POSITIONS || name.ends_with(delta::CONVOLUTION) => GgufType::F32,
            ([_, _, ..], Source::Experts(..)) if self.kind.fits(shape[shape.len() - 1]) => self.kind,
            ([_, _, ..], _) if self.kind == GgufType::Mxfp4 => GgufType::F16,
            ([_, .., width], _) if self.kind.fits(*width) => self.kind,
            ([_, _, ..], _) => GgufType::F16,
            _ => GgufType::F32,
        };
        self.entries.push(Entry { tensor: GgufTensor { name, shape: shape.to_vec(), kind }, source });
    }

    fn stored(&mut self, name: impl Into<String>, ours: String, shape: &[usize]) {
        let spec = TensorSpec { name: ours, shape: shape.to_vec() };
        self.add(name.into(), shape, Source::Stored(spec, 0.0));
    }

    /// A norm of the residual stream, by its names without what they end with.
    fn norm(&mut self, name: &str, ours: &str) {
        let width = [self.config.hidden_size];
        if !self.config.norm_affine {
            return;
        }
        let spec = TensorSpec { name: format!("{ours}.weight"), shape: width.to_vec() };
        // The file has what multiplies, the checkpoint may have less.
        let offset = self.config.architecture.norm.offset;
        self.add(format!("{name}.weight"), &width, Source::Stored(spec, offset));
        if self.config.norm_has_bias() {
            self.stored(format!("{name}.bias"), format!("{ours}.bias"), &width);
        }
    }

    fn before_layers(&mut self, target: Gguf) {
        let (config, names) = (self.config, Names::of(self.config));
        self.stored(format!("{EMBEDDING}.weight"), names.embedding(), &[config.vocab_size, config.hidden_size]);
        if let Some(name) = names.embedding_norm() {
            self.norm(EMBEDDING_NORM, &name);
        }
        if let (Some(name), Some(rows)) = (names.positions(), config.position_rows()) {
            self.stored(POSITIONS, name, &[rows, config.hidden_size]);
        }
        let factors = frequency_factors(config).filter(|_| target.frequency_factors);
        let long = config.ropes.first().and_then(|rope| rope.long.as_ref());
        let long = long.into_iter().flat_map(|long| LONG_FACTORS.into_iter().zip(long.factors.clone()));
        for (name, factors) in factors.map(|factors| (FREQUENCY_FACTORS, factors)).into_iter().chain(long) {
            self.add(name.into(), &[factors.len()], Source::Values(factors));
        }
    }

    fn layer(&mut self, layer: usize, target: Gguf) {
        let (config, names) = (self.config, Names::of(self.config));
        let name = |stem: &str, end: &str| format!("blk.{layer}.{stem}.{end}");
        let mut written: Vec<&str> = Vec::new();
        let (attention, others): (Vec<_>, Vec<_>) =
            config.blocks(layer).iter().partition(|block| block.kind.looks_back());
        let mut of_blocks = |list: &mut Self, blocks: &[&Block]| {
            for (ours, theirs) in blocks.iter().flat_map(|block| norms(config.architecture, block)).flatten() {
                // Two blocks may share one.
                if !written.contains(&ours) {
                    written.push(ours);
                    list.norm(&format!("blk.{layer}.{theirs}"), &names.layer(layer, ours));
                }
            }
        };
        of_blocks(self, &attention);
        let spec = &config.layers[layer];
        for weight in config.weights(layer).filter(|weight| !delta::holds(spec, weight)) {
            // Pairs are pairs there, too.
            if weight.order == Order::Paired {
                let (rows, cols) = config.weight_shape(weight, layer);
                let ours = names.layer(layer, &format!("{}.weight", weight.name));
                self.stored(name(stem(weight.holds[0]), "weight"), ours, &[rows, cols]);
                continue;
            }
            let together = if target.fused { weight.holds.chunks(weight.holds.len()) } else { weight.holds.chunks(1) };
            for roles in together {
                let shapes = roles.iter().map(|role| config.linear_shape(*role, layer));
                let (rows, cols) = shapes.fold((0, 0), |(rows, _), (more, cols)| (rows + more, cols));
                let stem = stem_of_fused(roles);
                self.add(name(stem, "weight"), &[rows, cols], Source::Weights(layer, roles));
                if config.linear_bias(weight) || target.biases == GgufBiases::All {
                    self.add(name(stem, "bias"), &[rows], Source::Biases(layer, roles));
                }
            }
        }
        for tensor in delta::tensors(config, layer) {
            let shape = tensor.shape.clone();
            self.add(format!("blk.{layer}.{}", tensor.theirs), &shape, Source::Delta(tensor));
        }
        for (_, weight) in config.expert_weights(layer).take_while(|(expert, _)| *expert == 0) {
            let count = config.layers[layer].experts.map_or(0, |experts| experts.count);
            for role in weight.holds {
                let (rows, cols) = config.linear_shape(*role, layer);
                let stem = format!("{}_exps", stem(*role));
                self.add(name(&stem, "weight"), &[count, rows, cols], Source::Experts(layer, *role));
                if config.has_bias(weight.bias) {
                    self.add(name(&stem, "bias"), &[count, rows], Source::ExpertBiases(layer, *role));
                }
            }
        }
        for (which, (weight, [rows, cols])) in config.shared_weights(layer).into_iter().enumerate() {
            let stem = format!("{}_shexp", stem(weight.holds[0]));
            let shape = if weight.holds == [Role::Router] { &[cols][..] } else { &[rows, cols] };
            self.add(name(&stem, "weight"), shape, Source::Shared(layer, which));
        }
        if let Some(TensorSpec { name: ours, shape }) = config.sinks(layer) {
            self.stored(format!("blk.{layer}.{SINKS}"), ours, &shape);
        }
        if let Some(qk) = config.qk_norm().filter(|_| spec.delta.is_none()) {
            for (which, heads) in [spec.heads, spec.kv_heads].into_iter().enumerate() {
                let shape = match qk.span {
                    QkSpan::Shared => &[spec.head_dim][..],
                    QkSpan::Whole => &[heads * spec.head_dim],
                    QkSpan::PerHead | QkSpan::PerHeadTensors => &[heads, spec.head_dim],
                };
                self.add(name(HEAD_NORMS[which], "weight"), shape, Source::HeadNorm(layer, which));
            }
        }
        of_blocks(self, &others);
    }

    fn after_layers(&mut self) {
        let (config, names) = (self.config, Names::of(self.config));
        self.norm(FINAL_NORM, &names.final_norm());
        let shape = [config.vocab_size, config.hidden_size];
        let head = format!("{HEAD}.weight");
        match (config.tie_word_embeddings, config.architecture.gguf_own.head) {
            (false, _) => self.stored(head, names.head(), &shape),
            (true, GgufHead::Required) => self.stored(head, names.embedding(), &shape),
            (true, _) => {}
        }
        if config.has_head_bias() {
            self.stored(format!("{HEAD}.bias"), names.head_bias(), &[config.vocab_size]);
        }
    }
}

impl Entry {
    /// Whether it would have the type that was asked for, but for the width of its rows.
    pub fn is_too_narrow(&self, kind: GgufType) -> bool {
        let blocks = match kind {
            GgufType::F32 | GgufType::F16 => false,
            GgufType::Q8_0 => true,
            GgufType::Mxfp4 => matches!(self.source, Source::Experts(..)),
        };
        blocks && self.tensor.kind == GgufType::F16
    }

    /// The layer whose weights it is made of.
    pub fn layer(&self) -> Option<usize> {
        match self.source {
            Source::HeadNorm(layer, _)
            | Source::Weights(layer, _)
            | Source::Biases(layer, _)
            | Source::Experts(layer, _)
            | Source::ExpertBiases(layer, _)
            | Source::Shared(layer, _) => Some(layer),
            Source::Stored(..) | Source::Values(_) | Source::Delta(_) => None,
        }
    }

    /// Calls `each` with the rows of the tensor in their order in the file, a few at a time. `layer` has the weights of
    /// [`Entry::layer`].
    pub fn each_rows(
        &self,
        store: &WeightStore,
        target: Gguf,
        layer: Option<&HostLayer>,
        mut each: impl FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let config = &store.config;
        let missing = || Error::shape("export", format!("{} is not in the checkpoint", self.tensor.name));
        let linear = |role: Role| {
            let found = layer.and_then(|layer| layer.linears().find(|linear| linear.role == role));
            found.ok_or_else(missing)
        };
        let head_dim = self.layer().map_or(0, |layer| config.layers[layer].head_dim);
        let interleaved = |role: Role| target.interleaved && matches!(role, Role::Query | Role::Key);
        match &self.source {
            Source::Stored(spec, offset) => in_order(&store.whole(spec)?, |rows| {
                if *offset == 0.0 {
                    return each(rows);
                }
                each(&rows.iter().map(|value| value + offset).collect::<Vec<_>>())
            }),
            Source::Values(values) => each(values),
            Source::Delta(tensor) => {
                let matrix = store.whole(&tensor.ours)?;
                tensor.each_rows(&matrix, rows_together(&matrix), each)
            }
            Source::HeadNorm(_, which) => {
                let norms: Option<&[HostNorm; 2]> =
                    layer.and_then(|layer| layer.blocks().find_map(|block| block.head_norms.as_ref()));
                let weight = &norms.ok_or_else(missing)?[*which].weight;
                if !target.interleaved {
                    return each(weight);
                }
                each(&weight.chunks(head_dim).flat_map(|head| interleave(head, head_dim)).collect::<Vec<_>>())
            }
            Source::Weights(_, roles) => roles.iter().try_for_each(|role| {
                let matrix = &linear(*role)?.matrix;
                if !interleaved(*role) {
                    return in_order(matrix, &mut each);
                }
                (0..matrix.rows / head_dim).try_for_each(|head| {
                    let first = head * head_dim;
                    each(&interleave(&matrix.rows_f32(first..first + head_dim)?, head_dim))
                })
            }),
            Source::Biases(_, roles) => {
                let mut all = Vec::with_capacity(self.tensor.shape[0]);
                for role in *roles {
                    let linear = linear(*role)?;
                    match &linear.bias {
                        Some(bias) if interleaved(*role) => {
                            all.extend(bias.chunks(head_dim).flat_map(|head| interleave(head, head_dim)));
                        }
                        Some(bias) => all.extend(bias),
                        None if target.biases == GgufBiases::All => {
                            all.resize(all.len() + linear.matrix.rows, 0.0);
                        }
                        None => return Err(missing()),
                    }
                }
                each(&all)
            }
            Source::Experts(layer, role) | Source::ExpertBiases(layer, role) => {
                let count = config.layers[*layer].experts.map_or(0, |experts| experts.count);
                (0..count).try_for_each(|expert| {
                    let linears = store.expert(*layer, expert)?;
                    let linear: Option<&HostLinear> = linears.iter().find(|linear| linear.role == *role);
                    let linear = linear.ok_or_else(missing)?;
                    match &self.source {
                        Source::ExpertBiases(..) => each(linear.bias.as_ref().ok_or_else(missing)?),
                        _ => in_order(&linear.matrix, &mut each),
                    }
                })
            }
            Source::Shared(layer, which) => {
                let linears = store.shared_expert(*layer)?;
                in_order(&linears.get(*which).ok_or_else(missing)?.matrix, each)
            }
        }
    }
}

fn rows_together(matrix: &HostMatrix) -> usize {
    (PIECE_BYTES / (4 * matrix.cols)).max(1)
}

fn in_order(matrix: &HostMatrix, mut each: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
    let together = rows_together(matrix);
    (0..matrix.rows)
        .step_by(together)
        .try_for_each(|first| each(&matrix.rows_f32(first..(first + together).min(matrix.rows))?))
}

/// The rows of one head, `[head_dim, any]`, with the coordinates that turn together side by side.
fn interleave(head: &[f32], head_dim: usize) -> Vec<f32> {
    let width = head.len() / head_dim;
    let mut interleaved = vec![0.0; head.len()];
    for (row, values) in head.chunks_exact(width).enumerate() {
        interleaved[side_by_side(row, head_dim / 2) * width..][..width].copy_from_slice(values);
    }
    interleaved
}
