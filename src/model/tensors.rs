//! Names and shapes of the tensors of a config. The only place that spells names.

use std::ops::Range;

use super::{
    architecture::{Layout, Position, QkNorm, QkSpan, Role, Space, Weight},
    config::Config,
    layer_spec::{DeltaNet, Step},
    slicing::LayerWidths,
    storage::{self, Rows},
};
use crate::checkpoint::{BLOCK, BLOCK_BYTES};

/// After the name of a tensor with a weight of all experts, in that of the one with their biases.
pub(super) const TOGETHER_BIAS: &str = "_bias";
/// After it, in those of the tensors that hold it in MXFP4: its values, and their scales.
pub(super) const TOGETHER_MXFP4: [&str; 2] = ["_blocks", "_scales"];

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

    /// The tensors that hold its values in MXFP4, `[matrices, out, in / 32, 16]`, and their scales, where it is
    /// `[matrices, in, out]`.
    pub fn in_mxfp4(&self) -> Option<[Self; 2]> {
        let &[matrices, inner, out] = self.shape.as_slice() else { return None };
        let (scales, values) = (vec![matrices, out, inner / BLOCK], vec![matrices, out, inner / BLOCK, BLOCK_BYTES]);
        let [of_values, of_scales] = TOGETHER_MXFP4.map(|end| format!("{}{end}", self.name));
        Some([Self { name: of_values, shape: values }, Self { name: of_scales, shape: scales }])
    }

    /// Which rows are those of an expert, of a tensor that holds all of a layer: all dimensions but the last count
    /// rows.
    pub fn rows_of(&self, expert: usize) -> Range<usize> {
        let each = self.shape.get(1..self.shape.len().max(2) - 1).unwrap_or_default().iter().product::<usize>();
        expert * each..(expert + 1) * each
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
            Position::Rope { .. } | Position::None => None,
        }
    }

    /// What starts the names of all tensors before the first layer.
    pub fn before_layers(&self) -> Vec<String> {
        let norm = self.embedding_norm().map(|name| format!("{name}."));
        [Some(self.embedding()), norm, self.positions()].into_iter().flatten().collect()
    }

    /// The norm of the embedded tokens.
    pub fn embedding_norm(&self) -> Option<String> {
        self.config.architecture.names.embedding_norm.map(|name| self.top(name))
    }

    /// The tensors whose columns, or values, are coordinates of the residual stream: all but the linear weights.
    pub fn of_coordinates(&self) -> Vec<String> {
        let layers = (0..self.config.layers.len()).flat_map(|layer| self.layer_norms(layer));
        let norms = layers.chain([self.final_norm()]).chain(self.embedding_norm());
        let tables = [Some(self.embedding()), self.positions(), Some(self.head())];
        let both = |name: String| [format!("{name}.weight"), format!("{name}.bias")];
        norms.flat_map(both).chain(tables.into_iter().flatten()).collect()
    }

    /// The weight of the head.
    pub fn head(&self) -> String {
        format!("{}.weight", self.config.architecture.names.head)
    }

    /// The bias of the head.
    pub fn head_bias(&self) -> String {
        format!("{}.bias", self.config.architecture.names.head)
    }

    /// The norms of a layer that the residual, or what is added to it, goes through, each once.
    pub fn layer_norms(&self, layer: usize) -> Vec<String> {
        self.config.norms(layer).into_iter().map(|name| self.layer(layer, name)).collect()
    }

    /// The name of a weight of an expert, where the layer is a mixture.
    pub fn expert(&self, layer: usize, expert: usize, weight: &Weight) -> String {
        let experts = self.config.architecture.mixture.map_or("", |mixture| mixture.experts);
        self.layer(layer, &format!("{experts}.{expert}.{}.weight", weight.name))
    }

    /// The names within a layer of the weights of its experts, and of the one that every token goes to, where there are
    /// any, without what they all end with; whole, where one tensor holds all of them.
    pub fn of_experts(&self, layer: usize) -> Vec<String> {
        let experts = self.config.architecture.mixture.map_or("", |mixture| mixture.experts);
        let (start, together) = (self.layer(layer, ""), self.config.together(layer));
        let own = self.config.expert_weights(layer).filter(|_| together.is_empty());
        let own = own.map(|(expert, weight)| format!("{experts}.{expert}.{}", weight.name));
        let together = together.iter().filter_map(|spec| spec.name.strip_prefix(&start)).map(str::to_owned);
        own.chain(together)
            .chain(self.config.shared_weights(layer).into_iter().map(|(weight, _)| weight.name.to_owned()))
            .collect()
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
        self.layer_steps(layer).filter(move |step| fused && widths.has_shortcut(*step)).map(move |step| {
            let (before, after) = widths.step(step);
            (step, before, after)
        })
    }

    /// `[out, in]` of a linear weight.
    pub fn linear_shape(&self, role: Role, layer: usize) -> (usize, usize) {
        let (widths, spec) = (self.widths(layer), &self.layers[layer]);
        let step = self.layer_steps(layer).find(|step| step.linears().any(|(_, held)| held == role));
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
        storage::rows(weight, role, &self.layers[layer], self.interleaved_pairs(layer))
    }

    /// How many pairs of coordinates of a head turn, where they are stored side by side.
    fn interleaved_pairs(&self, layer: usize) -> Option<usize> {
        let rope = self.layers[layer].rope.and_then(|table| self.ropes.get(table));
        rope.filter(|_| self.architecture.interleaved()).map(|rope| rope.inverse_frequencies.len())
    }

    /// Where the stored weights of the norms of queries and keys have those of `count` coordinates.
    pub fn head_norm_places(&self, layer: usize, count: usize) -> Vec<usize> {
        let (pairs, width) = (self.interleaved_pairs(layer), self.layers[layer].head_dim);
        let place = |j: usize| pairs.map_or(j, |pairs| storage::side_by_side(j, pairs));
        (0..count).map(|at| at / width * width + place(at % width)).collect()
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
    pub(super) fn position_rows(&self) -> Option<usize> {
        match self.architecture.attention.position {
            Position::Learned { offset, .. } => Some(self.max_position_embeddings + offset),
            Position::Rope { .. } | Position::None => None,
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
        if let Some(name) = names.embedding_norm() {
            norm(&mut add, name);
        }
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
            let together = self.together(layer);
            for (expert, weight) in self.expert_weights(layer).filter(|_| together.is_empty()) {
                let (rows, cols) = self.weight_shape(weight, layer);
                add(names.expert(layer, expert, weight), &[rows, cols]);
            }
            for TensorSpec { name, shape } in together.into_iter().chain(self.sinks(layer)) {
                add(name, &shape);
            }
            for (weight, shape) in self.shared_weights(layer) {
                add(names.layer(layer, &format!("{}.weight", weight.name)), &shape);
            }
            for (stem, shape) in self.head_norms(layer).concat() {
                add(names.layer(layer, &format!("{stem}.weight")), &shape);
                if self.qk_norm().is_some_and(|qk| qk.bias) {
                    add(names.layer(layer, &format!("{stem}.bias")), &shape);
                }
            }
            for (name, shape) in self.delta_tensors(layer).into_iter().flatten() {
                add(names.layer(layer, &name), &shape);
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

    /// The tensors that hold the weights of all experts of a layer, and after them those that hold their biases, all of
    /// them one expert after the other; none where each expert has tensors of its own.
    pub fn together(&self, layer: usize) -> Vec<TensorSpec> {
        let tensors = self.architecture.mixture.and_then(|mixture| Some((mixture.weights, mixture.together?)));
        let (Some((weights, together)), Some(experts)) = (tensors, self.layers[layer].experts) else {
            return Vec::new();
        };
        let (count, inner, width) = (experts.count, self.layers[layer].intermediate_size, self.hidden_size);
        let names = Names::of(self);
        let spec =
            |name: String, shape: &[usize]| TensorSpec { name: names.layer(layer, &name), shape: shape.to_vec() };
        let bias = |name: &str| format!("{name}{TOGETHER_BIAS}");
        let mut tensors = vec![
            spec(together.gate_up.to_owned(), &[count, width, 2 * inner]),
            spec(together.down.to_owned(), &[count, inner, width]),
        ];
        if weights.iter().any(|weight| self.has_bias(weight.bias)) {
            tensors.push(spec(bias(together.gate_up), &[count, 2 * inner]));
            tensors.push(spec(bias(together.down), &[count, width]));
        }
        tensors
    }

    /// The logits of a layer's heads that stand for no key, where it has such.
    pub fn sinks(&self, layer: usize) -> Option<TensorSpec> {
        let name = self.architecture.attention.sinks.filter(|_| self.layers[layer].sinks)?;
        let name = Names::of(self).layer(layer, name);
        Some(TensorSpec { name, shape: vec![self.layers[layer].heads] })
    }

    /// What a gated delta net has beside its linear weights, by names within the layer, with their shapes: the
    /// convolution, rates, biases of the decay, and the weight of the norm of each head's result.
    pub fn delta_tensors(&self, layer: usize) -> Option<[(String, Vec<usize>); 4]> {
        let (row, DeltaNet { shape, taps }) = (self.architecture.delta_net?, self.layers[layer].delta?);
        Some([
            (format!("{}.weight", row.convolution), vec![shape.qkv_width(), 1, taps]),
            (row.rate.to_owned(), vec![shape.value_heads]),
            (row.decay_bias.to_owned(), vec![shape.value_heads]),
            (format!("{}.weight", row.norm), vec![shape.value_dim]),
        ])
    }

    /// The norms of queries and keys, where the model has them.
    pub fn qk_norm(&self) -> Option<QkNorm> {
        self.architecture.attention.qk_norm.filter(|_| self.qk_norm)
    }

    /// What the norms of queries, and those of keys, are called in a layer, and the shapes of their weights.
    pub fn head_norms(&self, layer: usize) -> [Vec<(String, Vec<usize>)>; 2] {
        let spec = &self.layers[layer];
        let Some(qk) = self.qk_norm().filter(|_| spec.delta.is_none()) else { return Default::default() };
        [(qk.q, spec.heads), (qk.k, spec.kv_heads)].map(|(stem, heads)| {
            let one = |shape: &[usize]| vec![(stem.to_owned(), shape.to_vec())];
            match qk.span {
                QkSpan::Shared => one(&[spec.head_dim]),
                QkSpan::PerHead => one(&[heads, spec.head_dim]),
                QkSpan::Whole => one(&[heads * spec.head_dim]),
                QkSpan::PerHeadTensors => {
                    (0..heads).map(|head| (format!("{stem}.norms.{head}"), vec![spec.head_dim])).collect()
                }
            }
        })
    }
}
