//! Do synthetic checkpoints have the shape of the models that they are named after, and the weights that their seed
//! says?

#[path = "support/mod.rs"]
mod support;

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use serde_json::Value;
use slicegpt_gpu::{
    checkpoint::{Dtype, OutputDirectory},
    model::{Config, Model, SHAPES, Shape},
    progress::Silent,
    synthetic::{TokenRows, write},
};

#[test]
fn shapes_have_the_parameters_of_the_published_models() {
    let published = BTreeMap::from([
        ("opt-125m", 125_239_296),
        ("tinyllama-1.1b", 1_100_048_384),
        ("opt-1.3b", 1_315_758_080),
        ("llama-2-7b", 6_738_415_616),
        ("gpt-oss-20b", 20_914_757_184),
        ("qwen3-30b-a3b", 30_532_122_624),
    ]);
    let counted = |shape: &Shape| (shape.name, shape.config(None).expect("a config").parameters());
    assert_eq!(SHAPES.iter().map(counted).collect::<BTreeMap<_, _>>(), published);
}

#[test]
fn other_numbers_of_layers_change_the_layers_alone() {
    for shape in SHAPES {
        let parameters = |layers| shape.config(Some(layers)).expect("a config").parameters();
        let whole = shape.config(None).expect("a config");
        let a_layer = parameters(2) - parameters(1);
        let ends = parameters(1) - a_layer;
        assert_eq!(ends + whole.layers.len() as u64 * a_layer, whole.parameters(), "{}", shape.name);
    }
    assert!(SHAPES[0].config(Some(0)).is_err());
}

/// A model small enough to write often.
fn small() -> Config {
    let raw =
        serde_json::from_str(&fs::read_to_string(support::fixture("parity/opt_relu/config.json")).expect("a file"))
            .expect("fields");
    Config::from_fields(raw, Path::new("small")).expect("a config")
}

fn written(directory: &Path, seed: u64, dtype: Dtype) -> Model {
    let output = OutputDirectory::create(directory, false).expect("a directory");
    write(&output, &small(), dtype, TokenRows { rows: 3, len: 40 }, seed, &Silent).expect("a checkpoint");
    output.finish().expect("a directory");
    Model::open(directory).expect("a model")
}

fn values(model: &Model, name: &str) -> Vec<f32> {
    let tensor = model.store.checkpoint.tensor(name).expect("the tensor");
    tensor.read().expect("its bytes").chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn the_seed_alone_decides_the_files_and_every_tensor_is_another() {
    let scene = tempfile::tempdir().expect("a directory");
    let [a, ..] =
        [("a", 1), ("b", 1), ("c", 2)].map(|(name, seed)| written(&scene.path().join(name), seed, Dtype::F32));
    for file in ["model.safetensors", "config.json", "tokens.json"] {
        let read = |name: &str| fs::read(scene.path().join(name).join(file)).expect("a file");
        assert!(read("a") == read("b"), "{file}");
        assert_eq!(read("a") == read("c"), file == "config.json", "{file}");
    }
    let norms = |name: &&str| name.contains("norm") && name.ends_with(".weight");
    let mut firsts: Vec<u32> = Vec::new();
    for name in a.store.checkpoint.names() {
        let all = values(&a, name);
        if norms(&name) {
            assert!(all.iter().all(|&value| value == 1.0), "{name}");
            continue;
        }
        firsts.push(all[0].to_bits());
        let count = all.len() as f64;
        let mean = all.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
        let deviation = (all.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / count).sqrt();
        // Five times the standard errors of the two.
        assert!(mean.abs() < 5.0 * 0.02 / count.sqrt(), "{name}: mean {mean}");
        assert!((deviation / 0.02 - 1.0).abs() < 5.0 / (2.0 * count).sqrt(), "{name}: deviation {deviation}");
    }
    let tensors = firsts.len();
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts.len(), tensors, "two tensors begin alike");
}

#[test]
fn stored_types_round_the_same_values_and_are_named_in_the_config() {
    let scene = tempfile::tempdir().expect("a directory");
    let whole = written(&scene.path().join("f32"), 5, Dtype::F32);
    for (dtype, name, roundoff) in [(Dtype::F16, "float16", 0.5 / 1024.0), (Dtype::BF16, "bfloat16", 0.5 / 128.0)] {
        let model = written(&scene.path().join(name), 5, dtype);
        assert!(model.store.types().all(|(_, found)| found == dtype));
        assert_eq!(model.config().raw["torch_dtype"], name);
        let rounded = model.store.ends().expect("the ends").embedding.to_f32().expect("values");
        for (rounded, value) in
            rounded.iter().zip(whole.store.ends().expect("the ends").embedding.to_f32().expect("values"))
        {
            // Below the smallest normal number of f16 the spacing stays that of 2⁻²⁴.
            assert!(
                (rounded - value).abs() <= roundoff * value.abs() + 0.5f32.powi(25),
                "{name}: {value} became {rounded}"
            );
        }
    }
}

#[test]
fn the_program_writes_a_model_that_opens_and_refuses_what_it_would_overwrite() {
    let scene = tempfile::tempdir().expect("a directory");
    let out = scene.path().join("model");
    let synthesize = |options: &[&str]| {
        let said = Command::new(env!("CARGO_BIN_EXE_slicegpt-gpu"))
            .arg("synthesize")
            .args(options)
            .arg("-o")
            .arg(&out)
            .output()
            .expect("a process");
        (said.status.code(), String::from_utf8_lossy(&said.stderr).into_owned())
    };
    let options = ["opt-125m", "--layers", "1", "--dtype", "bf16", "--cal-nsamples", "3", "--cal-max-seqlen", "17"];
    assert_eq!(synthesize(&options).0, Some(0));
    let model = Model::open(&out).expect("a model");
    assert_eq!(model.config().parameters(), 125_239_296 - 11 * 7_087_872);
    assert_eq!(model.store.unexpected(), Vec::<String>::new());
    let tokens = support::tokens(&out.join("tokens.json"));
    assert_eq!(tokens.iter().map(Vec::len).collect::<Vec<_>>(), [17, 17, 17]);
    assert!(tokens.iter().flatten().all(|&id| id < 50272) && tokens.iter().flatten().any(|&id| id > 25136));

    let verified =
        Command::new(env!("CARGO_BIN_EXE_slicegpt-gpu")).arg("verify").arg(&out).output().expect("a process");
    assert!(verified.status.success(), "the list of its files is no record of logits: {verified:?}");

    let before = fs::read(out.join("config.json")).expect("a file");
    let (code, message) = synthesize(&["opt-1.3b", "--layers", "1"]);
    assert!(code == Some(2) && message.contains("already exists"), "{code:?} {message}");
    assert_eq!(fs::read(out.join("config.json")).expect("a file"), before);
    let names: Vec<_> =
        fs::read_dir(scene.path()).expect("a directory").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(names, ["model"]);
    for (options, message) in [
        (vec!["opt-350m"], "opt-125m"),
        (vec!["opt-125m", "--layers", "0"], "--layers"),
        (vec!["opt-125m", "--layers", "5000"], "4096"),
        (vec!["opt-125m", "--layers", "1", "--cal-max-seqlen", "2049"], "2048 positions"),
        (vec!["opt-125m", "--layers", "1", "--cal-nsamples", "4000000000"], "4096"),
    ] {
        let (code, said) = synthesize(&[&options[..], &["--force"]].concat());
        assert!(matches!(code, Some(2 | 3)) && said.contains(message), "{code:?} {said}");
    }
    let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).expect("a file")).expect("JSON");
    assert_eq!(config["num_hidden_layers"], 1);
}
