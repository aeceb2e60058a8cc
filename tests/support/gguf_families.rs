//! What llama.cpp's converter makes of fixtures, by tables of these tests' own: what is written is held against them,
//! and what is read comes from them. tests/interop has the files of both read by llama.cpp itself.

use std::collections::BTreeMap;

use serde_json::Value;
use slicegpt_gpu::{checkpoint::GgufValue, model::Model};

use super::support;

pub struct Family {
    pub fixture: &'static str,
    /// Fields of its config that have another value here, as JSON; null in a section as "section.field".
    pub changed: &'static [(&'static str, &'static str)],
    pub architecture: &'static str,
    /// Whether it turns neighbouring coordinates of heads together, where the fixture has them half a head apart.
    pub interleaved: bool,
    /// Stems in a layer there, by those here.
    layer: &'static [(&'static str, &'static str)],
    /// The others.
    top: &'static [(&'static str, &'static str)],
}

const SEPARATE: &[(&str, &str)] = &[
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.dense", "attn_output"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.fc1", "ffn_up"),
    ("mlp.fc2", "ffn_down"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_layernorm", "attn_q_norm"),
    ("self_attn.k_layernorm", "attn_k_norm"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.experts.gate_proj", "ffn_gate_exps"),
    ("mlp.experts.up_proj", "ffn_up_exps"),
    ("mlp.experts.down_proj", "ffn_down_exps"),
];
const TOP: &[(&str, &str)] = &[
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("model.final_layernorm", "output_norm"),
    ("lm_head", "output"),
];
const GPT2: Family = Family {
    fixture: "gpt2_tied",
    changed: &[],
    architecture: "gpt2",
    interleaved: false,
    layer: &[
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
        ("ln_1", "attn_norm"),
        ("ln_2", "ffn_norm"),
    ],
    top: &[
        ("transformer.wte", "token_embd"),
        ("transformer.wpe", "position_embd"),
        ("transformer.ln_f", "output_norm"),
        ("lm_head", "output"),
    ],
};
const GPT_NEOX: Family = Family {
    fixture: "gpt_neox_parallel",
    changed: &[],
    architecture: "gptneox",
    interleaved: false,
    layer: &[
        ("attention.query_key_value", "attn_qkv"),
        ("attention.dense", "attn_output"),
        ("mlp.dense_h_to_4h", "ffn_up"),
        ("mlp.dense_4h_to_h", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ],
    top: &[("gpt_neox.embed_in", "token_embd"), ("gpt_neox.final_layer_norm", "output_norm"), ("embed_out", "output")],
};

const fn separate(fixture: &'static str, architecture: &'static str, interleaved: bool) -> Family {
    Family { fixture, changed: &[], architecture, interleaved, layer: SEPARATE, top: TOP }
}

const FALCON: Family = Family {
    fixture: "falcon_7b",
    changed: &[],
    architecture: "falcon",
    interleaved: false,
    layer: &[
        ("self_attention.query_key_value", "attn_qkv"),
        ("self_attention.dense", "attn_output"),
        ("mlp.dense_h_to_4h", "ffn_up"),
        ("mlp.dense_4h_to_h", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        // Only of falcon and only of bloom.
        ("ln_mlp", "attn_norm"),
        ("ln_attn", "attn_norm_2"),
        ("post_attention_layernorm", "ffn_norm"),
    ],
    top: &[
        ("transformer.word_embeddings", "token_embd"),
        ("transformer.word_embeddings_layernorm", "token_embd_norm"),
        ("transformer.ln_f", "output_norm"),
        ("lm_head", "output"),
    ],
};
const MPT: Family = Family {
    fixture: "mpt_tied",
    changed: &[],
    architecture: "mpt",
    interleaved: false,
    layer: &[
        ("attn.Wqkv", "attn_qkv"),
        ("attn.out_proj", "attn_output"),
        ("ffn.up_proj", "ffn_up"),
        ("ffn.down_proj", "ffn_down"),
        ("norm_1", "attn_norm"),
        ("norm_2", "ffn_norm"),
    ],
    top: &[("transformer.wte", "token_embd"), ("transformer.norm_f", "output_norm")],
};

const QWEN35: Family = Family {
    fixture: "qwen35_one_width",
    changed: &[],
    architecture: "qwen35",
    interleaved: false,
    layer: &[
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "post_attention_norm"),
        ("linear_attn.in_proj_qkv", "attn_qkv"),
        ("linear_attn.in_proj_z", "attn_gate"),
        ("linear_attn.in_proj_b", "ssm_beta"),
        ("linear_attn.in_proj_a", "ssm_alpha"),
        ("linear_attn.out_proj", "ssm_out"),
        ("linear_attn.conv1d", "ssm_conv1d"),
        ("linear_attn.norm", "ssm_norm"),
    ],
    top: TOP,
};

/// Values of that fixture there: of its value heads, three for each of two keys and 8 wide, the first of each key, the
/// second, and the third; of rates not the logarithms; and of norms of coordinates what multiplies.
fn qwen35(ours: &str, shape: &[usize], values: &[f32]) -> (Vec<usize>, Vec<f32>) {
    let heads = |before: usize, size: usize, values: &[f32]| {
        let heads = [0, 3, 1, 4, 2, 5].into_iter().flat_map(|head| values[before + head * size..][..size].to_vec());
        values[..before].iter().copied().chain(heads).collect::<Vec<f32>>()
    };
    let keys = 2 * 2 * 8;
    let values = match ours.split_once("linear_attn.").map(|(_, name)| name) {
        Some("in_proj_qkv.weight") => heads(keys * 16, 8 * 16, values),
        Some("conv1d.weight") => return (vec![shape[0], shape[2]], heads(keys * 4, 8 * 4, values)),
        Some("in_proj_z.weight") => heads(0, 8 * 16, values),
        Some("in_proj_b.weight" | "in_proj_a.weight") => heads(0, 16, values),
        Some("dt_bias") => heads(0, 1, values),
        Some("A_log") => heads(0, 1, values).iter().map(|rate| -f64::from(*rate).exp() as f32).collect(),
        Some("out_proj.weight") => values.chunks(6 * 8).flat_map(|row| heads(0, 8, row)).collect(),
        None if ours.contains("norm") => values.iter().map(|value| value + 1.0).collect(),
        _ => values.to_vec(),
    };
    (shape.to_vec(), values)
}

/// What llama.cpp computes whatever a file says.
const UP_TO_7: (&str, &str) = ("swiglu_limit", "7.0");
const GPT_OSS: Family = Family {
    fixture: "gpt_oss_plain",
    changed: &[UP_TO_7],
    architecture: "gpt-oss",
    interleaved: false,
    layer: &[
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.router", "ffn_gate_inp"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "post_attention_norm"),
    ],
    top: TOP,
};

/// Tensors there of one of that family that holds all experts of a layer, here as transposes with columns of gate and
/// up in turn; and of its sinks. None of others.
fn gpt_oss(ours: &str, shape: &[usize], values: &[f32]) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let (layer, name) = ours.split_once("layers.").and_then(|(_, rest)| rest.split_once('.')).unwrap_or_default();
    let theirs = |name: &str| format!("blk.{layer}.{name}");
    let name = name.strip_prefix("mlp.experts.").unwrap_or(name);
    let (roles, end) = match name.strip_suffix("_bias") {
        _ if name == "self_attn.sinks" => return vec![(theirs("attn_sinks.weight"), shape.to_vec(), values.to_vec())],
        Some("gate_up_proj") => (&["gate", "up"][..], "bias"),
        Some("down_proj") => (&["down"][..], "bias"),
        _ if name == "gate_up_proj" => (&["gate", "up"][..], "weight"),
        _ if name == "down_proj" => (&["down"][..], "weight"),
        _ => return Vec::new(),
    };
    let (experts, width) = (shape[0], shape[shape.len() - 1]);
    let rows = width / roles.len();
    let of = |which: usize| -> (Vec<usize>, Vec<f32>) {
        let cols = if end == "bias" { 1 } else { shape[1] };
        let mut found = Vec::new();
        for expert in 0..experts {
            for row in 0..rows {
                found.extend((0..cols).map(|col| values[(expert * cols + col) * width + row * roles.len() + which]));
            }
        }
        (if end == "bias" { vec![experts, rows] } else { vec![experts, rows, cols] }, found)
    };
    let named = |(which, role): (usize, &&str)| {
        let (shape, values) = of(which);
        (theirs(&format!("ffn_{role}_exps.{end}")), shape, values)
    };
    roles.iter().enumerate().map(named).collect()
}

pub const FAMILIES: &[Family] = &[
    separate("smollm3_interval", "smollm3", true),
    separate("granite_plain", "granite", true),
    separate("granite_untied", "granite", true),
    separate("granite_tied", "granite", true),
    separate("starcoder2_tied", "starcoder2", false),
    separate("starcoder2_no_bias", "starcoder2", false),
    separate("phi_gqa", "phi2", false),
    separate("phi_half_rotary", "phi2", false),
    separate("phi_partial_rotary", "phi2", false),
    separate("phi3_gqa", "phi3", false),
    separate("phi3_window", "phi3", false),
    separate("phi3_tied", "phi3", false),
    GPT2,
    Family { fixture: "gpt2_n_inner", ..GPT2 },
    Family { fixture: "gpt2_untied", ..GPT2 },
    GPT_NEOX,
    Family { fixture: "gpt_neox_odd_rotary", ..GPT_NEOX },
    Family { fixture: "gpt_neox_sequential", ..GPT_NEOX },
    separate("stablelm_qk_layernorm", "stablelm", false),
    separate("stablelm_sequential", "stablelm", false),
    separate("olmo_clip", "olmo", true),
    separate("cohere_tied", "command-r", false),
    FALCON,
    Family { fixture: "falcon_new_shared", ..FALCON },
    Family { fixture: "falcon_new", changed: &[("bias", "false")], ..FALCON },
    Family { fixture: "bloom_tied", architecture: "bloom", ..FALCON },
    Family { fixture: "bloom_power_of_two", architecture: "bloom", ..FALCON },
    MPT,
    Family {
        changed: &[("attention_bias", "false"), ("norm_topk_prob", "false")],
        ..separate("olmoe_normalised_tied", "olmoe", false)
    },
    QWEN35,
    GPT_OSS,
    Family { fixture: "gpt_oss_mxfp4", ..GPT_OSS },
    // Without scaled frequencies, which its class would have by default.
    Family {
        fixture: "gpt_oss_no_sinks",
        changed: &[("layer_types", r#"["sliding_attention", "full_attention"]"#)],
        ..GPT_OSS
    },
    // Without biases in its attention, whose result has to have one there, and without a head.
    Family {
        fixture: "gpt_oss_tied_yarn",
        changed: &[
            UP_TO_7,
            ("swiglu_alpha", "1.702"),
            ("layer_types", r#"["sliding_attention", "full_attention", "sliding_attention"]"#),
            ("rope_parameters.beta_fast", "32.0"),
            ("rope_parameters.beta_slow", "1.0"),
        ],
        ..GPT_OSS
    },
    Family { fixture: "mpt_clip", changed: &[("attn_config.softmax_scale", "null")], ..MPT },
];

impl Family {
    /// The model, in a directory that has to stay.
    pub fn model(&self) -> (tempfile::TempDir, Model) {
        let directory = support::copy_of(self.fixture);
        let path = directory.path().join("config.json");
        let text = std::fs::read_to_string(&path).expect("config.json");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        for (name, value) in self.changed {
            let place = name.split('.').fold(&mut config, |value, part| &mut value[part]);
            *place = serde_json::from_str(value).expect("JSON");
        }
        std::fs::write(&path, config.to_string()).expect("config.json");
        let model = Model::open(directory.path()).unwrap_or_else(|error| panic!("{}: {error}", self.fixture));
        (directory, model)
    }

    pub fn metadata(&self, model: &Model) -> Vec<(String, GgufValue)> {
        let (config, raw) = (model.config(), &model.config().raw);
        let layer = &config.layers[0];
        let mut list = vec![("general.architecture".to_owned(), GgufValue::Text(self.architecture.into()))];
        let mut add = |key: &str, value| list.push((format!("{}.{key}", self.architecture), value));
        let size = |number: usize| GgufValue::U32(number as u32);
        add("context_length", size(config.max_position_embeddings));
        add("embedding_length", size(config.hidden_size));
        add("block_count", size(config.layers.len()));
        add("feed_forward_length", size(layer.intermediate_size));
        if let Some(experts) = layer.experts {
            add("expert_count", size(experts.count));
            add("expert_used_count", size(experts.chosen));
            if self.architecture == "gpt-oss" {
                add("expert_feed_forward_length", size(layer.intermediate_size));
            }
        }
        add("attention.head_count", size(layer.heads));
        add("attention.head_count_kv", size(layer.kv_heads));
        let rms = ["smollm3", "granite", "phi3", "olmoe", "qwen35", "gpt-oss"].contains(&self.architecture);
        let eps = if rms { "layer_norm_rms_epsilon" } else { "layer_norm_epsilon" };
        add(&format!("attention.{eps}"), GgufValue::F32(config.head_norm_eps));
        if raw.contains_key("head_dim") {
            add("attention.key_length", size(layer.head_dim));
            add("attention.value_length", size(layer.head_dim));
        }
        if let Some(rope) = config.ropes.first() {
            let turned = match raw.get("rope_parameters").and_then(|section| section["partial_rotary_factor"].as_f64())
            {
                Some(share) => (layer.head_dim as f64 * share) as usize,
                None => layer.head_dim,
            };
            add("rope.dimension_count", size(turned));
            add("rope.freq_base", GgufValue::F32(rope.theta as f32));
            if raw["rope_parameters"]["rope_type"] == "yarn" {
                let number = |name: &str| raw["rope_parameters"][name].as_f64().expect("a number");
                add("rope.scaling.type", GgufValue::Text("yarn".into()));
                add("rope.scaling.factor", GgufValue::F32(number("factor") as f32));
                let original = number("original_max_position_embeddings");
                add("rope.scaling.original_context_length", size(original as usize));
            }
        }
        let number = |name: &str| raw.get(name).and_then(Value::as_f64).map(|number| GgufValue::F32(number as f32));
        for (name, key) in [
            ("attention_multiplier", "attention.scale"),
            ("embedding_multiplier", "embedding_scale"),
            ("residual_multiplier", "residual_scale"),
            ("logits_scaling", "logit_scale"),
            ("logit_scale", "logit_scale"),
            ("clip_qkv", "attention.clamp_kqv"),
        ] {
            number(name).into_iter().for_each(|number| add(key, number));
        }
        if let Some(window) = layer.window {
            add("attention.sliding_window", size(window));
        }
        if ["gptneox", "stablelm"].contains(&self.architecture) {
            add("use_parallel_residual", GgufValue::Bool(config.parallel));
        }
        if self.architecture == "qwen35" {
            add("full_attention_interval", size(2));
            add("ssm.conv_kernel", size(4));
            add("ssm.state_size", size(8));
            add("ssm.group_count", size(2));
            add("ssm.time_step_rank", size(6));
            add("ssm.inner_size", size(48));
            add("rope.dimension_sections", GgufValue::I32s(vec![1, 1, 1, 0]));
        }
        if self.architecture == "mpt" {
            add("attention.max_alibi_bias", GgufValue::F32(8.0));
            if let Some(clip) = raw["attn_config"]["clip_qkv"].as_f64() {
                add("attention.clamp_kqv", GgufValue::F32(clip as f32));
            }
        }
        list
    }

    /// The name there of a tensor here.
    fn name(&self, ours: &str) -> String {
        for (end, theirs) in [(".linear_attn.A_log", "ssm_a"), (".linear_attn.dt_bias", "ssm_dt.bias")] {
            if let Some((_, layer)) = ours.strip_suffix(end).and_then(|stem| stem.rsplit_once('.')) {
                return format!("blk.{layer}.{theirs}");
            }
        }
        let (stem, end) = ours.rsplit_once('.').expect("weight or bias");
        if let Some((_, theirs)) = self.top.iter().find(|(known, _)| *known == stem) {
            return format!("{theirs}.{end}");
        }
        let numbered = stem.split('.').find(|part| part.parse::<usize>().is_ok()).expect("a layer");
        let (_, rest) = stem.split_once(&format!(".{numbered}.")).expect("a name in the layer");
        // Of several heads or experts, one tensor each.
        let rest = rest.split_once(".norms.").map_or(rest, |(stem, _)| stem);
        let rest: String = rest.split('.').filter(|part| part.parse::<usize>().is_err()).collect::<Vec<_>>().join(".");
        let (_, theirs) = self.layer.iter().find(|(known, _)| *known == rest).unwrap_or_else(|| panic!("{ours}"));
        format!("blk.{numbered}.{theirs}.{end}")
    }

    /// Rows and columns, and the values, as they are stored there.
    fn stored(&self, ours: &str, model: &Model, shape: &[usize], values: &[f32]) -> (Vec<usize>, Vec<f32>) {
        if self.architecture == "qwen35" {
            return qwen35(ours, shape, values);
        }
        let layer = &model.config().layers[0];
        let mut shape = shape.to_vec();
        let mut values = values.to_vec();
        if self.architecture == "gpt2" && shape.len() == 2 && ours.contains(".h.") {
            let (rows, cols) = (shape[0], shape[1]);
            values = (0..cols)
                .flat_map(|col| (0..rows).map(move |row| (row, col)))
                .map(|(row, col)| values[row * cols + col])
                .collect();
            shape.reverse();
        }
        let width = values.len() / shape[0];
        let (h, heads, kv_heads) = (layer.head_dim, layer.heads, layer.kv_heads);
        let from: Box<dyn Fn(usize) -> usize> = match () {
            () if ours.contains("query_key_value") => {
                // All queries, then all keys, then all values there; by those that share a key here.
                let group = heads / kv_heads;
                Box::new(move |row| {
                    let (head, within) = (row / h, row % h);
                    let slot = match head {
                        query if query < heads => query / group * (group + 2) + query % group,
                        key if key < heads + kv_heads => (key - heads) * (group + 2) + group,
                        value => (value - heads - kv_heads) * (group + 2) + group + 1,
                    };
                    slot * h + within
                })
            }
            () if self.interleaved && (ours.contains("q_proj") || ours.contains("k_proj")) => {
                Box::new(move |row| row / h * h + row % h % 2 * (h / 2) + row % h / 2)
            }
            () => Box::new(|row| row),
        };
        let values = (0..shape[0]).flat_map(|row| values[from(row) * width..][..width].to_vec()).collect();
        (shape, values)
    }

    /// Shape and values of each tensor there.
    pub fn tensors(&self, model: &Model) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
        let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
        for spec in model.config().tensors() {
            let values = model.store.whole(&spec).and_then(|matrix| matrix.to_f32()).expect("values");
            let parts = gpt_oss(&spec.name, &spec.shape, &values);
            if !parts.is_empty() {
                tensors.extend(parts.into_iter().map(|(name, shape, values)| (name, (shape, values))));
                continue;
            }
            let (mut shape, values) = self.stored(&spec.name, model, &spec.shape, &values);
            if spec.name.contains(".norms.") || spec.name.contains(".experts.") {
                shape.insert(0, 1);
            }
            match tensors.entry(self.name(&spec.name)) {
                std::collections::btree_map::Entry::Vacant(place) => drop(place.insert((shape, values))),
                std::collections::btree_map::Entry::Occupied(mut heads) => {
                    heads.get_mut().0[0] += 1;
                    heads.get_mut().1.extend(values);
                }
            }
        }
        tensors
    }
}
