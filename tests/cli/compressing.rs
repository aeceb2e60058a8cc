//! Compression as people ask for it: how much, of what, and how hard; stopped, it goes on to the same bytes.

use super::{
    resume::{Runs, quietly},
    *,
};

const METHODS: [(&[&str], &str); 2] = [
    (&["--axes", "mlp,layers"], "several probes and candidates, layers left out"),
    (&["--effort", "quick", "--importance", "taylor"], "every axis once, one candidate, gradients first"),
];

/// Commits of a compression: layers forward, the loss, and layers back of gradients of either kind, layers of the
/// survey, probes, candidates, layers of what is written.
fn commits(runs: &Runs, out: &str) -> usize {
    let Some(state) = runs.state(out) else { return 0 };
    let state = &state["slicing"];
    let count = |list: &str| state[list].as_array().map_or(0, Vec::len);
    let layers = |of: &str| state[of]["layers"].as_u64().unwrap_or(0) as usize;
    let surveyed = if state["survey"].is_u64() { 5 } else { layers("surveying") };
    let gradients = |under_way: &str, over: &str| {
        let points = state[under_way]["points"].as_array().map_or(0, Vec::len) / 2;
        let back = state[under_way]["back"]["left"].as_u64().map_or(0, |left| 6 - left as usize);
        if state[over].is_array() { 11 } else { points + back }
    };
    gradients("gradients", "ranking")
        + surveyed
        + gradients("sensing", "sensed")
        + count("probes")
        + count("candidates")
        + layers("fitting")
}

/// Arguments with which a run begins, or goes on.
fn onwards(runs: &Runs, out: &str) -> &'static [&'static str] {
    if runs.state(out).is_some() { &["--resume"] } else { &[] }
}

#[test]
fn killed_in_any_stage_compression_ends_in_the_same_bytes() {
    for (number, (method, reason)) in METHODS.into_iter().enumerate() {
        let runs = Runs::with("compress", method);
        let mut random = Random(number as u64 + 20261125);
        let mut places = Vec::new();
        for round in 0..2 {
            let out = format!("out{round}");
            let mut target = 1 + round;
            while !runs.scene.path(&out).exists() {
                let mut child = quietly(&mut runs.command(&out, onwards(&runs, &out)));
                let began = Instant::now();
                while commits(&runs, &out) < target && child.try_wait().expect("a state").is_none() {
                    assert!(began.elapsed() < Duration::from_secs(120), "{target} commits are not reached");
                    std::thread::sleep(Duration::from_millis(2));
                }
                std::thread::sleep(Duration::from_micros(u64::from(random.below(40_000))));
                child.kill().expect("kill -9");
                let finished = child.wait().expect("an end").success();
                if !finished && !runs.scene.path(&out).exists() {
                    places.push(commits(&runs, &out));
                    target = places[places.len() - 1].max(target) + 2 + random.below(4) as usize;
                } else {
                    assert!(runs.scene.path(&out).exists(), "{method:?} ({reason}), round {round}: refused to go on");
                }
            }
            runs.check(&out, &format!("{method:?} ({reason}), round {round}, killed after {places:?}"));
        }
        println!("{method:?} ({reason}): killed after {places:?} commits");
        assert!(places.len() >= 4, "{method:?} ({reason}): only {places:?}");
    }
}

#[test]
fn in_sittings_compression_ends_in_the_same_bytes() {
    for (method, reason) in METHODS {
        let runs = Runs::with("compress", method);
        let (mut done, mut sittings) = (0, 0);
        loop {
            let flags = [&["--stop-after", "3", "--json"], onwards(&runs, "out")].concat();
            let report = runs.run("out", &flags).json();
            sittings += 1;
            if report["finished"] == json!(true) {
                break;
            }
            let now = report["layers_done"].as_u64().expect("a number");
            assert!(now >= done + 3, "{method:?} ({reason}): {done} layers done before, {now} now");
            done = now;
        }
        println!("{method:?} ({reason}): {sittings} sittings");
        assert!(sittings >= 4, "{method:?} ({reason}): only {sittings} sittings");
        runs.check("out", &format!("{method:?} ({reason}), in {sittings} sittings"));
    }
}

