//! `config.json` → [`Config`]: Hugging Face's names in, one shape out, and no guesses.

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    architecture::{
        ARCHITECTURES, Affine, Architecture, Bias, Block, Position, REFUSED, REFUSED_TOGETHER, Weight, Window, Wiring,
    },
    fields::{self, MAX_VOCABULARY, MAX_WIDTH, Reader},
    kind::kind,
    layer_spec::{LayerSpec, Step},
    multimodal::{self, TextPart},
    pruning::Pruning,
    read_layers::layers,
    read_sizes::Sizes,
    rope::Rope,
    slicing::Slicing,
};
use crate::{
    error::{Error, Result, shortened},
    json::{is_falsy, not_a_number},
    ops::Activation,
};

/// Before the `model_type` of a sliced checkpoint.
pub const SLICED_PREFIX: &str = "sliced_";
/// Before the `model_type` of a checkpoint whose layers differ in size.
pub const PRUNED_PREFIX: &str = "pruned_";

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
    /// The c in c·tanh(logit / c), where logits go through that.
    pub logit_softcap: Option<f32>,
    pub tie_word_embeddings: bool,
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
    /// Present in a sliced model.
    pub slicing: Option<Slicing>,
    /// Whether the sizes of the layers are those of a `pruning` section.
    pub pruned: bool,
    /// What wraps this model, if it is the text part of a larger one.
    pub part_of: Option<&'static TextPart>,
    /// How the weights of the file that was read are quantised, where they are. What is made of it is not, unless it
    /// says so again.
    pub quantization: Option<Value>,
    /// The file as it was, but for that; of a text part, its own section.
    pub raw: Map<String, Value>,
}

/// The section of config.json on how weights are quantised.
const QUANTIZATION: &str = "quantization_config";

