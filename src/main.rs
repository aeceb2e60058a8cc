//! The program: parse, run, print the error chain once, exit with its code.

use std::{error::Error as _, io::Write, process::ExitCode};

use clap::Parser;
use slicegpt_gpu::{cli::Cli, data::is_fenced};

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

/// What is caught and reported as an error is not printed as a panic, too.
fn hush_caught_panics() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !is_fenced() {
            hook(panic);
        }
    }));
}
