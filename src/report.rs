//! What a run has done: one object for programs, a table for people, a model card for whoever finds the result.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use crate::{
    eval::Perplexity,
    gpu::AdapterDescription,
    memory::{PhasePeak, RunPlan},
    model::{Config, LayerWidths},
    slice::Site,
};

/// The version of [`Report`]'s JSON form: raised when a field changes its meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything that `run` reports. Fields that a dry run cannot know are `None`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub schema_version: u32,
    pub tool_version: &'static str,
    pub dry_run: bool,
    /// False if it was asked to stop before the end, and can be resumed.
    pub finished: bool,
    pub layers_done: usize,
    /// The options in force, defaults included.
    pub arguments: Value,
    pub adapter: Option<AdapterDescription>,
    pub model_type: String,
    /// `per-block`, `shared` or `segments=K`; and what was fitted again: `none`, `reads` or `full`.
    pub basis: String,
    pub refit: String,
    /// Whether the result is an ordinary checkpoint of the original `model_type`.
    pub ordinary: bool,
    pub output: String,
    /// Wall-clock seconds of each phase, in order.
    pub seconds: serde_json::Map<String, Value>,
    pub hidden_size: usize,
    pub sliced_width: usize,
    pub original_parameters: u64,
    /// After fusing the norms and untying the head, before slicing.
    pub parameters_after_fusion: u64,
    /// Shortcuts and untied head included.
    pub sliced_parameters: u64,
    pub original_bytes: u64,
    pub sliced_bytes: u64,
    /// 1 − sliced / original, in percent; negative if the model has grown.
    pub percent_removed: f64,
    /// The same against the fused model, as the paper counts.
    pub percent_removed_after_fusion: f64,
    pub perplexity: Option<PerplexityReport>,
    pub calibration: Option<CalibrationReport>,
    pub layers: Vec<LayerReport>,
    pub kept_energy_of_embeddings: Option<f64>,
    /// In the order of the sites: embeddings, then after each half of each layer.
    pub kept_energy_per_site: Vec<f64>,
    pub largest_eigen_residual: Option<f64>,
    pub largest_orthogonality_error: Option<f64>,
    /// How the run keeps within the memory there is.
    pub plan: Option<RunPlan>,
    /// The most bytes that each phase is planned to take.
    pub memory: Vec<PhasePeak>,
    /// Seconds that each phase will take, about, in a dry run.
    pub estimated_seconds: serde_json::Map<String, Value>,
    /// The most bytes that the GPU's buffers took, and that this process held where the system tells.
    pub peak_gpu_bytes: Option<u64>,
    pub peak_host_bytes: Option<u64>,
    /// Files that are or would be written.
    pub files: Vec<String>,
    pub warnings: Vec<String>,
    /// What one basis for the whole model would give instead, where each point has its own.
    pub shared_basis: Option<Alternative>,
}

/// Another way to the same size.
#[derive(Debug, Clone, Serialize)]
pub struct Alternative {
    /// The flags that ask for it.
    pub flags: String,
    pub sliced_width: usize,
    pub sliced_parameters: u64,
    pub percent_removed: f64,
    /// Whether the result would be an ordinary checkpoint of the original `model_type`.
    pub ordinary: bool,
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

/// One layer after slicing.
#[derive(Debug, Clone, Serialize)]
pub struct LayerReport {
    #[serde(flatten)]
    pub widths: LayerWidths,
    /// Of each half's output.
    pub kept_energy: Vec<f64>,
    pub largest_eigen_residual: Option<f64>,
}

/// The layers of a sliced config, with what was found at their sites.
pub fn layers(sliced: &Config, sites: &[Site]) -> Vec<LayerReport> {
    (0..sliced.layers.len())
        .map(|layer| {
            let here: Vec<&Site> = sites.iter().filter(|site| site.layer == Some(layer)).collect();
            LayerReport {
                widths: sliced.widths(layer),
                kept_energy: here.iter().map(|site| site.kept_energy).collect(),
                largest_eigen_residual: here.iter().map(|site| site.eigen_residual).reduce(f64::max),
            }
        })
        .collect()
}

/// 1 − after / before, in percent.
pub fn percent_removed(before: u64, after: u64) -> f64 {
    100.0 * (1.0 - after as f64 / before as f64)
}

impl Report {
    /// The rows of the table: what, before, after.
    fn rows(&self) -> Vec<[String; 4]> {
        let change = |percent: f64| format!("{:+.2} %", -percent);
        let mut rows = vec![
            [
                "width".into(),
                self.hidden_size.to_string(),
                self.sliced_width.to_string(),
                change(percent_removed(self.hidden_size as u64, self.sliced_width as u64)),
            ],
            [
                "parameters".into(),
                grouped(self.original_parameters),
                grouped(self.sliced_parameters),
                change(self.percent_removed),
            ],
            [
                "parameters, fused+untied".into(),
                grouped(self.parameters_after_fusion),
                grouped(self.sliced_parameters),
                change(self.percent_removed_after_fusion),
            ],
            [
                "bytes".into(),
                bytes(self.original_bytes),
                bytes(self.sliced_bytes),
                change(percent_removed(self.original_bytes, self.sliced_bytes)),
            ],
        ];
        if let Some(perplexity) = &self.perplexity {
            let ratio = 100.0 * (perplexity.sliced / perplexity.original - 1.0);
            rows.push([
                "perplexity".into(),
                format!("{:.4}", perplexity.original),
                format!("{:.4}", perplexity.sliced),
                format!("{ratio:+.2} %"),
            ]);
        }
        rows
    }

