//! The command line: flags → validated options → the library → what people see.

mod bench;
mod calibration;
mod compress;
mod devices;
mod eval;
mod export;
mod generate;
mod logits;
mod progress;
mod run;
mod slicing;
mod synthesize;
mod verify;
mod work;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    gpu::Precision,
    run::DeviceRequest,
};

/// Make large language models smaller on any GPU.
#[derive(Debug, Parser)]
#[command(name = "slicegpt-gpu", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the best smaller model for a size: cut whatever costs least.
    Compress(compress::Args),
    /// Slice a model and write the smaller one.
    Run(run::Args),
    /// Measure the perplexity of a model, dense or sliced.
    Eval(eval::Args),
    /// Continue a text.
    Generate(generate::Args),
    /// Write the logits of token sequences to a safetensors file.
    Logits(logits::Args),
    /// Write a model as a file for other programs.
    Export(export::Args),
    /// Check that an output is whole, and that it computes what it did when it was written.
    Verify(verify::Args),
    /// Write a checkpoint of random weights in the shape of a real model, to measure with.
    Synthesize(synthesize::Args),
    /// List the GPUs that can be used.
    Devices(devices::Args),
    /// Measure how fast a GPU is at what this program does, check its results, and compare.
    Bench(bench::Args),
}

/// Headings of `--help` that several groups of options share; the most common options have none, and come first.
const TEXTS: &str = "Calibration and evaluation";
const MACHINE: &str = "Memory and device";

/// Whether what is there may be replaced: the same rule for everything that is written.
#[derive(Debug, clap::Args)]
struct ForceArgs {
    /// Replace what is there: a file, or a directory that is empty or an output of this program and nothing else; start
    /// over an unfinished run. What is read is never replaced
    #[arg(long)]
    force: bool,
}

/// Which GPU, and how it computes.
#[derive(Debug, clap::Args)]
struct DeviceArgs {
    /// The GPU to use: its number or a part of its name, as `slicegpt-gpu devices` lists them [default: the best]
    #[arg(long, help_heading = MACHINE, value_name = "N|NAME")]
    device: Option<String>,
    /// What linear layers are computed in: f16-matrix rounds their factors to f16 and multiplies on the GPU's matrix
    /// units, where it has them. Covariances, rotations and all else stay f32
    #[arg(long, help_heading = MACHINE, value_enum, default_value = "f32")]
    precision: PrecisionArg,
    /// Write a trace of where the time went, for chrome://tracing or Perfetto; a file that is there is replaced with
    /// --force alone
    #[arg(long, help_heading = MACHINE, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Lose the device after N dispatches, the next one after the second N, …: for tests of what happens then.
    #[arg(long, hide = true, value_name = "N", value_delimiter = ',')]
    lose_device_after: Vec<u64>,
    /// Have so much less memory on the device than was planned with: for tests of what happens then.
    #[arg(long, hide = true, value_name = "SIZE", default_value = "0", value_parser = clap::value_parser!(u64))]
    withhold_gpu_memory: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PrecisionArg {
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
    fn request(&self) -> DeviceRequest {
        DeviceRequest {
            device: self.device.clone(),
            precision: self.precision.into(),
            trace: self.trace.clone(),
            lose_device_after: self.lose_device_after.clone(),
            withhold_gpu_memory: self.withhold_gpu_memory,
        }
    }
}

impl Cli {
    /// What a run would be asked, by the names of the flags, where this is one that `--resume` can continue.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn request(&self) -> Result<Option<Map<String, Value>>> {
        match &self.command {
            Command::Compress(args) => args.request().fields().map(Some),
            Command::Run(args) => args.request().fields().map(Some),
            _ => Ok(None),
        }
    }

    /// Does what was asked.
    ///
    /// # Errors
    /// Whatever went wrong; its exit code is [`crate::Error::exit_code`].
    pub fn execute(self) -> Result<()> {
        match self.command {
            Command::Compress(args) => args.execute(),
            Command::Run(args) => args.execute(),
            Command::Eval(args) => args.execute(),
            Command::Generate(args) => args.execute(),
            Command::Logits(args) => args.execute(),
            Command::Export(args) => args.execute(),
            Command::Verify(args) => args.execute(),
            Command::Synthesize(args) => args.execute(),
            Command::Devices(args) => args.execute(),
            Command::Bench(args) => args.execute(),
        }
    }
}

/// Prints to stdout; a reader that has gone away is no error, a full disk is.
fn print(text: &str) -> Result<()> {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(source) if source.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Write { path: "standard output".into(), source })
        }
        _ => Ok(()),
    }
}

/// Prints one JSON object.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(Error::internal)?;
    print(&format!("{text}\n"))
}
