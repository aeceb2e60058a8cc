//! The metadata of a GGUF file → the fields of a config.json: what [`super::metadata`] writes, and what llama.cpp's
//! converter does.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{frequencies::llama3, keys::Keys, source::Source};
use crate::{
    checkpoint::{Dtype, Encoding, GgufHeader},
    error::{Error, Result},
    model::{
        PRUNED_PREFIX,
        architecture::{Architecture, Multipliers, Position, RotaryPart, Scale, Window, Wiring},
        fields::MAX_LAYERS,
    },
    ops::Norm,
};

/// The fields of the config, but those about the vocabulary. `factors` are those of `rope_freqs.weight`.
///
/// # Errors
/// [`Error::BadFile`], [`Error::UnknownArchitecture`]; [`Error::UnsupportedField`] for what no row handles.
pub fn fields(
    header: &GgufHeader,
    keys: &Keys,
    factors: Option<&[f32]>,
    path: &Path,
) -> Result<(Source, Map<String, Value>)> {
    let (source, biases) = Source::of(header, keys, path)?;
    let row = source.row().ok_or_else(|| Error::internal(format!("no row is called {}", source.model_type)))?;
    let names = &row.fields;
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    set("model_type", row.model_type.into());
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
    } else if sizes.heads != sizes.kv_heads {
        let found = sizes.most(&sizes.kv_heads).into();
        return Err(keys.unsupported("attention.head_count_kv", &found, "this architecture has as many as heads"));
    }
    set(names.intermediate_size, sizes.most(&sizes.inner).into());
    if !sizes.alike() {
        set("model_type", format!("{PRUNED_PREFIX}{}", row.model_type).into());
        set("pruning", json!({ "layers": sizes.listed() }));
    }
    set(names.max_position_embeddings, keys.size("context_length")?.into());
    let head_dim = head_dim(keys, row, width, heads)?;
    if row.attention.explicit_head_dim {
        set("head_dim", head_dim.into());
    }
    let eps = match row.norm.kind {
        Norm::Rms => "attention.layer_norm_rms_epsilon",
        Norm::Layer => "attention.layer_norm_epsilon",
    };
    if let (Some(name), Some(eps)) = (names.norm_eps.0, keys.number(eps)?) {
        set(name, shortest(eps));
    }
    set(names.activation.0, names.activation.1.into());
    for (name, value) in biases {
        set(name, value.into());
    }
    if let Wiring::Field(name, default) = row.wiring {
        set(name, keys.flag("use_parallel_residual")?.unwrap_or(default).into());
    }
    multipliers(keys, &row.multipliers, head_dim, &mut set)?;
    if row.gguf_own.softcaps {
        let caps = [
            ("attn_logit_softcapping", row.attention.softcap),
            ("final_logit_softcapping", row.multipliers.logit_softcap),
        ];
        for (key, (name, _)) in caps.into_iter().filter_map(|(key, field)| Some((key, field?))) {
            match keys.number(key)? {
                Some(cap) if cap != 0.0 => drop(set(name, shortest(cap))),
                Some(_) => drop(set(name, Value::Null)),
                // The default of the class is llama.cpp's, too.
                None => {}
            }
        }
    }
    if let Scale::InverseSqrt(name, _) = row.attention.scale {
        set(name, head_dim.into());
    }
    window(keys, row, &mut set)?;
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

/// What layers have for sizes; each list is as long as there are layers.
struct LayerSizes {
    heads: Vec<u64>,
    kv_heads: Vec<u64>,
    inner: Vec<u64>,
}

