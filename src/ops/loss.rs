//! Next-token loss over a vocabulary in slices.

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
    width: u32,
    stride: u32,
    first: u32,
}

const SHADER: &str = shader!("shared/grid", "shared/reduce", "loss");

fn kernel() -> Kernel {
    Kernel { name: "loss", source: SHADER, constants: vec![("LANES", WORKGROUP as u32)] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// The state that [`Gpu::loss`] starts from.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn loss_state(&self, tokens: usize) -> Result<Matrix> {
        self.upload(&[-1e30, 0.0, 0.0, 0.0].repeat(tokens), tokens, 4)
    }

    /// Accumulates the logits of the vocabulary entries from `first` on: `state[t] = (m, s, z, _)` with the maximum m,
    /// the sum s of `exp(logit − m)`, and the logit z of the target.
    ///
    /// `logits` is `[tokens, width]`, `targets` has one u32 a token, `state` is `[tokens, 4]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the numbers of tokens differ.
    pub fn loss(&self, logits: &Matrix, first: usize, targets: &Matrix, state: &Matrix) -> Result<()> {
        if targets.cols() != logits.rows() || state.rows() != logits.rows() || state.cols() != 4 {
            return Err(Error::shape(
                "loss",
                format!("{} rows of logits, {} targets, {} states", logits.rows(), targets.cols(), state.rows()),
            ));
        }
        let params = Params {
            tokens: logits.rows() as u32,
            width: logits.cols() as u32,
            stride: logits.stride() as u32,
            first: first as u32,
        };
        let kernel = kernel();
        let work = (logits.rows() * logits.cols() * 4) as u64;
        self.dispatch(&kernel, &params, &[logits.into(), targets.into(), state.into()], folded(logits.rows()), work)
    }

    /// The negative log-likelihoods `m + log s − z` of a finished state.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub fn loss_values(&self, state: &Matrix) -> Result<Vec<f64>> {
        let values = self.download(state)?;
        Ok(values.chunks_exact(4).map(|s| f64::from(s[0]) + f64::from(s[1]).ln() - f64::from(s[2])).collect())
    }
}
