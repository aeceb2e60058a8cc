//! How long slicing will take.

use super::{
    options::{Basis, Options, Refit},
    plan::Plan,
};
use crate::{
    model::{Config, architecture::Space},
    stream::Speed,
};

impl Speed {
    /// Seconds of slicing with `tokens` calibration tokens.
    pub fn slice_seconds(&self, config: &Config, plan: &Plan, options: &Options, tokens: usize) -> f64 {
        let points = 1 + config.points();
        let eigenproblems = match options.basis {
            Basis::PerBlock => points,
            Basis::Segments(count) => 3 * count,
        };
        let eigen = eigenproblems as f64 * self.eigen_seconds(config.hidden_size);
        if options.is_paper() {
            return multiply_adds(config, plan, tokens) / self.multiply_adds + eigen;
        }
        // Cholesky's n³/3, about a thirtieth of an eigendecomposition.
        let solves = if options.refit == Refit::Full {
            config.layers.iter().map(|layer| self.eigen_seconds(layer.intermediate_size) / 30.0).sum()
        } else {
            0.0
        };
        multiply_adds_refitted(config, plan, options, tokens) / self.multiply_adds + eigen + solves
    }
}

/// Multiply-adds where a basis is found first, or the dense model runs beside the sliced one, about.
fn multiply_adds_refitted(config: &Config, plan: &Plan, options: &Options, tokens: usize) -> f64 {
    let (full, width, tokens) = (config.hidden_size as f64, plan.width as f64, tokens as f64);
    let sites = config.points() as f64;
    let parameters =
        |config: &Config| (0..config.layers.len()).map(|layer| config.layer_parameters(layer) as f64).sum::<f64>();
    let (dense, sliced) = (parameters(config), parameters(&plan.config));
    let covariances = sites * tokens * full * full / 2.0;
    // The weights' own covariances, too.
    let finding = if options.passes() > 1 { dense * (tokens + full / 2.0) + covariances } else { 0.0 };
    let reads = if options.refits() {
        tokens * (dense + sites * width * (width + full)) + if options.passes() == 1 { covariances } else { 0.0 }
    } else {
        0.0
    };
    let inner: f64 = config
        .architecture
        .weights()
        .filter(|weight| weight.writes == Space::Residual)
        .map(|weight| config.weight_shape(weight, 0).1 as f64)
        .map(|inner| inner * (inner / 2.0 + width))
        .sum();
    let writes = match options.refit {
        Refit::None => 0.0,
        Refit::Reads => tokens * sliced,
        Refit::Full => tokens * (2.0 * sliced + config.layers.len() as f64 * inner + sites * full * width),
    };
    finding + reads + writes + (dense + 2.0 * config.vocab_size as f64 * full) * width
}

/// Multiply-adds of the paper's slicing, about: weights and signals rotated, the sliced layers run, covariances summed.
pub fn multiply_adds(config: &Config, plan: &Plan, tokens: usize) -> f64 {
    let (full, width, tokens) = (config.hidden_size as f64, plan.width as f64, tokens as f64);
    let steps = config.steps().len() as f64;
    let layers: f64 = (0..config.layers.len())
        .map(|layer| {
            config.layer_parameters(layer) as f64 * (width + tokens)
                + steps * tokens * (2.0 * full * width + full * full / 2.0)
        })
        .sum();
    layers + 2.0 * config.vocab_size as f64 * full * width
}
