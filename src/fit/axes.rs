//! The basis in which a residual stream that is to be narrower keeps what is made use of.
//!
//! At each point of the residual stream that a weight W reads, C = Σ x·xᵀ / tr Σ x·xᵀ is what is there, and A = Σ_W
//! Wᵀ·W / Σ_W ‖W‖² says how much is made of each direction. With the means C̄ and Ā over some points and B = ½·Ā/tr Ā +
//! ½·I/D, a d-dimensional subspace S, read through weights that are free to be fitted again, loses
//!
//! ```text
//!     min_R E‖B^½·(x − R·Sᵀx)‖²,     least for S = B^½·U,  U the first d principal axes of B^½·C̄·B^½
//! ```
//!
//! (the reduced-rank regression of B^½·x on x). With B = I this is PCA of the residual; what no weight reads counts
//! less here. S is made orthonormal, so that the norm of what is kept approximates that of the token, and rotated into
//! its own principal axes.

use faer::{Mat, MatRef};

use crate::{
    error::Result,
    linalg::{Eigen, eigh},
    model::Config,
    ops::Norm,
};

/// Means over the points of a segment, times their number; the upper triangles mean something.
pub struct PointSums {
    pub signal: Vec<f64>,
    pub reads: Vec<f64>,
}

impl PointSums {
    /// Empty sums.
    pub fn new(width: usize) -> Self {
        Self { signal: vec![0.0; width * width], reads: vec![0.0; width * width] }
    }

    /// Adds the covariance of a point, whose upper triangle means something.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn add_signal(&mut self, config: &Config, covariance: &[f64]) -> std::result::Result<(), &'static str> {
        if covariance.iter().any(|value| !value.is_finite()) {
            return Err("a signal is not finite");
        }
        Self::add(&mut self.signal, covariance, config.hidden_size);
        Ok(())
    }

    /// Adds the Σ WᵀW of a point: of W·M where signals have no mean, as layer norm's have not once it is fused. They
    /// are read alike, and the direction of the mean would tilt the basis out of theirs.
    pub fn add_reads(&mut self, config: &Config, mut sum: Vec<f64>) {
        let width = config.hidden_size;
        if config.architecture.norm.kind == Norm::Layer {
            let mean = |i: usize| (0..width).map(|j| sum[i.min(j) * width + i.max(j)]).sum::<f64>() / width as f64;
            let means: Vec<f64> = (0..width).map(mean).collect();
            let whole = means.iter().sum::<f64>() / width as f64;
            sum.iter_mut().enumerate().for_each(|(at, value)| *value += whole - means[at / width] - means[at % width]);
        }
        Self::add(&mut self.reads, &sum, width);
    }

    fn add(sums: &mut [f64], covariance: &[f64], width: usize) {
        let trace: f64 = covariance.iter().step_by(width + 1).sum();
        if trace > 0.0 {
            sums.iter_mut().zip(covariance).for_each(|(sum, value)| *sum += value / trace);
        }
    }

    /// C̄ and Σ WᵀW of the module's doc, up to factors.
    pub fn matrices(&self) -> (Mat<f64>, Mat<f64>) {
        let width = self.signal.len().isqrt();
        let symmetric = |values: &[f64]| Mat::from_fn(width, width, |i, j| values[i.min(j) * width + i.max(j)]);
        (symmetric(&self.signal), symmetric(&self.reads))
    }

    /// As the tail of a residual's file.
    pub fn bits(&self) -> Vec<f32> {
        [&self.signal, &self.reads]
            .into_iter()
            .flatten()
            .flat_map(|value| bytemuck::cast::<f64, [f32; 2]>(*value))
            .collect()
    }

    /// What [`PointSums::bits`] has returned.
    pub fn from_bits(bits: &[f32], width: usize) -> Self {
        let values: Vec<f64> =
            bits.chunks_exact(2).map(|pair| bytemuck::cast::<[f32; 2], f64>([pair[0], pair[1]])).collect();
        let (signal, reads) = values.split_at((width * width).min(values.len()));
        Self { signal: signal.to_vec(), reads: reads.to_vec() }
    }
}

/// B of the module's doc for Ā.
pub fn weighting(reads: MatRef<'_, f64>) -> Mat<f64> {
    let width = reads.nrows();
    let trace: f64 = (0..width).map(|i| reads[(i, i)]).sum();
    Mat::from_fn(width, width, |i, j| {
        let read = if trace > 0.0 { 0.5 * reads[(i, j)] / trace } else { 0.0 };
        read + if i == j { 0.5 / width as f64 } else { 0.0 }
    })
}

/// The orthonormal S `[D, kept]` of the module's doc for C̄ and B, ordered by the energy of their columns, with what
/// was kept in them: the eigenvalues of Sᵀ·C̄·S.
///
/// # Errors
/// [`crate::Error::Numerical`].
pub fn axes(signal: MatRef<'_, f64>, weighting: MatRef<'_, f64>, kept: usize) -> Result<(Mat<f64>, Eigen)> {
    let width = signal.nrows();
    let weighting = eigh(weighting)?;
    let scaled = Mat::from_fn(width, width, |i, j| weighting.vectors[(i, j)] * weighting.values[j].max(0.0).sqrt());
    let root = &scaled * weighting.vectors.transpose();
    let seen = eigh((&root * signal * &root).as_ref())?;
    let q = (&root * seen.vectors.subcols(0, kept)).qr().compute_thin_Q();
    let own = eigh((q.transpose() * signal * &q).as_ref())?;
    let (residual, orthogonality) = (seen.residual.max(own.residual), seen.orthogonality.max(own.orthogonality));
    Ok((&q * &own.vectors, Eigen { residual, orthogonality, ..own }))
}
