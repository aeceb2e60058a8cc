//! Does a GGUF file hold what the checkpoint holds, where and how llama.cpp looks for it? It is read again by a reader
//! of the tests' own.

#[path = "support/gguf_families.rs"]
mod gguf_families;
#[path = "support/gguf_reader.rs"]
mod gguf_reader;
mod support;

use gguf_families::FAMILIES;
use gguf_reader::{Read, Tensor, Value, read};
use half::f16;
use std::path::Path;

use serde_json::json;
use slicegpt_gpu::{
    Error,
    checkpoint::{FileTarget, GgufFile, GgufTensor, GgufType, GgufValue},
    model::{Config, GgufExport, Model, Vocabulary},
    progress::Silent,
};
use support::{Random, fixture};

fn exported(model: &Model, kind: GgufType) -> (Read, Vec<String>) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("model.gguf");
    let export = GgufExport::plan(model, "a name", kind, Vocabulary::None).expect("a plan");
    export.write(target(&path), &Silent).expect("a file");
    (read(&path), export.notes)
}

fn open(name: &str) -> Model {
    Model::open(&fixture("parity").join(name)).expect("a model")
}

fn stored(model: &Model, name: &str) -> Vec<f32> {
    let tensor = model.store.checkpoint.tensor(name).unwrap_or_else(|| panic!("{name} is missing"));
    tensor.read().expect("its bytes").chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn metadata_tells_the_shape_of_the_model() {
    let model = open("qwen3_untied");
    let config = model.config();
    let (read, _) = exported(&model, GgufType::F16);
    let number = |key: &str| match &read.metadata[key] {
        Value::Number(number) => *number,
        other => panic!("{key}: {other:?}"),
    };
    assert_eq!(read.metadata["general.architecture"], Value::Text("qwen3".into()));
    assert_eq!(read.metadata["general.name"], Value::Text("a name".into()));
    assert_eq!(number("general.file_type"), 1.0);
    for (key, value) in [
        ("vocab_size", config.vocab_size),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("block_count", config.layers.len()),
        ("feed_forward_length", config.layers[0].intermediate_size),
        ("attention.head_count", config.layers[0].heads),
        ("attention.head_count_kv", config.layers[0].kv_heads),
        // Where 32 / 4 heads would be 8.
        ("attention.key_length", 10),
        ("attention.value_length", 10),
        ("rope.dimension_count", 10),
    ] {
        assert_eq!(number(&format!("qwen3.{key}")), value as f64, "{key}");
    }
    assert_eq!(number("qwen3.attention.layer_norm_rms_epsilon"), f64::from(config.norm_eps));
    assert_eq!(number("qwen3.rope.freq_base"), 10000.0);
    assert!(!read.metadata.keys().any(|key| key.contains("rope.scaling")), "{:?}", read.metadata.keys());
    assert_eq!(read.metadata["tokenizer.ggml.model"], Value::Text("no_vocab".into()), "there is no tokenizer.json");
}

#[test]
fn every_tensor_is_there_under_its_name_with_matrices_alone_in_the_asked_type() {
    let model = open("qwen3_untied");
    for (kind, id) in [(GgufType::F32, 0), (GgufType::F16, 1)] {
        let (read, _) = exported(&model, kind);
        let in_layer = [
            "attn_norm",
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
            "attn_q_norm",
            "attn_k_norm",
            "ffn_norm",
        ];
        let mut expected = vec!["token_embd.weight".to_owned()];
        expected.extend((0..2).flat_map(|layer| in_layer.map(|name| format!("blk.{layer}.{name}.weight"))));
        expected.extend(["output_norm.weight".to_owned(), "output.weight".to_owned()]);
        assert_eq!(read.names, expected);
        for (name, tensor) in &read.tensors {
            assert_eq!(tensor.kind, if tensor.dimensions.len() == 2 { id } else { 0 }, "{name}");
        }
        // [out, in] in the checkpoint.
        assert_eq!(read.tensors["blk.1.ffn_down.weight"].dimensions, [27, 32]);
        assert_eq!(
            read.tensors["blk.1.attn_k_norm.weight"].values(),
            stored(&model, "model.layers.1.self_attn.k_norm.weight")
        );
        let written = read.tensors["blk.1.ffn_down.weight"].values();
        let error = support::relative_error(&written, &stored(&model, "model.layers.1.mlp.down_proj.weight"));
        // Half a unit in the last place of f16.
        assert!(error <= if kind == GgufType::F32 { 0.0 } else { 2f64.powi(-11) }, "{error:.1e}");
    }
}

#[test]
fn every_family_has_the_metadata_and_tensors_of_llama_cpps_converter() {
    // What that has no word for, as its file would be read in spite of it: see tests/gguf_in.rs.
    let without = ["gpt_neox_odd_rotary"];
    let mut architectures = std::collections::BTreeSet::new();
    for family in FAMILIES.iter().filter(|family| !without.contains(&family.fixture)) {
        let (_kept, model) = family.model();
        let (read, _) = exported(&model, GgufType::F32);
        let name = family.fixture;
        for (key, value) in family.metadata(&model) {
            let expected = match value {
                GgufValue::U32(number) => Value::Number(f64::from(number)),
                GgufValue::F32(number) => Value::Number(f64::from(number)),
                GgufValue::Bool(flag) => Value::Bool(flag),
                GgufValue::Text(text) => Value::Text(text),
                GgufValue::I32s(list) => Value::List(list.iter().map(|size| Value::Number((*size).into())).collect()),
                other => panic!("{name}: {key} is {other:?}"),
            };
            // Where there is a window that llama.cpp does not know, the context ends with it.
            let window = model.config().layers[0].window.filter(|_| family.architecture != "gpt-oss");
            let window = window.map(|window| Value::Number(window as f64));
            let expected = window.filter(|_| key.ends_with(".context_length")).unwrap_or(expected);
            assert_eq!(read.metadata.get(&key), Some(&expected), "{name}: {key}");
        }
        let mut tensors = family.tensors(&model);
        // The embedding again, where llama.cpp wants a head of its own.
        if let (Some(head), true) = (read.tensors.get("output.weight"), model.config().tie_word_embeddings) {
            tensors.insert("output.weight".into(), tensors["token_embd.weight"].clone());
            assert!(
                ["gpt-oss", "gptneox", "olmoe", "phi2", "stablelm"].contains(&family.architecture),
                "{name}: {:?}",
                head.dimensions
            );
        }
        // And zeros for the biases that it loads and the model lacks: of queries, keys, values, output, up and down.
        let added: Vec<_> = read.tensors.keys().filter(|tensor| !tensors.contains_key(*tensor)).cloned().collect();
        let missing = match name {
            "starcoder2_no_bias" => 2 * 6,
            "gpt_oss_tied_yarn" => 3 * 4,
            _ => 0,
        };
        assert_eq!(added.len(), missing, "{name}: {added:?}");
        for bias in added {
            let weight = tensors.get(&bias.replace(".bias", ".weight")).unwrap_or_else(|| panic!("{name}: {bias}"));
            tensors.insert(bias, (vec![weight.0[0]], vec![0.0; weight.0[0]]));
        }
        assert!(tensors.keys().eq(read.tensors.keys()), "{name}: {:?}, {:?}", tensors.keys(), read.tensors.keys());
        for (tensor, (shape, values)) in tensors {
            let found = &read.tensors[&tensor];
            let dimensions: Vec<_> = found.dimensions.iter().rev().map(|size| *size as usize).collect();
            assert_eq!(dimensions, shape, "{name}: {tensor}");
            assert!(found.values() == values, "{name}: {tensor}");
        }
        architectures.insert(family.architecture);
    }
    assert_eq!(architectures.len(), 16, "{architectures:?}");
}

#[test]
fn configs_that_llama_cpp_has_no_word_for_are_refused_before_anything_is_read() {
    let narrower = |head_dim: u64| json!({ "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": head_dim });
    // Fixture, what its config has instead, and a part of the reason; none if it is taken.
    let cases = [
        ("granite_untied", json!({ "embedding_multiplier": 0.0 }), "the embedding_multiplier of 0 for none"),
        ("phi3_gqa", narrower(6), ""),
        ("phi3_partial_rotary", narrower(6), "a llama, which turns whole heads: here, 4 coordinates of 6 turn"),
        ("phi3_longrope_factor", narrower(8), "no rotary factors of long texts"),
        ("cohere_tied", json!({ "attention_bias": true }), "no bias for self_attn.q_proj"),
        ("cohere_tied", narrower(4), "its queries together are 8 wide and its residual stream 16"),
        ("cohere_tied", json!({ "num_hidden_layers": 64 }), "norms of queries and keys in models of 64 layers"),
        ("cohere_qk_norm", json!({ "num_hidden_layers": 64 }), ""),
        ("gpt_neox_parallel", json!({ "hidden_act": "gelu_fast" }), ""),
        ("gpt_neox_parallel", json!({ "hidden_act": "silu" }), "gelu by its tanh in its MLP, not Silu"),
        ("gemma3_tied", json!({}), ""),
        ("gemma3_tied", json!({ "layer_types": vec!["full_attention"; 6] }), "by other angles than these"),
        ("gemma2_tied", json!({ "layer_types": vec!["full_attention"; 2] }), ""),
        ("olmoe_normalised_tied", json!({ "attention_bias": false }), "divides the gates"),
        ("olmoe_plain", json!({ "num_key_value_heads": 4 }), ""),
        ("olmo2_untied", narrower(4), "its queries together are 8 wide and its residual stream 16"),
        ("qwen2_moe_plain", narrower(6), "its queries together are 12 wide and its residual stream 24"),
        ("qwen3_moe_normalised", json!({ "decoder_sparse_step": 100 }), "or some have none"),
        ("smollm3_interval", json!({ "no_rope_layers": null, "no_rope_layer_interval": 3 }), "every 4th"),
        ("qwen35_one_width", json!({}), ""),
        ("qwen35_one_width", json!({ "attention_bias": true }), "no bias for self_attn.q_proj"),
        ("qwen35_one_width", json!({ "linear_value_head_dim": 16 }), "8 wide and the values 16"),
        ("qwen35_one_width", json!({ "rms_norm_eps": 1e-5 }), "with the eps of the norms, which is 0.00001"),
        ("qwen35_one_width", json!({ "layer_types": ["linear_attention", "full_attention", "full_attention"] }), "nth"),
        ("qwen35_one_width", json!({ "layer_types": ["full_attention", "linear_attention", "full_attention"] }), "nth"),
        ("qwen35_one_width", json!({ "layer_types": ["full_attention", "full_attention", "full_attention"] }), "none"),
        ("gpt_oss_plain", json!({}), "values up to 7, and this model has α = 1.702 and values up to 1"),
        ("gpt_oss_plain", json!({ "swiglu_limit": 7.0, "swiglu_alpha": 1.5 }), "with α = 1.702"),
        ("gpt_oss_plain", json!({ "swiglu_limit": 7.0 }), ""),
        (
            "gpt_oss_plain",
            json!({ "swiglu_limit": 7.0, "layer_types": ["sliding_attention", "sliding_attention"] }),
            "every 2nd",
        ),
        (
            "starcoder2_tied",
            json!({ "rope_parameters": { "rope_type": "yarn", "factor": 2.0, "beta_fast": 8.0 } }),
            "by linear and by plain yarn rules alone",
        ),
    ];
    for (name, changes, reason) in cases {
        let mut fields = open(name).config().raw.clone();
        fields.extend(changes.as_object().cloned().unwrap_or_default());
        let config =
            Config::from_fields(fields, Path::new("config.json")).unwrap_or_else(|error| panic!("{name}: {error}"));
        match GgufExport::check(&config, GgufType::F32) {
            Ok(()) => assert_eq!(reason, "", "{name}: taken"),
            Err(error) => assert!(!reason.is_empty() && error.to_string().contains(reason), "{name}: {error}"),
        }
    }
}

#[test]
fn a_tied_head_is_left_out() {
    for (fixture, tied) in [("llama_gqa_tied", true), ("llama_mha_untied", false), ("qwen2_gqa_tied", true)] {
        let (read, _) = exported(&open(fixture), GgufType::F16);
        assert_eq!(read.names.contains(&"output.weight".to_owned()), !tied, "{fixture}");
    }
}

#[test]
fn a_tied_head_is_the_embedding_once_more_where_llama_cpp_loads_none_without() {
    let changes = |fixture| match fixture {
        "olmo2_untied" => json!({ "tie_word_embeddings": true }),
        _ => json!({ "tie_word_embeddings": true, "norm_topk_prob": false }),
    };
    for fixture in ["olmo2_untied", "qwen2_moe_plain"] {
        let directory = support::copy_of(fixture);
        let mut tensors = support::tensors(directory.path());
        tensors.retain(|name, _| name != "lm_head.weight");
        support::write_tensors(&directory.path().join("model.safetensors"), &tensors, &[]);
        let changes = changes(fixture);
        let fields: Vec<_> =
            changes.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value.clone())).collect();
        support::set_fields(directory.path(), &fields);
        let (read, _) = exported(&Model::open(directory.path()).expect("a model"), GgufType::F32);
        let values = |name: &str| read.tensors[name].values();
        assert_eq!(values("output.weight"), values("token_embd.weight"), "{fixture}");
    }
}

