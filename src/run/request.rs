//! What is asked of a run. Together with what its inputs hold it is what `--resume` compares.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::{
    calibration::CalibrationRequest,
    device::DeviceRequest,
    paths::{as_shown, as_shown_all},
};
use crate::{
    checkpoint::{Dtype, GgufType},
    error::{Error, Result},
};

/// What is asked of a run; `O` is how its method is asked for. The fields have the names of the flags.
///
/// A field of it that is serialised is compared on `--resume`, unless it is one of [`HARMLESS`].
#[derive(Debug, Clone, Serialize)]
pub struct Request<O> {
    /// A .safetensors file with its config.json beside it, or a directory.
    #[serde(serialize_with = "as_shown")]
    pub model: PathBuf,
    /// The directory to write.
    #[serde(serialize_with = "as_shown")]
    pub output: PathBuf,
    #[serde(flatten)]
    pub method: O,
    #[serde(flatten)]
    pub calibration: CalibrationRequest,
    /// Of everything drawn at random.
    pub seed: u64,
    /// What perplexity is measured on; the held-out end of the calibration if there is nothing.
    #[serde(serialize_with = "as_shown_all")]
    pub eval: Vec<PathBuf>,
    /// Tokens of a window of text for perplexity, at most the model's own maximum.
    pub ppl_eval_seqlen: usize,
    /// Type of the written tensors; each tensor's own if `None`.
    pub dtype: Option<Dtype>,
    /// Also as one GGUF file beside the output, with matrices of this type.
    #[serde(serialize_with = "as_format")]
    pub export: Option<GgufType>,
    #[serde(flatten)]
    pub device: DeviceRequest,
    /// Whether an output that is there, or an unfinished run to it, may be replaced.
    pub force: bool,
    /// Ceilings in bytes.
    pub max_gpu_memory: Option<u64>,
    pub max_host_memory: Option<u64>,
    /// Continue an unfinished run to the same output.
    #[serde(skip)]
    pub resume: bool,
    /// Stop after this many layers.
    #[serde(skip)]
    pub stop_after: Option<usize>,
}

/// Fields that change no result, or whose meaning is compared otherwise: the model by its files, the output by where
/// the state lies, the device by its description.
pub const HARMLESS: &[&str] = &["model", "output", "export", "device", "force", "max_gpu_memory", "max_host_memory"];

/// The flag's value.
fn as_format<S: Serializer>(export: &Option<GgufType>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    export.map(|kind| format!("gguf:{kind}")).serialize(serializer)
}

impl<O> Request<O> {
    /// All defaults: calibrated on what the model writes, on the best device, with all the memory there is.
    pub fn new(model: impl Into<PathBuf>, output: impl Into<PathBuf>, method: O) -> Self {
        Self {
            model: model.into(),
            output: output.into(),
            method,
            calibration: CalibrationRequest::default(),
            seed: 42,
            eval: Vec::new(),
            ppl_eval_seqlen: 2048,
            dtype: None,
            export: None,
            device: DeviceRequest::default(),
            force: false,
            max_gpu_memory: None,
            max_host_memory: None,
            resume: false,
            stop_after: None,
        }
    }

    /// The files that are read beside the model.
    pub fn inputs(&self) -> impl Iterator<Item = &Path> {
        self.eval.iter().map(PathBuf::as_path).chain(self.calibration.file())
    }
}

impl<O: Serialize> Request<O> {
    /// All fields that are serialised, by the names of their flags.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn fields(&self) -> Result<Map<String, Value>> {
        match serde_json::to_value(self).map_err(Error::internal)? {
            Value::Object(fields) => Ok(fields),
            other => Err(Error::internal(format_args!("a request that is no object: {other}"))),
        }
    }
}
