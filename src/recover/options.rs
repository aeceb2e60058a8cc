//! What is asked of recovery.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    model::{Config, Wanted, architecture::Role},
    stream::Types,
};

/// What is said of the weights of mixtures.
const EXPERTS_STAY: &str = "the experts of a mixture that its router chooses from stay as they are, as does the router; \
                            attention, norms, an expert that every token goes to and the MLPs of layers without experts \
                            can be trained";

/// What is trained towards what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The whole model towards the next tokens of a text.
    Lora,
    /// Each layer by itself towards the same layer of a teacher.
    Blocks,
    /// The whole model towards the predictions of a teacher.
    Distil,
}

/// How the learning rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    Linear,
    Cosine,
    Constant,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "lora" => Ok(Self::Lora),
            "blocks" => Ok(Self::Blocks),
            "distil" | "distill" => Ok(Self::Distil),
            _ => Err("expected lora, blocks or distil".into()),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Self::Lora => "lora",
            Self::Blocks => "blocks",
            Self::Distil => "distil",
        })
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "linear" => Ok(Self::Linear),
            "cosine" => Ok(Self::Cosine),
            "constant" => Ok(Self::Constant),
            _ => Err("expected linear, cosine or constant".into()),
        }
    }
}

impl Schedule {
    /// The share of the learning rate in step `step`, from 0, of `steps`: it rises in the first `warmup` steps, the
    /// first of which has the first share of it already, and falls to zero after the last, unless it is constant.
    pub fn share(self, step: usize, warmup: usize, steps: usize) -> f64 {
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        let through = (step - warmup) as f64 / (steps - warmup).max(1) as f64;
        match self {
            Self::Linear => 1.0 - through,
            Self::Cosine => 0.5 + 0.5 * (std::f64::consts::PI * through).cos(),
            Self::Constant => 1.0,
        }
    }
}

/// What of a layer is trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trained {
    /// Linear weights: A and B beside these; none if this is empty.
    pub low_rank: Vec<Target>,
    /// All linear weights themselves, instead.
    pub weights: bool,
    pub norms: bool,
    pub biases: bool,
}

/// Linear weights with the same role in every layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
    /// Queries, keys and values of a gated delta net at once.
    Mixed,
    /// What the result of attention, or of a gated delta net, is multiplied by.
    OutputGate,
    Beta,
    Decay,
}

