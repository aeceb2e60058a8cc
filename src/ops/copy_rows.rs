//! Moving rows between matrices: the last token of each sequence, keys and values into the cache.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::{WORKGROUP, folded_rows, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

/// Which values of each row are copied, and to which column of the target row.
#[derive(Debug, Clone, Copy)]
pub struct RowCopy {
    pub from_column: usize,
    pub cols: usize,
    pub to_column: usize,
}

impl RowCopy {
    /// Whole rows of this many columns.
    pub fn whole(cols: usize) -> Self {
        Self { from_column: 0, cols, to_column: 0 }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    pairs: u32,
    cols: u32,
    from_stride: u32,
    from_column: u32,
    to_stride: u32,
    to_column: u32,
    unused0: u32,
    unused1: u32,
}

const SHADER: &str = shader!("shared/grid", "copy_rows");

fn kernel() -> Kernel {
    Kernel { name: "copy_rows", source: SHADER, constants: vec![("LANES", WORKGROUP as u32)] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

/// Values of a row that one workgroup copies.
const COLUMNS: usize = 4 * WORKGROUP;

impl Gpu {
    /// `to[target, to_column..] = from[source, from_column..]`, `cols` values for each of the `(source, target)` rows.
    ///
    /// # Errors
    /// [`Error::Shape`] if a row or column is outside.
    pub fn copy_rows(&self, from: &Matrix, to: &Matrix, rows: &[(usize, usize)], copy: RowCopy) -> Result<()> {
        let RowCopy { from_column, cols, to_column } = copy;
        let outside = rows.iter().any(|&(source, target)| source >= from.rows() || target >= to.rows());
        if outside || from_column + cols > from.cols() || to_column + cols > to.cols() {
            let sizes = [from.rows(), from.cols(), to.rows(), to.cols()];
            return Err(Error::shape("copy_rows", format!("{copy:?} from and to matrices of sizes {sizes:?}")));
        }
        let pairs: Vec<u32> = rows.iter().flat_map(|&(source, target)| [source as u32, target as u32]).collect();
        let params = Params {
            pairs: rows.len() as u32,
            cols: cols as u32,
            from_stride: from.stride() as u32,
            from_column: from_column as u32,
            to_stride: to.stride() as u32,
            to_column: to_column as u32,
            unused0: 0,
            unused1: 0,
        };
        let grid = folded_rows(cols.div_ceil(COLUMNS), rows.len());
        let table = self.upload_u32(&pairs)?;
        let bindings = [from.into(), (&table).into(), to.into()];
        self.dispatch(&kernel(), &params, &bindings, grid, (rows.len() * cols) as u64)
    }

    /// A copy of some columns of `x` `[rows, *]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if they are not there; [`Error::OutOfMemory`].
    pub fn columns(&self, x: &Matrix, columns: Range<usize>) -> Result<Matrix> {
        let copy = self.unfilled(x.rows(), columns.len())?;
        let rows: Vec<(usize, usize)> = (0..x.rows()).map(|row| (row, row)).collect();
        self.copy_rows(x, &copy, &rows, RowCopy { from_column: columns.start, cols: columns.len(), to_column: 0 })?;
        Ok(copy)
    }
}
