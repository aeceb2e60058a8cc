//! The difference of two signals.

use bytemuck::{Pod, Zeroable};

use super::{WORKGROUP, folded, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    groups: u32,
    factor: f32,
    unused0: u32,
    unused1: u32,
}

fn kernel() -> Kernel {
    Kernel { name: "subtract", source: shader!("shared/grid", "subtract"), constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// Subtracts `factor` times `x` from `y` `[tokens, width]`, in place.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ.
    pub fn subtract(&self, y: &Matrix, x: &Matrix, factor: f32) -> Result<()> {
        if (x.rows(), x.cols()) != (y.rows(), y.cols()) {
            return Err(Error::shape(
                "subtract",
                format!("[{}, {}] from [{}, {}]", x.rows(), x.cols(), y.rows(), y.cols()),
            ));
        }
        let groups = y.rows() * y.stride() / 4;
        let params = Params { groups: groups as u32, factor, unused0: 0, unused1: 0 };
        self.dispatch(
            &kernel(),
            &params,
            &[x.into(), y.into()],
            folded(groups.div_ceil(WORKGROUP)),
            (y.rows() * y.cols()) as u64,
        )
    }
}