    /// Minimum and median of the kept energies of all sites but the embeddings.
    fn energy(&self) -> Option<(f64, f64)> {
        let mut energies: Vec<f64> = self.layers.iter().flat_map(|layer| layer.kept_energy.iter().copied()).collect();
        energies.sort_by(f64::total_cmp);
        let middle = (energies[energies.len().checked_sub(1)? / 2] + energies[energies.len() / 2]) / 2.0;
        Some((*energies.first()?, middle))
    }

    /// The table that people read.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let header = [String::new(), "before".into(), "after".into(), "change".into()];
        for [what, before, after, change] in std::iter::once(header).chain(self.rows()) {
            let _ = writeln!(text, "{what:<24} {before:>16} {after:>16} {change:>10}");
        }
        if let Some(perplexity) = &self.perplexity {
            let _ = writeln!(
                text,
                "  perplexity on {} ({} sequences, {} tokens)",
                perplexity.text,
                perplexity.sequences,
                grouped(perplexity.tokens as u64)
            );
        }
        if let Some(calibration) = &self.calibration {
            let CalibrationReport { source, sequences, tokens, .. } = calibration;
            let _ = writeln!(
                text,
                "calibrated on            {source} ({sequences} sequences, {} tokens)",
                grouped(*tokens as u64)
            );
        }
        if let Some((least, median)) = self.energy() {
            let over = if self.basis == "per-block" { " over the layers" } else { ", of each basis" };
            let _ = writeln!(text, "kept energy              min {least:.6}, median {median:.6}{over}");
            for (index, layer) in self.layers.iter().enumerate().filter(|(_, layer)| !layer.kept_energy.is_empty()) {
                let energies: Vec<String> = layer.kept_energy.iter().map(|energy| format!("{energy:.6}")).collect();
                let LayerWidths { attention_input, mlp_input, output, .. } = layer.widths;
                let _ = writeln!(
                    text,
                    "  layer {index:<3} widths {attention_input} > {mlp_input} > {output}, kept {}",
                    energies.join(" ")
                );
            }
        }
        if let Some(residual) = self.largest_eigen_residual {
            let _ = writeln!(text, "largest eigen-residual   {residual:.1e}");
        }
        if !self.seconds.is_empty() {
            let phases: Vec<String> = self
                .seconds
                .iter()
                .map(|(phase, seconds)| format!("{phase} {:.1} s", seconds.as_f64().unwrap_or_default()))
                .collect();
            let _ = writeln!(text, "time                     {}", phases.join(", "));
        }
        if let (true, Some(plan)) = (self.dry_run, &self.plan) {
            let rows = plan
                .slice
                .batch
                .rows
                .map_or_else(|| format!("{} tokens", plan.slice.batch.tokens), |rows| format!("{rows} sequences"));
            let place = format!("{:?}", plan.slice.placement).to_lowercase();
            let _ = writeln!(
                text,
                "plan                     {rows} at a time, residual: {place}, embeddings {} at a time",
                bytes(plan.slice.part_bytes)
            );
            for PhasePeak { phase, gpu_bytes, host_bytes, disk_bytes } in &self.memory {
                let disk =
                    if *disk_bytes > 0 { format!(", {} on the disk", bytes(*disk_bytes)) } else { String::new() };
                let _ = writeln!(
                    text,
                    "memory, {phase:<16} {} on the GPU, {} on the host{disk}",
                    bytes(*gpu_bytes),
                    bytes(*host_bytes)
                );
            }
        }
        if !self.estimated_seconds.is_empty() {
            let phases: Vec<String> = self
                .estimated_seconds
                .iter()
                .map(|(phase, seconds)| format!("{phase} {}", duration(seconds.as_f64().unwrap_or_default())))
                .collect();
            let _ = writeln!(text, "time, about              {}", phases.join(", "));
        }
        if let Some(gpu) = self.peak_gpu_bytes {
            let host = self.peak_host_bytes.map_or_else(String::new, |host| format!(", {} on the host", bytes(host)));
            let _ = writeln!(text, "peak memory              {} on the GPU{host}", bytes(gpu));
        }
        let verb = match (self.dry_run, self.finished) {
            (true, _) => "would write",
            (false, true) => "written",
            (false, false) => "not yet written",
        };
        let _ = writeln!(text, "{verb:<24} {}: {}", self.output, self.files.join(", "));
        if let Some(Alternative { flags, sliced_width, sliced_parameters, percent_removed, ordinary }) =
            &self.shared_basis
        {
            let ordinary =
                if *ordinary { format!(", as an ordinary {} checkpoint", self.model_type) } else { String::new() };
            let parameters = grouped(*sliced_parameters);
            let _ = writeln!(
                text,
                "{flags} would keep a width of {sliced_width} in {parameters} parameters ({:+.2} %){ordinary}",
                -percent_removed
            );
        }
        text
    }

