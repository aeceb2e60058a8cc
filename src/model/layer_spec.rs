//! The sizes and the kind of each layer, as a config gives them.

use serde_json::{Map, Value, json};

use super::{
    architecture::{
        self, Architecture, Block, BlockKind, Position, Role, RopeLayers, RotaryPart, Scale, Weight, Window,
    },
    fields::{MAX_LAYERS, MAX_POSITIONS, MAX_WIDTH, Reader},
    rope::Rope,
};
use crate::{
    error::Result,
    json::is_falsy,
    ops::{Alibi, AttentionShape, ClampedSwiglu, DeltaShape, HeadSpan},
};

/// The sizes of one layer, which may differ from those of others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerSpec {
    /// Query heads; of a layer with a gated delta net, those that it would have with attention.
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
    /// The c in c·tanh(score / c), where scores go through that.
    pub softcap: Option<f32>,
    /// By how much keys count less the further back they are.
    pub alibi: Option<Alibi>,
    /// Queries, keys and values beyond this size are set to it.
    pub clip_qkv: Option<f32>,
    /// Whether each head has a logit that counts in the softmax of its scores beside those of keys.
    pub sinks: bool,
    /// Whether the attention's result is multiplied by the sigmoid of gates.
    pub output_gate: bool,
    /// What the layer has in place of attention, if it has.
    pub delta: Option<DeltaNet>,
    /// What experts have in place of `activation(gate) · up`.
    pub swiglu: Option<ClampedSwiglu>,
}

/// The gated delta net of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaNet {
    pub shape: DeltaShape,
    /// Tokens that its convolution sees.
    pub taps: usize,
}

impl DeltaNet {
    /// Columns of all that its weights make of a token, side by side: queries, keys and values, the gate of the result,
    /// beta and decay of each value head.
    pub fn projected_width(&self) -> usize {
        self.decay_column() + self.shape.value_heads
    }

    /// Where the gate of the result begins.
    pub fn gate_column(&self) -> usize {
        self.shape.qkv_width()
    }

    /// Where beta begins.
    pub fn beta_column(&self) -> usize {
        self.gate_column() + self.shape.value_width()
    }

    /// Where the decay begins.
    pub fn decay_column(&self) -> usize {
        self.beta_column() + self.shape.value_heads
    }
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

    /// Whether it has a block of attention.
    pub fn has_attention(self) -> bool {
        self.blocks.iter().any(|block| block.kind == BlockKind::Attention)
    }

    /// Whether it is a mixture of experts.
    pub fn is_mixture(self) -> bool {
        self.blocks.iter().any(|block| block.kind == BlockKind::Mixture)
    }

    /// Whether it has a block with channels between two linear layers.
    pub fn has_mlp(self) -> bool {
        self.blocks.iter().any(|block| block.kind.is_mlp())
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
            Role::OutputGate => self.heads_width(),
            Role::Mixed => self.delta.map_or(0, |delta| delta.shape.qkv_width()),
            Role::Beta | Role::Decay => self.delta.map_or(0, |delta| delta.shape.value_heads),
            Role::Output | Role::Down => 0,
        }
    }

    /// Columns of the result of the attention, or of what is in its place; of attention, also those of the queries.
    pub fn heads_width(&self) -> usize {
        self.delta.map_or(self.heads * self.head_dim, |delta| delta.shape.value_width())
    }

    /// Columns of the queries, keys, values and gates of a token side by side; of a gated delta net, those of all that
    /// its weights make of it.
    pub fn qkv_width(&self) -> usize {
        let gates = if self.output_gate { self.heads_width() } else { 0 };
        let attention = self.heads_width() + self.kv_width() + gates;
        self.delta.map_or(attention, |delta| delta.projected_width())
    }

    /// Columns of the keys and values of a token side by side; none where none are kept.
    pub fn kv_width(&self) -> usize {
        if self.delta.is_some() { 0 } else { 2 * self.kv_heads * self.head_dim }
    }

    /// Where the gates of the attention's result begin in rows of [`LayerSpec::qkv_width`].
    pub fn gate_column(&self) -> usize {
        self.heads_width() + self.kv_width()
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
            softcap: self.softcap,
            alibi: self.alibi,
        }
    }
}

