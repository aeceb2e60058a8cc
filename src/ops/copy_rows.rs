//! Moving rows between matrices: the last token of each sequence, keys and values into the cache.

use bytemuck::{Pod, Zeroable};

use super::{HeadSpan, WORKGROUP, folded_rows, shader};
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

/// Threads of a head, and heads of a workgroup: many narrow heads, or a wide one.
const SHAPES: [[usize; 2]; 2] = [[8, 32], [WORKGROUP, 4]];

fn kernel([lanes, heads]: [usize; 2]) -> Kernel {
    Kernel { name: "copy_rows", source: SHADER, constants: vec![("LANES", lanes as u32), ("HEADS", heads as u32)] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    SHAPES.map(kernel).into()
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
        let shape = SHAPES[usize::from(head_dim >= WORKGROUP)];
        let grid = folded_rows(span.heads.div_ceil(shape[1]), rows.len());
        let table = self.upload_u32(&pairs)?;
        let elements = rows.len() * span.heads * head_dim;
        self.dispatch(&kernel(shape), &params, &[from.into(), (&table).into(), to.into()], grid, elements as u64)
    }
}
