//! What a compression has found and done so far, as it is kept to be resumed.

use serde::{Deserialize, Serialize};

use super::{
    axis::Axis,
    curve::Curves,
    plan::{Plan, Width},
    results::Refitted,
    survey::Surveyed,
};
use crate::{
    model::{Agreement, Config, Kept, Resize},
    stream::Passed,
};

/// Sizes that are predicted to cost this many times what the best ones do are not tried.
const MARGIN: f64 = 1.1;

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
    /// On tokens that nothing is fitted to; `None` where nothing is cut.
    pub agreement: Option<Agreement>,
    /// A model as large whose layers differ, if that was looked for; the same sizes if it is none.
    #[serde(default)]
    pub(super) by_layer: Option<Resize>,
}

impl Candidate {
    pub(super) fn new(config: &Config, plan: &Plan, predicted: f64, agreement: Option<Agreement>) -> Self {
        let Plan { sizes, parameters, basis, .. } = plan.clone();
        let depths = Axis::ALL.iter().map(|axis| (*axis, axis.depth(config, &sizes)));
        let depths = depths.filter(|(_, depth)| *depth > 0.0).collect();
        Self { depths, predicted, sizes, basis, parameters, agreement, by_layer: None }
    }

    /// The mean KL divergence from the dense model, 0 where nothing is cut.
    pub fn kl(&self) -> f64 {
        self.agreement.map_or(0.0, |agreement| agreement.kl)
    }
}

/// What is done and durable.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    pub(super) surveying: Option<Surveyed>,
    /// Checksum of what the survey found.
    pub(super) survey: Option<u64>,
    /// How far the gradients are that selections go by, where they are under way.
    pub(super) sensing: Option<Passed>,
    /// Checksums of what was made of them.
    pub(super) sensed: Option<Vec<u64>>,
    pub probes: Vec<Probe>,
    /// The first ones are probes.
    pub candidates: Vec<Candidate>,
    /// How many of them are.
    #[serde(default)]
    pub(super) alone: usize,
    pub curves: Curves,
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

    /// The candidate that agrees best with the dense model.
    pub(super) fn best_candidate(&self) -> Option<usize> {
        let kl = |at: &usize| self.candidates[*at].kl();
        (0..self.candidates.len()).min_by(|a, b| kl(a).total_cmp(&kl(b)))
    }

    /// The first of these sizes, the best first with what they are predicted to cost, that was not tried yet, if it may
    /// be better than what was.
    pub(super) fn untried(&self, allocated: Vec<(f64, Resize)>) -> Option<(f64, Resize)> {
        let most = self.best_candidate().map_or(f64::INFINITY, |best| MARGIN * self.candidates[best].kl());
        let new = |sizes: &Resize| self.candidates.iter().all(|candidate| candidate.sizes != *sizes);
        allocated.into_iter().find(|(_, sizes)| new(sizes)).filter(|(predicted, _)| *predicted <= most)
    }

    /// Layers that were gone through, of a model of `layers` layers.
    pub fn passed(&self, layers: usize) -> usize {
        let surveyed = self.surveying.map_or(usize::from(self.survey.is_some()) * layers, |surveyed| surveyed.layers);
        let sensing = self.sensing.as_ref().map_or(0, |passed| passed.layers(layers));
        let sensed = self.sensed.as_ref().map_or(sensing, |_| layers);
        let fitting = self.fitting.as_ref().map_or(0, |refitted| refitted.layers);
        let spread = self.candidates.iter().filter(|candidate| candidate.by_layer.is_some()).count();
        surveyed + sensed + (self.probes.len() + self.candidates.len() - self.alone + spread) * layers + fitting
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::Model;

    #[test]
    fn what_is_tried_next_is_new_and_not_much_worse_than_the_best_by_prediction() -> crate::Result<()> {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/llama_gqa_tied");
        let whole = Resize::whole(Model::open(&fixture)?.config());
        let sizes = |channels: usize| Resize { intermediate_size: channels, ..whole.clone() };
        let allocated = vec![(0.5, sizes(8)), (0.8, sizes(7)), (0.9, sizes(6))];
        let same = Agreement {
            kl: 0.0,
            top_1: 1.0,
            dense_perplexity: 1.0,
            perplexity: 1.0,
            dense_loss: 0.0,
            loss: 0.0,
            sequences: 1,
            tokens: 1,
        };
        let mut state = Snapshot::default();
        assert_eq!(state.best_candidate(), None);
        assert_eq!(state.untried(allocated.clone()), Some((0.5, sizes(8))));
        for (channels, kl, next) in [(8, 0.74, Some((0.8, sizes(7)))), (5, 0.72, None), (7, 0.9, None)] {
            state.candidates.push(Candidate {
                depths: Vec::new(),
                predicted: 0.5,
                sizes: sizes(channels),
                basis: Width::default(),
                parameters: 1,
                agreement: Some(Agreement { kl, ..same }),
                by_layer: None,
            });
            assert_eq!(state.untried(allocated.clone()), next, "{channels}");
        }
        assert_eq!(state.best_candidate(), Some(1));
        Ok(())
    }
}
