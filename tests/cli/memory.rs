//! Is memory that runs out answered by smaller pieces, and by a refusal where that does not help?

use super::{resume::*, *};

#[test]
fn memory_that_runs_out_is_answered_by_smaller_pieces_and_then_by_the_flags() {
    let runs = Runs::new();
    // Sequences of 40 tokens, as many at a time as planned, which is all.
    let command = |out: &str, withheld: u64, flags: &[&str]| {
        let withheld = withheld.to_string();
        let path = |name: &str| runs.scene.path(name);
        let tokens = runs.scene.tokens("many.json", 80, 40);
        let mut command = Command::new(PROGRAM);
        command.args(args![
            "run",
            path("model"),
            "-o",
            path(out),
            "--calibration",
            tokens,
            "--max-gpu-memory",
            "12MiB",
            "--json"
        ]);
        command.args(["--withhold-gpu-memory", &withheld]).args(flags);
        said(&mut command)
    };
    let whole = command("whole", 0, &[]).json();
    assert!(whole["peak_gpu_bytes"].as_u64().is_some_and(|bytes| bytes <= 12 << 20), "{whole}");
    let tokens = |report: &Value| report["plan"]["slice"]["batch"]["tokens"].as_u64().expect("tokens");
    let squeezed = command("squeezed", 3 << 20, &[]);
    assert!(
        squeezed.err.contains("trying again with fewer tokens at a time and the residual off the GPU"),
        "{squeezed:?}"
    );
    let report = squeezed.json();
    assert!(tokens(&report) < tokens(&whole), "{report}");
    assert!(report["peak_gpu_bytes"].as_u64().is_some_and(|bytes| bytes <= 9 << 20), "{report}");
    let failed = command("failed", 11 << 20, &[]);
    assert_eq!(failed.code, Some(5), "{failed:?}");
    assert!(failed.err.lines().last().is_some_and(|last| last.contains("--max-gpu-memory")), "{failed:?}");
}

#[test]
fn too_little_memory_to_go_on_as_it_began_is_refused() {
    let runs = Runs::new();
    let tokens = runs.scene.tokens("many.json", 80, 40);
    let flags = ["--calibration", tokens.to_str().expect("a name"), "--max-gpu-memory"];
    let command = |out: &str, more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(args!["run", runs.scene.path("model"), "-o", runs.scene.path(out)]).args(flags).args(more);
        said(&mut command)
    };
    assert_eq!(command("whole", &["12MiB"]).code, Some(0));
    assert_eq!(command("small", &["7MiB"]).code, Some(0), "smaller pieces would fit");
    assert_eq!(command("out", &["12MiB", "--stop-after", "2"]).code, Some(0));
    let state = fs::read(runs.partial("out", "state")).expect("a state");
    let refused = command("out", &["7MiB", "--resume"]);
    assert!(refused.code == Some(5) && refused.err.contains("--max-gpu-memory is too low by"), "{refused:?}");
    assert!(fs::read(runs.partial("out", "state")).expect("the state") == state, "{refused:?}");
    assert_eq!(command("out", &["12MiB", "--resume"]).code, Some(0));
    assert!(runs.output("out") == runs.output("whole"), "went on to other bytes");
}
