//! What a GGUF file says about the model before its tensors.

use super::{
    names::{MULTIPLIERS, has_parallel_flag},
    target::{approximates_gelu, attention_interval, multiplier, never_rounds, scaling},
};
use crate::{
    checkpoint::{GgufType, GgufValue},
    json::is_falsy,
    model::{
        Config, LayerSpec, Rope, Scaling,
        forms::{Gguf, GgufAlibi, GgufWindows},
        rope::yarn_share,
    },
    ops::{DeltaShape, Norm},
};

/// Key and value of the metadata, in the order they are written.
pub type Metadata = Vec<(String, GgufValue)>;

/// The factors that divide the plain frequencies, where only they can say how the model scales them.
pub fn frequency_factors(config: &Config) -> Option<Vec<f32>> {
    let rope = config.ropes.first().filter(|rope| scaling(config, rope) == Scaling::Other && rope.long.is_none())?;
    let dim = 2 * rope.inverse_frequencies.len();
    let plain = (0..dim).step_by(2).map(|pair| 1.0 / rope.theta.powf(pair as f64 / dim as f64));
    Some(plain.zip(&rope.inverse_frequencies).map(|(plain, scaled)| (plain / f64::from(*scaled)) as f32).collect())
}

fn size(number: usize) -> GgufValue {
    GgufValue::U32(number as u32)
}

fn text(text: &str) -> GgufValue {
    GgufValue::Text(text.to_owned())
}

/// Everything but the vocabulary, of a model that has been checked.
pub fn metadata(config: &Config, target: Gguf, name: &str, kind: GgufType, notes: &mut Vec<String>) -> Metadata {
    let mut list = vec![
        ("general.architecture".to_owned(), text(target.architecture)),
        ("general.type".to_owned(), text("model")),
        ("general.name".to_owned(), text(name)),
        ("general.file_type".to_owned(), GgufValue::U32(file_type(kind))),
        ("general.quantization_version".to_owned(), GgufValue::U32(2)),
    ];
    let mut add = |key: &str, value| list.push((format!("{}.{key}", target.architecture), value));
    add("vocab_size", size(config.vocab_size));
    add("context_length", size(context_length(config, notes)));
    sizes(config, target, &mut add);
    let eps = match config.architecture.norm.kind {
        Norm::Rms => "attention.layer_norm_rms_epsilon",
        Norm::Layer => "attention.layer_norm_epsilon",
    };
    // That of the residual stream may be divided by the square of a factor which the file has beside it.
    add(eps, GgufValue::F32(config.head_norm_eps));
    if has_parallel_flag(config.architecture) {
        add("use_parallel_residual", GgufValue::Bool(config.parallel));
    }
    signals(config, &mut add);
    if let Some(delta) = config.layers.iter().find_map(|layer| layer.delta) {
        let DeltaShape { key_heads, value_heads, key_dim, .. } = delta.shape;
        add("full_attention_interval", size(attention_interval(config)));
        add("ssm.conv_kernel", size(delta.taps));
        add("ssm.state_size", size(key_dim));
        add("ssm.group_count", size(key_heads));
        add("ssm.time_step_rank", size(value_heads));
        add("ssm.inner_size", size(delta.shape.value_width()));
        // Which pairs of a head turn by time, height and width: of text, all three are the same.
        let pairs = config.ropes.first().map_or(0, |rope| rope.inverse_frequencies.len());
        let sections = [pairs.div_ceil(3), (pairs + 1) / 3, pairs / 3, 0];
        add("rope.dimension_sections", GgufValue::I32s(sections.map(|count| count as i32).into()));
    }
    if let Some(rope) = config.ropes.first() {
        rotary(config, rope, &mut add, notes);
    }
    if approximates_gelu(config) {
        notes.push(
            "llama.cpp computes gelu by its tanh approximation, for this architecture as well, whose own has the error \
             function: between the two layers of an MLP, values differ by up to 0.0005"
                .into(),
        );
    }
    list
}

