//! Progress bars on stderr, one a phase, none when it is not a terminal; the time of each phase; Ctrl-C.

use std::{
    cell::RefCell,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::{
    checkpoint::{AtomicFile, FileTarget},
    error::{Error, Result},
    gpu::Gpu,
    progress::Progress,
    trace::{Trace, Track},
};

/// What the user sees while work goes on.
pub struct Bars {
    state: RefCell<State>,
    interrupted: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    /// Where a trace goes, if one was asked for.
    trace_target: Option<FileTarget>,
    trace: Option<Trace>,
    bar: Option<ProgressBar>,
    phase: Option<(&'static str, Instant)>,
    seconds: Map<String, Value>,
    warnings: Vec<String>,
}

impl Bars {
    /// Listens to Ctrl-C from now on.
    pub fn new() -> Self {
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = interrupted.clone();
        // A second Ctrl-C does not wait for the work under way.
        let _ = ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        });
        Self { state: RefCell::default(), interrupted }
    }

    /// Something the user should know, now and in the report.
    pub fn warn(&self, message: &str) {
        self.say(&format!("warning: {message}"));
        let warnings = &mut self.state.borrow_mut().warnings;
        if warnings.iter().all(|said| said != message) {
            warnings.push(message.to_owned());
        }
    }

    /// A line on stderr.
    pub fn say(&self, message: &str) {
        match &self.state.borrow().bar {
            Some(bar) if !bar.is_hidden() => bar.println(message),
            // Not eprintln!, which panics where nobody reads.
            _ => drop(writeln!(std::io::stderr(), "{message}")),
        }
    }

    /// Ends the phase under way.
    pub fn end(&self) {
        let mut state = self.state.borrow_mut();
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
        if let Some((phase, began)) = state.phase.take() {
            if let Some(trace) = &mut state.trace {
                trace.record(Track::Phase, phase, began);
            }
            let before = state.seconds.get(phase).and_then(Value::as_f64).unwrap_or_default();
            state.seconds.insert(phase.into(), json!(before + began.elapsed().as_secs_f64()));
        }
    }

    /// Has a trace written to a file in the end.
    pub fn trace_into(&self, target: FileTarget) {
        self.state.borrow_mut().trace_target = Some(target);
    }

    /// Records from now on where the time goes, if a trace was asked for.
    pub fn start_trace(&self, gpu: &Gpu) -> Result<()> {
        if self.state.borrow().trace_target.is_none() {
            return Ok(());
        }
        gpu.start_trace()?;
        let mut state = self.state.borrow_mut();
        let trace = state.trace.get_or_insert_default();
        if let Some(now) = gpu.clock()? {
            trace.align(now);
        }
        Ok(())
    }

    /// Takes what was recorded of a device, if anything was.
    pub fn take_trace(&self, gpu: &Gpu) -> Result<()> {
        if self.state.borrow().trace.is_none() {
            return Ok(());
        }
        let spans = gpu.take_spans()?;
        if let Some(trace) = &mut self.state.borrow_mut().trace {
            trace.dispatches(&spans);
        }
        Ok(())
    }

    /// Writes what was recorded, if anything was.
    pub fn write_trace(&self) -> Result<()> {
        self.end();
        let mut state = self.state.borrow_mut();
        let (Some(trace), Some(target)) = (state.trace.take(), state.trace_target.take()) else { return Ok(()) };
        drop(state);
        let path = target.path().to_owned();
        let mut file = AtomicFile::create(target)?;
        trace.write(&mut file).map_err(Error::write(&path))?;
        file.finish()?;
        self.say(&trace.totals().summary());
        Ok(())
    }

    /// Goes on counting where an earlier run of the same work has stopped.
    pub fn restore(&self, seconds: &Map<String, Value>, warnings: &[String]) {
        let mut state = self.state.borrow_mut();
        state.seconds = seconds.clone();
        let said = std::mem::replace(&mut state.warnings, warnings.to_vec());
        state.warnings.extend(said.into_iter().filter(|warning| !warnings.contains(warning)));
    }

    /// Seconds of each phase so far, the one under way included.
    pub fn seconds_so_far(&self) -> Map<String, Value> {
        let state = self.state.borrow();
        let mut seconds = state.seconds.clone();
        if let Some((phase, began)) = &state.phase {
            let before = seconds.get(*phase).and_then(Value::as_f64).unwrap_or_default();
            seconds.insert((*phase).into(), json!(before + began.elapsed().as_secs_f64()));
        }
        seconds
    }

    /// Seconds of each phase so far.
    pub fn seconds(&self) -> Map<String, Value> {
        self.end();
        self.state.borrow().seconds.clone()
    }

    /// All warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        self.state.borrow().warnings.clone()
    }
}

impl Progress for Bars {
    fn begin(&self, phase: &'static str, steps: u64) {
        self.end();
        let bar = ProgressBar::new(steps);
        if let Ok(style) =
            ProgressStyle::with_template("{prefix:<18} {bar:40} {percent:>3} %  {elapsed} elapsed, {eta} left")
        {
            bar.set_style(style);
        }
        bar.set_prefix(phase);
        let mut state = self.state.borrow_mut();
        state.bar = Some(bar);
        state.phase = Some((phase, Instant::now()));
    }

    fn advance(&self, steps: u64) -> Result<()> {
        if let Some(bar) = &self.state.borrow().bar {
            bar.inc(steps);
        }
        if self.interrupted.load(Ordering::SeqCst) { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn note(&self, message: &str) {
        self.warn(message);
    }

    fn timed(&self, step: &'static str, began: Instant) {
        if let Some(trace) = &mut self.state.borrow_mut().trace {
            trace.record(Track::Cpu, step, began);
        }
    }
}
