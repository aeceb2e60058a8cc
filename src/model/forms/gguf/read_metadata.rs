//! The metadata of a GGUF file → the fields of a config.json: what [`super::metadata`] writes, and what llama.cpp's
//! converter does.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{
    keys::{Keys, shortest},
    metadata::MAX_ALIBI_BIAS,
    names::{HEAD_NORMS, MULTIPLIERS},
    read_rotary::{Factors, rotary},
    source::Source,
};
use crate::{
    checkpoint::{Dtype, Encoding, GgufHeader},
    error::{Error, Result},
    model::{
        PRUNED_PREFIX,
        architecture::{Architecture, DeltaNets, GgufAlibi, Mixture, Normalised, Scale, Window, Wiring},
        fields::MAX_LAYERS,
    },
    ops::Norm,
};

/// The fields of the config, but those about the vocabulary.
///
/// # Errors
/// [`Error::BadFile`], [`Error::UnknownArchitecture`]; [`Error::UnsupportedField`] for what no row handles.
pub fn fields(
    header: &GgufHeader,
    keys: &Keys,
    factors: &Factors,
    path: &Path,
) -> Result<(Source, Map<String, Value>)> {
    let (source, biases) = Source::of(header, keys, path)?;
    let row = source.row;
    let names = &row.fields;
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| insert(&mut fields, name, value);
    set("model_type", row.model_type.into());
    for (name, value, _) in row.when {
        set(name, serde_json::from_str(value).map_err(Error::internal)?);
    }
    let (width, heads) = sizes(keys, source, path, &mut set)?;
    set(names.max_position_embeddings, keys.size("context_length")?.into());
    let head_dim = head_dim(keys, row, width, heads)?;
    if row.attention.explicit_head_dim {
        set("head_dim", head_dim.into());
    }
    norm_eps(keys, row, &mut set)?;
    if !names.activation.0.is_empty() {
        set(names.activation.0, names.activation.1.into());
    }
    for (name, value) in biases {
        set(name, value.into());
    }
    if let Wiring::Field(name, default) = row.wiring {
        set(name, keys.flag("use_parallel_residual")?.unwrap_or(default).into());
    }
    multipliers(keys, row, head_dim, &mut set)?;
    attention(header, keys, row, &mut set)?;
    if row.gguf_own.softcaps {
        softcaps(keys, row, &mut set)?;
    }
    if let Scale::InverseSqrt(name, _) = row.attention.scale {
        set(name, head_dim.into());
    }
    window(keys, row, &mut set)?;
    if let Some(nets) = &row.delta_net {
        delta_nets(keys, nets, &mut set)?;
    }
    rotary(keys, row, head_dim, factors, &mut set)?;
    set("tie_word_embeddings", (!header.tensors.contains_key("output.weight")).into());
    let embedding = header.tensors.get("token_embd.weight").ok_or_else(|| {
        Error::bad_file(path, "has no token_embd.weight: it is no model, or one of several files of one")
    })?;
    set("vocab_size", embedding.shape[0].into());
    set("torch_dtype", dtype(header).into());
    keys.check_all_asked()?;
    Ok((source, fields))
}

