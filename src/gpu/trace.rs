//! GPU time of every dispatch, by timestamps around it.

use super::{
    Gpu,
    faults::lock,
    timestamps::{Span, Timestamps},
};
use crate::error::Result;

impl Gpu {
    /// Whether the adapter can time dispatches.
    pub fn has_timestamps(&self) -> bool {
        self.timestamp_period.is_some()
    }

    /// Times every dispatch from now on, where the adapter can.
    ///
    /// # Errors
    /// Whatever went wrong on the device meanwhile.
    pub fn start_trace(&self) -> Result<()> {
        self.finish()?;
        lock(&self.pending).timestamps = self.timestamp_period.map(Timestamps::new);
        Ok(())
    }

    /// Waits for all work, and takes the times of the dispatches since the trace began or they were last taken. None
    /// where nothing is timed.
    ///
    /// # Errors
    /// Whatever went wrong on the device meanwhile.
    pub fn take_spans(&self) -> Result<Vec<Span>> {
        self.finish()?;
        match &mut lock(&self.pending).timestamps {
            Some(timestamps) => {
                timestamps.collect(|| self.wait(None))?;
                Ok(std::mem::take(&mut timestamps.spans))
            }
            None => Ok(Vec::new()),
        }
    }

    /// The GPU's clock now, in nanoseconds since the moment that spans count from; `None` where nothing is timed.
    ///
    /// # Errors
    /// Whatever went wrong on the device meanwhile.
    pub fn clock(&self) -> Result<Option<u64>> {
        if lock(&self.pending).timestamps.is_none() {
            return Ok(None);
        }
        self.finish()?;
        self.record_pass("clock", &[], 0, |_, _| ())?;
        self.finish()?;
        let mut pending = lock(&self.pending);
        let Some(timestamps) = &mut pending.timestamps else { return Ok(None) };
        timestamps.collect(|| self.wait(None))?;
        Ok(timestamps.spans.pop().map(|span| span.end_ns))
    }
}