impl Target {
    /// All of them, with the names that flags have for them.
    pub const ALL: [(&'static str, Self); 11] = [
        ("q", Self::Query),
        ("k", Self::Key),
        ("v", Self::Value),
        ("o", Self::Output),
        ("gate", Self::Gate),
        ("up", Self::Up),
        ("down", Self::Down),
        ("qkv", Self::Mixed),
        ("z", Self::OutputGate),
        ("b", Self::Beta),
        ("a", Self::Decay),
    ];

    /// The weights that it stands for.
    pub fn role(self) -> Role {
        match self {
            Self::Query => Role::Query,
            Self::Key => Role::Key,
            Self::Value => Role::Value,
            Self::Output => Role::Output,
            Self::Gate => Role::Gate,
            Self::Up => Role::Up,
            Self::Down => Role::Down,
            Self::Mixed => Role::Mixed,
            Self::OutputGate => Role::OutputGate,
            Self::Beta => Role::Beta,
            Self::Decay => Role::Decay,
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        // Also as the tensors are called.
        let stem = match (name.strip_prefix("in_proj_"), name.rsplit_once('_')) {
            (Some(stem), _) | (None, Some((stem, _))) => stem,
            (None, None) => name,
        };
        let found = Self::ALL.iter().find(|(known, _)| *known == stem);
        let expected = || "expected some of q, k, v, o, gate, up, down, qkv, z, b and a".into();
        found.map(|(_, target)| *target).ok_or_else(expected)
    }
}

/// How to train.
#[derive(Debug, Clone)]
pub struct Options {
    pub mode: Mode,
    /// Steps of the optimiser; in blocks, of each layer.
    pub steps: usize,
    /// Sequences of a step.
    pub batch_size: usize,
    pub learning_rate: f64,
    /// The flag that says it.
    pub rate_flag: &'static str,
    pub schedule: Schedule,
    /// The share of the steps in which the learning rate rises.
    pub warmup: f64,
    pub weight_decay: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    /// Gradients that are longer than this together are shortened to it; none if this is 0.
    pub max_grad_norm: f64,
    /// Of A and B.
    pub rank: usize,
    /// `B · A` counts `alpha / rank` times.
    pub alpha: f64,
    /// The share of what `A` reads that is left out.
    pub dropout: f64,
    pub trained: Trained,
    /// Of predictions, in distillation.
    pub temperature: f64,
    /// Steps between two measurements on sequences that are not trained on; none if this is 0.
    pub eval_every: usize,
    /// Steps between two points that a run can be resumed from.
    pub save_every: usize,
    /// Of what is drawn at random.
    pub seed: u64,
    /// Types of the written tensors.
    pub dtype: Types,
}

impl Options {
    /// `recover`'s own flag for the learning rate.
    pub const RATE: &str = "--learning-rate";

    /// Steps in which the learning rate rises.
    pub fn warmup_steps(&self) -> usize {
        (self.warmup * self.steps as f64).ceil() as usize
    }

    /// Which gradients training needs.
    pub fn wanted(&self) -> Wanted {
        let Trained { weights, biases, norms, .. } = self.trained;
        Wanted { weights, biases, norms, results: false }
    }

    /// What `B · A` is multiplied by.
    pub fn scale(&self) -> f32 {
        (self.alpha / self.rank as f64) as f32
    }

    /// Checks that they make sense for a model.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self, config: &Config) -> Result<()> {
        let usage = |reason: String| Err(Error::Usage(reason));
        let check = |name: &str, value: f64, holds: bool, expected: &str| match holds {
            true => Ok(()),
            false => usage(format!("{name} {value}: expected a number {expected}")),
        };
        let Self { learning_rate: rate, warmup, weight_decay, dropout, alpha, max_grad_norm, temperature, .. } = *self;
        check(self.rate_flag, rate, rate > 0.0 && rate < 10.0, "above 0 and below 10")?;
        check("--warmup", warmup, (0.0..1.0).contains(&warmup), "of at least 0 and below 1, a share of the steps")?;
        check("--weight-decay", weight_decay, (0.0..10.0).contains(&weight_decay), "of at least 0 and below 10")?;
        check("--lora-dropout", dropout, (0.0..1.0).contains(&dropout), "of at least 0 and below 1")?;
        check("--lora-alpha", alpha, alpha > 0.0 && alpha < 1e6, "above 0 and below 1000000")?;
        let clips = max_grad_norm >= 0.0 && max_grad_norm.is_finite();
        check("--max-grad-norm", max_grad_norm, clips, "of at least 0, and 0 never shortens gradients")?;
        check("--temperature", temperature, (0.01..1e4).contains(&temperature), "of at least 0.01 and below 10000")?;
        if self.trained.low_rank.is_empty() && !self.trained.weights && !self.trained.norms && !self.trained.biases {
            return usage("nothing would be trained: name --targets, or more of --train".into());
        }
        if self.trained.norms && config.fused() {
            return usage("--train norms: the norms of a sliced model are in its weights; leave it out".into());
        }
        if self.all_trained_parameters(config) == 0 {
            return usage(if config.is_mixture() {
                format!("nothing would be trained: {EXPERTS_STAY}; name --targets q,k,v,o, or more of --train")
            } else {
                "nothing would be trained: this model has no such weights; name others of --targets".into()
            });
        }
        Ok(())
    }

    /// What of a model is not trained though it was asked for, if anything.
    pub fn untrained(&self, config: &Config) -> Option<&'static str> {
        let of_mlps = [Target::Gate, Target::Up, Target::Down];
        let asked = self.trained.weights || of_mlps.iter().any(|target| self.trained.low_rank.contains(target));
        (asked && config.is_mixture()).then_some(EXPERTS_STAY)
    }

    /// Whether linear weights with this role are trained: `None` where not, or whether themselves, in place of A and B.
    pub(super) fn trains(&self, role: Role) -> Option<bool> {
        match role {
            // Its changes would send tokens to experts that were not made for them.
            Role::Router => None,
            _ if self.trained.weights => Some(true),
            _ => self.trained.low_rank.iter().any(|target| target.role() == role).then_some(false),
        }
    }
}
