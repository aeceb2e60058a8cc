//! Are checkpoints whose layers differ in heads and MLP width read, evaluated and continued as they should be?
//!
//! Each is made by hand from a fixture, and held against the dense fixture in which what was removed writes nothing.

#[path = "support/gguf_reader.rs"]
mod gguf_reader;
mod support;

use std::path::Path;

use serde_json::{Value, json};
use slicegpt_gpu::{
    checkpoint::{FileTarget, GgufType},
    eval,
    generate::{Sampling, generate},
    gpu::Gpu,
    model::{Config, GgufExport, LayerSpec, Model, Vocabulary},
    progress::Silent,
    slice::{Options, Plan},
};
use support::Tensors;
use tempfile::TempDir;

/// Which key-value heads and MLP channels a layer keeps.
struct Kept {
    kv_heads: Vec<usize>,
    channels: Vec<usize>,
}

/// How a fixture stores a layer.
struct Stored {
    fixture: &'static str,
    /// Before the number of the layer.
    layers: &'static str,
    /// Weights with a row (or, transposed, a column) for each unit, and what the units are.
    reads: &'static [(&'static str, Units)],
    attention_output: &'static str,
    mlp_output: &'static str,
    /// Whether the file has `[in, out]`.
    transposed: bool,
}

#[derive(Clone, Copy)]
enum Units {
    Queries,
    Keys,
    Channels,
    /// Queries, keys and values, one after the other.
    Qkv,
    /// Query, key and value of head 0, then of head 1, …
    QkvByHead,
    /// Gate, then up.
    GateUp,
}

const MODELS: &[Stored] = &[
    Stored {
        fixture: "llama_gqa_tied",
        layers: "model.layers",
        reads: &[
            ("self_attn.q_proj", Units::Queries),
            ("self_attn.k_proj", Units::Keys),
            ("self_attn.v_proj", Units::Keys),
            ("mlp.gate_proj", Units::Channels),
            ("mlp.up_proj", Units::Channels),
        ],
        attention_output: "self_attn.o_proj",
        mlp_output: "mlp.down_proj",
        transposed: false,
    },
    Stored {
        fixture: "phi3_gqa",
        layers: "model.layers",
        reads: &[("self_attn.qkv_proj", Units::Qkv), ("mlp.gate_up_proj", Units::GateUp)],
        attention_output: "self_attn.o_proj",
        mlp_output: "mlp.down_proj",
        transposed: false,
    },
    Stored {
        fixture: "gpt_neox_parallel",
        layers: "gpt_neox.layers",
        reads: &[("attention.query_key_value", Units::QkvByHead), ("mlp.dense_h_to_4h", Units::Channels)],
        attention_output: "attention.dense",
        mlp_output: "mlp.dense_4h_to_h",
        transposed: false,
    },
    Stored {
        fixture: "gpt2_n_inner",
        layers: "transformer.h",
        reads: &[("attn.c_attn", Units::Qkv), ("mlp.c_fc", Units::Channels)],
        attention_output: "attn.c_proj",
        mlp_output: "mlp.c_proj",
        transposed: true,
    },
];