/// The sizes of layers; returns the width of the residual stream and the heads of the layer with most.
fn sizes(
    keys: &Keys,
    source: Source,
    path: &Path,
    set: &mut impl FnMut(&str, Value) -> Option<Value>,
) -> Result<(u64, u64)> {
    let (row, names) = (source.row, &source.row.fields);
    let layers = keys.size("block_count")?;
    let width = keys.size("embedding_length")?;
    set(names.hidden_size, width.into());
    set(names.num_hidden_layers, layers.into());
    let sizes = LayerSizes::read(keys, source, layers, path)?;
    // Those of layers with fewer are in a section of their own.
    let heads = sizes.most(&sizes.heads).checked_next_multiple_of(sizes.most(&sizes.kv_heads).max(1));
    let heads = heads.unwrap_or(u64::MAX);
    set(names.num_attention_heads, heads.into());
    if let Some(name) = names.num_key_value_heads {
        set(name, sizes.most(&sizes.kv_heads).into());
    } else if let Some((name, _)) = names.multi_query {
        set(name, (sizes.most(&sizes.kv_heads) == 1).into());
    } else if sizes.heads != sizes.kv_heads {
        let found = sizes.most(&sizes.kv_heads).into();
        return Err(keys.unsupported("attention.head_count_kv", &found, "this architecture has as many as heads"));
    }
    // Some have no field for it, and then no other than their class has.
    let usual = names.intermediate_factor.map(|factor| width.saturating_mul(factor as u64));
    let inner = sizes.most(&sizes.inner);
    let stated = !names.intermediate_size.is_empty();
    if stated {
        set(names.intermediate_size, inner.into());
    }
    if let Some(mixture) = &row.mixture {
        experts(keys, mixture, set)?;
    }
    if !sizes.alike() || (!stated && Some(inner) != usual) {
        set("model_type", format!("{PRUNED_PREFIX}{}", row.model_type).into());
        set("pruning", json!({ "layers": sizes.listed() }));
    }
    Ok((width, heads))
}

/// What norms add to the mean square.
fn norm_eps(keys: &Keys, row: &Architecture, set: &mut impl FnMut(&str, Value) -> Option<Value>) -> Result<()> {
    let eps = match row.norm.kind {
        Norm::Rms => "attention.layer_norm_rms_epsilon",
        Norm::Layer => "attention.layer_norm_epsilon",
    };
    match (row.fields.norm_eps, keys.number(eps)?) {
        ((Some(name), _), Some(eps)) => drop(set(name, shortest(eps))),
        ((None, fixed), Some(found)) if found as f32 != fixed as f32 => {
            return Err(keys.unsupported(eps, &shortest(found), &format!("it is {fixed} in this architecture")));
        }
        _ => {}
    }
    Ok(())
}

/// The caps of scores and logits.
fn softcaps(keys: &Keys, row: &Architecture, set: &mut impl FnMut(&str, Value) -> Option<Value>) -> Result<()> {
    let caps =
        [("attn_logit_softcapping", row.attention.softcap), ("final_logit_softcapping", row.multipliers.logit_softcap)];
    for (key, (name, _)) in caps.into_iter().filter_map(|(key, field)| Some((key, field?))) {
        match keys.number(key)? {
            Some(cap) if cap != 0.0 => drop(set(name, shortest(cap))),
            Some(_) => drop(set(name, Value::Null)),
            // The default of the class is llama.cpp's, too.
            None => {}
        }
    }
    Ok(())
}

/// Sets a field; of a section, as "section.field".
fn insert(fields: &mut Map<String, Value>, name: &str, value: Value) -> Option<Value> {
    let Some((section, name)) = name.split_once('.') else { return fields.insert(name.to_owned(), value) };
    let section = fields.entry(section).or_insert_with(|| Map::new().into());
    section.as_object_mut().and_then(|section| section.insert(name.to_owned(), value))
}

/// The gated delta nets, in all layers but every nth.
fn delta_nets(keys: &Keys, nets: &DeltaNets, set: &mut impl FnMut(&str, Value) -> Option<Value>) -> Result<()> {
    let interval = keys.optional_size("full_attention_interval")?.unwrap_or(nets.interval.1 as u64);
    set(nets.interval.0, interval.into());
    let (heads, width) = (keys.size("ssm.time_step_rank")?, keys.size("ssm.inner_size")?);
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(keys.unsupported("ssm.inner_size", &width.into(), &format!("{heads} value heads cannot share it")));
    }
    set(nets.key_heads.0, keys.size("ssm.group_count")?.into());
    set(nets.value_heads.0, heads.into());
    set(nets.key_dim.0, keys.size("ssm.state_size")?.into());
    set(nets.value_dim.0, (width / heads).into());
    set(nets.taps.0, keys.size("ssm.conv_kernel")?.into());
    // Of text, time, height and width are the same.
    keys.sizes("rope.dimension_sections")?;
    Ok(())
}

