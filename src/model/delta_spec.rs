//! Which layers have a gated delta net in place of attention, and its sizes, as a config gives them.

use serde_json::Value;

use super::{
    architecture::{Architecture, Role},
    fields::{MAX_LAYERS, MAX_WIDTH, Reader},
    layer_spec::DeltaNet,
};
use crate::{
    error::{Error, Result},
    ops::{DeltaShape, MAX_KEY_DIM},
};

/// Longer convolutions are mistakes.
const MAX_TAPS: u64 = 256;

/// The gated delta net of each layer; none where it has attention.
pub(super) fn delta_nets(reader: &Reader, architecture: &Architecture, layers: usize) -> Result<Vec<Option<DeltaNet>>> {
    let Some(row) = &architecture.delta_net else { return Ok(vec![None; layers]) };
    let size = |(name, default): (&str, usize)| reader.size_or(name, MAX_WIDTH, default);
    let shape = DeltaShape {
        key_heads: size(row.key_heads)?,
        value_heads: size(row.value_heads)?,
        key_dim: size(row.key_dim)?,
        value_dim: size(row.value_dim)?,
    };
    let taps = reader.size_or(row.taps.0, MAX_TAPS, row.taps.1)?;
    let linear = linear_layers(reader, row.interval, layers)?;
    if linear.contains(&true) {
        let DeltaShape { key_heads, value_heads, key_dim, .. } = shape;
        if key_dim > MAX_KEY_DIM {
            let reason = format!("keys of more than {MAX_KEY_DIM} are not implemented");
            return Err(reader.unsupported(row.key_dim.0, &key_dim.into(), &reason));
        }
        if !value_heads.is_multiple_of(key_heads) {
            let reason = format!("{value_heads} value heads cannot share {key_heads} key heads of linear attention");
            return Err(Error::bad_file(reader.path, reason));
        }
        if shape.qkv_width() > 4 * MAX_WIDTH as usize {
            return Err(Error::bad_file(reader.path, format!("heads of linear attention of {shape:?} are absurd")));
        }
    }
    let delta = DeltaNet { shape, taps };
    Ok(linear.into_iter().map(|linear| linear.then_some(delta)).collect())
}

/// Which layers have linear attention.
fn linear_layers(reader: &Reader, (interval, default): (&str, usize), layers: usize) -> Result<Vec<bool>> {
    const NAME: &str = "layer_types";
    let Some(value) = reader.get(NAME) else {
        let interval = reader.size_or(interval, MAX_LAYERS, default)?;
        return Ok((1..=layers).map(|number| !number.is_multiple_of(interval)).collect());
    };
    let names = value.as_array().filter(|names| names.len() == layers);
    let names = names.ok_or_else(|| reader.wrong(NAME, "a name for each layer"))?;
    let is_linear = |name: &Value| match name.as_str() {
        Some("full_attention") => Ok(false),
        Some("linear_attention") => Ok(true),
        _ => Err(reader.unsupported(NAME, name, "known: full_attention, linear_attention")),
    };
    names.iter().map(is_linear).collect()
}

/// Whether the attention of a row's layers has gates.
pub(super) fn has_output_gate(architecture: &Architecture) -> bool {
    architecture.weights().any(|weight| weight.holds.contains(&Role::OutputGate))
}
