//! Export: what is written where, and what is refused.

use std::{ffi::OsStr, fs};

use serde_json::{Value, json};

use super::{LLAMA, Scene, args, program, read_json};

/// A tokenizer of bytes, one token for each, without merges.
pub fn byte_tokenizer() -> Value {
    // The letters that stand for bytes: themselves where they can be seen, others from 256 on.
    let seen = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let hidden: Vec<u32> = (0..256).filter(|byte| !seen(byte)).collect();
    let letter = |byte: u32| {
        char::from_u32(hidden.iter().position(|&other| other == byte).map_or(byte, |at| 256 + at as u32))
            .expect("a letter")
    };
    let vocab: serde_json::Map<String, Value> = (0..256).map(|byte| (letter(byte).to_string(), json!(byte))).collect();
    json!({
        "added_tokens": [{
            "id": 256, "content": "<end>", "special": true, "normalized": false, "single_word": false, "lstrip": false,
            "rstrip": false
        }],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true }, "post_processor": null,
        "model": { "type": "BPE", "vocab": vocab, "merges": [] }
    })
}

/// A model with a vocabulary of 260 and that tokenizer.
pub fn scene() -> Scene {
    let scene = Scene::with_vocabulary(260);
    scene.put("model/tokenizer.json", byte_tokenizer().to_string());
    scene
}

#[test]
fn an_export_goes_beside_the_model_and_replaces_a_file_by_force_alone() {
    let scene = scene();
    let (model, file) = (scene.path("model"), scene.path("model-f16.gguf"));
    let report = program(args!["export", model, "--format", "gguf", "--json"]).json();
    assert_eq!(report["output"], json!(file.display().to_string()));
    let bytes = fs::read(&file).expect("a file");
    assert!(bytes.starts_with(b"GGUF\x03\0\0\0") && report["bytes"] == json!(bytes.len()), "{report}");
    scene.refused(args!["export", model, "--format", "gguf"], 2, "already exists");
    fs::write(&file, "old").expect("a file");
    assert_eq!(program(args!["export", model, "--format", "gguf", "--force"]).code, Some(0));
    assert!(fs::read(&file).expect("a file") == bytes, "the same file again");
    let short = program(args!["export", model, "--format", "gguf", "--type", "q8_0"]);
    assert!(
        short.code == Some(0) && short.err.contains("stay in f16") && scene.path("model-q8_0.gguf").exists(),
        "{short:?}"
    );
}

#[test]
fn an_export_never_replaces_its_model_nor_a_directory() {
    let scene = scene();
    let model = scene.path("model");
    for input in ["model.safetensors", "config.json", "tokenizer.json"] {
        scene.refused(
            args!["export", model, "--format", "gguf", "--force", "-o", model.join(input)],
            2,
            "would be overwritten",
        );
    }
    scene.refused(args!["export", model, "--format", "gguf", "--force", "-o", model], 2, "is a directory");
    scene.refused(args!["export", scene.path("none"), "--format", "gguf"], 3, "no such model");
}

#[test]
fn a_model_that_llama_cpp_would_compute_otherwise_is_refused() {
    let out = "x.gguf";
    for (fixture, reason) in [
        (
            "opt_relu",
            "only llama, mistral, qwen2, qwen3, qwen3_5_text, smollm3, granite, starcoder2, phi, phi3, gpt2, gpt_neox, \
             gemma, gemma2, gemma3_text, olmo, olmo2, stablelm, cohere, falcon, bloom, mpt, qwen2_moe, qwen3_moe, olmoe, \
             mixtral, gpt_oss can",
        ),
        ("smollm3_listed", "rotary embeddings in all layers of this architecture but every 4th"),
        ("starcoder2_head_dim", "its queries together are 40 wide and its residual stream 24"),
        ("gpt2_inverse_layer", "by 1/sqrt(head_dim) alone"),
        ("gpt_neox_odd_rotary", "an odd number of coordinates turn"),
        ("phi_qk_layernorm", "no norms of queries and keys"),
        ("falcon_alibi_parallel", "no linear biases (alibi)"),
        ("falcon_rw", "none of these with parallel_attn false"),
        ("cohere_qk_norm", "in models of 64 layers and more, and in no others; this one has 2"),
        ("cohere_untied", "takes the embedding for the head"),
        ("llama_gelu", "silu in its MLP, not Gelu"),
        ("qwen3_bias", "no bias for self_attn.q_proj"),
    ] {
        let scene = Scene::new(fixture);
        scene.refused(args!["export", scene.path("model"), "--format", "gguf", "-o", scene.path(out)], 2, reason);
    }
    let scene = Scene::new("qwen3_untied");
    let mut fields = read_json(&scene.path("model/config.json"));
    fields["rope_parameters"] = json!({
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64
    });
    scene.put("model/config.json", fields.to_string());
    scene.refused(
        args!["export", scene.path("model"), "--format", "gguf", "-o", scene.path(out)],
        2,
        "linear and by plain yarn rules alone",
    );
}

#[test]
fn a_model_sliced_with_a_basis_per_layer_is_told_of_the_shared_one() {
    let scene = Scene::new(LLAMA);
    let tokens = scene.tokens("tokens.json", 2, 30);
    let out = scene.path("sliced");
    assert_eq!(program(args!["run", scene.path("model"), "-o", out, "--calibration", tokens]).code, Some(0));
    scene.refused(args!["export", out, "--format", "gguf"], 2, "slice with `run --basis shared`");
}

