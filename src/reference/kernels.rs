//! One function for each kernel, in f64 and from the formula.

use nalgebra::DMatrix;

use super::scores::scored;
use crate::ops::{
    Activation, AdamW, AttentionShape, Divergence, Dropout, HeadSpan, Norm, PROBE_CHAINS, RowCopy, SampleOptions,
    Sequence,
};

/// A matrix from row-major values.
pub fn matrix(rows: usize, cols: usize, values: &[f32]) -> DMatrix<f64> {
    DMatrix::from_row_iterator(rows, cols, values.iter().map(|&value| f64::from(value)))
}

/// `a · wᵀ + bias`.
pub fn linear(a: &DMatrix<f64>, w: &DMatrix<f64>, bias: Option<&[f64]>) -> DMatrix<f64> {
    let mut c = a * w.transpose();
    for (mut column, bias) in c.column_iter_mut().zip(bias.unwrap_or_default()) {
        column.add_scalar_mut(*bias);
    }
    c
}

/// `a · b`.
pub fn matmul(a: &DMatrix<f64>, b: &DMatrix<f64>) -> DMatrix<f64> {
    a * b
}

/// `a · wᵀ`, as the bench's naive product has it.
pub fn gemm_naive(a: &DMatrix<f64>, w: &DMatrix<f64>) -> DMatrix<f64> {
    linear(a, w, None)
}

/// For every thread, the sum of [`PROBE_CHAINS`] numbers from `t % 16` on, each put through `z ← z·factor + summand`
/// `steps` times.
pub fn probe_fma(threads: usize, steps: u32, factor: f64, summand: f64) -> Vec<f64> {
    let chain = |start: usize| (0..steps).fold(start as f64, |z, _| z * factor + summand);
    (0..threads).map(|thread| (0..PROBE_CHAINS).map(|i| chain(thread % 16 + i)).sum()).collect()
}

/// `y = x`.
pub fn probe_copy(x: &DMatrix<f64>) -> DMatrix<f64> {
    x.clone()
}

/// `e[t] = Σ_i x[t, i]²`.
pub fn energy(x: &DMatrix<f64>) -> Vec<f64> {
    x.row_iter().map(|token| token.norm_squared()).collect()
}

/// `xᵀ` from a column of `x` on: `[rows, columns]`, with zeros beyond the last token or column.
pub fn transpose(x: &DMatrix<f64>, column: usize, [rows, columns]: [usize; 2]) -> DMatrix<f64> {
    DMatrix::from_fn(
        rows,
        columns,
        |i, t| if column + i < x.ncols() && t < x.nrows() { x[(t, column + i)] } else { 0.0 },
    )
}

/// `Σ_tokens xᵀ·x`, both triangles.
pub fn covariance(x: &DMatrix<f64>) -> DMatrix<f64> {
    x.transpose() * x
}

/// `aᵀ · b`.
pub fn cross_covariance(a: &DMatrix<f64>, b: &DMatrix<f64>) -> DMatrix<f64> {
    a.transpose() * b
}

/// Every token of `y` times `sqrt(w[t] / (e[t] / norm_width + eps))`, w 1 where it is not given.
pub fn scale_tokens(y: &DMatrix<f64>, e: &[f64], w: Option<&[f64]>, norm_width: usize, eps: f64) -> DMatrix<f64> {
    let counts = |t: usize| w.map_or(1.0, |w| w[t]);
    DMatrix::from_fn(y.nrows(), y.ncols(), |t, i| y[(t, i)] * (counts(t) / (e[t] / norm_width as f64 + eps)).sqrt())
}

/// `y − factor·x`.
pub fn subtract(y: &DMatrix<f64>, x: &DMatrix<f64>, factor: f64) -> DMatrix<f64> {
    y - x * factor
}

/// One token's norm, `values` being all that is kept of `width` coordinates.
fn normalised(
    kind: Norm,
    values: &[f64],
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    width: usize,
    eps: f64,
) -> Vec<f64> {
    let mean = match kind {
        Norm::Rms => 0.0,
        Norm::Layer => values.iter().sum::<f64>() / width as f64,
    };
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / width as f64;
    let parameter = |values: Option<&[f64]>, i: usize, neutral| values.map_or(neutral, |values| values[i]);
    let scaled = values.iter().map(|value| (value - mean) / (variance + eps).sqrt());
    scaled.enumerate().map(|(i, value)| value * parameter(weight, i, 1.0) + parameter(bias, i, 0.0)).collect()
}

/// Every token scaled to unit root mean square, or to zero mean and unit variance.
pub fn norm(
    kind: Norm,
    x: &DMatrix<f64>,
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    norm_width: usize,
    eps: f64,
) -> DMatrix<f64> {
    let rows = x
        .row_iter()
        .flat_map(|row| normalised(kind, &row.iter().copied().collect::<Vec<_>>(), weight, bias, norm_width, eps));
    DMatrix::from_row_iterator(x.nrows(), x.ncols(), rows.collect::<Vec<_>>())
}

