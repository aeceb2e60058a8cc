//! Sums of outer products of two signals.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::{
    COVARIANCE_TOKENS,
    product::{CANDIDATES, ProductConfig, product_shader},
    shader,
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    accumulate: u32,
    first_row: u32,
    end_row: u32,
    cols: u32,
    c_stride: u32,
    a_stride4: u32,
    b_stride4: u32,
    a_column4: u32,
    b_column4: u32,
    unused: [u32; 2],
}

/// Runs of rows of a wide result begin at multiples of this.
const ROWS: usize = 64;
/// Tokens of one dispatch, as in the covariance.
const RUN: usize = 512;

fn kernel(config: &ProductConfig) -> Kernel {
    Kernel { name: "cross_covariance", source: product_shader!(config, "cross_covariance"), constants: config.constants().into() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    CANDIDATES.each_ref().map(kernel).into()
}

impl Gpu {
    /// The columns `a_columns` of `a` `[tokens, …]` against the columns `b_columns` of `b` `[tokens, …]`, `aᵀ · b`, for at most
    /// [`COVARIANCE_TOKENS`] tokens. Chunks of 64 tokens are summed in f32, then runs of 512 (of fewer where a
    /// binding holds fewer), then all.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are more tokens, not the same of both, or columns that are not there or begin at no multiple of 4;
    /// [`Error::OutOfMemory`].
    pub fn cross_covariance(&self, a: &Matrix, a_columns: Range<usize>, b: &Matrix, b_columns: Range<usize>) -> Result<Matrix> {
        let fits = |x: &Matrix, columns: &Range<usize>| columns.start.is_multiple_of(4) && columns.start <= columns.end && columns.end <= x.cols();
        if a.rows() != b.rows() || a.rows() > COVARIANCE_TOKENS || !fits(a, &a_columns) || !fits(b, &b_columns) {
            let of = |x: &Matrix| format!("[{}, {}]", x.rows(), x.cols());
            return Err(Error::shape("cross_covariance", format!("columns {a_columns:?} of {}, {b_columns:?} of {}", of(a), of(b))));
        }
        let (rows, cols, tokens) = (a_columns.len(), b_columns.len(), a.rows());
        let c = self.unfilled(rows, cols)?;
        let dispatch = |config: &ProductConfig, [a, b]: [&Matrix; 2], first_row: usize, part: &Matrix, accumulate: bool| {
            let params = Params {
                tokens: a.rows() as u32,
                accumulate: accumulate.into(),
                first_row: first_row as u32,
                end_row: (first_row + part.rows()) as u32,
                cols: cols as u32,
                c_stride: part.stride() as u32,
                a_stride4: (a.stride() / 4) as u32,
                b_stride4: (b.stride() / 4) as u32,
                a_column4: (a_columns.start / 4) as u32,
                b_column4: (b_columns.start / 4) as u32,
                unused: [0; 2],
            };
            let grid = [cols.div_ceil(config.tile_columns()) as u32, part.rows().div_ceil(config.tile_rows()) as u32, 1];
            let work = (a.rows() * cols * part.rows()) as u64;
            self.dispatch(&kernel(config), &params, &[a.into(), b.into(), part.into()], grid, work)
        };
        // In runs of rows of the result, since a wide one exceeds a binding, and takes long.
        let short = (self.work_per_dispatch() / (tokens * cols).max(1) / ROWS).max(1) * ROWS;
        let most = self.rows_per_binding(c.stride() * 4).min(short);
        let run = [a, b].iter().map(|x| self.rows_per_binding(x.stride() * 4)).fold(RUN, usize::min);
        for first_row in (0..rows).step_by(most) {
            let part = c.view(first_row..rows.min(first_row + most))?;
            for first in (0..tokens).step_by(run) {
                let run = first..tokens.min(first + run);
                let (a, b) = (a.view(run.clone())?, b.view(run)?);
                let size = [part.rows(), cols, a.rows()];
                // Measured before anything is added up.
                let config = self.product_config("cross covariance", size, |config| {
                    dispatch(config, [&a, &b], first_row, &self.unfilled(part.rows(), cols)?, false)
                })?;
                dispatch(&config, [&a, &b], first_row, &part, first > 0)?;
            }
        }
        Ok(c)
    }
}
