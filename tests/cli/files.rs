//! Files that are not as plain as most: what every subcommand says of them, and what becomes of their types.

use half::f16;
use support::{set_fields, tensors, write_tensors};

use super::*;

/// Changes every tensor of the model of a scene.
fn rewrite(scene: &Scene, change: impl FnOnce(&mut support::Tensors)) {
    let path = scene.path("model/model.safetensors");
    let mut all = tensors(&path);
    change(&mut all);
    write_tensors(&path, &all, &[("format", "pt")]);
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

#[test]
fn every_subcommand_says_that_a_head_is_not_the_embedding() {
    let scene = Scene::new("llama_mha_untied");
    scene.tokenizer(json!({}));
    let (model, tokens) = (scene.path("model"), scene.tokens("tokens.json", 2, 10));
    set_fields(&model, &[("tie_word_embeddings", json!(true)), ("hidden_act", json!("silu"))]);
    for arguments in [
        args!["run", model, "-o", scene.path("out"), "--calibration", tokens, "--eval", tokens].as_slice(),
        args!["run", model, "-o", scene.path("dry"), "--calibration", tokens, "--dry-run"],
        args!["eval", model, "--tokens", tokens],
        args!["generate", model, "--prompt", "w5 w6", "--max-new-tokens", "2"],
        args!["logits", model, "--tokens", tokens, "-o", scene.path("logits.safetensors")],
        args!["export", model, "--format", "gguf", "-o", scene.path("model.gguf"), "--no-tokenizer"],
        args!["verify", model],
    ] {
        let said = program(arguments);
        assert_eq!(said.code, Some(0), "{said:?}");
        let warning = "warning: config.json ties the head to the embedding, but lm_head.weight differs from \
             model.embed_tokens.weight: it is used";
        assert!(said.err.contains(warning), "{said:?}");
    }
    // The result has a head of its own, and says so.
    let said = program(args!["verify", scene.path("out")]);
    assert!(said.code == Some(0) && !said.err.contains("ties the head"), "{said:?}");
}

#[test]
fn each_tensor_keeps_its_own_type() {
    for (name, basis) in [
        ("llama_gqa_tied", "shared"),
        ("llama_gqa_tied", "per-block"),
        ("qwen3_tied", "shared"),
        ("opt_relu", "per-block"),
        ("phi_gqa", "shared"),
    ] {
        let scene = Scene::new(name);
        // As models are trained: matrices in 16 bits, the rest, and here the embeddings, in 32.
        let narrow =
            |name: &str| name.ends_with("_proj.weight") || name.ends_with("dense.weight") || name.contains("fc");
        let narrow = |name: &str| narrow(name) && !name.ends_with(".bias");
        rewrite(&scene, |all| {
            for (dtype, _, bytes) in all.iter_mut().filter(|(name, _)| narrow(name)).map(|(_, tensor)| tensor) {
                *bytes = floats(bytes).flat_map(|value| f16::from_f32(value).to_le_bytes()).collect();
                *dtype = Dtype::F16;
            }
        });
        let tokens = scene.tokens("tokens.json", 4, 30);
        let run = |out: &str, more: &[&str]| {
            let mut command = Command::new(PROGRAM);
            command.args(args![
                "run",
                scene.path("model"),
                "-o",
                scene.path(out),
                "--calibration",
                tokens,
                "--eval",
                tokens,
                "--basis",
                basis,
                "--json"
            ]);
            said(command.args(more)).json()
        };
        let (own, wide) = (run("own", &[]), run("wide", &["--dtype", "f32"]));
        let (own_tensors, wide_tensors) =
            (tensors(&scene.path("own/model.safetensors")), tensors(&scene.path("wide/model.safetensors")));
        assert_eq!(
            own["sliced_bytes"],
            json!(own_tensors.values().map(|(_, _, bytes)| bytes.len()).sum::<usize>()),
            "{name}"
        );
        assert_eq!(
            (&own["arguments"]["dtype"], &wide["arguments"]["dtype"]),
            (&json!("each tensor's own"), &json!("F32")),
            "{name}"
        );
        let mut shortcuts = 0;
        for (tensor, (dtype, shape, bytes)) in &own_tensors {
            let half = narrow(tensor) || tensor.ends_with("_shortcut_Q");
            // What a norm's bias has become stands beside a matrix and was not there: it has the matrix's type.
            let new_bias =
                tensor.ends_with(".bias") && !tensors(&scene.path("model/model.safetensors")).contains_key(tensor);
            let expected = if half || (new_bias && !tensor.starts_with("lm_head")) { Dtype::F16 } else { Dtype::F32 };
            assert_eq!(*dtype, expected, "{name}, {basis}: {tensor}");
            shortcuts += usize::from(tensor.ends_with("_shortcut_Q"));
            // The same numbers, rounded or not.
            let (_, wide_shape, wide) = &wide_tensors[tensor];
            assert_eq!(shape, wide_shape, "{tensor}");
            let exact: Vec<f32> = floats(wide).collect();
            let found: Vec<f32> = match dtype {
                Dtype::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
                _ => floats(bytes).collect(),
            };
            if *dtype == Dtype::F32 && !tensor.contains("norm") {
                assert_eq!(found, exact, "{name}, {basis}: {tensor}");
            } else {
                assert!(support::relative_error(&found, &exact) <= 1e-3, "{name}, {basis}: {tensor}");
            }
        }
        assert_eq!(shortcuts > 0, basis == "per-block", "{name}, {basis}");
        let perplexity = |report: &Value| report["perplexity"]["sliced"].as_f64().expect("a number");
        assert!((perplexity(&own) / perplexity(&wide) - 1.0).abs() < 1e-2, "{name}, {basis}");
        assert_eq!(program(args!["verify", scene.path("own")]).code, Some(0), "{name}, {basis}");
    }
}

#[test]
fn a_run_of_mixed_types_resumes_to_the_same_bytes() {
    let scene = Scene::new("llama_gqa_tied");
    rewrite(&scene, |all| {
        let (dtype, _, bytes) = all.get_mut("model.embed_tokens.weight").expect("the embedding");
        *bytes = floats(bytes).flat_map(|value| f16::from_f32(value).to_le_bytes()).collect();
        *dtype = Dtype::F16;
    });
    let tokens = scene.tokens("tokens.json", 3, 20);
    let run = |out: &str, more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        said(command.args(args!["run", scene.path("model"), "-o", scene.path(out), "--calibration", tokens]).args(more))
    };
    assert_eq!(run("whole", &[]).code, Some(0));
    assert_eq!(run("parts", &["--stop-after", "1"]).code, Some(0));
    assert_eq!(run("parts", &["--resume"]).code, Some(0));
    let read = |out: &str| fs::read(scene.path(out).join("model.safetensors")).expect("weights");
    assert!(read("whole") == read("parts"), "another file after a stop");
    assert_eq!(tensors(&scene.path("whole"))["lm_head.weight"].0, Dtype::F16, "the head was the embedding");
}

