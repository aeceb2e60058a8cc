//! How much memory recovery takes at its peak, and how long, known before.

use super::{
    job::VALIDATION,
    options::{Mode, Options},
};
use crate::{
    model::{
        Config, LOGIT_SLICE, architecture::Role, backward_bytes, mixed_bytes, routes_bytes, row_bytes, staging_bytes,
    },
    ops::{COVARIANCE_RUN, transposed_columns},
    stream::{Extent, MemoryPlan, Peak, Placement, Speed},
};

impl Options {
    /// Parameters that are trained in a layer.
    pub fn trained_parameters(&self, config: &Config, layer: usize) -> u64 {
        let mut count = 0;
        for step in config.layer_steps(layer) {
            for (weight, role) in step.linears() {
                let (rows, cols) = config.linear_shape(role, layer);
                count += match self.trains(role) {
                    Some(true) => rows * cols,
                    Some(false) => self.rank * (rows + cols),
                    None => 0,
                };
                if self.trained.biases && role != Role::Router && config.linear_bias(weight) {
                    count += rows;
                }
            }
        }
        for (role, [rows, cols]) in self.shared(config, layer) {
            count += match self.trains(role) {
                Some(true) => rows * cols,
                Some(false) => self.rank * (rows + cols),
                None => 0,
            };
        }
        if self.trained.norms && !config.fused() {
            count += config.norm_parameters(layer);
        }
        count as u64
    }

    /// The weights of the expert of a layer that every token goes to, with their sizes `[out, in]`, where some of them
    /// are trained.
    fn shared(&self, config: &Config, layer: usize) -> Vec<(Role, [usize; 2])> {
        let all = config.shared_weights(layer).into_iter().map(|(weight, shape)| (weight.holds[0], shape));
        let all: Vec<_> = all.filter(|(role, _)| *role != Role::Router).collect();
        let trained = all.iter().any(|(role, _)| self.trains(*role).is_some());
        if trained { all } else { Vec::new() }
    }

    /// Parameters that are trained in all.
    pub fn all_trained_parameters(&self, config: &Config) -> u64 {
        let layers: u64 = (0..config.layers.len()).map(|layer| self.trained_parameters(config, layer)).sum();
        // Layers that are trained by themselves end before it.
        let final_norm = self.trained.norms && !config.fused() && self.mode != Mode::Blocks;
        layers + if final_norm { config.final_norm_parameters() as u64 } else { 0 }
    }

