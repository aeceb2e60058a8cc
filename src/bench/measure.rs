//! How often something is repeated, and by which clock.

use std::time::Instant;

use super::row::Clock;
use crate::{error::Result, gpu::Gpu};

/// How long a row may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Repetitions that every row has.
    pub least: usize,
    /// More tell nothing new.
    pub most: usize,
    /// Between the two, repetitions continue for this many seconds.
    pub seconds: f64,
}

impl Budget {
    /// Three to twenty repetitions in about two seconds; less with `--quick`.
    pub fn new(quick: bool) -> Self {
        Self { least: 3, most: 20, seconds: if quick { 0.5 } else { 2.0 } }
    }
}

/// Samples shorter than this would measure the clock and the submission.
const SHORTEST_SAMPLE: f64 = 5e-3;
const MOST_PER_SAMPLE: f64 = 1000.0;

/// A GPU that had nothing to do, as while results were checked on the CPU, is slow at first: attention on an NVIDIA
/// H200 was 5.5 times as slow for a tenth of a second, most likely by its clock.
const WARM_UP: f64 = 0.5;

/// A series under way: the seconds of one execution, time after time.
pub struct Series {
    pub clock: Clock,
    pub executions_per_sample: u32,
    pub samples: Vec<f64>,
    spent: f64,
}

impl Series {
    /// Begins with something that has been executed before: finds out how many executions make a sample. `gpu` is where
    /// it runs, if it does.
    ///
    /// # Errors
    /// Whatever `execute` and the device report.
    pub fn begin(gpu: Option<&Gpu>, execute: &mut dyn FnMut() -> Result<()>) -> Result<Self> {
        let timed = gpu.filter(|gpu| gpu.has_timestamps());
        timed.map_or(Ok(()), Gpu::start_trace)?;
        let clock = if timed.is_some() { Clock::GpuTimestamps } else { Clock::WallClock };
        let cold = gpu.is_some_and(|gpu| !gpu.adapter().software);
        let (seconds, spent) = warmed(if cold { WARM_UP } else { 0.0 }, || sample(gpu, 1, execute))?;
        let count = (SHORTEST_SAMPLE / seconds.max(1e-9)).ceil().clamp(1.0, MOST_PER_SAMPLE) as u32;
        // An execution long enough to be a sample is one.
        let samples = if count == 1 { vec![seconds] } else { Vec::new() };
        Ok(Self { clock, executions_per_sample: count, samples, spent })
    }

    /// Whether there are enough samples.
    pub fn is_done(&self, budget: Budget) -> bool {
        self.samples.len() >= budget.least && (self.samples.len() >= budget.most || self.spent >= budget.seconds)
    }

    /// Takes one more sample.
    ///
    /// # Errors
    /// Whatever `execute` and the device report.
    pub fn go_on(&mut self, gpu: Option<&Gpu>, execute: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let (seconds, wall) = sample(gpu, self.executions_per_sample, execute)?;
        self.samples.push(seconds);
        self.spent += wall;
        Ok(())
    }
}

/// The last of the samples that take this many seconds by the clock on the wall, of one at least.
fn warmed(least: f64, mut sample: impl FnMut() -> Result<(f64, f64)>) -> Result<(f64, f64)> {
    let mut last = sample()?;
    let mut spent = last.1;
    while spent < least {
        last = sample()?;
        spent += last.1;
    }
    Ok(last)
}

/// Mean seconds of `count` executions one after the other, and all that they took by the clock on the wall.
fn sample(gpu: Option<&Gpu>, count: u32, execute: &mut dyn FnMut() -> Result<()>) -> Result<(f64, f64)> {
    gpu.map_or(Ok(()), Gpu::finish)?;
    let began = Instant::now();
    for _ in 0..count {
        execute()?;
    }
    let spans = gpu.map_or(Ok(Vec::new()), Gpu::take_spans)?;
    let wall = began.elapsed().as_secs_f64();
    let ends = spans.iter().map(|span| span.start_ns).min().zip(spans.iter().map(|span| span.end_ns).max());
    let seconds = match ends {
        Some((start, end)) => end.saturating_sub(start) as f64 * 1e-9,
        None => wall,
    };
    Ok((seconds / f64::from(count), wall))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_first_on_a_cold_gpu_does_not_count() -> Result<()> {
        let after = |least: f64| {
            let mut count = 0;
            let last = warmed(least, || {
                count += 1;
                Ok((f64::from(count), 0.2))
            });
            last.map(|last| (last, count))
        };
        assert_eq!(after(0.0)?, ((1.0, 0.2), 1));
        assert_eq!(after(0.5)?, ((3.0, 0.2), 3));
        Ok(())
    }
}
