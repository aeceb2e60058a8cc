//! How much memory a compression takes at its peak, known before it is taken.

use super::survey::SAMPLED;
use crate::{
    fit::TILE,
    model::{
        Config, Given, LOGIT_SLICE,
        architecture::{Space, Weight},
        row_bytes, signal_bytes, staging_bytes, states_bytes,
    },
    ops::{COVARIANCE_RUN, transposed_columns},
    stream::{Extent, MATRICES_AHEAD, MemoryPlan, Peak, Placement},
};

/// What compressing a model of this config takes, whatever is cut of it; `written` is the bytes of its tensors, `rope`
/// the size of the table of rotary angles, `element_size` that of a stored value.
pub fn peak(
    memory: &MemoryPlan,
    config: &Config,
    written: u64,
    calibration: &Extent,
    rope: u64,
    element_size: usize,
) -> Peak {
    let (full, d) = (row_bytes(config.hidden_size), config.hidden_size as u64);
    let tokens = memory.batch_tokens(calibration);
    // The dense model's, that before a step, the smaller one's; of mixtures, that after a step, too.
    let residuals = if config.is_mixture() { 4 } else { 3 };
    let residual = calibration.tokens as u64 * residuals * full;
    let on_gpu = memory.placement == Placement::Gpu;
    // What all experts read of a token.
    let normed = if config.is_mixture() { full } else { 0 };
    let together = if on_gpu { calibration.tokens as u64 } else { tokens };
    let held = together * (residuals * full + normed);
    let signal = if on_gpu { 0 } else { staging_bytes(tokens * full) };
    let (square, rotation) = (d * full, 3 * d * full);
    let table = memory.part_bytes.min(config.vocab_size as u64 * full);
    let run = transposed_columns(tokens.min(COVARIANCE_RUN as u64) as usize) as u64;
    let sums = 3 * square + tokens * full + run * full;
    // Both models' logits of a slice of the vocabulary, and what they are made of.
    let heads = 2 * table + tokens * (4 * full + 2 * 4 * LOGIT_SLICE.min(config.vocab_size) as u64);
    let ends =
        (table + staging_bytes(table).max(tokens * full + signal).max(rotation + 2 * table).max(sums)).max(heads);
    let (mut gpu, mut largest, mut fused, mut unknowns) = (ends, 0, 0, d);
    let layers = config.kinds_of_layers();
    for (layer, step) in layers.into_iter().flat_map(|layer| config.layer_steps(layer).map(move |step| (layer, step))) {
        let shapes = || step.weights().map(|weight| (weight, config.weight_shape(weight, layer)));
        let bytes = |(rows, cols): (usize, usize)| rows as u64 * row_bytes(cols);
        // Of a mixture, one expert at a time.
        let experts: Vec<Vec<(&Weight, (usize, usize))>> =
            if step.is_mixture() { config.kinds_of_experts(layer) } else { Vec::new() };
        let of = |expert: &Vec<(&Weight, (usize, usize))>| expert.iter().map(|(_, shape)| bytes(*shape)).sum();
        let expert: u64 = experts.iter().map(of).max().unwrap_or(0);
        let whole = expert + shapes().map(|(_, shape)| bytes(shape)).sum::<u64>();
        let all = || shapes().chain(experts.iter().flatten().copied());
        let most = all().map(|(_, shape)| bytes(shape)).max().unwrap_or(0);
        let writes = |(weight, _): &(&Weight, (usize, usize))| weight.writes == Space::Residual;
        let read = shapes().filter(writes).map(|(_, (_, cols))| cols as u64).sum::<u64>();
        let inner = read
            .max(experts.iter().flatten().copied().filter(writes).map(|(_, (_, cols))| cols as u64).max().unwrap_or(0));
        unknowns = unknowns.max(inner);
        let tile = TILE as u64;
        let widest = inner.max(d).min(tile);
        let tiles = 3 * 4 * widest * widest + 4 * run * 2 * widest;
        let signals = tokens * (signal_bytes(config, layer, step, config.hidden_size, config.hidden_size) + 3 * full)
            + states_bytes(config);
        // What an expert reads and is fitted to is gathered.
        let gathered = if step.is_mixture() { 4 * full } else { 0 };
        let regressed = tokens * (4 * inner + gathered) + tiles;
        // The dense weights, those of the smaller model, and a copy of the largest while it is moved or picked from.
        gpu = gpu.max(rotation + 2 * whole + staging_bytes(most).max(most).max(signals + regressed));
        largest = largest.max(most);
        fused = fused.max(
            shapes().filter(|(weight, _)| weight.holds.len() > 1).map(|(_, shape)| bytes(shape)).max().unwrap_or(0),
        );
    }
    let matrix = MATRICES_AHEAD * largest + largest + (largest / 4 * element_size as u64).max(largest) + 2 * fused;
    // The sums and the inverse in f64, what is solved for and its copy, and copies of what is fitted in f32.
    let fit = 2 * 8 * unknowns * unknowns + 8 * 3 * d * unknowns + 3 * 4 * d * unknowns;
    let basis = 16 * 8 * d * d;
    let samples = (config.layers.len() as u64 + 1) * SAMPLED as u64 * full;
    let chosen = config.layers.iter().filter_map(|layer| layer.experts).map(|experts| 1 + experts.chosen).max();
    let routes = calibration.tokens as u64 * (chosen.unwrap_or(0) * 2 * size_of::<Given>()) as u64;
    let host =
        routes + matrix.max(fit).max(basis).max(3 * table).max(tokens * full + 3 * square) + 4 * 8 * d * d + samples;
    Peak {
        gpu: held + rope + gpu,
        upload: largest.max(table).max(if on_gpu { 0 } else { tokens * full }),
        host: host + if memory.placement == Placement::Host { residual } else { 0 },
        disk: written + 2 * residual + 32 * d * d + samples,
    }
}
