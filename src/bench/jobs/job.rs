//! Something that can be measured, and what checks of its results share.

use std::collections::BTreeMap;

use nalgebra::DMatrix;

use crate::{
    bench::{
        row::{Bound, Check, Unit, Work},
        values::Values,
    },
    error::Result,
};

/// The unit roundoff of f32: the relative error of one rounding.
pub const ROUNDOFF: f64 = 1.0 / 16_777_216.0;

/// Of norms.
pub const EPS: f32 = 1e-5;

/// Something that can be executed again and again.
pub struct Job<'a> {
    pub sizes: BTreeMap<String, u64>,
    pub unit: Unit,
    pub bound: Bound,
    pub work: Work,
    pub check: Check,
    /// What the kernel runs in, where the workload is to find that out.
    pub configuration: Option<String>,
    /// Whether the GPU does it, and its timestamps tell how long it takes.
    pub on_gpu: bool,
    /// Records the work for the GPU, or does it.
    pub execute: Box<dyn FnMut() -> Result<()> + 'a>,
}

pub fn sizes<const N: usize>(sizes: [(&str, usize); N]) -> BTreeMap<String, u64> {
    sizes.into_iter().map(|(name, size)| (name.to_owned(), size as u64)).collect()
}

/// The largest of |actual − expected| / scale, and whether it is within the tolerance. `triples` are (actual, expected,
/// scale).
pub fn compare(what: &str, tolerance: f64, triples: impl Iterator<Item = (f64, f64, f64)>) -> Check {
    let mut check = Check { what: what.into(), values: 0, error: Some(0.0), tolerance };
    for (actual, expected, scale) in triples {
        let error = (actual - expected).abs() / scale.max(f64::MIN_POSITIVE);
        check.values += 1;
        check.error = check.error.filter(|_| error.is_finite()).map(|worst| worst.max(error));
    }
    check
}

/// What rounding can do to a sum of `terms` products, relative to the sum of their magnitudes: the roundings are as
/// good as independent.
pub fn tolerance(terms: usize) -> f64 {
    ROUNDOFF * (4.0 + 4.0 * (terms as f64).sqrt())
}

/// Places in a `[rows, cols]` result to compare: its corners, and others at random, always the same.
pub fn sampled(rows: usize, cols: usize, count: usize) -> Vec<(usize, usize)> {
    let mut state = 1u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (((state >> 32) * limit as u64) >> 32) as usize
    };
    let corners = [(0, 0), (0, cols - 1), (rows - 1, 0), (rows - 1, cols - 1)];
    corners.into_iter().chain((4..count).map(|_| (below(rows), below(cols)))).collect()
}

/// Some rows in f64.
pub fn wide(values: &Values, rows: &[usize]) -> DMatrix<f64> {
    DMatrix::from_fn(rows.len(), values.cols, |row, col| f64::from(values.at(rows[row], col)))
}

/// Rows of results beside what they should be, by the largest of that.
pub fn rows_check(what: &str, allowed: f64, rows: &[usize], actual: &[f32], expected: &DMatrix<f64>) -> Check {
    let (most, cols) = (expected.amax(), expected.ncols());
    let places = rows.iter().enumerate().flat_map(|(at, row)| (0..cols).map(move |col| (at, row * cols + col, col)));
    compare(what, allowed, places.map(|(at, place, col)| (f64::from(actual[place]), expected[(at, col)], most)))
}
