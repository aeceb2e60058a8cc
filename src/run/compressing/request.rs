//! How compression is asked for.

use serde::{Serialize, Serializer};

use super::super::vocabulary::VocabularyRequest;
use crate::{
    compress::{Axis, Effort, Goal, Options},
    error::{Error, Result},
    model::Config,
    recover::Mode,
    stream::Types,
};

/// How to compress. Serialised, the fields have the names of the flags.
#[derive(Debug, Clone, Serialize)]
pub struct CompressRequest {
    #[serde(flatten, serialize_with = "as_flags")]
    pub goal: Goal,
    /// The axes that may be cut: all that the model can be cut on, if `None`.
    pub axes: Option<Vec<Axis>>,
    pub effort: Effort,
    /// Whether layers may differ in their heads and channels.
    pub per_layer: bool,
    pub importance: CompressImportance,
    /// A share of the mean energy of what re-fitted weights read.
    pub ridge: f64,
    /// How many steps what was cut is then trained towards the original, if any.
    pub recover: Option<usize>,
    /// How it is trained; if `None`, layer by layer where its width is whole, else by distillation.
    pub recover_mode: Option<Mode>,
    /// The learning rate at its highest; what is usual for what is trained, if `None`.
    pub recover_learning_rate: Option<f64>,
    /// Which tokens stay, if not all; [`narrow`](crate::run::narrow) leaves the others out.
    pub vocabulary: Option<VocabularyRequest>,
}

/// What heads and channels that leave are chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CompressImportance {
    /// What the fit cannot make up for: optimal brain surgeon.
    Obs,
    /// What the loss changes by, to first order: LLM-Pruner's |w·g|.
    Taylor,
}

impl Default for CompressRequest {
    /// A fifth of the parameters, on whatever axes cost least.
    fn default() -> Self {
        Self {
            goal: Goal::Parameters(0.2),
            axes: None,
            effort: Effort::Normal,
            per_layer: false,
            importance: CompressImportance::Obs,
            ridge: 0.03,
            recover: None,
            recover_mode: None,
            recover_learning_rate: None,
            vocabulary: None,
        }
    }
}

impl CompressRequest {
    /// Checks what [`CompressRequest::options`] leaves out: whether this importance and layers that differ are for this
    /// model.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self, config: &Config) -> Result<()> {
        if self.per_layer && config.is_mixture() {
            return Err(Error::Usage(
                "--per-layer: the layers of a mixture stay alike; prune --experts SHARE --global takes experts from the \
                 layers that need them least"
                    .into(),
            ));
        }
        match self.importance {
            CompressImportance::Obs => Ok(()),
            CompressImportance::Taylor if self.per_layer => {
                Err(Error::Usage("--per-layer goes by what --importance obs measures; leave one of them out".into()))
            }
            CompressImportance::Taylor if config.is_mixture() => {
                let reason = "--importance taylor is not for mixtures of experts yet; leave it out";
                Err(Error::Usage(reason.into()))
            }
            CompressImportance::Taylor => Ok(()),
        }
    }

    /// The options that this comes to.
    pub fn options(&self, seed: u64, dtype: Types) -> Options {
        let axes = self.axes.clone().unwrap_or_else(|| Axis::ALL.to_vec());
        let Self { goal, effort, per_layer, ridge, .. } = *self;
        Options { goal, axes, chosen: self.axes.is_some(), effort, per_layer, ridge, seed, dtype }
    }
}

/// The flags that say how small the result is to be, one of which is given.
fn as_flags<S: Serializer>(goal: &Goal, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    #[derive(Default, Serialize)]
    struct Flags {
        target_parameters: Option<String>,
        target_size: Option<u64>,
    }
    let flags = match goal {
        Goal::Parameters(share) => {
            // Of a share that was asked for as what is kept, 1 − share is not to the last digit.
            let percent = (share * 1e12).round() / 1e10;
            Flags { target_parameters: Some(format!("{:+}%", -percent)), ..Flags::default() }
        }
        Goal::Bytes(bytes) => Flags { target_size: Some(*bytes), ..Flags::default() },
    };
    flags.serialize(serializer)
}
