//! Does a GGUF file of a gpt-oss hold what the checkpoint holds, and does its user hear of what llama.cpp computes
//! otherwise? It is read again by a reader of the tests' own.

#[path = "support/gguf_reader.rs"]
mod gguf_reader;
mod support;

use std::path::Path;

use gguf_reader::{Read, Value, read};
use serde_json::json;
use slicegpt_gpu::{
    checkpoint::{Dtype, FileTarget, GgufType},
    model::{GgufExport, Model, Vocabulary},
    progress::Silent,
};
use support::fixture;

/// Writes the file, and returns what the user should know about it.
fn export(model: &Model, kind: GgufType, path: &Path) -> Vec<String> {
    let export = GgufExport::plan(model, "a name", kind, Vocabulary::None).expect("a plan");
    export.write(FileTarget::new(path, true).expect("a name"), &Silent).expect("a file");
    export.notes
}

/// The file, read by the tests and by the program.
fn exported(model: &Model, kind: GgufType) -> (Read, Model, Vec<String>) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("model.gguf");
    let notes = export(model, kind, &path);
    (read(&path), Model::open(&path).expect("the file"), notes)
}

#[test]
fn a_ramp_of_yarn_whose_ends_are_not_rounded_says_how_far_llama_cpp_is_off() {
    let yarn = |original: u32, theta: f64, more: serde_json::Value| {
        let mut section = json!({
            "rope_type": "yarn", "factor": 32.0, "rope_theta": theta, "original_max_position_embeddings": original,
        });
        section.as_object_mut().expect("a section").extend(more.as_object().cloned().unwrap_or_default());
        section
    };
    // 64 · ln(4096 / 2π / turns) / (2 · ln 150000) is 8.0927 for 32 turns and 17.398 for one: of gpt-oss-20b and -120b.
    // Pair 17 keeps 0.0428 of its frequency and adds the rest by 32, where a ramp from 8 to 18 keeps 0.1.
    let between = "pairs 8.09 and 17.40, to 8 and 18, in every file of this architecture, and the model does not \
                   (truncate is false): 9 of the 32 pairs of a head turn at 0.997 to 1.763 times";
    // Between 0 and 0.62, or rounded to 1, no pair is.
    let (alike, truncate) = (yarn(24, 1e30, json!({ "truncate": false })), "rope.scaling.yarn_truncate");
    for (section, note, truncates) in [
        (yarn(4096, 150_000.0, json!({ "truncate": false })), between, false),
        (yarn(4096, 150_000.0, json!({})), "", true),
        (alike, "", true),
    ] {
        let directory = support::copy_of("gpt_oss_mxfp4");
        let fields = [
            ("head_dim", 64.into()),
            ("num_attention_heads", 1.into()),
            ("num_key_value_heads", 1.into()),
            ("swiglu_limit", 7.into()),
            ("rope_parameters", section.clone()),
        ];
        support::set_fields(directory.path(), &fields);
        let mut tensors = support::tensors(directory.path());
        for (name, (_, shape, bytes)) in &mut tensors {
            let whole = match name.rsplit_once("self_attn.") {
                Some((_, "sinks")) => vec![1],
                Some((_, name)) if name.ends_with("bias") => vec![64],
                Some(_) => vec![64, 64],
                None => continue,
            };
            let size = bytes.len() / shape.iter().product::<usize>();
            bytes.resize(whole.iter().product::<usize>() * size, 0);
            *shape = whole;
        }
        support::write_tensors(&directory.path().join("model.safetensors"), &tensors, &[]);
        let model = Model::open(directory.path()).expect("a model");
        let (read, again, notes) = exported(&model, GgufType::F16);
        let said: Vec<_> = notes.iter().filter(|note| note.contains("yarn's ramp")).collect();
        assert!(said.len() == usize::from(!note.is_empty()) && said.iter().all(|said| said.contains(note)), "{said:?}");
        assert_eq!(read.metadata["gpt-oss.rope.scaling.type"], Value::Text("yarn".into()));
        let found = read.metadata.get(&format!("gpt-oss.{truncate}"));
        assert_eq!(found, truncates.then_some(&Value::Bool(true)), "{section}");
        // And what is read again turns as the model does, whether or not llama.cpp does.
        let frequencies = |model: &Model| model.config().ropes[0].inverse_frequencies.clone();
        let error = support::relative_error(&frequencies(&again), &frequencies(&model));
        assert!(error < 1e-6, "{section}: {error:.1e}");
    }
}

