//! What a gated delta net adds to the kernels, in f64 and from the formulas (Yang et al., arXiv 2412.06464).

use nalgebra::DMatrix;

use crate::ops::{DeltaRun, DeltaShape, Gate};

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// For every token, the silu of the sum of the tokens that it sees times the last rows of `weight`, channel by channel;
/// `places` are its row of `x`, and how many it sees.
pub fn short_conv(x: &DMatrix<f64>, weight: &DMatrix<f64>, places: &[[u32; 2]]) -> DMatrix<f64> {
    let taps = weight.nrows();
    DMatrix::from_fn(places.len(), weight.ncols(), |t, c| {
        let [row, seen] = places[t].map(|number| number as usize);
        let count = taps.min(seen);
        let sum = x.view((row + 1 - count, c), (count, 1)).dot(&weight.view((taps - count, c), (count, 1)));
        sum * sigmoid(sum)
    })
}

/// `exp(−rate · ln(1 + exp(decay + bias)))` of every head, then `sigmoid(beta)`; `parameters` are rates and biases.
pub fn delta_gates(x: &DMatrix<f64>, beta: usize, decay: usize, parameters: &DMatrix<f64>) -> DMatrix<f64> {
    let heads = parameters.ncols();
    DMatrix::from_fn(x.nrows(), 2 * heads, |t, at| match at.checked_sub(heads) {
        None => (-parameters[(0, at)] * (x[(t, decay + at)] + parameters[(1, at)]).exp().ln_1p()).exp(),
        Some(head) => sigmoid(x[(t, beta + head)]),
    })
}

/// The gated delta rule, `S ← a·S·(I − b·k·kᵀ) + b·v·kᵀ` with S `[value_dim, key_dim]`, and `S·q` of every token;
/// `states` has Sᵀ of every head of every state, one after the other, and gets what they become.
pub fn delta_rule(
    shape: &DeltaShape,
    qkv: &DMatrix<f64>,
    gates: &DMatrix<f64>,
    states: &mut DMatrix<f64>,
    runs: &[DeltaRun],
) -> DMatrix<f64> {
    let DeltaShape { key_heads, value_heads, key_dim, value_dim } = *shape;
    let mut out = DMatrix::zeros(qkv.nrows(), value_heads * value_dim);
    for run in runs {
        for head in 0..value_heads {
            let key_head = head / (value_heads / key_heads);
            let place = ((run.state * value_heads + head) * key_dim, 0);
            let mut s = states.view(place, (key_dim, value_dim)).transpose();
            if run.begins {
                s.fill(0.0);
            }
            for t in run.first..run.first + run.tokens {
                let of = |column: usize, width: usize| qkv.view((t, column), (1, width)).transpose();
                let q = of(key_head * key_dim, key_dim);
                let k = of((key_heads + key_head) * key_dim, key_dim);
                let v = of(2 * key_heads * key_dim + head * value_dim, value_dim);
                let (a, b) = (gates[(t, head)], gates[(t, value_heads + head)]);
                let recalled = &s * &k;
                s = a * (s - b * recalled * k.transpose()) + b * v * k.transpose();
                out.view_mut((t, head * value_dim), (1, value_dim)).copy_from(&(&s * &q).transpose());
            }
            states.view_mut(place, (key_dim, value_dim)).copy_from(&s.transpose());
        }
    }
    out
}

/// `y · f(x[:, column..])`.
pub fn gate(kind: Gate, y: &DMatrix<f64>, x: &DMatrix<f64>, column: usize) -> DMatrix<f64> {
    let factor = |value: f64| if kind == Gate::Silu { value * sigmoid(value) } else { sigmoid(value) };
    y.component_mul(&x.columns(column, y.ncols()).map(factor))
}
