//! Verify: an output as it was written passes, whatever is done to it does not.

use std::{ffi::OsStr, fs, path::PathBuf};

use serde_json::{Value, json};

use super::{LLAMA, Scene, args, program, read_json};

/// A sliced model in `out`.
fn sliced() -> (Scene, PathBuf) {
    let scene = Scene::new(LLAMA);
    let tokens = scene.tokens("tokens.json", 3, 40);
    let out = scene.path("out");
    let run = program(args!["run", scene.path("model"), "-o", out, "--calibration", tokens, "--sparsity", "0.3"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    (scene, out)
}

#[test]
fn an_output_as_it_was_written_is_verified() {
    let (_scene, out) = sliced();
    let report = program(args!["verify", out, "--json"]).json();
    // 32 tokens, and 64 of the vocabulary.
    assert_eq!((&report["record"]["logits"], &report["files_checked"]), (&json!(2048), &json!(true)), "{report}");
    let difference = report["record"]["largest_difference"].as_f64().expect("a number");
    assert!(
        difference <= 1e-15,
        "the same adapter computes the same bits, and text loses one of an f64 at most: {report}"
    );
    let tolerance = report["record"]["tolerance"].as_f64().expect("a number");
    assert!((1e-6..1e-3).contains(&tolerance), "{tolerance}");
    assert_eq!(report["widths"][0]["attention_input"], json!(16), "{report}");
    let said = program(args!["verify", out]);
    assert!(said.code == Some(0) && said.out.contains("2048 logits as the run recorded them"), "{said:?}");
}

#[test]
fn a_record_says_how_the_output_was_made() {
    let (_scene, out) = sliced();
    let record = read_json(&out.join("slicegpt.json"));
    assert_eq!(record["schema_version"], json!(1));
    assert_eq!((&record["method"]["sparsity"], &record["method"]["method"]), (&json!(0.3), &json!("slicegpt")));
    assert_eq!(record["calibration_sha256"], read_json(&out.join("config.json"))["slicing"]["calibration_sha256"]);
    let lengths = ["input_ids", "positions", "logits", "argmax", "logsumexp"]
        .map(|name| record["record"][name].as_array().map_or(0, Vec::len));
    assert_eq!(lengths, [32; 5]);
    let entries: Vec<u64> =
        record["record"]["entries"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    assert!(entries.len() == 64 && entries.is_sorted() && entries[0] == 0, "{entries:?}");
}

#[test]
fn an_ordinary_model_without_a_record_is_checked_for_the_rest_and_it_says_so() {
    let scene = Scene::new("opt_relu");
    let model = scene.path("model");
    let said = program(args!["verify", model]);
    assert!(said.code == Some(0) && said.out.contains("no slicegpt.json beside it"), "{said:?}");
    let report = program(args!["verify", model, "--json"]).json();
    assert_eq!((&report["record"], &report["adapter"]), (&Value::Null, &Value::Null));
    let path = model.join("model.safetensors");
    let mut bytes = fs::read(&path).expect("a file");
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).expect("a file");
    scene.refused(args!["verify", model], 3, "NaN or infinite");
    scene.put("model/tokenizer.json", "{");
    fs::remove_file(&path).expect("a file");
    scene.refused(args!["verify", model], 3, "model.safetensors");
}

#[test]
fn a_damaged_output_is_found_out() {
    let (scene, out) = sliced();
    let path = out.join("model.safetensors");
    let whole = fs::read(&path).expect("a file");
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().expect("8 bytes")) as usize;
    // The lowest bit of a value moves no logit by more than rounding does.
    let middle = header + (whole.len() - header) / 8 * 4;
    let mut flipped = whole.clone();
    flipped[middle] ^= 1;
    fs::write(&path, flipped).expect("a file");
    scene.refused(args!["verify", out], 3, "has changed since it was written");
    fs::write(&path, &whole[..whole.len() - 1]).expect("a file");
    scene.refused(args!["verify", out], 3, "not a valid safetensors file");
    let mut infinite = whole.clone();
    infinite[middle..middle + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&path, infinite).expect("a file");
    scene.refused(args!["verify", out], 3, "NaN or infinite");
    fs::write(&path, &whole).expect("a file");
    let config = read_json(&out.join("config.json"));
    let mut other = config.clone();
    other["slicing"]["layers"][0]["mlp_input"] = json!(8);
    scene.put("out/config.json", other.to_string());
    scene.refused(args!["verify", out], 3, "expected shape");
    scene.put("out/config.json", config.to_string());
    let code = fs::read(out.join("modeling_sliced_common.py")).expect("code");
    scene.put("out/modeling_sliced_common.py", [&code[..], b"import os\n"].concat());
    scene.refused(args!["verify", out], 3, "modeling_sliced_common.py: has changed since it was written");
    scene.put("out/modeling_sliced_common.py", code);
    scene.put("out/tokenizer.json", "{");
    scene.refused(args!["verify", out], 3, "tokenizer.json");
    fs::remove_file(out.join("tokenizer.json")).expect("a file");
    assert_eq!(program(args!["verify", out]).code, Some(0), "all is well again");
}

#[test]
fn logits_that_differ_by_more_than_rounding_are_found_out_without_a_checksum() {
    let (scene, out) = sliced();
    let mut record = read_json(&out.join("slicegpt.json"));
    record.as_object_mut().expect("an object").remove("files");
    scene.put("out/slicegpt.json", record.to_string());
    let report = program(args!["verify", out, "--json"]).json();
    assert_eq!(report["files_checked"], json!(false));
    let largest = record["record"]["logits"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|row| row.as_array().into_iter().flatten());
    let largest = largest.filter_map(Value::as_f64).fold(0.0f64, |most, logit| most.max(logit.abs()));
    let tolerance = report["record"]["tolerance"].as_f64().expect("a number") * largest;
    let (logit, sum) = (record["record"]["logits"][7][9].clone(), record["record"]["logsumexp"][3].clone());
    for (pointer, value) in [("/record/logits/7/9", logit), ("/record/logsumexp/3", sum)] {
        for (factor, code) in [(0.9, 0), (1.1, 3), (-0.9, 0), (-1.1, 3)] {
            let mut moved = record.clone();
            *moved.pointer_mut(pointer).expect("a number") =
                json!(value.as_f64().expect("a number") + factor * tolerance);
            scene.put("out/slicegpt.json", moved.to_string());
            let said = program(args!["verify", out]);
            assert_eq!(said.code, Some(code), "{pointer} by {factor} of what is allowed: {said:?}");
            assert!(code == 0 || said.err.contains("more than the"), "{said:?}");
        }
    }
    let best = record["record"]["argmax"][5].as_u64().expect("a token");
    let mut moved = record.clone();
    moved["record"]["argmax"][5] = json!((best + 1) % 67);
    scene.put("out/slicegpt.json", moved.to_string());
    assert_eq!(program(args!["verify", out]).code, Some(3), "another largest logit");
}

#[test]
fn a_missing_or_hostile_record_is_refused() {
    let (scene, out) = sliced();
    let record = read_json(&out.join("slicegpt.json"));
    let changed = |pointer: &str, value: Value| {
        let mut record = record.clone();
        *record.pointer_mut(pointer).expect("a field") = value;
        record.to_string()
    };
    let cases = [
        ("{".to_owned(), "EOF"),
        ("null".into(), "invalid type"),
        (changed("/schema_version", json!(2)), "schema_version 2"),
        (changed("/record", json!({})), "missing field"),
        (changed("/record/input_ids", json!([])), "input_ids: expected 1 to 32"),
        (changed("/record/input_ids/0", json!(u32::MAX)), "input_ids: expected 1 to 32"),
        (changed("/record/input_ids", json!(vec![0; 100_000])), "input_ids: expected 1 to 32"),
        (changed("/record/positions/0", json!(32)), "positions below 32"),
        (changed("/record/positions", json!([])), "positions below 32"),
        (changed("/record/entries/0", json!(1_000_000)), "entries: expected 1 to 64"),
        (changed("/record/entries", json!([])), "entries: expected 1 to 64"),
        (changed("/record/logits/3", json!([1.0])), "logits: expected 32 rows of 64"),
        (changed("/record/logits/3/0", json!(1e300)), "number out of range"),
        (changed("/record/argmax", json!([0])), "argmax: expected 32"),
        (changed("/record/argmax/0", json!(99_999)), "argmax: expected 32"),
        (changed("/record/logsumexp", json!([0.0])), "logsumexp: expected 32"),
        (changed("/files", json!({ "other.safetensors": "00" })), "is not one of the files"),
        (changed("/files/model.safetensors", json!("00")), "has changed since"),
    ];
    for (text, message) in cases {
        scene.put("out/slicegpt.json", text);
        scene.refused(args!["verify", out], 3, message);
    }
    fs::remove_file(out.join("slicegpt.json")).expect("a file");
    scene.refused(args!["verify", out], 3, "has lost the record of its run");
}
