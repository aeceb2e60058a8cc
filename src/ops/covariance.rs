//! Sums of outer products of signals.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::{
    product::{CANDIDATES, ProductConfig, product_shader},
    shader,
    transpose::transposed_columns,
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    rows: u32,
    columns: u32,
    stride4: u32,
    c_stride: u32,
    first_row: u32,
    end_row: u32,
    accumulate: u32,
    triangle: u32,
    unused: [u32; 3],
}

/// The most tokens of one f32 sum; more are combined in f64.
pub const COVARIANCE_TOKENS: usize = 2048;

/// Tokens of one running sum.
const CHUNK: usize = 64;
/// Runs of rows of a wide result begin at multiples of this.
const ROWS: usize = 64;
/// The most tokens that are transposed and summed at a time: what a tile reads of its columns is to stay in the caches.
pub const COVARIANCE_RUN: usize = 1024;

/// Some columns of a signal.
type Columns<'a> = (&'a Matrix, Range<usize>);

fn kernel(config: &ProductConfig) -> Kernel {
    Kernel { name: "covariance", source: product_shader!(config, "covariance"), constants: config.constants().into() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    CANDIDATES.each_ref().map(kernel).into()
}

impl Gpu {
    /// The upper triangle of `xᵀ · x` for at most [`COVARIANCE_TOKENS`] tokens `x` `[tokens, width]`, as a `[width,
    /// width]` matrix whose lower triangle means nothing. Chunks of 64 tokens are summed in f32, then runs of
    /// [`COVARIANCE_RUN`], then all.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are more tokens; [`Error::OutOfMemory`].
    pub fn covariance(&self, x: &Matrix) -> Result<Matrix> {
        self.sum_of_products("covariance", (x, 0..x.cols()), None)
    }

    /// The columns `a_columns` of `a` `[tokens, …]` against the columns `b_columns` of `b` `[tokens, …]`, `aᵀ · b`, for
    /// at most [`COVARIANCE_TOKENS`] tokens, summed like [`Self::covariance`].
    ///
    /// # Errors
    /// [`Error::Shape`] if there are more tokens, not the same of both, or columns that are not there or begin at no
    /// multiple of 4; [`Error::OutOfMemory`].
    pub fn cross_covariance(
        &self,
        a: &Matrix,
        a_columns: Range<usize>,
        b: &Matrix,
        b_columns: Range<usize>,
    ) -> Result<Matrix> {
        let there = |x: &Matrix, columns: &Range<usize>| {
            columns.start <= columns.end && columns.end <= x.cols() && columns.start.is_multiple_of(4)
        };
        if a.rows() != b.rows() || !there(a, &a_columns) || !there(b, &b_columns) {
            let of = |x: &Matrix| format!("[{}, {}]", x.rows(), x.cols());
            return Err(Error::shape(
                "cross_covariance",
                format!("columns {a_columns:?} of {}, {b_columns:?} of {}", of(a), of(b)),
            ));
        }
        self.sum_of_products("cross covariance", (a, a_columns), Some((b, b_columns)))
    }

    /// Of `a` with itself, upper triangle, if there is no `b`.
    fn sum_of_products(&self, what: &str, a: Columns, b: Option<Columns>) -> Result<Matrix> {
        let tokens = a.0.rows();
        if tokens > COVARIANCE_TOKENS {
            return Err(Error::shape("covariance", format!("{tokens} tokens in one sum, at most {COVARIANCE_TOKENS}")));
        }
        let rows = a.1.len();
        let columns = b.as_ref().map_or(rows, |b| b.1.len());
        if [tokens, rows, columns].contains(&0) {
            return self.zeros(rows, columns);
        }
        let c = self.unfilled(rows, columns)?;
        // In runs of rows of the result, since a wide one exceeds a binding, and takes long; and in runs of tokens.
        let work = |rows: usize, tokens: usize| rows * columns * tokens / if b.is_none() { 2 } else { 1 };
        let short = (self.work_per_dispatch() / work(ROWS, tokens).max(1)).max(1) * ROWS;
        let most = self.rows_per_binding(c.stride() * 4).min(short);
        let fitting = self.rows_per_binding(rows.max(columns).next_multiple_of(4) * 4);
        let run = (CHUNK..=COVARIANCE_RUN)
            .rev()
            .step_by(CHUNK)
            .find(|&run| transposed_columns(run) <= fitting)
            .unwrap_or(CHUNK);
        let run =
            b.iter().map(|b| b.0).chain([a.0]).map(|x| self.rows_per_binding(x.stride() * 4)).fold(run, usize::min);
        for first in (0..tokens).step_by(run) {
            let transposed =
                |(x, columns): &Columns| self.transpose(&x.view(first..tokens.min(first + run))?, columns.clone());
            let left = transposed(&a)?;
            let right = b.as_ref().map_or_else(|| Ok(left.clone()), transposed)?;
            let tokens = tokens.min(first + run) - first;
            let dispatch = |config: &ProductConfig, first_row: usize, part: &Matrix, accumulate: bool| {
                let params = Params {
                    tokens: tokens as u32,
                    rows: rows as u32,
                    columns: columns as u32,
                    stride4: (left.stride() / 4) as u32,
                    c_stride: c.stride() as u32,
                    first_row: first_row as u32,
                    end_row: (first_row + part.rows()) as u32,
                    accumulate: accumulate.into(),
                    triangle: b.is_none().into(),
                    unused: [0; 3],
                };
                let grid = [
                    part.rows().div_ceil(config.tile_rows()) as u32,
                    columns.div_ceil(config.tile_columns()) as u32,
                    1,
                ];
                let bindings = [(&left).into(), (&right).into(), part.into()];
                self.dispatch(&kernel(config), &params, &bindings, grid, work(part.rows(), tokens) as u64)
            };
            for first_row in (0..rows).step_by(most) {
                let part = c.view(first_row..rows.min(first_row + most))?;
                // Measured where nothing is added up.
                let config = self.product_config(what, [part.rows(), columns, tokens], |config| {
                    dispatch(config, first_row, &self.unfilled(part.rows(), columns)?, false)
                })?;
                dispatch(&config, first_row, &part, first > 0)?;
            }
        }
        Ok(c)
    }
}
