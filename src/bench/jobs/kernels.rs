//! Single kernels, and the eigensolver.

use faer::Mat;
use nalgebra::DMatrix;

use super::job::{EPS, Job, ROUNDOFF, compare, rows_check, sampled, sizes, tolerance, wide};
use crate::{
    bench::{
        row::{Bound, Check, Unit, Work},
        values::Values,
        workload::Product,
    },
    error::Result,
    gpu::{ElementType, Gpu},
    linalg::eigh,
    ops::{Activation, AttentionShape, HeadSpan, Norm, ProductConfig, Sequence},
    reference,
};

/// Results that are compared with f64.
const SAMPLED: usize = 64;
/// A product of so few rows is bound by reading its weight.
const DECODING: usize = 4;

pub fn gemm(gpu: &Gpu, kernel: Product, [m, n, k]: [usize; 3], element: ElementType) -> Result<Job<'_>> {
    let (a, w) = (Values::signal(1, m, k), Values::weight(2, n, k, element));
    let (gpu_a, gpu_w, c) = (a.upload(gpu)?, w.upload(gpu)?, gpu.zeros(m, n)?);
    let result = c.clone();
    let multiply = move || match kernel {
        Product::Naive => gpu.gemm_naive(&gpu_a, &gpu_w, &c),
        Product::Shared | Product::Best => gpu.linear(&gpu_a, &gpu_w, None, &c, 0, false),
    };
    let best = if kernel == Product::Best { Some(fastest(gpu, &multiply)?) } else { None };
    let execute = move || best.map_or_else(&multiply, |best| gpu.with_products(best, &multiply));
    execute()?;
    let actual = gpu.download(&result)?;
    let triples = sampled(m, n, SAMPLED).into_iter().map(|(row, col)| {
        let terms = (0..k).map(|step| f64::from(a.at(row, step)) * f64::from(w.at(col, step)));
        let (sum, magnitude) = terms.fold((0.0, 0.0), |(sum, magnitude), term| (sum + term, magnitude + term.abs()));
        (f64::from(actual[row * n + col]), sum, magnitude)
    });
    let check = compare("sampled results, by the sum of the magnitudes of their terms", tolerance(k), triples);
    let decodes = m <= DECODING;
    Ok(Job {
        sizes: sizes([("m", m), ("n", n), ("k", k), ("weight_bytes", element.size())]),
        unit: if decodes { Unit::Gbytes } else { Unit::Gflops },
        bound: if decodes { Bound::Bandwidth } else { Bound::Compute },
        work: Work {
            flops: 2.0 * (m * n) as f64 * k as f64,
            bytes: (4 * m * k + element.size() * n * k + 4 * m * n) as f64,
            items: m as f64,
        },
        check,
        configuration: best.map(|best| best.to_string()),
        on_gpu: true,
        execute: Box::new(execute),
    })
}

/// The configuration in which `multiply` takes least.
fn fastest(gpu: &Gpu, multiply: &dyn Fn() -> Result<()>) -> Result<ProductConfig> {
    let mut best = (f64::INFINITY, ProductConfig::default_of(gpu));
    for config in ProductConfig::all(gpu) {
        let seconds = gpu.seconds(|| gpu.with_products(config, multiply))?;
        if seconds < best.0 {
            best = (seconds, config);
        }
    }
    Ok(best.1)
}

