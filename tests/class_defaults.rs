//! Are fields that config.json leaves out, spells otherwise or switches off what the config classes of transformers
//! make of them?

mod support;

use std::{fs, path::Path};

use serde_json::{Map, Value, json};
use slicegpt_gpu::{Error, model::Config, ops::Activation};

/// What transformers made of each config, written by tests/fixtures/make_configs.py.
fn recorded() -> Map<String, Value> {
    // NaN and Infinity are written as Python writes them: no test of ours needs their values.
    let text = fs::read_to_string(support::fixture("configs.json")).expect("the fixture");
    let text = text
        .replace("-Infinity", "-1e400")
        .replace("Infinity", "\"<Infinity>\"")
        .replace("NaN,", "\"<NaN>\",")
        .replace("NaN}", "\"<NaN>\"}");
    let text = text.replace("-1e400", "\"<-Infinity>\"");
    serde_json::from_str(&text).expect("JSON")
}

/// A file with these fields, in which Python's literals stand again, as read from the disk.
fn load(fields: &Map<String, Value>) -> Result<Config, Error> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.json");
    let text = Value::Object(fields.clone()).to_string().replace("\"<", "").replace(">\"", "");
    fs::write(&path, text).expect("a file");
    Config::load(&path)
}

fn activation(name: &str) -> Activation {
    match name {
        "relu" => Activation::Relu,
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "silu" => Activation::Silu,
        other => panic!("{other}: not in the fixture"),
    }
}

/// What we make of a config, in the words of the fixture; ids of no vocabulary, such as -1, are none here.
fn made(config: &Config, expected: &Map<String, Value>) -> Map<String, Value> {
    let known = activation(expected["activation"].as_str().expect("a name"));
    let bos = expected["bos_token_id"].as_i64().filter(|id| *id < 0);
    let layer = &config.layers[0];
    let made = json!({
        "hidden_size": config.hidden_size, "num_hidden_layers": config.layers.len(), "num_attention_heads": layer.heads,
        "num_key_value_heads": layer.kv_heads, "head_dim": layer.head_dim, "intermediate_size": layer.intermediate_size,
        "vocab_size": config.vocab_size, "max_position_embeddings": config.max_position_embeddings,
        "activation": if config.activation == known { expected["activation"].clone() } else { json!(format!("{:?}", config.activation)) },
        "tie_word_embeddings": config.tie_word_embeddings, "bos_token_id": config.bos_token_id.map(i64::from).or(bos),
        "eos_token_ids": config.eos_token_ids, "parallel": config.parallel, "qk_norm": config.qk_norm,
        "windows": config.layers.iter().map(|layer| layer.window).collect::<Vec<_>>(),
        "roped": config.layers.iter().map(|layer| layer.rope.is_some()).collect::<Vec<_>>(),
    });
    made.as_object().expect("an object").clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number")).collect()
}

