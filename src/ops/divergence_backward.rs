//! The gradient of the divergence between two models' predictions.

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
    factor: f32,
    /// One over the temperature.
    sharpness: f32,
    unused: [u32; 3],
}

fn kernel() -> Kernel {
    Kernel { name: "divergence_backward", source: shader!("shared/grid", "divergence_backward"), constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// The gradient of `factor` times the sum of KL(p ‖ q) by q's logits of a slice of the vocabulary: `d[t, i] =
    /// factor · (softmax(q[t])[i] − softmax(p[t])[i])`.
    ///
    /// `p` and `q` are `[tokens, width]`; `state` is what [`Gpu::divergence`] has made of all slices.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit; [`Error::OutOfMemory`].
    pub fn divergence_backward(&self, p: &Matrix, q: &Matrix, state: &Matrix, factor: f32) -> Result<Matrix> {
        self.divergence_backward_at(p, q, state, factor, 1.0)
    }

    /// `d[t, i] = factor · (softmax(q[t] / temperature)[i] − softmax(p[t] / temperature)[i])`, where `state` is of the
    /// same temperature: the gradient of `factor · temperature` times the sum of the divergences.
    ///
    /// # Errors
    /// As [`Gpu::divergence_backward`].
    pub fn divergence_backward_at(
        &self,
        p: &Matrix,
        q: &Matrix,
        state: &Matrix,
        factor: f32,
        temperature: f32,
    ) -> Result<Matrix> {
        let (tokens, width) = (p.rows(), p.cols());
        if (tokens, width) != (q.rows(), q.cols()) || state.rows() != tokens || state.cols() != 12 {
            let found = format!("[{tokens}, {width}] and [{}, {}], {} states", q.rows(), q.cols(), state.rows());
            return Err(Error::shape("divergence_backward", found));
        }
        let d = self.unfilled(tokens, width)?;
        let params = Params {
            tokens: tokens as u32,
            width: width as u32,
            stride: p.stride() as u32,
            factor,
            sharpness: 1.0 / temperature,
            unused: [0; 3],
        };
        let bindings = [p.into(), q.into(), state.into(), (&d).into()];
        self.dispatch(&kernel(), &params, &bindings, folded(tokens), (tokens * width * 8) as u64)?;
        Ok(d)
    }
}
