//! The gradient of what QK-norm normalised.

use bytemuck::{Pod, Zeroable};

use super::{HeadSpan, Norm, WORKGROUP, folded, head_norm::weight_stride, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    heads: u32,
    head_dim: u32,
    stride: u32,
    column: u32,
    eps: f32,
    weight_stride: u32,
    unused: u32,
}

const SHADER: &str = shader!("shared/grid", "shared/reduce", "head_norm_backward");

fn kernel(kind: Norm) -> Kernel {
    let constants = vec![("KIND", kind as u32), ("LANES", WORKGROUP as u32)];
    Kernel { name: "head_norm_backward", source: SHADER, constants }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    [Norm::Rms, Norm::Layer].map(kernel).into()
}

impl Gpu {
    /// Makes the gradient of what [`Gpu::head_norm`] was given, `x` `[tokens, *]`, of that of its result: the heads of
    /// `d` `[tokens, *]` in `span`, in place. `weight` is `[1, head_dim]`, or
    /// `[heads, head_dim]` where each head has its own.
    ///
    /// # Errors
    /// [`Error::Shape`] if the heads lie outside of `x`, or `d` has another shape.
    pub fn head_norm_backward_in_place(
        &self,
        kind: Norm,
        x: &Matrix,
        span: HeadSpan,
        weight: &Matrix,
        eps: f32,
        d: &Matrix,
    ) -> Result<()> {
        let head_dim = weight.cols();
        if span.end(head_dim) > x.cols()
            || ![1, span.heads].contains(&weight.rows())
            || (d.rows(), d.cols()) != (x.rows(), x.cols())
        {
            let found =
                format!("{span:?} of {head_dim}, x [{}, {}], d [{}, {}]", x.rows(), x.cols(), d.rows(), d.cols());
            return Err(Error::shape("head_norm_backward", found));
        }
        let params = Params {
            tokens: x.rows() as u32,
            heads: span.heads as u32,
            head_dim: head_dim as u32,
            stride: x.stride() as u32,
            column: span.column as u32,
            eps,
            weight_stride: weight_stride(weight),
            unused: 0,
        };
        let heads = x.rows() * span.heads;
        let bindings = [x.into(), weight.into(), d.into()];
        self.dispatch(&kernel(kind), &params, &bindings, folded(heads), (heads * head_dim * 5) as u64)
    }
}