pub fn covariance(gpu: &Gpu, width: usize, tokens: usize) -> Result<Job<'_>> {
    let x = Values::signal(1, tokens, width);
    let gpu_x = x.upload(gpu)?;
    let actual = gpu.download(&gpu.covariance(&gpu_x)?)?;
    let triples = sampled(width, width, SAMPLED).into_iter().map(|(i, j)| {
        let (i, j) = (i.min(j), i.max(j));
        let terms = (0..tokens).map(|token| f64::from(x.at(token, i)) * f64::from(x.at(token, j)));
        let (sum, magnitude) = terms.fold((0.0, 0.0), |(sum, magnitude), term| (sum + term, magnitude + term.abs()));
        (f64::from(actual[i * width + j]), sum, magnitude)
    });
    let check = compare(
        "sampled results of the upper triangle, by the sum of the magnitudes of their terms",
        tolerance(tokens),
        triples,
    );
    Ok(Job {
        sizes: sizes([("width", width), ("tokens", tokens)]),
        unit: Unit::Gflops,
        bound: Bound::Compute,
        work: Work {
            flops: (width * (width + 1)) as f64 * tokens as f64,
            bytes: (4 * tokens * width + 2 * width * width) as f64,
            items: tokens as f64,
        },
        check,
        configuration: None,
        on_gpu: true,
        execute: Box::new(move || gpu.covariance(&gpu_x).map(drop)),
    })
}

/// The check is the solver's own, which every solve passes or fails.
pub fn eigenproblem<'a>(width: usize) -> Result<Job<'a>> {
    let x = Values::signal(1, 2 * width, width).wide();
    let c: Mat<f64> = x.transpose() * &x;
    let solution = eigh(c.as_ref())?;
    let check = Check {
        what: "max |CQ - QΛ| / max |C| and max |QᵀQ - I|".into(),
        values: 2 * (width * width) as u64,
        error: Some(solution.residual.max(solution.orthogonality)),
        tolerance: 1e3 * width as f64 * f64::EPSILON,
    };
    Ok(Job {
        sizes: sizes([("width", width)]),
        unit: Unit::Solves,
        bound: Bound::Nothing,
        work: Work { flops: 0.0, bytes: 0.0, items: 1.0 },
        check,
        configuration: None,
        on_gpu: false,
        execute: Box::new(move || eigh(c.as_ref()).map(drop)),
    })
}

/// Queries from column 0 on, keys from `keys` on, and values after them.
pub fn attention_shape([heads, kv_heads, head_dim]: [usize; 3], keys: usize, window: Option<usize>) -> AttentionShape {
    let span = |column, heads| HeadSpan { column, heads };
    AttentionShape {
        head_dim,
        q: span(0, heads),
        k: span(keys, kv_heads),
        v: span(keys + kv_heads * head_dim, kv_heads),
        scale: 1.0 / (head_dim as f32).sqrt(),
        window,
        ..AttentionShape::default()
    }
}

/// Keys that all tokens see together.
pub fn seen_keys(tokens: usize, past: usize, window: Option<usize>) -> usize {
    (past + 1..=past + tokens).map(|keys| keys.min(window.unwrap_or(keys))).sum()
}

pub fn attention(
    gpu: &Gpu,
    [heads, kv_heads, head_dim]: [usize; 3],
    tokens: usize,
    past: usize,
    window: Option<usize>,
) -> Result<Job<'_>> {
    let width = kv_heads * head_dim;
    let shape = attention_shape([heads, kv_heads, head_dim], 0, window);
    let (q, kv) = (Values::signal(1, tokens, heads * head_dim), Values::signal(2, past + tokens, 2 * width));
    let (gpu_q, gpu_kv) = (q.upload(gpu)?, kv.upload(gpu)?);
    let block = Sequence { first: 0, tokens, kv_row: 0, position: past };
    let actual = gpu.download(&gpu.attention(&shape, &gpu_q, &gpu_kv, &[block])?)?;

    let chosen = some_tokens(tokens);
    let row = |values: &Values, row| DMatrix::from_fn(1, values.cols, |_, col| f64::from(values.at(row, col)));
    let wide_kv = DMatrix::from_fn(kv.rows, kv.cols, |row, col| f64::from(kv.at(row, col)));
    let expected = chosen.iter().map(|&token| {
        let alone = Sequence { first: 0, tokens: 1, kv_row: 0, position: past + token };
        reference::attention(&shape, &row(&q, token), &wide_kv, &[alone])
    });
    let (columns, most) = (heads * head_dim, f64::from(kv.scale));
    let pairs: Vec<(f64, f64, f64)> = chosen
        .iter()
        .zip(expected)
        .flat_map(|(&token, expected)| (0..columns).map(move |col| (token, col, expected[col])))
        .map(|(token, col, expected)| (f64::from(actual[token * columns + col]), expected, most))
        .collect();
    // A score of a few units has the rounding of its sum and of exp; the mean by the weights has that of a sum again.
    let allowed = 16.0 * ROUNDOFF * ((head_dim as f64).sqrt() + ((past + tokens) as f64).sqrt());
    let check = compare("all heads of sampled tokens, by the largest value", allowed, pairs.into_iter());
    let seen = seen_keys(tokens, past, window);
    let decodes = tokens == 1;
    Ok(Job {
        sizes: sizes([
            ("heads", heads),
            ("kv_heads", kv_heads),
            ("head_dim", head_dim),
            ("tokens", tokens),
            ("past", past),
        ]),
        unit: if decodes { Unit::Gbytes } else { Unit::Gflops },
        bound: if decodes { Bound::Bandwidth } else { Bound::Compute },
        work: Work {
            flops: 4.0 * (seen * columns) as f64,
            bytes: 4.0 * (2 * width * (past + tokens) + 2 * tokens * columns) as f64,
            items: tokens as f64,
        },
        check,
        configuration: None,
        on_gpu: true,
        execute: Box::new(move || gpu.attention(&shape, &gpu_q, &gpu_kv, &[block]).map(drop)),
    })
}

