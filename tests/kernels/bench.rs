//! The kernels that only the bench uses: the probes, and the naive product.

use slicegpt_gpu::reference;

use crate::{
    check, download, error,
    support::{self, ROUNDOFF, Random},
    upload,
};

#[test]
fn probe_fma_takes_every_step_of_every_chain_exactly() {
    let gpu = support::gpu_unlimited();
    for (threads, steps, reason) in [
        (1, 32, "the smallest"),
        (63, 64, "below the workgroup"),
        (65, 0, "no step"),
        (1000, 512, "the bench's own steps"),
    ] {
        let y = gpu.zeros(1, threads).expect("y");
        gpu.probe_fma(&y, steps, 1.0, 1.0).expect("probe_fma");
        let actual: Vec<f64> = gpu.download(&y).expect("a readback").into_iter().map(f64::from).collect();
        assert_eq!(
            actual,
            reference::probe_fma(threads, steps, 1.0, 1.0),
            "{threads} threads, {steps} steps ({reason})"
        );
    }
}

#[test]
fn probe_fma_multiplies_and_adds_what_it_is_given() {
    let gpu = support::gpu_unlimited();
    let y = gpu.zeros(1, 16).expect("y");
    gpu.probe_fma(&y, 32, 0.75, -2.5).expect("probe_fma");
    for (actual, expected) in
        gpu.download(&y).expect("a readback").into_iter().zip(reference::probe_fma(16, 32, 0.75, -2.5))
    {
        // The factor forgets old roundings: four steps' worth remains.
        assert!(
            (f64::from(actual) - expected).abs() <= 8.0 * ROUNDOFF * expected.abs(),
            "{actual} instead of {expected}"
        );
    }
}

#[test]
fn probe_fma_refuses_steps_that_it_cannot_take() {
    let gpu = support::gpu_unlimited();
    assert!(gpu.probe_fma(&gpu.zeros(1, 64).expect("y"), 33, 1.0, 1.0).is_err());
}

#[test]
fn probe_copy_copies_everything_and_no_more() {
    let gpu = support::gpu_unlimited();
    for (rows, cols, reason) in [
        (1, 1, "the smallest"),
        (3, 5, "rows with padding"),
        (64, 4, "one exact workgroup"),
        (257, 1023, "above a workgroup"),
    ] {
        let values = Random::new((rows * 10_000 + cols) as u64).values(rows * cols, 1.0);
        let (x, y) = (upload(&gpu, &values, rows, cols), gpu.zeros(rows, cols).expect("y"));
        gpu.probe_copy(&x, &y).expect("probe_copy");
        assert_eq!(
            download(&gpu, &y),
            reference::probe_copy(&reference::matrix(rows, cols, &values)),
            "[{rows}, {cols}] ({reason})"
        );
    }
    let (x, y) = (gpu.zeros(4, 8).expect("x"), gpu.zeros(8, 4).expect("y"));
    assert!(gpu.probe_copy(&x, &y).is_err(), "another shape of as many values");
}

#[test]
fn gemm_naive_matches_reference_at_awkward_shapes() {
    let gpu = support::gpu_unlimited();
    for (m, n, k, reason) in [
        (1, 1, 1, "the smallest"),
        (7, 9, 5, "around the workgroup"),
        (8, 8, 4, "one exact workgroup"),
        (65, 30, 300, "long sums"),
    ] {
        let mut random = Random::new((m * 10_000 + n * 100 + k) as u64);
        let (a, w) = (random.values(m * k, 1.0), random.values(n * k, 1.0));
        let c = gpu.zeros(m, n).expect("c");
        gpu.gemm_naive(&upload(&gpu, &a, m, k), &upload(&gpu, &w, n, k), &c).expect("gemm_naive");
        let (a, w) = (reference::matrix(m, k, &a), reference::matrix(n, k, &w));
        let magnitudes = reference::gemm_naive(&a.abs(), &w.abs());
        let error = error(&download(&gpu, &c), &reference::gemm_naive(&a, &w), |i, j| magnitudes[(i, j)]);
        check(&format!("gemm_naive [{m}, {n}, {k}] ({reason})"), error, ROUNDOFF * (4.0 + 4.0 * (k as f64).sqrt()));
    }
}
