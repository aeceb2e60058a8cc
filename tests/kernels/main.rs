//! Does every kernel compute what its f64 twin computes, at awkward shapes?
//!
//! Errors are measured in units of what rounding can explain: each comparison has a scale (the sum of the magnitudes
//! that went into a value) and a tolerance relative to it, a small multiple of the unit roundoff 2^-24 times the square
//! root of the number of roundings in a chain (they are as good as independent), or of their number where that is
//! small.

mod attention;
mod backward;
mod bench;
mod delta_backward;
mod delta_net;
mod differences;
mod mixture;
mod products;
mod rows;
#[path = "../support/mod.rs"]
mod support;
mod tokens;
mod vocabulary;

use nalgebra::DMatrix;
use slicegpt_gpu::gpu::{Gpu, Matrix};

/// The f64 copy of what the GPU holds.
fn download(gpu: &Gpu, matrix: &Matrix) -> DMatrix<f64> {
    slicegpt_gpu::reference::matrix(matrix.rows(), matrix.cols(), &gpu.download(matrix).expect("a readback"))
}

fn upload(gpu: &Gpu, values: &[f32], rows: usize, cols: usize) -> Matrix {
    gpu.upload(values, rows, cols).expect("an upload")
}

/// max |actual − expected| / scale, elementwise; infinite for NaN.
fn error(actual: &DMatrix<f64>, expected: &DMatrix<f64>, scale: impl Fn(usize, usize) -> f64) -> f64 {
    assert_eq!(actual.shape(), expected.shape());
    let entries = (0..actual.nrows()).flat_map(|i| (0..actual.ncols()).map(move |j| (i, j)));
    support::worst(entries.map(|(i, j)| (actual[(i, j)] - expected[(i, j)]).abs() / scale(i, j).max(f64::MIN_POSITIVE)))
}

/// Prints the error, and fails if it is too large.
fn check(what: &str, error: f64, tolerance: f64) {
    println!("{what}: {error:.1e}, allowed {tolerance:.1e}");
    assert!(error <= tolerance, "{what}: error {error:.2e}, allowed {tolerance:.2e}");
}