/// The sizes of the model and of its layers.
fn sizes(config: &Config, target: Gguf, add: &mut impl FnMut(&str, GgufValue)) {
    let layer = &config.layers[0];
    // One number, or one for each layer where they differ.
    let by_layer = Some(target.architecture) == target.by_layer;
    let sizes = |of: fn(&LayerSpec) -> usize| match by_layer {
        true => GgufValue::I32s(config.layers.iter().map(|layer| of(layer) as i32).collect()),
        false => size(of(layer)),
    };
    add("embedding_length", size(config.hidden_size));
    add("block_count", size(config.layers.len()));
    match layer.experts {
        // Of the MLP of dense layers, where there were any.
        Some(_) => add("feed_forward_length", size(dense_width(config))),
        None => add("feed_forward_length", sizes(|layer| layer.intermediate_size)),
    }
    if let Some(experts) = layer.experts {
        add("expert_count", size(experts.count));
        add("expert_used_count", size(experts.chosen));
        add("expert_feed_forward_length", size(layer.intermediate_size));
        if let Some(width) = experts.shared {
            add("expert_shared_feed_forward_length", size(width));
        }
    }
    add("attention.head_count", sizes(|layer| layer.heads));
    add("attention.head_count_kv", sizes(|layer| layer.kv_heads));
    add("attention.key_length", size(layer.head_dim));
    add("attention.value_length", size(layer.head_dim));
}

/// What becomes of signals on their way: what they are multiplied by, and where they are cut off.
fn signals(config: &Config, add: &mut impl FnMut(&str, GgufValue)) {
    let (row, own, layer) = (config.architecture, &config.architecture.gguf_own, &config.layers[0]);
    let window = config.layers.iter().find_map(|layer| layer.window);
    match (own.windows, window) {
        (GgufWindows::Unknown, _) => {}
        (GgufWindows::Ignored, window) => add("attention.sliding_window", size(window.unwrap_or(0))),
        // Without the key, it takes the window that the architecture had first.
        (GgufWindows::Interval(_), window) => {
            add("attention.sliding_window", size(window.unwrap_or(config.max_position_embeddings)));
        }
    }
    for (key, name) in MULTIPLIERS.iter().filter_map(|(key, name)| Some((key, name(&row.multipliers)?))) {
        add(key, GgufValue::F32(multiplier(config, name) as f32));
    }
    if let Some(limit) = layer.clip_qkv {
        add("attention.clamp_kqv", GgufValue::F32(limit));
    }
    if own.alibi == GgufAlibi::Stated {
        add("attention.max_alibi_bias", GgufValue::F32(MAX_ALIBI_BIAS));
    }
    if own.softcaps {
        // What the file does not say is what the architecture had first.
        let caps = [("attn_logit_softcapping", layer.softcap), ("final_logit_softcapping", config.logit_softcap)];
        for (key, cap) in caps.into_iter().filter_map(|(key, cap)| Some((key, cap?))) {
            add(key, GgufValue::F32(cap));
        }
    }
}

/// The smallest slope of linear biases is 2 to the power of minus this, here as in the paper.
pub const MAX_ALIBI_BIAS: f32 = 8.0;

fn rotary(config: &Config, rope: &Rope, add: &mut impl FnMut(&str, GgufValue), notes: &mut Vec<String>) {
    if let Some(local) = config.ropes.get(1) {
        add("rope.freq_base_swa", GgufValue::F32(local.theta as f32));
    }
    add("rope.dimension_count", size(2 * rope.inverse_frequencies.len()));
    add("rope.freq_base", GgufValue::F32(rope.theta as f32));
    // What llama.cpp multiplies cosines and sines by of its own accord.
    let mut magnitude = 1.0;
    match (scaling(config, rope), &rope.long) {
        (Scaling::None, _) => {}
        (Scaling::Linear { factor }, _) => {
            add("rope.scaling.type", text("linear"));
            add("rope.scaling.factor", GgufValue::F32(factor as f32));
        }
        (Scaling::Yarn { factor, original }, _) => {
            magnitude = if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
            add("rope.scaling.type", text("yarn"));
            add("rope.scaling.factor", GgufValue::F32(factor as f32));
            add("rope.scaling.original_context_length", size(original as usize));
            match rope.scaling {
                Scaling::YarnBetween { ends, .. } => notes.push(rounded_ramp(rope, ends, factor)),
                _ if never_rounds(config.architecture) => add(TRUNCATE, GgufValue::Bool(true)),
                _ => {}
            }
        }
        (Scaling::Other | Scaling::YarnBetween { .. }, None) => {
            add("rope.scaling.type", text("none"));
            if let Some(section) = yarn_section(config) {
                add(SECTION, GgufValue::Text(section));
            }
        }
        (Scaling::Other | Scaling::YarnBetween { .. }, Some(long)) => {
            add("rope.scaling.type", text("longrope"));
            add("rope.scaling.original_context_length", size(long.original));
            notes.push(format!(
                "llama.cpp takes the rotary factors of long texts for all texts where its context (-c) is longer than \
                 {} tokens; the model itself only for texts that are longer",
                long.original
            ));
        }
    }
    let factor = (f64::from(rope.attention_factor) / magnitude) as f32;
    // Rounded where it was read.
    if (factor - 1.0).abs() > 1e-6 {
        add("rope.scaling.attn_factor", GgufValue::F32(factor));
    }
}

