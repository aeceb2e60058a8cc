//! The `slicing` section that a sliced checkpoint's config.json has: how wide the residual stream is at each point, and how that came about.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The widths of the residual stream around one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerWidths {
    /// What the attention (and, in parallel blocks, the MLP) reads.
    pub attention_input: usize,
    /// Between attention and MLP; equal to the output in parallel blocks.
    pub mlp_input: usize,
    /// What the layer hands on.
    pub output: usize,
}

/// How a checkpoint was sliced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slicing {
    pub method: String,
    /// hidden_size before slicing: norms divide by it.
    pub norm_width: usize,
    pub layers: Vec<LayerWidths>,
    pub sparsity: f64,
    pub round_interval: usize,
    pub final_orientation: String,
    pub seed: u64,
    /// sha256 of the calibration token ids as little-endian u32, each row preceded by its length.
    pub calibration_sha256: String,
}

impl Slicing {
    pub(super) fn from_fields(fields: &Map<String, Value>, path: &Path, hidden_size: usize, layers: usize) -> Result<Self> {
        let section = fields.get("slicing").ok_or_else(|| Error::bad_file(path, "a sliced model without its slicing section"))?;
        let slicing: Self = serde_json::from_value(section.clone()).map_err(|error| Error::bad_file(path, format!("slicing: {error}")))?;
        let fits = |width: usize| (1..=hidden_size).contains(&width);
        let chained = slicing.layers.windows(2).all(|pair| pair[0].output == pair[1].attention_input);
        let inside = slicing.layers.iter().all(|widths| fits(widths.attention_input) && fits(widths.mlp_input) && fits(widths.output));
        if slicing.norm_width != hidden_size || slicing.layers.len() != layers || !chained || !inside {
            return Err(Error::bad_file(path, format!("slicing: widths do not fit {layers} layers of {hidden_size}")));
        }
        Ok(slicing)
    }
}
