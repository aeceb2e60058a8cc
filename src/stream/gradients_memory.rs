//! How much memory a pass of gradients takes at its peak, known before.

use super::{
    memory::{Extent, MemoryPlan, Peak},
    store::Placement,
};
use crate::model::{Config, LOGIT_SLICE, backward_bytes, mixed_bytes, routes_bytes, row_bytes, staging_bytes};

/// What the sums over tokens of a step's gradients are made from, in bytes of f32.
#[derive(Debug, Clone, Copy)]
pub struct StepSums {
    /// All of its weights.
    pub weights: u64,
    /// The largest of them.
    pub largest: u64,
    /// Columns of the widest weight and of what it makes.
    pub widest: u64,
}

/// Bytes of the residual before every step and after the last one, and of two gradients of it: those beside an output,
/// wherever residuals lie, of a pass that can be resumed.
pub fn residual_bytes(config: &Config, sequences: &Extent) -> u64 {
    (config.points() as u64 + 3) * sequences.tokens as u64 * row_bytes(config.hidden_size)
}

/// What gradients take of sequences that go through a model `tokens` at a time; `rope` is the size of the table of
/// rotary angles, `element_size` that of a stored value, `sums` what a step's gradients take on the GPU. What is made
/// of them on the host is not in it, nor what is written or kept to be resumed.
pub fn gradients_peak(
    memory: &MemoryPlan,
    config: &Config,
    (sequences, tokens): (&Extent, u64),
    rope: u64,
    element_size: usize,
    sums: impl Fn(StepSums) -> u64,
) -> Peak {
    let full = row_bytes(config.hidden_size);
    let residuals = residual_bytes(config, sequences);
    let on_gpu = memory.placement == Placement::Gpu;
    // What goes through a mixture side by side.
    let mixed = sequences.tokens as u64 * mixed_bytes(config);
    let held = if on_gpu { residuals + mixed } else { 0 };
    let routes = routes_bytes(config) * if on_gpu { sequences.tokens as u64 } else { tokens };
    let table = memory.part_bytes.min(config.vocab_size as u64 * full);
    let logits = 4 * LOGIT_SLICE.min(config.vocab_size) as u64;
    // A slice of the vocabulary: its rows, its logits and their gradient, and what the head reads, with gradients.
    let ends = table + staging_bytes(table).max(tokens * (2 * logits + 5 * full));
    // Of experts, one matrix after the other, and the weights of one while those of the next come.
    let expert = if config.is_mixture() { config.largest_matrix() } else { 0 };
    let (mut gpu, mut largest) = (ends, 4 * expert);
    let kinds = config.kinds_of_layers().into_iter();
    for (layer, step) in kinds.flat_map(|layer| config.layer_steps(layer).map(move |step| (layer, step))) {
        let shapes = || step.linears().map(|(_, role)| config.linear_shape(role, layer));
        let bytes = |(rows, cols): (usize, usize)| rows as u64 * row_bytes(cols);
        let weights: u64 = shapes().map(bytes).sum();
        let most = shapes().map(bytes).max().unwrap_or(0);
        let experts = if step.is_mixture() { config.resident_parameters(layer) + expert } else { 0 };
        let stored = (weights / 4 + experts) * element_size as u64;
        let widest = shapes().map(|(rows, cols)| (rows + cols) as u64).max().unwrap_or(0);
        let signals = backward_bytes(config, layer, step, tokens, sequences.longest);
        let sums = sums(StepSums { weights, largest: most, widest });
        gpu = gpu.max(stored + staging_bytes(most).max(signals + sums));
        largest = largest.max(most);
    }
    // Of a matrix, what comes from the GPU, and its values as they are stored and widened.
    let host = routes + 3 * largest + tokens * full + table;
    Peak {
        gpu: held + rope + gpu,
        upload: largest.max(table).max(if on_gpu { 0 } else { tokens * full }),
        host: host + if memory.placement == Placement::Host { residuals } else { 0 },
        disk: if memory.placement == Placement::Disk { 3 * sequences.tokens as u64 * full } else { 0 },
    }
}
