//! How much memory slicing takes at its peak, known before it is taken.

use super::{
    options::{Options, Refit},
    plan::Plan,
};
use crate::{
    fit::TILE,
    model::{
        Config, Step,
        architecture::{Role, Space},
        row_bytes, signal_bytes, staging_bytes, states_bytes,
    },
    ops::{COVARIANCE_RUN, transposed_columns},
    stream::{Extent, MATRICES_AHEAD, MemoryPlan, Peak, Placement},
};

impl MemoryPlan {
    /// What slicing a model of this config takes; `element_size` is that of its stored weights.
    pub fn peak(
        &self,
        config: &Config,
        plan: &Plan,
        options: &Options,
        calibration: &Extent,
        rope: u64,
        element_size: usize,
    ) -> Peak {
        if options.is_paper() {
            self.peak_of_paper(config, plan, calibration, rope, element_size)
        } else {
            self.peak_refitted(config, plan, options, calibration, rope, element_size)
        }
    }

    /// Where the dense model runs first, or beside the sliced one.
    fn peak_refitted(
        &self,
        config: &Config,
        plan: &Plan,
        options: &Options,
        calibration: &Extent,
        rope: u64,
        element_size: usize,
    ) -> Peak {
        let (full, width) = (row_bytes(config.hidden_size), row_bytes(plan.width));
        let (d, kept) = (config.hidden_size as u64, plan.width as u64);
        let tokens = self.batch_tokens(calibration);
        let beside = if options.refits() { full.max(width) } else { 0 };
        let residual = calibration.tokens as u64 * (full + beside);
        let on_gpu = self.placement == Placement::Gpu;
        let held = if on_gpu { residual } else { tokens * (full + beside) };
        let signal = if on_gpu { 0 } else { staging_bytes(tokens * full) };
        let (square, rotation) = (d * full, d * width + kept * full);
        let table = self.part_bytes.min(config.vocab_size as u64 * full);
        // As below.
        let run = transposed_columns(tokens.min(COVARIANCE_RUN as u64) as usize) as u64;
        let transposed = run * full;
        let sums = 3 * square + tokens * full + transposed;
        // The residuals of a batch, normed, and those of the dense model in the others' coordinates.
        let factor = if plan.tied && options.refits() { tokens * (2 * full + 3 * width) } else { 0 };
        let ends =
            table + staging_bytes(table).max(tokens * full + signal).max(rotation + (2 * table).max(factor)).max(sums);
        let (mut gpu, mut largest, mut fused, mut unknowns) = (ends, 0, 0, 0);
        let states = states_bytes(config);
        // The last layer may hand on more than the others.
        let layers = config.kinds_of_layers().into_iter().chain([config.layers.len() - 1]);
        let steps = layers.flat_map(|layer| config.layer_steps(layer).map(move |step| (layer, step)));
        for (layer, step) in steps {
            let Weights { largest: most, cut, fused: together, .. } = weights(config, plan, layer, step);
            let bytes = |config: &Config| -> u64 {
                let shapes = step.weights().map(|weight| config.weight_shape(weight, layer));
                shapes.map(|(rows, cols)| rows as u64 * row_bytes(cols)).sum()
            };
            let (whole, sliced) = (bytes(config), bytes(&plan.config));
            let dense_signals =
                tokens * (signal_bytes(config, layer, step, config.hidden_size, config.hidden_size) + full) + states;
            let finding = if options.passes() > 1 {
                whole + staging_bytes(most).max(dense_signals.max(tokens * full + sums))
            } else {
                0
            };
            let writes = step.weights().filter(|weight| weight.writes == Space::Residual);
            let read = writes.map(|weight| config.weight_shape(weight, layer).1 as u64);
            let (inner, widest) = read.fold((0, kept), |(sum, widest), width| (sum + width, widest.max(width)));
            unknowns = unknowns.max(inner + if plan.config.shortcut_parameters() > 0 { d } else { 0 });
            let tile = TILE as u64;
            // One that is summed, and one that is read back; and the tokens of its rows and columns, transposed.
            let tiles = |rows: u64, cols: u64| {
                3 * 4 * rows.min(tile) * cols.min(tile) + 4 * run * (rows.min(tile) + cols.min(tile))
            };
            let covariance = if options.passes() == 1 { tokens * full + sums } else { 0 };
            let fitting_reads = whole + (tokens * (full + width) + tiles(d, kept)).max(dense_signals).max(covariance);
            let sliced_signals = tokens * (signal_bytes(config, layer, step, plan.width, plan.width) + width) + states;
            let regressed = tokens * (4 * inner + if unknowns > inner { width } else { 0 }) + tiles(widest, widest);
            let fitting_writes = sliced
                + if options.refit == Refit::Full {
                    tokens * width + sliced_signals.max(regressed)
                } else {
                    sliced_signals
                };
            let refitting = if options.refits() { fitting_reads.max(fitting_writes) } else { 0 };
            let rotations =
                rotation * if options.passes() == 1 { 2 } else { 1 } + if options.refits() { kept * full } else { 0 };
            gpu = gpu.max(finding).max(rotations + refitting.max(whole + staging_bytes(most).max(2 * cut)));
            largest = largest.max(most);
            fused = fused.max(together);
        }
        let matrix = MATRICES_AHEAD * largest + largest + (largest / 4 * element_size as u64).max(largest) + 2 * fused;
        // Sums in f64, and a few copies of what is fitted in f32; of a basis, its sums and the matrices of three
        // eigenproblems.
        let fit =
            if options.refits() { 8 * unknowns * unknowns + 5 * 4 * kept * unknowns + 6 * 4 * d * kept } else { 0 };
        let basis = if options.passes() > 1 { 16 * 8 * d * d } else { 10 * 8 * d * d };
        let host = matrix.max(fit).max(basis).max(3 * table).max(tokens * full + 3 * square);
        Peak {
            gpu: held + rope + gpu,
            upload: largest.max(table).max(if on_gpu { 0 } else { tokens * full }),
            host: host + if self.placement == Placement::Host { residual } else { 0 },
            disk: plan.byte_len() + 2 * (residual + 4 * square),
        }
    }

