//! What training asks of a pass forward and back: which weights, and what is to become small.

use crate::{
    error::Result,
    model::{Model, NormWeights, Step, StepWeights, Wanted},
};

/// Weights as they are now, which need not be those of the file.
pub trait Supply {
    /// Of a step of a layer.
    ///
    /// # Errors
    /// Whatever the implementation reports.
    fn weights(&self, layer: usize, step: Step) -> Result<StepWeights>;

    /// The final norm, with the factor of the logits, where it is another than the file's.
    ///
    /// # Errors
    /// Likewise.
    fn final_norm(&self) -> Result<Option<NormWeights>> {
        Ok(None)
    }
}

/// What is to become small.
#[derive(Clone, Copy)]
pub enum Objective<'a> {
    /// The mean loss of the next tokens.
    NextToken,
    /// T²·KL(p ‖ q), the mean over tokens, where p are the predictions of a teacher with the same vocabulary, at a
    /// temperature T (Hinton et al., arXiv 1503.02531).
    Teacher { model: &'a Model, weights: &'a dyn Supply, temperature: f32 },
}

/// How a model is trained.
#[derive(Clone, Copy)]
pub struct Training<'a> {
    pub weights: &'a dyn Supply,
    pub wanted: Wanted,
    pub objective: Objective<'a>,
    /// Which tokens of each sequence count where they are predicted; all if `None`.
    pub counted: Option<&'a [Vec<bool>]>,
}
