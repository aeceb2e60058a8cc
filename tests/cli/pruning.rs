//! Pruning as people ask for it: what leaves, and what is said of it; stopped, it goes on to the same bytes.

use super::{resume::Runs, *};

#[test]
fn in_sittings_pruning_ends_in_the_same_bytes() {
    for (method, reason) in [
        (&["--layers", "all", "--iterations", "2"][..], "two rounds, layers alike"),
        (&["--global", "--importance", "param_mix"], "layers that differ"),
    ] {
        let runs = Runs::with("prune", method);
        let (mut done, mut sittings) = (0, 0);
        loop {
            let resume: &[&str] = if sittings > 0 { &["--resume"] } else { &[] };
            let report = runs.run("out", &[&["--stop-after", "1", "--json"], resume].concat()).json();
            sittings += 1;
            if report["finished"] == json!(true) {
                break;
            }
            let now = report["layers_done"].as_u64().expect("a number");
            assert!(now > done, "{method:?} ({reason}): {done} layers done before, {now} now");
            done = now;
        }
        assert!(sittings >= 6, "{method:?} ({reason}): only {sittings} sittings");
        runs.check("out", &format!("{method:?} ({reason}), in {sittings} sittings"));
    }
}

#[test]
fn pruning_that_was_stopped_is_not_taken_for_another() {
    let runs = Runs::with("prune", &["--layers", "all"]);
    assert_eq!(runs.run("out", &["--stop-after", "7"]).code, Some(0));
    for (flags, message) in [
        (&["--resume", "--ratio", "0.5"][..], "--ratio"),
        (&["--resume", "--importance", "l2"], "--importance"),
        (&["--resume", "--mlp"], "--groups"),
        (&[], "--resume"),
    ] {
        runs.refused("out", flags, 2, message);
    }
    assert_eq!(runs.run("out", &["--resume"]).code, Some(0));
    runs.check("out", "after refusals");
}

/// What pruning the scene's model to `out` says.
fn pruned(scene: &Scene, flags: &[&str]) -> Said {
    let (model, out) = (scene.path("model"), scene.path("out"));
    let tokens = scene.tokens("tokens.json", 12, 40);
    let mut command = Command::new(PROGRAM);
    command.args(args!["prune", model, "-o", out, "--force", "--json", "--examples", tokens]).args(flags);
    said(&mut command)
}

#[test]
fn the_report_lists_what_left_every_layer_and_what_was_written_has_the_rest() {
    // Two layers of four heads, two key-value heads and 26 channels.
    let scene = Scene::new(LLAMA);
    for (flags, left, by_layer) in [
        (&["--layers", "all", "--ratio", "0.5"][..], [[2, 1, 13], [2, 1, 13]], false),
        (&["--layers", "1..2", "--ratio", "0.5"], [[4, 2, 26], [2, 1, 13]], true),
        (&["--layers", "all", "--mlp", "--importance", "l1"], [[4, 2, 19], [4, 2, 19]], false),
        (&["--layers", "all", "--attention", "--ratio", "0.5", "--taylor", "vectorize"], [[2, 1, 26]; 2], false),
    ] {
        let report = pruned(&scene, flags).json();
        let removed = report["removed"].as_array().expect("a list");
        let count = |removed: &Value, name: &str| removed[name].as_array().expect("a list").len() as u64;
        let whole = [4, 2, 26];
        for (layer, (removed, left)) in removed.iter().zip(left).enumerate() {
            let lists = ["query_heads", "key_value_heads", "mlp_channels"];
            let found: Vec<u64> = lists.iter().zip(whole).map(|(name, all)| all - count(removed, name)).collect();
            assert_eq!((removed["layer"].as_u64(), found.as_slice()), (Some(layer as u64), &left[..]), "{flags:?}");
        }
        assert_eq!(report["by_layer"].is_array(), by_layer, "{flags:?}");
        let written = read_json(&scene.path("out/config.json"));
        assert_eq!(written["model_type"] == json!("llama"), !by_layer, "{flags:?}");
        assert_eq!(program(args!["verify", scene.path("out")]).code, Some(0), "{flags:?}");
        let perplexity = &report["perplexity"];
        assert!(perplexity.is_null() || perplexity["sliced"].as_f64() > perplexity["original"].as_f64().map(|_| 1.0));
    }
}

#[test]
fn what_cannot_be_pruned_is_refused_with_the_reason() {
    let scene = Scene::new(LLAMA);
    for (flags, message) in [
        (&["--ratio", "1.5"][..], "between 0 and 1"),
        (&["--layers", "0..9"], "of the 2 layers"),
        (&["--layers", "first"], "4..30"),
        (&["--importance", "param_third"], "param_first"),
        (&["--layers", "all", "--attention", "--ratio", "0.1"], "not one head or channel"),
    ] {
        let said = pruned(&scene, flags);
        assert!(said.code.is_some_and(|code| (1..=3).contains(&code)), "{flags:?}: {said:?}");
        assert!(said.err.contains(message), "{flags:?}: {said:?}");
    }
}

#[test]
fn ten_examples_are_taken_and_all_of_a_file_that_has_fewer() {
    let scene = Scene::new(LLAMA);
    let (model, out) = (scene.path("model"), scene.path("out"));
    for (rows, flags, taken) in [(12, &[][..], 10), (4, &[], 4), (12, &["--nsamples", "3"], 3)] {
        let tokens = scene.tokens("tokens.json", rows, 20);
        let mut command = Command::new(PROGRAM);
        command.args(args!["prune", model, "-o", out, "--force", "--json", "--layers", "all", "--examples", tokens]);
        let report = said(command.args(flags)).json();
        assert_eq!(report["calibration"]["sequences"], json!(taken), "{rows} rows, {flags:?}");
    }
    let tokens = scene.tokens("tokens.json", 4, 20);
    let more = scene.path("more");
    let asked = args!["prune", model, "-o", more, "--layers", "all", "--examples", tokens, "--nsamples", "5"];
    scene.refused(asked, 2, "has 4 rows");
}
