//! The covariance of a signal over all calibration tokens, and its principal axes.

use std::fmt;

use faer::Mat;
use rayon::prelude::*;

use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix, Readback},
    linalg::{Eigen, eigh},
    model::Config,
    ops::{COVARIANCE_TOKENS, Norm, RowCopy},
};

/// C = Σ_tokens x·xᵀ, not centred. Chunks of 64 tokens and batches of 2048 are summed in f32 on the GPU, batches in f64
/// here: with one running f32 sum, the few tokens of huge norm that models have would swamp the small eigenvalues. Even
/// the rounding of a single product with such a token does, so these few are left out of the sum on the GPU and added
/// here in f64.
pub struct Covariance {
    width: usize,
    /// Row-major; only the upper triangle means anything.
    sum: Vec<f64>,
    /// The sum of the last batch, which is added while the GPU works on the next.
    last: Option<Readback>,
}

impl Covariance {
    /// An empty sum.
    pub fn new(width: usize) -> Self {
        Self { width, sum: vec![0.0; width * width], last: None }
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
            let tokens = x.view(first..x.rows().min(first + COVARIANCE_TOKENS))?;
            let energies = gpu.download_later(&gpu.energy(&tokens)?)?;
            self.add_last(gpu)?;
            let massive = massive_tokens(&energies.wait(gpu)?);
            if massive.is_empty() {
                self.last = Some(gpu.download_later(&gpu.covariance(&tokens)?)?);
            } else {
                let rest: Vec<usize> =
                    (0..tokens.rows()).filter(|token| massive.binary_search(token).is_err()).collect();
                self.last = Some(gpu.download_later(&gpu.covariance(&pick(gpu, &tokens, &rest)?)?)?);
                self.add_exactly(&gpu.download(&pick(gpu, &tokens, &massive)?)?);
            }
        }
        Ok(())
    }

    /// Adds what was summed on the GPU.
    fn add_last(&mut self, gpu: &Gpu) -> Result<()> {
        let Some(last) = self.last.take() else { return Ok(()) };
        let (width, sum) = (self.width, &mut self.sum);
        last.wait_with(gpu, |values, stride| {
            let rows = sum.par_chunks_exact_mut(width).zip(values.par_chunks_exact(stride)).enumerate();
            rows.for_each(|(row, (sum, values))| {
                sum[row..].iter_mut().zip(&values[row..width]).for_each(|(sum, &value)| *sum += f64::from(value))
            });
        })
    }

    /// Adds a few tokens in f64.
    fn add_exactly(&mut self, values: &[f32]) {
        for token in values.chunks_exact(self.width) {
            for (row, &left) in token.iter().enumerate() {
                let upper = row * self.width + row..(row + 1) * self.width;
                self.sum[upper]
                    .iter_mut()
                    .zip(&token[row..])
                    .for_each(|(sum, &right)| *sum += f64::from(left) * f64::from(right));
            }
        }
    }

    /// The sums, `[width, width]`, row-major, of which the upper triangle means something.
    ///
    /// # Errors
    /// Whatever the readback reports.
    pub fn sums(mut self, gpu: &Gpu) -> Result<Vec<f64>> {
        self.add_last(gpu)?;
        Ok(self.sum)
    }

    /// The principal axes, by descending eigenvalue.
    ///
    /// # Errors
    /// [`Error::Numerical`] if the signal was not finite or the solve failed its check; whatever the readback reports.
    pub fn principal_axes(mut self, gpu: &Gpu) -> Result<Eigen> {
        self.add_last(gpu)?;
        let full = Mat::from_fn(self.width, self.width, |i, j| self.sum[i.min(j) * self.width + i.max(j)]);
        drop(self);
        eigh(full.as_ref())
    }
}

/// What the covariances sum that a basis is found from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The residual as it is.
    Raw,
    /// Every token scaled to unit root mean square, as the norms see it: a few tokens of enormous norm count no more
    /// than others.
    Normed,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Normed => "normed",
        })
    }
}

/// What a covariance sums of the residual `x` `[tokens, hidden_size]`.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn signal(gpu: &Gpu, config: &Config, which: Signal, x: Matrix) -> Result<Matrix> {
    match which {
        Signal::Raw => Ok(x),
        Signal::Normed => gpu.norm(Norm::Rms, &x, None, None, config.hidden_size, config.norm_eps),
    }
}

/// A token whose energy is this many times the median is massive.
const MASSIVE: f32 = 64.0;
/// Up to this many of a batch: where there are more, they are no exception.
const MASSIVE_TOKENS: usize = 16;

/// The massive tokens of a batch, in order.
fn massive_tokens(energies: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..energies.len()).collect();
    order.sort_by(|&a, &b| energies[b].total_cmp(&energies[a]));
    let Some(&middle) = order.get(order.len() / 2) else { return Vec::new() };
    let bound = MASSIVE * energies[middle];
    let mut massive: Vec<usize> =
        order.into_iter().take(MASSIVE_TOKENS).take_while(|&token| energies[token] > bound).collect();
    massive.sort_unstable();
    massive
}

/// Some rows of a matrix, as one of their own.
fn pick(gpu: &Gpu, x: &Matrix, rows: &[usize]) -> Result<Matrix> {
    let picked = gpu.zeros(rows.len(), x.cols())?;
    let pairs: Vec<(usize, usize)> = rows.iter().copied().zip(0..).collect();
    gpu.copy_rows(x, &picked, &pairs, RowCopy::whole(x.cols()))?;
    Ok(picked)
}
