//! What is trained, what is done of that, and where it lies meanwhile.

use std::{fs, time::Instant};

use serde::{Deserialize, Serialize};

use super::options::Options;
use crate::{
    checkpoint::{OutputDirectory, TensorPlan},
    error::{Error, Result},
    model::{Config, LowRank, Model},
    progress::Progress,
    stream::{Checksum, MemoryPlan, Saved, located},
};

/// What to train, and how.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub model: &'a Model,
    /// What is imitated, where something is.
    pub teacher: Option<&'a Model>,
    /// Which of the teacher's layers the model still has, in order; all if `None`.
    pub stay: Option<&'a [usize]>,
    pub rows: &'a [Vec<u32>],
    /// Which tokens of each sequence count where they are predicted; all if `None`.
    pub counted: Option<&'a [Vec<bool>]>,
    pub options: &'a Options,
    pub memory: MemoryPlan,
    /// Every tensor that is written.
    pub tensors: &'a [TensorPlan],
    /// Where the tensors go, and, beside them, what is needed to resume.
    pub directory: &'a OutputDirectory,
    pub progress: &'a dyn Progress,
}

/// What is done and durable.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Steps of the optimiser that are over; of all layers together.
    pub steps: usize,
    /// Where the parameters lie and what they come to.
    pub saved: Vec<Saved>,
    /// What was to become small, step by step.
    pub losses: Vec<f32>,
    /// The same on sequences that are not trained on, after this many steps.
    pub validation: Vec<(usize, f32)>,
    /// Where the loss on these sequences was smallest, which is what is written.
    pub best: Option<Best>,
    /// Whether all of the model is written.
    pub done: bool,
}

/// The step after which the loss on sequences that are not trained on was smallest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: usize,
    pub loss: f32,
    /// Where the parameters lie.
    pub saved: Saved,
}

/// What came of it.
pub struct Recovered {
    pub snapshot: Snapshot,
    /// A and B, where the work came to its end and there are any.
    pub low_rank: Vec<LowRank>,
}

/// At most this many sequences are not trained on but measured; one in twenty of all, and one of those that are fewer
/// but as many as [`SPARED`].
pub(super) const VALIDATION: usize = 32;
const SHARE: usize = 20;
const SPARED: usize = 10;
/// How often a user is told where training is.
const REPORTS: usize = 20;

fn held(rows: usize) -> usize {
    (rows / SHARE).max(usize::from(rows >= SPARED)).min(VALIDATION)
}

impl<'a> Job<'a> {
    pub(super) fn config(&self) -> &'a Config {
        self.model.config()
    }

    /// How many of the sequences, at the end, are not trained on.
    pub(super) fn held(&self) -> usize {
        if self.options.eval_every == 0 { 0 } else { held(self.rows.len()) }
    }

    /// Says in an error of numbers in which step it came, and what to do.
    pub(super) fn at<T>(&self, step: usize, found: Result<T>) -> Result<T> {
        let Options { learning_rate: rate, rate_flag: flag, .. } = *self.options;
        let other = if flag == Options::RATE { ", or raise --warmup" } else { "" };
        let found = found.map_err(|error| match error {
            Error::Numerical(reason) => Error::Numerical(format!("{reason}; lower {flag} {rate}{other}")),
            other => other,
        });
        located(format!("step {} of training", step + 1), found)
    }

    /// Makes values durable in one of the files beside the output.
    pub(super) fn save(&self, number: usize, values: &[f32]) -> Result<Saved> {
        let mut checksum = Checksum::default();
        checksum.add(values);
        self.directory.write_beside(&format!("training.{number}"), bytemuck::cast_slice(values))?;
        Ok(Saved { file: number, checksum: checksum.value() })
    }

    /// Reads them back.
    pub(super) fn load(&self, saved: Saved) -> Result<Vec<f32>> {
        let path = self.directory.beside(&format!("training.{}", saved.file));
        let bytes = fs::read(&path).map_err(Error::kept(&path, Error::read(&path)))?;
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes[..bytes.len() / 4 * 4]);
        let mut checksum = Checksum::default();
        checksum.add(&values);
        if checksum.value() != saved.checksum {
            return Err(Error::bad_file(&path, "not what was written there; --force starts over"));
        }
        Ok(values)
    }
}

/// How fast training is.
pub(super) struct Pace {
    began: Instant,
    first: usize,
    tokens: usize,
}

impl Pace {
    pub fn new(first: usize) -> Self {
        Self { began: Instant::now(), first, tokens: 0 }
    }

    pub fn add(&mut self, tokens: usize) {
        self.tokens += tokens;
    }

    /// Tells, a few times in all.
    pub fn tell(&self, progress: &dyn Progress, now: &Snapshot, steps: usize) {
        let every = steps.div_ceil(REPORTS).max(1);
        if !(now.steps.is_multiple_of(every) || now.steps == steps) {
            return;
        }
        let seconds = self.began.elapsed().as_secs_f64().max(1e-9);
        let recent = &now.losses[now.losses.len().saturating_sub(every)..];
        let loss = recent.iter().map(|loss| f64::from(*loss)).sum::<f64>() / recent.len().max(1) as f64;
        let left = seconds / (now.steps - self.first).max(1) as f64 * (steps - now.steps) as f64;
        let validation = match now.validation.last() {
            Some((at, loss)) if *at == now.steps => format!(", held out {loss:.4}"),
            _ => String::new(),
        };
        progress.say(&format!(
            "step {} of {steps}: loss {loss:.4}{validation}, {:.0} tokens/s, about {left:.0} s left",
            now.steps,
            self.tokens as f64 / seconds
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sequence_in_twenty_is_held_out_and_one_of_ten() {
        let all = [(1, 0), (9, 0), (10, 1), (39, 1), (40, 2), (639, 31), (640, 32), (100_000, 32)];
        assert!(all.iter().all(|&(rows, expected)| held(rows) == expected));
    }
}
