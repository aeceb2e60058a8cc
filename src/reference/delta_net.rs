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

/// The gradients of a signal before its gate and of the columns of `x` that the gate is, from that of their product.
pub fn gate_backward(
    kind: Gate,
    y: &DMatrix<f64>,
    x: &DMatrix<f64>,
    column: usize,
    d: &DMatrix<f64>,
) -> (DMatrix<f64>, DMatrix<f64>) {
    let gates = x.columns(column, y.ncols());
    let slope = |value: f64| {
        let (share, slope) = (sigmoid(value), sigmoid(value) * sigmoid(-value));
        if kind == Gate::Silu { share + value * slope } else { slope }
    };
    (gate(kind, d, x, column), d.component_mul(y).component_mul(&gates.map(slope)))
}

/// The gradient of what a convolution read of whole sequences of these lengths: of every sum, into all tokens that are
/// in it.
pub fn short_conv_backward(
    x: &DMatrix<f64>,
    weight: &DMatrix<f64>,
    lengths: &[usize],
    d: &DMatrix<f64>,
) -> DMatrix<f64> {
    let taps = weight.nrows();
    let mut dx = DMatrix::zeros(x.nrows(), weight.ncols());
    let mut first = 0;
    for &length in lengths {
        for (token, channel) in (0..length).flat_map(|token| (0..weight.ncols()).map(move |channel| (token, channel))) {
            let seen = (0..taps.min(token + 1)).map(|back| (first + token - back, weight[(taps - 1 - back, channel)]));
            let sum: f64 = seen.clone().map(|(row, factor)| factor * x[(row, channel)]).sum();
            let slope = sigmoid(sum) + sum * sigmoid(sum) * sigmoid(-sum);
            seen.for_each(|(row, factor)| dx[(row, channel)] += factor * slope * d[(first + token, channel)]);
        }
        first += length;
    }
    dx
}

/// The gradients of beta and decay of every head, as they lie in `x`, from those of the logarithms of the gates; zero
/// in other columns.
pub fn delta_gates_backward(
    x: &DMatrix<f64>,
    [beta, decay]: [usize; 2],
    parameters: &DMatrix<f64>,
    d: &DMatrix<f64>,
) -> DMatrix<f64> {
    let heads = parameters.ncols();
    let mut dx = DMatrix::zeros(x.nrows(), x.ncols());
    for (t, head) in (0..x.nrows()).flat_map(|t| (0..heads).map(move |head| (t, head))) {
        let slope = sigmoid(x[(t, decay + head)] + parameters[(1, head)]);
        dx[(t, decay + head)] = -parameters[(0, head)] * slope * d[(t, head)];
        dx[(t, beta + head)] = sigmoid(-x[(t, beta + head)]) * d[(t, heads + head)];
    }
    dx
}

/// The gradients of queries, keys and values, and of the logarithms of the gates, of sequences that begin with their
/// runs: with all states kept, and G the gradient of the one after a token, `dq = Sᵀ·d`, `dv = b·G·k`, and so on.
pub fn delta_rule_backward(
    shape: &DeltaShape,
    qkv: &DMatrix<f64>,
    gates: &DMatrix<f64>,
    d: &DMatrix<f64>,
    runs: &[DeltaRun],
) -> (DMatrix<f64>, DMatrix<f64>) {
    let DeltaShape { key_heads, value_heads, key_dim, value_dim } = *shape;
    let mut dqkv = DMatrix::zeros(qkv.nrows(), qkv.ncols());
    let mut dgates = DMatrix::zeros(gates.nrows(), gates.ncols());
    for (run, head) in runs.iter().flat_map(|run| (0..value_heads).map(move |head| (run, head))) {
        let key_head = head / (value_heads / key_heads);
        let [q, k] = [key_head, key_heads + key_head].map(|head| (head * key_dim, key_dim));
        let v = (2 * key_heads * key_dim + head * value_dim, value_dim);
        let of = |t: usize, (column, width)| qkv.view((t, column), (1, width)).transpose();
        // [value_dim, key_dim], before each token.
        let mut states = vec![DMatrix::zeros(value_dim, key_dim)];
        for t in run.first..run.first + run.tokens {
            let (k, v) = (of(t, k), of(t, v));
            let (a, b) = (gates[(t, head)], gates[(t, value_heads + head)]);
            let before = &states[t - run.first];
            states.push(a * before + b * (v - a * (before * &k)) * k.transpose());
        }
        let mut gradient = DMatrix::zeros(value_dim, key_dim);
        for t in (run.first..run.first + run.tokens).rev() {
            let (before, after) = (&states[t - run.first], &states[t - run.first + 1]);
            let (a, b) = (gates[(t, head)], gates[(t, value_heads + head)]);
            let [query, key] = [q, k].map(|place| of(t, place));
            let out = d.view((t, head * value_dim), (1, value_dim)).transpose();
            gradient += &out * query.transpose();
            let corrected = of(t, v) - a * (before * &key);
            // Of the state's correction, of all that was added.
            let of_error = &gradient * &key;
            let mut add = |(column, width): (usize, usize), value: DMatrix<f64>| {
                let mut to = dqkv.view_mut((t, column), (1, width));
                to += value.transpose();
            };
            add(q, after.transpose() * &out);
            add(k, gradient.transpose() * (b * &corrected) - before.transpose() * (a * b * &of_error));
            add(v, b * &of_error);
            dgates[(t, head)] = a * (gradient.dot(before) - b * of_error.dot(&(before * &key)));
            dgates[(t, value_heads + head)] = b * of_error.dot(&corrected);
            gradient = a * (&gradient - b * &of_error * key.transpose());
        }
    }
    (dqkv, dgates)
}
