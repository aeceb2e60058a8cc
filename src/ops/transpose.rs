//! Tokens turned, for sums over them.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::shader;
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    end_token: u32,
    stride4: u32,
    first_token: u32,
    columns4: u32,
}

/// Tokens, and coordinates, of a workgroup.
const TILE: usize = 32;

fn kernel() -> Kernel {
    Kernel { name: "transpose", source: shader!("transpose"), constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

/// The columns of what [`Gpu::transpose`] makes of `tokens` tokens: an odd number of 64 bytes, which spreads the rows over the sets of a cache.
pub fn transposed_columns(tokens: usize) -> usize {
    (tokens.div_ceil(16) | 1) * 16
}

impl Gpu {
    /// The tokens `range` of `x` `[tokens, width]`, turned: `y[i, t] = x[range.start + t, i]`, zero beyond the last token or coordinate. `y` is
    /// `[width to the next multiple of 4, transposed_columns(tokens)]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the range is outside of `x`; [`Error::OutOfMemory`].
    pub fn transpose(&self, x: &Matrix, range: Range<usize>) -> Result<Matrix> {
        if range.start > range.end || range.end > x.rows() {
            return Err(Error::shape("transpose", format!("tokens {range:?} of {}", x.rows())));
        }
        let y = self.unfilled(x.stride(), transposed_columns(range.len()))?;
        let params = Params {
            end_token: range.end as u32,
            stride4: (x.stride() / 4) as u32,
            first_token: range.start as u32,
            columns4: (y.cols() / 4) as u32,
        };
        let grid = [y.rows(), y.cols()].map(|count| count.div_ceil(TILE) as u32);
        self.dispatch(&kernel(), &params, &[x.into(), (&y).into()], [grid[0], grid[1], 1], (y.rows() * y.cols()) as u64)?;
        Ok(y)
    }
}
