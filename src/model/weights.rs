//! The table and a checkpoint → the weights of one layer. The only place that spells tensor names.

use super::{
    architecture::{Architecture, Layout, Role, Space, Weight},
    config::Config,
    host::{HostEnds, HostLayer, HostLinear, HostMatrix, HostNorm},
    slicing::LayerWidths,
};
use crate::{
    checkpoint::{Checkpoint, Dtype},
    error::Result,
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
        Self { config, prefix: config.architecture.prefix }
    }

    fn top(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The name of something in a layer.
    pub fn layer(&self, layer: usize, name: &str) -> String {
        format!("{}{}.{layer}.{name}", self.prefix, self.config.architecture.layers)
    }

    /// The embedding of tokens.
    pub fn embedding(&self) -> String {
        self.top(&format!("{}.weight", self.config.architecture.embedding))
    }

    /// The table of learned positions.
    pub fn positions(&self) -> Option<String> {
        match self.config.architecture.position {
            super::architecture::Position::Learned { name, .. } => Some(self.top(&format!("{name}.weight"))),
            super::architecture::Position::Rope { .. } => None,
        }
    }

    /// The weight of the head.
    pub fn head(&self) -> String {
        format!("{}.weight", self.config.architecture.head)
    }

    /// The bias of the head.
    pub fn head_bias(&self) -> String {
        format!("{}.bias", self.config.architecture.head)
    }

    /// The norms of a layer that the residual goes through.
    pub fn layer_norms(&self, layer: usize) -> impl Iterator<Item = String> {
        let Architecture { attention_norm, mlp_norm, .. } = self.config.architecture;
        [Some(*attention_norm), *mlp_norm].into_iter().flatten().map(move |name| self.layer(layer, name))
    }

    /// The norm before the head.
    pub fn final_norm(&self) -> String {
        self.top(self.config.architecture.final_norm)
    }

    /// The shortcut of a half of a layer: 0 the attention (or the whole parallel layer), 1 the MLP.
    pub fn shortcut(&self, layer: usize, half: usize) -> String {
        self.layer(layer, ["attn_shortcut_Q", "mlp_shortcut_Q"][half])
    }
}

impl Config {
    /// The widths of the residual stream around a layer.
    pub fn widths(&self, layer: usize) -> LayerWidths {
        let whole =
            LayerWidths { attn_shortcut: false, mlp_shortcut: false, ..LayerWidths::new(self.hidden_size, self.hidden_size, self.hidden_size) };
        self.slicing.as_ref().map_or(whole, |slicing| slicing.layers[layer])
    }

    /// Whether the norms have been fused into the weights.
    pub fn fused(&self) -> bool {
        self.slicing.is_some()
    }

    /// `[out, in]` of a weight.
    pub fn linear_shape(&self, weight: &Weight, layer: usize) -> (usize, usize) {
        let widths = self.widths(layer);
        let (h, f) = (self.head_dim, self.intermediate_size);
        let (heads, kv) = (self.num_attention_heads * h, self.num_key_value_heads * h);
        let mlp_input = if self.parallel { widths.attention_input } else { widths.mlp_input };
        match weight.role {
            Role::Query => (heads, widths.attention_input),
            Role::Key | Role::Value => (kv, widths.attention_input),
            Role::Qkv | Role::QkvPerHead => (heads + 2 * kv, widths.attention_input),
            Role::Output => (if self.parallel { widths.output } else { widths.mlp_input }, heads),
            Role::Gate | Role::Up => (f, mlp_input),
            Role::GateUp => (2 * f, mlp_input),
            Role::Down => (widths.output, f),
        }
    }

    /// Whether a weight has a bias: its own, or one that fusing a norm gave it.
    pub fn linear_bias(&self, weight: &Weight) -> bool {
        self.has_bias(weight.bias) || (self.fused() && weight.reads == Space::Residual && self.norm_has_bias())
    }

    /// Whether the head has a bias: its own, or one that fusing the final norm gave it.
    pub fn has_head_bias(&self) -> bool {
        self.architecture.head_bias || (self.fused() && self.norm_has_bias())
    }