#[test]
fn a_damaged_or_foreign_tokenizer_is_refused_with_the_way_out() {
    let scene = scene();
    let model = scene.path("model");
    let changed = |pointer: &str, value: Value| {
        let mut tokenizer = byte_tokenizer();
        *tokenizer.pointer_mut(pointer).expect("a field") = value;
        tokenizer.to_string()
    };
    let sentence = |vocab: Value| {
        json!({
            "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
            "model": { "type": "BPE", "byte_fallback": true, "vocab": vocab, "merges": [] }
        })
        .to_string()
    };
    let pieces = json!({
        "type": "WordPiece", "vocab": { "a": 0 }, "unk_token": "a", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100
    });
    let spaced = json!({ "type": "BPE", "vocab": { "a b": 0, "c": 1, "a bc": 2 }, "merges": [["a b", "c"]] });
    let end = json!({ "SpecialToken": { "id": "<end>", "type_id": 0 } });
    let twice = json!({
        "type": "TemplateProcessing", "single": [end, end, { "Sequence": { "id": "A", "type_id": 0 } }], "pair": [],
        "special_tokens": { "<end>": { "id": "<end>", "ids": [256], "tokens": ["<end>"] } }
    });
    let cases = [
        ("{".to_owned(), "EOF"),
        ("[]".into(), "invalid"),
        ("{}".into(), "Model missing"),
        (changed("/model", pieces), "WordPiece model, which llama.cpp does not; --no-tokenizer"),
        (changed("/model/vocab", json!(["a"])), "expected a map"),
        (changed("/model/vocab", json!({ "a": 0, "b": 0 })), "share an id"),
        (changed("/model/vocab", json!({ "a": -1 })), "integer `-1`"),
        (changed("/model/vocab", json!({ "a": 260 })), "no id below vocab_size 260"),
        (changed("/model/vocab", json!({ "a": 1e30 })), "floating point"),
        (changed("/added_tokens/0/id", json!(7)), "share an id"),
        (changed("/added_tokens/0/id", json!(u64::MAX)), "expected u32"),
        (changed("/model/merges", json!(["a b c"])), "Merges"),
        (changed("/model/merges", json!([["a b", "c"]])), "out of vocabulary"),
        (changed("/model/merges", json!([7])), "did not match"),
        (changed("/model", spaced), "merges pieces with a space"),
        (changed("/normalizer", json!({ "type": "Lowercase" })), "prepares text by Lowercase"),
        (changed("/pre_tokenizer/add_prefix_space", json!(true)), "no known name in llama.cpp"),
        (changed("/pre_tokenizer", json!({ "type": "Whitespace" })), "without tokens for the bytes"),
        (
            changed(
                "/post_processor",
                json!({ "type": "BertProcessing", "sep": ["<end>", 256], "cls": ["<end>", 256] }),
            ),
            "finishes texts by \"BertProcessing\"",
        ),
        (changed("/post_processor", twice), "more around a text"),
        (sentence(json!({ "<0x00>": 0 })), "no token for the byte 0x01"),
    ];
    for (text, message) in cases {
        scene.put("model/tokenizer.json", &text);
        scene.refused(args!["export", model, "--format", "gguf"], 3, message);
    }
    let file = scene.path("model-f16.gguf");
    assert_eq!(program(args!["export", model, "--format", "gguf", "--no-tokenizer"]).code, Some(0), "the way out");
    scene.put("model/tokenizer.json", changed("/pre_tokenizer/add_prefix_space", json!(true)));
    assert_eq!(
        program(args!["export", model, "--format", "gguf", "--force", "--tokenizer-pre", "gpt-2"]).code,
        Some(0),
        "the other way out"
    );
    fs::remove_file(file).expect("a file");
    scene.put("model/tokenizer.json", byte_tokenizer().to_string());
    scene.put("model/tokenizer_config.json", "[1]");
    scene.refused(args!["export", model, "--format", "gguf"], 3, "tokenizer_config.json");
}

#[test]
fn values_that_a_type_cannot_hold_are_refused() {
    let scene = scene();
    let model = scene.path("model");
    let path = model.join("model.safetensors");
    let bytes = fs::read(&path).expect("a file");
    let spoilt = |value: f32| {
        let mut bytes = bytes.clone();
        let last = bytes.len() - 4;
        bytes[last..].copy_from_slice(&value.to_le_bytes());
        // The last tensor is the final norm or the head: the first matrix holds the embedding.
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        bytes[header..header + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(&path, bytes).expect("a file");
    };
    spoilt(1e6);
    scene.refused(args!["export", model, "--format", "gguf"], 2, "too large for F16; --type f32 holds them");
    assert_eq!(
        program(args!["export", model, "--format", "gguf", "--type", "f32", "-o", scene.path("x")]).code,
        Some(0)
    );
    spoilt(f32::NAN);
    scene.refused(args!["export", model, "--format", "gguf"], 3, "NaN or infinite");
}

#[cfg(target_os = "linux")]
#[test]
fn an_export_to_a_full_disk_leaves_nothing_behind() {
    let scene = Scene::with_vocabulary(100_000);
    let model = scene.path("model");
    let arguments: &[&OsStr] = args!["export", model, "--format", "gguf", "--type", "f32"];
    scene.refused_with(&mut super::refusals::with_small_files(arguments), 7, "cannot write");
}
