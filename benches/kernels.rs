//! Kernels at the shapes of real models, and the parts between them that run on the CPU, for developers: `cargo bench`.
//! To compare machines, use `slicegpt-gpu bench`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slicegpt_gpu::{
    gpu::{Gpu, GpuOptions},
    linalg::eigh,
    ops::{AttentionShape, HeadSpan, Norm, sequences},
    slice::Covariance,
};

const TOKENS: usize = 512;

/// Values that look random and are not all alike.
fn values(count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| (i.wrapping_mul(2654435761) >> 8) as f32 / (1 << 24) as f32 - 0.5).collect()
}

fn kernels(c: &mut Criterion) {
    let gpu = Gpu::new(&GpuOptions::default()).expect("an adapter");
    // (name, K, N) of OPT-125M, TinyLlama-1.1B.
    for (name, k, n) in [("opt-125m fc1", 768, 3072), ("opt-125m q", 768, 768), ("tinyllama q", 2048, 2048)] {
        let (x, w) =
            (gpu.upload(&values(TOKENS * k), TOKENS, k).expect("x"), gpu.upload(&values(n * k), n, k).expect("w"));
        let y = gpu.zeros(TOKENS, n).expect("y");
        let mut group = c.benchmark_group("linear");
        group.sample_size(10).throughput(Throughput::Elements((2 * TOKENS * k * n) as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                gpu.linear(&x, &w, None, &y, 0, false).expect("linear");
                gpu.finish().expect("finish");
            });
        });
    }
    let x = gpu.upload(&values(TOKENS * 768), TOKENS, 768).expect("x");
    let mut group = c.benchmark_group("opt-125m");
    group.sample_size(10);
    group.bench_function("covariance", |b| {
        b.iter(|| gpu.covariance(&x).and_then(|_| gpu.finish()).expect("covariance"))
    });
    group.bench_function("norm", |b| {
        b.iter(|| gpu.norm(Norm::Rms, &x, None, None, 768, 1e-5).and_then(|_| gpu.finish()).expect("norm"))
    });
    let qkv = gpu.upload(&values(TOKENS * 3 * 768), TOKENS, 3 * 768).expect("qkv");
    let span = |column| HeadSpan { column, heads: 12 };
    let shape = AttentionShape {
        head_dim: 64,
        q: span(0),
        k: span(768),
        v: span(1536),
        scale: 0.125,
        window: None,
        softcap: None,
        alibi: None,
    };
    group.bench_function("attention", |b| {
        b.iter(|| {
            gpu.attention(&shape, &qkv, &qkv, &sequences([TOKENS])).and_then(|_| gpu.finish()).expect("attention")
        });
    });
    group.finish();
    let sum = gpu.download(&gpu.covariance(&x).expect("covariance")).expect("download");
    let matrix = faer::Mat::from_fn(768, 768, |i, j| f64::from(sum[i.min(j) * 768 + i.max(j)]));
    let mut group = c.benchmark_group("cpu");
    group.sample_size(10);
    group.bench_function("eigh 768", |b| b.iter(|| eigh(matrix.as_ref()).expect("eigh")));
    // The kernel, the readback, and adding to the f64 sum.
    let mut covariance = Covariance::new(768);
    group.bench_function("covariance combined in f64", |b| b.iter(|| covariance.add(&gpu, &x).expect("add")));
}

criterion_group!(benches, kernels);
criterion_main!(benches);
