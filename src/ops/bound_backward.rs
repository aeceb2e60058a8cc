//! The gradient of what was kept within a limit.

use bytemuck::{Pod, Zeroable};

use super::{Bound, WORKGROUP, folded, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    groups: u32,
    limit: f32,
    unused: [u32; 2],
}

fn kernel(kind: Bound) -> Kernel {
    Kernel {
        name: "bound_backward",
        source: shader!("shared/grid", "bound_backward"),
        constants: vec![("KIND", kind as u32)],
    }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    [Bound::Clip, Bound::SoftCap].map(kernel).into()
}

impl Gpu {
    /// Makes the gradient of what [`Gpu::bound_in_place`] was given of that of its result `y` `[tokens, width]`: `d`,
    /// of the same shape, in place.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ.
    pub fn bound_backward_in_place(&self, kind: Bound, y: &Matrix, limit: f32, d: &Matrix) -> Result<()> {
        if (y.rows(), y.cols()) != (d.rows(), d.cols()) {
            let found = format!("y [{}, {}], d [{}, {}]", y.rows(), y.cols(), d.rows(), d.cols());
            return Err(Error::shape("bound_backward", found));
        }
        let groups = y.rows() * y.stride() / 4;
        let params = Params { groups: groups as u32, limit, unused: [0; 2] };
        let grid = folded(groups.div_ceil(WORKGROUP));
        self.dispatch(&kernel(kind), &params, &[y.into(), d.into()], grid, (y.rows() * y.cols()) as u64)
    }
}
