//! What a mixture of experts adds to the kernels, in f64 and from the formula.

use nalgebra::DMatrix;

use crate::ops::ClampedSwiglu;

/// For each token, the `chosen` experts with the largest logits, of equals those before others, and their shares of the
/// softmax over all experts; `normalised`, divided by their sum.
pub fn route(logits: &DMatrix<f64>, chosen: usize, normalised: bool) -> Vec<Vec<(u32, f64)>> {
    let of = |token: usize| {
        let row = logits.row(token);
        let shares = row.map(|logit| (logit - row.max()).exp());
        let total = shares.sum();
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        order.truncate(chosen);
        let sum = if normalised { order.iter().map(|&expert| shares[expert]).sum() } else { total };
        order.into_iter().map(|expert| (expert as u32, shares[expert] / sum)).collect()
    };
    (0..logits.nrows()).map(of).collect()
}

/// Adds every row of `x`, times its gate, to its target row of `y`.
pub fn add_rows(x: &DMatrix<f64>, y: &mut DMatrix<f64>, targets: &[(u32, f64)]) {
    for (row, &(target, gate)) in targets.iter().enumerate() {
        let sum = y.row(target as usize) + x.row(row) * gate;
        y.row_mut(target as usize).copy_from(&sum);
    }
}

/// `(u + 1) · g · sigmoid(α·g)` of gates and what they are multiplied with, side by side, clamped.
pub fn clamped_swiglu(kind: ClampedSwiglu, x: &DMatrix<f64>) -> DMatrix<f64> {
    let (width, alpha, limit) = (x.ncols() / 2, f64::from(kind.alpha), f64::from(kind.limit));
    DMatrix::from_fn(x.nrows(), width, |token, at| {
        let (gate, up) = (x[(token, at)].min(limit), x[(token, width + at)].clamp(-limit, limit));
        (up + 1.0) * gate / (1.0 + (-alpha * gate).exp())
    })
}