fn values(tensors: &Tensors, name: &str) -> (Vec<usize>, Vec<f32>) {
    let (_, shape, bytes) = &tensors[name];
    (shape.clone(), bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn put(tensors: &mut Tensors, name: &str, shape: Vec<usize>, values: &[f32]) {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensors.insert(name.into(), (slicegpt_gpu::checkpoint::Dtype::F32, shape, bytes));
}

/// Keeps some rows of a matrix or entries of a vector, or some columns.
fn keep(tensors: &mut Tensors, name: &str, kept: &[usize], columns: bool) {
    let (shape, all) = values(tensors, name);
    let cols = if shape.len() == 1 { 1 } else { shape[1] };
    if columns && shape.len() == 2 {
        let picked: Vec<f32> =
            (0..shape[0]).flat_map(|row| kept.iter().map(move |col| row * cols + col)).map(|at| all[at]).collect();
        return put(tensors, name, vec![shape[0], kept.len()], &picked);
    }
    let picked: Vec<f32> = kept.iter().flat_map(|row| &all[row * cols..(row + 1) * cols]).copied().collect();
    put(tensors, name, if shape.len() == 1 { vec![kept.len()] } else { vec![kept.len(), cols] }, &picked);
}

/// Zeroes the rows, or columns, of a matrix that are not kept.
fn silence(tensors: &mut Tensors, name: &str, kept: &[usize], columns: bool) {
    let (shape, mut all) = values(tensors, name);
    for (at, value) in all.iter_mut().enumerate() {
        let unit = if columns { at % shape[1] } else { at / shape[1] };
        if !kept.contains(&unit) {
            *value = 0.0;
        }
    }
    put(tensors, name, shape, &all);
}

/// The coordinates of some heads.
fn coordinates(heads: impl IntoIterator<Item = usize>, head_dim: usize) -> Vec<usize> {
    heads.into_iter().flat_map(|head| head * head_dim..(head + 1) * head_dim).collect()
}

impl Stored {
    /// The pruned checkpoint, and the dense one in which what was removed writes nothing.
    fn prune(&self, kept: &[Kept]) -> (TempDir, TempDir) {
        let (pruned, silent) = (support::copy_of(self.fixture), support::copy_of(self.fixture));
        let dense = Model::open(pruned.path()).expect("a model");
        let spec = dense.config().layers[0].clone();
        let (h, group) = (spec.head_dim, spec.heads / spec.kv_heads);
        let (mut small, mut whole) = (support::tensors(pruned.path()), support::tensors(pruned.path()));
        let mut sizes = Vec::new();
        for (index, Kept { kv_heads, channels }) in kept.iter().enumerate() {
            let queries: Vec<usize> = kv_heads.iter().flat_map(|head| head * group..(head + 1) * group).collect();
            let (q, k) = (coordinates(queries.clone(), h), coordinates(kv_heads.iter().copied(), h));
            let after = |from: usize, list: &[usize]| list.iter().map(|at| from + at).collect::<Vec<_>>();
            let (all_q, all_k) = (spec.heads * h, spec.kv_heads * h);
            for (name, units) in self.reads {
                let rows = match units {
                    Units::Queries => q.clone(),
                    Units::Keys => k.clone(),
                    Units::Channels => channels.clone(),
                    Units::Qkv => [q.clone(), after(all_q, &k), after(all_q + all_k, &k)].concat(),
                    Units::QkvByHead => coordinates(kv_heads.iter().copied(), 3 * h),
                    Units::GateUp => [channels.clone(), after(spec.intermediate_size, channels)].concat(),
                };
                for end in ["weight", "bias"] {
                    let name = format!("{}.{index}.{name}.{end}", self.layers);
                    if small.contains_key(&name) {
                        keep(&mut small, &name, &rows, self.transposed);
                    }
                }
            }
            for (name, list) in [(self.attention_output, &q), (self.mlp_output, channels)] {
                let name = format!("{}.{index}.{name}.weight", self.layers);
                keep(&mut small, &name, list, !self.transposed);
                silence(&mut whole, &name, list, !self.transposed);
            }
            sizes.push(json!({
                "num_attention_heads": queries.len(), "num_key_value_heads": kv_heads.len(),
                "intermediate_size": channels.len(),
            }));
        }
        let model_type = dense.config().architecture.model_type;
        support::write_tensors(&pruned.path().join("model.safetensors"), &small, &[("format", "pt")]);
        support::write_tensors(&silent.path().join("model.safetensors"), &whole, &[("format", "pt")]);
        let mut fields: Vec<(&str, Value)> =
            vec![("model_type", format!("pruned_{model_type}").into()), ("pruning", json!({ "layers": sizes }))];
        fields.push((
            "head_dim",
            if dense.config().architecture.attention.explicit_head_dim { h.into() } else { Value::Null },
        ));
        support::set_fields(pruned.path(), &fields);
        (pruned, silent)
    }
}

fn logits(gpu: &Gpu, model: &Model, rows: &[Vec<u32>]) -> Vec<f32> {
    let mut all = Vec::new();
    let collect = |_, values: Vec<f32>| {
        all.extend(values);
        Ok(())
    };
    eval::logits(gpu, model, rows, &Silent, collect).expect("logits");
    all
}

/// Layers that differ in everything: one key-value head against all but none, and channels that are no run.
fn kept(config: &Config) -> Vec<Kept> {
    let spec = &config.layers[0];
    let layer = |index: usize| Kept {
        kv_heads: if index == 0 { vec![spec.kv_heads - 1] } else { (0..spec.kv_heads).collect() },
        channels: (0..spec.intermediate_size).filter(|channel| channel % (index + 2) != 1).collect(),
    };
    (0..config.layers.len()).map(layer).collect()
}

#[test]
fn a_pruned_model_computes_what_the_dense_one_does_whose_removed_units_write_nothing() {
    let gpu = support::gpu();
    for stored in MODELS {
        let path = support::fixture("parity").join(stored.fixture);
        let dense = Model::open(&path).expect("a model");
        let rows = support::tokens(&path.join("tokens.json"));
        let (pruned, silent) = stored.prune(&kept(dense.config()));
        let (pruned, silent) = (Model::open(pruned.path()), Model::open(silent.path()).expect("a model"));
        let pruned = pruned.unwrap_or_else(|error| panic!("{}: {error}", stored.fixture));
        assert!(pruned.config().parameters() < dense.config().parameters(), "{}", stored.fixture);
        assert_ne!(pruned.config().layers[0].kv_width(), pruned.config().layers[1].kv_width());
        let (small, whole) = (logits(&gpu, &pruned, &rows), logits(&gpu, &silent, &rows));
        // The same sums, but for terms that are zero.
        let error = support::relative_error(&small, &whole);
        assert!(error <= 1e-6, "{}: {error:.1e}", stored.fixture);
        let moved = support::relative_error(&whole, &logits(&gpu, &dense, &rows));
        assert!(moved > 1e-2, "{}: nothing that matters was removed ({moved:.1e})", stored.fixture);
    }
}

#[test]
fn with_a_cache_it_continues_a_text_as_without() {
    let gpu = support::gpu();
    for stored in MODELS {
        let dense = Model::open(&support::fixture("parity").join(stored.fixture)).expect("a model");
        let (directory, _silent) = stored.prune(&kept(dense.config()));
        let model = Model::open(directory.path()).expect("a model");
        let mut text = vec![3, 1, 4];
        let greedy = Sampling { temperature: 0.0, top_p: 1.0, seed: 1 };
        let prompt = text.clone();
        generate(&gpu, &model, &prompt, &[], 8, &greedy, |token| {
            text.push(token);
            Ok(true)
        })
        .expect("tokens");
        assert_eq!(text.len(), prompt.len() + 8, "{}", stored.fixture);
        let vocab = model.config().vocab_size;
        let all = logits(&gpu, &model, &[text.clone()]);
        for at in prompt.len()..text.len() {
            let row = &all[(at - 1) * vocab..at * vocab];
            let likeliest = (0..vocab).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("a token");
            assert_eq!(text[at] as usize, likeliest, "{}: token {at} of {text:?}", stored.fixture);
        }
    }
}

#[test]
fn sections_that_do_not_fit_are_refused_and_the_width_is_not_cut() {
    let stored = &MODELS[0];
    let dense = Model::open(&support::fixture("parity").join(stored.fixture)).expect("a model");
    let (directory, _silent) = stored.prune(&kept(dense.config()));
    let model = Model::open(directory.path()).expect("a model");
    let error = Plan::new(model.config(), &Options::default()).expect_err("sizes that differ");
    assert!(error.exit_code() == 2 && error.to_string().contains("differ in size"), "{error}");
    let layer = json!({ "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 26 });
    let with = |name: &str, value: u64| {
        let mut changed = layer.clone();
        changed[name] = value.into();
        json!({ "layers": [layer, changed] })
    };
    for (section, message) in [
        (Value::Null, "a pruned model without this section"),
        (json!({ "layers": [layer] }), "expected the sizes of 2 layers, found 1"),
        (with("num_attention_heads", 3), "as many queries for every key"),
        (with("num_attention_heads", 0), "at least one of each"),
        (with("num_key_value_heads", 4), "layer 1 has (4, 4, 26)"),
        (with("intermediate_size", 27), "layer 1 has (4, 2, 27)"),
        (with("experts", 1), "unknown field"),
    ] {
        support::set_fields(directory.path(), &[("pruning", section.clone())]);
        let error = Model::open(directory.path()).err().unwrap_or_else(|| panic!("accepted: {section}"));
        assert!(error.exit_code() == 3 && error.to_string().contains(message), "{section}: {error}");
    }
}

#[test]
fn layers_that_differ_are_written_as_llama_cpps_deci_with_their_sizes_by_layer() {
    for fixture in ["llama_gqa_tied", "mistral_no_window"] {
        let stored = Stored { fixture, ..MODELS[0] };
        let dense = Model::open(&support::fixture("parity").join(fixture)).expect("a model");
        let (directory, _silent) = stored.prune(&kept(dense.config()));
        let model = Model::open(directory.path()).expect("a model");
        let path = directory.path().join("model.gguf");
        let export = GgufExport::plan(&model, "a name", GgufType::F32, Vocabulary::None).expect("a plan");
        export.write(FileTarget::new(&path, false).expect("a name"), &Silent).expect("a file");
        let file = gguf_reader::read(&path);
        assert_eq!(file.metadata["general.architecture"], gguf_reader::Value::Text("deci".into()));
        let layers = &model.config().layers;
        type Size = fn(&LayerSpec) -> usize;
        let sizes: [(&str, Size); 3] = [
            ("feed_forward_length", |layer| layer.intermediate_size),
            ("attention.head_count", |layer| layer.heads),
            ("attention.head_count_kv", |layer| layer.kv_heads),
        ];
        for (key, size) in sizes {
            let expected = layers.iter().map(|layer| gguf_reader::Value::Number(size(layer) as f64)).collect();
            assert_eq!(file.metadata[&format!("deci.{key}")], gguf_reader::Value::List(expected), "{key}");
        }
        for (index, layer) in layers.iter().enumerate() {
            let rows = |name: &str| file.tensors[&format!("blk.{index}.{name}.weight")].dimensions[1] as usize;
            let kv_width = layer.kv_heads * layer.head_dim;
            assert_eq!((rows("attn_q"), rows("attn_v")), (layer.heads_width(), kv_width));
            assert_eq!((rows("ffn_up"), rows("ffn_gate")), (layer.intermediate_size, layer.intermediate_size));
        }
        let read = Model::open(&path).expect("the file");
        let by_layer = |model: &Model| {
            let layers = model.config().layers.iter();
            layers.map(|layer| (layer.heads, layer.kv_heads, layer.intermediate_size)).collect::<Vec<_>>()
        };
        assert_eq!(by_layer(&read), by_layer(&model), "{fixture}");
        for spec in model.config().tensors() {
            let values = |model: &Model| model.store.whole(&spec).and_then(|matrix| matrix.to_f32()).expect("values");
            assert!(values(&read) == values(&model), "{fixture}: {}", spec.name);
        }
    }
}

#[test]
fn what_llama_cpp_has_no_form_for_by_layer_is_refused_with_what_to_do() {
    let pruned = |fixture: &'static str| {
        let stored = Stored { fixture, ..MODELS[0] };
        let dense = Model::open(&support::fixture("parity").join(fixture)).expect("a model");
        stored.prune(&kept(dense.config())).0
    };
    let refused = |directory: &Path| {
        let model = Model::open(directory).expect("a model");
        let plan = GgufExport::plan(&model, "a name", GgufType::F32, Vocabulary::None);
        let error = plan.err().unwrap_or_else(|| panic!("{:?} was accepted", model.config().raw));
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    };
    let error = refused(pruned("qwen2_gqa_tied").path());
    assert!(error.contains("llama or mistral") && error.contains("--per-layer"), "{error}");
    let biased = pruned("llama_gqa_tied");
    let mut tensors = support::tensors(biased.path());
    for (name, (_, shape, _)) in tensors.clone() {
        if let Some(name) = name.strip_suffix(".weight").filter(|name| name.contains("self_attn")) {
            put(&mut tensors, &format!("{name}.bias"), vec![shape[0]], &vec![0.0; shape[0]]);
        }
    }
    support::write_tensors(&biased.path().join("model.safetensors"), &tensors, &[("format", "pt")]);
    support::set_fields(biased.path(), &[("attention_bias", true.into())]);
    let error = refused(biased.path());
    assert!(error.contains("no bias for queries"), "{error}");
}
