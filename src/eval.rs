//! Perplexity and logits of a model, dense or sliced: one layer's weights on the GPU at a time, all sequences through
//! each.

use std::ops::Range;

use crate::{
    error::{Error, Result, too_low},
    gpu::{Gpu, Matrix},
    model::{
        Agreement, Agreements, BATCH_TOKENS, Batch, BatchSize, Config, HostMatrix, Model, NoExpertTap, PART_BYTES,
        Readout, each_part, layers_bytes, logit_entries, logit_slices, parts, plan_batches, row_bytes, staging_bytes,
        state_bytes, through,
    },
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

/// How much of everything is on the GPU at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct EvalMemory {
    /// About this many tokens run together, and one sequence at least.
    pub batch_tokens: usize,
    /// Residuals of up to this many bytes are held at once, and one batch at least; more sequences take another pass
    /// over the layers.
    pub residual_bytes: u64,
    /// The most bytes of a run of rows of the embedding or the head.
    pub part_bytes: u64,
}

impl Default for EvalMemory {
    fn default() -> Self {
        Self { batch_tokens: BATCH_TOKENS, residual_bytes: 1 << 30, part_bytes: PART_BYTES }
    }
}

/// Fewer tokens at a time leave a GPU idle and save nothing worth it; nor do smaller parts of tables.
const LEAST: EvalMemory = EvalMemory { batch_tokens: 64, residual_bytes: 0, part_bytes: 8 << 20 };

impl EvalMemory {
    /// The largest with which `rows` are measured within `most` bytes of the GPU's memory, and what that takes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] that says by how much that is too little.
    pub fn fit(config: &Config, rows: &[Vec<u32>], element_size: usize, most: Option<u64>) -> Result<(Self, u64)> {
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        let residuals = rows.iter().map(Vec::len).sum::<usize>() as u64 * state_bytes(config);
        let most = most.unwrap_or(u64::MAX);
        let mut candidate = Self::default();
        loop {
            let needed = Self { residual_bytes: 0, ..candidate }.gpu_bytes(config, longest, element_size);
            if needed <= most {
                let residual_bytes = candidate.residual_bytes.min(residuals).min(most - needed);
                return Ok((Self { residual_bytes, ..candidate }, needed + residual_bytes));
            }
            candidate = candidate.halved().ok_or_else(|| {
                Error::OutOfMemory(too_low(
                    "--max-gpu-memory",
                    "perplexity",
                    needed,
                    most,
                    "free some, raise the ceiling, or shorten the sequences (--seqlen)",
                ))
            })?;
        }
    }

    /// Half as much at a time; `None` if that is too little to be of use.
    pub fn halved(self) -> Option<Self> {
        let smaller = Self {
            batch_tokens: (self.batch_tokens / 2).max(LEAST.batch_tokens.min(self.batch_tokens)),
            residual_bytes: self.residual_bytes / 2,
            part_bytes: (self.part_bytes / 2).max(LEAST.part_bytes.min(self.part_bytes)),
        };
        if (smaller.batch_tokens, smaller.part_bytes) != (self.batch_tokens, self.part_bytes) {
            return Some(smaller);
        }
        (self.residual_bytes > 0).then_some(Self { residual_bytes: 0, ..smaller })
    }

    /// The most bytes that measuring sequences of up to `longest` tokens holds on the GPU; `element_size` is that of
    /// the stored weights.
    pub fn gpu_bytes(&self, config: &Config, longest: usize, element_size: usize) -> u64 {
        let d = config.hidden_size;
        let tokens = self.batch_tokens.max(longest);
        let table = self.part_bytes.min((config.vocab_size * d.next_multiple_of(4) * element_size) as u64);
        let logits =
            tokens as u64 * (2 * row_bytes(d) + 4 * logit_entries(u64::MAX, tokens).min(config.vocab_size) as u64);
        let group = self.residual_bytes.max(tokens as u64 * state_bytes(config));
        let layers = layers_bytes(config, tokens as u64, element_size);
        group + rope_bytes(config, longest) + layers.max(table + logits.max(staging_bytes(table)))
    }
}

/// Bytes of the table of rotary angles.
pub fn rope_bytes(config: &Config, positions: usize) -> u64 {
    config.ropes.iter().map(|rope| 8 * (positions * rope.inverse_frequencies.len()) as u64).sum()
}

