//! `config.json` → [`Config`]: Hugging Face's names in, one shape out, and no guesses.

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    architecture::{
        ARCHITECTURES, Architecture, Bias, Block, BlockKind, Position, REFUSED, Role, RopeLayers, RotaryPart, Weight,
        Window, Wiring,
    },
    fields::{self, Reader, is_falsy, not_a_number},
    missing,
    rope::Rope,
    slicing::Slicing,
};
use crate::{
    error::{Error, Result},
    ops::{Activation, AttentionShape, HeadSpan, MAX_HEAD_DIM},
};

/// Before the `model_type` of a sliced checkpoint.
pub const SLICED_PREFIX: &str = "sliced_";

/// What a model is, checked: sizes are positive and fit together, and every field that changes the maths is handled.
#[derive(Debug, Clone)]
pub struct Config {
    pub architecture: &'static Architecture,
    /// The width of the residual stream before slicing, also of a sliced model: what norms divide by.
    pub hidden_size: usize,
    /// The sizes of each layer.
    pub layers: Vec<LayerSpec>,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    /// Of the norms of the residual stream. Where blocks add m times their result to it, the stream here is the
    /// checkpoint's divided by m, and so is this by m²: norms see no difference, and no weight needs a factor.
    pub norm_eps: f32,
    /// Of the norms of queries and keys.
    pub head_norm_eps: f32,
    /// Whether the stored norms have parameters.
    pub norm_affine: bool,
    pub qk_norm: bool,
    pub activation: Activation,
    pub parallel: bool,
    /// Tables of rotary angles; [`LayerSpec::rope`] says which one a layer uses.
    pub ropes: Vec<Rope>,
    /// What embedded tokens are multiplied by; divided by m as [`Config::norm_eps`] says.
    pub embedding_scale: f32,
    /// What logits are multiplied by.
    pub logit_scale: f32,
    pub tie_word_embeddings: bool,
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
    /// Present in a sliced model.
    pub slicing: Option<Slicing>,
    /// The file as it was.
    pub raw: Map<String, Value>,
}

/// The sizes of one layer, which may differ from those of others.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// Query heads.
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Between the two linear layers of the MLP.
    pub intermediate_size: usize,
    /// Which of [`Config::ropes`]; `None` where the layer does not know positions from it.
    pub rope: Option<usize>,
    /// A token sees itself and the `window - 1` tokens before it; all of them if `None`.
    pub window: Option<usize>,
    /// What q·k is multiplied by.
    pub attention_scale: f32,
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

/// Sizes beyond these are not models but mistakes or attacks.
const MAX_WIDTH: u64 = 1 << 20;
const MAX_LAYERS: u64 = 4096;
const MAX_VOCABULARY: u64 = 1 << 24;
const MAX_POSITIONS: u64 = 1 << 28;

