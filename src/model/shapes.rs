//! The configs of published models, for checkpoints of their shape.

use std::path::Path;

use serde_json::{Map, Value};

use super::Config;
use crate::error::{Error, Result};

/// A published model whose shape is known here.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    config: &'static str,
}

/// Every shape, the smallest first.
pub const SHAPES: &[Shape] = &[
    Shape { name: "opt-125m", config: include_str!("shapes/opt-125m.json") },
    Shape { name: "tinyllama-1.1b", config: include_str!("shapes/tinyllama-1.1b.json") },
    Shape { name: "opt-1.3b", config: include_str!("shapes/opt-1.3b.json") },
    Shape { name: "llama-2-7b", config: include_str!("shapes/llama-2-7b.json") },
    Shape { name: "gpt-oss-20b", config: include_str!("shapes/gpt-oss-20b.json") },
    Shape { name: "qwen3-30b-a3b", config: include_str!("shapes/qwen3-30b-a3b.json") },
];

impl Shape {
    /// The shape of this name.
    ///
    /// # Errors
    /// [`Error::Usage`] that lists the names.
    pub fn named(name: &str) -> Result<&'static Self> {
        SHAPES.iter().find(|shape| shape.name == name).ok_or_else(|| {
            let known: Vec<&str> = SHAPES.iter().map(|shape| shape.name).collect();
            Error::Usage(format!("unknown shape {name:?}; known: {}", known.join(", ")))
        })
    }

    /// Its config, with another number of layers if `layers` says so.
    ///
    /// # Errors
    /// [`Error::BadFile`] if a model cannot have that many layers.
    pub fn config(&self, layers: Option<usize>) -> Result<Config> {
        let path = Path::new(self.name);
        let raw: Map<String, Value> =
            serde_json::from_str(self.config).map_err(|error| Error::bad_file(path, error.to_string()))?;
        let config = Config::from_fields(raw, path)?;
        let Some(layers) = layers else {
            return Ok(config);
        };
        let name = config.architecture.fields.num_hidden_layers;
        let mut raw = config.raw;
        raw.insert(name.into(), layers.into());
        Config::from_fields(raw, path)
    }
}
