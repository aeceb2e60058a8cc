//! What a run tells while it works, and what of that its report keeps: the time of each phase, warnings, a trace.

use std::{
    cell::{Cell, RefCell},
    time::Instant,
};

use serde_json::{Map, Value, json};

use crate::{
    checkpoint::{AtomicFile, FileTarget},
    error::{Error, Result},
    gpu::Gpu,
    progress::Progress,
    trace::{Trace, Track},
};

/// Passes everything on to whoever shows it, and keeps what a report needs.
pub struct Log {
    display: Box<dyn Progress>,
    clock: RefCell<Clock>,
    warnings: RefCell<Vec<String>>,
    trace: RefCell<Option<Trace>>,
    /// Where the trace goes, if one was asked for.
    trace_target: Cell<Option<FileTarget>>,
    traced: Cell<bool>,
}

/// Wall-clock seconds of each phase, in order; a phase that comes again is counted on.
#[derive(Default)]
struct Clock {
    phase: Option<(&'static str, Instant)>,
    seconds: Map<String, Value>,
}

impl Clock {
    /// The one under way included.
    fn seconds(&self) -> Map<String, Value> {
        let mut seconds = self.seconds.clone();
        if let Some((phase, began)) = self.phase {
            let before = seconds.get(phase).and_then(Value::as_f64).unwrap_or_default();
            seconds.insert(phase.into(), json!(before + began.elapsed().as_secs_f64()));
        }
        seconds
    }

    fn stop(&mut self) -> Option<(&'static str, Instant)> {
        self.seconds = self.seconds();
        self.phase.take()
    }
}

impl Log {
    /// An empty log of what `display` shows.
    pub fn new(display: impl Progress + 'static) -> Self {
        Self {
            display: Box::new(display),
            clock: RefCell::default(),
            warnings: RefCell::default(),
            trace: RefCell::default(),
            trace_target: Cell::default(),
            traced: Cell::default(),
        }
    }

    /// Continues the log of an earlier run of the same work.
    pub fn restore(&self, seconds: &Map<String, Value>, warnings: &[String]) {
        self.clock.borrow_mut().seconds = seconds.clone();
        let said = self.warnings.replace(warnings.to_vec());
        self.warnings.borrow_mut().extend(said.into_iter().filter(|warning| !warnings.contains(warning)));
    }

    /// Seconds of each phase, the one under way included.
    pub fn seconds_so_far(&self) -> Map<String, Value> {
        self.clock.borrow().seconds()
    }

    /// Ends the phase under way; returns the seconds of each.
    pub fn seconds(&self) -> Map<String, Value> {
        self.end();
        self.seconds_so_far()
    }

    /// All warnings so far, each once.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.borrow().clone()
    }

    /// Has a trace written to a file in the end.
    pub fn trace_into(&self, target: FileTarget) {
        self.trace_target.set(Some(target));
        self.traced.set(true);
    }

    /// Records from now on where the time goes, if a trace was asked for.
    ///
    /// # Errors
    /// Whatever the GPU reports.
    pub fn start_trace(&self, gpu: &Gpu) -> Result<()> {
        if !self.traced.get() {
            return Ok(());
        }
        gpu.start_trace()?;
        let mut trace = self.trace.borrow_mut();
        let trace = trace.get_or_insert_default();
        if let Some(now) = gpu.clock()? {
            trace.align(now);
        }
        Ok(())
    }

    /// Takes what was recorded of a device, if anything was.
    ///
    /// # Errors
    /// Whatever the GPU reports.
    pub fn take_trace(&self, gpu: &Gpu) -> Result<()> {
        if let Some(trace) = &mut *self.trace.borrow_mut() {
            trace.dispatches(&gpu.take_spans()?);
        }
        Ok(())
    }

    /// Writes what was recorded, if anything was.
    ///
    /// # Errors
    /// [`Error::Write`] and what else creating a file can report.
    pub fn write_trace(&self) -> Result<()> {
        self.end();
        let (Some(trace), Some(target)) = (self.trace.take(), self.trace_target.take()) else { return Ok(()) };
        let path = target.path().to_owned();
        let mut file = AtomicFile::create(target)?;
        trace.write(&mut file).map_err(Error::write(&path))?;
        file.finish()?;
        self.say(&trace.totals().summary());
        Ok(())
    }
}

impl Progress for Log {
    fn begin(&self, phase: &'static str, steps: u64) {
        self.end();
        self.display.begin(phase, steps);
        self.clock.borrow_mut().phase = Some((phase, Instant::now()));
    }

    fn advance(&self, steps: u64) -> Result<()> {
        self.display.advance(steps)
    }

    fn note(&self, message: &str) {
        self.display.note(message);
        let mut warnings = self.warnings.borrow_mut();
        if warnings.iter().all(|said| said != message) {
            warnings.push(message.to_owned());
        }
    }

    fn say(&self, message: &str) {
        self.display.say(message);
    }

    fn end(&self) {
        self.display.end();
        let ended = self.clock.borrow_mut().stop();
        if let (Some((phase, began)), Some(trace)) = (ended, &mut *self.trace.borrow_mut()) {
            trace.record(Track::Phase, phase, began);
        }
    }

    fn timed(&self, step: &'static str, began: Instant) {
        if let Some(trace) = &mut *self.trace.borrow_mut() {
            trace.record(Track::Cpu, step, began);
        }
    }
}
