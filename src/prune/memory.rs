//! How much memory pruning takes at its peak, and how long, known before.

use super::plan::{Groups, Options};
use crate::{
    model::{Config, Step, layers_bytes, row_bytes, staging_bytes, state_bytes},
    ops::{COVARIANCE_RUN, transposed_columns},
    stream::{Extent, MemoryPlan, Peak, Placement, Speed, StepSums, gradients_peak, residual_bytes},
};

impl Options {
    /// What pruning a model of this config takes; `written` is the bytes of its tensors, `rope` the size of the table
    /// of rotary angles, `element_size` that of a stored value.
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
        // Each by itself where squares are wanted.
        let squares = self.importance.needs_squares();
        let tokens = if squares { examples.longest as u64 } else { memory.batch_tokens(examples) };
        let run = transposed_columns(tokens.min(COVARIANCE_RUN as u64) as usize) as u64;
        let sums = |step: StepSums| step.weights + step.largest + 4 * run * step.widest;
        let mut peak = gradients_peak(memory, config, (examples, tokens), rope, element_size, sums);
        // Of a step, in f32: gradients, perhaps their squares.
        let weights = |layer: usize, step: Step| {
            let shapes = step.linears().map(|(_, role)| config.linear_shape(role, layer));
            shapes.map(|(rows, cols)| rows as u64 * row_bytes(cols)).sum::<u64>()
        };
        let kinds = config.kinds_of_layers().into_iter();
        let steps = kinds.flat_map(|layer| config.layer_steps(layer).map(move |step| (layer, step)));
        let whole = steps.map(|(layer, step)| weights(layer, step)).max().unwrap_or(0);
        // Where coordinates leave, those of the tables, too, if the examples' come one by one.
        let apart = self.groups == Groups::Coordinates && squares;
        let tables = if apart { 2 * 2 * config.vocab_size as u64 * row_bytes(config.hidden_size) } else { 0 };
        peak.host += whole * if squares { 2 } else { 1 } + tables;
        let kept = if self.importance.needs_gradient() { residual_bytes(config, examples) } else { 0 };
        peak.disk += written + kept;
        peak
    }

    /// What it takes to run the examples through a mixture once. Where residuals do not stay on the GPU, no more of
    /// them are there than those of a batch.
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
