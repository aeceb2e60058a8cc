//! Does `compress --per-layer` take most from the layers that need it least, and write what programs can load?

mod support;

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};
use slicegpt_gpu::{
    checkpoint::Dtype,
    linalg::{Group, Removal, subset_and_next},
    model::Model,
};
use support::Random;
use tempfile::TempDir;

/// A directory with a `model`, a fixture whose layer 0 writes next to nothing with its MLP, and tokens.
fn scene() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let model = directory.path().join("model");
    fs::create_dir(&model).expect("a directory");
    let fixture = support::fixture("parity").join("llama_gqa_tied");
    fs::copy(fixture.join("config.json"), model.join("config.json")).expect("a copy");
    let path = model.join("model.safetensors");
    let mut tensors = support::tensors(&fixture);
    let (_, _, bytes) = tensors.get_mut("model.layers.0.mlp.down_proj.weight").expect("a weight");
    for value in bytes.chunks_exact_mut(4) {
        let scaled = 1e-3 * f32::from_le_bytes([value[0], value[1], value[2], value[3]]);
        value.copy_from_slice(&scaled.to_le_bytes());
    }
    assert_eq!(tensors["model.layers.0.mlp.down_proj.weight"].0, Dtype::F32);
    support::write_tensors(&path, &tensors, &[("format", "pt")]);
    let vocabulary = Model::open(&model).expect("a model").config().vocab_size as u32;
    let mut random = Random::new(20261125);
    let rows: Vec<Vec<u32>> = (0..24).map(|_| (0..24).map(|_| random.below(vocabulary)).collect()).collect();
    fs::write(directory.path().join("calibration.json"), json!({ "input_ids": rows }).to_string()).expect("a file");
    directory
}

/// Compresses the model with some more options; returns what the program reports.
fn compress(scene: &Path, output: &str, options: &[&str]) -> Value {
    let done = Command::new(env!("CARGO_BIN_EXE_slicegpt-gpu"))
        .arg("compress")
        .arg(scene.join("model"))
        .arg("-o")
        .arg(scene.join(output))
        .arg("--calibration")
        .arg(scene.join("calibration.json"))
        .args(["--target-parameters", "-12%", "--axes", "mlp", "--per-layer", "--json"])
        .args(options)
        .output()
        .expect("a process");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap_or(Value::Null)
}

#[test]
fn channels_go_where_they_cost_least_and_the_model_is_as_large() {
    let scene = scene();
    let report = compress(scene.path(), "out", &["--effort", "quick"]);
    let candidates = report["candidates"].as_array().expect("candidates");
    assert_eq!(candidates.len(), 2, "{candidates:?}");
    assert_eq!(candidates[0]["parameters"], candidates[1]["parameters"], "spread, not removed");
    assert!(candidates[1]["by_layer"] == true && candidates[1]["written"] == true, "{candidates:?}");
    let kl = |at: usize| candidates[at]["kl"].as_f64().expect("measured");
    assert!(kl(1) < kl(0), "{candidates:?}");
    let made = Model::open(&scene.path().join("out")).expect("a model");
    let config = made.config();
    assert!(config.pruned && config.raw["model_type"] == "pruned_llama");
    let channels: Vec<usize> = config.layers.iter().map(|layer| layer.intermediate_size).collect();
    let dense = Model::open(&scene.path().join("model")).expect("a model");
    let all = dense.config().layers[0].intermediate_size;
    assert!(channels[0] < channels[1] && channels[0] >= all.div_ceil(8), "{channels:?} of {all}");
    assert_eq!(config.raw["intermediate_size"], all, "beside the section, all is as it was");
    assert_eq!(config.parameters(), candidates[1]["parameters"].as_u64().expect("a number"));
    for (name, text) in config.python_files() {
        assert_eq!(fs::read_to_string(scene.path().join("out").join(name)).expect("a file"), *text);
    }
    assert!(!config.python_files().is_empty());
    let card = fs::read_to_string(scene.path().join("out/README.md")).expect("a card");
    assert!(card.contains("trust_remote_code=True"), "{card}");
}

#[test]
fn stopped_at_any_layer_it_goes_on_to_the_same_model() {
    let scene = scene();
    let report = compress(scene.path(), "whole", &["--effort", "quick"]);
    assert_eq!(report["by_layer"].as_array().map(Vec::len), Some(2), "{report}");
    let bytes = |output: &str| fs::read(scene.path().join(output).join("model.safetensors")).expect("a model");
    for stop in ["3", "5", "7", "9"] {
        let output = format!("stopped{stop}");
        compress(scene.path(), &output, &["--effort", "quick", "--stop-after", stop]);
        assert!(!scene.path().join(&output).join("README.md").exists(), "it did not stop after {stop}");
        compress(scene.path(), &output, &["--effort", "quick", "--resume"]);
        assert_eq!(bytes(&output), bytes("whole"), "after {stop} layers");
    }
}

#[test]
fn what_would_leave_next_costs_what_it_costs_when_it_leaves() {
    let (n, m, extra) = (12, 5, 40);
    let mut random = Random::new(7);
    let (x, y) = (random.values(extra * n, 1.0), random.values(extra * m, 1.0));
    let sums = |a: &[f32], p: usize, b: &[f32], q: usize| -> Vec<f64> {
        let at = |i: usize, j: usize| (0..extra).map(|t| f64::from(a[t * p + i]) * f64::from(b[t * q + j])).sum();
        (0..p).flat_map(|i| (0..q).map(move |j| (i, j))).map(|(i, j)| at(i, j)).collect()
    };
    let (gram, right) = (sums(&x, n, &x, n), sums(&y, m, &x, n));
    let groups: Vec<Group> = (0..n).map(|column| Group { columns: column..column + 1, kind: 0 }).collect();
    let choose = |remove: usize, beyond: usize| {
        subset_and_next(gram.clone(), &[0.1; 12], right.clone(), &groups, (&[remove], &[beyond])).expect("a choice")
    };
    let (few, more, all) = (choose(4, 9), choose(9, 0), choose(9, 9));
    assert_eq!((few.groups.len(), few.removals.len()), (8, 9));
    assert_eq!((more.groups.len(), more.removals.len(), &more), (3, 9, &all));
    for (Removal { group, cost }, other) in few.removals.iter().zip(&more.removals) {
        assert!(*group == other.group && (cost - other.cost).abs() <= 1e-9 * cost.abs(), "{few:?}, {more:?}");
    }
    // By how much the least squares are worse, and nothing else.
    let value = |subset: &slicegpt_gpu::linalg::Subset| -> f64 {
        let kept = &subset.groups;
        (0..m)
            .map(|row| {
                kept.iter()
                    .enumerate()
                    .map(|(at, &j)| subset.weights[row * kept.len() + at] * right[row * n + j])
                    .sum::<f64>()
            })
            .sum()
    };
    let whole = choose(0, 0);
    let lost: f64 = few.removals[..4].iter().map(|removal| removal.cost).sum();
    let difference = value(&whole) - value(&few);
    assert!((difference - lost).abs() <= 1e-9 * difference.abs(), "{difference} and {lost}");
}
