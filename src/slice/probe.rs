//! How long a run will take, from a second of trying.

use std::time::{Duration, Instant};

use faer::Mat;

use super::plan::Plan;
use crate::{
    error::Result,
    gpu::Gpu,
    linalg::eigh,
    model::{Config, halves},
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

    /// Seconds of slicing with so many calibration tokens.
    pub fn slice_seconds(&self, config: &Config, plan: &Plan, tokens: usize) -> f64 {
        let sites = 1 + config.num_hidden_layers * halves(config).len();
        let eigen = (config.hidden_size as f64 / EIGEN_WIDTH as f64).powi(3) * self.eigen_seconds;
        work(config, plan, tokens) / self.multiply_adds + sites as f64 * eigen
    }

    /// Seconds of running so many tokens through a whole model, head included.
    pub fn forward_seconds(&self, config: &Config, tokens: usize) -> f64 {
        let layers: u64 = (0..config.num_hidden_layers).map(|layer| config.layer_parameters(layer)).sum();
        let head = (config.vocab_size * config.hidden_size) as u64;
        (layers + head) as f64 * tokens as f64 / self.multiply_adds
    }
}

/// Multiply-adds of slicing, about: weights and signals rotated, the sliced layers run, covariances summed.
pub fn work(config: &Config, plan: &Plan, tokens: usize) -> f64 {
    let (full, width, tokens) = (config.hidden_size as f64, plan.width as f64, tokens as f64);
    let halves = halves(config).len() as f64;
    let layers: f64 = (0..config.num_hidden_layers)
        .map(|layer| config.layer_parameters(layer) as f64 * (width + tokens) + halves * tokens * (2.0 * full * width + full * full / 2.0))
        .sum();
    layers + 2.0 * config.vocab_size as f64 * full * width
}
