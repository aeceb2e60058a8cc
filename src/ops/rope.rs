//! Rotary position embeddings.

use bytemuck::{Pod, Zeroable};

use super::{HeadSpan, folded_rows, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    heads: u32,
    pairs: u32,
    stride: u32,
    column: u32,
    head_dim: u32,
    table_stride2: u32,
    unused: u32,
}

const SHADER: &str = shader!("shared/grid", "rope");

/// Threads of a head: as many as fill a narrow one, or a wide one.
const LANES: [usize; 2] = [8, 32];
/// Heads of a workgroup.
const HEADS: usize = 16;

fn kernel(lanes: usize, backward: bool) -> Kernel {
    let constants = vec![("LANES", lanes as u32), ("HEADS", HEADS as u32), ("BACKWARD", backward.into())];
    Kernel { name: "rope", source: SHADER, constants }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    LANES.into_iter().flat_map(|lanes| [kernel(lanes, false), kernel(lanes, true)]).collect()
}

impl Gpu {
    /// Turns the pairs (i, i + pairs) of each head of `x` `[tokens, *]` in `span` by the angles of its position, in
    /// place.
    ///
    /// `positions` has one u32 a token; row p of `table` holds (cos, sin) of each pair's angle at position p,
    /// `[positions, 2 · pairs]`. Coordinates from 2 · pairs on stay as they are (partial rotary).
    ///
    /// # Errors
    /// [`Error::Shape`] if the heads lie outside of `x`, or there is not one position a token.
    pub fn rope(&self, x: &Matrix, span: HeadSpan, head_dim: usize, positions: &Matrix, table: &Matrix) -> Result<()> {
        self.turn(false, x, span, head_dim, positions, table)
    }

    /// Makes the gradient of what [`Gpu::rope`] was given of that of its result, in place: the same pairs, turned by
    /// the opposite angles.
    ///
    /// # Errors
    /// As [`Gpu::rope`].
    pub fn rope_backward_in_place(
        &self,
        d: &Matrix,
        span: HeadSpan,
        head_dim: usize,
        positions: &Matrix,
        table: &Matrix,
    ) -> Result<()> {
        self.turn(true, d, span, head_dim, positions, table)
    }

    fn turn(
        &self,
        backward: bool,
        x: &Matrix,
        span: HeadSpan,
        head_dim: usize,
        positions: &Matrix,
        table: &Matrix,
    ) -> Result<()> {
        let pairs = table.cols() / 2;
        if 2 * pairs > head_dim || span.end(head_dim) > x.cols() || positions.cols() != x.rows() {
            return Err(Error::shape(
                "rope",
                format!("{span:?}, {pairs} pairs in rows of {}; {} positions", x.cols(), positions.cols()),
            ));
        }
        let params = Params {
            tokens: x.rows() as u32,
            heads: span.heads as u32,
            pairs: pairs as u32,
            stride: x.stride() as u32,
            column: span.column as u32,
            head_dim: head_dim as u32,
            table_stride2: (table.stride() / 2) as u32,
            unused: 0,
        };
        let kernel = kernel(if pairs < LANES[1] { LANES[0] } else { LANES[1] }, backward);
        let grid = folded_rows(span.heads.div_ceil(HEADS), x.rows());
        self.dispatch(
            &kernel,
            &params,
            &[positions.into(), table.into(), x.into()],
            grid,
            (x.rows() * span.heads * pairs) as u64,
        )
    }
}
