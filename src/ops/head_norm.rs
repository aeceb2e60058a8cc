//! QK-norm: normalisation of each attention head.

use bytemuck::{Pod, Zeroable};

use super::{Norm, WORKGROUP, folded, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

/// Where heads lie in the rows of a matrix, side by side: head h begins at `column + h · head_dim`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadSpan {
    pub column: usize,
    pub heads: usize,
}

impl HeadSpan {
    /// One past the last column that heads of `head_dim` use.
    pub fn end(&self, head_dim: usize) -> usize {
        self.column + self.heads * head_dim
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    heads: u32,
    head_dim: u32,
    stride: u32,
    column: u32,
    eps: f32,
    has_bias: u32,
    weight_stride: u32,
}

/// From the weights of one head to those of the next.
pub(super) fn weight_stride(weight: &Matrix) -> u32 {
    if weight.rows() > 1 { weight.stride() as u32 } else { 0 }
}

const SHADER: &str = shader!("shared/grid", "shared/reduce", "head_norm");

fn kernel(kind: Norm) -> Kernel {
    Kernel { name: "head_norm", source: SHADER, constants: vec![("KIND", kind as u32), ("LANES", WORKGROUP as u32)] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    [Norm::Rms, Norm::Layer].map(kernel).into()
}

impl Gpu {
    /// Normalises each head of `x` `[tokens, *]` in `span` by itself, in place; `weight` and `bias` are `[1,
    /// head_dim]`, or `[heads, head_dim]` where each head has its own.
    ///
    /// # Errors
    /// [`Error::Shape`] if the heads lie outside of `x`.
    pub fn head_norm(
        &self,
        kind: Norm,
        x: &Matrix,
        span: HeadSpan,
        weight: &Matrix,
        bias: Option<&Matrix>,
        eps: f32,
    ) -> Result<()> {
        let head_dim = weight.cols();
        if span.end(head_dim) > x.cols()
            || ![1, span.heads].contains(&weight.rows())
            || bias.is_some_and(|bias| (bias.rows(), bias.cols()) != (weight.rows(), head_dim))
        {
            return Err(Error::shape("head_norm", format!("{span:?} of {head_dim} in rows of {}", x.cols())));
        }
        let params = Params {
            tokens: x.rows() as u32,
            heads: span.heads as u32,
            head_dim: head_dim as u32,
            stride: x.stride() as u32,
            column: span.column as u32,
            eps,
            has_bias: bias.is_some().into(),
            weight_stride: weight_stride(weight),
        };
        let kernel = kernel(kind);
        let heads = x.rows() * span.heads;
        self.dispatch(
            &kernel,
            &params,
            &[weight.into(), bias.into(), x.into()],
            folded(heads),
            (heads * head_dim * 2) as u64,
        )
    }
}
