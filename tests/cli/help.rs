//! Does `--help` begin with what most people need, and put the rest under headings?

use std::collections::BTreeMap;

use clap::{Command, CommandFactory};
use slicegpt_gpu::cli::Cli;

/// The visible options of a subcommand, by their headings.
fn headings(command: &Command) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for argument in command.get_arguments().filter(|argument| !argument.is_positional() && !argument.is_hide_set()) {
        let heading = argument.get_help_heading().unwrap_or("Options").to_owned();
        found.entry(heading).or_default().push(argument.get_id().to_string());
    }
    found
}

#[test]
fn what_takes_many_options_puts_the_common_ones_first_and_the_others_under_headings() {
    let all = Cli::command();
    for command in all.get_subcommands() {
        let found = headings(command);
        let first = found.get("Options").map_or(0, Vec::len);
        assert!(first <= 10, "{}: {first} options come first: {found:?}", command.get_name());
        let longest = found.values().map(Vec::len).max().unwrap_or(0);
        assert!(longest <= 10, "{}: {found:?}", command.get_name());
    }
    let run = all.find_subcommand("run").expect("run");
    let found = headings(run);
    for common in ["output", "sparsity", "target_parameters", "basis", "calibration", "dry_run"] {
        assert!(found["Options"].iter().any(|name| name == common), "{common} is not among the first: {found:?}");
    }
    assert!(found.len() >= 5, "{found:?}");
    let help = run.clone().render_help().to_string();
    let places: Vec<_> = ["\nOptions:", "\nHow to slice:", "\nCalibration and evaluation:", "\nMemory and device:"]
        .map(|heading| help.find(heading).unwrap_or_else(|| panic!("{heading}: {help}")))
        .into();
    assert!(places.is_sorted(), "{help}");
}
