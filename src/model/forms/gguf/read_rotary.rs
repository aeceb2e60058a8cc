//! What the metadata of a GGUF file say of rotary embeddings → the fields of a config.json.

use serde_json::{Map, Value, json};

use super::{
    frequencies::llama3,
    keys::{Keys, shortest},
    metadata::{SECTION, TRUNCATE},
    names::{FREQUENCY_FACTORS, LONG_FACTORS},
    target::never_rounds,
};
use crate::{
    error::Result,
    model::{
        Rope,
        architecture::{Architecture, Position, RopeLayers, RotaryPart},
    },
};

/// What divides the frequencies, where the file has tensors of that.
#[derive(Default)]
pub struct Factors {
    pub plain: Option<Vec<f32>>,
    /// Of texts up to the original length, and of longer ones.
    pub long: [Option<Vec<f32>>; 2],
}

impl Factors {
    /// Each by the name of its tensor.
    pub fn named(&mut self) -> [(&'static str, &mut Option<Vec<f32>>); 3] {
        let [short, long] = &mut self.long;
        [(FREQUENCY_FACTORS, &mut self.plain), (LONG_FACTORS[0], short), (LONG_FACTORS[1], long)]
    }
}

/// The base of the frequencies, their scaling, and the part of each head that turns.
pub fn rotary(
    keys: &Keys,
    row: &Architecture,
    head_dim: u64,
    factors: &Factors,
    set: &mut impl FnMut(&str, Value) -> Option<Value>,
) -> Result<()> {
    let Position::Rope { part, layers, .. } = row.attention.position else { return Ok(()) };
    if let (RopeLayers::Listed { interval: (name, _), .. }, Some(interval)) = (layers, row.gguf_own.nope_interval) {
        set(name, interval.into());
    }
    if let Some((name, default)) = row.attention.local_theta {
        set(name, shortest(keys.number("rope.freq_base_swa")?.unwrap_or(default)));
    }
    let (base, share) = row.fields.rotary;
    let theta = keys.number("rope.freq_base")?.unwrap_or(10000.0);
    set(base, shortest(theta));
    let rotary = keys.optional_size("rope.dimension_count")?.unwrap_or(head_dim);
    match part {
        RotaryPart::Share(_) => drop(set(share, portion(rotary, head_dim).into())),
        RotaryPart::Count(name, _) => drop(set(name, rotary.into())),
        RotaryPart::Whole if rotary == head_dim => {}
        RotaryPart::Whole => {
            let reason = format!("this architecture turns whole heads, of {head_dim}");
            return Err(keys.unsupported("rope.dimension_count", &rotary.into(), &reason));
        }
    }
    let scaling = match &factors.long {
        [Some(_), _] | [_, Some(_)] if row.attention.longrope.is_empty() => {
            let reason = "rotary factors of long texts are not implemented for this architecture";
            return Err(keys.unsupported("rope.scaling.type", &"longrope".into(), reason));
        }
        [None, None] => {
            let own = row.attention.default_scaling;
            let stated = stated(keys, row, head_dim, theta, factors.plain.as_deref())?;
            match scaling(keys, rotary, theta, factors.plain.as_deref(), stated)? {
                // Without a section, it would be that of the class.
                Value::Null if own.is_some() => json!({ "rope_type": "default" }),
                // The file does not say it of models that do not round.
                Value::Object(mut yarn) if never_rounds(row) && yarn["rope_type"] == "yarn" => {
                    yarn.insert("truncate".into(), keys.flag(TRUNCATE)?.unwrap_or(false).into());
                    yarn.into()
                }
                section => section,
            }
        }
        [Some(short), Some(long)] => {
            let original = keys.size("rope.scaling.original_context_length")?;
            set("original_max_position_embeddings", original.into());
            longrope(keys, original, [short, long])?
        }
        _ => {
            let reason = "of the factors of short and of long texts, one is missing";
            return Err(keys.unsupported("rope.scaling.original_context_length", &Value::Null, reason));
        }
    };
    set("rope_scaling", scaling);
    Ok(())
}

/// The section of a model with factors of its own for long texts.
fn longrope(keys: &Keys, original: u64, [short, long]: [&Vec<f32>; 2]) -> Result<Value> {
    // llama.cpp's converter writes none for phi3, and what stands there does nothing.
    match keys.text("rope.scaling.type")? {
        None | Some("longrope" | "none") => {}
        Some(other) => {
            let reason = "factors of short and of long texts beside another rule are not implemented";
            return Err(keys.unsupported("rope.scaling.type", &other.into(), reason));
        }
    }
    if let Some(factor) = keys.number("rope.scaling.factor")?.filter(|factor| *factor != 1.0) {
        let reason = "a factor of all frequencies beside those of each is not implemented";
        return Err(keys.unsupported("rope.scaling.factor", &factor.into(), reason));
    }
    let list = |factors: &[f32]| factors.iter().map(|factor| shortest(f64::from(*factor))).collect::<Value>();
    Ok(json!({
        "rope_type": "longrope", "short_factor": list(short), "long_factor": list(long),
        "attention_factor": keys.number("rope.scaling.attn_factor")?.unwrap_or(1.0),
        "original_max_position_embeddings": original,
    }))
}

/// The share of a head by which transformers finds `rotary` coordinates of `head_dim`.
fn portion(rotary: u64, head_dim: u64) -> f64 {
    let share = rotary as f64 / head_dim.max(1) as f64;
    // It rounds down.
    if (head_dim as f64 * share) as u64 == rotary { share } else { share * (1.0 + f64::EPSILON) }
}

/// The section that stands beside the frequencies of a ramp of its own, if it is the one that they follow.
fn stated(
    keys: &Keys,
    row: &Architecture,
    head_dim: u64,
    theta: f64,
    factors: Option<&[f32]>,
) -> Result<Option<Value>> {
    let (Some(text), Some(factors)) = (keys.text(SECTION)?, factors) else { return Ok(None) };
    let Ok(section) = serde_json::from_str::<Value>(text) else { return Ok(None) };
    let magnitude = keys.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
    if factors.len() as u64 * 2 != head_dim {
        return Ok(None);
    }
    let (base, _) = row.fields.rotary;
    let fields = [(base.to_owned(), theta.into()), ("rope_scaling".to_owned(), section.clone())].into_iter().collect();
    let positions = keys.size("context_length")? as usize;
    let Ok(rope) = Rope::from_fields(&fields, keys.path(), row, head_dim as usize, positions) else { return Ok(None) };
    let near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-5;
    let follows = |(pair, (factor, frequency)): (usize, (&f32, &f32))| {
        near(theta.powf(-2.0 * pair as f64 / head_dim as f64) / f64::from(*factor), f64::from(*frequency))
    };
    let pairs = factors.iter().zip(&rope.inverse_frequencies);
    let same = factors.len() == rope.inverse_frequencies.len() && pairs.enumerate().all(follows);
    Ok((same && near(magnitude, f64::from(rope.attention_factor))).then_some(section))
}

fn scaling(keys: &Keys, rotary: u64, theta: f64, factors: Option<&[f32]>, stated: Option<Value>) -> Result<Value> {
    // As llama.cpp takes it: what is not said is linear, and what is said to be none is not scaled whatever the factor.
    let kind = keys.text("rope.scaling.type")?.unwrap_or("linear");
    let old = keys.number("rope.scale_linear")?;
    let factor = keys.number("rope.scaling.factor")?.or(old).filter(|factor| *factor != 0.0 && kind != "none");
    let factor = factor.unwrap_or(1.0);
    let magnitude = keys.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let original = keys.optional_size("rope.scaling.original_context_length")?;
    let yarn = ["beta_fast", "beta_slow", "ext_factor", "attn_factor"];
    let mut of_yarn = yarn.map(|name| (name, keys.number(&format!("rope.scaling.yarn_{name}"))));
    if let Some(section) = stated.filter(|_| ["none", "linear"].contains(&kind) && factor == 1.0) {
        return Ok(section);
    }
    if kind != "yarn" && magnitude != 1.0 {
        let reason = "only a model with yarn scaling is known to multiply cosines and sines";
        return Err(keys.unsupported("rope.scaling.attn_factor", &magnitude.into(), reason));
    }
    if let Some(factors) = factors {
        if !["none", "linear"].contains(&kind) || factor != 1.0 {
            let reason = "factors for each frequency beside another rule are not implemented";
            return Err(keys.unsupported("rope.scaling.type", &kind.into(), reason));
        }
        return llama3(factors, rotary as usize, theta).ok_or_else(|| {
            let reason = "these factors of the frequencies follow no rule of llama3";
            keys.unsupported("rope_freqs.weight", &factors.len().into(), reason)
        });
    }
    match kind {
        "none" => Ok(Value::Null),
        "linear" if factor == 1.0 => Ok(Value::Null),
        "linear" => Ok(json!({ "rope_type": "linear", "factor": shortest(factor) })),
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
