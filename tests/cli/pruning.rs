//! Pruning as people ask for it: what leaves, and what is said of it; stopped, it goes on to the same bytes.

use super::{resume::Runs, *};

#[test]
fn in_sittings_pruning_ends_in_the_same_bytes() {
    for (method, reason) in [
        (&["--layers", "all", "--iterations", "2"][..], "two rounds, layers alike"),
        (&["--global", "--importance", "param_mix"], "layers that differ"),
        (&["--layers", "1..3", "--refit", "writes"], "fitted, some layers whole"),
        (&["--channel", "--ratio", "0.5", "--importance", "param_second"], "narrower"),
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
    // Within the gradients: two of five layers have handed theirs over.
    assert_eq!(runs.run("out", &["--stop-after", "2"]).code, Some(0));
    let state = runs.state("out").expect("a state");
    assert_eq!(state["slicing"]["ranked"]["gradients"]["back"]["left"], json!(3));
    for name in ["found.1", "residual.3.0", "layer-gradient.1.0"] {
        let path = runs.partial("out", name);
        let bytes = fs::read(&path).expect("what was committed");
        for damaged in [&bytes[..bytes.len() / 2], &vec![0; bytes.len()], b""] {
            fs::write(&path, damaged).expect("damage");
            runs.refused("out", &["--resume"], 3, "--force starts over");
        }
        fs::write(&path, bytes).expect("what was committed");
    }
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
fn what_each_group_matters_is_written_and_the_least_of_it_leaves() {
    let scene = Scene::new(LLAMA);
    let file = scene.path("importance.safetensors");
    let flags = ["--layers", "1..2", "--ratio", "0.5", "--importance", "param_mix", "--write-importance"];
    let report = pruned(&scene, &[&flags[..], &[file.to_str().expect("a name")]].concat()).json();
    let bytes = fs::read(&file).expect("the file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    assert_eq!(file.len(), 2, "of the layer that may be cut");
    for (name, count, list) in [("attention", 2, "key_value_heads"), ("mlp", 26, "mlp_channels")] {
        let tensor = file.tensor(&format!("layers.1.{name}")).expect("the values");
        assert_eq!((tensor.shape(), tensor.dtype()), (&[count][..], safetensors::Dtype::F64));
        let value = |bytes: &[u8]| f64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        let values: Vec<f64> = tensor.data().chunks_exact(8).map(value).collect();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
        order.truncate(count / 2);
        order.sort_unstable();
        assert_eq!(report["removed"][1][list], json!(order), "{name}");
    }
}

#[test]
fn coordinates_that_left_are_listed_and_are_those_that_matter_least() {
    let scene = Scene::new("qwen2_gqa_tied");
    let file = scene.path("importance.safetensors");
    let flags = ["--channel", "--ratio", "0.34", "--write-importance", file.to_str().expect("a name")];
    let report = pruned(&scene, &flags).json();
    let bytes = fs::read(&file).expect("the file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let tensor = file.tensor("residual").expect("the values");
    assert_eq!((file.len(), tensor.shape(), tensor.dtype()), (1, &[24][..], safetensors::Dtype::F64));
    let value = |bytes: &[u8]| f64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    let values: Vec<f64> = tensor.data().chunks_exact(8).map(value).collect();
    let mut order: Vec<usize> = (0..24).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    // 24 − int(24 · 0.66).
    order.truncate(9);
    order.sort_unstable();
    assert_eq!(report["removed_coordinates"], json!(order));
    let written = read_json(&scene.path("out/config.json"));
    assert_eq!((&written["model_type"], &written["hidden_size"]), (&json!("qwen2"), &json!(15)));
    assert_eq!(program(args!["verify", scene.path("out")]).code, Some(0));
    let card = fs::read_to_string(scene.path("out/README.md")).expect("a card");
    assert!(card.contains("width of the residual stream") && card.contains(", narrower"), "{card}");
}

/// Changes the f32 tensors of a file: name, shape, values.
fn edit_tensors(path: &Path, edit: impl Fn(&str, &[usize], &mut [f32])) {
    let mut bytes = fs::read(path).expect("a file");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let tensors: Map<String, Value> = serde_json::from_slice(&bytes[8..header]).expect("a header");
    for (name, tensor) in tensors.iter().filter(|(name, _)| *name != "__metadata__") {
        let numbers = |field: &str| serde_json::from_value::<Vec<usize>>(tensor[field].clone()).expect("numbers");
        let (shape, offsets) = (numbers("shape"), numbers("data_offsets"));
        let data = &mut bytes[header + offsets[0]..header + offsets[1]];
        let mut values: Vec<f32> =
            data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect();
        edit(name, &shape, &mut values);
        data.chunks_exact_mut(4).zip(values).for_each(|(to, value)| to.copy_from_slice(&value.to_le_bytes()));
    }
    fs::write(path, bytes).expect("a file");
}

#[test]
fn what_leaves_and_another_channel_can_do_costs_little_once_the_writes_are_fitted() {
    let scene = Scene::new(LLAMA);
    // Every second half of the channels computes what the first one does, and writes less of it.
    edit_tensors(&scene.path("model/model.safetensors"), |name, shape, values| {
        let (rows, cols) = (shape[0], shape.get(1).copied().unwrap_or(1));
        if name.contains("gate_proj") || name.contains("up_proj") {
            values.copy_within(..rows / 2 * cols, rows / 2 * cols);
        } else if name.contains("down_proj") {
            values.chunks_exact_mut(cols).flat_map(|row| &mut row[cols / 2..]).for_each(|value| *value *= 0.3);
        }
    });
    let flags = ["--layers", "all", "--mlp", "--ratio", "0.5", "--importance", "l1", "--aggregate", "last"];
    let kl = |refit: &str| {
        let report = pruned(&scene, &[&flags[..], &["--refit", refit]].concat()).json();
        let second: Vec<u64> = (13..26).collect();
        assert_eq!(report["removed"][0]["mlp_channels"], json!(second));
        let (out, tokens, model) = (scene.path("out"), scene.path("tokens.json"), scene.path("model"));
        let said = program(args!["eval", out, "--tokens", tokens, "--against", model, "--json"]).json();
        said["against"]["kl"].as_f64().expect("a divergence")
    };
    let (without, with) = (kl("none"), kl("writes"));
    assert!(with < 0.05 * without, "KL {with:.1e}, without a fit {without:.1e}");
}

#[test]
fn the_flags_of_the_references_script_mean_the_same() {
    let scene = Scene::new(LLAMA);
    let written = || fs::read(scene.path("out/model.safetensors")).expect("weights");
    pruned(&scene, &["--ratio", "0.5", "--importance", "l2", "--layers", "1..2"]).json();
    let own = written();
    let both = ["--block_mlp_layer_start", "1", "--block_mlp_layer_end", "2"];
    let flags = ["--block_wise", "--pruning_ratio", "0.5", "--pruner_type", "l2", "--taylor", "param_mix"];
    let attention = ["--block_attention_layer_start", "1", "--block_attention_layer_end", "2"];
    pruned(&scene, &[&flags[..], &attention, &both].concat()).json();
    assert_eq!(written(), own);
    let said =
        pruned(&scene, &[&attention[..], &["--block_mlp_layer_start", "0", "--block_mlp_layer_end", "2"]].concat());
    assert!(said.code == Some(2) && said.err.contains("say 1..2, those of the MLPs 0..2"), "{said:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn where_what_groups_matter_cannot_be_written_the_work_is_kept() {
    let scene = Scene::new(LLAMA);
    let (model, out, file) = (scene.path("model"), scene.path("out"), scene.path("importance.safetensors"));
    std::os::unix::fs::symlink("/dev/full", &file).expect("a link");
    let tokens = scene.tokens("tokens.json", 4, 20);
    let asked = args!["prune", model, "-o", out, "--layers", "all", "--examples", tokens, "--write-importance", file];
    let said = program(asked);
    assert!(said.code == Some(7) && said.err.contains("--resume continues") && !out.exists(), "{said:?}");
    fs::remove_file(&file).expect("the link");
    assert_eq!(super::said(Command::new(PROGRAM).args(asked).arg("--resume")).code, Some(0));
    let bytes = fs::read(&file).expect("the file");
    assert_eq!(safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file").len(), 4);
    assert!(out.join("model.safetensors").exists());
}

#[test]
fn what_cannot_be_pruned_is_refused_with_the_reason() {
    let scene = Scene::new(LLAMA);
    for (flags, message) in [
        (&["--ratio", "1.5"][..], "between 0 and 1"),
        (&["--ratio", "-1"], "--ratio -1: expected a number between 0 and 1"),
        (&["--layers", "0..9"], "of the 2 layers"),
        (&["--layers", "first"], "4..30"),
        (&["--importance", "param_third"], "param_first"),
        (&["--layers", "all", "--attention", "--ratio", "0.1"], "not one head or channel"),
        (
            &["--channel", "--ratio", "0.02"],
            "heads, which transformers asks for; 20 and 24 are: --ratio 0.16 leaves 20",
        ),
        (&["--channel", "--ratio", "0.5", "--iterations", "2"], "in one round"),
        (&["--channel", "--ratio", "0.5", "--refit", "writes"], "compress --axes width"),
        (&["--channel", "--mlp"], "--mlp"),
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
    scene.refused(asked, 2, "--nsamples 5, but");
    let asked = args!["prune", model, "-o", more, "--layers", "all", "--examples", tokens, "--max-gpu-memory", "1KiB"];
    scene.refused(asked, 5, "lower --seqlen, --nsamples or");
}
