//! Least squares with a ridge that pulls towards a prior.
//!
//! The W `[m, n]` that minimises Σ_tokens ‖t − W·a‖² + Σ_j μ_j·‖w_j − p_j‖², w_j and p_j columns of W and of the prior
//! P, solves W·(G + diag μ) = C + P·diag μ with G = Σ a·aᵀ and C = Σ t·aᵀ. For μ > 0 the matrix on the left is positive
//! definite however few the tokens are, so Cholesky's factors exist; what no token has touched keeps the prior.

use faer::{
    Conj, MatMut,
    dyn_stack::{MemBuffer, MemStack},
    get_global_parallelism,
    linalg::cholesky::llt::{
        factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch},
        solve::solve_in_place_with_conj,
    },
};

use crate::error::{Error, Result};

/// Solves `W·(G + diag μ) = C + P·diag μ` for W.
///
/// `gram` is G `[n, n]`, row-major, of which the upper triangle is read; Cholesky's factors are left there. `right` is
/// C + P·diag μ `[m, n]`, row-major, and becomes W.
///
/// # Errors
/// [`Error::Numerical`] if a sum is not finite, or G + diag μ is not positive definite; [`Error::Shape`] if the sizes
/// do not fit.
pub fn solve_ridge(gram: &mut [f64], ridge: &[f64], right: &mut [f64]) -> Result<()> {
    let n = ridge.len();
    if n == 0 || gram.len() != n * n || !right.len().is_multiple_of(n) {
        return Err(Error::shape(
            "solve_ridge",
            format!("{} values of a Gram matrix and {} to solve for, with {n} unknowns", gram.len(), right.len()),
        ));
    }
    for (j, mu) in ridge.iter().enumerate() {
        gram[j * n + j] += mu;
    }
    let failed = |reason: &str| Error::Numerical(format!("a least-squares problem with {n} unknowns {reason}"));
    let finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
    if !(0..n).all(|row| finite(&gram[row * n + row..(row + 1) * n])) || !finite(right) {
        return Err(failed("holds values that are not finite"));
    }
    // Row-major's upper triangle is column-major's lower.
    let mut factors = MatMut::from_column_major_slice_mut(gram, n, n);
    let parallelism = get_global_parallelism();
    let mut memory = MemBuffer::new(cholesky_in_place_scratch::<f64>(n, parallelism, Default::default()));
    let stack = MemStack::new(&mut memory);
    cholesky_in_place(factors.as_mut(), LltRegularization::default(), parallelism, stack, Default::default())
        .map_err(|_| failed("is not positive definite; a larger ridge helps"))?;
    let solutions = right.len() / n;
    let unknowns = MatMut::from_column_major_slice_mut(right, n, solutions);
    solve_in_place_with_conj(factors.as_ref(), Conj::No, unknowns, parallelism, stack);
    if finite(right) { Ok(()) } else { Err(failed("has no finite solution")) }
}
