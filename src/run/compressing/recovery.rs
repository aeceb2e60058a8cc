//! Training what a compression has made, towards the model that it was made of.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    super::recovering::{RecoverReport, RecoverRequest},
    request::CompressRequest,
};
use crate::{
    checkpoint::{OutputDirectory, TensorPlan},
    compress::{self, Axis},
    error::{Error, Result},
    gpu::Gpu,
    model::{Config, Model},
    progress::Progress,
    recover::{self, Mode, Options, Snapshot},
    stream::{Extent, MemoryPlan, Passed, Peak, Speed, Types},
};

/// What is done and durable of a compression, and of the training after it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CompressSnapshot {
    /// How far the gradients of `--importance taylor` are, while they are under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradients: Option<Passed>,
    /// The ranking that `--importance taylor` has made: which heads and channels leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranking: Option<Vec<compress::Ranking>>,
    #[serde(flatten)]
    pub cut: compress::Snapshot,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Snapshot>,
}

/// Tokens of a sequence that is trained on: calibration sequences are cut into such.
const LENGTH: usize = 256;
/// What the learning rate is called here.
const RATE: &str = "--recover-learning-rate";

/// How what is cut is trained: as was asked for, or layer by layer where its width is whole, else by distillation.
#[derive(Debug, Clone)]
pub(super) struct Recovery {
    request: RecoverRequest,
    seed: u64,
    dtype: Types,
}

/// What was cut, and what it is trained with.
pub(super) struct Made<'a> {
    pub dense: &'a Model,
    /// Which of its layers are left.
    pub stay: &'a [usize],
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
    /// Where it was asked for.
    pub fn new(request: &CompressRequest, seed: u64, dtype: &Types) -> Option<Self> {
        let CompressRequest { recover, recover_mode: mode, recover_learning_rate: learning_rate, .. } = *request;
        let steps = recover?;
        let save_every = steps.div_ceil(10).min(RecoverRequest::default().save_every);
        let request = RecoverRequest { steps, mode, learning_rate, save_every, ..RecoverRequest::default() };
        Some(Self { request, seed, dtype: dtype.clone() })
    }

    /// The options for a model of this config, cut from another of whose layers these stay.
    pub fn options(&self, config: &Config, dense: &Config, stay: &[usize]) -> Options {
        let options = self.request.options(config, (Some(dense), Some(stay)), self.seed, self.dtype.clone());
        Options { rate_flag: RATE, ..options }
    }

    /// All that they may turn out to be, for a model of which nothing is cut yet.
    fn possible(&self, config: &Config) -> Vec<Options> {
        let all: Vec<usize> = (0..config.layers.len()).collect();
        let modes = self.request.mode.map_or_else(|| vec![Mode::Blocks, Mode::Distil], |mode| vec![mode]);
        let of = |mode| {
            let request = RecoverRequest { mode: Some(mode), ..self.request.clone() };
            Self { request, ..self.clone() }.options(config, config, &all)
        };
        modes.into_iter().map(of).collect()
    }

    /// Checks that a model of this config can be trained once it is cut on some of these axes.
    ///
    /// # Errors
    /// As [`Options::check`]; [`Error::Usage`] if it may lose what the layers are compared by.
    pub fn check(&self, config: &Config, axes: &[Axis]) -> Result<()> {
        if self.request.mode == Some(Mode::Blocks) && axes.contains(&Axis::Width) {
            let others: Vec<String> = axes.iter().filter(|axis| **axis != Axis::Width).map(Axis::to_string).collect();
            return Err(Error::Usage(format!(
                "--recover-mode blocks compares layers of one width, and the width may be cut: say --axes {}, or \
                 --recover-mode distil",
                if others.is_empty() { "mlp".into() } else { others.join(",") }
            )));
        }
        self.possible(config).iter().try_for_each(|options| options.check(config))
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
        let Made { dense, stay, draft, rows, memory, tensors, directory, progress } = made;
        let cut = Model::open(draft.path())?;
        let options = self.options(cut.config(), dense.config(), stay);
        options.check(cut.config())?;
        let pieces = rows.iter().flat_map(|row| row.chunks(LENGTH)).filter(|piece| piece.len() > 1);
        let rows: Vec<Vec<u32>> = pieces.map(<[u32]>::to_vec).collect();
        let job = recover::Job {
            model: &cut,
            teacher: (options.mode != Mode::Lora).then_some(dense),
            stay: Some(stay),
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

    /// One for each step, where layers are trained one by one, and one more, as the model is written after all steps.
    pub fn passes(&self) -> usize {
        self.request.steps + 1
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
        let of = |options: &Options| {
            let teacher = (options.mode != Mode::Lora).then_some(config);
            options.peak(memory, (config, teacher), written, &pieces, rope, element_size)
        };
        self.possible(config).iter().map(of).reduce(Peak::max).unwrap_or_default()
    }

    /// How long it takes, about.
    pub fn seconds(&self, speed: &Speed, config: &Config, tokens: usize) -> f64 {
        let possible = self.possible(config).into_iter();
        possible.map(|options| options.seconds(speed, config, tokens.min(LENGTH))).fold(0.0, f64::max)
    }

    /// What it says of a result of this config, cut from another of whose layers these stay.
    pub fn report(&self, config: &Config, dense: &Config, stay: &[usize], found: Option<&Snapshot>) -> RecoverReport {
        RecoverReport::new(config, &self.options(config, dense, stay), found)
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let towards = if self.request.mode == Some(Mode::Lora) { "on the calibration" } else { "towards the original" };
        write!(formatter, "{} steps of training {towards}", self.request.steps)
    }
}
