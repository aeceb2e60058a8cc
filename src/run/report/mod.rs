//! What a run has done: one object for programs, a table for people, a model card for whoever finds the result.

mod card;
mod front_matter;
mod table;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    export::Exported,
    memory::{PhasePeak, RunPlan},
    method::{Row, Section},
    outcome::{AgreementReport, CalibrationReport, Outcome, PerplexityReport},
    speed::SpeedReport,
};
use crate::gpu::AdapterDescription;

/// The version of [`Report`]'s JSON form: raised when a field changes its meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything that a run reports. Fields that a dry run cannot know are `None`; `R` is the method's part.
#[derive(Debug, Clone, Serialize)]
pub struct Report<R> {
    pub schema_version: u32,
    pub tool_version: &'static str,
    pub dry_run: bool,
    /// False if it was asked to stop before the end, and can be resumed.
    pub finished: bool,
    pub layers_done: usize,
    /// The options in force, defaults included.
    pub arguments: Map<String, Value>,
    pub adapter: Option<AdapterDescription>,
    pub model_type: String,
    pub output: String,
    /// Wall-clock seconds of each phase, in order.
    pub seconds: Map<String, Value>,
    #[serde(flatten)]
    pub method: R,
    pub perplexity: Option<PerplexityReport>,
    /// On further texts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub perplexity_elsewhere: Vec<PerplexityReport>,
    /// How fast the model was and is, where that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<SpeedReport>,
    pub calibration: Option<CalibrationReport>,
    /// How the run keeps within the memory there is.
    pub plan: Option<RunPlan>,
    /// The most bytes that each phase is planned to take.
    pub memory: Vec<PhasePeak>,
    /// Seconds that each phase will take, about, in a dry run.
    pub estimated_seconds: Map<String, Value>,
    /// The most bytes that the GPU's buffers took, and that this process held where the system tells.
    pub peak_gpu_bytes: Option<u64>,
    pub peak_host_bytes: Option<u64>,
    /// The file that was made of the result, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exported: Option<Exported>,
    /// The file that is to be made of it, where it is not there yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_export: Option<String>,
    /// Files that are or would be written.
    pub files: Vec<String>,
    pub warnings: Vec<String>,
}

impl<R: Section> Report<R> {
    /// Of a run that was asked for with these arguments, defaults included; its output gets these files.
    pub fn new<S>(
        arguments: Map<String, Value>,
        model_type: &str,
        method: R,
        (files, exports): (Vec<String>, Option<String>),
        outcome: &Outcome<S>,
    ) -> Self {
        let output = arguments.get("output").and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            schema_version: SCHEMA_VERSION,
            tool_version: env!("CARGO_PKG_VERSION"),
            dry_run: outcome.dry_run,
            finished: outcome.finished,
            layers_done: outcome.layers_done,
            arguments,
            adapter: outcome.adapter.clone(),
            model_type: model_type.into(),
            output,
            seconds: outcome.seconds.clone(),
            method,
            perplexity: outcome.perplexity.clone(),
            perplexity_elsewhere: outcome.perplexity_elsewhere.clone(),
            speed: outcome.speed,
            calibration: outcome.calibration.clone(),
            memory: outcome.plan.as_ref().map_or_else(Vec::new, |plan| plan.peaks.clone()),
            plan: outcome.plan.clone(),
            estimated_seconds: outcome.estimated_seconds.clone(),
            peak_gpu_bytes: outcome.peak_gpu_bytes,
            peak_host_bytes: outcome.peak_host_bytes,
            exported: outcome.exported.clone(),
            would_export: exports.filter(|_| outcome.exported.is_none()),
            files,
            warnings: outcome.warnings.clone(),
        }
    }

    /// The rows of the table: what, before, after, change.
    fn rows(&self) -> Vec<Row> {
        let mut rows = self.method.rows();
        for (number, perplexity) in self.measured().enumerate() {
            let ratio = 100.0 * (perplexity.sliced / perplexity.original - 1.0);
            let elsewhere = if number == 0 { String::new() } else { format!(", text {}", number + 1) };
            rows.push([
                format!("perplexity{elsewhere}"),
                format!("{:.4}", perplexity.original),
                format!("{:.4}", perplexity.sliced),
                format!("{ratio:+.2} %"),
            ]);
            let Some(AgreementReport { kl, top_1, bits_per_byte }) = &perplexity.agreement else { continue };
            rows.push([format!("KL divergence{elsewhere}"), String::new(), format!("{kl:.4}"), String::new()]);
            let share = format!("{:.2} %", 100.0 * top_1);
            rows.push([format!("same top token{elsewhere}"), String::new(), share, String::new()]);
            if let Some([before, after]) = bits_per_byte {
                let ratio = format!("{:+.2} %", 100.0 * (after / before - 1.0));
                rows.push([format!("bits per byte{elsewhere}"), format!("{before:.4}"), format!("{after:.4}"), ratio]);
            }
        }
        rows
    }

    /// What was measured, text by text.
    fn measured(&self) -> impl Iterator<Item = &PerplexityReport> {
        self.perplexity.iter().chain(&self.perplexity_elsewhere)
    }
}
