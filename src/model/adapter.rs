//! What is trained beside a linear weight.

use super::architecture::{Role, Weight};
use crate::{
    error::Result,
    gpu::{Gpu, Matrix},
    ops::Dropout,
};

/// What is added to a linear weight `[out, in]` in training: `scale · B · A` (LoRA, arXiv 2106.09685).
#[derive(Debug, Clone)]
pub struct Adapter {
    /// The stored tensor that holds the weight.
    pub spec: &'static Weight,
    pub role: Role,
    /// `[rank, in]`.
    pub a: Matrix,
    /// `[out, rank]`.
    pub b: Matrix,
    pub scale: f32,
    /// What of its input is left out, `scale` included. Without it, the sum is in the weight already.
    pub dropout: Option<Dropout>,
}

impl Adapter {
    /// What `A` reads of `x` `[tokens, in]`, whose first token is the one numbered `first`; and what is left to
    /// multiply by.
    pub(super) fn input(&self, gpu: &Gpu, x: &Matrix, first: usize) -> Result<(Matrix, f32)> {
        let Some(dropout) = self.dropout else { return Ok((x.clone(), self.scale)) };
        let dropped = gpu.unfilled(x.rows(), x.cols())?;
        gpu.dropout(dropout, first, x, &dropped, false)?;
        Ok((dropped, 1.0))
    }

    /// Adds what it makes of `x` to the columns of `y` from `column` on, if the weight does not do so.
    pub(super) fn add(&self, gpu: &Gpu, x: &Matrix, first: usize, y: &Matrix, column: usize) -> Result<()> {
        if self.dropout.is_none() {
            return Ok(());
        }
        let low = gpu.product(&self.input(gpu, x, first)?.0, &self.a)?;
        gpu.linear(&low, &self.b, None, y, column, true)
    }
}
