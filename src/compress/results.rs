//! What the block of a step makes where that goes through a norm before it is added to the residual.

use std::ops::Range;

use crate::{
    error::Result,
    gpu::{Gpu, Matrix},
    model::{StepWeights, Tap},
};

/// Whether what the blocks of a step make goes through a norm before it is added to the residual.
pub fn has_norm_after(weights: &StepWeights) -> bool {
    weights.blocks.iter().any(|block| block.spec.norm_after.is_some())
}

/// Collects what the block of a step makes, before the norm of that.
pub struct Results<'g> {
    pub gpu: &'g Gpu,
    /// `[tokens, hidden_size]`, zero at first.
    pub all: Matrix,
}

impl Tap for Results<'_> {
    fn written(&mut self, tokens: Range<usize>, result: &Matrix) -> Result<()> {
        self.gpu.subtract(&self.all.view(tokens)?, result, -1.0)
    }
}