#[test]
fn every_default_and_spelling_is_as_in_transformers() {
    let (mut failures, mut cases) = (Vec::new(), 0);
    for (kind, entry) in recorded() {
        let small = entry["small"].as_object().expect("a config");
        let base = entry["expected"].as_object().expect("what is expected");
        let whole = json!({ "with": {}, "expected": {} });
        for case in [&whole].into_iter().chain(entry["cases"].as_array().expect("cases")) {
            cases += 1;
            let mut fields = small.clone();
            fields.extend(case.get("with").and_then(Value::as_object).cloned().unwrap_or_default());
            for name in case.get("without").and_then(Value::as_array).into_iter().flatten() {
                fields.remove(name.as_str().expect("a name"));
            }
            let shown = format!("{kind} with {} without {}", case["with"], case["without"]);
            let config = match (load(&fields), case.get("refused")) {
                (Ok(config), None) => config,
                (Err(_), Some(_)) => continue,
                (Ok(_), Some(error)) => {
                    failures.push(format!("{shown}: loads, and transformers raises {error}"));
                    continue;
                }
                (Err(error), None) => {
                    failures.push(format!("{shown}: {error}"));
                    continue;
                }
            };
            let mut expected = base.clone();
            expected.extend(case["expected"].as_object().cloned().unwrap_or_default());
            for (name, value) in made(&config, &expected) {
                if value != expected[&name] {
                    failures.push(format!("{shown}: {name} is {value}, expected {}", expected[&name]));
                }
            }
            if f64::from(config.head_norm_eps) != f64::from(expected["norm_eps"].as_f64().expect("a number") as f32) {
                failures.push(format!("{shown}: norm_eps is {}", config.head_norm_eps));
            }
            let [embedding, residual, logits] = numbers(&expected["multipliers"])[..] else {
                panic!("three multipliers")
            };
            let (norm, scale) = (f64::from(config.norm_eps), f64::from(config.embedding_scale));
            let folded = [scale * residual / embedding, norm * residual * residual / f64::from(config.head_norm_eps)];
            if folded.into_iter().chain([f64::from(config.logit_scale) * logits]).any(|one| (one - 1.0).abs() > 1e-6) {
                failures.push(format!("{shown}: multipliers {folded:?}, logits {}", config.logit_scale));
            }
            let found = |name: &str| expected.get(name).filter(|found| !found.is_null()).map(numbers);
            if let (Some(rope), Some(local)) = (config.ropes.get(1), found("local_frequencies")) {
                let off = rope.inverse_frequencies.iter().zip(&local).map(|(&a, b)| (f64::from(a) / b - 1.0).abs());
                if rope.inverse_frequencies.len() != local.len() || support::worst(off) > 5e-7 {
                    failures.push(format!("{shown}: {:?} with a window, expected {local:?}", rope.inverse_frequencies));
                }
            }
            let Some(frequencies) = found("inverse_frequencies") else {
                assert!(config.ropes.is_empty() || config.ropes.len() == 2, "{shown}");
                continue;
            };
            let rope = &config.ropes[0];
            // A few roundings of f32: powers of the base differ by that between libraries.
            let close = |ours: f32, theirs: f64| {
                (f64::from(ours) - theirs).abs() <= 4.0 * f64::from(f32::EPSILON) * theirs.abs()
            };
            let same = rope.inverse_frequencies.len() == frequencies.len();
            if !same || !rope.inverse_frequencies.iter().zip(&frequencies).all(|(&ours, &theirs)| close(ours, theirs)) {
                failures.push(format!("{shown}: frequencies {:?}, expected {frequencies:?}", rope.inverse_frequencies));
            }
            if !close(rope.attention_factor, expected["attention_factor"].as_f64().expect("a number")) {
                failures.push(format!(
                    "{shown}: attention factor {}, expected {}",
                    rope.attention_factor, expected["attention_factor"]
                ));
            }
        }
    }
    assert!(cases > 200, "only {cases} cases");
    assert!(failures.is_empty(), "{} of {cases}:\n{}", failures.len(), failures.join("\n"));
}

fn text(text: &str) -> Result<Config, Error> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.json");
    fs::write(&path, text).expect("a file");
    Config::load(&path)
}

