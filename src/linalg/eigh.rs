//! Symmetric eigendecomposition.
//!
//! For symmetric C there are orthonormal columns Q and real Λ with C = Q·Λ·Qᵀ. The solver (faer, f64) is checked at
//! every call by ‖C·Q − Q·Λ‖ / ‖C‖ and ‖Qᵀ·Q − I‖, largest entries: backward stability promises a small multiple of n·ε
//! for both.

use faer::{Mat, MatRef, Side};

use crate::error::{Error, Result};

/// Eigenvalues, descending, and eigenvectors.
#[derive(Debug, Clone)]
pub struct Eigen {
    pub values: Vec<f64>,
    /// Column i belongs to `values[i]`.
    pub vectors: Mat<f64>,
    /// max |C·Q − Q·Λ| / max |C|.
    pub residual: f64,
    /// max |Qᵀ·Q − I|.
    pub orthogonality: f64,
}

/// Decomposes the symmetric matrix `c`, of which the upper triangle is read.
///
/// # Errors
/// [`Error::Numerical`] if `c` holds a value that is not finite, or the solution fails its check.
pub fn eigh(c: MatRef<'_, f64>) -> Result<Eigen> {
    let n = c.nrows();
    let full = Mat::from_fn(n, n, |i, j| if i <= j { c[(i, j)] } else { c[(j, i)] });
    if !full.as_ref().is_all_finite() {
        return Err(Error::Numerical(format!("a covariance of width {n} holds values that are not finite")));
    }
    let largest = full.as_ref().norm_max();
    if largest == 0.0 {
        return Ok(Eigen { values: vec![0.0; n], vectors: Mat::identity(n, n), residual: 0.0, orthogonality: 0.0 });
    }
    // Scaled to 1, so that neither huge nor tiny covariances leave the range of the solver's products.
    let scaled = faer::Scale(1.0 / largest) * &full;
    let solution = scaled
        .self_adjoint_eigen(Side::Lower)
        .map_err(|error| Error::Numerical(format!("the eigensolver did not converge at width {n}: {error:?}")))?;
    let ascending = solution.U();
    let values: Vec<f64> = (0..n).rev().map(|i| solution.S()[i] * largest).collect();
    let vectors = Mat::from_fn(n, n, |i, j| ascending[(i, n - 1 - j)]);
    drop((scaled, solution));

    Eigen { values, vectors, residual: 0.0, orthogonality: 0.0 }.check(full.as_ref())
}

impl Eigen {
    /// This solution with its errors measured against the symmetric `c`.
    ///
    /// # Errors
    /// [`Error::Numerical`] if one of them exceeds 1000·n·ε.
    pub fn check(mut self, c: MatRef<'_, f64>) -> Result<Self> {
        let n = c.nrows();
        // The product may be out of range where C itself is not, so C is scaled to 1 here, too.
        let largest = c.norm_max();
        let product = faer::Scale(1.0 / largest) * c * &self.vectors;
        let gram = self.vectors.transpose() * &self.vectors;
        // Folded so that NaN stays.
        let most = |error: &dyn Fn(usize, usize) -> f64| {
            (0..n * n)
                .map(|k| error(k % n, k / n).abs())
                .fold(0.0, |most: f64, error| if most.is_nan() || error <= most { most } else { error })
        };
        self.residual = most(&|i, j| product[(i, j)] - self.vectors[(i, j)] * (self.values[j] / largest));
        self.orthogonality = most(&|i, j| gram[(i, j)] - f64::from(u8::from(i == j)));
        let (residual, orthogonality, bound) = (self.residual, self.orthogonality, 1e3 * n as f64 * f64::EPSILON);
        if residual <= bound && orthogonality <= bound {
            return Ok(self);
        }
        Err(Error::Numerical(format!(
            "the eigendecomposition of width {n} failed its check: residual {residual:.1e}, orthogonality \
             {orthogonality:.1e}, allowed {bound:.1e}"
        )))
    }

    /// The share of the trace that the first `width` eigenvalues hold; 1 for a zero matrix, and at most 1, though
    /// rounding leaves eigenvalues of zero a little below it.
    pub fn kept_energy(&self, width: usize) -> f64 {
        let total: f64 = self.values.iter().sum();
        if total > 0.0 { (self.values[..width].iter().sum::<f64>() / total).min(1.0) } else { 1.0 }
    }
}
