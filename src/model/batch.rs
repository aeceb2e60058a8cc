//! Sequences of any length, concatenated: nothing is padded, so nothing padded can leak into a result.

use std::ops::Range;

use super::{
    Config, DeltaNet, LayerContext, LayerSpec, Step,
    architecture::{BlockKind, Role},
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    ops::{Sequence, attention_backward_bytes, sequences},
};

/// Some whole sequences on the GPU.
pub struct Batch {
    /// Token ids of all sequences.
    pub ids: Matrix,
    /// The position of each token in its sequence: the row of it in a table of positions, or of rotary angles.
    pub positions: Matrix,
    /// Which tokens belong together.
    pub sequences: Vec<Sequence>,
    pub tokens: usize,
}

impl Config {
    /// The row of position 0 in tables of positions for sequences of this length.
    pub fn first_table_row(&self, length: usize) -> usize {
        self.ropes.iter().map(|rope| rope.first_row(length)).max().unwrap_or(0)
    }

    /// The rows of tables of positions for these tokens of a sequence that ends with them.
    pub fn table_rows(&self, tokens: Range<usize>) -> Range<u32> {
        let first = self.first_table_row(tokens.end);
        (first + tokens.start) as u32..(first + tokens.end) as u32
    }
}

impl Batch {
    /// Uploads sequences that start at position 0.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(gpu: &Gpu, config: &Config, rows: &[&[u32]]) -> Result<Self> {
        let ids: Vec<u32> = rows.iter().flat_map(|row| row.iter().copied()).collect();
        let positions: Vec<u32> = rows.iter().flat_map(|row| config.table_rows(0..row.len())).collect();
        let sequences = sequences(rows.iter().map(|row| row.len()));
        Ok(Self { ids: gpu.upload_u32(&ids)?, positions: gpu.upload_u32(&positions)?, tokens: ids.len(), sequences })
    }

    /// What a layer needs to know when these sequences run through it whole.
    pub fn context<'a>(
        &'a self,
        gpu: &'a Gpu,
        config: &'a Config,
        layer: usize,
        rope_tables: &'a [Matrix],
    ) -> LayerContext<'a> {
        LayerContext {
            gpu,
            config,
            layer,
            positions: &self.positions,
            rope_tables,
            sequences: &self.sequences,
            cache: None,
        }
    }
}

/// Enough tokens to keep a GPU busy; more only costs memory.
pub const BATCH_TOKENS: usize = 2048;

/// How many sequences run together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BatchSize {
    /// About this many tokens, and one sequence at least.
    pub tokens: usize,
    /// Up to this many sequences; then, the number of tokens does not matter.
    pub rows: Option<usize>,
}

impl Default for BatchSize {
    fn default() -> Self {
        Self { tokens: BATCH_TOKENS, rows: None }
    }
}

/// Bytes of f32 rows of `width` values on the GPU.
pub fn row_bytes(width: usize) -> u64 {
    4 * width.next_multiple_of(4) as u64
}

/// Bytes that a token takes on the GPU while a layer is worked on, whether or not it is its turn: its residual, and in
/// a mixture also what all experts read of it.
pub fn state_bytes(config: &Config) -> u64 {
    let rows = if config.is_mixture() { 2 } else { 1 };
    rows * row_bytes(config.hidden_size)
}

/// Bytes that a token takes on the GPU, beside its residual and the gradient of that, while the experts of a mixture
/// come on the way back, whether or not it is its turn: what they read, and the gradient of that, of the router's
/// logits and of gates; nothing where there is no mixture. On the way forward, at most half of it.
pub fn mixed_bytes(config: &Config) -> u64 {
    let of = |spec: &LayerSpec| {
        let experts = spec.experts?;
        Some(2 * (row_bytes(config.hidden_size) + row_bytes(experts.count) + row_bytes(experts.chosen)))
    };
    config.layers.iter().filter_map(of).max().unwrap_or(0)
}

/// Bytes of an upload that wait in staging memory at a time, where memory is short: uploads go in pieces.
pub fn staging_bytes(bytes: u64) -> u64 {
    bytes.min(64 << 20)
}

/// Bytes of the signals of one token at their peak in a step of a layer, from `input` coordinates to `output`: what it
/// reads and hands on included.
pub fn signal_bytes(config: &Config, layer: usize, step: Step, input: usize, output: usize) -> u64 {
    let spec = &config.layers[layer];
    let (mut heads, mut attention, mut mlp) = (0, 0, 0);
    for block in step.blocks {
        match block.kind {
            BlockKind::Attention => {
                heads = row_bytes(spec.heads_width());
                attention = row_bytes(input) + row_bytes(spec.qkv_width()) + heads;
            }
            BlockKind::DeltaNet => {
                heads = row_bytes(spec.heads_width());
                let Some(shape) = spec.delta.map(|delta| delta.shape) else { continue };
                let scan = row_bytes(shape.qkv_width()) + row_bytes(2 * shape.value_heads) + heads;
                attention = row_bytes(input) + row_bytes(spec.qkv_width()) + scan;
            }
            // What all experts read, the router's logits, and what one expert reads, has inside and gives: at most of
            // all tokens.
            BlockKind::Mixture => {
                let shared = spec.experts.and_then(|experts| experts.shared).unwrap_or(0);
                let (inner, count) = (spec.intermediate_size.max(shared), spec.rows(Role::Router));
                mlp = 2 * row_bytes(input) + row_bytes(count) + row_bytes(2 * inner) + row_bytes(inner);
                mlp += row_bytes(output);
            }
            BlockKind::Mlp { gated } => {
                let inner = spec.intermediate_size * if gated { 2 } else { 1 };
                mlp = row_bytes(input) + row_bytes(inner) + row_bytes(spec.intermediate_size);
            }
        }
    }
    // A result and its norm, before they are added to the residual.
    let after = if step.blocks.iter().any(|block| block.norm_after.is_some()) { 2 * row_bytes(output) } else { 0 };
    row_bytes(input) + attention.max(heads + row_bytes(output) + after + mlp)
}

