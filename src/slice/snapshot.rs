//! What slicing needs to know, beside its input, to resume after some layer.

use serde::{Deserialize, Serialize};

use super::{
    options::{Basis, Options},
    plan::Plan,
};
use crate::{
    model::Config,
    stream::{Saved, exact},
};

/// What was found at one point of the residual stream: the embeddings, then after each step of each layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// `None` for the embeddings.
    pub layer: Option<usize>,
    /// The share of the signal's energy in the coordinates that slicing keeps: Σ_{i<d} λ_i / Σ λ_i. The last layer's
    /// output is not sliced; the share is given all the same.
    #[serde(with = "exact")]
    pub kept_energy: f64,
    /// max |C·Q − Q·Λ| / max |C|.
    #[serde(with = "exact")]
    pub eigen_residual: f64,
    /// max |Qᵀ·Q − I|.
    #[serde(with = "exact")]
    pub orthogonality: f64,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The dense model runs, and its bases are found.
    Basis,
    Slice,
}

/// A stage up to the end of some layer: the tensors are in the output; residuals, each followed by its tail, in files
/// beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    pub stage: Stage,
    /// Layers that are done in this stage; none after the embeddings.
    pub layers: usize,
    pub sites: Vec<Site>,
    /// Width of the last rotation.
    pub width: usize,
    /// The dense model's, or the only one; then the sliced model's.
    pub residuals: Vec<Saved>,
    /// Checksums of the bases that have been found before slicing.
    pub bases: Vec<u64>,
}

impl Snapshot {
    /// Whether slicing a model of this config as planned can have led here.
    pub fn fits(&self, config: &Config, plan: &Plan, options: &Options) -> bool {
        let layers = config.layers.len();
        let segments = match options.basis {
            Basis::PerBlock => 0,
            Basis::Segments(count) => count,
        };
        let (residuals, bases) = match self.stage {
            Stage::Basis => (
                1,
                (0..layers)
                    .filter(|&layer| layer < self.layers)
                    .map(|layer| segment_ends(options, layer, layers))
                    .sum(),
            ),
            Stage::Slice => (if options.is_paper() { 1 } else { 2 * usize::from(options.refits()) }, segments),
        };
        let ended = self.stage == Stage::Slice && self.layers == layers && segments == 0;
        let width = if ended { plan.config.widths(layers - 1).output } else { plan.width };
        // In this order: a product of a number that is too large would overflow.
        self.layers <= layers
            && self.sites.len() == if segments == 0 { 1 + self.layers * config.steps().len() } else { bases }
            && (self.bases.len(), self.residuals.len(), self.width) == (bases, residuals, width)
            && self.residuals.iter().all(|saved| saved.file < 2)
            && (segments > 0 || self.stage == Stage::Slice)
    }

    /// Layers that have been gone through, in a model of this many: where bases are found first, each is gone through
    /// twice.
    pub fn passed(&self, layers: usize) -> usize {
        self.layers + if self.stage == Stage::Slice && !self.bases.is_empty() { layers } else { 0 }
    }
}

/// One if a segment ends with this layer.
fn segment_ends(options: &Options, layer: usize, layers: usize) -> usize {
    usize::from(layer + 1 < layers && options.basis.segment(layer, layers) != options.basis.segment(layer + 1, layers))
}