/// The columns of head `head`.
pub(super) fn columns(span: HeadSpan, head: usize, head_dim: usize) -> std::ops::Range<usize> {
    let first = span.column + head * head_dim;
    first..first + head_dim
}

/// Each head normalised by itself, in place.
pub fn head_norm(kind: Norm, x: &mut DMatrix<f64>, span: HeadSpan, weight: &[f64], bias: Option<&[f64]>, eps: f64) {
    for token in 0..x.nrows() {
        for head in 0..span.heads {
            let columns = columns(span, head, weight.len());
            let values: Vec<f64> = columns.clone().map(|column| x[(token, column)]).collect();
            for (column, value) in columns.zip(normalised(kind, &values, Some(weight), bias, weight.len(), eps)) {
                x[(token, column)] = value;
            }
        }
    }
}

/// The pairs (i, i + pairs) of each head, taken as a complex number, times `factor · exp(i · position · frequency)`, in
/// place. The angle is rounded to f32, as models were trained with.
pub fn rope(
    x: &mut DMatrix<f64>,
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
                let turn = nalgebra::Complex::from_polar(factor, f64::from(position as f32 * frequency));
                let rotated = nalgebra::Complex::new(x[(token, real)], x[(token, imaginary)]) * turn;
                (x[(token, real)], x[(token, imaginary)]) = (rotated.re, rotated.im);
            }
        }
    }
}

/// Causal attention: for every token and head, the scores of all that the token sees, their softmax, the mean of the
/// values by it.
pub fn attention(shape: &AttentionShape, q: &DMatrix<f64>, kv: &DMatrix<f64>, sequences: &[Sequence]) -> DMatrix<f64> {
    attention_with_sinks(shape, &[], q, kv, sequences)
}

/// The same with one more score of each query head, where there are any, that has no value.
pub fn attention_with_sinks(
    shape: &AttentionShape,
    sinks: &[f64],
    q: &DMatrix<f64>,
    kv: &DMatrix<f64>,
    sequences: &[Sequence],
) -> DMatrix<f64> {
    let head_dim = shape.head_dim;
    let mut out = DMatrix::zeros(q.nrows(), shape.q.heads * head_dim);
    for block in sequences {
        for (token, position) in (block.first..block.first + block.tokens).zip(block.position..) {
            let oldest = shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
            for head in 0..shape.q.heads {
                let shared = head * shape.k.heads / shape.q.heads;
                let query = q.view((token, columns(shape.q, head, head_dim).start), (1, head_dim));
                let first_row = block.kv_row + oldest;
                let seen = position + 1 - oldest;
                let keys = kv.view((first_row, columns(shape.k, shared, head_dim).start), (seen, head_dim));
                let values = kv.view((first_row, columns(shape.v, shared, head_dim).start), (seen, head_dim));
                let mut scores = query * keys.transpose() * f64::from(shape.scale);
                for (score, key) in scores.iter_mut().zip(oldest..) {
                    *score = scored(shape, *score, head, position, key).0;
                }
                let sink = sinks.get(head).copied().unwrap_or(f64::NEG_INFINITY);
                let highest = scores.max().max(sink);
                let weights = scores.map(|score| (score - highest).exp());
                let mixed = &weights * values / (weights.sum() + (sink - highest).exp());
                out.view_mut((token, head * head_dim), (1, head_dim)).copy_from(&mixed);
            }
        }
    }
    out
}

