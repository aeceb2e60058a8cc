//! What came of a run.

use serde::Serialize;
use serde_json::{Map, Value};

use super::memory::RunPlan;
use crate::{eval::Perplexity, gpu::AdapterDescription};

/// What came of a run, so far or in the end. What a dry run cannot know is `None`; `S` is the method's part.
#[derive(Debug, Clone)]
pub struct Outcome<S> {
    /// Whether this is only what would come of it.
    pub dry_run: bool,
    /// False if it was asked to stop before the end, and can be resumed.
    pub finished: bool,
    /// Layers that were gone through, those of earlier passes included.
    pub layers_done: usize,
    pub adapter: Option<AdapterDescription>,
    /// How it keeps within the memory there is.
    pub plan: Option<RunPlan>,
    pub calibration: Option<CalibrationReport>,
    pub perplexity: Option<PerplexityReport>,
    /// What the method has found.
    pub found: Option<S>,
    /// Wall-clock seconds of each phase, in order.
    pub seconds: Map<String, Value>,
    /// Seconds that each phase will take, about, in a dry run.
    pub estimated_seconds: Map<String, Value>,
    /// The most bytes that the GPU's buffers took, and that this process held where the system tells.
    pub peak_gpu_bytes: Option<u64>,
    pub peak_host_bytes: Option<u64>,
    pub warnings: Vec<String>,
}

impl<S> Default for Outcome<S> {
    /// Of a run that has not begun.
    fn default() -> Self {
        Self {
            dry_run: false,
            finished: false,
            layers_done: 0,
            adapter: None,
            plan: None,
            calibration: None,
            perplexity: None,
            found: None,
            seconds: Map::new(),
            estimated_seconds: Map::new(),
            peak_gpu_bytes: None,
            peak_host_bytes: None,
            warnings: Vec::new(),
        }
    }
}

/// Perplexity before and after.
#[derive(Debug, Clone, Serialize)]
pub struct PerplexityReport {
    pub original: f64,
    pub sliced: f64,
    /// What it was measured on.
    pub text: String,
    pub sequences: usize,
    pub tokens: usize,
}

impl PerplexityReport {
    /// Of the same sequences, before and after.
    pub fn new(original: &Perplexity, sliced: &Perplexity, text: &str) -> Self {
        let (sequences, tokens) = (original.sequences, original.tokens);
        Self { original: original.perplexity, sliced: sliced.perplexity, text: text.into(), sequences, tokens }
    }
}

/// What the model was calibrated on.
#[derive(Debug, Clone, Serialize)]
pub struct CalibrationReport {
    pub source: String,
    pub sequences: usize,
    pub tokens: usize,
    pub sha256: String,
}
