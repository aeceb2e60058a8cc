//! Training what a compression has made, towards the model that it was made of.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::recovering::{RecoverReport, RecoverRequest};
use crate::{
    checkpoint::{OutputDirectory, TensorPlan},
    compress,
    error::Result,
    gpu::Gpu,
    model::{Config, Model},
    progress::Progress,
    recover::{self, Mode, Options, Snapshot},
    stream::{Extent, MemoryPlan, Peak, Speed, Types},
};

/// What is done and durable of a compression, and of the training after it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CompressSnapshot {
    /// What heads and channels leave by, where that is no matter of the cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranking: Option<Vec<compress::Ranking>>,
    #[serde(flatten)]
    pub cut: compress::Snapshot,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Snapshot>,
}

/// Tokens of a sequence that is trained on: calibration sequences are cut into such.
const LENGTH: usize = 256;

/// How what is cut is trained: by distillation, of what was best at equal time.
#[derive(Debug, Clone)]
pub(super) struct Recovery {
    request: RecoverRequest,
    seed: u64,
    dtype: Types,
}

/// What was cut, and what it is trained with.
pub(super) struct Made<'a> {
    pub dense: &'a Model,
    /// Where what was cut lies.
    pub draft: &'a OutputDirectory,
    pub rows: &'a [Vec<u32>],
    pub memory: MemoryPlan,
    /// Every tensor that is written.
    pub tensors: &'a [TensorPlan],
    pub directory: &'a OutputDirectory,
    pub progress: &'a dyn Progress,
}

impl Recovery {
    pub fn new(steps: usize, seed: u64, dtype: &Types) -> Self {
        let save_every = steps.div_ceil(10).min(RecoverRequest::default().save_every);
        let request = RecoverRequest { mode: Some(Mode::Distil), steps, save_every, ..RecoverRequest::default() };
        Self { request, seed, dtype: dtype.clone() }
    }

    /// The options for a model of this config.
    pub fn options(&self, config: &Config) -> Options {
        self.request.options(config.hidden_size, self.seed, self.dtype.clone())
    }

    /// Trains, or resumes after `from`.
    ///
    /// # Errors
    /// As [`recover::Job::run`].
    pub fn run(
        &self,
        gpu: &Gpu,
        made: Made,
        from: Option<&Snapshot>,
        commit: &mut dyn FnMut(&Snapshot) -> Result<bool>,
    ) -> Result<Snapshot> {
        let Made { dense, draft, rows, memory, tensors, directory, progress } = made;
        let cut = Model::open(draft.path())?;
        let options = self.options(cut.config());
        options.check(cut.config())?;
        let pieces = rows.iter().flat_map(|row| row.chunks(LENGTH)).filter(|piece| piece.len() > 1);
        let rows: Vec<Vec<u32>> = pieces.map(<[u32]>::to_vec).collect();
        let job = recover::Job {
            model: &cut,
            teacher: Some(dense),
            rows: &rows,
            counted: None,
            options: &options,
            memory,
            tensors,
            directory,
            progress,
        };
        Ok(job.run(gpu, from, commit)?.snapshot)
    }

    /// How often the steps make as many as there are layers, and once more, so that all steps are not all there is.
    pub fn passes(&self, layers: usize) -> usize {
        self.request.steps / layers.max(1) + 1
    }

    /// The most memory that training takes, where what is left of a model of this config may be all of it.
    pub fn peak(
        &self,
        memory: &MemoryPlan,
        config: &Config,
        written: u64,
        calibration: &Extent,
        rope: u64,
        element_size: usize,
    ) -> Peak {
        let pieces = Extent { longest: calibration.longest.min(LENGTH), ..*calibration };
        self.options(config).peak(memory, (config, Some(config)), written, &pieces, rope, element_size)
    }

    /// How long it takes, about.
    pub fn seconds(&self, speed: &Speed, config: &Config, tokens: usize) -> f64 {
        self.options(config).seconds(speed, config, tokens.min(LENGTH))
    }

    /// What it says of a result of this config.
    pub fn report(&self, config: &Config, found: Option<&Snapshot>) -> RecoverReport {
        RecoverReport::new(config, &self.options(config), found)
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{} steps of {}", self.request.steps, Mode::Distil)
    }
}
