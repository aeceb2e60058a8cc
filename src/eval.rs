//! Perplexity and logits of a model, dense or sliced: one layer's weights on the GPU at a time, all sequences through each.

use std::ops::Range;

use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    model::{Batch, BatchSize, Ends, Model, plan_batches},
    progress::Progress,
};

/// How well a model predicts some sequences.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Perplexity {
    /// exp of the mean over the sequences of their mean negative log-likelihood.
    pub perplexity: f64,
    pub sequences: usize,
    /// Tokens that were predicted: all but the first of each sequence.
    pub tokens: usize,
}

/// Residuals of so many bytes are on the GPU at once; more sequences take another pass over the layers.
const RESIDUAL_BYTES: usize = 1 << 30;

/// The perplexity of `rows`, each a window of its own: positions 1.. of each are predicted.
///
/// # Errors
/// [`Error::BadTokens`] if there are none, or one has fewer than two tokens; whatever the model or the GPU reports.
pub fn perplexity(gpu: &Gpu, model: &Model, rows: &[Vec<u32>], phase: &'static str, progress: &dyn Progress) -> Result<Perplexity> {
    if rows.is_empty() {
        return Err(Error::BadTokens("no tokens to evaluate on".into()));
    }
    if let Some(short) = rows.iter().position(|row| row.len() < 2) {
        return Err(Error::BadTokens(format!("row {short} has fewer than two tokens: nothing to predict")));
    }
    let mut total = 0.0;
    each_residual(gpu, model, rows, phase, progress, |ends, range, _, x| {
        let targets: Vec<u32> = rows[range.clone()].iter().flat_map(|row| row[1..].iter().copied().chain([u32::MAX])).collect();
        let targets = gpu.upload_u32(&targets)?;
        let state = gpu.loss_state(x.rows())?;
        ends.logits(gpu, model.config(), x, |first, logits| gpu.loss(logits, first, &targets, &state))?;
        let losses = gpu.loss_values(&state)?;
        let mut start = 0;
        for row in &rows[range] {
            // The last position has no target.
            let losses = &losses[start..start + row.len() - 1];
            total += losses.iter().sum::<f64>() / losses.len() as f64;
            start += row.len();
        }
        Ok(())
    })?;
    let mean = total / rows.len() as f64;
    if !mean.is_finite() {
        return Err(Error::Numerical(format!("the loss is {mean}: the model's signals overflow")));
    }
    Ok(Perplexity { perplexity: mean.exp(), sequences: rows.len(), tokens: rows.iter().map(|row| row.len() - 1).sum() })
}

/// The logits of each row in turn: `each(row, [tokens · vocab_size] values)`.
///
/// # Errors
/// Those of `each`; whatever the model or the GPU reports.
pub fn logits(
    gpu: &Gpu,
    model: &Model,
    rows: &[Vec<u32>],
    progress: &dyn Progress,
    mut each: impl FnMut(usize, Vec<f32>) -> Result<()>,
) -> Result<()> {
    let vocab = model.config().vocab_size;
    each_residual(gpu, model, rows, "logits", progress, |ends, range, batch, x| {
        let mut values: Vec<Vec<f32>> = rows[range.clone()].iter().map(|row| vec![0.0; row.len() * vocab]).collect();
        ends.logits(gpu, model.config(), x, |first, logits| {
            let (slice, width) = (gpu.download(logits)?, logits.cols());
            for (values, block) in values.iter_mut().zip(&batch.sequences) {
                for token in 0..block.tokens {
                    let from = (block.first + token) * width;
                    let to = token * vocab + first;
                    values[to..to + width].copy_from_slice(&slice[from..from + width]);
                }
            }
            Ok(())
        })?;
        range.zip(values).try_for_each(|(row, values)| each(row, values))
    })
}

/// Runs all rows through all layers and hands over the last residual of each batch, `[tokens, width]`.
fn each_residual(
    gpu: &Gpu,
    model: &Model,
    rows: &[Vec<u32>],
    phase: &'static str,
    progress: &dyn Progress,
    mut each: impl FnMut(&Ends, Range<usize>, &Batch, &Matrix) -> Result<()>,
) -> Result<()> {
    let config = model.config();
    let ranges = plan_batches(gpu, config, rows, BatchSize::default())?;
    progress.begin(phase, (ranges.len() * (config.num_hidden_layers + 1)) as u64);
    let rope_table = model.rope_table(gpu, rows.iter().map(Vec::len).max().unwrap_or(0))?;
    let ends = model.ends(gpu)?;
    let tokens = |range: &Range<usize>| rows[range.clone()].iter().map(Vec::len).sum::<usize>();
    let most = RESIDUAL_BYTES / (4 * config.hidden_size);
    let mut remaining = ranges.as_slice();
    while !remaining.is_empty() {
        let mut held = 0;
        let count = remaining.iter().take_while(|range| {
            held += tokens(range);
            held <= most
        });
        let (group, rest) = remaining.split_at(count.count().max(1));
        remaining = rest;
        let mut states = Vec::new();
        for range in group {
            let batch = Batch::new(gpu, &rows[range.clone()].iter().map(Vec::as_slice).collect::<Vec<_>>())?;
            let x = ends.embed(gpu, &batch)?;
            states.push((range.clone(), batch, x));
        }
        for layer in 0..config.num_hidden_layers {
            let weights = model.layer(gpu, layer)?;
            for (_, batch, x) in &mut states {
                let context = batch.context(gpu, config, layer, rope_table.as_ref());
                *x = context.forward(&weights, x.clone())?;
                progress.advance(1)?;
            }
        }
        for (range, batch, x) in states {
            each(&ends, range, &batch, &x)?;
            progress.advance(1)?;
        }
    }
    Ok(())
}
