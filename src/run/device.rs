//! Which device work is done on.

use std::path::PathBuf;

use serde::Serialize;

use super::log::Log;
use crate::{
    checkpoint::Writes,
    error::Result,
    gpu::{Gpu, GpuOptions, Precision},
    progress::Progress,
};

/// Which GPU, and how it computes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DeviceRequest {
    /// Its number or a part of its name; the best one if `None`.
    pub device: Option<String>,
    /// What linear layers are computed in.
    pub precision: Precision,
    /// A file to write a trace of where the time went to.
    #[serde(skip)]
    pub trace: Option<PathBuf>,
    /// Lose the device after this many dispatches, the next one after the second number, …: for tests.
    #[serde(skip)]
    pub lose_device_after: Vec<u64>,
    /// Have this many bytes less on the device than was planned with: for tests.
    #[serde(skip)]
    pub withhold_gpu_memory: u64,
}

impl DeviceRequest {
    /// Finds out whether the trace can be written, before the work, which a mistyped name should not cost.
    ///
    /// # Errors
    /// As [`Writes::file`].
    pub fn plan_trace(&self, writes: &mut Writes, log: &Log) -> Result<()> {
        if let Some(path) = &self.trace {
            log.trace_into(writes.file("--trace", path)?);
        }
        Ok(())
    }

    /// Opens the device, and says so if it is a slow one.
    ///
    /// # Errors
    /// As [`Gpu::new`].
    pub fn open(&self, log: &Log) -> Result<Gpu> {
        self.open_again(0, log)
    }

    /// Opens the device after it was lost this many times: then, work is handed to it in shorter pieces.
    ///
    /// # Errors
    /// As [`Gpu::new`].
    pub fn open_again(&self, lost: usize, log: &Log) -> Result<Gpu> {
        let options = GpuOptions {
            adapter: self.device.clone(),
            precision: self.precision,
            short_submits: lost > 0,
            ..GpuOptions::default()
        };
        let gpu = Gpu::new(&options)?;
        if let Some(dispatches) = self.lose_device_after.get(lost) {
            gpu.lose_after(*dispatches);
        }
        if gpu.adapter().software {
            log.note(&format!("{} is a software renderer on the CPU: right, but slow", gpu.adapter().name));
        }
        log.start_trace(&gpu)?;
        Ok(gpu)
    }

    /// Sets what the device may hold, less what tests withhold.
    pub fn limit(&self, gpu: &mut Gpu, bytes: Option<u64>) {
        gpu.set_max_memory(bytes.map(|bytes| bytes.saturating_sub(self.withhold_gpu_memory)));
    }

    /// Writes the trace, if one was asked for: after the results, which it must not cost.
    ///
    /// # Errors
    /// As [`Log::take_trace`] and [`Log::write_trace`].
    pub fn close(&self, gpu: &Gpu, log: &Log) -> Result<()> {
        log.take_trace(gpu)?;
        log.write_trace()
    }
}
