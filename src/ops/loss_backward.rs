//! The gradient of the next-token loss by its logits.

use bytemuck::{Pod, Zeroable};

use super::{folded, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    width: u32,
    stride: u32,
    first: u32,
    factor: f32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}

fn kernel() -> Kernel {
    Kernel { name: "loss_backward", source: shader!("shared/grid", "loss_backward"), constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// The gradient of `factor` times the sum of the losses by the logits of the vocabulary entries from `first` on:
    /// `d[t, i] = factor · (softmax(t)[first + i] − [targets[t] = first + i])`.
    ///
    /// `logits` is `[tokens, width]`, `targets` has one u32 a token, `u32::MAX` where there is none, and `state` is
    /// what [`Gpu::loss`] has made of all slices.
    ///
    /// # Errors
    /// [`Error::Shape`] if the numbers of tokens differ; [`Error::OutOfMemory`].
    pub fn loss_backward(
        &self,
        logits: &Matrix,
        first: usize,
        targets: &Matrix,
        state: &Matrix,
        factor: f32,
    ) -> Result<Matrix> {
        let (tokens, width) = (logits.rows(), logits.cols());
        if targets.cols() != tokens || state.rows() != tokens || state.cols() != 4 {
            let found = format!("{tokens} rows of logits, {} targets, {} states", targets.cols(), state.rows());
            return Err(Error::shape("loss_backward", found));
        }
        let d = self.unfilled(tokens, width)?;
        let params = Params {
            tokens: tokens as u32,
            width: width as u32,
            stride: logits.stride() as u32,
            first: first as u32,
            factor,
            unused0: 0,
            unused1: 0,
            unused2: 0,
        };
        let bindings = [logits.into(), targets.into(), state.into(), (&d).into()];
        self.dispatch(&kernel(), &params, &bindings, folded(tokens), (tokens * width * 4) as u64)?;
        Ok(d)
    }
}