impl Config {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::BadFile`] (not JSON, a field of the wrong kind or an absurd size), [`Error::UnknownArchitecture`],
    /// [`Error::UnsupportedField`].
    pub fn load(path: &Path) -> Result<Self> {
        Self::from_fields(fields::read(path)?, path)
    }

    /// Checks the fields of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_fields(raw: Map<String, Value>, path: &Path) -> Result<Self> {
        let reader = Reader { fields: &raw, path };
        let model_type =
            reader.get("model_type").and_then(Value::as_str).ok_or_else(|| reader.wrong("model_type", "a string"))?;
        let (stem, sliced) = model_type.strip_prefix(SLICED_PREFIX).map_or((model_type, false), |stem| (stem, true));
        let architecture =
            ARCHITECTURES.iter().find(|row| row.model_type == stem).ok_or_else(|| Error::UnknownArchitecture {
                model_type: model_type.into(),
                path: path.into(),
                known: format!(
                    "{}{}",
                    ARCHITECTURES.iter().map(|row| row.model_type).collect::<Vec<_>>().join(", "),
                    missing::kind(&raw)
                ),
            })?;
        refuse(&reader, architecture)?;

        let (fields, defaults) = (&architecture.fields, &architecture.defaults);
        let hidden_size =
            reader.size_or(reader.name("hidden_size", fields.hidden_size), MAX_WIDTH, defaults.hidden_size)?;
        if let Some(width) = reader.get("word_embed_proj_dim").filter(|&width| *width != hidden_size) {
            return Err(reader.unsupported(
                "word_embed_proj_dim",
                width,
                "a projection between the embedding and the first layer is not implemented",
            ));
        }
        let heads = reader.name("num_attention_heads", fields.num_attention_heads);
        let num_attention_heads = reader.size_or(heads, MAX_WIDTH, defaults.num_attention_heads)?;
        let layers = reader.name("num_hidden_layers", fields.num_hidden_layers);
        let num_hidden_layers = reader.size_or(layers, MAX_LAYERS, defaults.num_hidden_layers)?;
        let num_key_value_heads = match fields.num_key_value_heads {
            Some(name) if raw.get(name).is_some_and(Value::is_null) => num_attention_heads,
            Some(name) => {
                reader.size_or(name, MAX_WIDTH, fields.default_key_value_heads.unwrap_or(num_attention_heads))?
            }
            None => num_attention_heads,
        };
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            return Err(Error::bad_file(
                path,
                format!("{num_attention_heads} attention heads cannot share {num_key_value_heads} key-value heads"),
            ));
        }
        let attention = &architecture.attention;
        let explicit = if attention.explicit_head_dim { reader.get("head_dim") } else { None };
        let head_dim = match (explicit, attention.head_dim) {
            (Some(_), _) => reader.size("head_dim", MAX_WIDTH)?,
            (None, Some(head_dim)) => head_dim,
            (None, None) if hidden_size.is_multiple_of(num_attention_heads) => hidden_size / num_attention_heads,
            (None, None) => {
                return Err(Error::bad_file(
                    path,
                    format!("{num_attention_heads} attention heads do not divide {} {hidden_size}", fields.hidden_size),
                ));
            }
        };
        if head_dim > MAX_HEAD_DIM {
            return Err(reader.unsupported(
                "head_dim",
                &head_dim.into(),
                &format!("attention heads of more than {MAX_HEAD_DIM} are not implemented"),
            ));
        }
        if num_attention_heads * head_dim > MAX_WIDTH as usize {
            return Err(Error::bad_file(path, format!("{num_attention_heads} heads of {head_dim} are absurd")));
        }
        let positions = reader.name("max_position_embeddings", fields.max_position_embeddings);
        let max_position_embeddings = reader.size_or(positions, MAX_POSITIONS, defaults.max_position_embeddings)?;
        let name = reader.get(fields.activation.0).map_or(Some(fields.activation.1), Value::as_str).unwrap_or_default();
        let activation = activation(name).ok_or_else(|| {
            let known = "known: relu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, silu";
            reader.unsupported(fields.activation.0, &name.into(), known)
        })?;
        let eps = fields.norm_eps.0.and_then(|name| reader.get(name)).map_or(Some(fields.norm_eps.1), Value::as_f64);
        let norm_eps = eps
            .filter(|eps| (0.0..1e6).contains(eps))
            .ok_or_else(|| reader.wrong(fields.norm_eps.0.unwrap_or_default(), "a number from 0 to 1e6"))?;
        let intermediate_size = match fields.intermediate_factor {
            Some(factor) if reader.get(fields.intermediate_size).is_none() => factor * hidden_size,
            _ => reader.size_or(fields.intermediate_size, MAX_WIDTH * 4, defaults.intermediate_size)?,
        };
        let ropes = rope(&reader, architecture, head_dim, max_position_embeddings)?;
        let ropes: Vec<Rope> = ropes.into_iter().collect();
        let known = roped_layers(&reader, architecture, num_hidden_layers)?;
        let windows = windows(&reader, architecture, &known)?;
        let scales = attention_scales(&reader, architecture, head_dim, num_hidden_layers)?;
        let layer = |((known, window), attention_scale): ((bool, Option<usize>), f32)| LayerSpec {
            heads: num_attention_heads,
            kv_heads: num_key_value_heads,
            head_dim,
            intermediate_size,
            rope: (known && !ropes.is_empty()).then_some(0),
            window,
            attention_scale,
        };
        let layers = known.into_iter().zip(windows).zip(scales).map(layer).collect();
        let multipliers = &architecture.multipliers;
        let residual = reader.multiplier(multipliers.residual)?;
        let config = Self {
            architecture,
            hidden_size,
            layers,
            vocab_size: reader.size_or("vocab_size", MAX_VOCABULARY, defaults.vocab_size)?,
            max_position_embeddings,
            norm_eps: (norm_eps / (residual * residual)) as f32,
            head_norm_eps: norm_eps as f32,
            norm_affine: architecture.norm.affine.map_or(Ok(true), |name| reader.flag(name, true))?,
            qk_norm: match architecture.attention.qk_norm.and_then(|norm| norm.field) {
                Some(field) => reader.flag(field, false)?,
                None => architecture.attention.qk_norm.is_some(),
            },
            activation,
            parallel: match architecture.wiring {
                Wiring::Sequential => false,
                Wiring::Parallel => true,
                Wiring::Field(name, default) => reader.flag(name, default)?,
            },
            ropes,
            embedding_scale: (reader.multiplier(multipliers.embedding)? / residual) as f32,
            logit_scale: (1.0 / reader.multiplier(multipliers.logits)?) as f32,
            tie_word_embeddings: reader.flag("tie_word_embeddings", architecture.ends.tied_head)? && !sliced,
            bos_token_id: reader.ids("bos_token_id", defaults.bos_token_id)?.first().copied(),
            eos_token_ids: reader.ids("eos_token_id", defaults.eos_token_id)?,
            slicing: if sliced {
                Some(Slicing::from_fields(&raw, path, hidden_size, num_hidden_layers)?)
            } else {
                None
            },
            raw: Map::new(),
        };
        for weight in architecture.weights() {
            config.stored_bias(weight.bias, &raw, path)?;
        }
        Ok(Self { raw, ..config })
    }

    fn stored_bias(&self, bias: Bias, raw: &Map<String, Value>, path: &Path) -> Result<bool> {
        match bias {
            Bias::Never => Ok(false),
            Bias::Always => Ok(true),
            Bias::Field(name, default) => Reader { fields: raw, path }.flag(name, default),
        }
    }

    /// Whether the stored weight has a bias before fusing.
    pub fn has_bias(&self, bias: Bias) -> bool {
        self.stored_bias(bias, &self.raw, Path::new("config.json")).unwrap_or(false)
    }

    /// Whether the norms have a bias that fusing puts into the weights that read them.
    pub fn norm_has_bias(&self) -> bool {
        self.norm_affine && self.architecture.norm.kind == crate::ops::Norm::Layer
    }

    /// The steps of every layer, in order.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = Step> + Clone + use<> {
        let blocks = self.architecture.blocks;
        let size = if self.parallel { blocks.len() } else { 1 };
        let count = blocks.len() / size.max(1);
        (0..count).map(move |index| Step {
            index,
            last: index + 1 == count,
            blocks: &blocks[index * size..(index + 1) * size],
        })
    }

    /// Points of the residual stream after the embeddings: one after each step of each layer.
    pub fn points(&self) -> usize {
        self.layers.len() * self.steps().len()
    }

    /// How many tokens a sequence may have: positions that the model has learned, or those up to which dynamic rotary
    /// scaling scales nothing; `None` if it can take sequences of any length.
    pub fn position_limit(&self) -> Option<usize> {
        let limited = self.ropes.is_empty() || self.ropes.iter().any(|rope| rope.dynamic);
        limited.then_some(self.max_position_embeddings)
    }
}

fn refuse(reader: &Reader, architecture: &Architecture) -> Result<()> {
    for (name, neutral) in REFUSED.iter().filter(|(name, _)| !architecture.handles.contains(name)) {
        let neutral = |value: &Value| neutral.contains(&value.to_string().as_str());
        let off = |value: &Value| is_falsy(value) || not_a_number(value).is_some() || neutral(value);
        if let Some(value) = reader.get(name).filter(|value| !off(value)) {
            return Err(reader.unsupported(name, value, &reason(name, value)));
        }
    }
    for (name, wanted, reason) in architecture.required {
        if let Some(value) = reader.get(name).filter(|value| value.to_string().as_str() != *wanted) {
            return Err(reader.unsupported(name, value, reason));
        }
    }
    Ok(())
}

/// Why a field is refused, and what to do.
fn reason(name: &str, value: &Value) -> String {
    match name {
        "quantization_config" => {
            let method = value
                .get("quant_method")
                .and_then(Value::as_str)
                .map_or(String::new(), |method| format!(" ({method})"));
            format!(
                "the weights are quantised{method}; give the checkpoint that they were made of, or dequantize() them in transformers and save that"
            )
        }
        "configuration_files" => {
            "transformers reads the newest of these in its place; give that one the name config.json".into()
        }
        _ => "it changes what the model computes, and is not implemented".into(),
    }
}

fn activation(name: &str) -> Option<Activation> {
    Some(match name {
        "relu" => Activation::Relu,
        "gelu" | "gelu_python" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_python_tanh" | "gelu_accurate" => Activation::GeluTanh,
        "silu" | "swish" => Activation::Silu,
        _ => return None,
    })
}

/// The angles that the architecture takes from its config, if it has any.
fn rope(reader: &Reader, architecture: &Architecture, head_dim: usize, max_positions: usize) -> Result<Option<Rope>> {
    let Position::Rope { part, theta, .. } = architecture.attention.position else { return Ok(None) };
    if let RotaryPart::Count(name, default) = part {
        let dim = reader.size_or(name, MAX_WIDTH, default)?;
        let fits = (dim <= head_dim && dim.is_multiple_of(2)).then(|| Rope::plain(dim, theta));
        let expected = format!("an even number up to the head width of {head_dim}, or {default} by default");
        return fits.map(Some).ok_or_else(|| reader.wrong(name, &expected));
    }
    Rope::from_fields(reader.fields, reader.path, architecture, head_dim, max_positions).map(Some)
}

/// Whether each layer has rotary embeddings.
fn roped_layers(reader: &Reader, architecture: &Architecture, layers: usize) -> Result<Vec<bool>> {
    let Position::Rope { layers: RopeLayers::Listed { list, interval: (name, default) }, .. } =
        architecture.attention.position
    else {
        return Ok(vec![true; layers]);
    };
    let Some(value) = reader.get(list) else {
        let interval = reader.size_or(name, MAX_LAYERS, default)?;
        return Ok((1..=layers).map(|number| !number.is_multiple_of(interval)).collect());
    };
    let flags = value.as_array().filter(|flags| flags.len() >= layers).map(|flags| &flags[..layers]);
    let flag = |flag: &Value| match flag.as_u64().or(flag.as_bool().map(u64::from)) {
        Some(0) => Some(false),
        Some(1) => Some(true),
        _ => None,
    };
    let flags = flags.and_then(|flags| flags.iter().map(flag).collect::<Option<Vec<_>>>());
    flags.ok_or_else(|| reader.wrong(list, &format!("0 or 1 for each of {layers} layers")))
}

/// The sliding window of each layer; `roped` says which have rotary embeddings.
fn windows(reader: &Reader, architecture: &Architecture, roped: &[bool]) -> Result<Vec<Option<usize>>> {
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
                let reason = format!("layer_types: {} has no sliding attention", architecture.model_type);
                return Err(Error::bad_file(reader.path, reason));
            }
            _ => vec![false; layers],
        },
        // transformers gives these rows one mask for all layers, and fails on other lists.
        Window::All if types.as_ref().is_some_and(|types| types.contains(&false)) && window()?.is_some() => {
            let reason = format!("layer_types: every layer of {} has the sliding window", architecture.model_type);
            return Err(Error::bad_file(reader.path, reason));
        }
        Window::All => vec![true; layers],
        Window::FromLayer | Window::WithoutRope if !reader.flag("use_sliding_window", false)? => vec![false; layers],
        Window::WithoutRope => types.unwrap_or_else(|| roped.iter().map(|roped| !roped).collect()),
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

fn attention_scales(reader: &Reader, row: &Architecture, head_dim: usize, layers: usize) -> Result<Vec<f32>> {
    let base = if row.multipliers.attention.is_some() {
        reader.multiplier(row.multipliers.attention)?
    } else if reader.flag("scale_attn_weights", true)? {
        1.0 / (head_dim as f64).sqrt()
    } else {
        1.0
    };
    let by_layer = reader.flag("scale_attn_by_inverse_layer_idx", false)?;
    Ok((0..layers).map(|layer| (if by_layer { base / (layer + 1) as f64 } else { base }) as f32).collect())
}
