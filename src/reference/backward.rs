//! One function for the gradient of each kernel, in f64 and from the formula: from the gradient of a result, that of
//! what it was made of.

use nalgebra::{Complex, DMatrix, DVector};

use super::{
    kernels::{columns, erf},
    scores::scored,
};
use crate::ops::{Activation, AttentionShape, HeadSpan, Norm, Sequence};

/// Of one token, or head: with n the normed values without parameters, `r · (g − n · Σ g n / width)`, of a layer norm
/// less the mean of g.
fn denormalised(kind: Norm, x: &[f64], d: &[f64], weight: Option<&[f64]>, width: usize, eps: f64) -> Vec<f64> {
    let mean_of = |values: &DVector<f64>| if kind == Norm::Layer { values.sum() / width as f64 } else { 0.0 };
    let x = DVector::from_column_slice(x);
    let centred = x.add_scalar(-mean_of(&x));
    let r = 1.0 / (centred.norm_squared() / width as f64 + eps).sqrt();
    let n = centred * r;
    let g = DVector::from_iterator(d.len(), d.iter().enumerate().map(|(i, d)| d * weight.map_or(1.0, |w| w[i])));
    let along = g.dot(&n) / width as f64;
    let mean = mean_of(&g);
    (0..d.len()).map(|i| r * (g[i] - mean - n[i] * along)).collect()
}

/// The gradient of what a norm was given.
pub fn norm_backward(
    kind: Norm,
    x: &DMatrix<f64>,
    weight: Option<&[f64]>,
    d: &DMatrix<f64>,
    norm_width: usize,
    eps: f64,
) -> DMatrix<f64> {
    let row = |matrix: &DMatrix<f64>, token| matrix.row(token).iter().copied().collect::<Vec<_>>();
    let tokens = 0..x.nrows();
    let rows = tokens.flat_map(|t| denormalised(kind, &row(x, t), &row(d, t), weight, norm_width, eps));
    DMatrix::from_row_iterator(x.nrows(), x.ncols(), rows.collect::<Vec<_>>())
}

/// The gradient of heads that were normalised each by itself, from that of the results `d`, in place.
pub fn head_norm_backward(
    kind: Norm,
    x: &DMatrix<f64>,
    span: HeadSpan,
    weight: &[f64],
    eps: f64,
    d: &mut DMatrix<f64>,
) {
    for token in 0..x.nrows() {
        for head in 0..span.heads {
            let columns = columns(span, head, weight.len());
            let of = |matrix: &DMatrix<f64>| columns.clone().map(|column| matrix[(token, column)]).collect::<Vec<_>>();
            let values = denormalised(kind, &of(x), &of(d), Some(weight), weight.len(), eps);
            columns.clone().zip(values).for_each(|(column, value)| d[(token, column)] = value);
        }
    }
}

/// The pairs of each head times `factor · exp(−i · position · frequency)`, in place.
pub fn rope_backward(
    d: &mut DMatrix<f64>,
    span: HeadSpan,
    head_dim: usize,
    positions: &[u32],
    frequencies: &[f32],
    factor: f64,
) {
    for (token, &position) in positions.iter().enumerate() {
        for head in 0..span.heads {
            for (pair, &frequency) in frequencies.iter().enumerate() {
                let real = columns(span, head, head_dim).start + pair;
                let imaginary = real + frequencies.len();
                let turn = Complex::from_polar(factor, -f64::from(position as f32 * frequency));
                let rotated = Complex::new(d[(token, real)], d[(token, imaginary)]) * turn;
                (d[(token, real)], d[(token, imaginary)]) = (rotated.re, rotated.im);
            }
        }
    }
}

/// An activation and its derivative.
fn slope(kind: Activation, x: f64) -> (f64, f64) {
    let logistic = |z: f64, slope: f64| {
        let share = 1.0 / (1.0 + (-z).exp());
        (x * share, share + x * share * (1.0 - share) * slope)
    };
    match kind {
        Activation::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
        Activation::Gelu => {
            let below = (1.0 + erf(x / std::f64::consts::SQRT_2)) / 2.0;
            (x * below, below + x * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt())
        }
        // (1 + tanh z) / 2 is the logistic function of 2z.
        Activation::GeluTanh => {
            let factor = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
            logistic(factor * (x + 0.044715 * x.powi(3)), factor * (1.0 + 3.0 * 0.044715 * x * x))
        }
        Activation::Silu => logistic(x, 1.0),
    }
}

/// The gradient of what an activation was given.
pub fn activation_backward(kind: Activation, gated: bool, x: &DMatrix<f64>, d: &DMatrix<f64>) -> DMatrix<f64> {
    let width = d.ncols();
    DMatrix::from_fn(x.nrows(), x.ncols(), |t, i| match (gated, i < width) {
        (false, _) => d[(t, i)] * slope(kind, x[(t, i)]).1,
        (true, true) => d[(t, i)] * slope(kind, x[(t, i)]).1 * x[(t, width + i)],
        (true, false) => d[(t, i - width)] * slope(kind, x[(t, i - width)]).0,
    })
}

/// The gradient of what a linear layer read: `d · w`.
pub fn linear_backward(d: &DMatrix<f64>, w: &DMatrix<f64>) -> DMatrix<f64> {
    d * w
}

/// The gradient of a linear layer's weight: `dᵀ · x`.
pub fn linear_weight_backward(d: &DMatrix<f64>, x: &DMatrix<f64>) -> DMatrix<f64> {
    d.transpose() * x
}

