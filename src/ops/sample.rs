//! Drawing the next token on the GPU.

use bytemuck::{Pod, Zeroable};

use super::{folded, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

/// What a draw depends on, beside the logits.
#[derive(Debug, Clone, Copy)]
pub struct SampleOptions {
    pub seed: u32,
    /// Number of the token being drawn in its sequence.
    pub step: usize,
    /// Number of the first row's sequence, so that batches do not repeat one another.
    pub first_row: usize,
    pub temperature: f32,
}

/// What draws on the GPU have of a seed.
pub fn short_seed(seed: u64) -> u32 {
    (seed ^ (seed >> 32)) as u32
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    width: u32,
    stride: u32,
    first: u32,
    seed: u32,
    step: u32,
    first_row: u32,
    inverse_temperature: f32,
}

const SHADER: &str = shader!("shared/grid", "sample");

fn kernel() -> Kernel {
    Kernel { name: "sample", source: SHADER, constants: vec![] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// The value part of the state that [`Gpu::sample`] starts from; the ids start from zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn sample_state(&self, tokens: usize) -> Result<(Matrix, Matrix)> {
        Ok((self.upload(&vec![-1e30; tokens], 1, tokens)?, self.upload_u32(&vec![0; tokens])?))
    }

    /// Accumulates the logits of the vocabulary entries from `first` on: `ids[t]` is so far the argmax of
    /// `logit / temperature + gumbel noise`, which after the last slice is a draw from `softmax(logits / temperature)`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the numbers of tokens differ.
    pub fn sample(
        &self,
        logits: &Matrix,
        first: usize,
        options: &SampleOptions,
        best: &Matrix,
        ids: &Matrix,
    ) -> Result<()> {
        if best.cols() != logits.rows() || ids.cols() != logits.rows() {
            return Err(Error::shape(
                "sample",
                format!("{} rows of logits, {} values, {} ids", logits.rows(), best.cols(), ids.cols()),
            ));
        }
        let params = Params {
            tokens: logits.rows() as u32,
            width: logits.cols() as u32,
            stride: logits.stride() as u32,
            first: first as u32,
            seed: options.seed,
            step: options.step as u32,
            first_row: options.first_row as u32,
            inverse_temperature: 1.0 / options.temperature,
        };
        let kernel = kernel();
        let work = (logits.rows() * logits.cols() * 8) as u64;
        self.dispatch(&kernel, &params, &[logits.into(), best.into(), ids.into()], folded(logits.rows()), work)
    }
}