#[test]
fn compression_that_was_stopped_is_not_taken_for_another() {
    let runs = Runs::with("compress", METHODS[0].0);
    // The survey and the gradients go through five layers each.
    assert_eq!(runs.run("out", &["--stop-after", "12"]).code, Some(0));
    for (flags, message) in [
        (&["--resume", "--keep", "75%"][..], "--target-parameters"),
        (&["--resume", "--target-size", "1MB"], "--target-"),
        (&["--resume", "--effort", "thorough"], "--effort"),
        (&["--resume", "--ridge", "0.1"], "--ridge"),
        (&[], "--resume"),
    ] {
        runs.refused("out", flags, 2, message);
    }
    for name in ["survey.0", "sensitivity.1"] {
        let kept = runs.partial("out", name);
        let bytes = fs::read(&kept).expect("what was found");
        for damaged in [&bytes[..bytes.len() / 2], &[&bytes[..], b"more"].concat(), &[0; 4096], b""] {
            fs::write(&kept, damaged).expect("damage");
            runs.refused("out", &["--resume"], 3, "--force starts over");
        }
        fs::write(&kept, bytes).expect("what was found");
    }
    assert_eq!(runs.run("out", &["--resume", "--keep", "80%"]).code, Some(0), "the same share in other words");
    runs.check("out", "after damage was undone");
}

#[test]
fn what_was_cut_is_trained_and_ends_in_the_same_bytes_where_that_was_stopped() {
    let runs = Runs::with("compress", &["--axes", "mlp", "--effort", "quick", "--self-samples", "0", "--recover", "2"]);
    // The survey, the gradients, the probe, which is the only candidate, and the fit go through five layers each.
    let stopped = runs.run("out", &["--stop-after", "21", "--json"]).json();
    let (finished, recovery) = (&stopped["finished"], &stopped["recovery"]);
    assert_eq!((finished, &recovery["mode"], &recovery["steps_done"]), (&json!(false), &json!("blocks"), &json!(2)));
    runs.refused("out", &["--resume", "--recover-mode", "distil"], 2, "--recover-mode");
    runs.refused("out", &["--resume", "--recover-learning-rate", "0.01"], 2, "--recover-learning-rate");
    let cut = runs.partial("out", "draft/model.safetensors");
    let bytes = fs::read(&cut).expect("what was cut");
    let mut other = bytes.clone();
    *other.last_mut().expect("a byte") ^= 1;
    fs::write(&cut, other).expect("another value");
    runs.refused("out", &["--resume"], 3, "not as the unfinished run has left it; --force starts over");
    fs::write(&cut, bytes).expect("what was cut");
    let report = runs.run("out", &["--resume", "--json"]).json();
    let losses = report["recovery"]["losses"].as_array().expect("a list");
    assert!(losses.len() == 5 * 2 && losses.iter().all(|loss| loss.as_f64() > Some(0.0)), "{losses:?}");
    runs.check("out", "stopped while it was trained");
    let card = fs::read_to_string(runs.scene.path("out/README.md")).expect("a card");
    assert!(card.contains("Then: 2 steps of each layer") && card.contains("loss.svg"), "{card}");
    assert_eq!(program(args!["verify", runs.scene.path("out")]).code, Some(0));
}

#[test]
fn what_is_narrower_is_trained_towards_predictions_and_what_has_fewer_layers_towards_those_that_stay() {
    let scene = Scene::new("llama_gqa_tied");
    for (axes, mode, losses) in [("width", "distil", 2), ("layers", "blocks", 2), ("mlp", "blocks", 4)] {
        let flags = ["--axes", axes, "--effort", "quick", "--self-samples", "0", "--recover", "2"];
        let report = compressed(&scene, &flags);
        let recovery = &report["recovery"];
        assert_eq!(recovery["mode"], json!(mode), "{axes}: {report}");
        assert_eq!(recovery["losses"].as_array().map(Vec::len), Some(losses), "{axes}: {report}");
    }
}

