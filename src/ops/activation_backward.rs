//! The gradient of the nonlinearity of an MLP.

use bytemuck::{Pod, Zeroable};

use super::{Activation, folded_rows, shader};
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
}

/// Elements of a workgroup.
const PART: usize = 256;

const SHADER: &str = shader!("shared/grid", "shared/activation", "activation_backward");

fn kernel(kind: Activation, gated: bool) -> Kernel {
    let constants = vec![("KIND", kind as u32), ("GATED", gated.into()), ("PART", PART as u32)];
    Kernel { name: "activation_backward", source: SHADER, constants }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    let kinds = [Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu];
    kinds.into_iter().flat_map(|kind| [kernel(kind, false), kernel(kind, true)]).collect()
}

impl Gpu {
    /// The gradient of what [`Gpu::activation`] was given, `x` `[tokens, width]`, or, gated, `[tokens, 2 · width]`,
    /// from that of its result, `d` `[tokens, width]`: `dx = d · f'(x)`; gated, `d · f'(gate) · up` beside `d ·
    /// f(gate)`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit; [`Error::OutOfMemory`].
    pub fn activation_backward(&self, kind: Activation, gated: bool, x: &Matrix, d: &Matrix) -> Result<Matrix> {
        let width = d.cols();
        if x.rows() != d.rows() || x.cols() != if gated { 2 * width } else { width } {
            let found = format!("x [{}, {}], d [{}, {width}], gated {gated}", x.rows(), x.cols(), d.rows());
            return Err(Error::shape("activation_backward", found));
        }
        let dx = self.unfilled(x.rows(), x.cols())?;
        let params = Params {
            tokens: x.rows() as u32,
            width: width as u32,
            x_stride: x.stride() as u32,
            d_stride: d.stride() as u32,
        };
        let grid = folded_rows(width.div_ceil(PART), x.rows());
        let bindings = [x.into(), d.into(), (&dx).into()];
        self.dispatch(&kernel(kind, gated), &params, &bindings, grid, (x.rows() * width) as u64 * 8)?;
        Ok(dx)
    }
}
