//! The sizes and the kind of each layer, as a config gives them.

use serde_json::Value;

use super::{
    architecture::{
        Architecture, Block, BlockKind, MixtureLayers, Normalised, Position, Role, RopeLayers, RotaryPart, Weight,
        Window,
    },
    fields::{MAX_EXPERTS, MAX_LAYERS, MAX_POSITIONS, MAX_WIDTH, Reader},
    rope::Rope,
};
use crate::{
    error::Result,
    ops::{AttentionShape, HeadSpan},
};

/// The sizes of one layer, which may differ from those of others.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// Query heads.
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Between the two linear layers of the MLP, or of each expert.
    pub intermediate_size: usize,
    /// Where the layer is a mixture.
    pub experts: Option<Experts>,
    /// Which of [`Config::ropes`](super::Config::ropes); `None` where the layer does not know positions from it.
    pub rope: Option<usize>,
    /// A token sees itself and the `window - 1` tokens before it; all of them if `None`.
    pub window: Option<usize>,
    /// What q·k is multiplied by.
    pub attention_scale: f32,
}

/// The experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    pub count: usize,
    /// How many of them a token goes to.
    pub chosen: usize,
    /// Whether the gates of these are divided by their sum.
    pub normalised: bool,
    /// The width of the expert that every token goes to, if there is one.
    pub shared: Option<usize>,
}

/// A part of a layer between two points of the residual stream: one block, or all of them where they read the same
/// point. A shortcut may carry the residual past it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Which one of its layer.
    pub index: usize,
    /// Whether the layer ends with it.
    pub last: bool,
    /// The row's blocks that belong to it.
    pub blocks: &'static [Block],
}

impl Step {
    /// The stored weights of its blocks.
    pub fn weights(self) -> impl Iterator<Item = &'static Weight> {
        self.blocks.iter().flat_map(|block| block.weights)
    }

    /// The linear weights that they hold, in the order in which they are read and written.
    pub fn linears(self) -> impl Iterator<Item = (&'static Weight, Role)> {
        self.weights().flat_map(|weight| weight.holds.iter().map(move |role| (weight, *role)))
    }

    /// Its blocks of this kind.
    pub fn has(self, attention: bool) -> bool {
        self.blocks.iter().any(|block| (block.kind == BlockKind::Attention) == attention)
    }
}

impl LayerSpec {
    /// Rows of a weight that does not write the residual stream; 0 of one that does.
    pub fn rows(&self, role: Role) -> usize {
        match role {
            Role::Query => self.heads * self.head_dim,
            Role::Key | Role::Value => self.kv_heads * self.head_dim,
            Role::Gate | Role::Up => self.intermediate_size,
            Role::Router => self.experts.map_or(0, |experts| experts.count),
            Role::Output | Role::Down => 0,
        }
    }

    /// Columns of the attention's result, and of the queries.
    pub fn heads_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of the queries, keys and values of a token side by side.
    pub fn qkv_width(&self) -> usize {
        self.heads_width() + self.kv_width()
    }

    /// Columns of the keys and values of a token side by side.
    pub fn kv_width(&self) -> usize {
        2 * self.kv_heads * self.head_dim
    }

    /// Where queries, keys and values lie in rows of [`LayerSpec::qkv_width`].
    pub fn attention_shape(&self) -> AttentionShape {
        let (q, kv) = (self.heads_width(), self.kv_heads * self.head_dim);
        AttentionShape {
            head_dim: self.head_dim,
            q: HeadSpan { column: 0, heads: self.heads },
            k: HeadSpan { column: q, heads: self.kv_heads },
            v: HeadSpan { column: q + kv, heads: self.kv_heads },
            scale: self.attention_scale,
            window: self.window,
        }
    }
}

/// The angles that the architecture takes from its config, if it has any.
pub(super) fn rope(
    reader: &Reader,
    architecture: &Architecture,
    head_dim: usize,
    max_positions: usize,
) -> Result<Option<Rope>> {
    let Position::Rope { part, theta, .. } = architecture.attention.position else { return Ok(None) };
    if let RotaryPart::Count(name, default) = part {
        let dim = reader.size_or(name, MAX_WIDTH, default)?;
        let fits = (dim <= head_dim && dim.is_multiple_of(2)).then(|| Rope::plain(dim, theta));
        let expected = format!("an even number up to the head width of {head_dim}, or {default} by default");
        return fits.map(Some).ok_or_else(|| reader.wrong(name, &expected));
    }
    let rope = Rope::from_fields(reader.fields, reader.path, architecture, head_dim, max_positions)?;
    Ok(Some(rope).filter(|rope| !rope.inverse_frequencies.is_empty()))
}

