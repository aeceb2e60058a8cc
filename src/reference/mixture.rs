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

/// The gradient of a router's logits from that of the gates `d` of the experts that [`route`] chose, which stay chosen:
/// with the gates as a softmax of the logits, all or the chosen ones, `s_e (d_e − Σ s d)`.
pub fn route_backward(logits: &DMatrix<f64>, chosen: usize, normalised: bool, d: &[Vec<f64>]) -> DMatrix<f64> {
    let (routes, mut dl) = (route(logits, chosen, normalised), DMatrix::zeros(logits.nrows(), logits.ncols()));
    for (token, (gates, d)) in routes.iter().zip(d).enumerate() {
        let mean: f64 = gates.iter().zip(d).map(|((_, gate), d)| gate * d).sum();
        if !normalised {
            let row = logits.row(token);
            let total = row.map(|logit| (logit - row.max()).exp()).sum();
            (0..row.len()).for_each(|e| dl[(token, e)] = -(row[e] - row.max()).exp() / total * mean);
        }
        gates.iter().zip(d).for_each(|((expert, gate), d)| dl[(token, *expert as usize)] = gate * (d - mean));
    }
    dl
}

/// The products of rows.
pub fn row_products(a: &DMatrix<f64>, b: &DMatrix<f64>) -> Vec<f64> {
    a.row_iter().zip(b.row_iter()).map(|(a, b)| a.dot(&b)).collect()
}

/// The gradient of what [`clamped_swiglu`] was given: with s = sigmoid(α·g), `d · (u + 1) · s · (1 + α·g·(1 − s))`
/// beside `d · g · s`, and 0 beyond the limits.
pub fn clamped_swiglu_backward(kind: ClampedSwiglu, x: &DMatrix<f64>, d: &DMatrix<f64>) -> DMatrix<f64> {
    let (width, alpha, limit) = (d.ncols(), f64::from(kind.alpha), f64::from(kind.limit));
    DMatrix::from_fn(x.nrows(), x.ncols(), |token, at| {
        let (column, is_gate) = (at % width, at < width);
        let (gate, up) = (x[(token, column)].min(limit), x[(token, width + column)].clamp(-limit, limit));
        let share = 1.0 / (1.0 + (-alpha * gate).exp());
        match is_gate {
            true if x[(token, column)] <= limit => {
                d[(token, column)] * (up + 1.0) * share * (1.0 + alpha * gate / (1.0 + (alpha * gate).exp()))
            }
            false if x[(token, width + column)].abs() <= limit => d[(token, column)] * gate * share,
            _ => 0.0,
        }
    })
}
