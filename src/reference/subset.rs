//! Which regressors to leave out, by solving anew for every one that might leave.

use nalgebra::DMatrix;

use crate::{
    error::{Error, Result},
    linalg::Group,
};

/// What is left: the groups that stay, ascending, the W of their columns, and how much the minimum has risen.
#[derive(Debug, Clone)]
pub struct Reduced {
    pub groups: Vec<usize>,
    pub weights: DMatrix<f64>,
    pub risen: f64,
}

/// The columns of some groups.
fn columns(groups: &[Group], stay: &[usize]) -> Vec<usize> {
    stay.iter().flat_map(|&group| groups[group].columns.clone()).collect()
}

/// The W that minimises tr(W·H·Wᵀ) − 2·tr(C·Wᵀ) with the columns of these groups alone, H = G + diag μ, and that
/// minimum, −tr(C·Wᵀ).
///
/// # Errors
/// [`Error::Numerical`] if H is not positive definite.
pub fn restricted(
    gram: &DMatrix<f64>,
    ridge: &[f64],
    right: &DMatrix<f64>,
    groups: &[Group],
    stay: &[usize],
) -> Result<(DMatrix<f64>, f64)> {
    let columns = columns(groups, stay);
    let own = DMatrix::from_fn(columns.len(), columns.len(), |i, j| {
        gram[(columns[i], columns[j])] + if i == j { ridge[columns[i]] } else { 0.0 }
    });
    let right = right.select_columns(columns.iter());
    let factors = own.cholesky().ok_or_else(|| Error::Numerical("not positive definite".into()))?;
    let weights = factors.solve(&right.transpose()).transpose();
    let minimum = -weights.component_mul(&right).sum();
    Ok((weights, minimum))
}

/// Leaves out `remove[kind]` groups of each kind, one after the other, each time the one after which the minimum is
/// lowest; of several alike the first.
///
/// # Errors
/// As [`restricted`].
pub fn subset(
    gram: &DMatrix<f64>,
    ridge: &[f64],
    right: &DMatrix<f64>,
    groups: &[Group],
    remove: &[usize],
) -> Result<Reduced> {
    let mut stay: Vec<usize> = (0..groups.len()).collect();
    let (mut weights, whole) = restricted(gram, ridge, right, groups, &stay)?;
    let (mut missing, mut minimum) = (remove.to_vec(), whole);
    while missing.iter().any(|&count| count > 0) {
        let mut best: Option<(f64, usize, DMatrix<f64>)> = None;
        for &group in stay.iter().filter(|&&group| missing[groups[group].kind] > 0) {
            let others: Vec<usize> = stay.iter().copied().filter(|&other| other != group).collect();
            let (weights, minimum) = restricted(gram, ridge, right, groups, &others)?;
            if best.as_ref().is_none_or(|(least, ..)| minimum < *least) {
                best = Some((minimum, group, weights));
            }
        }
        let Some((least, group, left)) = best else { break };
        stay.retain(|&other| other != group);
        missing[groups[group].kind] -= 1;
        (minimum, weights) = (least, left);
    }
    Ok(Reduced { groups: stay, weights, risen: minimum - whole })
}
