//! Sums of outer products of signals.

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
    width: u32,
    x_stride4: u32,
    c_stride: u32,
    first_row: u32,
    end_row: u32,
    accumulate: u32,
    unused: u32,
}

/// The most tokens of one f32 sum; more are combined in f64.
pub const COVARIANCE_TOKENS: usize = 2048;

/// Tokens of one running sum.
const CHUNK: usize = 64;
/// Runs of rows of a wide result begin at multiples of this.
const ROWS: usize = 64;
/// The most tokens that are turned and summed at a time: what a tile reads of its columns is to stay in the caches.
pub const COVARIANCE_RUN: usize = 1024;

fn kernel(config: &ProductConfig) -> Kernel {
    Kernel { name: "covariance", source: product_shader!(config, "covariance"), constants: config.constants().into() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    CANDIDATES.each_ref().map(kernel).into()
}

impl Gpu {
    /// The upper triangle of `xᵀ · x` for at most [`COVARIANCE_TOKENS`] tokens `x` `[tokens, width]`, as a `[width, width]` matrix whose
    /// lower triangle means nothing. Chunks of 64 tokens are summed in f32, then runs of [`COVARIANCE_RUN`], then all.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are more tokens; [`Error::OutOfMemory`].
    pub fn covariance(&self, x: &Matrix) -> Result<Matrix> {
        if x.rows() > COVARIANCE_TOKENS {
            return Err(Error::shape("covariance", format!("{} tokens in one sum, at most {COVARIANCE_TOKENS}", x.rows())));
        }
        let width = x.cols();
        let c = self.unfilled(width, width)?;
        // In runs of rows of the result, since a wide one exceeds a binding, and takes long; and in runs of tokens.
        let short = (self.work_per_dispatch() / (x.rows() * width).max(1) / ROWS).max(1) * ROWS;
        let rows = self.rows_per_binding(c.stride() * 4).min(short);
        let fitting = self.rows_per_binding(x.stride() * 4);
        let run = (CHUNK..=COVARIANCE_RUN).rev().step_by(CHUNK).find(|&run| transposed_columns(run) <= fitting).unwrap_or(CHUNK);
        for first in (0..x.rows()).step_by(run) {
            let tokens = first..x.rows().min(first + run);
            let turned = self.transpose(x, tokens.clone())?;
            let dispatch = |config: &ProductConfig, first_row: usize, part: &Matrix, accumulate: bool| {
                let params = Params {
                    tokens: tokens.len() as u32,
                    width: width as u32,
                    x_stride4: (turned.stride() / 4) as u32,
                    c_stride: c.stride() as u32,
                    first_row: first_row as u32,
                    end_row: (first_row + part.rows()) as u32,
                    accumulate: accumulate.into(),
                    unused: 0,
                };
                let grid = [part.rows().div_ceil(config.tile_rows()) as u32, width.div_ceil(config.tile_columns()) as u32, 1];
                self.dispatch(&kernel(config), &params, &[(&turned).into(), part.into()], grid, (tokens.len() * width * part.rows() / 2) as u64)
            };
            for first_row in (0..width).step_by(rows) {
                let part = c.view(first_row..width.min(first_row + rows))?;
                let size = [part.rows(), width, tokens.len()];
                // Measured where nothing is added up.
                let config =
                    self.product_config("covariance", size, |config| dispatch(config, first_row, &self.unfilled(part.rows(), width)?, false))?;
                dispatch(&config, first_row, &part, first > 0)?;
            }
        }
        Ok(c)
    }
}