/// The experts of each layer.
fn experts(keys: &Keys, mixture: &Mixture, set: &mut impl FnMut(&str, Value) -> Option<Value>) -> Result<()> {
    set(mixture.count.0[1], keys.size("expert_count")?.into());
    set(mixture.chosen.0, keys.size("expert_used_count")?.into());
    if let Some(width) = keys.optional_size("expert_feed_forward_length")?.filter(|width| *width > 0) {
        set(mixture.intermediate_size.0, width.into());
    }
    if let (Some(shared), Some(width)) = (mixture.shared, keys.optional_size("expert_shared_feed_forward_length")?) {
        set(shared.intermediate_size.0, width.into());
    }
    if let Normalised::Field(name, _) = mixture.normalised {
        set(name, mixture.gguf_normalises.into());
    }
    match keys.optional_size("expert_gating_func")?.filter(|function| ![0, SOFTMAX].contains(function)) {
        Some(other) => Err(keys.unsupported("expert_gating_func", &other.into(), "gates are a softmax here")),
        None => Ok(()),
    }
}

/// The number that `expert_gating_func` has for gates that are a softmax.
const SOFTMAX: u64 = 1;

/// What layers have for sizes; each list is as long as there are layers.
struct LayerSizes {
    heads: Vec<u64>,
    kv_heads: Vec<u64>,
    inner: Vec<u64>,
}

impl LayerSizes {
    fn read(keys: &Keys, source: Source, layers: u64, path: &Path) -> Result<Self> {
        // Before there is a list for each of them.
        if !(1..=MAX_LAYERS).contains(&layers) {
            return Err(Error::bad_file(path, format!("block_count: expected 1 to {MAX_LAYERS}, found {layers}")));
        }
        let read = |name: &str| {
            let sizes =
                if source.by_layer { keys.sizes(name)? } else { keys.optional_size(name)?.into_iter().collect() };
            match sizes.as_slice() {
                [one] => Ok(vec![*one; layers as usize]),
                [] => Ok(Vec::new()),
                sizes if sizes.len() as u64 == layers => Ok(sizes.to_vec()),
                sizes => Err(Error::bad_file(path, format!("{name}: {} numbers for {layers} layers", sizes.len()))),
            }
        };
        let heads = read("attention.head_count")?;
        let kv_heads = read("attention.head_count_kv")?;
        let inner = read("feed_forward_length")?;
        if heads.is_empty() || inner.is_empty() {
            return Err(Error::bad_file(path, "has no attention.head_count or no feed_forward_length"));
        }
        let kv_heads = if kv_heads.is_empty() { heads.clone() } else { kv_heads };
        Ok(Self { heads, kv_heads, inner })
    }

    fn most(&self, sizes: &[u64]) -> u64 {
        sizes.iter().copied().max().unwrap_or(0)
    }

    fn alike(&self) -> bool {
        [&self.heads, &self.kv_heads, &self.inner].iter().all(|sizes| sizes.windows(2).all(|pair| pair[0] == pair[1]))
    }

    fn listed(&self) -> Vec<Value> {
        let layer = |((heads, kv_heads), inner): ((&u64, &u64), &u64)| json!({ "num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": inner });
        self.heads.iter().zip(&self.kv_heads).zip(&self.inner).map(layer).collect()
    }
}

