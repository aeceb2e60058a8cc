//! How much memory a compression takes at its peak, known before it is taken.

use crate::{
    fit::TILE,
    model::{Config, architecture::Space, row_bytes, signal_bytes, staging_bytes, states_bytes},
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
    let residual = calibration.tokens as u64 * 3 * full;
    let on_gpu = memory.placement == Placement::Gpu;
    let held = if on_gpu { residual } else { tokens * 3 * full };
    let signal = if on_gpu { 0 } else { staging_bytes(tokens * full) };
    let (square, rotation) = (d * full, 3 * d * full);
    let table = memory.part_bytes.min(config.vocab_size as u64 * full);
    let run = transposed_columns(tokens.min(COVARIANCE_RUN as u64) as usize) as u64;
    let sums = 3 * square + tokens * full + run * full;
    // Both models' logits of a slice of the vocabulary, and what they are made of.
    let heads = 2 * table + tokens * (4 * full + 2 * 4 * 8192.min(config.vocab_size) as u64);
    let ends =
        (table + staging_bytes(table).max(tokens * full + signal).max(rotation + 2 * table).max(sums)).max(heads);
    let (mut gpu, mut largest, mut fused, mut unknowns) = (ends, 0, 0, d);
    let layers = config.kinds_of_layers();
    for (layer, step) in layers.into_iter().flat_map(|layer| config.layer_steps(layer).map(move |step| (layer, step))) {
        let shapes = || step.weights().map(|weight| (weight, config.weight_shape(weight, layer)));
        let bytes = |(rows, cols): (usize, usize)| rows as u64 * row_bytes(cols);
        let whole: u64 = shapes().map(|(_, shape)| bytes(shape)).sum();
        let most = shapes().map(|(_, shape)| bytes(shape)).max().unwrap_or(0);
        let read = shapes().filter(|(weight, _)| weight.writes == Space::Residual).map(|(_, (_, cols))| cols as u64);
        let inner: u64 = read.sum();
        unknowns = unknowns.max(inner);
        let tile = TILE as u64;
        let widest = inner.max(d).min(tile);
        let tiles = 3 * 4 * widest * widest + 4 * run * 2 * widest;
        let signals = tokens * (signal_bytes(config, layer, step, config.hidden_size, config.hidden_size) + 3 * full)
            + states_bytes(config);
        let regressed = tokens * 4 * inner + tiles;
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
    let samples = (config.layers.len() as u64 + 1) * 256 * full;
    let host = matrix.max(fit).max(basis).max(3 * table).max(tokens * full + 3 * square) + 4 * 8 * d * d + samples;
    Peak {
        gpu: held + rope + gpu,
        upload: largest.max(table).max(if on_gpu { 0 } else { tokens * full }),
        host: host + if memory.placement == Placement::Host { residual } else { 0 },
        disk: written + 2 * residual + 32 * d * d + samples,
    }
}
