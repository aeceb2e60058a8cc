//! Gradients, beside the kernels that they are of.

use nalgebra::DMatrix;

use super::{
    job::{EPS, Job, ROUNDOFF, compare, rows_check, sampled, sizes, tolerance, wide},
    kernels::{attention_shape, seen_keys, some_tokens},
};
use crate::{
    bench::{
        row::{Bound, Check, Unit, Work},
        values::Values,
        workload::Gradient,
    },
    error::Result,
    gpu::{ElementType, Gpu},
    ops::{Activation, AttentionShape, HeadSpan, Norm, NormInput, Sequence},
    reference,
};

/// Results of each product that are compared with f64.
const SAMPLED: usize = 64;

pub fn backward<'a>(gpu: &'a Gpu, gradient: Gradient) -> Result<Job<'a>> {
    match gradient {
        Gradient::Linear { m, n, k } => linear(gpu, [m, n, k]),
        Gradient::Norm { tokens, width } => norm(gpu, tokens, width),
        Gradient::Activation { tokens, width } => activation(gpu, tokens, width),
        Gradient::Attention { heads, kv_heads, head_dim, tokens, window } => {
            attention(gpu, [heads, kv_heads, head_dim], tokens, window)
        }
    }
}

fn job<'a, const N: usize>(
    named: [(&str, usize); N],
    (unit, bound, work): (Unit, Bound, Work),
    check: Check,
    execute: impl FnMut() -> Result<()> + 'a,
) -> Job<'a> {
    let execute = Box::new(execute);
    Job { sizes: sizes(named), unit, bound, work, check, configuration: None, on_gpu: true, execute }
}

/// Of what the layer has read, and of its weight.
fn linear(gpu: &Gpu, [m, n, k]: [usize; 3]) -> Result<Job<'_>> {
    let (x, w, d) = (Values::signal(1, m, k), Values::weight(2, n, k, ElementType::F32), Values::signal(3, m, n));
    let (gpu_x, gpu_w, gpu_d, dx) = (x.upload(gpu)?, w.upload(gpu)?, d.upload(gpu)?, gpu.zeros(m, k)?);
    let result = dx.clone();
    let execute = move || {
        gpu.linear_backward(&gpu_d, 0..n, &gpu_w, &dx, false)?;
        gpu.linear_weight_backward(&gpu_d, 0..n, &gpu_x)
    };
    let dw = gpu.download(&execute()?)?;
    let dx = gpu.download(&result)?;
    let sum = |terms: &mut dyn Iterator<Item = f64>| {
        terms.fold((0.0, 0.0), |(sum, magnitude), term| (sum + term, magnitude + term.abs()))
    };
    let of_input = sampled(m, k, SAMPLED).into_iter().map(|(row, col)| {
        let (expected, most) = sum(&mut (0..n).map(|at| f64::from(d.at(row, at)) * f64::from(w.at(at, col))));
        (f64::from(dx[row * k + col]), expected, most)
    });
    let of_weight = sampled(n, k, SAMPLED).into_iter().map(|(row, col)| {
        let (expected, most) = sum(&mut (0..m).map(|at| f64::from(d.at(at, row)) * f64::from(x.at(at, col))));
        (f64::from(dw[row * k + col]), expected, most)
    });
    let what = "sampled results of both products, by the sum of the magnitudes of their terms";
    let check = compare(what, tolerance(n.max(m)), of_input.chain(of_weight));
    let work = Work {
        flops: 4.0 * (m * n) as f64 * k as f64,
        bytes: 4.0 * (2 * m * k + m * n + 2 * n * k) as f64,
        items: m as f64,
    };
    Ok(job([("m", m), ("n", n), ("k", k)], (Unit::Gflops, Bound::Compute, work), check, move || execute().map(drop)))
}

fn norm(gpu: &Gpu, tokens: usize, width: usize) -> Result<Job<'_>> {
    let (x, d, weight) =
        (Values::signal(1, tokens, width), Values::signal(2, tokens, width), Values::signal(3, 1, width));
    let (gpu_x, gpu_d, gpu_weight) = (x.upload(gpu)?, d.upload(gpu)?, weight.upload(gpu)?);
    let dx = gpu.zeros(tokens, width)?;
    let result = dx.clone();
    let execute = move || {
        let norm = NormInput { kind: Norm::Rms, x: &gpu_x, weight: Some(&gpu_weight), norm_width: width, eps: EPS };
        gpu.norm_backward(norm, &gpu_d, &dx, false)
    };
    execute()?;
    let rows = some_tokens(tokens);
    let scales: Vec<f64> = (0..width).map(|col| f64::from(weight.at(0, col))).collect();
    let eps = f64::from(EPS);
    let expected = reference::norm_backward(Norm::Rms, &wide(&x, &rows), Some(&scales), &wide(&d, &rows), width, eps);
    let allowed = tolerance(width);
    let check = rows_check("sampled tokens, by the largest value", allowed, &rows, &gpu.download(&result)?, &expected);
    let count = tokens * width;
    let work = Work { flops: 8.0 * count as f64, bytes: 12.0 * count as f64, items: tokens as f64 };
    Ok(job([("tokens", tokens), ("width", width)], (Unit::Gbytes, Bound::Bandwidth, work), check, execute))
}

