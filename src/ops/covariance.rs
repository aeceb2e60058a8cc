//! Sums of outer products of signals.

use bytemuck::{Pod, Zeroable};

use super::{
    product::{ProductConfig, product_shader},
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
    unused: [u32; 3],
}

/// The most tokens of one f32 sum; more are combined in f64.
pub const COVARIANCE_TOKENS: usize = 2048;

/// Runs of rows of a wide result begin at multiples of this.
const ROWS: usize = 64;

impl Gpu {
    /// The upper triangle of `xᵀ · x` for at most [`COVARIANCE_TOKENS`] tokens `x` `[tokens, width]`, as a `[width, width]` matrix whose
    /// lower triangle means nothing. Tokens are summed in chunks of 64, the chunks in f32.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are more tokens; [`Error::OutOfMemory`].
    pub fn covariance(&self, x: &Matrix) -> Result<Matrix> {
        if x.rows() > COVARIANCE_TOKENS {
            return Err(Error::shape("covariance", format!("{} tokens in one sum, at most {COVARIANCE_TOKENS}", x.rows())));
        }
        let width = x.cols();
        let c = self.unfilled(width, width)?;
        let dispatch = |config: &ProductConfig, first_row: usize, part: &Matrix| {
            let params = Params {
                tokens: x.rows() as u32,
                width: width as u32,
                stride4: (x.stride() / 4) as u32,
                first_row: first_row as u32,
                end_row: (first_row + part.rows()) as u32,
                unused: [0; 3],
            };
            let kernel = Kernel { name: "covariance", source: product_shader!(config, "covariance"), constants: &config.constants() };
            let grid = [width.div_ceil(config.tile_columns()) as u32, part.rows().div_ceil(config.tile_rows()) as u32, 1];
            self.dispatch(&kernel, &params, &[x.into(), part.into()], grid, (x.rows() * width * part.rows() / 2) as u64)
        };
        // In runs of rows of the result, since a wide one exceeds a binding, and takes long.
        let short = (self.work_per_dispatch() / (x.rows() * width).max(1) / ROWS).max(1) * ROWS;
        let rows = self.rows_per_binding(c.stride() * 4).min(short);
        for first_row in (0..width).step_by(rows) {
            let part = c.view(first_row..width.min(first_row + rows))?;
            let config = self.product_config("covariance", [part.rows(), width, x.rows()], |config| dispatch(config, first_row, &part))?;
            dispatch(&config, first_row, &part)?;
        }
        Ok(c)
    }
}
