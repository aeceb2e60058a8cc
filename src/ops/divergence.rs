//! How far the predictions of two models are from each other, over a vocabulary in slices.

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
    /// One over the temperature.
    sharpness: f32,
    unused: [u32; 3],
}

const SHADER: &str = shader!("shared/grid", "shared/reduce", "divergence");

fn kernel() -> Kernel {
    Kernel { name: "divergence", source: SHADER, constants: vec![("LANES", WORKGROUP as u32)] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

/// The predictions of two models, p and q, at one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// KL(p ‖ q), in nats, at the temperature of the state.
    pub kl: f64,
    /// Whether both give the same token the largest probability.
    pub agrees: bool,
    /// −log p and −log q of the target; only meaningful where there is one.
    pub losses: [f64; 2],
}

/// Values of a token's state.
const STATE: [f32; 12] = [-1e30, 0.0, -1e30, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
/// Those of a token that does not count: maxima that no logit reaches, beside which every term of a sum is 0.
const PASSED_OVER: [f32; 12] = [1e30, 1.0, 1e30, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];

impl Gpu {
    /// The state that [`Gpu::divergence`] starts from.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn divergence_state(&self, tokens: usize) -> Result<Matrix> {
        self.upload(&STATE.repeat(tokens), tokens, STATE.len())
    }

    /// The same where not all tokens count: the divergence of the others is 0, and so is its gradient.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn divergence_state_of(&self, counted: &[bool]) -> Result<Matrix> {
        let of = |counted: &bool| if *counted { STATE } else { PASSED_OVER };
        self.upload(&counted.iter().flat_map(of).collect::<Vec<_>>(), counted.len(), STATE.len())
    }

    /// Accumulates the logits `p` and `q` `[tokens, width]` of the vocabulary entries from `first` on; `targets` has
    /// one u32 a token, `state` is that of [`Gpu::divergence_state`].
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit.
    pub fn divergence(&self, p: &Matrix, q: &Matrix, first: usize, targets: &Matrix, state: &Matrix) -> Result<()> {
        self.divergence_at(p, q, first, targets, state, 1.0)
    }

    /// The same of predictions at a temperature: of logits that are divided by it.
    ///
    /// # Errors
    /// As [`Gpu::divergence`].
    pub fn divergence_at(
        &self,
        p: &Matrix,
        q: &Matrix,
        first: usize,
        targets: &Matrix,
        state: &Matrix,
        temperature: f32,
    ) -> Result<()> {
        let same = (p.rows(), p.cols(), p.stride()) == (q.rows(), q.cols(), q.stride());
        if !same || targets.cols() != p.rows() || (state.rows(), state.cols()) != (p.rows(), STATE.len()) {
            return Err(Error::shape(
                "divergence",
                format!(
                    "logits of [{}, {}] and [{}, {}], {} targets, {} states",
                    p.rows(),
                    p.cols(),
                    q.rows(),
                    q.cols(),
                    targets.cols(),
                    state.rows()
                ),
            ));
        }
        let (tokens, width, stride) = (p.rows() as u32, p.cols() as u32, p.stride() as u32);
        let params =
            Params { tokens, width, stride, first: first as u32, sharpness: 1.0 / temperature, unused: [0; 3] };
        let work = (p.rows() * p.cols() * 8) as u64;
        let bindings = [p.into(), q.into(), targets.into(), state.into()];
        self.dispatch(&kernel(), &params, &bindings, folded(p.rows()), work)
    }

    /// What a finished state says of each token.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub fn divergences(&self, state: &Matrix) -> Result<Vec<Divergence>> {
        let values = self.download(state)?;
        let of = |state: &[f32]| {
            let value = |at: usize| f64::from(state[at]);
            let (p, q) = (value(0) + value(1).ln(), value(2) + value(3).ln());
            // Rounding may leave the divergence of a model from itself a little below zero.
            let kl = (value(4) / value(1) - p + q).max(0.0);
            Divergence { kl, agrees: state[5] == state[6], losses: [p - value(8), q - value(9)] }
        };
        Ok(values.chunks_exact(STATE.len()).map(of).collect())
    }
}