#[test]
fn what_was_cut_is_trained_as_it_was_asked_for() {
    let scene = Scene::new("llama_gqa_tied");
    let losses = |axes: &str, flags: &[&str]| {
        let asked = ["--axes", axes, "--effort", "quick", "--self-samples", "0", "--recover", "2"];
        let report = compressed(&scene, &[&asked[..], flags].concat());
        let losses: Vec<f64> = serde_json::from_value(report["recovery"]["losses"].clone()).expect("losses");
        (report["recovery"]["mode"].clone(), losses)
    };
    let (mode, distil) = losses("mlp", &["--recover-mode", "distil"]);
    assert_eq!((mode, distil.len()), (json!("distil"), 2), "where each layer would be trained");
    let (mode, lora) = losses("mlp", &["--recover-mode", "lora"]);
    assert_eq!((mode, lora.len()), (json!("lora"), 2));
    // Of next tokens, and of predictions that differ little.
    assert!(lora[0] > 10.0 * distil[0], "{lora:?}, {distil:?}");
    let (_, faster) = losses("mlp", &["--recover-mode", "distil", "--recover-rate", "0.5"]);
    assert!(faster[0] == distil[0] && faster[1] != distil[1], "{faster:?}, {distil:?}");
    let (mode, blocks) = losses("mlp,layers", &["--recover-mode", "blocks"]);
    assert_eq!((mode, blocks.len() % 2), (json!("blocks"), 0));
    let (mode, _) = losses("width", &["--recover-mode", "lora"]);
    assert_eq!(mode, json!("lora"));
}

/// What compressing the scene's model to `out` says.
fn compressed(scene: &Scene, flags: &[&str]) -> Value {
    let (model, out) = (scene.path("model"), scene.path("out"));
    let tokens = scene.tokens("tokens.json", 8, 40);
    let mut command = Command::new(PROGRAM);
    command.args(args!["compress", model, "-o", out, "--force", "--json", "--calibration", tokens]).args(flags);
    said(&mut command).json()
}

fn sizes(report: &Value) -> Vec<u64> {
    ["hidden_size", "layers", "query_heads", "key_value_heads", "intermediate_size"]
        .map(|name| report["after"][name].as_u64().expect("a size"))
        .to_vec()
}

#[test]
fn goals_are_met_by_the_axes_that_were_asked_for() {
    let scene = Scene::new(LLAMA);
    let whole = vec![24, 2, 4, 2, 26];
    for (flags, changed, most) in [
        (&["--axes", "mlp", "--keep", "90%"][..], &[4][..], 0.9),
        (&["--axes", "heads", "--target-parameters", "-8%"], &[2], 0.92),
        (&["--axes", "kv-heads", "--target-parameters=-10%"], &[2, 3], 0.9),
        (&["--axes", "layers", "--keep", "80%"], &[1], 0.8),
        (&["--axes", "width", "--keep", "85%"], &[0], 0.85),
        (&["--axes", "layers,mlp,heads", "--effort", "quick"], &[1, 2, 4], 0.8),
        (&["--axes", "mlp,heads", "--effort", "thorough"], &[2, 4], 0.8),
        (&["--target-size", "30kB", "--effort", "quick"], &[0, 1, 2, 3, 4], 1.0),
    ] {
        let report = compressed(&scene, flags);
        let (before, after) = (&report["before"], &report["after"]);
        let share = after["parameters"].as_f64().expect("a number") / before["parameters"].as_f64().expect("a number");
        assert!(share <= most && share > 0.4, "{flags:?}: {share} of the parameters are left");
        if flags[0] == "--target-size" {
            assert!(after["bytes"].as_u64().expect("a number") <= 30_000, "{after}");
        }
        let found = sizes(&report);
        for (at, (found, whole)) in found.iter().zip(&whole).enumerate() {
            assert!(found == whole || changed.contains(&at), "{flags:?}: {report}");
        }
        assert_ne!(found, whole, "{flags:?}");
        // What the report says is what lies there.
        let config = read_json(&scene.path("out/config.json"));
        let fields =
            ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size"];
        assert_eq!(fields.map(|name| config[name].as_u64().expect("a size")).to_vec(), found, "{flags:?}");
        let removed = report["removed"].as_array().expect("layers");
        assert_eq!(removed.len(), 2, "{flags:?}: one for every layer of the original");
        for layer in removed.iter().filter(|layer| layer["whole"] == json!(false)) {
            for (list, whole, left) in
                [("query_heads", 4, found[2]), ("key_value_heads", 2, found[3]), ("mlp_channels", 26, found[4])]
            {
                let gone = layer[list].as_array().expect("numbers").len() as u64;
                assert_eq!(gone, whole - left, "{flags:?}: {list} of {layer}");
            }
        }
        let checkpoint = Checkpoint::open(&scene.path("out")).expect("a checkpoint");
        assert_eq!(checkpoint.byte_len(), after["bytes"].as_u64().expect("a number"), "{flags:?}");
        let eval = program(args!["eval", scene.path("out"), "--tokens", scene.path("tokens.json")]);
        assert!(eval.code == Some(0) && eval.out.starts_with("perplexity "), "{flags:?}: {eval:?}");
    }
    let quick = compressed(&scene, &["--axes", "mlp", "--effort", "quick"]);
    let thorough = compressed(&scene, &["--axes", "mlp", "--effort", "thorough"]);
    let probes = |report: &Value| report["probes"].as_array().expect("probes").len();
    assert!(probes(&quick) == 1 && probes(&thorough) == 3, "{} and {} probes", probes(&quick), probes(&thorough));
}