/// Whether each layer has rotary embeddings.
pub(super) fn roped_layers(reader: &Reader, architecture: &Architecture, layers: usize) -> Result<Vec<bool>> {
    let Position::Rope { layers: RopeLayers::Listed { list, interval: (name, default) }, .. } =
        architecture.attention.position
    else {
        return Ok(vec![true; layers]);
    };
    let Some(value) = reader.get(list) else {
        let interval = match reader.get(name).and_then(Value::as_i64) {
            // Python's remainders are 0 for the same numbers.
            Some(interval @ ..0) => interval.unsigned_abs() as usize,
            _ => reader.size_or(name, MAX_LAYERS, default)?,
        };
        return Ok((1..=layers).map(|number| !number.is_multiple_of(interval)).collect());
    };
    let flags = value.as_array().filter(|flags| flags.len() >= layers).map(|flags| &flags[..layers]);
    let flag = |flag: &Value| flag.as_i64().map(|flag| flag != 0).or(flag.as_bool());
    let flags = flags.and_then(|flags| flags.iter().map(flag).collect::<Option<Vec<_>>>());
    flags.ok_or_else(|| {
        reader.wrong(list, &format!("a whole number for each of {layers} layers, 0 where it has no rope"))
    })
}

/// The sliding window of each layer; `roped` says which have rotary embeddings.
pub(super) fn windows(reader: &Reader, architecture: &Architecture, roped: &[bool]) -> Result<Vec<Option<usize>>> {
    let layers = roped.len();
    let types = match reader.get("layer_types") {
        None => None,
        Some(value) => Some(layer_types(reader, value, layers)?),
    };
    // Read where it counts: elsewhere it may be whatever switches it off.
    let window = || match reader.get("sliding_window") {
        Some(_) => reader.size("sliding_window", MAX_POSITIONS).map(Some),
        None if reader.fields.contains_key("sliding_window") => Ok(None),
        None => Ok(architecture.attention.default_window),
    };
    let slides: Vec<bool> = match architecture.attention.window {
        Window::None => match types {
            Some(types) if types.contains(&true) => {
                let reason = format!(
                    "transformers computes the logits of {} without a window and continues texts with one; give every \
                     layer \"full_attention\", or remove the list",
                    architecture.model_type
                );
                return Err(reader.unsupported("layer_types", &"sliding_attention".into(), &reason));
            }
            _ => vec![false; layers],
        },
        // One mask for all layers.
        Window::All => vec![true; layers],
        Window::Listed => types.unwrap_or_else(|| vec![true; layers]),
        Window::Used => vec![reader.flag("use_sliding_window", false)?; layers],
        Window::FromLayer if !reader.flag("use_sliding_window", false)? => vec![false; layers],
        // Types that are listed count whatever use_sliding_window says.
        Window::WithoutRope => match types {
            Some(types) => types,
            None => {
                let slides = reader.flag("use_sliding_window", false)?;
                roped.iter().map(|roped| slides && !roped).collect()
            }
        },
        Window::FromLayer => match types {
            Some(types) => types,
            None => {
                let first = reader.get("max_window_layers").map_or(Some(28), Value::as_u64);
                let first = first.ok_or_else(|| reader.wrong("max_window_layers", "a number"))?;
                (0..layers).map(|layer| layer as u64 >= first).collect()
            }
        },
    };
    if !slides.contains(&true) {
        return Ok(vec![None; layers]);
    }
    let window = window()?;
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
}

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
    let shared = mixture.shared.map(|shared| {
        let (name, default) = shared.intermediate_size;
        reader.size_or(name, MAX_WIDTH * 4, default)
    });
    let experts = (Experts { count, chosen, normalised, shared: shared.transpose()? }, width);
    Ok(mixed.into_iter().map(|mixed| mixed.then_some(experts)).collect())
}

fn layer_types(reader: &Reader, value: &Value, layers: usize) -> Result<Vec<bool>> {
    let names = value.as_array().filter(|names| names.len() == layers);
    let names = names.ok_or_else(|| reader.wrong("layer_types", "a name for each layer"))?;
    names
        .iter()
        .map(|name| match name.as_str() {
            // The latter is what files of before had.
            Some("full_attention" | "attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => Err(reader.unsupported("layer_types", name, "known: full_attention, sliding_attention")),
        })
        .collect()
}

/// What q·k of each layer is multiplied by.
pub(super) fn attention_scales(
    reader: &Reader,
    row: &Architecture,
    head_dim: usize,
    layers: usize,
) -> Result<Vec<f32>> {
    let base = if row.multipliers.attention.is_some() {
        reader.multiplier(row.multipliers.attention, |_| true)?
    } else if row.attention.scale_fields && !reader.flag("scale_attn_weights", true)? {
        1.0
    } else {
        1.0 / (head_dim as f64).sqrt()
    };
    let by_layer = row.attention.scale_fields && reader.flag("scale_attn_by_inverse_layer_idx", false)?;
    Ok((0..layers).map(|layer| (if by_layer { base / (layer + 1) as f64 } else { base }) as f32).collect())
}
