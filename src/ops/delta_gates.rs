//! The gates of a gated delta net.

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
    y_stride: u32,
    unused: u32,
}

fn kernel() -> Kernel {
    Kernel { name: "delta_gates", source: shader!("shared/grid", "delta_gates"), constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// For every token and head, how much of the state is kept, `exp(−rate · softplus(decay + bias))`, and then of
    /// every head, how much of an error is corrected, `sigmoid(beta)`: `[tokens, 2 · heads]`. `x` `[tokens, *]` has
    /// `beta` and `decay` of all heads from these columns on, `parameters` `[2, heads]` rates and biases.
    ///
    /// # Errors
    /// [`Error::Shape`] if columns are not there; [`Error::OutOfMemory`].
    pub fn delta_gates(&self, x: &Matrix, beta: usize, decay: usize, parameters: &Matrix) -> Result<Matrix> {
        let heads = parameters.cols();
        if parameters.rows() != 2 || beta.max(decay) + heads > x.cols() {
            let sizes = [parameters.rows(), heads, beta, decay, x.cols()];
            return Err(Error::shape("delta_gates", format!("parameters, columns and rows of sizes {sizes:?}")));
        }
        let gates = self.unfilled(x.rows(), 2 * heads)?;
        let params = Params {
            tokens: x.rows() as u32,
            heads: heads as u32,
            beta: beta as u32,
            decay: decay as u32,
            x_stride: x.stride() as u32,
            p_stride: parameters.stride() as u32,
            y_stride: gates.stride() as u32,
            unused: 0,
        };
        let all = x.rows() * heads;
        let bindings = [x.into(), parameters.into(), (&gates).into()];
        self.dispatch(&kernel(), &params, &bindings, folded(all.div_ceil(WORKGROUP)), 32 * all as u64)?;
        Ok(gates)
    }
}
