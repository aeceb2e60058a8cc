//! What is said of adapters that are not there, or not what was asked for.

use super::*;

#[test]
fn without_an_adapter_nothing_is_done() {
    let scene = Scene::new(LLAMA);
    let tokens = scene.tokens("tokens.json", 2, 8);
    scene.tokenizer(json!({}));
    let (model, out, file) = (scene.path("model"), scene.path("out"), scene.path("logits.safetensors"));
    let commands: [&[&OsStr]; 5] = [
        args!["run", model, "-o", out, "--calibration", tokens],
        args!["eval", model, "--tokens", tokens],
        args!["generate", model, "--prompt", "w5"],
        args!["logits", model, "--tokens", tokens, "-o", file],
        args!["devices"],
    ];
    for arguments in commands {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .env("VK_DRIVER_FILES", "/nonexistent")
            .env("VK_ICD_FILENAMES", "/nonexistent")
            .env("WGPU_BACKEND", "vulkan");
        scene.refused_with(&mut command, 4, "no GPU adapter found: install your GPU's Vulkan driver");
    }
}

#[test]
fn an_unknown_device_is_refused_with_the_known_ones() {
    let scene = Scene::new(LLAMA);
    let tokens = scene.tokens("tokens.json", 2, 8);
    let devices = program(&["devices", "--json"]).json();
    let name = devices[0]["name"].as_str().expect("a name");
    for wanted in ["no such card", "99", "-1"] {
        let device = format!("--device={wanted}");
        scene.refused(
            args!["run", scene.path("model"), "-o", scene.path("out"), "--calibration", tokens, device],
            4,
            &format!("no adapter {wanted}; there are: 0 ({name})"),
        );
    }
}

#[test]
fn variables_that_match_no_adapter_are_named_with_the_adapters_there_are() {
    let scene = Scene::new(LLAMA);
    let tokens = scene.tokens("tokens.json", 2, 8);
    let devices = program(&["devices", "--json"]).json();
    let there = format!(
        "{} ({})",
        devices[0]["name"].as_str().expect("a name"),
        devices[0]["backend"].as_str().expect("a backend")
    );
    let model = scene.path("model");
    let commands: [&[&OsStr]; 3] =
        [args!["devices"], args!["eval", model, "--tokens", tokens], args!["bench", "--adapter", "all"]];
    for arguments in commands {
        for variables in [
            &[("WGPU_ADAPTER_NAME", "no such card")][..],
            &[("WGPU_BACKEND", "vulcan")],
            &[("WGPU_BACKEND", "noop,x")],
            &[("WGPU_BACKEND", "vulkan"), ("WGPU_ADAPTER_NAME", "no such card")],
        ] {
            let mut command = Command::new(PROGRAM);
            command
                .args(arguments)
                .env_remove("WGPU_BACKEND")
                .env_remove("WGPU_ADAPTER_NAME")
                .envs(variables.iter().copied());
            let asked: Vec<String> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let message = format!("no adapter matches {}; without that there are: ", asked.join(" and "));
            scene.refused_with(&mut command, 4, &message);
            scene.refused_with(&mut command, 4, &there);
        }
    }
    let said = said(Command::new(PROGRAM).arg("devices").env("WGPU_BACKEND", "").env("WGPU_ADAPTER_NAME", ""));
    assert_eq!(said.code, Some(0), "an empty variable asks for nothing: {said:?}");
}

#[test]
fn devices_are_told_as_json() {
    let devices = program(&["devices", "--json"]).json();
    let devices = devices.as_array().expect("an array");
    for (index, device) in devices.iter().enumerate() {
        assert_eq!(device["index"], json!(index));
        assert_eq!(device["default"], json!(index == 0));
        assert!(device["max_storage_buffer_binding_size"].as_u64().is_some_and(|bytes| bytes >= 128 << 20), "{device}");
        for text in ["name", "device_type", "backend", "driver"] {
            assert!(device[text].as_str().is_some_and(|text| !text.is_empty()), "{text}: {device}");
        }
    }
    let table = program(&["devices"]);
    assert!(
        table.out.contains(devices[0]["name"].as_str().expect("a name")) && table.out.contains("(default)"),
        "{table:?}"
    );
}

#[test]
fn a_precision_that_the_adapter_has_not_is_refused_with_the_way_out() {
    let scene = Scene::new(LLAMA);
    let (model, tokens) = (scene.path("model"), scene.tokens("tokens.json", 2, 8));
    let (out, file) = (scene.path("out"), scene.path("logits.safetensors"));
    let commands: [&[&OsStr]; 3] = [
        args!["run", model, "-o", out, "--calibration", tokens],
        args!["eval", model, "--tokens", tokens],
        args!["logits", model, "--tokens", tokens, "-o", file],
    ];
    for arguments in commands {
        let mut command = Command::new(PROGRAM);
        // No adapter shows more than every adapter has there.
        command.args(arguments).args(["--precision", "f16-matrix"]).env("SLICEGPT_GPU_LIMITS", "downlevel");
        scene.refused_with(
            &mut command,
            2,
            "cooperative-matrix, shader-f16 and subgroup); leave --precision out, or choose another --device",
        );
    }
}
