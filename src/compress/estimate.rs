//! How long a compression will take, about, and what it records.

use super::{
    axis::Axis,
    dense::Recorded,
    plan::{Effort, Options},
    search::WATCHED_TOKENS,
    sensitivity::sensed_tokens,
};
use crate::{
    model::Config,
    stream::{Extent, Speed},
};

impl Options {
    /// How often the model is gone through, at most: the survey, the gradients where there are any, the probes, the
    /// candidates, the result.
    pub fn passes(&self) -> usize {
        2 + usize::from(self.senses()) + self.probes() + self.candidates()
    }

    /// Whether selections and fits may go by gradients: not where experts alone leave, which do so by their results.
    pub fn senses(&self) -> bool {
        self.axes.iter().any(|&axis| axis != Axis::Experts)
    }

    /// The most candidates that are not probes too: where layers may differ, the best one is measured again, by layer,
    /// and then what follows from that.
    fn candidates(&self) -> usize {
        let rounds = if self.axes.len() > 1 { self.effort.rounds() } else { 0 };
        rounds + 2 * usize::from(self.per_layer)
    }

    /// The most probes: several bases of a width and ways of leaving out layers are tried at one depth.
    fn probes(&self) -> usize {
        let tried = match self.effort {
            Effort::Quick => 1,
            Effort::Normal => 2,
            Effort::Thorough => 4,
        };
        self.axes.len() * self.effort.depths().len() + tried
    }

    /// Bytes of what is recorded of the dense model while sizes are compared.
    pub fn recorded_bytes(&self, config: &Config, calibration: &Extent) -> u64 {
        let compared = self.effort.compared_tokens(config, calibration.tokens);
        // Sequences are whole.
        let most = compared + WATCHED_TOKENS + 2 * calibration.longest;
        let kinds = if self.axes.contains(&Axis::Width) { 2 } else { 1 };
        kinds * Recorded::bytes(config, most.min(calibration.tokens))
    }

    /// Seconds for this many tokens.
    pub fn seconds(&self, speed: &Speed, config: &Config, tokens: usize) -> f64 {
        // The dense model, the smaller one for the sums and for the result; and the sums of the regressions.
        let inner = |layer: usize| {
            let spec = &config.layers[layer];
            let (d, heads, channels) = (config.hidden_size, spec.heads_width(), spec.intermediate_size);
            // A token is summed for each expert that it goes to.
            let (chosen, shared) = spec.experts.map_or((1, 0), |of| (of.chosen, of.shared.unwrap_or(0)));
            let mlp = |channels: usize| channels * (channels + d);
            2 * d * d + heads * (heads + d) + chosen * mlp(channels) + mlp(shared)
        };
        let sums: usize = (0..config.layers.len()).map(inner).sum();
        let solves: f64 = (0..config.layers.len())
            .map(|layer| {
                let spec = &config.layers[layer];
                let experts = spec.experts.map_or(1, |experts| experts.count) as f64;
                // A Cholesky factorisation and its solves take about an eighth of an eigenproblem of the same width.
                [(1.0, config.hidden_size), (1.0, spec.heads_width()), (experts, spec.intermediate_size)]
                    .map(|(times, width)| times * speed.eigen_seconds(width) / 8.0)
                    .iter()
                    .sum::<f64>()
            })
            .sum();
        // The experts choose their tokens once more, and are fitted to what they read of them.
        let runs = if config.is_mixture() { 6.0 } else { 3.0 };
        let fit = |tokens: usize| {
            runs * speed.forward_seconds(config, tokens) + (sums * tokens) as f64 / speed.multiply_adds + solves
        };
        // Forward, and back with the forward again and a product for each of its one.
        let sensed = if self.senses() { 3.0 * speed.forward_seconds(config, sensed_tokens(tokens)) } else { 0.0 };
        let compared = (self.probes() + self.candidates()) as f64;
        speed.forward_seconds(config, tokens)
            + sensed
            + compared * fit(self.effort.compared_tokens(config, tokens))
            + fit(tokens)
    }
}
