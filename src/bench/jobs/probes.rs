//! The two probes.

use super::job::{Job, compare, sizes};
use crate::{
    bench::{
        row::{Bound, Unit, Work},
        values::Values,
    },
    error::Result,
    gpu::Gpu,
    ops::PROBE_CHAINS,
    reference,
};

/// Enough threads for several waves on the largest GPU.
const THREADS: usize = 1 << 19;
const STEPS: u32 = 512;
/// 128 MiB: what every adapter can bind, and more than most caches hold.
const COPIED: (usize, usize) = (8192, 4096);

pub fn fma(gpu: &Gpu) -> Result<Job<'_>> {
    let y = gpu.zeros(1, THREADS)?;
    gpu.probe_fma(&y, STEPS, 1.0, 1.0)?;
    let (actual, expected) = (gpu.download(&y)?, reference::probe_fma(16, STEPS, 1.0, 1.0));
    let triples = actual.iter().enumerate().map(|(thread, &actual)| (f64::from(actual), expected[thread % 16], 1.0));
    let check = compare("all results, whole numbers that f32 holds exactly", 0.0, triples);
    let multiply_adds = (THREADS * PROBE_CHAINS) as f64 * f64::from(STEPS);
    Ok(Job {
        sizes: sizes([("threads", THREADS), ("chains", PROBE_CHAINS), ("steps", STEPS as usize)]),
        unit: Unit::Gflops,
        bound: Bound::Compute,
        work: Work { flops: 2.0 * multiply_adds, bytes: 4.0 * THREADS as f64, items: 0.0 },
        check,
        configuration: None,
        on_gpu: true,
        execute: Box::new(move || gpu.probe_fma(&y, STEPS, 1.0, 1.0)),
    })
}

pub fn copy(gpu: &Gpu) -> Result<Job<'_>> {
    let (rows, cols) = COPIED;
    let values = Values::signal(1, rows, cols);
    let (x, y) = (values.upload(gpu)?, gpu.zeros(rows, cols)?);
    gpu.probe_copy(&x, &y)?;
    let actual = gpu.download(&y)?;
    let triples = actual
        .iter()
        .enumerate()
        .map(|(i, &actual)| (f64::from(actual), f64::from(values.at(i / cols, i % cols)), 1.0));
    let check = compare("all values, exactly", 0.0, triples);
    Ok(Job {
        sizes: sizes([("bytes", 4 * rows * cols)]),
        unit: Unit::Gbytes,
        bound: Bound::Bandwidth,
        work: Work { flops: 0.0, bytes: 2.0 * 4.0 * (rows * cols) as f64, items: 0.0 },
        check,
        configuration: None,
        on_gpu: true,
        execute: Box::new(move || gpu.probe_copy(&x, &y)),
    })
}
