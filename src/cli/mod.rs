//! The command line: flags → validated options → the library → what people see.

mod arguments;
mod bench;
mod calibration;
mod compress;
mod devices;
mod eval;
mod export;
mod generate;
mod logits;
mod panics;
mod print;
mod progress;
mod prune;
mod recover;
mod run;
mod slicing;
mod synthesize;
mod verify;
mod work;

use clap::{Parser, Subcommand};
pub use panics::hush_caught_panics;
use serde_json::{Map, Value};

use crate::error::Result;

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
    /// Remove the attention heads and MLP channels that matter least, by gradients of the loss.
    Prune(prune::Args),
    /// Train a model after a cut: on a text, or towards the dense model.
    Recover(recover::Args),
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

impl Cli {
    /// What a run would be asked, by the names of the flags, where this is one that `--resume` can continue.
    ///
    /// # Errors
    /// [`Error::Internal`](crate::Error::Internal).
    pub fn request(&self) -> Result<Option<Map<String, Value>>> {
        match &self.command {
            Command::Compress(args) => args.request()?.fields().map(Some),
            Command::Prune(args) => args.request()?.fields().map(Some),
            Command::Recover(args) => args.request().fields().map(Some),
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
            Command::Prune(args) => args.execute(),
            Command::Recover(args) => args.execute(),
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