#[test]
fn experts_in_mxfp4_are_written_as_they_were_and_read_as_they_are() {
    let directory = support::copy_of("gpt_oss_mxfp4");
    support::set_fields(directory.path(), &[("swiglu_limit", 7.into())]);
    let model = Model::open(directory.path()).expect("a model");
    let (read, again, notes) = exported(&model, GgufType::Mxfp4);
    assert_eq!(read.metadata["general.file_type"], Value::Number(38.0));
    assert!(!notes.iter().any(|note| note.contains("stay in f16")), "{notes:?}");
    let kind = |name: &str| read.tensors[&format!("blk.1.{name}.weight")].kind;
    let kinds = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "attn_q", "ffn_gate_inp", "attn_sinks"].map(kind);
    assert_eq!(kinds, [39, 39, 39, 1, 0, 0]);
    let biases = ["gate", "up", "down"].map(|role| read.tensors[&format!("blk.0.ffn_{role}_exps.bias")].kind);
    assert_eq!(biases, [0; 3]);
    // Of a block: its scale, then each byte has a value of the first half below one of the second. In the checkpoint,
    // neighbours are in a byte, and gate and up are rows in turn.
    let bytes = |name: &str| {
        let tensor = model.store.checkpoint.tensor(name);
        assert!(tensor.is_none(), "{name} is put together with its scales");
        support::tensors(directory.path())[name].2.clone()
    };
    for (theirs, ours, first, every) in [
        ("ffn_gate_exps", "gate_up_proj", 0, 2),
        ("ffn_up_exps", "gate_up_proj", 1, 2),
        ("ffn_down_exps", "down_proj", 0, 1),
    ] {
        let stem = format!("model.layers.1.mlp.experts.{ours}");
        let (blocks, scales) = (bytes(&format!("{stem}_blocks")), bytes(&format!("{stem}_scales")));
        let written = &read.tensors[&format!("blk.1.{theirs}.weight")];
        let per_row = written.dimensions[0] as usize / 32;
        assert_eq!(written.data.len() / 17 * every, scales.len(), "{theirs}");
        for (number, block) in written.data.chunks_exact(17).enumerate() {
            let (row, group) = (number / per_row, number % per_row);
            let stored = (row * every + first) * per_row + group;
            let stored_block = &blocks[stored * 16..][..16];
            let nibble = |at: usize| stored_block[at / 2] >> (at % 2 * 4) & 15;
            let largest = (0..32).map(|at| nibble(at) & 7).max().unwrap_or_default();
            let turned: Vec<u8> = (0..16).map(|at| nibble(at) | nibble(at + 16) << 4).collect();
            // Where no value needs it, the scale is the largest; zeros have no sign.
            if largest >= 6 && (0..32).all(|at| nibble(at) != 8) {
                assert_eq!((block[0], &block[1..]), (scales[stored], &turned[..]), "{theirs} block {number}");
            }
        }
    }
    assert_eq!(again.config().raw["torch_dtype"], json!("bfloat16"));
    for spec in model.config().tensors().into_iter().filter(|spec| spec.name.contains("experts")) {
        let values = |model: &Model| model.store.whole(&spec).and_then(|matrix| matrix.to_f32()).expect("values");
        assert!(values(&model) == values(&again), "{}", spec.name);
        let tensor = again.store.checkpoint.tensor(&spec.name).expect("a tensor");
        let wanted = if spec.shape.len() == 3 { Dtype::BF16 } else { Dtype::F32 };
        assert_eq!((tensor.dtype, tensor.written), (wanted, wanted), "{}", spec.name);
    }
    // Whatever part of a tensor is read, it is that part.
    let name = "model.layers.0.mlp.experts.gate_up_proj";
    let tensor = again.store.checkpoint.tensor(name).expect("a tensor");
    let (all, len) = (tensor.read().expect("bytes"), tensor.byte_len);
    for (start, end) in [(0, 2), (2, 130), (126, len / 4), (len / 4 - 2, len / 4 + 2), (len / 4, len / 2), (10, len)] {
        assert_eq!(tensor.read_range(start..end).expect("bytes"), all[start..end], "{start}..{end}");
    }
    let plain = Model::open(&fixture("parity").join("qwen3_untied")).expect("a model");
    let refused = GgufExport::plan(&plain, "a name", GgufType::Mxfp4, Vocabulary::None).map(drop);
    assert!(refused.expect_err("no experts").to_string().contains("take f16"));
}

#[test]
fn where_layers_could_have_a_window_and_none_has_it_is_as_long_as_the_context() {
    // Without the key, llama.cpp takes one of its own for gemma2 and does not load gpt-oss.
    for (fixture, architecture) in [("gemma2_tied", "gemma2"), ("gpt_oss_no_sinks", "gpt-oss")] {
        let directory = support::copy_of(fixture);
        let layers = Model::open(&self::fixture("parity").join(fixture)).expect("a model").config().layers.len();
        support::set_fields(directory.path(), &[("layer_types", vec!["full_attention"; layers].into())]);
        let model = Model::open(directory.path()).expect("a model");
        let (read, ..) = exported(&model, GgufType::F16);
        let number = |key: &str| read.metadata.get(&format!("{architecture}.{key}")).cloned();
        assert!(number("context_length").is_some(), "{fixture}");
        assert_eq!(number("attention.sliding_window"), number("context_length"), "{fixture}");
    }
}
