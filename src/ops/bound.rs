//! Values kept within a limit: clipped, or soft-capped.

use bytemuck::{Pod, Zeroable};

use super::{WORKGROUP, folded, shader};
use crate::{
    error::Result,
    gpu::{Gpu, Kernel, Matrix},
};

/// How values are kept within a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Those beyond it become it.
    Clip = 0,
    /// `limit · tanh(y / limit)`.
    SoftCap = 1,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    groups: u32,
    limit: f32,
    unused: [u32; 2],
}

fn kernel(kind: Bound) -> Kernel {
    Kernel {
        name: "bound",
        source: shader!("shared/grid", "shared/tanh", "bound"),
        constants: vec![("KIND", kind as u32)],
    }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    [Bound::Clip, Bound::SoftCap].map(kernel).into()
}

impl Gpu {
    /// Keeps the values of `y` `[tokens, width]` within `limit`, in place.
    ///
    /// # Errors
    /// Whatever the GPU reports.
    pub fn bound_in_place(&self, kind: Bound, y: &Matrix, limit: f32) -> Result<()> {
        let groups = y.rows() * y.stride() / 4;
        let params = Params { groups: groups as u32, limit, unused: [0; 2] };
        let grid = folded(groups.div_ceil(WORKGROUP));
        self.dispatch(&kernel(kind), &params, &[y.into()], grid, (y.rows() * y.cols()) as u64)
    }
}
