//! `config.json` → [`Config`]: Hugging Face's names in, one shape out, and no guesses.

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    architecture::{ARCHITECTURES, Architecture, Bias, Blocks, Position, REFUSED, Window},
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
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub intermediate_size: usize,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub norm_eps: f32,
    /// Whether the stored norms have parameters.
    pub norm_affine: bool,
    pub qk_norm: bool,
    pub activation: Activation,
    pub parallel: bool,
    pub rope: Option<Rope>,
    /// The sliding window of each layer.
    pub windows: Vec<Option<usize>>,
    /// What q·k is multiplied by, in each layer.
    pub attention_scales: Vec<f32>,
    pub tie_word_embeddings: bool,
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
    /// Present in a sliced model.
    pub slicing: Option<Slicing>,
    /// The file as it was.
    pub raw: Map<String, Value>,
}

/// Sizes beyond these are not models but mistakes or attacks.
const MAX_WIDTH: u64 = 1 << 20;
const MAX_LAYERS: u64 = 4096;
const MAX_VOCABULARY: u64 = 1 << 24;
const MAX_POSITIONS: u64 = 1 << 28;

/// The fields of one config, with the path for messages.
struct Reader<'a> {
    fields: &'a Map<String, Value>,
    path: &'a Path,
}

impl Reader<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, expected: &str) -> Error {
        let found = self.fields.get(name).map_or("nothing".to_owned(), brief);
        Error::bad_file(self.path, format!("{name}: expected {expected}, found {found}"))
    }

    fn unsupported(&self, field: &str, value: &Value, reason: &str) -> Error {
        Error::UnsupportedField { field: field.into(), value: brief(value), path: self.path.into(), reason: reason.into() }
    }

    fn size_or(&self, name: &str, most: u64, default: Option<usize>) -> Result<usize> {
        match (self.get(name), default) {
            (Some(value), _) => value
                .as_u64()
                .filter(|&number| (1..=most).contains(&number))
                .map(|number| number as usize)
                .ok_or_else(|| self.wrong(name, &format!("a whole number from 1 to {most}"))),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.wrong(name, "a whole number")),
        }
    }

    fn size(&self, name: &str, most: u64) -> Result<usize> {
        self.size_or(name, most, None)
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        self.get(name).map_or(Ok(default), |value| value.as_bool().ok_or_else(|| self.wrong(name, "true or false")))
    }

    fn ids(&self, name: &str) -> Result<Vec<u32>> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(id).collect::<Option<_>>().ok_or_else(|| self.wrong(name, "token ids")),
            Some(value) => Ok(vec![id(value).ok_or_else(|| self.wrong(name, "a token id"))?]),
        }
    }
}