impl LayerSizes {
    fn read(keys: &Keys, source: Source, layers: u64, path: &Path) -> Result<Self> {
        // Before there is a list for each of them.
        if layers > MAX_LAYERS {
            return Err(Error::bad_file(path, format!("block_count: expected at most {MAX_LAYERS}, found {layers}")));
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
    names: &Multipliers,
    head_dim: u64,
    set: &mut impl FnMut(&str, Value) -> Option<Value>,
) -> Result<()> {
    let pairs = [
        ("embedding_scale", names.embedding),
        ("residual_scale", names.residual),
        ("logit_scale", names.logits),
        ("attention.scale", names.attention),
    ];
    for (key, name) in pairs {
        let Some(name) = name else { continue };
        match keys.number(key)? {
            Some(number) => drop(set(name, shortest(number))),
            // llama.cpp then scales attention as everywhere, and transformers would not.
            None if key == "attention.scale" => drop(set(name, (1.0 / (head_dim as f64).sqrt()).into())),
            None => {}
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

/// The base of the frequencies, their scaling, and the part of each head that turns.
fn rotary(
    keys: &Keys,
    row: &Architecture,
    head_dim: u64,
    factors: Option<&[f32]>,
    set: &mut impl FnMut(&str, Value) -> Option<Value>,
) -> Result<()> {
    let Position::Rope { part, .. } = row.attention.position else { return Ok(()) };
    if let Some((name, default)) = row.attention.local_theta {
        set(name, shortest(keys.number("rope.freq_base_swa")?.unwrap_or(default)));
    }
    let (base, share) = row.fields.rotary;
    let theta = keys.number("rope.freq_base")?.unwrap_or(10000.0);
    set(base, shortest(theta));
    let turned = keys.optional_size("rope.dimension_count")?.unwrap_or(head_dim);
    match part {
        RotaryPart::Share(_) => drop(set(share, portion(turned, head_dim).into())),
        RotaryPart::Count(name, _) => drop(set(name, turned.into())),
        RotaryPart::Whole if turned == head_dim => {}
        RotaryPart::Whole => {
            let reason = format!("this architecture turns whole heads, of {head_dim}");
            return Err(keys.unsupported("rope.dimension_count", &turned.into(), &reason));
        }
    }
    let scaling = scaling(keys, turned, theta, factors)?;
    set("rope_scaling", scaling);
    Ok(())
}

/// The share of a head by which transformers finds `turned` coordinates of `head_dim`.
fn portion(turned: u64, head_dim: u64) -> f64 {
    let share = turned as f64 / head_dim.max(1) as f64;
    // It rounds down.
    if (head_dim as f64 * share) as u64 == turned { share } else { share * (1.0 + f64::EPSILON) }
}

fn scaling(keys: &Keys, turned: u64, theta: f64, factors: Option<&[f32]>) -> Result<Value> {
    let kind = keys.text("rope.scaling.type")?.unwrap_or("none");
    let old = keys.number("rope.scale_linear")?;
    let factor = keys.number("rope.scaling.factor")?.or(old).unwrap_or(1.0);
    let magnitude = keys.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let original = keys.optional_size("rope.scaling.original_context_length")?;
    let yarn = ["beta_fast", "beta_slow", "ext_factor", "attn_factor"];
    let mut of_yarn = yarn.map(|name| (name, keys.number(&format!("rope.scaling.yarn_{name}"))));
    if kind != "yarn" && magnitude != 1.0 {
        let reason = "only a model with yarn scaling is known to multiply cosines and sines";
        return Err(keys.unsupported("rope.scaling.attn_factor", &magnitude.into(), reason));
    }
    if let Some(factors) = factors {
        if kind != "none" || factor != 1.0 {
            let reason = "factors for each frequency beside another rule are not implemented";
            return Err(keys.unsupported("rope.scaling.type", &kind.into(), reason));
        }
        return llama3(factors, turned as usize, theta).ok_or_else(|| {
            let reason = "these factors of the frequencies follow no rule of llama3";
            keys.unsupported("rope_freqs.weight", &factors.len().into(), reason)
        });
    }
    match kind {
        "none" if old.is_none() => Ok(Value::Null),
        "linear" | "none" if factor == 1.0 => Ok(Value::Null),
        "linear" | "none" => Ok(json!({ "rope_type": "linear", "factor": shortest(factor) })),
        "yarn" => {
            let mut section = Map::new();
            section.insert("rope_type".into(), "yarn".into());
            section.insert("factor".into(), shortest(factor));
            if let Some(original) = original {
                section.insert("original_max_position_embeddings".into(), original.into());
            }
            if magnitude != 1.0 {
                let own = if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
                section.insert("attention_factor".into(), (magnitude * own).into());
            }
            for (name, found) in of_yarn.iter_mut() {
                let found = std::mem::replace(found, Ok(None))?;
                match (*name, found) {
                    (_, None) => {}
                    ("ext_factor" | "attn_factor", Some(1.0)) => {}
                    ("beta_fast" | "beta_slow", Some(number)) => drop(section.insert((*name).into(), shortest(number))),
                    (name, Some(number)) => {
                        let reason = "only 1 is implemented";
                        return Err(keys.unsupported(&format!("rope.scaling.yarn_{name}"), &number.into(), reason));
                    }
                }
            }
            Ok(section.into())
        }
        other => {
            Err(keys.unsupported("rope.scaling.type", &other.into(), "known: none, linear, yarn, and llama3's factors"))
        }
    }
}

/// A number that the file has as f32 in as few digits as that needs: 1e-05, not 0.000009999999747378752.
fn shortest(number: f64) -> Value {
    let narrow = number as f32;
    let short = narrow.to_string().parse::<f64>().ok().filter(|_| f64::from(narrow) == number);
    short.unwrap_or(number).into()
}

/// What transformers calls the type that most values are written in by default.
fn dtype(header: &GgufHeader) -> &'static str {
    let total = |wanted: fn(Encoding) -> bool| -> u64 {
        let entries = header.tensors.values().filter(|entry| wanted(entry.encoding));
        entries.map(|entry| entry.shape.iter().map(|&size| size as u64).product::<u64>()).sum()
    };
    let [wide, half, brain] = [
        total(|encoding| encoding.float() == Some(Dtype::F32)),
        total(|encoding| encoding.float().is_none_or(|dtype| dtype == Dtype::F16)),
        total(|encoding| encoding.float() == Some(Dtype::BF16)),
    ];
    match () {
        () if brain > wide.max(half) => "bfloat16",
        () if half > wide => "float16",
        () => "float32",
    }
}