/// The tables of angles that the architecture takes from its config: that of all layers, or of those without a window
/// and then of those with one.
pub(super) fn ropes(
    reader: &Reader,
    architecture: &Architecture,
    head_dim: usize,
    max_positions: usize,
) -> Result<Vec<Rope>> {
    let Position::Rope { part, theta, .. } = architecture.attention.position else { return Ok(Vec::new()) };
    if let RotaryPart::Count(name, default) = part {
        let dim = reader.size_or(name, MAX_WIDTH, default)?;
        let fits = (dim <= head_dim && dim.is_multiple_of(2)).then(|| vec![Rope::plain(dim, theta)]);
        let expected = format!("an even number up to the head width of {head_dim}, or {default} by default");
        return fits.ok_or_else(|| reader.wrong(name, &expected));
    }
    let sections = match architecture.attention.local_theta {
        None => vec![with_default_scaling(reader, architecture)],
        Some(local) => by_window(reader, local)?.into(),
    };
    let mut ropes = Vec::with_capacity(sections.len());
    for fields in sections {
        let rope = Rope::from_fields(&fields, reader.path, architecture, head_dim, max_positions)?;
        ropes.extend(Some(rope).filter(|rope| !rope.inverse_frequencies.is_empty()));
    }
    Ok(ropes)
}

/// The fields, with the scaling of the architecture where they say nothing of any.
fn with_default_scaling(reader: &Reader, architecture: &Architecture) -> Map<String, Value> {
    let mut fields = reader.fields.clone();
    let scaled = fields.get("rope_scaling").is_some_and(|value| !is_falsy(value));
    if let (Some(yarn), false, None) = (architecture.attention.default_scaling, scaled, reader.get("rope_parameters")) {
        let section = json!({
            "rope_type": "yarn", "factor": yarn.factor, "truncate": yarn.truncate,
            "original_max_position_embeddings": yarn.original,
        });
        fields.insert("rope_parameters".into(), section);
    }
    fields
}

/// What config.json would say of rotary embeddings if all layers were without a window, and if all had one: there are
/// sections for either, or the scaling beside them is that of layers without.
fn by_window(reader: &Reader, (local, theta): (&str, f64)) -> Result<[Map<String, Value>; 2]> {
    let (fields, empty) = (reader.fields, Map::new());
    let object = |name: &str| fields.get(name).and_then(Value::as_object).unwrap_or(&empty);
    let section = |of: &str| object("rope_parameters").get(of).and_then(Value::as_object).cloned().unwrap_or_default();
    let (mut full, mut sliding) = (section("full_attention"), section("sliding_attention"));
    if fields.get("rope_parameters").is_none_or(Value::is_null) {
        // The class begins with it, and so an older "type" beside it does not count.
        full.insert("rope_type".into(), "default".into());
    }
    full.extend(object("rope_scaling").clone());
    let beside = |name: &str| fields.get(name).filter(|value| !value.is_null()).cloned();
    if let Some(theta) = beside("rope_theta") {
        full.entry("rope_theta").or_insert(theta);
    }
    sliding.entry("rope_theta").or_insert_with(|| beside(local).unwrap_or_else(|| theta.into()));
    let nested = ["full_attention", "sliding_attention"];
    if object("rope_parameters").keys().any(|key| !nested.contains(&key.as_str())) {
        return Err(reader.wrong("rope_parameters", "a section full_attention and one sliding_attention alone"));
    }
    Ok([full, sliding].map(|mut section| {
        let mut fields = fields.clone();
        // transformers looks for it beside the two sections, where it may not be.
        section.remove("truncate");
        ["rope_scaling", "rope_theta"].into_iter().for_each(|name| drop(fields.remove(name)));
        fields.insert("rope_parameters".into(), section.into());
        fields
    }))
}