/// A value for a message: whole if short.
pub(super) fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl Config {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::BadFile`] (not JSON, a field of the wrong kind or an absurd size), [`Error::UnknownArchitecture`],
    /// [`Error::UnsupportedField`].
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(Error::read(path))?;
        let raw: Map<String, Value> = serde_json::from_slice(&text).map_err(|error| Error::bad_file(path, error.to_string()))?;
        Self::from_fields(raw, path)
    }

    /// Checks the fields of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_fields(raw: Map<String, Value>, path: &Path) -> Result<Self> {
        let reader = Reader { fields: &raw, path };
        let model_type = reader.get("model_type").and_then(Value::as_str).ok_or_else(|| reader.wrong("model_type", "a string"))?;
        let (stem, sliced) = model_type.strip_prefix(SLICED_PREFIX).map_or((model_type, false), |stem| (stem, true));
        let architecture = ARCHITECTURES.iter().find(|row| row.model_type == stem).ok_or_else(|| Error::UnknownArchitecture {
            model_type: model_type.into(),
            path: path.into(),
            known: ARCHITECTURES.iter().map(|row| row.model_type).collect::<Vec<_>>().join(", "),
        })?;
        refuse(&reader, architecture)?;

        let fields = &architecture.fields;
        let hidden_size = reader.size(fields.hidden_size, MAX_WIDTH)?;
        let num_attention_heads = reader.size(fields.num_attention_heads, MAX_WIDTH)?;
        let num_hidden_layers = reader.size(fields.num_hidden_layers, MAX_LAYERS)?;
        let num_key_value_heads = match fields.num_key_value_heads {
            Some(name) => reader.size_or(name, MAX_WIDTH, fields.default_key_value_heads.or(Some(num_attention_heads)))?,
            None => num_attention_heads,
        };
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            return Err(Error::bad_file(path, format!("{num_attention_heads} attention heads cannot share {num_key_value_heads} key-value heads")));
        }
        let explicit = if architecture.explicit_head_dim { reader.get("head_dim") } else { None };
        let head_dim = match (explicit, architecture.head_dim) {
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
        let max_position_embeddings = reader.size(fields.max_position_embeddings, MAX_POSITIONS)?;
        let name = reader.get(fields.activation.0).map_or(Some(fields.activation.1), Value::as_str).unwrap_or_default();
        let activation = activation(name).ok_or_else(|| {
            reader.unsupported(fields.activation.0, &name.into(), "known: relu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, silu")
        })?;
        let eps = fields.norm_eps.0.and_then(|name| reader.get(name)).map_or(Some(fields.norm_eps.1), Value::as_f64);
        let norm_eps =
            eps.filter(|eps| (0.0..1.0).contains(eps)).ok_or_else(|| reader.wrong(fields.norm_eps.0.unwrap_or_default(), "a small number"))?;
        let rope = match architecture.position {
            Position::Rope { partial, .. } => Some(Rope::from_fields(&raw, path, head_dim, partial, max_position_embeddings)?),
            Position::Learned { .. } => None,
        };
        let config = Self {
            architecture,
            hidden_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            intermediate_size: reader.size_or(
                fields.intermediate_size,
                MAX_WIDTH * 4,
                fields.intermediate_factor.map(|factor| factor * hidden_size),
            )?,
            vocab_size: reader.size("vocab_size", MAX_VOCABULARY)?,
            max_position_embeddings,
            norm_eps: norm_eps as f32,
            norm_affine: architecture.norm_affine.map_or(Ok(true), |name| reader.flag(name, true))?,
            qk_norm: match architecture.qk_norm.and_then(|norm| norm.field) {
                Some(field) => reader.flag(field, false)?,
                None => architecture.qk_norm.is_some(),
            },
            activation,
            parallel: match architecture.blocks {
                Blocks::Sequential => false,
                Blocks::Parallel => true,
                Blocks::Field(name, default) => reader.flag(name, default)?,
            },
            rope,
            windows: windows(&reader, architecture, num_hidden_layers)?,
            attention_scales: attention_scales(&reader, head_dim, num_hidden_layers)?,
            tie_word_embeddings: reader.flag("tie_word_embeddings", architecture.tied_head)? && !sliced,
            bos_token_id: reader.ids("bos_token_id")?.first().copied(),
            eos_token_ids: reader.ids("eos_token_id")?,
            slicing: if sliced { Some(Slicing::from_fields(&raw, path, hidden_size, num_hidden_layers)?) } else { None },
            raw: Map::new(),
        };
        for weight in architecture.layer {
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
        self.norm_affine && self.architecture.norm == crate::ops::Norm::Layer
    }

    /// Columns of the queries, keys and values of a token side by side.
    pub fn qkv_width(&self) -> usize {
        (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
    }

    /// Where queries, keys and values lie in a row of the projections' output.
    pub fn attention_shape(&self, layer: usize) -> AttentionShape {
        let (h, heads, kv) = (self.head_dim, self.num_attention_heads, self.num_key_value_heads);
        let per_head = self.architecture.layer.iter().any(|weight| weight.role == super::architecture::Role::QkvPerHead);
        let span = |column, heads| HeadSpan { column, stride: if per_head { 3 * h } else { h }, heads };
        let (k, v) = if per_head { (h, 2 * h) } else { (heads * h, (heads + kv) * h) };
        AttentionShape {
            head_dim: h,
            q: span(0, heads),
            k: span(k, kv),
            v: span(v, kv),
            scale: self.attention_scales[layer],
            window: self.windows[layer],
        }
    }

    /// How many positions the model has learned; `None` if it can take sequences of any length.
    pub fn learned_positions(&self) -> Option<usize> {
        matches!(self.architecture.position, Position::Learned { .. }).then_some(self.max_position_embeddings)
    }
}

fn refuse(reader: &Reader, architecture: &Architecture) -> Result<()> {
    for (name, neutral) in REFUSED {
        if let Some(value) = reader.get(name).filter(|value| !neutral.contains(&value.to_string().as_str())) {
            return Err(reader.unsupported(name, value, "it changes what the model computes, and is not implemented"));
        }
    }
    for (name, wanted, reason) in architecture.required {
        if let Some(value) = reader.get(name).filter(|value| value.to_string().as_str() != *wanted) {
            return Err(reader.unsupported(name, value, reason));
        }
    }
    if let Some(width) = reader.get("word_embed_proj_dim").filter(|&width| Some(width) != reader.get(architecture.fields.hidden_size)) {
        return Err(reader.unsupported("word_embed_proj_dim", width, "a projection between the embedding and the first layer is not implemented"));
    }
    Ok(())
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

fn windows(reader: &Reader, architecture: &Architecture, layers: usize) -> Result<Vec<Option<usize>>> {
    let types = match reader.get("layer_types") {
        None => None,
        Some(value) => Some(layer_types(reader, value, layers)?),
    };
    let window = match reader.get("sliding_window") {
        Some(_) => Some(reader.size("sliding_window", MAX_POSITIONS)?),
        None if reader.fields.contains_key("sliding_window") => None,
        None => architecture.default_window,
    };
    let slides: Vec<bool> = match architecture.window {
        Window::None => match types {
            Some(types) if types.contains(&true) => {
                return Err(Error::bad_file(reader.path, format!("layer_types: {} has no sliding attention", architecture.model_type)));
            }
            _ => vec![false; layers],
        },
        Window::All => vec![true; layers],
        Window::Some if !reader.flag("use_sliding_window", false)? => vec![false; layers],
        Window::Some => match types {
            Some(types) => types,
            None => {
                let first =
                    reader.get("max_window_layers").map_or(Some(28), Value::as_u64).ok_or_else(|| reader.wrong("max_window_layers", "a number"))?;
                (0..layers).map(|layer| layer as u64 >= first).collect()
            }
        },
    };
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
}

fn layer_types(reader: &Reader, value: &Value, layers: usize) -> Result<Vec<bool>> {
    let names = value.as_array().filter(|names| names.len() == layers).ok_or_else(|| reader.wrong("layer_types", "a name for each layer"))?;
    names
        .iter()
        .map(|name| match name.as_str() {
            Some("full_attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => Err(reader.unsupported("layer_types", name, "known: full_attention, sliding_attention")),
        })
        .collect()
}

fn attention_scales(reader: &Reader, head_dim: usize, layers: usize) -> Result<Vec<f32>> {
    let base = if reader.flag("scale_attn_weights", true)? { 1.0 / (head_dim as f64).sqrt() } else { 1.0 };
    let by_layer = reader.flag("scale_attn_by_inverse_layer_idx", false)?;
    Ok((0..layers).map(|layer| (if by_layer { base / (layer + 1) as f64 } else { base }) as f32).collect())
}
