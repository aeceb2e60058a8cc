//! Where the time went: phases, steps on the CPU and dispatches on the GPU on one clock, as a file that
//! chrome://tracing and Perfetto open.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::Instant,
};

use serde_json::{Value, json};

use crate::gpu::Span;

/// What is being recorded.
pub struct Trace {
    began: Instant,
    events: Vec<Event>,
    /// Nanoseconds of the GPU's clock at `began`.
    gpu_began: Option<f64>,
}

struct Event {
    track: Track,
    name: &'static str,
    /// Microseconds since the trace began.
    start: f64,
    duration: f64,
    /// Multiply-adds, of dispatches.
    work: Option<u64>,
}

/// The lines that events are drawn on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Track {
    Phase = 1,
    Cpu,
    Gpu,
}

/// Seconds by kernel and by step on the CPU.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Totals {
    /// From the beginning of the trace to now.
    pub wall: f64,
    pub gpu: BTreeMap<&'static str, f64>,
    pub cpu: BTreeMap<&'static str, f64>,
}

impl Default for Trace {
    fn default() -> Self {
        Self { began: Instant::now(), events: Vec::new(), gpu_began: None }
    }
}

impl Trace {
    /// Notes down what the GPU's clock says now, in nanoseconds, so that dispatches are drawn at their time.
    pub fn align(&mut self, gpu_now: u64) {
        self.gpu_began = Some(gpu_now as f64 - self.began.elapsed().as_secs_f64() * 1e9);
    }

    /// Something that began then and ends now.
    pub fn record(&mut self, track: Track, name: &'static str, began: Instant) {
        let start = began.saturating_duration_since(self.began).as_secs_f64() * 1e6;
        self.events.push(Event { track, name, start, duration: began.elapsed().as_secs_f64() * 1e6, work: None });
    }

    /// Dispatches.
    pub fn dispatches(&mut self, spans: &[Span]) {
        let zero = self.gpu_began.unwrap_or_default();
        self.events.extend(spans.iter().map(|span| Event {
            track: Track::Gpu,
            name: span.kernel,
            start: (span.start_ns as f64 - zero) * 1e-3,
            duration: span.end_ns.saturating_sub(span.start_ns) as f64 * 1e-3,
            work: Some(span.work),
        }));
    }

    /// Sums of everything recorded so far.
    pub fn totals(&self) -> Totals {
        let sum = |track: Track| {
            let mut sums = BTreeMap::new();
            for event in self.events.iter().filter(|event| event.track == track) {
                *sums.entry(event.name).or_insert(0.0) += event.duration * 1e-6;
            }
            sums
        };
        Totals { wall: self.began.elapsed().as_secs_f64(), gpu: sum(Track::Gpu), cpu: sum(Track::Cpu) }
    }

    /// Writes the trace in Chrome's trace event format.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let tracks = [(Track::Phase, "phases"), (Track::Cpu, "CPU"), (Track::Gpu, "GPU")];
        out.write_all(b"{\"traceEvents\": [\n")?;
        for (track, name) in tracks {
            let line = json!({"ph": "M", "pid": 1, "tid": track as u32, "name": "thread_name", "args": {"name": name}});
            writeln!(out, "{line},")?;
        }
        for (index, event) in self.events.iter().enumerate() {
            let mut line = json!({
                "ph": "X", "pid": 1, "tid": event.track as u32, "name": event.name, "ts": rounded(event.start), "dur": rounded(event.duration),
            });
            if let Some(work) = event.work {
                line["args"] = json!({"multiply_adds": work});
            }
            writeln!(out, "{line}{}", if index + 1 < self.events.len() { "," } else { "" })?;
        }
        writeln!(out, "], \"otherData\": {}}}", json!(self.totals()))
    }
}

/// Microseconds to the nanosecond.
fn rounded(microseconds: f64) -> Value {
    json!((microseconds * 1e3).round() / 1e3)
}

impl Totals {
    /// One line for people.
    pub fn summary(&self) -> String {
        let busy: f64 = self.gpu.values().sum();
        let mut kernels: Vec<_> = self.gpu.iter().collect();
        kernels.sort_by(|a, b| b.1.total_cmp(a.1));
        let kernels: Vec<String> =
            kernels.iter().map(|(name, seconds)| format!("{name} {:.1} %", 100.0 * *seconds / busy)).collect();
        let steps: Vec<String> = self.cpu.iter().map(|(name, seconds)| format!("{name} {seconds:.2} s")).collect();
        let gpu = match kernels.is_empty() {
            true => "this GPU times no dispatches".into(),
            false => format!("GPU busy {busy:.2} s ({})", kernels.join(", ")),
        };
        format!("{:.2} s: {gpu}; CPU: {}", self.wall, if steps.is_empty() { "-".into() } else { steps.join(", ") })
    }
}
