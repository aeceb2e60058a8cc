//! The table and a checkpoint → the weights of one layer. The only place that spells tensor names.

use std::collections::HashMap;

use super::{
    architecture::{Block, BlockKind, Layout, Position, QkNorm, Role, Space, Weight},
    config::Config,
    experts::FusedRows,
    host::{HostBlock, HostEnds, HostLayer, HostLinear, HostMatrix, HostNorm, HostStep},
    layer_spec::Step,
    slicing::LayerWidths,
    storage::{self, Rows},
    vocabulary::StoredVocabulary,
};
use crate::{
    checkpoint::{Checkpoint, Dtype, Tensor},
    error::{Error, Result},
    gpu::ElementType,
    ops::Norm,
};

/// Name and shape of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// How many parameters it holds.
    pub fn parameters(&self) -> u64 {
        self.shape.iter().map(|&size| size as u64).product()
    }
}

/// The names of a config's tensors.
pub struct Names<'a> {
    config: &'a Config,
    prefix: &'a str,
}

impl<'a> Names<'a> {
    /// The names that the architecture gives.
    pub fn of(config: &'a Config) -> Self {
        Self { config, prefix: config.architecture.names.prefix }
    }

    fn top(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The name of something in a layer.
    pub fn layer(&self, layer: usize, name: &str) -> String {
        format!("{}{}.{layer}.{name}", self.prefix, self.config.architecture.names.layers)
    }

    /// The embedding of tokens.
    pub fn embedding(&self) -> String {
        self.top(&format!("{}.weight", self.config.architecture.names.embedding))
    }

    /// The table of learned positions.
    pub fn positions(&self) -> Option<String> {
        match self.config.architecture.attention.position {
            Position::Learned { name, .. } => Some(self.top(&format!("{name}.weight"))),
            Position::Rope { .. } => None,
        }
    }

    /// The weight of the head.
    pub fn head(&self) -> String {
        format!("{}.weight", self.config.architecture.names.head)
    }

    /// The bias of the head.
    pub fn head_bias(&self) -> String {
        format!("{}.bias", self.config.architecture.names.head)
    }

    /// The norms of a layer that the residual goes through, each once.
    pub fn layer_norms(&self, layer: usize) -> Vec<String> {
        let mut norms: Vec<&str> = self.config.blocks(layer).iter().map(|block| block.norm).collect();
        norms.dedup();
        norms.into_iter().map(|name| self.layer(layer, name)).collect()
    }

    /// The name of a weight of an expert, where the layer is a mixture.
    pub fn expert(&self, layer: usize, expert: usize, weight: &Weight) -> String {
        let experts = self.config.architecture.mixture.map_or("", |mixture| mixture.experts);
        self.layer(layer, &format!("{experts}.{expert}.{}.weight", weight.name))
    }

    /// The norm before the head.
    pub fn final_norm(&self) -> String {
        self.top(self.config.architecture.names.final_norm)
    }

    /// The shortcut past a step of a layer.
    pub fn shortcut(&self, layer: usize, step: Step) -> String {
        self.layer(layer, ["attn_shortcut_Q", "mlp_shortcut_Q"][step.index])
    }
}

impl Config {
    /// The widths of the residual stream around a layer.
    pub fn widths(&self, layer: usize) -> LayerWidths {
        let whole = LayerWidths {
            attn_shortcut: false,
            mlp_shortcut: false,
            ..LayerWidths::new(self.hidden_size, self.hidden_size, self.hidden_size)
        };
        self.slicing.as_ref().map_or(whole, |slicing| slicing.layers[layer])
    }

    /// Whether the norms have been fused into the weights.
    pub fn fused(&self) -> bool {
        self.slicing.is_some()
    }

    /// The shortcuts of a layer: the step that each belongs to, and its widths before and after.
    pub fn shortcuts(&self, layer: usize) -> impl Iterator<Item = (Step, usize, usize)> {
        let (widths, fused) = (self.widths(layer), self.fused());
        self.steps().filter(move |step| fused && widths.has_shortcut(*step)).map(move |step| {
            let (before, after) = widths.step(step);
            (step, before, after)
        })
    }

