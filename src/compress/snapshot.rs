//! What a compression has found and done so far, as it is kept to be resumed.

use serde::{Deserialize, Serialize};

use super::{axis::Axis, budget::Curve, plan::Width, results::Refitted, survey::Surveyed};
use crate::model::{Agreement, Kept, Resize};

/// An axis that was cut alone, on part of the tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    pub axis: Axis,
    pub depth: f64,
    pub basis: Width,
    pub parameters: u64,
    pub agreement: Agreement,
}

/// Sizes that were cut, fitted and measured on part of the tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// Depth by axis, of those that are cut.
    pub depths: Vec<(Axis, f64)>,
    pub predicted: f64,
    pub sizes: Resize,
    pub basis: Width,
    pub parameters: u64,
    /// On tokens that nothing is fitted to; `None` of the only one.
    pub agreement: Option<Agreement>,
    /// A model as large whose layers differ, where they may.
    #[serde(default)]
    pub(super) by_layer: Option<Resize>,
}

/// What is done and durable.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    pub(super) surveying: Option<Surveyed>,
    /// Checksum of what the survey found.
    pub(super) survey: Option<u64>,
    pub probes: Vec<Probe>,
    pub candidates: Vec<Candidate>,
    pub curves: Vec<Curve>,
    /// Which of the candidates is written.
    pub(super) best: Option<usize>,
    /// How far that is.
    pub(super) fitting: Option<Refitted>,
    /// What is left of the layers that have lost heads or channels, once it is written.
    pub(super) kept: Option<Vec<Kept>>,
}

impl Snapshot {
    /// The candidate that was written, and what is left of the layers that have lost heads or channels; `None` until
    /// all is done.
    pub fn written(&self) -> Option<(&Candidate, &[Kept])> {
        Some((self.candidates.get(self.best?)?, self.kept.as_deref()?))
    }

    /// Layers that were gone through, of a model of `layers` layers.
    pub fn passed(&self, layers: usize) -> usize {
        let surveyed = self.surveying.map_or(usize::from(self.survey.is_some()) * layers, |surveyed| surveyed.layers);
        let fitting = self.fitting.as_ref().map_or(0, |refitted| refitted.layers);
        surveyed + (self.probes.len() + self.candidates.len()) * layers + fitting
    }
}