    /// What training a model of this config takes; `written` is the bytes of its tensors, `rope` the size of the table
    /// of rotary angles, `element_size` that of a stored value, `teacher` the config of a teacher, if there is one.
    pub fn peak(
        &self,
        memory: &MemoryPlan,
        (config, teacher): (&Config, Option<&Config>),
        written: u64,
        examples: &Extent,
        rope: u64,
        element_size: usize,
    ) -> Peak {
        let full = row_bytes(config.hidden_size);
        let layers = config.layers.len();
        let on_gpu = memory.placement == Placement::Gpu;
        let blocks = self.mode == Mode::Blocks;
        let step = (self.batch_size as u64 * examples.longest as u64).min(examples.tokens as u64);
        let tokens = memory.batch_tokens(examples).min(step);
        // The residual before every step and after the last one, and two gradients of it, of the sequences of a step;
        // or two of all.
        let residuals = if blocks {
            2 * examples.tokens as u64 * full + (config.steps().len() as u64 + 3) * tokens * full
        } else {
            (config.points() as u64 + 3) * step * full
        };
        let trained = |layer| self.trained_parameters(config, layer);
        let all = self.all_trained_parameters(config);
        let most = (0..layers).map(trained).max().unwrap_or(0);
        // Each with two moments and a gradient, in f32.
        let optimiser = 16 * if blocks { most } else { all };
        let parameters = |config: &Config| -> (u64, u64) {
            let layers = (0..config.layers.len()).map(|layer| config.resident_parameters(layer));
            (config.kept_parameters(), layers.max().unwrap_or(0))
        };
        let (whole, largest_layer) = parameters(config);
        let of_teacher = teacher.map_or(0, |config| {
            let (whole, largest) = parameters(config);
            4 * if on_gpu && !blocks { whole } else { largest }
        });
        // Of trained experts, those of all layers stay there, too, where the layers do.
        let shared =
            |layer| self.shared(config, layer).iter().map(|(_, [rows, cols])| (rows * cols) as u64).sum::<u64>();
        let (whole, largest_layer) =
            (whole + (0..layers).map(shared).sum::<u64>(), largest_layer + (0..layers).map(shared).max().unwrap_or(0));
        // As stored, and with what is trained in them, in f32.
        let weights = 8 * if on_gpu && !blocks { whole } else { largest_layer };
        let table = memory.part_bytes.min(config.vocab_size as u64 * full);
        let logits = 4 * LOGIT_SLICE.min(config.vocab_size) as u64;
        let models = if teacher.is_some() { 2 } else { 1 };
        // A slice of the vocabulary: its rows, its logits and their gradient, and what the head reads, with gradients.
        let ends = models * (table + staging_bytes(table)) + tokens * (3 * logits + 6 * full);
        let run = transposed_columns(tokens.min(COVARIANCE_RUN as u64) as usize) as u64;
        // Of experts, one matrix after the other.
        let (mut work, mut largest) = (0, if config.is_mixture() { 4 * config.largest_matrix() } else { 0 });
        let kinds = config.kinds_of_layers().into_iter();
        for (layer, step) in kinds.flat_map(|layer| config.layer_steps(layer).map(move |step| (layer, step))) {
            let of_experts = if step.is_mixture() { self.shared(config, layer) } else { Vec::new() };
            let of_experts: Vec<_> = of_experts.iter().map(|(_, [rows, cols])| (*rows, *cols)).collect();
            let shapes = || {
                let own = step.linears().map(|(_, role)| config.linear_shape(role, layer));
                own.chain(of_experts.iter().copied())
            };
            let most = shapes().map(|(rows, cols)| rows as u64 * row_bytes(cols)).max().unwrap_or(0);
            let widest = shapes().map(|(rows, cols)| (rows + cols) as u64).max().unwrap_or(0);
            let signals = backward_bytes(config, layer, step, tokens, examples.longest);
            work = work.max(3 * most + signals + 4 * run * widest);
            largest = largest.max(most);
        }
        // What goes through a mixture side by side: a step's sequences forward and back, or those that are held out, or
        // in blocks all forward.
        let watched = (VALIDATION as u64 * examples.longest as u64).min(examples.tokens as u64);
        let beside = if blocks { examples.tokens as u64 } else { step.max(watched) };
        let mixed = beside * if blocks { mixed_bytes(config) / 2 } else { mixed_bytes(config) };
        let held = if on_gpu { residuals + mixed } else { 0 };
        let routes = routes_bytes(config) * if on_gpu { beside } else { tokens };
        let saved = 12 * if blocks { most } else { all };
        Peak {
            gpu: held + rope * models + optimiser + weights + of_teacher + ends.max(work) + staging_bytes(largest),
            upload: largest.max(table),
            host: 2 * saved
                + routes
                + 3 * largest * 4 / element_size.max(1) as u64
                + tokens * full
                + models * table
                + if memory.placement == Placement::Host { residuals } else { 0 },
            disk: written
                + 2 * saved * if blocks { layers as u64 } else { 1 }
                + if memory.placement == Placement::Disk { residuals } else { 0 },
        }
    }

    /// Seconds of all steps, where a sequence has this many tokens (in blocks, of each layer, which is one share of a
    /// pass): forward, and backward with the forward again and a product or two for each of its one; a teacher's
    /// forward besides.
    pub fn seconds(&self, speed: &Speed, config: &Config, sequence: usize) -> f64 {
        let tokens = self.steps * self.batch_size * sequence;
        let passes = match self.mode {
            Mode::Lora => 4.0,
            Mode::Blocks => 4.5,
            Mode::Distil => 5.0,
        };
        passes * speed.forward_seconds(config, tokens)
    }
}