    /// `[out, in]` of a linear weight.
    pub fn linear_shape(&self, role: Role, layer: usize) -> (usize, usize) {
        let (widths, spec) = (self.widths(layer), &self.layers[layer]);
        let step = self.steps().find(|step| step.linears().any(|(_, held)| held == role));
        let (before, after) = step.map_or((self.hidden_size, self.hidden_size), |step| widths.step(step));
        match role {
            Role::Output => (after, spec.heads_width()),
            Role::Down => (after, spec.intermediate_size),
            _ => (spec.rows(role), before),
        }
    }

    /// `[out, in]` of a stored tensor with all the weights that it holds.
    pub fn weight_shape(&self, weight: &Weight, layer: usize) -> (usize, usize) {
        let shapes = weight.holds.iter().map(|role| self.linear_shape(*role, layer));
        shapes.fold((0, 0), |(rows, _), (more, cols)| (rows + more, cols))
    }

    /// Which rows of a stored tensor hold a linear weight.
    pub fn weight_rows(&self, weight: &Weight, role: Role, layer: usize) -> Rows {
        if matches!(role, Role::Output | Role::Down) {
            return Rows::Run(0..self.linear_shape(role, layer).0);
        }
        let spec = &self.layers[layer];
        let rope = spec.rope.and_then(|table| self.ropes.get(table));
        let pairs = rope.filter(|_| self.architecture.interleaved()).map(|rope| rope.inverse_frequencies.len());
        storage::rows(weight, role, spec, pairs)
    }

    /// Whether a weight has a bias: its own, or one that fusing a norm gave it.
    pub fn linear_bias(&self, weight: &Weight) -> bool {
        self.has_bias(weight.bias) || (self.fused() && weight.reads == Space::Residual && self.norm_has_bias())
    }

    /// Whether the head has a bias: its own, or one that fusing the final norm gave it.
    pub fn has_head_bias(&self) -> bool {
        self.architecture.ends.head_bias || (self.fused() && self.norm_has_bias())
    }

    /// Rows of the table of learned positions.
    fn position_rows(&self) -> Option<usize> {
        match self.architecture.attention.position {
            Position::Learned { offset, .. } => Some(self.max_position_embeddings + offset),
            Position::Rope { .. } => None,
        }
    }

    /// Every tensor of a checkpoint of this config, dense or sliced, in the order they are written.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let names = Names::of(self);
        let mut list = Vec::new();
        let mut add = |name: String, shape: &[usize]| list.push(TensorSpec { name, shape: shape.to_vec() });
        let norm = |add: &mut dyn FnMut(String, &[usize]), name: String| {
            if self.norm_affine && !self.fused() {
                add(format!("{name}.weight"), &[self.hidden_size]);
                if self.norm_has_bias() {
                    add(format!("{name}.bias"), &[self.hidden_size]);
                }
            }
        };
        let first = self.widths(0).attention_input;
        add(names.embedding(), &[self.vocab_size, first]);
        if let (Some(name), Some(rows)) = (names.positions(), self.position_rows()) {
            add(name, &[rows, first]);
        }
        for layer in 0..self.layers.len() {
            for name in names.layer_norms(layer) {
                norm(&mut add, name);
            }
            for weight in self.weights(layer) {
                let (rows, cols) = self.weight_shape(weight, layer);
                let shape = if weight.layout == Layout::Conv1d { [cols, rows] } else { [rows, cols] };
                add(names.layer(layer, &format!("{}.weight", weight.name)), &shape);
                if self.linear_bias(weight) {
                    add(names.layer(layer, &format!("{}.bias", weight.name)), &[rows]);
                }
            }
            for (expert, weight) in self.expert_weights(layer) {
                let (rows, cols) = self.weight_shape(weight, layer);
                add(names.expert(layer, expert, weight), &[rows, cols]);
            }
            for (weight, shape) in self.shared_weights(layer) {
                add(names.layer(layer, &format!("{}.weight", weight.name)), &shape);
            }
            if let Some(qk) = self.qk_norm() {
                let head_dim = self.layers[layer].head_dim;
                for name in [qk.q, qk.k] {
                    add(names.layer(layer, &format!("{name}.weight")), &[head_dim]);
                    if qk.norm == Norm::Layer {
                        add(names.layer(layer, &format!("{name}.bias")), &[head_dim]);
                    }
                }
            }
            for (step, before, after) in self.shortcuts(layer) {
                add(names.shortcut(layer, step), &[before, after]);
            }
        }
        norm(&mut add, names.final_norm());
        if !self.tie_word_embeddings {
            add(names.head(), &[self.vocab_size, self.widths(self.layers.len() - 1).output]);
        }
        if self.has_head_bias() {
            add(names.head_bias(), &[self.vocab_size]);
        }
        list
    }

