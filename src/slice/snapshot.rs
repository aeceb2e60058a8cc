//! What slicing needs to know, beside its input, to go on after some layer.

use serde::{Deserialize, Serialize};

use super::plan::Plan;
use crate::model::{Config, halves};

/// What was found at one point of the residual stream: the embeddings, then after each half of each layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// `None` for the embeddings.
    pub layer: Option<usize>,
    /// The share of the signal's energy in the coordinates that slicing keeps: Σ_{i<d} λ_i / Σ λ_i. The last layer's output is not sliced;
    /// the share is given all the same.
    #[serde(with = "exact")]
    pub kept_energy: f64,
    /// max |C·Q − Q·Λ| / max |C|.
    #[serde(with = "exact")]
    pub eigen_residual: f64,
    /// max |Qᵀ·Q − I|.
    #[serde(with = "exact")]
    pub orthogonality: f64,
}

/// Slicing up to the end of some layer: its tensors are in the output, the residual and the last rotation in a file beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Layers that are done; none after the embeddings.
    pub layers: usize,
    pub sites: Vec<Site>,
    /// Width of the last rotation.
    pub width: usize,
    /// Which of the two residual files, and its checksum.
    pub file: usize,
    pub checksum: u64,
}

impl Snapshot {
    /// Whether slicing a model of this config as planned can have led here.
    pub fn fits(&self, config: &Config, plan: &Plan) -> bool {
        let layers = config.num_hidden_layers;
        let width = if self.layers == layers { config.hidden_size } else { plan.width };
        // In this order: a product of a number that is too large would overflow.
        self.layers <= layers && self.sites.len() == 1 + self.layers * halves(config).len() && self.width == width && self.file < 2
    }
}

/// Numbers that come back as they were, to the last bit: decimal digits in JSON need not.
pub mod exact {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the bits.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.to_bits())
    }

    /// Reads the bits.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}
