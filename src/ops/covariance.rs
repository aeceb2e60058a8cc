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
    unused: u32,
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
        let params = Params { tokens: x.rows() as u32, width: width as u32, stride4: (x.stride() / 4) as u32, unused: 0 };
        let kernel = Kernel { name: "covariance", source: SHADER, constants: &[] };
        let tiles = width.div_ceil(TILE) as u32;
        self.dispatch(&kernel, &params, &[x.into(), (&c).into()], [tiles, tiles, 1], (x.rows() * width * width / 2) as u64)?;
        Ok(c)
    }
}