    /// The norms of queries and keys, where the model has them.
    pub fn qk_norm(&self) -> Option<QkNorm> {
        self.architecture.attention.qk_norm.filter(|_| self.qk_norm)
    }
}

/// Enough tensors that are wrong to say so: a mixture has thousands.
const MOST_WRONG: usize = 100;

/// A config and the checkpoint with its tensors.
pub struct WeightStore {
    pub config: Config,
    pub checkpoint: Checkpoint,
    pub(super) notes: Vec<String>,
    /// Where only some rows of the embedding and the head count.
    pub(super) vocabulary: Option<StoredVocabulary>,
    /// Tensors that are rows of one of all experts, by the names that the architecture gives them.
    pub(super) fused: HashMap<String, FusedRows>,
}

impl WeightStore {
    /// Checks that every tensor is there, in a floating-point type and the right shape.
    ///
    /// # Errors
    /// [`Error::BadTensor`] that names the one that is not, [`Error::Several`] for more of them; [`Error::Read`].
    pub fn new(config: Config, checkpoint: Checkpoint) -> Result<Self> {
        let mut store = Self { config, checkpoint, notes: Vec::new(), vocabulary: None, fused: HashMap::new() };
        store.fused = store.fused_experts();
        store.resolve_head()?;
        let check = |spec: TensorSpec| {
            let found = store.find(&spec.name, &spec.shape).map(drop);
            found.and_then(|()| store.check_single(&spec.name)).err()
        };
        let wrong = store.config.tensors().into_iter().filter_map(check).take(MOST_WRONG).collect();
        if let Some(error) = Error::all(wrong) {
            return Err(error);
        }
        store.note_wide();
        if let Some(head) = store.classifier() {
            store
                .notes
                .push(format!("this is a classifier: its {head} is left out, and its tied head writes text instead"));
        }
        Ok(store)
    }