fn head_dim(keys: &Keys, row: &Architecture, width: u64, heads: u64) -> Result<u64> {
    let usual = width / heads.max(1);
    let found = keys.optional_size("attention.key_length")?.unwrap_or(usual);
    let values = keys.optional_size("attention.value_length")?.unwrap_or(found);
    if values != found {
        return Err(keys.unsupported("attention.value_length", &values.into(), "keys are of another length"));
    }
    if found != usual && !row.attention.explicit_head_dim {
        let reason = "this architecture has heads as wide as the model by their number";
        return Err(keys.unsupported("attention.key_length", &found.into(), reason));
    }
    Ok(found)
}

/// The factors of the signals, each under the name that the row has for it.
fn multipliers(
    keys: &Keys,
    row: &Architecture,
    head_dim: u64,
    set: &mut impl FnMut(&str, Value) -> Option<Value>,
) -> Result<()> {
    let names = &row.multipliers;
    for (key, name) in MULTIPLIERS.iter().filter_map(|(key, name)| Some((*key, name(names)?))) {
        match keys.number(key)? {
            Some(number) => drop(set(name, shortest(number))),
            // llama.cpp then scales attention as everywhere, and transformers would not.
            None if Some(name) == names.attention => drop(set(name, (1.0 / (head_dim as f64).sqrt()).into())),
            None if names.logit_scale.is_some_and(|(own, _)| own == name) => drop(set(name, json!(1.0))),
            None => {}
        }
    }
    Ok(())
}

/// What its attention has beside the usual.
fn attention(
    header: &GgufHeader,
    keys: &Keys,
    row: &Architecture,
    set: &mut impl FnMut(&str, Value) -> Option<Value>,
) -> Result<()> {
    if let Some(name) = row.attention.qk_norm.and_then(|norm| norm.field) {
        set(name, header.tensors.contains_key(&format!("blk.0.{}.weight", HEAD_NORMS[0])).into());
    }
    if let (Some(name), true) = (row.attention.clip, row.gguf_own.clip) {
        set(name, keys.number("attention.clamp_kqv")?.map_or(Value::Null, shortest));
    }
    if row.gguf_own.alibi == GgufAlibi::Stated {
        let found = keys.number("attention.max_alibi_bias")?.unwrap_or(0.0);
        if found as f32 != MAX_ALIBI_BIAS {
            let reason = format!("only {MAX_ALIBI_BIAS} is implemented");
            return Err(keys.unsupported("attention.max_alibi_bias", &shortest(found), &reason));
        }
    }
    Ok(())
}

fn window(keys: &Keys, row: &Architecture, set: &mut impl FnMut(&str, Value) -> Option<Value>) -> Result<()> {
    match (keys.optional_size("attention.sliding_window")?.filter(|window| *window > 0), row.attention.window) {
        (None, Window::None) => {}
        // llama.cpp then takes the window that the first models had.
        (None, Window::Pattern { .. }) => {}
        (None, _) => drop(set("sliding_window", Value::Null)),
        (Some(window), Window::All | Window::Pattern { .. }) => drop(set("sliding_window", window.into())),
        (Some(window), _) => {
            let reason = "which layers have it is not known for this architecture";
            return Err(keys.unsupported("attention.sliding_window", &window.into(), reason));
        }
    }
    Ok(())
}

/// What transformers calls the type that most values are written in by default.
fn dtype(header: &GgufHeader) -> &'static str {
    let total = |wanted: fn(Encoding) -> bool| -> u64 {
        let entries = header.tensors.values().filter(|entry| wanted(entry.encoding));
        entries.map(|entry| entry.shape.iter().map(|&size| size as u64).product::<u64>()).sum()
    };
    let [wide, half, brain] = [
        total(|encoding| encoding.float() == Some(Dtype::F32)),
        total(|encoding| {
            encoding.dtype() == Dtype::F16 || encoding.float().is_none() && encoding.dtype() == Dtype::F32
        }),
        total(|encoding| encoding.dtype() == Dtype::BF16),
    ];
    match () {
        () if brain > wide.max(half) => "bfloat16",
        () if half > wide => "float16",
        () => "float32",
    }
}