    /// Rows of the table of learned positions.
    fn position_rows(&self) -> Option<usize> {
        match self.architecture.position {
            super::architecture::Position::Learned { offset, .. } => Some(self.max_position_embeddings + offset),
            super::architecture::Position::Rope { .. } => None,
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
        for layer in 0..self.num_hidden_layers {
            norm(&mut add, names.layer(layer, self.architecture.attention_norm));
            if let Some(name) = self.architecture.mlp_norm {
                norm(&mut add, names.layer(layer, name));
            }
            for weight in self.architecture.layer {
                let (rows, cols) = self.linear_shape(weight, layer);
                let shape = if weight.layout == Layout::Conv1d { [cols, rows] } else { [rows, cols] };
                add(names.layer(layer, &format!("{}.weight", weight.name)), &shape);
                if self.linear_bias(weight) {
                    add(names.layer(layer, &format!("{}.bias", weight.name)), &[rows]);
                }
            }
            if let Some(qk) = self.architecture.qk_norm.filter(|_| self.qk_norm) {
                for name in [qk.q, qk.k] {
                    add(names.layer(layer, &format!("{name}.weight")), &[self.head_dim]);
                    if qk.norm == crate::ops::Norm::Layer {
                        add(names.layer(layer, &format!("{name}.bias")), &[self.head_dim]);
                    }
                }
            }
            if self.fused() {
                for (half, before, after) in self.widths(layer).shortcuts(self.parallel) {
                    add(names.shortcut(layer, half), &[before, after]);
                }
            }
        }
        norm(&mut add, names.final_norm());
        if !self.tie_word_embeddings {
            add(names.head(), &[self.vocab_size, self.widths(self.num_hidden_layers - 1).output]);
        }
        if self.has_head_bias() {
            add(names.head_bias(), &[self.vocab_size]);
        }
        list
    }

    /// How many parameters the matrices of a layer have.
    pub fn layer_parameters(&self, layer: usize) -> u64 {
        let product = |(rows, cols): (usize, usize)| (rows * cols) as u64;
        let linears: u64 = self.architecture.layer.iter().map(|weight| product(self.linear_shape(weight, layer))).sum();
        if !self.fused() {
            return linears;
        }
        linears + self.widths(layer).shortcuts(self.parallel).map(|(_, before, after)| product((before, after))).sum::<u64>()
    }

    /// Parameters of the largest matrix of a layer.
    pub fn largest_matrix(&self) -> u64 {
        let sizes = self.architecture.layer.iter().map(|weight| self.linear_shape(weight, 0));
        sizes.map(|(rows, cols)| (rows * cols) as u64).max().unwrap_or(0)
    }

    /// How many parameters a checkpoint of this config has.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(TensorSpec::parameters).sum()
    }

    /// How many of them are in shortcuts.
    pub fn shortcut_parameters(&self) -> u64 {
        self.tensors().iter().filter(|tensor| tensor.name.ends_with("_shortcut_Q")).map(TensorSpec::parameters).sum()
    }
}

/// A config and the checkpoint with its tensors.
pub struct WeightStore {
    pub config: Config,
    pub checkpoint: Checkpoint,
    pub(super) notes: Vec<String>,
}

impl WeightStore {
    /// Checks that every tensor is there, in a floating-point type and the right shape.
    ///
    /// # Errors
    /// [`crate::Error::BadTensor`] that names the first one that is not; [`crate::Error::Read`].
    pub fn new(config: Config, checkpoint: Checkpoint) -> Result<Self> {
        let mut store = Self { config, checkpoint, notes: Vec::new() };
        store.resolve_head()?;
        for spec in store.config.tensors() {
            store.find(&spec.name, &spec.shape)?;
            store.check_single(&spec.name)?;
        }
        store.note_wide();
        if let Some(head) = store.classifier() {
            store.notes.push(format!("this is a classifier: its {head} is left out, and its tied head writes text instead"));
        }
        Ok(store)
    }