    fn peak_of_paper(
        &self,
        config: &Config,
        plan: &Plan,
        calibration: &Extent,
        rope: u64,
        element_size: usize,
    ) -> Peak {
        let (full, width) = (row_bytes(config.hidden_size), row_bytes(plan.width));
        let d = config.hidden_size as u64;
        let tokens = self.batch_tokens(calibration);
        let residual = calibration.tokens as u64 * full;
        let square = d * full;
        // Q[:, :d] and its transpose; the last one is not cut.
        let rotation = d * full + d * full.max(width);
        let held = if self.placement == Placement::Gpu { residual } else { tokens * full };
        let table = self.part_bytes.min(config.vocab_size as u64 * full);
        // Beside the residual of a batch where that is not on the GPU anyway: uploaded and added, or rotated and read
        // back.
        let signal = if self.placement == Placement::Gpu { 0 } else { staging_bytes(tokens * full) };
        let ends = table + (staging_bytes(table).max(tokens * full + signal)).max(rotation / 2 + 2 * table);
        // The covariance of a batch is read back while the next one runs, from tokens that are transposed beside them.
        let transposed = transposed_columns(tokens.min(COVARIANCE_RUN as u64) as usize) as u64 * full;
        let sums = 3 * square + tokens * full + transposed;
        let layer = (0..config.layers.len()).flat_map(|layer| config.layer_steps(layer).map(move |step| (layer, step)));
        let (mut gpu, mut largest, mut fused) = (ends.max(tokens * full + sums), 0, 0);
        for (layer, step) in layer {
            let Weights { loading, kept, written, largest: most, cut, fused: together } =
                weights(config, plan, layer, step);
            let signals = tokens
                * (signal_bytes(config, layer, step, plan.width, config.hidden_size).max(full + width) + full)
                + states_bytes(config);
            // Read back, or cut and read back.
            let running = kept + (signals + signal + square).max(sums).max(cut + square);
            let after = written + rotation + 2 * cut;
            gpu = gpu.max(rotation + (loading + staging_bytes(most)).max(running).max(after));
            largest = largest.max(most);
            fused = fused.max(together);
        }
        // As f32, and read, converted or transposed beside that.
        let matrix = MATRICES_AHEAD * largest + largest + (largest / 4 * element_size as u64).max(largest) + 2 * fused;
        let eigen = 10 * 8 * d * d;
        let host = matrix.max(eigen).max(3 * table).max(tokens * full + 3 * square);
        Peak {
            gpu: held + rope + gpu,
            upload: largest.max(table).max(if self.placement == Placement::Gpu { 0 } else { tokens * full }),
            host: host + if self.placement == Placement::Host { residual } else { 0 },
            disk: plan.byte_len() + 2 * (residual + square),
        }
    }
}

/// Bytes of the f32 weights of a step.
#[derive(Default)]
struct Weights {
    /// The most while they are loaded, one after the other.
    loading: u64,
    /// Of all that are on the GPU while it runs.
    kept: u64,
    /// Of those that write the residual.
    written: u64,
    /// Of the largest one before it is cut, and after.
    largest: u64,
    cut: u64,
    /// Of the largest stored tensor that is put together from several.
    fused: u64,
}

fn weights(config: &Config, plan: &Plan, layer: usize, step: Step) -> Weights {
    let bytes = |config: &Config, role: Role| {
        let (rows, cols) = config.linear_shape(role, layer);
        rows as u64 * row_bytes(cols)
    };
    let mut sums = Weights::default();
    for (weight, role) in step.linears() {
        let (whole, cut) = (bytes(config, role), bytes(&plan.config, role));
        if weight.writes == Space::Residual {
            sums.written += whole;
            sums.kept += whole;
            sums.loading = sums.loading.max(sums.kept);
        } else {
            sums.loading = sums.loading.max(sums.kept + whole + cut);
            sums.kept += cut;
        }
        sums.largest = sums.largest.max(whole);
        sums.cut = sums.cut.max(cut);
        if weight.holds.len() > 1 {
            sums.fused = sums.fused.max(weight.holds.iter().map(|role| bytes(config, *role)).sum());
        }
    }
    sums
}
