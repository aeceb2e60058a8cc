//! One [`LayerSpec`] for each layer, as a config.json gives them, with the tables of rotary angles that they share.

use super::{
    architecture::{Architecture, Position},
    delta_spec::{delta_nets, has_output_gate},
    expert_spec::{experts, swiglu},
    fields::{MAX_POSITIONS, Reader},
    layer_spec::{LayerSpec, alibi, attention_scales, roped_layers, ropes, windows},
    read_sizes::{Sizes, positions_name},
    rope::Rope,
};
use crate::error::Result;

/// The layers before any is pruned, and their rotary tables.
///
/// # Errors
/// [`crate::Error::BadFile`], [`crate::Error::UnsupportedField`].
pub(super) fn layers(
    reader: &Reader,
    architecture: &Architecture,
    sizes: &Sizes,
    intermediate_size: usize,
) -> Result<(Vec<LayerSpec>, Vec<Rope>)> {
    let (Sizes { layers, heads, kv_heads, head_dim, positions, .. }, attention) = (*sizes, &architecture.attention);
    let alibi = alibi(reader, architecture, heads, head_dim)?;
    let ropes = match alibi {
        Some(_) => Vec::new(),
        None => ropes(reader, architecture, head_dim, positions)?,
    };
    let counts = matches!(attention.position, Position::Learned { .. }) || ropes.iter().any(Rope::knows_length);
    if sizes.positions_unstated && counts {
        reader.size(positions_name(reader, &architecture.fields), MAX_POSITIONS)?;
    }
    let roped = roped_layers(reader, architecture, layers)?;
    let windows = windows(reader, architecture, &roped)?;
    let scales = attention_scales(reader, architecture, head_dim, layers)?;
    let experts = experts(reader, architecture, layers)?;
    let deltas = delta_nets(reader, architecture, layers)?;
    let output_gate = has_output_gate(architecture);
    let swiglu = swiglu(reader, architecture)?;
    let softcap = reader.optional(attention.softcap)?;
    let clip_qkv = attention.clip.map_or(Ok(None), |name| reader.positive(name))?.map(|limit| limit as f32);
    let kinds = roped.into_iter().zip(windows).zip(scales).zip(experts).zip(deltas);
    let layers = kinds.map(|((((roped, (window, local)), attention_scale), experts), delta)| LayerSpec {
        heads,
        kv_heads,
        head_dim,
        intermediate_size: experts.map_or(intermediate_size, |(_, width)| width),
        experts: experts.map(|(experts, _)| experts),
        // Layers with a window may have a table of their own.
        rope: (roped && delta.is_none() && !ropes.is_empty()).then_some(usize::from(local && ropes.len() > 1)),
        window,
        attention_scale,
        softcap,
        alibi,
        clip_qkv,
        sinks: attention.sinks.is_some(),
        output_gate: output_gate && delta.is_none(),
        delta,
        swiglu,
    });
    Ok((layers.collect(), ropes))
}
