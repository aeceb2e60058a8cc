//! Squared lengths of tokens.

use bytemuck::{Pod, Zeroable};

use super::{ROW_LANES, WORKGROUP, folded, row_lanes, shader};
use crate::{
    error::Result,
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    width: u32,
    stride: u32,
    unused: u32,
}

const SHADER: &str = shader!("shared/grid", "shared/reduce", "energy");

fn kernel(lanes: usize) -> Kernel {
    Kernel { name: "energy", source: SHADER, constants: vec![("LANES", lanes as u32)] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    ROW_LANES.map(kernel).into()
}

impl Gpu {
    /// The squared length of every token of `x` `[tokens, width]`: `[1, tokens]`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn energy(&self, x: &Matrix) -> Result<Matrix> {
        let e = self.unfilled(1, x.rows())?;
        let params = Params { tokens: x.rows() as u32, width: x.cols() as u32, stride: x.stride() as u32, unused: 0 };
        let lanes = row_lanes(x.cols());
        let grid = folded(x.rows().div_ceil(WORKGROUP / lanes));
        self.dispatch(&kernel(lanes), &params, &[x.into(), (&e).into()], grid, (x.rows() * x.cols()) as u64)?;
        Ok(e)
    }
}
