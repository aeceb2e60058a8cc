//! Transposing: tokens for sums over them, and matrices.

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
    first_column4: u32,
    rows4: u32,
    columns4: u32,
    unused: [u32; 3],
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

/// The columns of what [`Gpu::transpose`] makes of `tokens` tokens: an odd number of 64 bytes, which spreads the rows
/// over the sets of a cache.
pub fn transposed_columns(tokens: usize) -> usize {
    (tokens.div_ceil(16) | 1) * 16
}

impl Gpu {
    /// The columns `columns` of `x` `[tokens, width]`, transposed: `y[i, t] = x[t, columns.start + i]`, zero beyond the
    /// last token. `y` is `[columns to a multiple of 4, transposed_columns(tokens)]`; the rows beyond `columns` hold
    /// the next columns of `x`, if any.
    ///
    /// # Errors
    /// [`Error::Shape`] if the columns are not there or begin at no multiple of 4; [`Error::OutOfMemory`].
    pub fn transpose(&self, x: &Matrix, columns: Range<usize>) -> Result<Matrix> {
        if columns.start > columns.end || columns.end > x.cols() || !columns.start.is_multiple_of(4) {
            return Err(Error::shape("transpose", format!("columns {columns:?} of [{}, {}]", x.rows(), x.cols())));
        }
        let y = self.unfilled(columns.len().next_multiple_of(4), transposed_columns(x.rows()))?;
        self.transpose_to(x, columns.start, &y)?;
        Ok(y)
    }

    /// `xᵀ`, `[cols, rows]`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn transposed(&self, x: &Matrix) -> Result<Matrix> {
        let y = self.unfilled(x.cols().next_multiple_of(4), x.rows())?;
        self.transpose_to(x, 0, &y)?;
        y.view(0..x.cols())
    }

    fn transpose_to(&self, x: &Matrix, first_column: usize, y: &Matrix) -> Result<()> {
        let params = Params {
            tokens: x.rows() as u32,
            stride4: (x.stride() / 4) as u32,
            first_column4: (first_column / 4) as u32,
            rows4: (y.rows() / 4) as u32,
            columns4: (y.stride() / 4) as u32,
            unused: [0; 3],
        };
        let grid = [y.rows(), y.stride()].map(|count| count.div_ceil(TILE) as u32);
        let work = (y.rows() * y.stride()) as u64;
        self.dispatch(&kernel(), &params, &[x.into(), y.into()], [grid[0], grid[1], 1], work)
    }
}
