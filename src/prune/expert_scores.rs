//! What the experts of a mixture add to the residual stream, from one pass of the examples.

use std::ops::Range;

use super::experts::ExpertScores;
use crate::{
    error::Result,
    gpu::Gpu,
    model::{Model, plan_batches, through},
    progress::Progress,
    stream::{ExpertSums, MemoryPlan, Placement},
};

/// S of the experts of `layers`, on the examples `rows`.
///
/// # Errors
/// [`crate::Error::Numerical`] if a score is not finite; whatever the model or the GPU reports.
pub fn expert_scores(
    gpu: &Gpu,
    model: &Model,
    rows: &[Vec<u32>],
    layers: Range<usize>,
    memory: &MemoryPlan,
    progress: &dyn Progress,
) -> Result<Vec<ExpertScores>> {
    let config = model.config();
    let batches = plan_batches(gpu, config, rows, memory.batch)?;
    progress.begin("experts", (batches.len() * config.layers.len()) as u64);
    let mut sums = ExpertSums::new(gpu, config);
    // Where residuals are not to stay on the GPU, experts come again for every batch.
    let together = if memory.placement == Placement::Gpu { batches.len() } else { 1 };
    for group in batches.chunks(together.max(1)) {
        through(gpu, model, rows, group, memory.part_bytes, &mut sums, progress)?;
    }
    let mixtures = layers.filter(|&layer| config.layers[layer].experts.is_some());
    mixtures.map(|layer| Ok(ExpertScores { layer, scores: sums.scores(layer)? })).collect()
}
