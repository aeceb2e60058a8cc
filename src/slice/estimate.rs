//! How long a run will take, from a second of trying.

use std::time::{Duration, Instant};

use faer::Mat;

use super::{
    options::{Basis, Options, Refit},
    plan::Plan,
};
use crate::{
    error::Result,
    gpu::Gpu,
    linalg::eigh,
    model::{Config, architecture::Space},
};

/// What this machine does in a second.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Speed {
    /// Of matrix products on the GPU.
    pub multiply_adds: f64,
    /// Seconds of an eigendecomposition of width `EIGEN_WIDTH`.
    pub eigen_seconds: f64,
}

/// Wide enough to tell, and done in a tenth of a second.
const EIGEN_WIDTH: usize = 512;
const PROBE: Duration = Duration::from_millis(600);

impl Speed {
    /// Tries for about a second: products as wide as the model's, and one eigenproblem.
    ///
    /// # Errors
    /// Whatever the GPU reports.
    pub fn measure(gpu: &Gpu, config: &Config) -> Result<Self> {
        let (tokens, width) = (256, config.hidden_size.min(1024));
        let (x, w) = (gpu.zeros(tokens, width)?, gpu.zeros(width, width)?);
        let y = gpu.zeros(tokens, width)?;
        let product = || gpu.linear(&x, &w, None, &y, 0, false).and_then(|()| gpu.finish());
        // The first one compiles the kernel.
        product()?;
        let (began, mut count) = (Instant::now(), 0);
        while began.elapsed() < PROBE {
            product()?;
            count += 1;
        }
        let multiply_adds = (count * tokens * width * width) as f64 / began.elapsed().as_secs_f64();
        let began = Instant::now();
        eigh(Mat::from_fn(EIGEN_WIDTH, EIGEN_WIDTH, |i, j| 1.0 / (1 + i.abs_diff(j)) as f64).as_ref())?;
        Ok(Self { multiply_adds, eigen_seconds: began.elapsed().as_secs_f64() })
    }

    /// Seconds of slicing with `tokens` calibration tokens.
    pub fn slice_seconds(&self, config: &Config, plan: &Plan, options: &Options, tokens: usize) -> f64 {
        let points = 1 + config.points();
        let cubic = |width: usize| (width as f64 / EIGEN_WIDTH as f64).powi(3) * self.eigen_seconds;
        let eigenproblems = match options.basis {
            Basis::PerBlock => points,
            Basis::Segments(count) => 3 * count,
        };
        let eigen = eigenproblems as f64 * cubic(config.hidden_size);
        if options.is_paper() {
            return multiply_adds(config, plan, tokens) / self.multiply_adds + eigen;
        }
        // Cholesky's n³/3, about a thirtieth of an eigendecomposition.
        let solves = if options.refit == Refit::Full {
            config.layers.iter().map(|layer| cubic(layer.intermediate_size) / 30.0).sum()
        } else {
            0.0
        };
        multiply_adds_refitted(config, plan, options, tokens) / self.multiply_adds + eigen + solves
    }

    /// Seconds of running `tokens` tokens through a whole model, head included.
    pub fn forward_seconds(&self, config: &Config, tokens: usize) -> f64 {
        let layers: u64 = (0..config.layers.len()).map(|layer| config.layer_parameters(layer)).sum();
        let head = (config.vocab_size * config.hidden_size) as u64;
        (layers + head) as f64 * tokens as f64 / self.multiply_adds
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
