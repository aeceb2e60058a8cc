//! The program: parse, run, print the error chain once, exit with its code.

use std::{error::Error as _, io::Write, process::ExitCode};

use clap::Parser;
use slicegpt_gpu::cli::{Cli, hush_caught_panics};

fn main() -> ExitCode {
    hush_caught_panics();
    let Err(error) = Cli::parse().execute() else { return ExitCode::SUCCESS };
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    // Not eprintln!, which panics where nobody reads.
    let _ = writeln!(std::io::stderr(), "error: {message}");
    ExitCode::from(error.exit_code())
}
