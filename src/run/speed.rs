//! How fast a model and what was made of it run, where the whole of either fits the GPU.

use serde::Serialize;

use super::{memory::RunPlan, units::bytes};
use crate::{
    error::{Error, Result},
    generate::{PACED_STEPS, Pace, sampling_bytes},
    gpu::Gpu,
    model::Model,
    progress::Progress,
};

/// Tokens that are taken in, at most, and at least.
const PROMPT: usize = 256;
const LEAST: usize = 16;

/// Tokens in a second, before and after.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SpeedReport {
    pub before: Pace,
    pub after: Pace,
}

impl SpeedReport {
    /// Of a model and what was made of it, on tokens of these sequences; `None`, with a word, where that does not fit.
    ///
    /// # Errors
    /// Whatever the GPU reports, but too little memory.
    pub fn measure(
        gpu: &Gpu,
        [before, after]: [&Model; 2],
        rows: &[Vec<u32>],
        memory: &RunPlan,
        progress: &dyn Progress,
    ) -> Result<Option<Self>> {
        let skipped = |reason: String| {
            progress.note(&format!("how fast the models run is not measured: {reason}"));
            Ok(None)
        };
        let positions = [before, after].map(|model| model.config().max_position_embeddings);
        let room = positions[0].min(positions[1]).saturating_sub(PACED_STEPS + 1);
        let tokens: Vec<u32> = rows.iter().flatten().copied().take(PROMPT.min(room)).collect();
        if tokens.len() < LEAST {
            return skipped(format!("{LEAST} tokens and {PACED_STEPS} more do not fit"));
        }
        let needed = sampling_bytes(before, 1, tokens.len() + PACED_STEPS + 1);
        if let Some(most) = memory.gpu_ceiling().filter(|&most| needed > most) {
            let (needed, most) = (bytes(needed), bytes(most));
            return skipped(format!("all weights at once take {needed} on the GPU, of which it may take {most}"));
        }
        let measured = Pace::measure(gpu, before, &tokens)
            .and_then(|before| Ok(Self { before, after: Pace::measure(gpu, after, &tokens)? }));
        match measured {
            Err(error @ Error::OutOfMemory(_)) => skipped(error.to_string()),
            measured => measured.map(Some),
        }
    }

    /// Rows of the table: what, before, after, change.
    pub fn rows(&self) -> [[String; 4]; 2] {
        let row = |what: &str, of: fn(&Pace) -> f64| {
            let (before, after) = (of(&self.before), of(&self.after));
            let change = format!("{:+.2} %", 100.0 * (after / before - 1.0));
            [what.to_owned(), format!("{before:.1}"), format!("{after:.1}"), change]
        };
        [
            row("prefill tokens/s", |pace| pace.prefill_tokens_per_second),
            row("decode tokens/s", |pace| pace.decode_tokens_per_second),
        ]
    }
}
