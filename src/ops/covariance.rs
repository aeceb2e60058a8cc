//! Sums of outer products of signals.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::{
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
    width: u32,
    stride4: u32,
    first_row: u32,
    end_row: u32,
    first_token: u32,
    accumulate: u32,
    unused: u32,
}

/// The most tokens of one f32 sum; more are combined in f64.
pub const COVARIANCE_TOKENS: usize = 2048;

/// Runs of rows of a wide result begin at multiples of this.
const ROWS: usize = 64;
/// Tokens of one dispatch, a multiple of the 64 of a chunk: each tile reads some columns of all of them, and more would fall out of the caches.
const RUN: usize = 512;

fn kernel(config: &ProductConfig) -> Kernel {
    Kernel { name: "covariance", source: product_shader!(config, "covariance"), constants: config.constants().into() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    CANDIDATES.each_ref().map(kernel).into()
}

impl Gpu {
    /// The upper triangle of `xᵀ · x` for at most [`COVARIANCE_TOKENS`] tokens `x` `[tokens, width]`, as a `[width, width]` matrix whose
    /// lower triangle means nothing. Chunks of 64 tokens are summed in f32, then runs of 512, then all.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are more tokens; [`Error::OutOfMemory`].
    pub fn covariance(&self, x: &Matrix) -> Result<Matrix> {
        if x.rows() > COVARIANCE_TOKENS {
            return Err(Error::shape("covariance", format!("{} tokens in one sum, at most {COVARIANCE_TOKENS}", x.rows())));
        }
        let width = x.cols();
        let c = self.unfilled(width, width)?;
        let dispatch = |config: &ProductConfig, tokens: Range<usize>, first_row: usize, part: &Matrix| {
            let params = Params {
                tokens: tokens.end as u32,
                width: width as u32,
                stride4: (x.stride() / 4) as u32,
                first_row: first_row as u32,
                end_row: (first_row + part.rows()) as u32,
                first_token: tokens.start as u32,
                accumulate: (tokens.start > 0).into(),
                unused: 0,
            };
            let grid = [width.div_ceil(config.tile_columns()) as u32, part.rows().div_ceil(config.tile_rows()) as u32, 1];
            self.dispatch(&kernel(config), &params, &[x.into(), part.into()], grid, (tokens.len() * width * part.rows() / 2) as u64)
        };
        // In runs of rows of the result, since a wide one exceeds a binding, and takes long.
        let short = (self.work_per_dispatch() / (x.rows() * width).max(1) / ROWS).max(1) * ROWS;
        let rows = self.rows_per_binding(c.stride() * 4).min(short);
        for first_row in (0..width).step_by(rows) {
            let part = c.view(first_row..width.min(first_row + rows))?;
            for first in (0..x.rows()).step_by(RUN) {
                let tokens = first..x.rows().min(first + RUN);
                let size = [part.rows(), width, tokens.len()];
                // Measured before anything is added up.
                let config = self
                    .product_config("covariance", size, |config| dispatch(config, 0..tokens.len(), first_row, &self.unfilled(part.rows(), width)?))?;
                dispatch(&config, tokens, first_row, &part)?;
            }
        }
        Ok(c)
    }
}
