//! What a machine does in a second, from a second of trying.

use std::time::{Duration, Instant};

use faer::Mat;

use crate::{error::Result, gpu::Gpu, linalg::eigh, model::Config};

/// What this machine does in a second.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Speed {
    /// Of matrix products on the GPU.
    pub multiply_adds: f64,
    /// Seconds of an eigendecomposition of width `EIGEN_WIDTH`.
    eigen_seconds: f64,
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

    /// Seconds of an eigendecomposition of this width.
    pub fn eigen_seconds(&self, width: usize) -> f64 {
        (width as f64 / EIGEN_WIDTH as f64).powi(3) * self.eigen_seconds
    }

    /// Seconds of running `tokens` tokens through a whole model, head included.
    pub fn forward_seconds(&self, config: &Config, tokens: usize) -> f64 {
        let layers: u64 = (0..config.layers.len()).map(|layer| config.active_parameters(layer)).sum();
        let head = (config.vocab_size * config.hidden_size) as u64;
        (layers + head) as f64 * tokens as f64 / self.multiply_adds
    }
}
