//! The nonlinearity of an MLP.

use bytemuck::{Pod, Zeroable};

use super::{folded_rows, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Relu,
    /// With the error function.
    Gelu,
    /// With the tanh approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    Silu,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    width: u32,
    x_stride: u32,
    y_stride: u32,
}

/// Elements of a workgroup.
const PART: usize = 256;

const SHADER: &str = shader!("shared/grid", "shared/activation", "activation");

fn kernel(kind: Activation, gated: bool) -> Kernel {
    Kernel {
        name: "activation",
        source: SHADER,
        constants: vec![("KIND", kind as u32), ("GATED", gated.into()), ("PART", PART as u32)],
    }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    let kinds = [Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu];
    kinds.into_iter().flat_map(|kind| [kernel(kind, false), kernel(kind, true)]).collect()
}

impl Gpu {
    /// `y[t, i] = f(x[t, i])` for `x` `[tokens, width]`; or, gated, `y[t, i] = f(x[t, i]) · x[t, width + i]` for `x`
    /// `[tokens, 2 · width]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if a gated `x` has an odd width; [`Error::OutOfMemory`].
    pub fn activation(&self, kind: Activation, gated: bool, x: &Matrix) -> Result<Matrix> {
        if gated && !x.cols().is_multiple_of(2) {
            return Err(Error::shape("activation", format!("gate and up in rows of {}", x.cols())));
        }
        let width = if gated { x.cols() / 2 } else { x.cols() };
        let y = self.unfilled(x.rows(), width)?;
        let params = Params {
            tokens: x.rows() as u32,
            width: width as u32,
            x_stride: x.stride() as u32,
            y_stride: y.stride() as u32,
        };
        let kernel = kernel(kind, gated);
        let elements = x.rows() * width;
        self.dispatch(
            &kernel,
            &params,
            &[x.into(), (&y).into()],
            folded_rows(width.div_ceil(PART), x.rows()),
            elements as u64 * 4,
        )?;
        Ok(y)
    }
}