#[test]
fn where_nothing_has_to_leave_nothing_is_drawn_probed_or_changed() {
    let scene = Scene::new(LLAMA);
    for importance in ["obs", "taylor"] {
        let flags = ["--target-size", "1MB", "--importance", importance];
        let report = compressed(&scene, &flags);
        assert_eq!(sizes(&report), [24, 2, 4, 2, 26], "{report}");
        assert_eq!(report["calibration"]["own_sequences"], json!(0), "{report}");
        assert_eq!(report["probes"], json!([]), "{report}");
        let seconds = report["seconds"].as_object().expect("times");
        assert!(!seconds.contains_key("gradients") && !seconds.contains_key("sample"), "{seconds:?}");
        let [before, after] = ["model", "out"].map(|name| Checkpoint::open(&scene.path(name)).expect("a checkpoint"));
        for name in before.names() {
            let [old, new] = [&before, &after].map(|of| of.tensor(name).expect("a tensor").read().expect("its bytes"));
            assert!(old == new, "{name} ({importance})");
        }
    }
    let (model, out, tokens) = (scene.path("model"), scene.path("out2"), scene.path("tokens.json"));
    let all = args!["compress", model, "-o", out, "--calibration", tokens, "--target-size", "1MB", "--recover", "2"];
    scene.refused(all, 2, "--recover: no layer is cut");
}

#[test]
fn what_the_model_wrote_itself_is_counted_beside_what_the_file_has() {
    let scene = Scene::new(LLAMA);
    let card = || fs::read_to_string(scene.path("out/README.md")).expect("a card");
    let flags = ["--axes", "mlp", "--effort", "quick"];
    for (own, said) in [("3", "8 of {} and 3 that the model wrote itself; sha256"), ("0", "of {}; sha256")] {
        let report = compressed(&scene, &[&flags[..], &["--self-samples", own]].concat());
        let calibration = &report["calibration"];
        assert_eq!(calibration["own_sequences"].to_string(), own, "{calibration}");
        assert_eq!(calibration["sequences"].as_u64(), own.parse::<u64>().ok().map(|own| 8 + own), "{calibration}");
        let said = said.replace("{}", "tokens.json");
        assert!(card().contains(&said), "{}", card());
    }
    let (model, out, tokens) = (scene.path("model"), scene.path("out"), scene.path("tokens.json"));
    let compress = args!["compress", model, "-o", out, "--force", "--axes", "mlp", "--effort", "quick", "--keep=90%"];
    let shown = program(&[compress.as_slice(), args!["--calibration", tokens, "--self-samples", "3"]].concat());
    assert!(shown.out.contains("3 of the sequences written by the model itself)"), "{shown:?}");
    let shown = program(&[compress.as_slice(), args!["--cal-nsamples", "4", "--cal-max-seqlen", "32"]].concat());
    assert!(shown.code == Some(0) && card().contains("Calibrated on 4 sequences (128 tokens) that the model wrote"));
}