/// RMS norm, with a weight.
pub fn norm(gpu: &Gpu, tokens: usize, width: usize) -> Result<Job<'_>> {
    let (x, weight) = (Values::signal(1, tokens, width), Values::signal(3, 1, width));
    let (gpu_x, gpu_weight) = (x.upload(gpu)?, weight.upload(gpu)?);
    let execute = move || gpu.norm(Norm::Rms, &gpu_x, Some(&gpu_weight), None, width, EPS);
    let actual = gpu.download(&execute()?)?;
    let rows = some_tokens(tokens);
    let scales: Vec<f64> = (0..width).map(|col| f64::from(weight.at(0, col))).collect();
    let expected = reference::norm(Norm::Rms, &wide(&x, &rows), Some(&scales), None, width, f64::from(EPS));
    let check = rows_check("sampled tokens, by the largest value", tolerance(width), &rows, &actual, &expected);
    let count = tokens * width;
    Ok(Job {
        sizes: sizes([("tokens", tokens), ("width", width)]),
        unit: Unit::Gbytes,
        bound: Bound::Bandwidth,
        work: Work { flops: 4.0 * count as f64, bytes: 8.0 * count as f64, items: tokens as f64 },
        check,
        configuration: None,
        on_gpu: true,
        execute: Box::new(move || execute().map(drop)),
    })
}

/// SiLU of one half times the other.
pub fn activation(gpu: &Gpu, tokens: usize, width: usize) -> Result<Job<'_>> {
    let x = Values::signal(1, tokens, 2 * width);
    let gpu_x = x.upload(gpu)?;
    let execute = move || gpu.activation(Activation::Silu, true, &gpu_x);
    let actual = gpu.download(&execute()?)?;
    let rows = some_tokens(tokens);
    let expected = reference::activation(Activation::Silu, true, &wide(&x, &rows));
    let check = rows_check("sampled tokens, by the largest value", 64.0 * ROUNDOFF, &rows, &actual, &expected);
    let count = tokens * width;
    Ok(Job {
        sizes: sizes([("tokens", tokens), ("width", width)]),
        unit: Unit::Gbytes,
        bound: Bound::Bandwidth,
        work: Work { flops: 5.0 * count as f64, bytes: 12.0 * count as f64, items: tokens as f64 },
        check,
        configuration: None,
        on_gpu: true,
        execute: Box::new(move || execute().map(drop)),
    })
}

/// The first token, the last, and some between.
pub fn some_tokens(tokens: usize) -> Vec<usize> {
    let mut chosen = vec![0, tokens / 3, tokens - tokens.min(2), tokens - 1];
    chosen.dedup();
    chosen
}
