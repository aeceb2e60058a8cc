//! `config.json` → [`Config`]: Hugging Face's names in, one shape out, and no guesses.

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    architecture::{ARCHITECTURES, Architecture, Bias, Blocks, Position, REFUSED, Window},
    fields::{self, brief, is_falsy, not_a_number},
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

    fn size_or(&self, name: &str, most: u64, default: usize) -> Result<usize> {
        if !self.fields.contains_key(name) {
            return Ok(default);
        }
        self.size(name, most)
    }

    fn size(&self, name: &str, most: u64) -> Result<usize> {
        let number = self.get(name).and_then(Value::as_u64).filter(|number| (1..=most).contains(number));
        number.map(|number| number as usize).ok_or_else(|| self.wrong(name, &format!("a whole number from 1 to {most}")))
    }

    /// The name of a size in this file: `general`, if it is there, counts more than that of the row, as transformers maps one to the other.
    fn name<'a>(&self, general: &'a str, own: &'a str) -> &'a str {
        if self.fields.contains_key(general) { general } else { own }
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        self.get(name).map_or(Ok(default), |value| value.as_bool().ok_or_else(|| self.wrong(name, "true or false")))
    }

    /// Token ids; those that no vocabulary has, such as -1, mean that there is none.
    fn ids(&self, name: &str, default: Option<u32>) -> Result<Vec<u32>> {
        if !self.fields.contains_key(name) {
            return Ok(default.into_iter().collect());
        }
        let id = |value: &Value| match value.as_i64() {
            Some(id) if id < 0 => Ok(None),
            Some(id) if u32::try_from(id).is_ok() => Ok(Some(id as u32)),
            _ => Err(self.wrong(name, "a token id, or a list of them")),
        };
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().filter_map(|value| id(value).transpose()).collect(),
            Some(value) => Ok(id(value)?.into_iter().collect()),
        }
    }
}

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
        let model_type = reader.get("model_type").and_then(Value::as_str).ok_or_else(|| reader.wrong("model_type", "a string"))?;
        let (stem, sliced) = model_type.strip_prefix(SLICED_PREFIX).map_or((model_type, false), |stem| (stem, true));
        let architecture = ARCHITECTURES.iter().find(|row| row.model_type == stem).ok_or_else(|| Error::UnknownArchitecture {
            model_type: model_type.into(),
            path: path.into(),
            known: format!("{}{}", ARCHITECTURES.iter().map(|row| row.model_type).collect::<Vec<_>>().join(", "), missing::kind(&raw)),
        })?;
        refuse(&reader, architecture)?;

        let (fields, defaults) = (&architecture.fields, &architecture.defaults);
        let hidden_size = reader.size_or(reader.name("hidden_size", fields.hidden_size), MAX_WIDTH, defaults.hidden_size)?;
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
            Some(name) => reader.size_or(name, MAX_WIDTH, fields.default_key_value_heads.unwrap_or(num_attention_heads))?,
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
        let positions = reader.name("max_position_embeddings", fields.max_position_embeddings);
        let max_position_embeddings = reader.size_or(positions, MAX_POSITIONS, defaults.max_position_embeddings)?;
        let name = reader.get(fields.activation.0).map_or(Some(fields.activation.1), Value::as_str).unwrap_or_default();
        let activation = activation(name).ok_or_else(|| {
            reader.unsupported(fields.activation.0, &name.into(), "known: relu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, silu")
        })?;
        let eps = fields.norm_eps.0.and_then(|name| reader.get(name)).map_or(Some(fields.norm_eps.1), Value::as_f64);
        let norm_eps =
            eps.filter(|eps| (0.0..1.0).contains(eps)).ok_or_else(|| reader.wrong(fields.norm_eps.0.unwrap_or_default(), "a small number"))?;
        let rope = match architecture.position {
            Position::Rope { .. } => Some(Rope::from_fields(&raw, path, architecture, head_dim, max_position_embeddings)?),
            Position::Learned { .. } => None,
        };
        let config = Self {
            architecture,
            hidden_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            intermediate_size: match fields.intermediate_factor {
                Some(factor) if reader.get(fields.intermediate_size).is_none() => factor * hidden_size,
                _ => reader.size_or(fields.intermediate_size, MAX_WIDTH * 4, defaults.intermediate_size)?,
            },
            vocab_size: reader.size_or("vocab_size", MAX_VOCABULARY, defaults.vocab_size)?,
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
            bos_token_id: reader.ids("bos_token_id", defaults.bos_token_id)?.first().copied(),
            eos_token_ids: reader.ids("eos_token_id", defaults.eos_token_id)?,
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

    /// How many tokens a sequence may have: positions that the model has learned, or those up to which dynamic rotary scaling scales nothing;
    /// `None` if it can take sequences of any length.
    pub fn position_limit(&self) -> Option<usize> {
        let limited = self.rope.as_ref().is_none_or(|rope| rope.dynamic);
        limited.then_some(self.max_position_embeddings)
    }

    /// Where sampling starts: the BOS token, or what the model uses in its place.
    pub fn start_token(&self) -> Option<u32> {
        self.bos_token_id.or(self.eos_token_ids.first().copied()).filter(|&id| (id as usize) < self.vocab_size)
    }
}

fn refuse(reader: &Reader, architecture: &Architecture) -> Result<()> {
    for (name, neutral) in REFUSED {
        let off = |value: &Value| is_falsy(value) || not_a_number(value).is_some() || neutral.contains(&value.to_string().as_str());
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
            let method = value.get("quant_method").and_then(Value::as_str).map_or(String::new(), |method| format!(" ({method})"));
            format!(
                "the weights are quantised{method}; give the checkpoint that they were made of, or dequantize() them in transformers and save that"
            )
        }
        "configuration_files" => "transformers reads the newest of these in its place; give that one the name config.json".into(),
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

fn windows(reader: &Reader, architecture: &Architecture, layers: usize) -> Result<Vec<Option<usize>>> {
    let types = match reader.get("layer_types") {
        None => None,
        Some(value) => Some(layer_types(reader, value, layers)?),
    };
    // Read where it counts: elsewhere it may be whatever switches it off.
    let window = || match reader.get("sliding_window") {
        Some(_) => reader.size("sliding_window", MAX_POSITIONS).map(Some),
        None if reader.fields.contains_key("sliding_window") => Ok(None),
        None => Ok(architecture.default_window),
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
    if !slides.contains(&true) {
        return Ok(vec![None; layers]);
    }
    let window = window()?;
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
}

fn layer_types(reader: &Reader, value: &Value, layers: usize) -> Result<Vec<bool>> {
    let names = value.as_array().filter(|names| names.len() == layers).ok_or_else(|| reader.wrong("layer_types", "a name for each layer"))?;
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

fn attention_scales(reader: &Reader, head_dim: usize, layers: usize) -> Result<Vec<f32>> {
    let base = if reader.flag("scale_attn_weights", true)? { 1.0 / (head_dim as f64).sqrt() } else { 1.0 };
    let by_layer = reader.flag("scale_attn_by_inverse_layer_idx", false)?;
    Ok((0..layers).map(|layer| (if by_layer { base / (layer + 1) as f64 } else { base }) as f32).collect())
}
