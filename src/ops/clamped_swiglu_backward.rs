//! The gradient of what the experts of gpt_oss have between their linear layers.

use bytemuck::{Pod, Zeroable};

use super::{ClampedSwiglu, folded_rows, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    width: u32,
    x_stride: u32,
    d_stride: u32,
    alpha: f32,
    limit: f32,
    unused: [u32; 2],
}

/// Values of a workgroup.
const PART: usize = 256;

fn kernel() -> Kernel {
    let source = shader!("shared/grid", "clamped_swiglu_backward");
    Kernel { name: "clamped_swiglu_backward", source, constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// The gradient of what [`Gpu::clamped_swiglu`] was given, `x` `[tokens, 2 · width]`, from that of its result, `d`
    /// `[tokens, width]`; none of what was beyond the limits.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit; [`Error::OutOfMemory`].
    pub fn clamped_swiglu_backward(&self, kind: ClampedSwiglu, x: &Matrix, d: &Matrix) -> Result<Matrix> {
        let width = d.cols();
        if x.rows() != d.rows() || x.cols() != 2 * width {
            let found = format!("x [{}, {}], d [{}, {width}]", x.rows(), x.cols(), d.rows());
            return Err(Error::shape("clamped_swiglu_backward", found));
        }
        let dx = self.unfilled(x.rows(), x.cols())?;
        let params = Params {
            tokens: x.rows() as u32,
            width: width as u32,
            x_stride: x.stride() as u32,
            d_stride: d.stride() as u32,
            alpha: kind.alpha,
            limit: kind.limit,
            unused: [0; 2],
        };
        let grid = folded_rows(width.div_ceil(PART), x.rows());
        let bindings = [x.into(), d.into(), (&dx).into()];
        self.dispatch(&kernel(), &params, &bindings, grid, 16 * (x.rows() * width) as u64)?;
        Ok(dx)
    }
}
