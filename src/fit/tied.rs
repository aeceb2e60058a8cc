//! Coordinates for a narrower residual stream whose head stays the embedding.
//!
//! The final norm has weights α, logits are E·diag(α)·n(x), and a rotation would leave two matrices of one E. So the
//! coordinates O whose α is unusual, |α/median − 1| > tolerance, stay as they are, each for itself; the others, R, are
//! scaled by A = √(α/m), m their mean α, and rotated alone:
//!
//! ```text
//!     z = Sᵀ·A·x,   S = [I_O ⊕ Q],   E' = E·A·S,   final norm [α_O, m … m]
//! ```
//!
//! Then E'·diag(final norm)·n(z) = E·A·S·diag(…)·Sᵀ·A·n(x) = E·diag(α)·n(x) where nothing is cut, but for a factor a
//! token: RMSNorm(A·x) is A·RMSNorm(x) but for the norm of the token, which hardly changes since the massive
//! coordinates are in O. Q is the basis of [`super::axes()`] for what O does not tell of R already,
//! C_RR − C_RO·C_OO⁻¹·C_OR. What is left of the factor is one number for all tokens, in the final norm ([`Factor`]).

use faer::{Mat, MatRef, Side, linalg::solvers::Solve};

use super::{axes::axes, rotation::Rotation};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    linalg::random_orthogonal,
};

/// How far from the median a weight of the final norm may be for its coordinate to be rotated.
pub const TOLERANCE: f64 = 0.25;
/// With fewer coordinates that stay as they are, where those are too many.
const WIDER: [f64; 3] = [0.5, 0.75, 0.95];

/// Coordinates for a residual stream whose head stays the embedding.
#[derive(Debug, Clone)]
pub struct TiedAxes {
    /// S `[D, kept]`.
    pub axes: Mat<f64>,
    /// The diagonal of A.
    pub scale: Vec<f64>,
    /// The weights of the final norm, `[kept]`.
    pub final_norm: Vec<f64>,
    /// How many coordinates stay as they are: the first columns of S.
    pub single: usize,
    /// The share of the energy of A·x that Sᵀ·A·x has.
    pub kept_energy: f64,
    /// Of the eigenproblems, see [`crate::linalg::Eigen`].
    pub eigen_residual: f64,
    pub orthogonality: f64,
}

/// Coordinates that are rotated and those that stay as they are.
fn parted(alpha: &[f64], tolerance: f64) -> (Vec<usize>, Vec<usize>) {
    let mut sorted = alpha.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(alpha.len().saturating_sub(1) / 2).copied().unwrap_or(0.0);
    let usual = |i: &usize| median != 0.0 && (alpha[*i] / median - 1.0).abs() <= tolerance;
    (0..alpha.len()).partition(usual)
}

/// The least width that has coordinates for a tied head with these weights of the final norm; none if there is no such
/// width.
pub fn least_tied_width(alpha: &[f32]) -> Option<usize> {
    let alpha: Vec<f64> = alpha.iter().map(|&alpha| f64::from(alpha)).collect();
    let (rest, single) = parted(&alpha, WIDER[WIDER.len() - 1]);
    (!rest.is_empty()).then_some(single.len() + 1)
}

impl TiedAxes {
    /// The coordinates for C̄, B and the weights α of the final norm, with this tolerance, or the least of a few wider
    /// ones that leaves few enough coordinates as they are.
    ///
    /// # Errors
    /// [`Error::Numerical`] if even the widest leaves too many.
    pub fn find(
        signal: MatRef<'_, f64>,
        weighting: MatRef<'_, f64>,
        alpha: &[f32],
        tolerance: f64,
        kept: usize,
    ) -> Result<Self> {
        let alpha: Vec<f64> = alpha.iter().map(|&alpha| f64::from(alpha)).collect();
        let mut tried = tied_axes(signal, weighting, &alpha, tolerance, kept);
        for wider in WIDER.into_iter().filter(|wider| *wider > tolerance) {
            if tried.is_ok() {
                break;
            }
            tried = tied_axes(signal, weighting, &alpha, wider, kept);
        }
        tried
    }