/// Sums over tokens of `a`, or of `a · b` element by element.
pub fn column_sums(a: &DMatrix<f64>, b: Option<&DMatrix<f64>>) -> DMatrix<f64> {
    let products = b.map_or_else(|| a.clone(), |b| a.component_mul(b));
    DMatrix::from_fn(1, a.ncols(), |_, i| products.column(i).sum())
}

/// The shares of the keys that a token sees, where their rows begin, and the derivatives of their scores by the scaled
/// products.
fn shares(
    (shape, sinks): (&AttentionShape, &[f64]),
    qkv: &DMatrix<f64>,
    block: &Sequence,
    position: usize,
    head: usize,
) -> (DVector<f64>, usize, DVector<f64>) {
    let oldest = shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
    let (first, count, h) = (block.kv_row + oldest, position + 1 - oldest, shape.head_dim);
    let shared = head / shape.group();
    let query = qkv.view((block.first + position, columns(shape.q, head, h).start), (1, h));
    let keys = qkv.view((first, columns(shape.k, shared, h).start), (count, h));
    let mut scores = keys * query.transpose() * f64::from(shape.scale);
    let mut slopes = DVector::zeros(count);
    for (index, score) in scores.iter_mut().enumerate() {
        (*score, slopes[index]) = scored(shape, *score, head, position, oldest + index);
    }
    let sink = sinks.get(head).copied().unwrap_or(f64::NEG_INFINITY);
    let highest = scores.max().max(sink);
    let shares = DVector::from_iterator(count, scores.iter().map(|score| (score - highest).exp()));
    (&shares / (shares.sum() + (sink - highest).exp()), first, slopes)
}

/// The gradients of queries, keys and values, in their places, of whole sequences: with p the shares of a query, `dv +=
/// p d`, `ds = p (d·v − Σ p d·v)`, `dq = scale Σ ds k`, `dk += scale ds q`.
pub fn attention_backward(
    shape: &AttentionShape,
    qkv: &DMatrix<f64>,
    d: &DMatrix<f64>,
    sequences: &[Sequence],
) -> DMatrix<f64> {
    attention_backward_with_sinks(shape, &[], qkv, d, sequences)
}

/// The same with one more score of each query head, where there are any, that has no value.
pub fn attention_backward_with_sinks(
    shape: &AttentionShape,
    sinks: &[f64],
    qkv: &DMatrix<f64>,
    d: &DMatrix<f64>,
    sequences: &[Sequence],
) -> DMatrix<f64> {
    let (h, scale) = (shape.head_dim, f64::from(shape.scale));
    let mut dqkv = DMatrix::zeros(qkv.nrows(), qkv.ncols());
    for block in sequences {
        for position in 0..block.tokens {
            for head in 0..shape.q.heads {
                let (token, shared) = (block.first + position, head / shape.group());
                let [q, k, v] = [(shape.q, head), (shape.k, shared), (shape.v, shared)]
                    .map(|(span, head)| columns(span, head, h).start);
                let (p, first, slopes) = shares((shape, sinks), qkv, block, position, head);
                let gradient = d.view((token, head * h), (1, h)).transpose();
                let agreements = qkv.view((first, v), (p.len(), h)) * &gradient;
                let ds = scale * p.component_mul(&slopes).component_mul(&agreements.add_scalar(-p.dot(&agreements)));
                let keys = qkv.view((first, k), (p.len(), h)).into_owned();
                let query = qkv.view((token, q), (1, h)).into_owned();
                let mut dv = dqkv.view_mut((first, v), (p.len(), h));
                dv += &p * gradient.transpose();
                let mut dq = dqkv.view_mut((token, q), (1, h));
                dq += ds.transpose() * keys;
                let mut dk = dqkv.view_mut((first, k), (p.len(), h));
                dk += &ds * query;
            }
        }
    }
    dqkv
}

/// Every token's gradient added to the row of the table that it was looked up in.
pub fn embed_backward(ids: &[u32], d: &DMatrix<f64>, rows: usize) -> DMatrix<f64> {
    let mut table = DMatrix::zeros(rows, d.ncols());
    for (token, &id) in ids.iter().enumerate() {
        let mut row = table.row_mut(id as usize);
        row += d.row(token);
    }
    table
}

fn softmax(logits: &DMatrix<f64>) -> DMatrix<f64> {
    let mut shares = logits.clone();
    for mut row in shares.row_iter_mut() {
        let highest = row.max();
        row.apply(|logit| *logit = (*logit - highest).exp());
        let sum = row.sum();
        row /= sum;
    }
    shares
}

/// The gradient of `factor` times the sum of the negative log-likelihoods by the logits; rows without a target
/// (`u32::MAX`) have none.
pub fn loss_backward(logits: &DMatrix<f64>, targets: &[u32], factor: f64) -> DMatrix<f64> {
    let shares = softmax(logits);
    DMatrix::from_fn(logits.nrows(), logits.ncols(), |t, i| match targets[t] {
        u32::MAX => 0.0,
        target => factor * (shares[(t, i)] - if target as usize == i { 1.0 } else { 0.0 }),
    })
}

/// The gradient of `factor` times the sum of KL(p ‖ q) by q's logits.
pub fn divergence_backward(p: &DMatrix<f64>, q: &DMatrix<f64>, factor: f64) -> DMatrix<f64> {
    (softmax(q) - softmax(p)) * factor
}
