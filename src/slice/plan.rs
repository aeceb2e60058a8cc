//! What will be written, known before any work is done.

use std::path::Path;

use serde_json::{Value, json};

use super::schedule::{layer_widths, sliced_width};
use crate::{
    checkpoint::{Dtype, TensorPlan},
    error::{Error, Result},
    model::{Config, SLICED_PREFIX, Slicing},
};

/// What the first d coordinates are after slicing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orientation {
    /// The principal axes, by descending eigenvalue.
    Pca,
    /// The principal axes times a random orthogonal d × d matrix: the same function, outliers spread.
    Random,
}

/// How to slice.
#[derive(Debug, Clone)]
pub struct Options {
    /// The share of hidden_size to cut, 0 ≤ s < 1.
    pub sparsity: f64,
    /// The width is rounded down to a multiple of this.
    pub round_interval: usize,
    pub orientation: Orientation,
    pub seed: u64,
    /// Type of the written tensors.
    pub dtype: Dtype,
    /// Calibration sequences at a time; by size if `None`.
    pub rows_per_batch: Option<usize>,
}

/// The sliced model before it exists.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The config of the sliced model.
    pub config: Config,
    /// The width that the residual stream will have.
    pub width: usize,
    /// Every tensor, in the order of writing.
    pub tensors: Vec<TensorPlan>,
    /// Parameters of the original as it is stored.
    pub original_parameters: u64,
    /// Parameters after fusing and untying the head, before slicing: what the paper compares with.
    pub fused_parameters: u64,
    /// Parameters of the result, shortcuts and head included.
    pub sliced_parameters: u64,
}

impl Plan {
    /// Plans slicing a model with this config.
    ///
    /// # Errors
    /// [`Error::Usage`] for a sparsity that leaves nothing, or a model that is sliced already.
    pub fn new(config: &Config, options: &Options, calibration_sha256: &str) -> Result<Self> {
        if config.fused() {
            return Err(Error::Usage("this model is sliced already; slice the original to another sparsity instead".into()));
        }
        let width = sliced_width(config.hidden_size, options.sparsity, options.round_interval)?;
        let sliced = with_widths(config, width, options, calibration_sha256)?;
        let whole = with_widths(config, config.hidden_size, options, calibration_sha256)?;
        let tensors = sliced.tensors();
        Ok(Self {
            width,
            original_parameters: config.parameters(),
            fused_parameters: whole.parameters() - whole.shortcut_parameters(),
            sliced_parameters: sliced.parameters(),
            tensors: tensors.into_iter().map(|spec| TensorPlan { name: spec.name, shape: spec.shape, dtype: options.dtype }).collect(),
            config: sliced,
        })
    }

    /// Bytes of all tensors.
    pub fn byte_len(&self) -> u64 {
        self.tensors.iter().map(TensorPlan::byte_len).sum()
    }
}

/// The config of the model sliced to `width`: all its fields kept, `model_type` changed, a `slicing` section added.
fn with_widths(config: &Config, width: usize, options: &Options, calibration_sha256: &str) -> Result<Config> {
    let slicing = Slicing {
        method: "slicegpt".into(),
        norm_width: config.hidden_size,
        layers: layer_widths(config, width),
        sparsity: options.sparsity,
        round_interval: options.round_interval,
        final_orientation: match options.orientation {
            Orientation::Pca => "pca".into(),
            Orientation::Random => "random".into(),
        },
        seed: options.seed,
        calibration_sha256: calibration_sha256.into(),
    };
    let mut raw = config.raw.clone();
    raw.insert("model_type".into(), json!(format!("{SLICED_PREFIX}{}", config.architecture.model_type)));
    let dtype = match options.dtype {
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
        _ => "float32",
    };
    for name in ["torch_dtype", "dtype"] {
        if let Some(Value::String(stored)) = raw.get_mut(name) {
            *stored = dtype.into();
        }
    }
    let section = serde_json::to_value(slicing).map_err(|error| Error::Usage(error.to_string()))?;
    raw.insert("slicing".into(), section);
    Config::from_fields(raw, Path::new("config.json of the sliced model"))
}