    /// What the user should know about the files and their tensors.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.checkpoint.notes().iter().chain(&self.notes).map(String::as_str)
    }

    /// The type that each tensor is written in by default, by the name that the architecture gives it: its own, F32 for
    /// F64, and F16 for what is quantised.
    pub fn types(&self) -> impl Iterator<Item = (String, Dtype)> {
        self.types_by(|tensor| tensor.written)
    }

    fn types_by(&self, of: fn(&Tensor) -> Dtype) -> impl Iterator<Item = (String, Dtype)> {
        self.config.tensors().into_iter().map(move |spec| {
            let stored = self.checkpoint.tensor(&self.stored_name(&spec.name)).map(|tensor| of(&tensor));
            (spec.name, stored.filter(|dtype| *dtype != Dtype::F64).unwrap_or(Dtype::F32))
        })
    }

    /// Bytes of a value of the widest of the types that tensors are read in.
    pub fn element_size(&self) -> usize {
        self.types_by(|tensor| tensor.dtype).map(|(_, dtype)| dtype.bitsize() / 8).max().unwrap_or(4)
    }

    /// Tensors of the checkpoint that the config does not call for, and that would be lost.
    pub fn unexpected(&self) -> Vec<String> {
        let known = self.all_stored_names();
        // Masks, frequencies and positions that old checkpoints carry.
        let harmless = [
            "attn.bias",
            "attn.masked_bias",
            "attention.bias",
            "attention.masked_bias",
            "rotary_emb.inv_freq",
            "position_ids",
        ];
        let lost = |name: &&str| !known.contains(*name) && !harmless.iter().any(|end| name.ends_with(end));
        self.checkpoint.names().filter(lost).map(str::to_owned).collect()
    }

    /// Reads every tensor, a few rows at a time; `each` is called after each of them.
    ///
    /// # Errors
    /// [`crate::Error::BadTensor`] if a value is NaN or infinite; [`crate::Error::Read`]; those of `each`.
    pub fn check_values(&self, mut each: impl FnMut() -> Result<()>) -> Result<()> {
        for spec in self.config.tensors() {
            let matrix = self.find(&spec.name, &spec.shape)?;
            let together = ((4 << 20) / (matrix.cols * matrix.element.size())).max(1);
            (0..matrix.rows)
                .step_by(together)
                .try_for_each(|first| matrix.row_bytes(first..(first + together).min(matrix.rows)).map(drop))?;
            each()?;
        }
        Ok(())
    }

    /// A tensor as it is stored, by the name that the architecture gives it.
    ///
    /// # Errors
    /// [`crate::Error::BadTensor`] if it is not there, or of another shape.
    pub fn whole(&self, TensorSpec { name, shape }: &TensorSpec) -> Result<HostMatrix<'_>> {
        self.find(name, shape)
    }

    /// A whole tensor of this name and shape.
    pub(super) fn find(&self, name: &str, shape: &[usize]) -> Result<HostMatrix<'_>> {
        if let (Some(FusedRows { tensor, shape: whole, rows }), [_, cols]) = (self.fused.get(name), shape) {
            let (stored, tensor, element) = self.stored(tensor, whole)?;
            return Ok(HostMatrix::stored(stored, tensor, Rows::Run(rows.clone()), *cols, element, false));
        }
        let (whole, rows) = self.stored_shape(name, shape);
        let (stored, tensor, element) = self.stored(name, &whole)?;
        let cols = match (shape, &rows) {
            ([_, cols], _) => *cols,
            // A vector of which some values count.
            (_, Rows::Listed(_)) => 1,
            _ => shape[0],
        };
        Ok(HostMatrix::stored(stored, tensor, rows, cols, element, false))
    }

    fn stored(&self, name: &str, shape: &[usize]) -> Result<(String, Tensor<'_>, ElementType)> {
        let stored = self.stored_name(name);
        let missing = || self.bad(&stored, format!("missing; config.json implies {shape:?}{}", self.why_missing(name)));
        let tensor = self.checkpoint.tensor(&stored).ok_or_else(missing)?;
        if tensor.shape != shape {
            return Err(self
                .bad(&stored, format!("expected shape {shape:?}, found {:?}{}", tensor.shape, self.sizes_left_out())));
        }
        let element = self.element(&stored, &tensor)?;
        Ok((stored, tensor, element))
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.find(name, &[len])?.to_f32()
    }

    fn norm(&self, name: &str, width: usize, bias: bool) -> Result<HostNorm> {
        Ok(HostNorm {
            weight: self.vector(&format!("{name}.weight"), width)?,
            bias: if bias { Some(self.vector(&format!("{name}.bias"), width)?) } else { None },
        })
    }

    fn residual_norm(&self, name: &str) -> Result<Option<HostNorm>> {
        let config = &self.config;
        (config.norm_affine && !config.fused())
            .then(|| self.norm(name, config.hidden_size, config.norm_has_bias()))
            .transpose()
    }

    /// The weights of one layer: norms and biases, and where to read the matrices.
    ///
    /// # Errors
    /// [`crate::Error::BadTensor`] if a value of a norm or bias is NaN or infinite; [`crate::Error::Read`].
    pub fn layer(&self, layer: usize) -> Result<HostLayer<'_>> {
        let (config, names) = (&self.config, Names::of(&self.config));
        let widths = config.widths(layer);
        let step = |step: Step| {
            let has_shortcut = config.fused() && widths.has_shortcut(step);
            let shortcut = if has_shortcut {
                let (before, after) = widths.step(step);
                let (name, tensor, element) = self.stored(&names.shortcut(layer, step), &[before, after])?;
                Some(HostMatrix::stored(name, tensor, Rows::Run(0..after), before, element, true))
            } else {
                None
            };
            let blocks = step.blocks.iter().map(|block| self.block(layer, block)).collect::<Result<_>>()?;
            Ok(HostStep { blocks, shortcut })
        };
        Ok(HostLayer { fused: config.fused(), steps: config.layer_steps(layer).map(step).collect::<Result<_>>()? })
    }

    fn block(&self, layer: usize, spec: &'static Block) -> Result<HostBlock<'_>> {
        let (config, names) = (&self.config, Names::of(&self.config));
        let mut linears = Vec::new();
        for weight in spec.weights {
            for role in weight.holds {
                linears.push(self.linear(layer, weight, *role)?);
            }
        }
        let head_norms = match config.qk_norm().filter(|_| spec.kind == BlockKind::Attention) {
            None => None,
            Some(qk) => {
                let head_dim = config.layers[layer].head_dim;
                let norm = |name| self.norm(&names.layer(layer, name), head_dim, qk.norm == Norm::Layer);
                Some([norm(qk.q)?, norm(qk.k)?])
            }
        };
        Ok(HostBlock { spec, norm: self.residual_norm(&names.layer(layer, spec.norm))?, head_norms, linears })
    }

    fn linear(&self, layer: usize, spec: &'static Weight, role: Role) -> Result<HostLinear<'_>> {
        let (config, name) = (&self.config, Names::of(&self.config).layer(layer, spec.name));
        let (rows, cols) = config.weight_shape(spec, layer);
        let transposed = spec.layout == Layout::Conv1d;
        let shape = if transposed { [cols, rows] } else { [rows, cols] };
        let held = config.weight_rows(spec, role, layer);
        let weight = format!("{name}.weight");
        if self.fused.contains_key(&weight) {
            return Ok(HostLinear { spec, role, matrix: self.find(&weight, &shape)?, bias: None });
        }
        let (stored, tensor, element) = self.stored(&weight, &shape)?;
        let bias = if config.linear_bias(spec) {
            let all = self.vector(&format!("{name}.bias"), rows)?;
            Some((0..held.len()).map(|row| all[held.stored(row)]).collect())
        } else {
            None
        };
        let matrix = HostMatrix::stored(stored, tensor, held, cols, element, transposed);
        Ok(HostLinear { spec, role, matrix, bias })
    }

    /// Final norm, and where to read the embeddings and the head; a tied head is the embedding.
    ///
    /// # Errors
    /// As [`WeightStore::layer`].
    pub fn ends(&self) -> Result<HostEnds<'_>> {
        let (config, names) = (&self.config, Names::of(&self.config));
        let first = config.widths(0).attention_input;
        let embedding = self.find(&names.embedding(), &[config.vocab_size, first])?;
        let positions = match (names.positions(), config.position_rows()) {
            (Some(name), Some(rows)) => Some(self.find(&name, &[rows, first])?),
            _ => None,
        };
        let head = if config.tie_word_embeddings {
            embedding.clone()
        } else {
            self.find(&names.head(), &[config.vocab_size, config.widths(config.layers.len() - 1).output])?
        };
        let head_bias =
            config.has_head_bias().then(|| self.vector(&names.head_bias(), config.vocab_size)).transpose()?;
        // The final norm takes the factor of the logits, so that the head keeps its stored type where it can.
        let scale = config.logit_scale;
        let final_norm = self.residual_norm(&names.final_norm())?.map(|norm| norm.scaled(scale));
        let head = if final_norm.is_some() { head } else { head.scaled(scale) };
        let head_bias = head_bias.map(|bias| bias.into_iter().map(|value| value * scale).collect());
        let embedding = embedding.scaled(config.embedding_scale);
        Ok(HostEnds { fused: config.fused(), embedding, positions, final_norm, head, head_bias })
    }
}
