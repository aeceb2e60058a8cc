//! The covariance of a signal over all calibration tokens, and its principal axes.

use faer::Mat;

use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    linalg::{Eigen, eigh},
    ops::COVARIANCE_TOKENS,
};

/// C = Σ_tokens x·xᵀ, not centred. Chunks of 64 tokens and batches of 2048 are summed in f32 on the GPU, batches in f64 here: with one running
/// f32 sum, the few tokens of huge norm that models have would swamp the small eigenvalues.
#[derive(Debug, Clone)]
pub struct Covariance {
    width: usize,
    /// Row-major; only the upper triangle means anything.
    sum: Vec<f64>,
}

impl Covariance {
    /// Of no tokens yet.
    pub fn new(width: usize) -> Self {
        Self { width, sum: vec![0.0; width * width] }
    }

    /// Adds the tokens `x` `[tokens, width]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the width differs; whatever the readback reports.
    pub fn add(&mut self, gpu: &Gpu, x: &Matrix) -> Result<()> {
        if x.cols() != self.width {
            return Err(Error::shape("covariance", format!("tokens of {}, expected {}", x.cols(), self.width)));
        }
        for first in (0..x.rows()).step_by(COVARIANCE_TOKENS) {
            let batch = gpu.covariance(&x.view(first..x.rows().min(first + COVARIANCE_TOKENS))?)?;
            let values = gpu.download(&batch)?;
            for row in 0..self.width {
                let upper = row * self.width + row..(row + 1) * self.width;
                self.sum[upper.clone()].iter_mut().zip(&values[upper]).for_each(|(sum, &value)| *sum += f64::from(value));
            }
        }
        Ok(())
    }

    /// The principal axes, by descending eigenvalue.
    ///
    /// # Errors
    /// [`Error::Numerical`] if the signal was not finite or the solve failed its check.
    pub fn principal_axes(&self) -> Result<Eigen> {
        eigh(Mat::from_fn(self.width, self.width, |i, j| self.sum[i.min(j) * self.width + i.max(j)]).as_ref())
    }
}
