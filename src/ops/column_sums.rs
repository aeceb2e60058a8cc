//! Sums over tokens of each coordinate.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::{WORKGROUP, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    stride: u32,
    column: u32,
    columns: u32,
    has_b: u32,
    accumulate: u32,
    unused: [u32; 2],
}

fn kernel() -> Kernel {
    Kernel { name: "column_sums", source: shader!("column_sums"), constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// The sums over tokens of some columns of `a` `[tokens, *]`, or of `a · b` element by element, in chunks of 64
    /// tokens: `sums[i] (+)= Σ_t a[t, columns.start + i] · b[t, columns.start + i]`, `sums` `[1, columns]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the columns are not there, or `b` is of another shape.
    pub fn column_sums(
        &self,
        a: &Matrix,
        b: Option<&Matrix>,
        columns: Range<usize>,
        sums: &Matrix,
        accumulate: bool,
    ) -> Result<()> {
        let shape = (a.rows(), a.cols());
        let there = columns.start <= columns.end && columns.end <= a.cols() && sums.cols() == columns.len();
        if !there || b.is_some_and(|b| (b.rows(), b.cols()) != shape) {
            return Err(Error::shape("column_sums", format!("{columns:?} of {shape:?} into {}", sums.cols())));
        }
        let params = Params {
            tokens: a.rows() as u32,
            stride: a.stride() as u32,
            column: columns.start as u32,
            columns: columns.len() as u32,
            has_b: b.is_some().into(),
            accumulate: accumulate.into(),
            unused: [0; 2],
        };
        let bindings = [a.into(), b.into(), sums.into()];
        let grid = [columns.len().div_ceil(WORKGROUP) as u32, 1, 1];
        self.dispatch(&kernel(), &params, &bindings, grid, (a.rows() * columns.len()) as u64)
    }
}
