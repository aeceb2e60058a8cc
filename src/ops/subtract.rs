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
    unused: [u32; 3],
}

fn kernel() -> Kernel {
    Kernel { name: "subtract", source: shader!("shared/grid", "subtract"), constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// Subtracts `x` from `y` `[tokens, width]`, in place.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ.
    pub fn subtract(&self, y: &Matrix, x: &Matrix) -> Result<()> {
        if (x.rows(), x.cols()) != (y.rows(), y.cols()) {
            return Err(Error::shape(
                "subtract",
                format!("[{}, {}] from [{}, {}]", x.rows(), x.cols(), y.rows(), y.cols()),
            ));
        }
        let groups = y.rows() * y.stride() / 4;
        let params = Params { groups: groups as u32, unused: [0; 3] };
        self.dispatch(
            &kernel(),
            &params,
            &[x.into(), y.into()],
            folded(groups.div_ceil(WORKGROUP)),
            (y.rows() * y.cols()) as u64,
        )
    }
}