#[test]
fn a_dry_run_says_what_would_come_of_it_and_writes_nothing() {
    let scene = Scene::new(LLAMA);
    let tokens = scene.tokens("tokens.json", 8, 40);
    let (model, out) = (scene.path("model"), scene.path("out"));
    let before = scene.contents();
    let arguments = args!["compress", model, "-o", out, "--calibration", tokens, "--dry-run"];
    let table = program(arguments);
    assert!(table.code == Some(0) && table.out.contains("would write") && table.out.contains("memory"), "{table:?}");
    let report = program(&[arguments.as_slice(), args!["--json"]].concat()).json();
    assert_eq!((&report["dry_run"], &report["finished"]), (&json!(true), &json!(false)), "{report}");
    assert!(report["percent_removed"].as_f64().expect("a number") >= 20.0, "{report}");
    let exporting = [arguments.as_slice(), args!["--export", "gguf:f32"]].concat();
    let (table, file) = (program(&exporting), scene.path("out-f32.gguf").display().to_string());
    assert!(table.out.contains(&format!("would export             {file}\n")), "{table:?}");
    let report = program(&[exporting.as_slice(), args!["--json"]].concat()).json();
    assert_eq!((&report["would_export"], &report["exported"]), (&json!(file), &Value::Null), "{report}");
    assert!(scene.contents() == before, "a dry run wrote something");
}

#[test]
fn where_nothing_is_cut_no_more_than_a_few_sequences_go_through_the_layers() {
    let scene = Scene::new(LLAMA);
    let (model, out) = (scene.path("model"), scene.path("out"));
    let run = |count: usize, size: &str, flags: &[&str]| {
        let tokens = scene.tokens("tokens.json", count, 40);
        let asked = args!["compress", model, "-o", out, "--calibration", tokens, "--target-size", size, "--json"];
        let flags: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
        program(&[asked.as_slice(), flags.as_slice()].concat()).json()
    };
    let planned = |report: &Value, what: &str| {
        let phases = report["memory"].as_array().expect("phases");
        let phase = phases.iter().find(|phase| phase["phase"] == "compress").expect("one");
        phase[what].as_u64().expect("bytes")
    };
    let disk = |count: usize, size: &str| planned(&run(count, size, &["--dry-run"]), "disk_bytes");
    assert!(disk(4, "35KB") < disk(64, "35KB"));
    assert_eq!(disk(4, "100MB"), disk(64, "100MB"));
    let report = run(64, "100MB", &[]);
    assert_eq!(report["calibration"]["sequences"], 64, "{report}");
    assert!(report["peak_gpu_bytes"].as_u64() <= Some(planned(&report, "gpu_bytes")), "{report}");
}

#[test]
fn predictions_are_compared_on_every_text_that_was_given() {
    let scene = Scene::new(LLAMA);
    let (one, other) = (scene.tokens("one.json", 3, 30), scene.tokens("other.json", 2, 25));
    let texts = [&one, &other].map(|path| path.to_str().expect("a name").to_owned());
    let report = compressed(&scene, &["--axes", "mlp", "--eval", &texts[0], "--eval", &texts[1]]);
    let elsewhere = report["perplexity_elsewhere"].as_array().expect("texts");
    assert_eq!(elsewhere.len(), 1);
    for (found, text) in [&report["perplexity"], &elsewhere[0]].into_iter().zip(&texts) {
        assert_eq!(found["text"], json!(text));
        let (kl, top) = (found["kl"].as_f64().expect("a number"), found["top_1"].as_f64().expect("a number"));
        assert!(kl > 0.0 && (0.0..=1.0).contains(&top), "{found}");
        // As eval has it of what was written.
        let eval = program(args!["eval", scene.path("out"), "--tokens", text, "--json"]).json();
        assert_eq!(eval["perplexity"], found["sliced"], "{found}: {eval}");
    }
}

#[test]
fn the_way_to_llama_cpp_is_told_where_there_is_one() {
    for (fixture, exportable) in [("gpt2_n_inner", true), ("opt_relu", false)] {
        let scene = Scene::new(fixture);
        let (model, out, tokens) = (scene.path("model"), scene.path("out"), scene.tokens("tokens.json", 2, 30));
        let arguments = args!["compress", model, "-o", out, "--calibration", tokens];
        let more = args!["--axes", "mlp", "--keep", "97%", "--effort", "quick"];
        let done = program(&[arguments.as_slice(), more].concat());
        assert!(done.code == Some(0) && done.out.contains("quantised to 8 bits alone"), "{fixture}: {done:?}");
        let told = done.out.contains("alone (export --format gguf --type q8_0) it takes");
        assert_eq!(told, exportable, "{fixture}: {}", done.out);
    }
}