#[test]
fn coordinates_that_turn_together_are_neighbours_in_llama_alone() {
    // Model, whether rows of queries and keys are in another order there.
    for (fixture, permuted) in
        [("llama_bias", true), ("mistral_head_dim", true), ("qwen2_window", false), ("qwen3_untied", false)]
    {
        let model = open(fixture);
        let config = model.config();
        let (read, _) = exported(&model, GgufType::F32);
        for (ours, theirs, heads) in [
            ("q_proj", "attn_q", config.layers[0].heads),
            ("k_proj", "attn_k", config.layers[0].kv_heads),
            ("v_proj", "attn_v", config.layers[0].kv_heads),
        ] {
            let h = config.layers[0].head_dim;
            // Row `to` of the file is this row of the checkpoint.
            let from = |to: usize| match permuted && ours != "v_proj" {
                true => to / h * h + (to % h % 2) * (h / 2) + to % h / 2,
                false => to,
            };
            for (end, width) in [("weight", config.hidden_size), ("bias", 1)] {
                let name = format!("model.layers.1.self_attn.{ours}.{end}");
                let Some(tensor) = read.tensors.get(&format!("blk.1.{theirs}.{end}")) else {
                    assert!(end == "bias" && model.store.checkpoint.tensor(&name).is_none(), "{fixture}: {name}");
                    continue;
                };
                let (written, stored) = (tensor.values(), stored(&model, &name));
                assert_eq!(written.len(), heads * h * width, "{fixture}: {name}");
                for to in 0..heads * h {
                    assert_eq!(
                        written[to * width..(to + 1) * width],
                        stored[from(to) * width..(from(to) + 1) * width],
                        "{fixture}: {name} row {to}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_qwen2_whose_queries_are_not_as_wide_as_the_residual_stream_is_a_llama() {
    // llama.cpp takes both for one width in qwen2. Half of the queries of qwen2_gqa_tied, where there are 4 of 6.
    let directory = support::copy_of("qwen2_gqa_tied");
    let mut tensors = support::tensors(directory.path());
    for (name, (_, shape, bytes)) in &mut tensors {
        let end = if name.contains("q_proj") { 0 } else { 1 };
        if name.contains("q_proj") || name.contains("o_proj") {
            shape[end] /= 2;
            bytes.truncate(bytes.len() / 2);
        }
    }
    support::write_tensors(&directory.path().join("model.safetensors"), &tensors, &[]);
    support::set_fields(directory.path(), &[("num_attention_heads", 2.into()), ("head_dim", 6.into())]);
    let (whole, _) = exported(&open("qwen2_gqa_tied"), GgufType::F32);
    assert_eq!(whole.metadata["general.architecture"], Value::Text("qwen2".into()));
    let (read, _) = exported(&Model::open(directory.path()).expect("a model"), GgufType::F32);
    assert_eq!(read.metadata["general.architecture"], Value::Text("llama".into()));
    assert_eq!(read.metadata["llama.attention.key_length"], Value::Number(6.0));
    assert_eq!(read.tensors["blk.0.attn_q.weight"].dimensions, [24, 12]);
    // Coordinates that turn together are neighbours there.
    let (ours, theirs) = (&whole.tensors["blk.0.attn_k.bias"].values(), read.tensors["blk.0.attn_k.bias"].values());
    for (to, value) in theirs.into_iter().enumerate() {
        assert_eq!(value, ours[to / 6 * 6 + (to % 6 % 2) * 3 + to % 6 / 2], "{to}");
    }
}

#[test]
fn rotary_scaling_is_told_as_llama_cpp_knows_it() {
    // Model, what of `rope.scaling` there is, and whether frequencies come with factors.
    type Case<'a> = (&'a str, &'a [(&'a str, Value)], bool);
    let cases: [Case; 5] = [
        ("llama_rope_theta", &[], false),
        ("llama_rope_linear", &[("type", Value::Text("linear".into())), ("factor", Value::Number(2.5))], false),
        (
            "llama_rope_yarn",
            &[
                ("type", Value::Text("yarn".into())),
                ("factor", Value::Number(4.0)),
                ("original_context_length", Value::Number(32.0)),
            ],
            false,
        ),
        ("llama_rope_llama3", &[("type", Value::Text("none".into()))], true),
        // A ramp of its own is told by its frequencies, and what it multiplies cosines by.
        ("llama_rope_yarn_betas", &[("type", Value::Text("none".into()))], true),
    ];
    for (fixture, scaling, factors) in cases {
        let model = open(fixture);
        let rope = model.config().ropes[0].clone();
        let (read, _) = exported(&model, GgufType::F16);
        for (key, value) in scaling {
            assert_eq!(read.metadata.get(&format!("llama.rope.scaling.{key}")), Some(value), "{fixture}");
        }
        let magnitude = match read.metadata.get("llama.rope.scaling.attn_factor") {
            Some(Value::Number(factor)) => *factor,
            _ => 1.0,
        };
        let of_yarn = if fixture == "llama_rope_yarn" { 0.1 * 4f64.ln() + 1.0 } else { 1.0 };
        assert!((magnitude * of_yarn - f64::from(rope.attention_factor)).abs() < 1e-6, "{fixture}: {magnitude}");
        let Some(tensor) = read.tensors.get("rope_freqs.weight") else {
            assert!(!factors, "{fixture}");
            continue;
        };
        assert!(factors, "{fixture}");
        let dim = model.config().layers[0].head_dim as f64;
        for (pair, factor) in tensor.values().iter().enumerate() {
            let turned = rope.theta.powf(-2.0 * pair as f64 / dim) / f64::from(*factor);
            assert!((turned / f64::from(rope.inverse_frequencies[pair]) - 1.0).abs() < 1e-6, "{fixture} pair {pair}");
        }
    }
}

#[test]
fn a_sliding_window_ends_the_context_and_the_file_says_so() {
    let model = open("mistral_window");
    let window = model.config().layers[0].window.expect("a window");
    let (read, notes) = exported(&model, GgufType::F16);
    assert_eq!(read.metadata["llama.context_length"], Value::Number(window as f64));
    assert!(notes.iter().any(|note| note.contains("sliding window")), "{notes:?}");
    let (read, notes) = exported(&open("mistral_no_window"), GgufType::F16);
    assert_eq!(read.metadata["llama.context_length"], Value::Number(128.0));
    assert!(!notes.iter().any(|note| note.contains("sliding window")), "{notes:?}");
}

#[test]
fn rows_that_are_no_multiple_of_a_block_stay_f16() {
    let (read, notes) = exported(&open("qwen3_untied"), GgufType::Q8_0);
    // 4 heads of 10 and 27 are none; the hidden size, 32, is.
    let kinds: Vec<u32> = ["attn_q", "attn_output", "ffn_down"]
        .iter()
        .map(|name| read.tensors[&format!("blk.0.{name}.weight")].kind)
        .collect();
    assert_eq!(kinds, [8, 1, 1]);
    assert_eq!(read.metadata["general.file_type"], Value::Number(7.0));
    assert!(notes.iter().any(|note| note.starts_with("4 tensors stay in f16")), "{notes:?}");
}

/// A file that is not there yet.
fn target(path: &Path) -> FileTarget {
    FileTarget::new(path, false).expect("a name")
}

/// Writes one matrix and reads its bytes.
fn encoded(values: &[f32], width: usize, kind: GgufType) -> Tensor {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.gguf");
    let tensor = GgufTensor { name: "x".into(), shape: vec![values.len() / width, width], kind };
    let mut file =
        GgufFile::create(target(&path), &[("a".into(), GgufValue::Bool(true))], vec![tensor]).expect("a file");
    values.chunks(width).for_each(|row| file.write("x", row).expect("a row"));
    file.finish().expect("a file");
    read(&path).tensors.remove("x").expect("the tensor")
}

#[test]
fn q8_0_rounds_each_value_to_the_nearest_step_of_its_block() {
    let mut random = Random::new(1);
    let mut blocks: Vec<Vec<f32>> = (-31..6).map(|exponent| random.values(32, 2f32.powi(exponent))).collect();
    blocks.push(vec![0.0; 32]);
    // One value that all others vanish beside, its negative, and all alike.
    blocks.push((0..32).map(|index| if index == 5 { 1000.0 } else { 1e-3 }).collect());
    blocks.push((0..32).map(|index| if index == 31 { -1000.0 } else { 1.0 }).collect());
    blocks.push(vec![-0.37; 32]);
    // Steps below the smallest that f16 has.
    blocks.push(random.values(32, 1e-9));
    let values: Vec<f32> = blocks.concat();
    let tensor = encoded(&values, 64, GgufType::Q8_0);
    assert_eq!(tensor.data.len(), blocks.len() * 34);
    for (number, (block, bytes)) in blocks.iter().zip(tensor.data.chunks_exact(34)).enumerate() {
        let largest = block.iter().fold(0.0f64, |most, &value| most.max(f64::from(value).abs()));
        let scale = f16::from_le_bytes([bytes[0], bytes[1]]);
        assert_eq!(scale, f16::from_f64(largest / 127.0), "block {number}");
        let scale = scale.to_f64();
        for (&value, &byte) in block.iter().zip(&bytes[2..]) {
            let exact = if scale == 0.0 { 0.0 } else { (f64::from(value) / scale).clamp(-127.0, 127.0) };
            // Half a step, and what f32 loses by dividing.
            assert!(
                (exact - f64::from(byte as i8)).abs() <= 0.5 + 127.0 * support::ROUNDOFF,
                "block {number}: {value} in steps of {scale} is {}",
                byte as i8
            );
        }
    }
}

#[test]
fn a_file_takes_its_tensors_in_order_and_whole_or_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.gguf");
    let tensor = |name: &str, kind| GgufTensor { name: name.into(), shape: vec![2, 32], kind };
    let wrong = |write: &dyn Fn(&mut GgufFile) -> slicegpt_gpu::Result<()>, reason: &str| {
        let tensors = vec![tensor("a", GgufType::Q8_0), tensor("b", GgufType::F32)];
        let mut file = GgufFile::create(target(&path), &[], tensors).expect("a file");
        let error = write(&mut file).and_then(|()| file.finish().map(drop)).expect_err("out of plan");
        assert!(matches!(error, Error::Shape { .. }) && error.to_string().contains(reason), "{error}");
        assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 0, "{reason}");
    };
    wrong(&|file| file.write("b", &[0.0; 32]), "32 values of b, where 64 of a are due");
    wrong(&|file| file.write("a", &[0.0; 96]), "96 values of a");
    wrong(&|file| file.write("a", &[0.0; 16]), "16 values of a");
    wrong(&|file| file.write("a", &[0.0; 32]), "not complete");
    wrong(
        &|file| {
            file.write("a", &[0.0; 64])
                .and_then(|()| file.write("b", &[0.0; 64]))
                .and_then(|()| file.write("c", &[0.0; 1]))
        },
        "not planned",
    );
    let narrow = GgufTensor { name: "a".into(), shape: vec![2, 24], kind: GgufType::Q8_0 };
    assert!(matches!(GgufFile::create(target(&path), &[], vec![narrow]), Err(Error::Shape { .. })));
}
