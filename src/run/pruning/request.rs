//! How pruning is asked for.

use std::{ops::Range, path::PathBuf, str::FromStr};

use serde::{Serialize, Serializer};

use super::super::paths::as_shown_if;
use crate::{
    model::Config,
    prune::{Aggregate, Groups, Importance, Options},
    stream::Types,
};

/// How to prune. Serialised, the fields have the names of the flags.
#[derive(Debug, Clone, Serialize)]
pub struct PruneRequest {
    /// The share of the groups that leaves, of the layers that may be cut.
    pub ratio: f64,
    /// The layers that may be cut: all but the first few and the last ones, if `None`.
    pub layers: Option<PruneLayers>,
    pub importance: Importance,
    pub aggregate: Aggregate,
    /// Whether all groups of all layers are ranked in one row.
    pub global: bool,
    /// Rounds, with new gradients in each.
    pub iterations: usize,
    pub groups: Groups,
    /// What is done for what is left.
    pub refit: PruneRefit,
    /// The safetensors file to write what each group matters into: `layers.I.attention`, a value for each key-value
    /// head, and `layers.I.mlp`, one for each channel, or `layers.I.experts`, or `residual`, in F64.
    #[serde(serialize_with = "as_shown_if")]
    pub write_importance: Option<PathBuf>,
}

impl Default for PruneRequest {
    /// As published: a quarter of the heads and channels of the layers in the middle.
    fn default() -> Self {
        Self {
            ratio: 0.25,
            layers: None,
            importance: Importance::ParamFirst,
            aggregate: Aggregate::Sum,
            global: false,
            iterations: 1,
            groups: Groups::Both,
            refit: PruneRefit::None,
            write_importance: None,
        }
    }
}

impl PruneRequest {
    /// The options that this comes to for a model.
    pub fn options(&self, config: &Config, seed: u64, dtype: Types) -> Options {
        let count = config.layers.len();
        let layers = match &self.layers {
            None if matches!(self.groups, Groups::Experts | Groups::Coordinates) => 0..count,
            None => Options::usual_layers(count),
            Some(PruneLayers::All) => 0..count,
            Some(PruneLayers::Some(range)) => range.clone(),
        };
        let Self { ratio, importance, aggregate, global, iterations, groups, .. } = *self;
        let keep_importances = self.write_importance.is_some();
        let in_mxfp4 = Vec::new();
        Options {
            ratio,
            layers,
            importance,
            aggregate,
            global,
            iterations,
            groups,
            keep_importances,
            seed,
            dtype,
            in_mxfp4,
        }
    }
}

/// What is done for the weights that are left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PruneRefit {
    /// Nothing, as published.
    #[default]
    None,
    /// What writes the residual stream after the first cut is fitted to the original on the examples, by least squares.
    Writes,
}

/// Layers that may be cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PruneLayers {
    All,
    Some(Range<usize>),
}

impl FromStr for PruneLayers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let range = text.split_once("..").and_then(|(first, end)| Some(first.parse().ok()?..end.parse().ok()?));
        range.map(Self::Some).ok_or_else(|| "expected `all` or two numbers such as 4..30".into())
    }
}

/// As the flag has it: `4..30`.
impl Serialize for PruneLayers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => "all".serialize(serializer),
            Self::Some(Range { start, end }) => format!("{start}..{end}").serialize(serializer),
        }
    }
}
