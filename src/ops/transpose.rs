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
    tokens: u32,
    stride4: u32,
    first_token: u32,
    chunks: u32,
}

/// Tokens, and coordinates, that are turned together.
pub(super) const CHUNK: usize = 64;
/// Threads of a workgroup along coordinates, and along tokens, of which each has four.
const THREADS: usize = 8;

fn kernel() -> Kernel {
    Kernel { name: "transpose", source: shader!("transpose"), constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// Blocks of 64 of the tokens `range` of `x` `[tokens, width]` and 64 coordinates, each turned:
    /// `y[(block · chunks + chunk) · 64 + i, t] = x[range.start + 64 · chunk + t, 64 · block + i]`, zero beyond the last token or coordinate.
    ///
    /// # Errors
    /// [`Error::Shape`] if the range is outside of `x`; [`Error::OutOfMemory`].
    pub fn transpose(&self, x: &Matrix, range: Range<usize>) -> Result<Matrix> {
        if range.start > range.end || range.end > x.rows() {
            return Err(Error::shape("transpose", format!("tokens {range:?} of {}", x.rows())));
        }
        let (blocks, chunks) = (x.cols().div_ceil(CHUNK), range.len().div_ceil(CHUNK));
        let y = self.unfilled(blocks * chunks * CHUNK, CHUNK)?;
        let params = Params { tokens: range.end as u32, stride4: (x.stride() / 4) as u32, first_token: range.start as u32, chunks: chunks as u32 };
        let grid = [blocks, chunks].map(|count| (count * CHUNK / 4 / THREADS) as u32);
        self.dispatch(&kernel(), &params, &[x.into(), (&y).into()], [grid[0], grid[1], 1], (y.rows() * CHUNK) as u64)?;
        Ok(y)
    }
}
