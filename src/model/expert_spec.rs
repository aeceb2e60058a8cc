//! The experts of the layers that are mixtures, as a config gives them.

use serde_json::Value;

use super::{
    architecture::{Architecture, MixtureLayers, Normalised},
    fields::{MAX_EXPERTS, MAX_EXPERTS_IN_ALL, MAX_LAYERS, MAX_WIDTH, Reader},
    layer_spec::Experts,
};
use crate::{
    error::{Error, Result},
    ops::ClampedSwiglu,
};

/// The experts of each layer, and the width of each of them, where it is a mixture.
pub(super) fn experts(
    reader: &Reader,
    architecture: &Architecture,
    layers: usize,
) -> Result<Vec<Option<(Experts, usize)>>> {
    let Some(mixture) = &architecture.mixture else { return Ok(vec![None; layers]) };
    let ([first, second], default) = mixture.count;
    if let (Some(one), Some(other)) = (reader.get(first), reader.get(second))
        && one != other
    {
        return Err(reader.wrong(first, &format!("as many as {second}, which is {other}")));
    }
    let name = reader.name(first, second);
    // Without experts, every layer has an MLP.
    let none = reader.get(name).and_then(Value::as_u64) == Some(0) && mixture.layers != MixtureLayers::All;
    if none {
        return Ok(vec![None; layers]);
    }
    let count = reader.size_or(name, MAX_EXPERTS, default)?;
    let chosen = reader.size_or(mixture.chosen.0, MAX_EXPERTS, mixture.chosen.1)?;
    if chosen > count {
        return Err(reader.wrong(mixture.chosen.0, &format!("at most the {count} experts that there are")));
    }
    let width = reader.size_or(mixture.intermediate_size.0, MAX_WIDTH * 4, mixture.intermediate_size.1)?;
    let normalised = match mixture.normalised {
        Normalised::Always => true,
        Normalised::Field(name, default) => reader.flag(name, default)?,
    };
    let mixed = match mixture.layers {
        MixtureLayers::All => vec![true; layers],
        MixtureLayers::Every { step, dense } => {
            let step = reader.size_or(step, MAX_LAYERS, 1)?;
            let dense: Vec<i64> = match reader.get(dense) {
                None => Vec::new(),
                Some(value) => {
                    let numbers = value.as_array().map(|list| list.iter().map(Value::as_i64).collect::<Option<_>>());
                    numbers.flatten().ok_or_else(|| reader.wrong(dense, "a list of layers"))?
                }
            };
            (0..layers).map(|layer| (layer + 1).is_multiple_of(step) && !dense.contains(&(layer as i64))).collect()
        }
    };
    if count * mixed.iter().filter(|mixed| **mixed).count() > MAX_EXPERTS_IN_ALL {
        return Err(reader.wrong(name, &format!("up to {MAX_EXPERTS_IN_ALL} experts in all of the {layers} layers")));
    }
    let shared = mixture.shared.map(|shared| {
        let (name, default) = shared.intermediate_size;
        reader.size_or(name, MAX_WIDTH * 4, default)
    });
    let experts = (Experts { count, chosen, normalised, shared: shared.transpose()? }, width);
    Ok(mixed.into_iter().map(|mixed| mixed.then_some(experts)).collect())
}

/// What experts have in place of `activation(gate) · up`, where they have.
pub(super) fn swiglu(reader: &Reader, architecture: &Architecture) -> Result<Option<ClampedSwiglu>> {
    let Some([alpha, limit]) = architecture.mixture.and_then(|mixture| mixture.swiglu) else { return Ok(None) };
    let number = |(name, default): (&str, f64)| {
        let given = reader.positive(name)?;
        Ok::<_, Error>(given.unwrap_or(default) as f32)
    };
    Ok(Some(ClampedSwiglu { alpha: number(alpha)?, limit: number(limit)? }))
}