    /// Turns what is rotated by a random orthogonal matrix more: the same function, outliers spread.
    #[must_use]
    pub fn rotated(mut self, seed: u64, stream: u64) -> Self {
        let (single, kept) = (self.single, self.axes.ncols());
        let rotated = self.axes.subcols(single, kept - single) * random_orthogonal(kept - single, seed, stream);
        self.axes.subcols_mut(single, kept - single).copy_from(rotated);
        self
    }

    /// S, row-major.
    pub fn values(&self) -> Vec<f32> {
        let (rows, kept) = (self.axes.nrows(), self.axes.ncols());
        (0..rows).flat_map(|i| (0..kept).map(move |j| (i, j))).map(|at| self.axes[at] as f32).collect()
    }

    /// The way into these coordinates, on the GPU.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn rotation(&self, gpu: &Gpu) -> Result<Rotation> {
        Rotation::scaled(gpu, &self.values(), &self.scale, self.axes.ncols())
    }
}

/// The module's coordinates for a tied head: C̄, B, the weights α of the final norm, and how far from the median one
/// may be.
///
/// # Errors
/// [`Error::Numerical`] if more weights are unusual than `kept` coordinates hold.
pub fn tied_axes(
    signal: MatRef<'_, f64>,
    weighting: MatRef<'_, f64>,
    alpha: &[f64],
    tolerance: f64,
    kept: usize,
) -> Result<TiedAxes> {
    let width = alpha.len();
    let (rest, single) = parted(alpha, tolerance);
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
    let whole: f64 = (0..width).map(|i| scaled(i, i)).sum();
    let block = |rows: &[usize], cols: &[usize]| Mat::from_fn(rows.len(), cols.len(), |i, j| scaled(rows[i], cols[j]));
    let own = block(&rest, &rest);
    let mut unexplained = own.clone();
    if !single.is_empty() {
        let mut own = block(&single, &single);
        (0..single.len()).for_each(|i| own[(i, i)] += 1e-12 * whole);
        let across = block(&single, &rest);
        let factors = own.llt(Side::Lower).map_err(|_| Error::Numerical("a signal is not finite".into()))?;
        unexplained -= across.transpose() * factors.solve(&across);
    }
    let counts =
        Mat::from_fn(rest.len(), rest.len(), |i, j| weighting[(rest[i], rest[j])] / (scale[rest[i]] * scale[rest[j]]));
    let (q, eigen) = axes(unexplained.as_ref(), counts.as_ref(), kept - single.len())?;
    let held = q.transpose() * &own * &q;
    let held = single.iter().map(|&i| scaled(i, i)).chain((0..q.ncols()).map(|i| held[(i, i)])).sum::<f64>();
    let mut basis = Mat::zeros(width, kept);
    single.iter().enumerate().for_each(|(column, &row)| basis[(row, column)] = 1.0);
    for (from, &row) in rest.iter().enumerate() {
        (0..kept - single.len()).for_each(|column| basis[(row, single.len() + column)] = q[(from, column)]);
    }
    let final_norm = single.iter().map(|&i| alpha[i]).chain(std::iter::repeat(mean)).take(kept).collect();
    Ok(TiedAxes {
        axes: basis,
        scale,
        final_norm,
        single: single.len(),
        // Rounding may leave it a little above.
        kept_energy: if whole > 0.0 { (held / whole).min(1.0) } else { 1.0 },
        eigen_residual: eigen.residual,
        orthogonality: eigen.orthogonality,
    })
}

/// The factor with which what a narrower final norm gives is nearest to what the head should get, by least squares.
#[derive(Debug, Clone, Copy, Default)]
pub struct Factor {
    across: f64,
    own: f64,
}

impl Factor {
    /// Adds some tokens: what the head should get, and what it gets without the factor.
    ///
    /// # Errors
    /// Whatever the readback reports.
    pub fn add(&mut self, gpu: &Gpu, goal: &Matrix, seen: &Matrix) -> Result<()> {
        let (goal, seen) = (gpu.download(goal)?, gpu.download(seen)?);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        self.across += dot(&goal, &seen);
        self.own += dot(&seen, &seen);
        Ok(())
    }

    /// The factor; 1 of no tokens, or where the two have nothing in common.
    pub fn value(&self) -> f64 {
        if self.across > 0.0 && self.own > 0.0 { self.across / self.own } else { 1.0 }
    }
}