fn activation(gpu: &Gpu, tokens: usize, width: usize) -> Result<Job<'_>> {
    let (x, d) = (Values::signal(1, tokens, 2 * width), Values::signal(2, tokens, width));
    let (gpu_x, gpu_d) = (x.upload(gpu)?, d.upload(gpu)?);
    let execute = move || gpu.activation_backward(Activation::Silu, true, &gpu_x, &gpu_d);
    let actual = gpu.download(&execute()?)?;
    let rows = some_tokens(tokens);
    let expected = reference::activation_backward(Activation::Silu, true, &wide(&x, &rows), &wide(&d, &rows));
    let check = rows_check("sampled tokens, by the largest value", 64.0 * ROUNDOFF, &rows, &actual, &expected);
    let count = tokens * width;
    let work = Work { flops: 10.0 * count as f64, bytes: 20.0 * count as f64, items: tokens as f64 };
    Ok(job([("tokens", tokens), ("width", width)], (Unit::Gbytes, Bound::Bandwidth, work), check, move || {
        execute().map(drop)
    }))
}

fn attention(
    gpu: &Gpu,
    [heads, kv_heads, head_dim]: [usize; 3],
    tokens: usize,
    window: Option<usize>,
) -> Result<Job<'_>> {
    let shape = attention_shape([heads, kv_heads, head_dim], heads * head_dim, window);
    let cols = (heads + 2 * kv_heads) * head_dim;
    let (qkv, d) = (Values::signal(1, tokens, cols), Values::signal(2, tokens, heads * head_dim));
    let (gpu_qkv, gpu_d) = (qkv.upload(gpu)?, d.upload(gpu)?);
    let whole = Sequence { first: 0, tokens, kv_row: 0, position: 0 };
    let execute = move || gpu.attention_backward(&shape, &gpu_qkv, &gpu_d, &[whole]);
    let actual = gpu.download(&execute()?)?;

    // The last key-value head and its queries, by themselves.
    let group = heads / kv_heads;
    let span = |column, heads| HeadSpan { column, heads };
    let (first, last) = ((heads - group) * head_dim, (kv_heads - 1) * head_dim);
    let places: Vec<usize> = (first..heads * head_dim)
        .chain([heads, heads + kv_heads].into_iter().flat_map(|at| {
            let start = at * head_dim + last;
            start..start + head_dim
        }))
        .collect();
    let alone =
        AttentionShape { q: span(0, group), k: span(group * head_dim, 1), v: span((group + 1) * head_dim, 1), ..shape };
    let own = DMatrix::from_fn(tokens, places.len(), |row, col| f64::from(qkv.at(row, places[col])));
    let own_d = DMatrix::from_fn(tokens, group * head_dim, |row, col| f64::from(d.at(row, first + col)));
    let expected = reference::attention_backward(&alone, &own, &own_d, &[whole]);
    let most = expected.amax();
    let pairs = (0..tokens).flat_map(|row| (0..places.len()).map(move |col| (row, col)));
    let triples = pairs.map(|(row, col)| (f64::from(actual[row * cols + places[col]]), expected[(row, col)], most));
    let allowed = 16.0 * ROUNDOFF * ((head_dim as f64).sqrt() + (tokens as f64).sqrt());
    let check = compare("the last key-value head and its queries, by the largest value", allowed, triples);
    let seen = seen_keys(tokens, 0, window);
    let work = Work {
        flops: 10.0 * (seen * heads * head_dim) as f64,
        bytes: 4.0 * (tokens * (2 * cols + 2 * heads * head_dim)) as f64,
        items: tokens as f64,
    };
    let named = [
        ("heads", heads),
        ("kv_heads", kv_heads),
        ("head_dim", head_dim),
        ("tokens", tokens),
        ("window", window.unwrap_or(0)),
    ];
    Ok(job(named, (Unit::Gflops, Bound::Compute, work), check, move || execute().map(drop)))
}
