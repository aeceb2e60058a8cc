//! What writes aim at, and what came of a fit.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::layers::Costs;
use crate::{
    error::Result,
    gpu::{Gpu, Matrix},
    model::{Agreement, Kept, StepWeights, Tap},
    stream::Saved,
};

/// What resuming a fit needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refitted {
    /// Layers of the dense model that are done.
    pub layers: usize,
    /// The dense model's residual, and the smaller one's once they differ.
    pub(super) residuals: Vec<Saved>,
    pub(super) kept: Vec<Kept>,
}

/// What came of a fit.
pub struct Outcome {
    pub agreement: Agreement,
    pub kept: Vec<Kept>,
    pub costs: Vec<Costs>,
}

/// How much of what the steps before have lost a write makes up for. All of it would fit what only these tokens have.
pub const MADE_UP: f32 = 0.7;

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