/// The linear biases of the attention, if it has any: of all heads, of which pruning may leave some.
pub(super) fn alibi(
    reader: &Reader,
    architecture: &Architecture,
    heads: usize,
    head_dim: usize,
) -> Result<Option<Alibi>> {
    let plain = Alibi { heads, factor: 1.0, in_bf16: false };
    Ok(match architecture.attention.alibi {
        architecture::Alibi::Never => None,
        architecture::Alibi::Always => Some(plain),
        architecture::Alibi::Field(name) => reader.flag(name, false)?.then(|| {
            let factor = 1.0 / (head_dim as f64).sqrt();
            Alibi { factor: factor as f32, in_bf16: true, ..plain }
        }),
    })
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

/// The sliding window of each layer, and whether it is of the kind that has one; `roped` says which have rotary
/// embeddings.
pub(super) fn windows(
    reader: &Reader,
    architecture: &Architecture,
    roped: &[bool],
) -> Result<Vec<(Option<usize>, bool)>> {
    let layers = roped.len();
    let types = match reader.get("layer_types") {
        // They are of another kind.
        _ if architecture.delta_net.is_some() => None,
        None => None,
        Some(value) => Some(layer_types(reader, value, layers)?),
    };
    let (name, default) = match architecture.attention.window {
        Window::Repeated { size: (name, default), .. } => (name, Some(default)),
        _ => ("sliding_window", architecture.attention.default_window),
    };
    // Read where it counts: elsewhere it may be whatever switches it off.
    let window = || match reader.get(name) {
        Some(_) => reader.size(name, MAX_POSITIONS).map(Some),
        // transformers makes no mask of it for these.
        None if reader.fields.contains_key(name) && matches!(architecture.attention.window, Window::Pattern { .. }) => {
            Err(reader.wrong(name, "a number of tokens"))
        }
        None if reader.fields.contains_key(name) => Ok(None),
        None => Ok(default),
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
        Window::Listed | Window::ListedForAnother => types.unwrap_or_else(|| vec![true; layers]),
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
        Window::Pattern { field, interval } => match types {
            Some(types) => types,
            None => {
                let interval = field.map_or(Ok(interval), |name| reader.size_or(name, MAX_LAYERS, interval))?;
                (1..=layers).map(|number| !number.is_multiple_of(interval)).collect()
            }
        },
        Window::Repeated { list, each, .. } => repeated(reader, (list, each), layers)?,
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
        return Ok(vec![(None, false); layers]);
    }
    let window = window()?;
    Ok(slides.into_iter().map(|slides| (window.filter(|_| slides), slides)).collect())
}

/// Which layers are "local" in a list such as `[[["global", "local"], 12]]`, or in one of them each.
fn repeated(reader: &Reader, (list, each): (&str, &str), layers: usize) -> Result<Vec<bool>> {
    let is_local = |name: &Value| match name.as_str() {
        Some("global") => Some(false),
        Some("local") => Some(true),
        _ => None,
    };
    let wrong = || reader.wrong(list, &format!("pairs of names, global or local, and how often: of {layers} layers"));
    let default = json!([[["global", "local"], 12]]);
    let value = reader.get(list).unwrap_or(&default);
    let mut found = Vec::new();
    for pair in value.as_array().ok_or_else(wrong)? {
        let names = pair.get(0).and_then(Value::as_array).ok_or_else(wrong)?;
        let times = pair.get(1).and_then(Value::as_u64).filter(|times| *times <= MAX_LAYERS).ok_or_else(wrong)?;
        let local = names.iter().map(is_local).collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
        if local.len() as u64 * times > MAX_LAYERS {
            return Err(wrong());
        }
        (0..times).for_each(|_| found.extend(&local));
    }
    // The one of each layer counts, whatever the other comes to.
    let Some(value) = reader.get(each) else {
        return if found.len() == layers { Ok(found) } else { Err(wrong()) };
    };
    let names = value.as_array().filter(|names| names.len() == layers);
    let local = names.and_then(|names| names.iter().map(is_local).collect::<Option<Vec<_>>>());
    local.ok_or_else(|| reader.wrong(each, &format!("global or local for each of {layers} layers")))
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
    let usual = 1.0 / (head_dim as f64).sqrt();
    let fields = row.attention.scale == Scale::HeadDim { fields: true };
    let base = match row.attention.scale {
        _ if row.multipliers.attention.is_some() => reader.multiplier(row.multipliers.attention, |_| true)?,
        Scale::HeadDim { .. } if fields && !reader.flag("scale_attn_weights", true)? => 1.0,
        Scale::HeadDim { .. } => usual,
        Scale::One => 1.0,
        Scale::InverseSqrt(name, default) => 1.0 / reader.positive(name)?.unwrap_or(default).sqrt(),
        Scale::Field(name) => reader.positive(name)?.unwrap_or(usual),
    };
    let by_layer = fields && reader.flag("scale_attn_by_inverse_layer_idx", false)?;
    Ok((0..layers).map(|layer| (if by_layer { base / (layer + 1) as f64 } else { base }) as f32).collect())
}