/// The error function: `2/√π · exp(−x²) · Σ_n 2ⁿ x²ⁿ⁺¹ / (1·3·…·(2n+1))`, whose terms have one sign.
pub(super) fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, 0.0, 0.0);
    while term != 0.0 && sum + term != sum {
        sum += term;
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// `f(x)`, or, gated, `f(x[:, :half]) · x[:, half:]`.
pub fn activation(kind: Activation, gated: bool, x: &DMatrix<f64>) -> DMatrix<f64> {
    let apply = |x: f64| match kind {
        Activation::Relu => x.max(0.0),
        Activation::Gelu => x * (1.0 + erf(x / std::f64::consts::SQRT_2)) / 2.0,
        Activation::GeluTanh => {
            x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()) / 2.0
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
    };
    if !gated {
        return x.map(apply);
    }
    let half = x.ncols() / 2;
    x.columns(0, half).map(apply).component_mul(&x.columns(half, half))
}

/// The rows `ids` of a table.
pub fn embed(ids: &[u32], table: &DMatrix<f64>) -> DMatrix<f64> {
    table.select_rows(ids.iter().map(|&id| id as usize).collect::<Vec<_>>().iter())
}

/// The rows `positions + offset` of a table of learned positions.
pub fn embed_positions(positions: &[u32], offset: usize, table: &DMatrix<f64>) -> DMatrix<f64> {
    table.select_rows(positions.iter().map(|&position| position as usize + offset).collect::<Vec<_>>().iter())
}

/// For each `(source, target)`, columns of the source row into the target row.
pub fn copy_rows(from: &DMatrix<f64>, to: &mut DMatrix<f64>, rows: &[(usize, usize)], copy: RowCopy) {
    for &(source, target) in rows {
        let values = from.view((source, copy.from_column), (1, copy.cols));
        to.view_mut((target, copy.to_column), (1, copy.cols)).copy_from(&values);
    }
}

/// The negative log-likelihood of each row's target.
pub fn loss(logits: &DMatrix<f64>, targets: &[u32]) -> Vec<f64> {
    let of = |(row, &target): (nalgebra::MatrixView1xX<'_, f64, _, _>, &u32)| {
        let highest = row.max();
        highest + row.iter().map(|logit| (logit - highest).exp()).sum::<f64>().ln() - row[target as usize]
    };
    logits.row_iter().zip(targets).map(of).collect()
}

/// For each row of p's and q's logits, KL(p ‖ q), whether their largest entries, the first ones, are the same, and −log
/// of both at the target.
pub fn divergence(p: &DMatrix<f64>, q: &DMatrix<f64>, targets: &[u32]) -> Vec<Divergence> {
    let log_softmax = |logits: &DMatrix<f64>, row: usize| -> Vec<f64> {
        let highest = logits.row(row).max();
        let sum = logits.row(row).iter().map(|logit| (logit - highest).exp()).sum::<f64>().ln();
        logits.row(row).iter().map(|logit| logit - highest - sum).collect()
    };
    let largest = |values: &[f64]| (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]).then(b.cmp(&a)));
    (0..p.nrows())
        .map(|row| {
            let (p, q, target) = (log_softmax(p, row), log_softmax(q, row), targets[row] as usize);
            let kl = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
            Divergence { kl, agrees: largest(&p) == largest(&q), losses: [-p[target], -q[target]] }
        })
        .collect()
}

/// 23 bits that depend on what they are for (PCG3D of Jarzynski and Olano), as a number strictly between 0 and 1.
pub fn uniform(seed: u32, row: u32, step: u32, token: u32) -> f64 {
    let mut v = [seed ^ row.wrapping_mul(0x9e37_79b9), step, token]
        .map(|word| word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let mix = |v: &mut [u32; 3]| {
        for i in 0..3 {
            v[i] = v[i].wrapping_add(v[(i + 1) % 3].wrapping_mul(v[(i + 2) % 3]));
        }
    };
    mix(&mut v);
    v = v.map(|word| word ^ word >> 16);
    mix(&mut v);
    (f64::from(v[0] >> 9) + 0.5) / f64::from(1 << 23)
}

/// For each row, the argmax of `logit / temperature + g` with Gumbel noise `g = −ln(−ln(1 − u))`.
pub fn sample(logits: &DMatrix<f64>, options: &SampleOptions) -> Vec<u32> {
    let value = |row: usize, token: usize| {
        let u = uniform(options.seed, (options.first_row + row) as u32, options.step as u32, token as u32);
        logits[(row, token)] / f64::from(options.temperature) - (-(-u).ln_1p()).ln()
    };
    let best =
        |row: usize| (0..logits.ncols()).max_by(|&a, &b| value(row, a).total_cmp(&value(row, b))).unwrap_or_default();
    (0..logits.nrows()).map(|row| best(row) as u32).collect()
}

/// One step of AdamW of a weight and its moments, in place, from the gradient `g` times `scale`.
pub fn adamw(options: &AdamW, g: &DMatrix<f64>, scale: f64, [w, m, v]: [&mut DMatrix<f64>; 3]) {
    let AdamW { rate, betas: [beta1, beta2], eps, weight_decay, step } = *options;
    let g = g * scale;
    *m = &*m * beta1 + &g * (1.0 - beta1);
    *v = &*v * beta2 + g.component_mul(&g) * (1.0 - beta2);
    let unbiased = |moment: f64, beta: f64| moment / (1.0 - beta.powi(step as i32));
    let step = m.zip_map(v, |m, v| rate * unbiased(m, beta1) / (unbiased(v, beta2).sqrt() + eps));
    *w = &*w * (1.0 - rate * weight_decay) - step;
}

/// `x` with some values missing and the others times `scale / (1 − rate)`; its first token is the one numbered `first`.
pub fn dropout(dropout: Dropout, first: usize, x: &DMatrix<f64>) -> DMatrix<f64> {
    fn pcg(value: u32) -> u32 {
        let state = value.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
        (word >> 22) ^ word
    }
    DMatrix::from_fn(x.nrows(), x.ncols(), |t, i| {
        let row = pcg(dropout.seed ^ pcg((first + t) as u32));
        let missing = f64::from(pcg(row.wrapping_add(i as u32))) < f64::from(dropout.rate) * 2f64.powi(32);
        if missing { 0.0 } else { x[(t, i)] * f64::from(dropout.scale) / (1.0 - f64::from(dropout.rate)) }
    })
}