#[test]
fn the_result_is_exported_too_where_that_is_asked_for() {
    let scene = Scene::new(LLAMA);
    let (model, out, file) = (scene.path("model"), scene.path("out"), scene.path("out-f32.gguf"));
    let report = compressed(&scene, &["--axes", "mlp", "--effort", "quick", "--export", "gguf:f32"]);
    let bytes = fs::read(&file).expect("a file");
    assert_eq!(report["exported"]["output"], json!(file.display().to_string()), "{report}");
    assert_eq!(report["exported"]["bytes"], json!(bytes.len()));
    // What `export` makes of the same result.
    let other = scene.path("other.gguf");
    assert_eq!(program(args!["export", out, "--format", "gguf", "--type", "f32", "-o", other]).code, Some(0));
    assert!(fs::read(&other).expect("a file") == bytes, "export makes another file");
    // A file that is there stands in the way before any work is done, and so does a model that has no such form.
    fs::remove_dir_all(&out).expect("the output");
    let tokens = scene.path("tokens.json");
    let arguments = args!["compress", model, "-o", out, "--calibration", tokens, "--export", "gguf:f32"];
    scene.refused(arguments, 2, "already exists");
    let dry = program(&[arguments.as_slice(), args!["--force", "--dry-run"]].concat());
    assert!(dry.code == Some(0) && fs::read(&file).expect("a file") == bytes, "a dry run wrote it: {dry:?}");
    let per_block = args!["run", model, "-o", out, "--calibration", tokens, "--export", "gguf"];
    scene.refused(per_block, 2, "cannot be exported as gguf");
    let shared = args!["--basis", "shared", "--sparsity", "0.25", "--json"];
    let report = program(&[per_block.as_slice(), shared].concat()).json();
    assert!(scene.path("out-f16.gguf").exists() && report["exported"]["bytes"].is_u64(), "{report}");
}