/// The perplexity of `rows`, each a window of its own: positions 1.. of each are predicted.
///
/// # Errors
/// [`Error::BadTokens`] if there are none, or one has fewer than two tokens; whatever the model or the GPU reports.
pub fn perplexity(
    gpu: &Gpu,
    model: &Model,
    rows: &[Vec<u32>],
    phase: &'static str,
    progress: &dyn Progress,
) -> Result<Perplexity> {
    perplexity_within(gpu, model, rows, &EvalMemory::default(), phase, progress)
}

/// As [`perplexity`], within limits.
///
/// # Errors
/// As [`perplexity`].
pub fn perplexity_within(
    gpu: &Gpu,
    model: &Model,
    rows: &[Vec<u32>],
    memory: &EvalMemory,
    phase: &'static str,
    progress: &dyn Progress,
) -> Result<Perplexity> {
    check_rows(rows)?;
    let ends = model.store.ends()?;
    let readout = Readout::upload(gpu, &ends)?;
    let mut total = 0.0;
    each_group(gpu, model, rows, memory, phase, progress, |group| {
        let mut inputs = Vec::new();
        for (range, _, x) in group {
            let targets: Vec<u32> =
                rows[range.clone()].iter().flat_map(|row| row[1..].iter().copied().chain([u32::MAX])).collect();
            inputs.push((
                range,
                readout.norm(gpu, model.config(), &x)?,
                gpu.upload_u32(&targets)?,
                gpu.loss_state(x.rows())?,
            ));
        }
        each_part(gpu, &ends.head, memory.part_bytes, |first, part| {
            inputs.iter().try_for_each(|(_, input, targets, state)| {
                readout.logits(gpu, input, first, part, |first, logits| gpu.loss(logits, first, targets, state))
            })
        })?;
        for (range, _, _, state) in inputs {
            let losses = gpu.loss_values(&state)?;
            let mut start = 0;
            for row in &rows[range] {
                // The last position has no target.
                let losses = &losses[start..start + row.len() - 1];
                total += losses.iter().sum::<f64>() / losses.len() as f64;
                start += row.len();
            }
            progress.advance(1)?;
        }
        Ok(())
    })?;
    let mean = total / rows.len() as f64;
    if !mean.is_finite() {
        return Err(Error::Numerical(format!("the loss is {mean}: the model's signals overflow")));
    }
    Ok(Perplexity { perplexity: mean.exp(), sequences: rows.len(), tokens: rows.iter().map(|row| row.len() - 1).sum() })
}

/// Refuses rows that nothing can be predicted of.
fn check_rows(rows: &[Vec<u32>]) -> Result<()> {
    if rows.is_empty() {
        return Err(Error::BadTokens("no tokens to evaluate on".into()));
    }
    if let Some(short) = rows.iter().position(|row| row.len() < 2) {
        return Err(Error::BadTokens(format!("row {short} has fewer than two tokens: nothing to predict")));
    }
    Ok(())
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
    each: impl FnMut(usize, Vec<f32>) -> Result<()>,
) -> Result<()> {
    logits_within(gpu, model, rows, &EvalMemory::default(), progress, each)
}

/// As [`logits`], within limits.
///
/// # Errors
/// As [`logits`].
pub fn logits_within(
    gpu: &Gpu,
    model: &Model,
    rows: &[Vec<u32>],
    memory: &EvalMemory,
    progress: &dyn Progress,
    mut each: impl FnMut(usize, Vec<f32>) -> Result<()>,
) -> Result<()> {
    let vocab = model.config().vocab_size;
    let ends = model.store.ends()?;
    let readout = Readout::upload(gpu, &ends)?;
    each_group(gpu, model, rows, memory, "logits", progress, |group| {
        for (range, batch, x) in group {
            let input = readout.norm(gpu, model.config(), &x)?;
            let mut values: Vec<Vec<f32>> =
                rows[range.clone()].iter().map(|row| vec![0.0; row.len() * vocab]).collect();
            each_part(gpu, &ends.head, memory.part_bytes, |first, part| {
                readout.logits(gpu, &input, first, part, |first, logits| {
                    let (slice, width) = (gpu.download(logits)?, logits.cols());
                    for (values, block) in values.iter_mut().zip(&batch.sequences) {
                        for token in 0..block.tokens {
                            let from = (block.first + token) * width;
                            let to = token * vocab + first;
                            values[to..to + width].copy_from_slice(&slice[from..from + width]);
                        }
                    }
                    Ok(())
                })
            })?;
            range.zip(values).try_for_each(|(row, values)| each(row, values))?;
            progress.advance(1)?;
        }
        Ok(())
    })
}

