//! Sequences through all layers of a model, one layer's weights on the GPU at a time.

use std::ops::Range;

use super::{
    Batch, Model,
    architecture::Position,
    ends::each_part,
    layer::LayerContext,
    mixture::{ExpertTap, forward},
};
use crate::{
    error::Result,
    gpu::{Gpu, Matrix},
    progress::Progress,
};

/// Runs some batches of the rows through all layers, all of them through each before the next one, and returns them
/// with their last residuals, `[tokens, width]`. Embeddings go to the GPU in parts of up to about `part_bytes`.
///
/// # Errors
/// Whatever the model, the GPU, `tap` or `progress` reports.
pub fn through(
    gpu: &Gpu,
    model: &Model,
    rows: &[Vec<u32>],
    group: &[Range<usize>],
    part_bytes: u64,
    tap: &mut dyn ExpertTap,
    progress: &dyn Progress,
) -> Result<Vec<(Range<usize>, Batch, Matrix)>> {
    let config = model.config();
    let rope_tables = model.rope_tables(gpu, rows.iter().map(Vec::len).max().unwrap_or(0))?;
    let ends = model.store.ends()?;
    let mut states = Vec::new();
    for range in group {
        let batch = Batch::new(gpu, config, &rows[range.clone()].iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        let x = gpu.unfilled(batch.tokens, ends.embedding.cols)?;
        states.push((range.clone(), batch, x));
    }
    each_part(gpu, &ends.embedding, part_bytes, |first, part| {
        states.iter().try_for_each(|(_, batch, x)| gpu.embed(&batch.ids, first, part, x, false))
    })?;
    if let (Some(positions), Position::Learned { offset, .. }) =
        (&ends.positions, config.architecture.attention.position)
    {
        each_part(gpu, positions, part_bytes, |first, part| {
            states.iter().try_for_each(|(_, batch, x)| gpu.embed_positions(&batch.positions, first, offset, part, x))
        })?;
    }
    for layer in 0..config.layers.len() {
        let weights = model.layer(gpu, layer)?;
        let mut batches: Vec<(LayerContext, &mut Matrix)> =
            states.iter_mut().map(|(_, batch, x)| (batch.context(gpu, config, layer, &rope_tables), x)).collect();
        forward(gpu, model, &weights, &mut batches, tap, || progress.advance(1))?;
    }
    Ok(states)
}
