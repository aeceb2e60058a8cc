//! How long work tells the caller where it is, and learns that it should stop.

use std::time::Instant;

use crate::error::Result;

/// Told about phases and the steps within them. The library itself never prints.
pub trait Progress {
    /// A phase of `steps` steps begins.
    fn begin(&self, phase: &'static str, steps: u64);

    /// Some steps of the phase are done.
    ///
    /// # Errors
    /// [`crate::Error::Interrupted`] to stop the work, which keeps what is finished where it can be resumed.
    fn advance(&self, steps: u64) -> Result<()>;

    /// Something the user should know: a warning.
    fn note(&self, message: &str);

    /// Something the user may like to know.
    fn say(&self, _message: &str) {}

    /// The phase under way is over.
    fn end(&self) {}

    /// A step on the CPU that began then is done: for traces.
    fn timed(&self, _step: &'static str, _began: Instant) {}
}

/// Listens to nothing.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &'static str, _: u64) {}

    fn advance(&self, _: u64) -> Result<()> {
        Ok(())
    }

    fn note(&self, _: &str) {}
}