/// Runs all rows through all layers, and yields the batches with their last residuals, `[tokens, width]`, a group at a
/// time.
fn each_group(
    gpu: &Gpu,
    model: &Model,
    rows: &[Vec<u32>],
    memory: &EvalMemory,
    phase: &'static str,
    progress: &dyn Progress,
    mut each: impl FnMut(Vec<(Range<usize>, Batch, Matrix)>) -> Result<()>,
) -> Result<()> {
    let config = model.config();
    let ranges = plan_batches(gpu, config, rows, BatchSize { tokens: memory.batch_tokens, rows: None })?;
    progress.begin(phase, (ranges.len() * (config.layers.len() + 1)) as u64);
    let bytes =
        |range: &Range<usize>| rows[range.clone()].iter().map(Vec::len).sum::<usize>() as u64 * state_bytes(config);
    let mut remaining = ranges.as_slice();
    while !remaining.is_empty() {
        let mut held = 0;
        let count = remaining.iter().take_while(|range| {
            held += bytes(range);
            held <= memory.residual_bytes
        });
        let (group, rest) = remaining.split_at(count.count().max(1));
        remaining = rest;
        each(through(gpu, model, rows, group, memory.part_bytes, &mut NoExpertTap, progress)?)?;
    }
    Ok(())
}

/// Refuses to compare models of different vocabularies.
///
/// # Errors
/// [`Error::Usage`].
pub fn check_vocabularies(model: &Config, dense: &Config) -> Result<()> {
    let (own, other) = (model.vocab_size, dense.vocab_size);
    if own == other {
        return Ok(());
    }
    Err(Error::Usage(format!("--against: a vocabulary of {own} entries cannot be compared with one of {other}")))
}

/// How the predictions of a model agree with those of the `dense` one that it was made of, on `rows`, each a window of
/// its own; one batch of both at a time.
///
/// # Errors
/// [`Error::BadTokens`] if there are no rows, or one has fewer than two tokens; [`Error::Usage`] if the vocabularies
/// differ; whatever the models or the GPU report.
pub fn agreement(
    gpu: &Gpu,
    model: &Model,
    dense: &Model,
    rows: &[Vec<u32>],
    memory: &EvalMemory,
    phase: &'static str,
    progress: &dyn Progress,
) -> Result<Agreement> {
    check_rows(rows)?;
    check_vocabularies(model.config(), dense.config())?;
    let models = [dense, model];
    let ranges = plan_batches(gpu, dense.config(), rows, BatchSize { tokens: memory.batch_tokens, rows: None })?;
    let layers: usize = models.iter().map(|model| model.config().layers.len()).sum();
    progress.begin(phase, (ranges.len() * layers) as u64);
    let ends = [dense.store.ends()?, model.store.ends()?];
    let readouts = [Readout::upload(gpu, &ends[0])?, Readout::upload(gpu, &ends[1])?];
    let wider = |head: &HostMatrix| head.cols * head.element.size();
    let table = if wider(&ends[0].head) >= wider(&ends[1].head) { &ends[0].head } else { &ends[1].head };
    let mut sums = Agreements::default();
    for range in ranges {
        let mut inputs = Vec::new();
        for (model, readout) in models.iter().zip(&readouts) {
            let alone = std::slice::from_ref(&range);
            for (_, _, x) in through(gpu, model, rows, alone, memory.part_bytes, &mut NoExpertTap, progress)? {
                inputs.push(readout.norm(gpu, model.config(), &x)?);
            }
        }
        let rows = &rows[range];
        let targets: Vec<u32> = rows.iter().flat_map(|row| row[1..].iter().copied().chain([u32::MAX])).collect();
        let (targets, state) = (gpu.upload_u32(&targets)?, gpu.divergence_state(targets.len())?);
        for part in parts(gpu, table, table.element.size(), memory.part_bytes) {
            let heads = [ends[0].head.upload(gpu, part.clone())?, ends[1].head.upload(gpu, part.clone())?];
            let of = |which: usize| (&inputs[which], &heads[which], readouts[which].bias(part.clone()));
            let softcaps = [ends[0].logit_softcap, ends[1].logit_softcap];
            logit_slices(gpu, [of(0), of(1)], softcaps, |first, [p, q]| {
                gpu.divergence(p, q, part.start + first, &targets, &state)
            })?;
        }
        sums.add(rows.iter().map(Vec::len), &gpu.divergences(&state)?);
    }
    let means = sums.means();
    if !means.kl.is_finite() || !means.perplexity.is_finite() {
        return Err(Error::Numerical("the divergence is not finite: a model's signals overflow".into()));
    }
    Ok(means)
}
