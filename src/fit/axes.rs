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
//! less here. S is made orthonormal, so that the norm of what is kept approximates that of the token, and turned into
//! its own principal axes.
//!
//! **Where the head is the embedding** E and the final norm has weights α, logits are E·diag(α)·n(x), and a rotation
//! would leave two matrices of one. So the coordinates O whose α is unusual, |α/median − 1| > tolerance, stay as they
//! are, each for itself; the others, R, are scaled by A = √(α/m), m their mean α, and rotated alone:
//!
//! ```text
//!     z = Sᵀ·A·x,   S = [I_O ⊕ Q],   E' = E·A·S,   final norm [α_O, m … m]
//! ```
//!
//! Then E'·diag(final norm)·n(z) = E·A·S·diag(…)·Sᵀ·A·n(x) = E·diag(α)·n(x) where nothing is cut, but for a factor a
//! token: RMSNorm(A·x) is A·RMSNorm(x) but for the norm of the token, which hardly changes since the massive
//! coordinates are in O. Q is the basis above for what O does not tell of R already, C_RR − C_RO·C_OO⁻¹·C_OR.

use faer::{Mat, MatRef, Side, linalg::solvers::Solve};

use crate::{
    error::{Error, Result},
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
    /// Of no point yet.
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

    /// As the tail of a residual's file.
    pub fn bits(&self) -> Vec<f32> {
        [&self.signal, &self.reads]
            .into_iter()
            .flatten()
            .flat_map(|value| bytemuck::cast::<f64, [f32; 2]>(*value))
            .collect()
    }

    /// What [`PointSums::bits`] has handed over.
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

/// The orthonormal S `[D, kept]` of the module's doc for C̄ and B, ordered by the energy of their columns, with what was
/// kept in them: the eigenvalues of Sᵀ·C̄·S.
///
/// # Errors
/// [`Error::Numerical`].
pub fn axes(signal: MatRef<'_, f64>, weighting: MatRef<'_, f64>, kept: usize) -> Result<(Mat<f64>, Eigen)> {
    let width = signal.nrows();
    let weighting = eigh(weighting)?;
    let scaled = Mat::from_fn(width, width, |i, j| weighting.vectors[(i, j)] * weighting.values[j].max(0.0).sqrt());
    let root = &scaled * weighting.vectors.transpose();
    let seen = eigh((&root * signal * &root).as_ref())?;
    let q = (&root * seen.vectors.subcols(0, kept)).qr().compute_thin_Q();
    let turned = eigh((q.transpose() * signal * &q).as_ref())?;
    let (residual, orthogonality) = (seen.residual.max(turned.residual), seen.orthogonality.max(turned.orthogonality));
    Ok((&q * &turned.vectors, Eigen { residual, orthogonality, ..turned }))
}

/// Coordinates for a residual stream whose head stays the embedding.
#[derive(Debug, Clone)]
pub struct TiedAxes {
    /// S `[D, kept]`.
    pub axes: Mat<f64>,
    /// The diagonal of A.
    pub scale: Vec<f64>,
    /// The weights of the final norm, `[kept]`.
    pub final_norm: Vec<f64>,
}

/// The module's coordinates for a tied head: C̄, B, the weights α of the final norm, and how far from the median one may
/// be.
///
/// # Errors
/// [`Error::Numerical`] if so many weights are unusual that `kept` coordinates do not hold them.
pub fn tied_axes(
    signal: MatRef<'_, f64>,
    weighting: MatRef<'_, f64>,
    alpha: &[f64],
    tolerance: f64,
    kept: usize,
) -> Result<TiedAxes> {
    let width = alpha.len();
    let mut sorted = alpha.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[(width - 1) / 2];
    let usual = |i: &usize| median != 0.0 && (alpha[*i] / median - 1.0).abs() <= tolerance;
    let (rest, single): (Vec<usize>, Vec<usize>) = (0..width).partition(usual);
    if rest.is_empty() || single.len() >= kept {
        return Err(Error::Numerical(format!(
            "{} of {width} weights of the final norm are far from their median, too many for a width of {kept}",
            single.len()
        )));
    }
    let mean = rest.iter().map(|&i| alpha[i]).sum::<f64>() / rest.len() as f64;
    let mut scale = vec![1.0; width];
    rest.iter().for_each(|&i| scale[i] = (alpha[i] / mean).sqrt());

    let scaled = |i: usize, j: usize| scale[i] * signal[(i, j)] * scale[j];
    let block = |rows: &[usize], cols: &[usize]| Mat::from_fn(rows.len(), cols.len(), |i, j| scaled(rows[i], cols[j]));
    let mut unexplained = block(&rest, &rest);
    if !single.is_empty() {
        let mut own = block(&single, &single);
        let floor = 1e-12 * (0..width).map(|i| scaled(i, i)).sum::<f64>();
        (0..single.len()).for_each(|i| own[(i, i)] += floor);
        let across = block(&single, &rest);
        let factors = own.llt(Side::Lower).map_err(|_| Error::Numerical("a signal is not finite".into()))?;
        unexplained -= across.transpose() * factors.solve(&across);
    }
    let counts =
        Mat::from_fn(rest.len(), rest.len(), |i, j| weighting[(rest[i], rest[j])] / (scale[rest[i]] * scale[rest[j]]));
    let (q, _) = axes(unexplained.as_ref(), counts.as_ref(), kept - single.len())?;
    let mut basis = Mat::zeros(width, kept);
    single.iter().enumerate().for_each(|(column, &row)| basis[(row, column)] = 1.0);
    for (from, &row) in rest.iter().enumerate() {
        (0..kept - single.len()).for_each(|column| basis[(row, single.len() + column)] = q[(from, column)]);
    }
    let final_norm = single.iter().map(|&i| alpha[i]).chain(std::iter::repeat(mean)).take(kept).collect();
    Ok(TiedAxes { axes: basis, scale, final_norm })
}
