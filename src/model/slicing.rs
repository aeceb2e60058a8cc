//! The `slicing` section that a sliced checkpoint's config.json has: how wide the residual stream is at each point, and
//! how that came about.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::layer_spec::Step;
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
    /// Whether a shortcut carries the residual past the attention (past both, in parallel blocks); where not, it goes
    /// on as it is.
    #[serde(default = "always")]
    pub attn_shortcut: bool,
    /// The same past the MLP; means nothing in parallel blocks.
    #[serde(default = "always")]
    pub mlp_shortcut: bool,
}

fn per_block() -> String {
    "per-block".into()
}

fn nothing() -> String {
    "none".into()
}

fn always() -> bool {
    true
}

impl LayerWidths {
    /// With a shortcut past each half.
    pub fn new(attention_input: usize, mlp_input: usize, output: usize) -> Self {
        Self { attention_input, mlp_input, output, attn_shortcut: true, mlp_shortcut: true }
    }

    /// The widths before and after a step of the layer.
    pub fn step(&self, step: Step) -> (usize, usize) {
        match (step.index, step.last) {
            (0, true) => (self.attention_input, self.output),
            (0, false) => (self.attention_input, self.mlp_input),
            _ => (self.mlp_input, self.output),
        }
    }

    /// Whether a shortcut carries the residual past a step.
    pub fn has_shortcut(&self, step: Step) -> bool {
        if step.index == 0 { self.attn_shortcut } else { self.mlp_shortcut }
    }
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
    /// `per-block`, `shared` or `segments=K`.
    #[serde(default = "per_block")]
    pub basis: String,
    /// What was fitted again to the dense model: `none`, `reads` or `full`.
    #[serde(default = "nothing")]
    pub refit: String,
    pub final_orientation: String,
    pub seed: u64,
    /// sha256 of the calibration token ids as little-endian u32, each row preceded by its length.
    pub calibration_sha256: String,
}

impl Slicing {
    pub(super) fn from_fields(
        fields: &Map<String, Value>,
        path: &Path,
        hidden_size: usize,
        layers: usize,
    ) -> Result<Self> {
        let section =
            fields.get("slicing").ok_or_else(|| Error::bad_file(path, "a sliced model without its slicing section"))?;
        let slicing: Self = serde_json::from_value(section.clone())
            .map_err(|error| Error::bad_file(path, format!("slicing: {error}")))?;
        let fits = |width: usize| (1..=hidden_size).contains(&width);
        let chained = slicing.layers.windows(2).all(|pair| pair[0].output == pair[1].attention_input);
        let inside = slicing
            .layers
            .iter()
            .all(|widths| fits(widths.attention_input) && fits(widths.mlp_input) && fits(widths.output));
        let carried = slicing.layers.iter().all(|widths| {
            (widths.attn_shortcut || widths.attention_input == widths.mlp_input)
                && (widths.mlp_shortcut || widths.mlp_input == widths.output)
        });
        if slicing.norm_width != hidden_size || slicing.layers.len() != layers || !chained || !inside || !carried {
            return Err(Error::bad_file(path, format!("slicing: widths do not fit {layers} layers of {hidden_size}")));
        }
        Ok(slicing)
    }
}
