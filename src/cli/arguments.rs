//! Options that several subcommands share.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::{checkpoint::Dtype, gpu::Precision, run::DeviceRequest};

/// Headings of `--help` that several groups of options share; the most common options have none, and come first.
pub const TEXTS: &str = "Calibration and evaluation";
pub const MACHINE: &str = "Memory and device";

/// Whether what is there may be replaced: the same rule for everything that is written.
#[derive(Debug, clap::Args)]
pub struct ForceArgs {
    /// Replace what is there: a file, or a directory that is empty or an output of this program and nothing else; start
    /// over an unfinished run. What is read is never replaced
    #[arg(long)]
    pub force: bool,
}

/// Which GPU, and how it computes.
#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// The GPU to use: its number or a part of its name, as `slicegpt-gpu devices` lists them [default: the best]
    #[arg(long, help_heading = MACHINE, value_name = "N|NAME")]
    device: Option<String>,
    /// What linear layers are computed in: f16-matrix rounds their factors to f16 and multiplies on the GPU's matrix
    /// units, where it has them. Covariances, rotations and all else stay f32
    #[arg(long, help_heading = MACHINE, value_enum, default_value = "f32")]
    precision: PrecisionArg,
    /// Write a trace of where the time went, for chrome://tracing or Perfetto; an existing file is replaced only with
    /// --force
    #[arg(long, help_heading = MACHINE, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Lose the device after N dispatches, the next one after the second N, …: for tests of what happens then.
    #[arg(long, hide = true, value_name = "N", value_delimiter = ',')]
    lose_device_after: Vec<u64>,
    /// Have this much less memory on the device than was planned with: for tests of what happens then.
    #[arg(long, hide = true, value_name = "SIZE", default_value = "0", value_parser = clap::value_parser!(u64))]
    withhold_gpu_memory: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PrecisionArg {
    F32,
    F16Matrix,
}

impl From<PrecisionArg> for Precision {
    fn from(precision: PrecisionArg) -> Self {
        match precision {
            PrecisionArg::F32 => Self::F32,
            PrecisionArg::F16Matrix => Self::F16Matrix,
        }
    }
}

impl DeviceArgs {
    pub fn request(&self) -> DeviceRequest {
        DeviceRequest {
            device: self.device.clone(),
            precision: self.precision.into(),
            trace: self.trace.clone(),
            lose_device_after: self.lose_device_after.clone(),
            withhold_gpu_memory: self.withhold_gpu_memory,
        }
    }
}

/// In which type tensors are written.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DtypeArg {
    F32,
    F16,
    Bf16,
}

impl From<DtypeArg> for Dtype {
    fn from(dtype: DtypeArg) -> Self {
        match dtype {
            DtypeArg::F32 => Self::F32,
            DtypeArg::F16 => Self::F16,
            DtypeArg::Bf16 => Self::BF16,
        }
    }
}