/// What llama.cpp has no key for: that a model rounds the ends of YaRN's ramp as llama.cpp does, where models of its
/// architecture do not. It passes over it.
pub const TRUNCATE: &str = "rope.scaling.yarn_truncate";

/// What llama.cpp has no key for, either: the section of config.json on a ramp of YaRN that it is told by frequencies.
pub const SECTION: &str = "rope.scaling.section";

/// That section as JSON, with the length that it counts from.
fn yarn_section(config: &Config) -> Option<String> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    let given = |name: &&str| config.raw.get(*name).is_some_and(|value| !is_falsy(value));
    let name = ["rope_scaling", "rope_parameters"].into_iter().find(given)?;
    let mut section = config.raw[name].as_object()?.clone();
    let kind = ["rope_type", "type"].into_iter().find_map(|name| section.get(name).filter(|kind| !kind.is_null()));
    if kind? != "yarn" {
        return None;
    }
    // The file has keys for these.
    section.retain(|name, _| !["rope_theta", "partial_rotary_factor"].contains(&name.as_str()));
    let beside = config.raw.get(ORIGINAL).filter(|value| !value.is_null());
    let within = section.get(ORIGINAL).filter(|value| !value.is_null());
    let original = beside.or(within).cloned().unwrap_or(config.max_position_embeddings.into());
    section.insert(ORIGINAL.into(), original);
    serde_json::to_string(&section).ok()
}

/// What the user should know of a ramp whose ends are rounded there, and not in the model.
fn rounded_ramp(rope: &Rope, ends: [f64; 2], factor: f64) -> String {
    let (rounded, pairs) = ([ends[0].floor(), ends[1].ceil()], rope.inverse_frequencies.len());
    let ratios = (0..pairs).map(|pair| yarn_share(pair, rounded, factor) / yarn_share(pair, ends, factor));
    let off: Vec<f64> = ratios.filter(|ratio| (ratio - 1.0).abs() > 1e-6).collect();
    let (least, most) =
        off.iter().fold((1.0, 1.0), |(least, most): (f64, f64), &ratio| (least.min(ratio), most.max(ratio)));
    format!(
        "llama.cpp rounds the ends of yarn's ramp, pairs {:.2} and {:.2}, to {} and {}, in every file of this \
         architecture, and the model does not (truncate is false): {} of the {pairs} pairs of a head turn at {least:.3} \
         to {most:.3} times the model's frequencies there",
        ends[0],
        ends[1],
        rounded[0],
        rounded[1],
        off.len()
    )
}

/// What a mixture's config says of the width of MLPs that are none.
fn dense_width(config: &Config) -> usize {
    let (name, own) = (config.architecture.fields.intermediate_size, config.layers[0].intermediate_size);
    config.raw.get(name).and_then(serde_json::Value::as_u64).map_or(own, |width| width as usize)
}

/// The number that `general.file_type` has for files of mostly this type.
fn file_type(kind: GgufType) -> u32 {
    match kind {
        GgufType::F32 => 0,
        GgufType::F16 => 1,
        GgufType::Q8_0 => 7,
        GgufType::Mxfp4 => 38,
    }
}

/// The positions that the file gives llama.cpp. It has no sliding windows for these architectures: within the smallest
/// one, there is no difference.
fn context_length(config: &Config, notes: &mut Vec<String>) -> usize {
    let known = matches!(config.architecture.gguf_own.windows, GgufWindows::Interval(_));
    let windows = config.layers.iter().filter_map(|layer| layer.window.filter(|_| !known));
    let window = windows.min().unwrap_or(usize::MAX);
    if window < config.max_position_embeddings {
        notes.push(format!(
            "context_length is {window}, the model's sliding window, instead of {}: llama.cpp has no windows for this \
             architecture, and beyond one it would compute something else",
            config.max_position_embeddings
        ));
    }
    window.min(config.max_position_embeddings)
}
