//! How much memory pruning takes at its peak, and how long, known before.

use super::plan::{Groups, Options};
use crate::{
    model::{Config, backward_bytes, layers_bytes, mixed_bytes, routes_bytes, row_bytes, staging_bytes, state_bytes},
    ops::{COVARIANCE_RUN, transposed_columns},
    stream::{Extent, MemoryPlan, Peak, Placement, Speed},
};

impl Options {
    /// What pruning a model of this config takes; `written` is the bytes of its tensors, `rope` the size of the table of
    /// rotary angles, `element_size` that of a stored value.
    pub fn peak(
        &self,
        memory: &MemoryPlan,
        config: &Config,
        written: u64,
        examples: &Extent,
        rope: u64,
        element_size: usize,
    ) -> Peak {
        if self.groups == Groups::Experts {
            return Self::experts_peak(memory, config, written, examples, rope, element_size);
        }
        let full = row_bytes(config.hidden_size);
        // Each by itself where squares are wanted.
        let tokens =
            if self.importance.needs_squares() { examples.longest as u64 } else { memory.batch_tokens(examples) };
        // The residual before every step and after the last one, and two gradients of it.
        let residuals = (config.points() as u64 + 3) * examples.tokens as u64 * full;
        let on_gpu = memory.placement == Placement::Gpu;
        // What goes through a mixture side by side.
        let mixed = examples.tokens as u64 * mixed_bytes(config);
        let held = if on_gpu { residuals + mixed } else { 0 };
        let routes = routes_bytes(config) * if on_gpu { examples.tokens as u64 } else { tokens };
        let table = memory.part_bytes.min(config.vocab_size as u64 * full);
        let logits = 4 * 8192.min(config.vocab_size) as u64;
        // A slice of the vocabulary: its rows, its logits and their gradient, and what the head reads, with gradients.
        let ends = table + staging_bytes(table).max(tokens * (2 * logits + 5 * full));
        let run = transposed_columns(tokens.min(COVARIANCE_RUN as u64) as usize) as u64;
        // Of experts, one matrix after the other, and the weights of one while those of the next come.
        let expert = if config.is_mixture() { config.largest_matrix() } else { 0 };
        let (mut gpu, mut largest, mut whole) = (ends, 4 * expert, 0);
        let kinds = config.kinds_of_layers().into_iter();
        for (layer, step) in kinds.flat_map(|layer| config.layer_steps(layer).map(move |step| (layer, step))) {
            let shapes = || step.linears().map(|(_, role)| config.linear_shape(role, layer));
            let bytes = |(rows, cols): (usize, usize)| rows as u64 * row_bytes(cols);
            let gradients: u64 = shapes().map(bytes).sum();
            let most = shapes().map(bytes).max().unwrap_or(0);
            let experts = if step.is_mixture() { config.resident_parameters(layer) + expert } else { 0 };
            let stored = (gradients / 4 + experts) * element_size as u64;
            let widest = shapes().map(|(rows, cols)| (rows + cols) as u64).max().unwrap_or(0);
            let signals = backward_bytes(config, layer, step, tokens, examples.longest);
            let sums = gradients + most + 4 * run * widest;
            gpu = gpu.max(stored + staging_bytes(most).max(signals + sums));
            largest = largest.max(most);
            whole = whole.max(gradients);
        }
        // Of a step: gradients, perhaps their squares; of a matrix, what comes from the GPU, and its values as they are
        // stored and widened.
        let sums = whole * if self.importance.needs_squares() { 2 } else { 1 };
        // Where coordinates leave, those of the tables, too, if the examples' come one by one.
        let apart = self.groups == Groups::Coordinates && self.importance.needs_squares();
        let tables = if apart { 2 * 2 * config.vocab_size as u64 * full } else { 0 };
        // Beside the output wherever residuals lie, so that a pass can be resumed.
        let kept = if self.importance.needs_gradient() { residuals } else { 0 };
        let host = sums + routes + tables + 3 * largest + tokens * full + table;
        Peak {
            gpu: held + rope + gpu,
            upload: largest.max(table).max(if on_gpu { 0 } else { tokens * full }),
            host: host + if memory.placement == Placement::Host { residuals } else { 0 },
            disk: written
                + kept
                + if memory.placement == Placement::Disk { 3 * examples.tokens as u64 * full } else { 0 },
        }
    }

    /// What it takes to run the examples through a mixture once. Where residuals do not stay on the GPU, no more of them
    /// are there than those of a batch.
    fn experts_peak(
        memory: &MemoryPlan,
        config: &Config,
        written: u64,
        examples: &Extent,
        rope: u64,
        element_size: usize,
    ) -> Peak {
        let tokens = memory.batch_tokens(examples);
        let held = if memory.placement == Placement::Gpu { examples.tokens as u64 } else { tokens };
        let table = (config.vocab_size as u64 * row_bytes(config.hidden_size)).min(memory.part_bytes);
        let largest = config.largest_matrix() * element_size as u64;
        let layers = layers_bytes(config, tokens, element_size);
        Peak {
            gpu: held * state_bytes(config) + rope + layers.max(table + staging_bytes(table)),
            upload: largest.max(table),
            // What is copied in one go, in two types.
            host: 2 * largest.max(table).max(32 << 20),
            disk: written,
        }
    }

    /// Seconds of all rounds with this many tokens: forward, and backward with the forward again and two products for
    /// each of its one.
    pub fn seconds(&self, speed: &Speed, config: &Config, tokens: usize) -> f64 {
        if self.groups == Groups::Experts {
            return speed.forward_seconds(config, tokens);
        }
        let passes = if self.importance.needs_gradient() { self.iterations } else { 0 };
        4.0 * passes as f64 * speed.forward_seconds(config, tokens)
    }
}