    /// README.md of the output.
    pub fn model_card(&self, original: &str) -> String {
        let method = match self.basis.as_str() {
            "per-block" => "its residual stream was rotated into the principal axes of its signals at each point",
            "shared" => "its residual stream was moved into one basis for the whole model",
            _ => "its residual stream was moved into one basis for each of a few runs of layers",
        };
        let refit = match self.refit.as_str() {
            "none" => "",
            "reads" => "; the weights that read it were fitted to the original by least squares",
            _ => "; the weights were fitted to the original by least squares",
        };
        let mut text = format!(
            "# {original}, sliced\n\nThis is {original} ({}) after SliceGPT (arXiv 2401.15024): {method} and cut from {} to {} coordinates by \
             slicegpt-gpu {}{refit}.\n\n",
            self.model_type, self.hidden_size, self.sliced_width, self.tool_version
        );
        text.push_str("| | before | after | change |\n|---|---|---|---|\n");
        for row in self.rows() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        if let Some(perplexity) = &self.perplexity {
            let _ = write!(
                text,
                "\nPerplexity was measured on {} ({} sequences, {} tokens).",
                perplexity.text, perplexity.sequences, perplexity.tokens
            );
        }
        if let Some(calibration) = &self.calibration {
            let _ = write!(
                text,
                "\nCalibrated on {} sequences ({} tokens) of {}; sha256 of the token ids {}.",
                calibration.sequences, calibration.tokens, calibration.source, calibration.sha256
            );
        }
        if let Some((least, median)) = self.energy() {
            let _ = write!(text, "\nKept energy over the bases: min {least:.6}, median {median:.6}.");
        }
        text.push_str("\nThe original's own card is not copied: it says what that was trained on, and for which use.");
        text.push_str(if self.ordinary { ORDINARY } else { SLICED });
        text.push_str("\n```\nslicegpt-gpu generate . --prompt \"Once\"\nslicegpt-gpu verify .\n```\n");
        text
    }
}

/// How an ordinary checkpoint is loaded.
const ORDINARY: &str = "

This is an ordinary checkpoint, only narrower. In transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(\".\")
tokenizer = AutoTokenizer.from_pretrained(\".\")
```

`slicegpt-gpu export . --format gguf` makes a file for llama.cpp of it, where that knows the architecture. In this program:
";

/// How a checkpoint with shortcuts is loaded.
const SLICED: &str = "

The tensors have their original names; norms are fused into the weights beside them. `attn_shortcut_Q` and `mlp_shortcut_Q`, where there are any, \
carry the residual past a block, x · Q. Norms divide by `slicing.norm_width` of config.json.

In transformers, with the Python files beside this one:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(\".\", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(\".\", trust_remote_code=True)
```

In this program:
";

/// 1234567 → 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in the unit that fits it.
fn duration(seconds: f64) -> String {
    match seconds {
        ..90.0 => format!("{seconds:.0} s"),
        90.0..5400.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// A size in the unit that fits it.
pub fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.2} {}", units[unit]) }
}