impl Config {
    /// This config, saying again how weights are quantised.
    #[must_use]
    pub fn quantized(mut self, section: &Value) -> Self {
        self.raw.insert(QUANTIZATION.into(), section.clone());
        self
    }

    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::BadFile`] (not JSON, a field of the wrong kind or an absurd size),
    /// [`Error::UnknownArchitecture`], [`Error::UnsupportedField`].
    pub fn load(path: &Path) -> Result<Self> {
        Self::from_fields(fields::read(path)?, path)
    }

    /// Checks the fields of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_fields(raw: Map<String, Value>, path: &Path) -> Result<Self> {
        let mut raw = raw;
        // Where weights lie is no part of what a model is, and another model of this config has none there.
        if let Some(named) =
            raw.shift_remove("transformers_weights").filter(|named| !named.is_null() && !named.is_string())
        {
            let found = fields::brief(&named);
            return Err(Error::bad_file(
                path,
                format!("transformers_weights: expected the name of a file, found {found}"),
            ));
        }
        let (mut raw, part_of) = multimodal::text_part(raw, path)?;
        rename_former(&mut raw);
        let reader = Reader { fields: &raw, path };
        let model_type =
            reader.get("model_type").and_then(Value::as_str).ok_or_else(|| reader.wrong("model_type", "a string"))?;
        let (stem, sliced) = model_type.strip_prefix(SLICED_PREFIX).map_or((model_type, false), |stem| (stem, true));
        let (stem, pruned) = stem.strip_prefix(PRUNED_PREFIX).map_or((stem, false), |stem| (stem, true));
        let architecture = row(&reader, stem, model_type)?;
        refuse(&reader, architecture)?;

        let sizes = Sizes::read(&reader, architecture)?;
        let (Sizes { hidden_size, .. }, defaults) = (sizes, &architecture.defaults);
        let activation = activation(&reader, architecture)?;
        let norm_eps = norm_eps(&reader, architecture)?;
        let intermediate_size = intermediate_size(&reader, architecture, hidden_size)?;
        let (mut layers, ropes) = layers(&reader, architecture, &sizes, intermediate_size)?;
        if pruned {
            Pruning::apply(&raw, path, &mut layers)?;
        }
        let multipliers = &architecture.multipliers;
        let residual = reader.multiplier(multipliers.residual, |factor| factor > 0.0)?;
        let sqrt_width = if multipliers.sqrt_width { (hidden_size as f64).sqrt() } else { 1.0 };
        let logit_scale = match multipliers.logit_scale {
            Some((name, default)) if reader.get(name).is_none() => default,
            Some((name, _)) => reader.multiplier(Some(name), |factor| factor != 0.0)?,
            None => 1.0,
        };
        let config = Self {
            architecture,
            hidden_size,
            layers,
            vocab_size: reader.size_or("vocab_size", MAX_VOCABULARY, defaults.vocab_size)?,
            max_position_embeddings: sizes.positions,
            norm_eps: (norm_eps / (residual * residual)) as f32,
            head_norm_eps: norm_eps as f32,
            norm_affine: match architecture.norm.affine {
                Affine::Always => true,
                Affine::Never => false,
                Affine::Field(name) => reader.flag(name, true)?,
            },
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
            embedding_scale: (reader.multiplier(multipliers.embedding, |_| true)? * sqrt_width / residual) as f32,
            logit_scale: (logit_scale / reader.multiplier(multipliers.logits, |factor| factor != 0.0)?) as f32,
            logit_softcap: reader.optional(multipliers.logit_softcap)?,
            tie_word_embeddings: reader.flag("tie_word_embeddings", architecture.ends.tied_head)? && !sliced,
            bos_token_id: reader.ids("bos_token_id", defaults.bos_token_id)?.first().copied(),
            eos_token_ids: reader.ids("eos_token_id", defaults.eos_token_id)?,
            slicing: if sliced { Some(Slicing::from_fields(&raw, path, hidden_size, sizes.layers)?) } else { None },
            pruned,
            part_of,
            quantization: None,
            raw: Map::new(),
        };
        for weight in (0..config.layers.len()).flat_map(|layer| config.weights(layer)) {
            config.stored_bias(weight.bias, &raw, path)?;
        }
        // Tensors are dequantised as they are read, and mostly written so.
        let handled = architecture.handles.contains(&QUANTIZATION);
        let quantization = if handled { raw.remove(QUANTIZATION) } else { None };
        Ok(Self { raw, quantization, ..config })
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
        let norm = &self.architecture.norm;
        self.norm_affine && norm.bias && norm.kind == crate::ops::Norm::Layer
    }

    /// Whether the windows of the layers are those that transformers' class of this `model_type` gives them; where the
    /// list in config.json says otherwise, transformers takes another class.
    pub(crate) fn has_windows_of_class(&self) -> bool {
        let listed =
            self.architecture.attention.window == Window::ListedForAnother && self.raw.contains_key("layer_types");
        !listed || self.layers.iter().all(|layer| layer.window.is_some())
    }

    /// The blocks of a layer.
    pub fn blocks(&self, layer: usize) -> &'static [Block] {
        let (row, spec) = (self.architecture, &self.layers[layer]);
        match (&row.mixture, &row.delta_net) {
            (Some(mixture), _) if spec.experts.is_some() => mixture.blocks,
            (_, Some(delta)) if spec.delta.is_some() => delta.blocks,
            _ => row.blocks,
        }
    }

    /// The norms of a layer that the residual, or what is added to it, goes through, each once.
    pub fn norms(&self, layer: usize) -> Vec<&'static str> {
        let all = self.blocks(layer).iter().flat_map(|block| [block.norm, block.norm_after]).flatten();
        let mut norms = Vec::new();
        all.for_each(|norm| {
            if !norms.contains(&norm) {
                norms.push(norm);
            }
        });
        norms
    }

    /// The stored weights of a layer, block by block, but those of experts.
    pub fn weights(&self, layer: usize) -> impl Iterator<Item = &'static Weight> + use<> {
        self.blocks(layer).iter().flat_map(|block| block.weights)
    }

    /// The steps of a layer of the row's own blocks, in order: as many as other layers have.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = Step> + Clone + use<> {
        self.steps_of(self.architecture.blocks)
    }

    /// The steps of a layer.
    pub fn layer_steps(&self, layer: usize) -> impl ExactSizeIterator<Item = Step> + Clone + use<> {
        self.steps_of(self.blocks(layer))
    }

    fn steps_of(&self, blocks: &'static [Block]) -> impl ExactSizeIterator<Item = Step> + Clone + use<> {
        let size = if self.parallel { blocks.len() } else { 1 };
        let count = blocks.len() / size.max(1);
        (0..count).map(move |index| Step {
            index,
            last: index + 1 == count,
            blocks: &blocks[index * size..(index + 1) * size],
        })
    }

    /// The most regressors that what a block writes is fitted with: MLP channels, or those of all query heads.
    pub fn widest_write(&self) -> usize {
        self.layers.iter().map(|spec| spec.intermediate_size.max(spec.heads_width())).max().unwrap_or(0)
    }

    /// Points of the residual stream after the embeddings: one after each step of each layer.
    pub fn points(&self) -> usize {
        self.layers.len() * self.steps().len()
    }

    /// How many tokens a sequence may have: positions that the model has learned, or those up to which dynamic rotary
    /// scaling scales nothing; `None` if it can take sequences of any length.
    pub fn position_limit(&self) -> Option<usize> {
        let learned = matches!(self.architecture.attention.position, Position::Learned { .. });
        let limited = learned || self.ropes.iter().any(|rope| rope.dynamic);
        limited.then_some(self.max_position_embeddings)
    }
}

/// Puts the width under the name that the row has for it.
fn rename_former(raw: &mut Map<String, Value>) {
    let Some(stem) = raw.get("model_type").and_then(Value::as_str) else { return };
    let stem = stem.strip_prefix(SLICED_PREFIX).unwrap_or(stem);
    let stem = stem.strip_prefix(PRUNED_PREFIX).unwrap_or(stem);
    let Some(row) = ARCHITECTURES.iter().find(|row| row.model_type == stem) else { return };
    let width = row.fields.former_hidden_size.and_then(|name| raw.shift_remove(name));
    if let Some(width) = width.filter(|width| !width.is_null()) {
        raw.insert(row.fields.hidden_size.into(), width);
    }
}

/// The row of a `model_type` without what comes before it in `written`.
fn row(reader: &Reader, stem: &str, written: &str) -> Result<&'static Architecture> {
    let mut rows = ARCHITECTURES.iter().filter(|row| row.model_type == stem).peekable();
    let Some(first) = rows.peek().copied() else {
        let mut known: Vec<&str> = ARCHITECTURES.iter().map(|row| row.model_type).collect();
        known.dedup();
        let kind = kind(reader.fields);
        return Err(Error::UnknownArchitecture {
            model_type: shortened(written),
            path: reader.path.into(),
            known: format!("{}{kind}", known.join(", ")),
        });
    };
    let has = |(name, wanted, default): &(&str, &str, &str)| {
        // A flag that is null is off.
        let off = *default == "true" && reader.fields.get(*name).is_some_and(Value::is_null);
        reader.get(name).map_or(if off { "false" } else { *default }.to_owned(), Value::to_string) == *wanted
    };
    rows.find(|row| row.when.iter().all(has)).ok_or_else(|| {
        let (name, ..) = first.when.iter().find(|field| !has(field)).copied().unwrap_or_default();
        let value = reader.get(name).cloned().unwrap_or_default();
        reader.unsupported(name, &value, "transformers has no such model")
    })
}

fn refuse(reader: &Reader, architecture: &Architecture) -> Result<()> {
    for (name, neutral) in REFUSED.iter().filter(|(name, _)| !architecture.handles.contains(name)) {
        let neutral = |value: &Value| neutral.contains(&value.to_string().as_str());
        let off = |value: &Value| is_falsy(value) || not_a_number(value).is_some() || neutral(value);
        if let Some(value) = reader.get(name).filter(|value| !off(value)) {
            return Err(reader.unsupported(name, value, &reason(name, value)));
        }
    }
    for (name, (other, neutral), reason) in REFUSED_TOGETHER {
        let together = reader.get(other).is_some_and(|value| value.to_string().as_str() != *neutral);
        if let Some(value) = reader.get(name).filter(|value| together && !is_falsy(value)) {
            return Err(reader.unsupported(name, value, reason));
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
        QUANTIZATION => {
            let method = value
                .get("quant_method")
                .and_then(Value::as_str)
                .map_or(String::new(), |method| format!(" ({method})"));
            format!(
                "the weights are quantised{method}; give the checkpoint that they were made of, or dequantize() them \
                 in transformers and save that"
            )
        }
        "configuration_files" => {
            "transformers reads the newest of these in its place; give that one the name config.json".into()
        }
        _ => "it changes what the model computes, and is not implemented".into(),
    }
}

/// The function of the MLPs.
fn activation(reader: &Reader, architecture: &Architecture) -> Result<Activation> {
    let fields = &architecture.fields;
    let (field, default) = fields.activation;
    let name = reader.get(field).map_or(Some(default), Value::as_str);
    let name = name.ok_or_else(|| reader.wrong(field, "the name of a function"))?;
    let name = fields.activation_meant.filter(|(of, _)| *of == name).map_or(name, |(_, meant)| meant);
    Ok(match name {
        "relu" => Activation::Relu,
        "gelu" | "gelu_python" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_python_tanh" | "gelu_accurate" => Activation::GeluTanh,
        "silu" | "swish" => Activation::Silu,
        _ => {
            let known = "known: relu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, silu";
            return Err(reader.unsupported(field, &name.into(), known));
        }
    })
}

/// What norms add to the mean of squares.
fn norm_eps(reader: &Reader, architecture: &Architecture) -> Result<f64> {
    let (field, default) = architecture.fields.norm_eps;
    let eps = field.and_then(|name| reader.get(name)).map_or(Some(default), Value::as_f64);
    eps.filter(|eps| (0.0..1e6).contains(eps))
        .ok_or_else(|| reader.wrong(field.unwrap_or_default(), "a number from 0 to 1e6"))
}

/// Channels of an MLP.
fn intermediate_size(reader: &Reader, architecture: &Architecture, hidden_size: usize) -> Result<usize> {
    let fields = &architecture.fields;
    match fields.intermediate_factor {
        Some(factor) if reader.get(fields.intermediate_size).is_none() => Ok(factor * hidden_size),
        // MLPs are usually a few times as wide as the residual stream.
        _ => reader.size_or(fields.intermediate_size, MAX_WIDTH * 4, architecture.defaults.intermediate_size),
    }
}