#[test]
fn what_cannot_be_done_is_refused_with_the_way_out() {
    let scene = Scene::new(LLAMA);
    let tokens = scene.tokens("tokens.json", 6, 20);
    let one = scene.tokens("one.json", 1, 20);
    let (model, out) = (scene.path("model"), scene.path("out"));
    let refused = |flags: &[&str], message: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(args!["compress", model, "-o", out, "--calibration", tokens]).args(flags);
        scene.refused_with(&mut command, 2, message);
    };
    for (flags, message) in [
        (
            &["--axes", "mlp", "--target-parameters", "-70%"][..],
            "no sizes within -70.0 % of the parameters by cutting mlp; ask for less, or allow --axes width,",
        ),
        (&["--axes", "mlp", "--keep", "10%"], "ask for less, or allow --axes width,"),
        (&["--target-size", "1"], "no sizes within 1 bytes"),
        (&["--per-layer", "--importance", "taylor"], "--per-layer goes by what --importance obs measures"),
        (&["--ridge", "0"], "--ridge 0: expected a number above 0"),
        (&["--ridge", "nan"], "expected a number above 0"),
        (&["--axes", "mlp", "--effort", "quick", "--export", "gguf:mxfp4"], "mxfp4 is a type of experts"),
        (&["--recover", "2", "--recover-mode", "blocks"], "say --axes mlp,heads,kv-heads,layers, or --recover-mode"),
        (&["--recover", "2", "--axes", "width", "--recover-mode", "blocks"], "say --axes mlp, or --recover-mode"),
        (&["--recover", "2", "--recover-learning-rate", "0"], "--recover-learning-rate 0: expected a number"),
    ] {
        refused(flags, message);
    }
    // Values that are none are clap's to refuse: it says what is expected, and nothing is written.
    let before = scene.contents();
    for (flags, message) in [
        (
            &["--axes", "depth"][..],
            "expected some of width, mlp, heads, kv-heads, layers and experts, separated by commas",
        ),
        (&["--axes", "mlp,"], "expected some of width"),
        (&["--keep", "0%"], "expected a percentage"),
        (&["--keep", "100%"], "expected a percentage"),
        (&["--keep", "-20%"], "expected a percentage such as 80%, found \"-20%\""),
        (&["--keep", "much"], "expected a percentage"),
        (&["--target-parameters", "-100%"], "expected a percentage"),
        (&["--target-size", "0"], "expected a size such as"),
        (&["--keep", "80%", "--target-size", "1MB"], "cannot be used with"),
        (&["--keep", "80%", "--target-parameters", "-20%"], "cannot be used with"),
        (&["--effort", "some"], "quick, normal, thorough"),
        (&["--recover-mode", "distil"], "--recover <N>"),
        (&["--recover-learning-rate", "0.1"], "--recover <N>"),
        (&["--recover", "2", "--recover-mode", "all"], "expected lora, blocks or distil"),
        (&["--export", "onnx"], "expected gguf, gguf:f16, gguf:q8_0, gguf:f32 or gguf:mxfp4"),
        (&["--export", "gguf:q4_k"], "expected gguf, gguf:f16, gguf:q8_0, gguf:f32 or gguf:mxfp4"),
    ] {
        let mut command = Command::new(PROGRAM);
        command.args(args!["compress", model, "-o", out, "--calibration", tokens]).args(flags);
        let said = said(&mut command);
        assert!(said.code == Some(2) && said.err.contains(message), "{flags:?}: {said:?}");
    }
    assert!(scene.contents() == before, "a refusal wrote something");
    // Where nothing is left to allow, and where nothing can be cut at all.
    let all = said(Command::new(PROGRAM).args(args!["compress", model, "-o", out, "--target-size", "1"]));
    assert!(all.code == Some(2) && all.err.trim_end().ends_with("; ask for less"), "{all:?}");
    let bloom = Scene::new("bloom_power_of_two");
    let none = program(args!["compress", bloom.path("model"), "-o", bloom.path("out")]);
    for reason in
        ["nothing of this model can be cut:", "--axes width: ", "--axes mlp: ", "--axes layers: there is only one"]
    {
        assert!(none.code == Some(2) && none.err.contains(reason), "{reason}: {none:?}");
    }
    scene.refused(
        args!["compress", model, "-o", out, "--calibration", one, "--self-samples", "0"],
        3,
        "at least two are needed, as one is measured on and not fitted to; give more text, or lower --cal-max-seqlen",
    );
    for (fixture, axis, message) in [
        ("llama_mha_untied", "heads", "no two query heads share a key and a value"),
        ("llama_mha_untied", "heads", "--axes kv-heads takes heads together with their keys and values"),
        ("qwen3_tied", "kv-heads", "there is only one"),
        ("gpt2_tied", "heads", "cannot leave; `prune --attention` takes them in a form of its own"),
        ("gpt2_tied", "kv-heads", "its classes take hidden_size / heads for the width of a head"),
        ("gpt2_tied", "kv-heads", "; `prune --attention` takes them in a form of its own"),
        ("gpt2_tied", "width", "the head is the embedding"),
        ("bloom_tied", "mlp", "a multiple of hidden_size; `prune --mlp` takes them in a form of its own"),
        ("bloom_tied", "width", "the norm after its embedding has parameters"),
        ("opt_untied", "width", "its classes have no form for that"),
    ] {
        let scene = Scene::new(fixture);
        let tokens = scene.tokens("tokens.json", 6, 20);
        scene.refused(
            args!["compress", scene.path("model"), "-o", scene.path("out"), "--calibration", tokens, "--axes", axis],
            2,
            message,
        );
    }
}

#[test]
fn models_with_delta_nets_are_cut_by_gradients_and_trained() {
    let scene = Scene::new("qwen35_interval");
    let tokens = scene.tokens("tokens.json", 12, 24);
    let (model, out) = (scene.path("model"), scene.path("out"));
    let flags = ["--importance", "taylor", "--effort", "quick", "--recover", "2", "--json"];
    let said =
        said(Command::new(PROGRAM).args(args!["compress", model, "-o", out, "--calibration", tokens]).args(flags));
    let report = said.json();
    let losses = report["recovery"]["losses"].as_array().expect("a list");
    // Of a layer that lost nothing there is nothing to learn.
    assert!(losses.last().and_then(|loss| loss.as_f64()) > Some(0.0), "{losses:?}");
    assert_eq!(program(args!["verify", out]).code, Some(0));
}
