//! Sums of outer products of signals.

use bytemuck::{Pod, Zeroable};

use super::shader;
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
}

/// The most tokens of one f32 sum; more are combined in f64.
pub const COVARIANCE_TOKENS: usize = 2048;

const TILE: usize = 64;
const SHADER: &str = shader!("shared/tile", "covariance");

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
        let c = self.zeros(width, width)?;
        let kernel = Kernel { name: "covariance", source: SHADER, constants: &[] };
        // In runs of rows of the result, since a wide one exceeds a binding, and takes long.
        let short = (self.work_per_dispatch() / (x.rows() * width).max(1) / TILE).max(1) * TILE;
        let rows = self.rows_per_binding(c.stride() * 4).min(short);
        for first_row in (0..width).step_by(rows) {
            let part = c.view(first_row..width.min(first_row + rows))?;
            let params = Params { tokens: x.rows() as u32, width: width as u32, stride4: (x.stride() / 4) as u32, first_row: first_row as u32 };
            let grid = [width.div_ceil(TILE) as u32, part.rows().div_ceil(TILE) as u32, 1];
            self.dispatch(&kernel, &params, &[x.into(), (&part).into()], grid, (x.rows() * width * part.rows() / 2) as u64)?;
        }
        Ok(c)
    }
}
