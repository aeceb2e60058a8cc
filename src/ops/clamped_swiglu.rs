//! What the experts of gpt_oss have between their linear layers.

use bytemuck::{Pod, Zeroable};

use super::{folded_rows, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

/// `(u + 1) · g · sigmoid(α·g)`, with the gate g clamped from above and u from both sides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClampedSwiglu {
    pub alpha: f32,
    pub limit: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    width: u32,
    x_stride: u32,
    y_stride: u32,
    alpha: f32,
    limit: f32,
    unused: [u32; 2],
}

/// Values of a workgroup.
const PART: usize = 256;

fn kernel() -> Kernel {
    Kernel { name: "clamped_swiglu", source: shader!("shared/grid", "clamped_swiglu"), constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// `y[t, i] = (u + 1) · g · sigmoid(α·g)`, g = min(x[t, i], limit), u = x[t, width + i] kept between −limit and
    /// limit, for `x` `[tokens, 2 · width]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` has an odd width; [`Error::OutOfMemory`].
    pub fn clamped_swiglu(&self, kind: ClampedSwiglu, x: &Matrix) -> Result<Matrix> {
        if !x.cols().is_multiple_of(2) {
            return Err(Error::shape("clamped_swiglu", format!("gate and up in rows of {}", x.cols())));
        }
        let width = x.cols() / 2;
        let y = self.unfilled(x.rows(), width)?;
        let params = Params {
            tokens: x.rows() as u32,
            width: width as u32,
            x_stride: x.stride() as u32,
            y_stride: y.stride() as u32,
            alpha: kind.alpha,
            limit: kind.limit,
            unused: [0; 2],
        };
        let grid = folded_rows(width.div_ceil(PART), x.rows());
        self.dispatch(&kernel(), &params, &[x.into(), (&y).into()], grid, 8 * (x.rows() * width) as u64)?;
        Ok(y)
    }
}
