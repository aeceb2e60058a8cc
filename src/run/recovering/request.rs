//! How recovery is asked for.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::super::{examples::LossOn, paths::as_shown_if};
use crate::{
    model::Config,
    recover::{Mode, Options, Schedule, Target, Trained, check_teacher},
    stream::Types,
};

/// How to train. Serialised, the fields have the names of the flags.
#[derive(Debug, Clone, Serialize)]
pub struct RecoverRequest {
    /// If `None`: where there is a teacher, blocks if they can be compared and distillation if not; else LoRA on text.
    pub mode: Option<Mode>,
    /// The model that is imitated.
    #[serde(serialize_with = "as_shown_if")]
    pub teacher: Option<PathBuf>,
    /// Steps of the optimiser; in blocks, of each layer.
    pub steps: usize,
    /// Sequences of a step.
    pub batch_size: usize,
    /// What is usual for what is trained, if `None`.
    pub learning_rate: Option<f64>,
    pub schedule: Schedule,
    /// The share of the steps in which the learning rate rises.
    pub warmup: f64,
    pub weight_decay: f64,
    /// The longest that all gradients together may be; no limit if 0.
    pub max_grad_norm: f64,
    pub lora_r: usize,
    pub lora_alpha: f64,
    pub lora_dropout: f64,
    /// The linear weights that get A and B; all if `None`.
    pub targets: Option<Vec<Target>>,
    /// What is trained besides, or instead.
    #[serde(serialize_with = "as_names")]
    pub train: Vec<Extra>,
    /// Of predictions, in distillation.
    pub temperature: f64,
    /// Which tokens of questions and their answers count: where `None`, those of the answers alone, or all with
    /// [`Mode::Blocks`].
    pub loss_on: Option<LossOn>,
    /// Steps between two measurements on sequences that are not trained on; a tenth of all if `None`, never if 0.
    pub eval_every: Option<usize>,
    /// Steps between two points that a run can be resumed from.
    pub save_every: usize,
    /// The directory that A and B go to, as a PEFT adapter.
    #[serde(serialize_with = "as_shown_if")]
    pub adapter: Option<PathBuf>,
}

/// What can be trained besides A and B.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// Linear weights themselves, instead of A and B.
    Weights,
    Norms,
    Biases,
}

impl Extra {
    /// With the names that the flag has for them.
    pub const ALL: [(&'static str, Self); 3] =
        [("weights", Self::Weights), ("norms", Self::Norms), ("biases", Self::Biases)];
}

impl std::str::FromStr for Extra {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, extra)| *extra).ok_or_else(|| "expected some of weights, norms and biases".into())
    }
}

/// As the flag has them.
fn as_names<S: Serializer>(extras: &[Extra], serializer: S) -> Result<S::Ok, S::Error> {
    let names = Extra::ALL.iter().filter(|(_, extra)| extras.contains(extra)).map(|(name, _)| *name);
    names.collect::<Vec<_>>().serialize(serializer)
}

impl Default for RecoverRequest {
    /// LoRA of all linear weights, r 8 and α 16 as LLM-Pruner has them.
    fn default() -> Self {
        Self {
            mode: None,
            teacher: None,
            steps: 150,
            batch_size: 4,
            learning_rate: None,
            schedule: Schedule::Linear,
            warmup: 0.05,
            weight_decay: 0.01,
            max_grad_norm: 1.0,
            lora_r: 8,
            lora_alpha: 16.0,
            lora_dropout: 0.0,
            targets: None,
            train: Vec::new(),
            temperature: 1.0,
            loss_on: None,
            eval_every: None,
            save_every: 50,
            adapter: None,
        }
    }
}

impl RecoverRequest {
    /// Which tokens of questions and answers count.
    pub fn loss_on(&self, mode: Mode) -> LossOn {
        self.loss_on.unwrap_or(if mode == Mode::Blocks { LossOn::All } else { LossOn::Answer })
    }

    /// How a model is trained that is to imitate a teacher, of which `stay` are left.
    fn mode(&self, config: &Config, teacher: Option<&Config>, stay: Option<&[usize]>) -> Mode {
        // Of an adapter, of a temperature and of answers alone, blocks know nothing.
        let asks = self.adapter.is_some() || self.temperature != 1.0 || self.loss_on == Some(LossOn::Answer);
        let blocks = |teacher| !asks && check_teacher(config, teacher, stay).is_ok();
        match (self.mode, teacher) {
            (Some(mode), _) => mode,
            (None, Some(teacher)) if blocks(teacher) => Mode::Blocks,
            (None, Some(_)) => Mode::Distil,
            (None, None) => Mode::Lora,
        }
    }

    /// The options that this comes to for a model of this config and a teacher, of whose layers `stay` are left, or
    /// all.
    pub fn options(
        &self,
        config: &Config,
        (teacher, stay): (Option<&Config>, Option<&[usize]>),
        seed: u64,
        dtype: Types,
    ) -> Options {
        let (mode, width) = (self.mode(config, teacher, stay), config.hidden_size);
        let trains = |extra| self.train.contains(&extra);
        // A layer by itself has room for its weights.
        let weights = trains(Extra::Weights) || (mode == Mode::Blocks && self.targets.is_none());
        let all = || Target::ALL.map(|(_, target)| target).to_vec();
        Options {
            mode,
            steps: self.steps,
            batch_size: self.batch_size,
            learning_rate: self.learning_rate.unwrap_or_else(|| usual_rate(width, weights)),
            rate_flag: Options::RATE,
            schedule: self.schedule,
            warmup: self.warmup,
            weight_decay: self.weight_decay,
            betas: [0.9, 0.95],
            eps: 1e-8,
            max_grad_norm: self.max_grad_norm,
            rank: self.lora_r,
            alpha: self.lora_alpha,
            dropout: self.lora_dropout,
            trained: Trained {
                low_rank: if weights { Vec::new() } else { self.targets.clone().unwrap_or_else(all) },
                weights,
                norms: trains(Extra::Norms),
                biases: trains(Extra::Biases),
            },
            temperature: self.temperature,
            eval_every: self.eval_every.unwrap_or_else(|| self.steps.div_ceil(10)),
            save_every: self.save_every,
            seed,
            dtype,
        }
    }
}

/// The learning rate where nobody says: the 1e-4 of LLM-Pruner at LLaMA-7B's width of 4096, and inversely as the width
/// elsewhere, as Adam's best rate goes (Yang et al., arXiv 2203.03466); a tenth of it for weights themselves.
fn usual_rate(width: usize, weights: bool) -> f64 {
    let rate = 1e-4 * 4096.0 / width.max(1) as f64;
    let rate = if weights { rate / 10.0 } else { rate };
    // Two digits are enough to tell.
    format!("{rate:.1e}").parse().unwrap_or(rate)
}
