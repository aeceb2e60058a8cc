//! The table that people read.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::{
    super::{
        memory::{PhasePeak, RunPlan},
        method::Section,
        outcome::CalibrationReport,
        speed::SpeedReport,
        units::{bytes, duration, grouped},
    },
    Report,
};

impl<R: Section> Report<R> {
    /// The table that people read.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Not in the model card, which is the same wherever and however often it is made.
        let speed = self.speed.iter().flat_map(SpeedReport::rows);
        let header = [String::new(), "before".into(), "after".into(), "change".into()];
        for [what, before, after, change] in std::iter::once(header).chain(self.rows()).chain(speed) {
            let _ = writeln!(text, "{what:<24} {before:>16} {after:>16} {change:>10}");
        }
        for perplexity in self.measured() {
            let (sequences, tokens) = (perplexity.sequences, grouped(perplexity.tokens as u64));
            let _ = writeln!(text, "  perplexity on {} ({sequences} sequences, {tokens} tokens)", perplexity.text);
        }
        if let Some(CalibrationReport { source, sequences, tokens, own_sequences, answer_tokens, .. }) =
            &self.calibration
        {
            let tokens = grouped(*tokens as u64);
            let answers = answer_tokens.map(|count| format!(", {} of answers", grouped(count as u64)));
            let answers = answers.unwrap_or_default();
            let own = match own_sequences {
                0 => String::new(),
                own => format!(", {own} of the sequences written by the model itself"),
            };
            let _ = writeln!(
                text,
                "calibrated on            {source} ({sequences} sequences, {tokens} tokens{answers}{own})"
            );
        }
        text.push_str(&self.method.findings());
        if !self.seconds.is_empty() {
            let times = times(&self.seconds, |seconds| format!("{seconds:.1} s"));
            let _ = writeln!(text, "time                     {times}");
        }
        if let (true, Some(plan)) = (self.dry_run, &self.plan) {
            text.push_str(&memory(plan));
        }
        if !self.estimated_seconds.is_empty() {
            let _ = writeln!(text, "time, about              {}", times(&self.estimated_seconds, duration));
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
        if let Some(exported) = &self.exported {
            let _ = writeln!(text, "exported                 {}: {}", exported.output, bytes(exported.bytes));
        }
        if let Some(path) = &self.would_export {
            let verb = if self.dry_run { "would export" } else { "not yet exported" };
            let _ = writeln!(text, "{verb:<24} {path}");
        }
        text.push_str(&self.method.advice());
        text
    }
}

/// Phases and their times.
fn times(seconds: &Map<String, Value>, shown: impl Fn(f64) -> String) -> String {
    let phase =
        |(phase, seconds): (&String, &Value)| format!("{phase} {}", shown(seconds.as_f64().unwrap_or_default()));
    seconds.iter().map(phase).collect::<Vec<_>>().join(", ")
}

/// How a run would keep within the memory there is.
fn memory(plan: &RunPlan) -> String {
    let batch = plan.layers.batch;
    let rows = batch.rows.map_or_else(|| format!("{} tokens", batch.tokens), |rows| format!("{rows} sequences"));
    let place = format!("{:?}", plan.layers.placement).to_lowercase();
    let part = bytes(plan.layers.part_bytes);
    let mut text =
        format!("plan                     {rows} at a time, residual: {place}, embeddings {part} at a time\n");
    for PhasePeak { phase, gpu_bytes, host_bytes, disk_bytes } in &plan.peaks {
        let disk = if *disk_bytes > 0 { format!(", {} on the disk", bytes(*disk_bytes)) } else { String::new() };
        let (gpu, host) = (bytes(*gpu_bytes), bytes(*host_bytes));
        let _ = writeln!(text, "memory, {phase:<16} {gpu} on the GPU, {host} on the host{disk}");
    }
    text
}