#[test]
fn a_file_is_read_as_python_reads_it() {
    let rest = r#""hidden_size": 24, "num_attention_heads": 4, "vocab_size": 67"#;
    for (claim, file) in [
        (
            "literals that JSON has not, in fields that no row uses",
            format!(
                r#"{{"model_type": "llama", {rest}, "a": NaN, "b": [Infinity, -Infinity], "c": {{"d":-Infinity}}}}"#
            ),
        ),
        ("a byte-order mark", format!("\u{feff}{{\"model_type\": \"llama\", {rest}}}")),
        ("a key twice", format!(r#"{{"model_type": "nothing", "model_type": "llama", {rest}, "hidden_size": 24}}"#)),
    ] {
        let config = text(&file).unwrap_or_else(|error| panic!("{claim}: {error}"));
        assert_eq!((config.hidden_size, config.vocab_size), (24, 67), "{claim}");
    }
    // Strings stay as they are, also those with quotes and backslashes in them.
    let config = text(&format!(
        r#"{{"model_type": "llama", {rest}, "a": "NaN \" Infinity", "b": "\\", "c": -Infinity, "d": "NaN"}}"#
    ))
    .expect("a config");
    assert_eq!(
        (&config.raw["a"], &config.raw["b"], &config.raw["d"]),
        (&json!("NaN \" Infinity"), &json!("\\"), &json!("NaN"))
    );
    // As transformers writes it.
    assert_eq!(config.raw["c"], json!({ "__float__": "-Infinity" }));
    for (field, found) in
        [("rms_norm_eps", "NaN"), ("hidden_size", "Infinity"), ("rope_theta", "-Infinity"), ("bos_token_id", "NaN")]
    {
        let error =
            text(&format!(r#"{{"model_type": "llama", {rest}, "{field}": {found}}}"#)).expect_err("a number is needed");
        assert!(
            error.exit_code() == 3
                && error.to_string().contains(field)
                && error.to_string().ends_with(&format!("found {found}")),
            "{error}"
        );
    }
    for bad in ["{\"model_type\": NaNa}", "{\"model_type\": Inf}", "{\"a\": -}", "NaN", "{\"a\": \"NaN}"] {
        assert_eq!(text(bad).expect_err("no JSON").exit_code(), 3, "{bad}");
    }
}

#[test]
fn what_stands_in_the_place_of_a_config_is_named() {
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 640\n";
    for (file, expected) in [
        (lfs, "the file is a Git LFS pointer to a file of 640 bytes, not that file; fetch it with `git lfs pull`"),
        ("<!DOCTYPE html>\n<html>", "the file is a web page (HTML)"),
        ("", "the file is empty; download it again"),
        ("\u{1f}\u{8b}", "config.json: "),
    ] {
        let message = text(file).expect_err("no config").to_string();
        assert!(message.contains(expected) && message.contains("config.json: "), "{message}");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.json");
    fs::write(&path, b"\xff\xfe{\0}\0").expect("a file");
    assert!(Config::load(&path).expect_err("UTF-16").to_string().contains("text in UTF-16; save it as UTF-8"));
}

#[test]
fn what_changes_the_numbers_and_is_not_read_is_refused_by_name() {
    let llama = json!({ "model_type": "llama", "hidden_size": 24, "num_attention_heads": 4 });
    for (field, value) in [
        ("per_layer_config", json!({ "0": { "intermediate_size": 8 } })),
        ("configuration_files", json!(["config.5.0.0.json"])),
        ("quantization_config", json!({ "quant_method": "awq" })),
        ("num_experts", json!(4)),
    ] {
        let mut fields = llama.as_object().expect("fields").clone();
        fields.insert(field.into(), value);
        let error = Config::from_fields(fields, Path::new("DIR/config.json")).expect_err("another model");
        assert!(error.exit_code() == 3 && error.to_string().starts_with(&format!("unsupported {field} = ")), "{error}");
        assert!(
            field != "quantization_config"
                || error.to_string().contains("the weights are quantised (awq); give the checkpoint"),
            "{error}"
        );
    }
    let mut fields = llama.as_object().expect("fields").clone();
    fields.insert("rope_parameters".into(), json!({ "full_attention": { "rope_type": "linear", "factor": 2.0 } }));
    let error = Config::from_fields(fields, Path::new("DIR/config.json")).expect_err("rotary embeddings by layer");
    assert!(error.to_string().contains("unsupported rope_parameters.full_attention = "), "{error}");
}

#[test]
fn models_that_are_no_decoders_are_told_what_they_are() {
    let refusal = |fields: Value| {
        let error = Config::from_fields(fields.as_object().expect("fields").clone(), Path::new("DIR/config.json"))
            .expect_err("no decoder");
        assert_eq!(error.exit_code(), 3, "{error}");
        error.to_string()
    };
    for (fields, expected) in [
        (
            json!({ "model_type": "bert", "architectures": ["BertForMaskedLM"] }),
            "; BertForMaskedLM is an encoder, and only decoders",
        ),
        (
            json!({ "model_type": "t5", "architectures": ["T5ForConditionalGeneration"] }),
            "; T5ForConditionalGeneration is an encoder-decoder or",
        ),
        (
            json!({ "model_type": "x", "is_encoder_decoder": true }),
            "; it is an encoder-decoder model, and only decoders that write text can be sliced",
        ),
        (json!({ "model_type": "vit", "architectures": ["ViTForImageClassification"] }), "is an image model"),
        (json!({ "model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"] }), "is a speech model"),
        (
            json!({ "model_type": "llava", "architectures": ["LlavaForX"], "vision_config": { "a": 1 } }),
            "; LlavaForX is a multimodal model",
        ),
    ] {
        let message = refusal(fields);
        assert!(message.starts_with("unknown model_type ") && message.contains(expected), "{message}");
    }
    let message = refusal(json!({ "model_type": "foo", "architectures": ["FooForCausalLM"] }));
    let last = slicegpt_gpu::model::architecture::ARCHITECTURES.last().expect("rows").model_type;
    assert!(message.ends_with(last), "{message}");
}
