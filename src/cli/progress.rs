//! Progress bars on stderr, one a phase, none when it is not a terminal; and Ctrl-C.

use std::{
    cell::RefCell,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    error::{Error, Result},
    progress::Progress,
    run::Log,
};

/// What the user sees while the work runs.
pub struct Bars {
    bar: RefCell<Option<ProgressBar>>,
    interrupt: Interrupt,
}

impl Bars {
    /// A log that is shown, of work that Ctrl-C stops.
    pub fn log() -> Log {
        Log::new(Self { bar: RefCell::default(), interrupt: Interrupt::listen() })
    }
}

impl Progress for Bars {
    fn begin(&self, phase: &'static str, steps: u64) {
        let bar = ProgressBar::new(steps);
        if let Ok(style) =
            ProgressStyle::with_template("{prefix:<18} {bar:40} {percent:>3} %  {elapsed} elapsed, {eta} left")
        {
            bar.set_style(style);
        }
        bar.set_prefix(phase);
        self.bar.replace(Some(bar));
    }

    fn advance(&self, steps: u64) -> Result<()> {
        if let Some(bar) = &*self.bar.borrow() {
            bar.inc(steps);
        }
        self.interrupt.check()
    }

    fn note(&self, message: &str) {
        self.say(&format!("warning: {message}"));
    }

    fn say(&self, message: &str) {
        match &*self.bar.borrow() {
            Some(bar) if !bar.is_hidden() => bar.println(message),
            // Not eprintln!, which panics where nobody reads.
            _ => drop(writeln!(std::io::stderr(), "{message}")),
        }
    }

    fn end(&self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Whether the user has pressed Ctrl-C.
struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on.
    fn listen() -> Self {
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = interrupted.clone();
        // A second Ctrl-C does not wait for the work under way.
        let _ = ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        });
        Self(interrupted)
    }

    fn check(&self) -> Result<()> {
        if self.0.load(Ordering::SeqCst) { Err(Error::Interrupted) } else { Ok(()) }
    }
}