/// Bytes on the GPU that the gradient of a step takes for `tokens` tokens, beside the residual and what is made of its
/// weights; `longest` is the length of the longest sequence.
pub fn backward_bytes(config: &Config, layer: usize, step: Step, tokens: u64, longest: usize) -> u64 {
    let (spec, full) = (&config.layers[layer], row_bytes(config.hidden_size));
    let attends = step.blocks.iter().any(|block| block.kind == BlockKind::Attention);
    let shares = if attends { attention_backward_bytes(&spec.attention_shape(), longest) } else { 0 };
    // What goes through the states: gates, values as they are corrected, and the gradients of values and of the result.
    let of_states =
        spec.delta.map_or(0, |DeltaNet { shape, .. }| tokens * row_bytes(shape.work_width()) + states_bytes(config));
    // What the forward pass has, and a gradient of each.
    let signals = 2 * signal_bytes(config, layer, step, config.hidden_size, config.hidden_size) + 4 * full;
    tokens * signals + shares + of_states
}

impl Config {
    /// Of the layers with attention, of those with what is in its place, and of mixtures, the largest one each.
    pub fn kinds_of_layers(&self) -> Vec<usize> {
        let largest = |kind: (bool, bool)| {
            let of = |spec: &LayerSpec| (spec.delta.is_some(), spec.experts.is_some());
            let layers = (0..self.layers.len()).filter(|&layer| of(&self.layers[layer]) == kind);
            layers.max_by_key(|&layer| self.layer_parameters(layer))
        };
        [(false, false), (true, false), (false, true), (true, true)].into_iter().filter_map(largest).collect()
    }
}

/// What each buffer of a gated delta net may take more than its values.
const ROUNDING: u64 = 1 << 16;

/// Bytes on the GPU beside these that do not depend on the number of tokens: the states of the gated delta nets of a
/// layer, and what these have beside their linear weights.
pub fn states_bytes(config: &Config) -> u64 {
    let states = |delta: DeltaNet| {
        let (shape, channels) = (delta.shape, row_bytes(delta.shape.qkv_width()));
        let states = (delta.together() * shape.state_rows()) as u64 * row_bytes(shape.value_dim);
        // Weights of the convolution; the states, what the scan reads and gives, and the small ones.
        states + delta.taps as u64 * channels + 4 * ROUNDING
    };
    config.layers.iter().filter_map(|layer| layer.delta).map(states).max().unwrap_or(0)
}

/// The most bytes on the GPU while `tokens` tokens run through a layer: its weights, of a mixture those of one expert,
/// and the signals beside the residual.
pub fn layers_bytes(config: &Config, tokens: u64, element_size: usize) -> u64 {
    let layers = 0..config.layers.len();
    let signals = |layer| {
        let widths = config.widths(layer);
        let bytes = |step| {
            let (before, after) = widths.step(step);
            signal_bytes(config, layer, step, before, after)
        };
        config.layer_steps(layer).map(bytes).max().unwrap_or(0)
    };
    let weights = layers.clone().map(|layer| config.resident_parameters(layer)).max().unwrap_or(0);
    let upload = staging_bytes(config.largest_matrix() * element_size as u64);
    let signals = tokens * layers.map(signals).max().unwrap_or(0) + states_bytes(config);
    // Experts come while others work.
    weights * element_size as u64 + if config.is_mixture() { signals + upload } else { signals.max(upload) }
}

/// Ranges of consecutive rows that make a batch each, never more than the widest activation of a layer lets one binding
/// hold.
///
/// # Errors
/// [`Error::Usage`] if one sequence alone is too long for the adapter.
pub fn plan_batches(
    gpu: &Gpu,
    config: &Config,
    rows: &[Vec<u32>],
    size: BatchSize,
) -> Result<Vec<std::ops::Range<usize>>> {
    let widest = config.layers.iter().map(|layer| {
        let experts = layer.rows(Role::Router);
        // Gradients go through batches of the same size.
        let of_states = layer.delta.map_or(0, |delta| delta.shape.work_width());
        layer.qkv_width().max(layer.heads_width()).max(experts).max(of_states)
    });
    let widest = widest.max();
    let widest = widest.unwrap_or(0).max(config.hidden_size);
    let most = gpu.rows_per_binding(widest.next_multiple_of(4) * 4);
    if let Some(longest) = rows.iter().map(Vec::len).max().filter(|&longest| longest > most) {
        return Err(Error::Usage(format!(
            "a sequence of {longest} tokens exceeds the {most} that one binding of {} holds for this model; shorten \
             the sequences (--cal-max-seqlen, --ppl-eval-seqlen, --seqlen)",
            gpu.adapter().name
        )));
    }
    let target = if size.rows.is_some() { most } else { size.tokens.min(most) };
    let mut ranges = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (index, row) in rows.iter().enumerate() {
        let full = tokens + row.len() > target || size.rows.is_some_and(|most| index - start >= most);
        if index > start && full {
            ranges.push(start..index);
            (start, tokens) = (index, 0);
        }
        tokens += row.len();
    }
    if start < rows.len() {
        ranges.push(start..rows.len());
    }
    Ok(ranges)
}
