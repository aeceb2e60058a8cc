//! The gradients of what the gates of a gated delta net are made of.

use bytemuck::{Pod, Zeroable};

use super::{WORKGROUP, folded, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    heads: u32,
    beta: u32,
    decay: u32,
    x_stride: u32,
    p_stride: u32,
    d_stride: u32,
    dx_stride: u32,
}

fn kernel() -> Kernel {
    let source = shader!("shared/grid", "delta_gates_backward");
    Kernel { name: "delta_gates_backward", source, constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// From the gradients `d` `[tokens, 2 · heads]` of the logarithms of what [`Gpu::delta_gates`] made of `x`
    /// `[tokens,
    /// *]`, those of its columns, in the same places of `dx`; other columns stay as they are.
    ///
    /// # Errors
    /// [`Error::Shape`] if columns are not there.
    pub fn delta_gates_backward(
        &self,
        x: &Matrix,
        [beta, decay]: [usize; 2],
        parameters: &Matrix,
        d: &Matrix,
        dx: &Matrix,
    ) -> Result<()> {
        let heads = parameters.cols();
        let has = |of: &Matrix| of.rows() == x.rows() && beta.max(decay) + heads <= of.cols();
        if parameters.rows() != 2 || !has(x) || !has(dx) || (d.rows(), d.cols()) != (x.rows(), 2 * heads) {
            let sizes = [x, parameters, d, dx].map(|of| (of.rows(), of.cols()));
            let found = format!("matrices of {sizes:?} from columns {beta} and {decay}");
            return Err(Error::shape("delta_gates_backward", found));
        }
        let params = Params {
            tokens: x.rows() as u32,
            heads: heads as u32,
            beta: beta as u32,
            decay: decay as u32,
            x_stride: x.stride() as u32,
            p_stride: parameters.stride() as u32,
            d_stride: d.stride() as u32,
            dx_stride: dx.stride() as u32,
        };
        let all = x.rows() * heads;
        let bindings = [x.into(), parameters.into(), d.into(), dx.into()];
        self.dispatch(&kernel(), &params, &bindings, folded(all.div_ceil(WORKGROUP)), 16 * all as u64)
    }
}