#[test]
fn doubles_become_floats_and_shards_in_directories_run() {
    let (plain, scene) = (Scene::new("llama_gqa_tied"), Scene::new("llama_gqa_tied"));
    let model = scene.path("model");
    let mut all = tensors(&model.join("model.safetensors"));
    for (dtype, _, bytes) in all.values_mut() {
        *bytes = floats(bytes).flat_map(|value| f64::from(value).to_le_bytes()).collect();
        *dtype = Dtype::F64;
    }
    fs::remove_file(model.join("model.safetensors")).expect("removed");
    let mut map = Map::new();
    for (part, (name, tensor)) in all.into_iter().enumerate() {
        // Of the same name in directories of their own.
        let file = format!("part-{part}/model.safetensors");
        fs::create_dir(model.join(format!("part-{part}"))).expect("a directory");
        write_tensors(&model.join(&file), &[(name.clone(), tensor)].into(), &[]);
        map.insert(name, json!(file));
    }
    fs::write(model.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).expect("an index");
    let run = |scene: &Scene, more: &[&str]| {
        let tokens = scene.tokens("tokens.json", 3, 20);
        let mut command = Command::new(PROGRAM);
        said(
            command
                .args(args!["run", scene.path("model"), "-o", scene.path("out"), "--calibration", tokens])
                .args(more),
        )
    };
    assert_eq!(run(&plain, &[]).code, Some(0));
    let said = run(&scene, &["--stop-after", "1"]);
    assert!(
        said.code == Some(0)
            && said.err.contains("tensors are stored as F64; they are computed with and written as F32"),
        "{said:?}"
    );
    // A shard that has changed is another input, whichever of them it is.
    let shard = model.join("part-1/model.safetensors");
    let kept = fs::read(&shard).expect("a shard");
    let mut changed = kept.clone();
    *changed.last_mut().expect("a byte") ^= 1;
    fs::write(&shard, changed).expect("a file");
    let refused = run(&scene, &["--resume"]);
    assert!(refused.code == Some(2) && refused.err.contains("the input part-1/model.safetensors was"), "{refused:?}");
    fs::write(&shard, kept).expect("a file");
    assert_eq!(run(&scene, &["--resume"]).code, Some(0));
    let read = |scene: &Scene| fs::read(scene.path("out/model.safetensors")).expect("weights");
    assert!(read(&plain) == read(&scene), "other numbers from the same in f64");
}

#[test]
fn dynamic_rotary_scaling_stops_where_it_would_begin() {
    let scene = Scene::new("llama_mha_untied");
    let (model, eval) = (scene.path("model"), scene.tokens("tokens.json", 2, 16));
    let perplexity = || program(args!["eval", model, "--tokens", eval, "--json"]).json()["perplexity"].clone();
    let plain = perplexity();
    let theta = read_json(&model.join("config.json"));
    let theta = theta["rope_parameters"]["rope_theta"].as_f64().or(theta["rope_theta"].as_f64()).unwrap_or(1e4);
    let dynamic = json!({ "rope_type": "dynamic", "factor": 4.0, "rope_theta": theta });
    set_fields(&model, &[("rope_parameters", dynamic), ("max_position_embeddings", json!(16))]);
    assert_eq!(perplexity(), plain);
    let longer = scene.tokens("longer.json", 1, 17);
    for arguments in [
        args!["eval", model, "--tokens", longer].as_slice(),
        args!["logits", model, "--tokens", longer, "-o", scene.path("logits.safetensors")],
        args!["run", model, "-o", scene.path("out"), "--calibration", longer],
    ] {
        scene.refused(arguments, 3, "row 0 has 17 tokens, the model has positions for 16");
    }
}

#[test]
fn what_is_made_of_a_model_that_names_its_weights_names_none() {
    let scene = Scene::new("llama_gqa_tied");
    let (model, tokens) = (scene.path("model"), scene.tokens("tokens.json", 3, 20));
    fs::rename(model.join("model.safetensors"), model.join("mine.safetensors")).expect("renamed");
    set_fields(&model, &[("transformers_weights", json!("mine.safetensors"))]);
    let said = program(args!["run", model, "-o", scene.path("out"), "--calibration", tokens, "--basis", "shared"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(read_json(&scene.path("out/config.json"))["transformers_weights"], Value::Null);
    assert_eq!(program(args!["verify", scene.path("out")]).code, Some(0));
}