    /// What the user should know about the files and their tensors.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.checkpoint.notes().iter().chain(&self.notes).map(String::as_str)
    }

    /// The type that each tensor is read in, by the name that the architecture gives it: its own, or F32 for F64.
    pub fn types(&self) -> impl Iterator<Item = (String, Dtype)> {
        self.config.tensors().into_iter().map(|spec| {
            let stored = self.checkpoint.tensor(&self.stored_name(&spec.name)).map(|tensor| tensor.dtype);
            (spec.name, stored.filter(|dtype| *dtype != Dtype::F64).unwrap_or(Dtype::F32))
        })
    }

    /// Bytes of a value of the widest of these types.
    pub fn element_size(&self) -> usize {
        self.types().map(|(_, dtype)| dtype.bitsize() / 8).max().unwrap_or(4)
    }

    /// Tensors of the checkpoint that the config does not call for, and that would be lost.
    pub fn unexpected(&self) -> Vec<String> {
        let known = self.all_stored_names();
        // Masks, frequencies and positions that old checkpoints carry.
        let harmless = ["attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias", "rotary_emb.inv_freq", "position_ids"];
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
            (0..matrix.rows).step_by(together).try_for_each(|first| matrix.row_bytes(first..(first + together).min(matrix.rows)).map(drop))?;
            each()?;
        }
        Ok(())
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<HostMatrix<'_>> {
        let stored = self.stored_name(name);
        let missing = || self.bad(&stored, format!("missing; config.json implies {shape:?}{}", self.why_missing(name)));
        let tensor = self.checkpoint.tensor(&stored).ok_or_else(missing)?;
        if tensor.shape != shape {
            return Err(self.bad(&stored, format!("expected shape {shape:?}, found {:?}{}", tensor.shape, self.sizes_left_out())));
        }
        let (rows, cols) = match shape {
            [rows, cols] => (*rows, *cols),
            _ => (1, shape[0]),
        };
        self.matrix(&stored, tensor, rows, cols)
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
        (config.norm_affine && !config.fused()).then(|| self.norm(name, config.hidden_size, config.norm_has_bias())).transpose()
    }

    /// The weights of one layer: norms and biases, and where to read the matrices.
    ///
    /// # Errors
    /// [`crate::Error::BadTensor`] if a value of a norm or bias is NaN or infinite; [`crate::Error::Read`].
    pub fn layer(&self, layer: usize) -> Result<HostLayer<'_>> {
        let (config, names) = (&self.config, Names::of(&self.config));
        let linear = |spec: &'static Weight| {
            let (rows, cols) = config.linear_shape(spec, layer);
            let name = names.layer(layer, spec.name);
            let matrix = match spec.layout {
                Layout::Linear => self.find(&format!("{name}.weight"), &[rows, cols])?,
                Layout::Conv1d => self.find(&format!("{name}.weight"), &[cols, rows])?.transposed(),
            };
            let bias = config.linear_bias(spec).then(|| self.vector(&format!("{name}.bias"), rows)).transpose()?;
            Ok(HostLinear { spec, matrix, bias })
        };
        let mut shortcuts = [None, None];
        if config.fused() {
            for (half, before, after) in config.widths(layer).shortcuts(config.parallel) {
                shortcuts[half] = Some(self.find(&names.shortcut(layer, half), &[before, after])?.transposed());
            }
        }
        let head_norms = match config.architecture.qk_norm.filter(|_| config.qk_norm) {
            None => None,
            Some(qk) => {
                let norm = |name| self.norm(&names.layer(layer, name), config.head_dim, qk.norm == crate::ops::Norm::Layer);
                Some([norm(qk.q)?, norm(qk.k)?])
            }
        };
        let mlp_norm = match config.architecture.mlp_norm {
            Some(name) => self.residual_norm(&names.layer(layer, name))?,
            None => None,
        };
        Ok(HostLayer {
            fused: config.fused(),
            linears: config.architecture.layer.iter().map(linear).collect::<Result<_>>()?,
            norms: [self.residual_norm(&names.layer(layer, config.architecture.attention_norm))?, mlp_norm],
            head_norms,
            shortcuts,
        })
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
            self.find(&names.head(), &[config.vocab_size, config.widths(config.num_hidden_layers - 1).output])?
        };
        let head_bias = config.has_head_bias().then(|| self.vector(&names.head_bias(), config.vocab_size)).transpose()?;
        let final_norm = self.residual_norm(&names.final_norm())?;
        Ok(HostEnds { fused: config.fused(), embedding, positions, final_norm, head, head_bias })
    }
}
