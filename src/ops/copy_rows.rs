//! Moving rows between matrices: the last token of each sequence, keys and values into the cache.

use bytemuck::{Pod, Zeroable};

use super::{HeadSpan, WORKGROUP, folded, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

/// Which values of each row are copied, and to which column of the target row.
#[derive(Debug, Clone, Copy)]
pub struct RowCopy {
    pub from: HeadSpan,
    pub head_dim: usize,
    pub to_column: usize,
}

impl RowCopy {
    /// Whole rows of so many columns.
    pub fn whole(cols: usize) -> Self {
        Self { from: HeadSpan { column: 0, stride: cols, heads: 1 }, head_dim: cols, to_column: 0 }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    pairs: u32,
    heads: u32,
    head_dim: u32,
    head_stride: u32,
    from_stride: u32,
    from_column: u32,
    to_stride: u32,
    to_column: u32,
}

const SHADER: &str = shader!("shared/grid", "copy_rows");

fn kernel() -> Kernel {
    Kernel { name: "copy_rows", source: SHADER, constants: vec![] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// `to[target, to_column..] = from[source, heads of the span]` for each of the `(source, target)` rows; heads become contiguous.
    ///
    /// # Errors
    /// [`Error::Shape`] if a row or column is outside.
    pub fn copy_rows(&self, from: &Matrix, to: &Matrix, rows: &[(usize, usize)], copy: RowCopy) -> Result<()> {
        let RowCopy { from: span, head_dim, to_column } = copy;
        let outside = rows.iter().any(|&(source, target)| source >= from.rows() || target >= to.rows());
        if outside || span.end(head_dim) > from.cols() || to_column + span.heads * head_dim > to.cols() {
            return Err(Error::shape("copy_rows", format!("{copy:?} from [{}, {}] to [{}, {}]", from.rows(), from.cols(), to.rows(), to.cols())));
        }
        let pairs: Vec<u32> = rows.iter().flat_map(|&(source, target)| [source as u32, target as u32]).collect();
        let params = Params {
            pairs: rows.len() as u32,
            heads: span.heads as u32,
            head_dim: head_dim as u32,
            head_stride: span.stride as u32,
            from_stride: from.stride() as u32,
            from_column: span.column as u32,
            to_stride: to.stride() as u32,
            to_column: to_column as u32,
        };
        let kernel = kernel();
        let elements = rows.len() * span.heads * head_dim;
        let table = self.upload_u32(&pairs)?;
        self.dispatch(&kernel, &params, &[from.into(), (&table).into(), to.into()], folded(elements.div_ceil(WORKGROUP)), elements as u64)
    }
}
