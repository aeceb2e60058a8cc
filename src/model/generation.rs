//! `generation_config.json`, and where generation begins and ends: the ids that config.json, this file and the
//! tokenizer name.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Config, Model, fields::brief};
use crate::{
    checkpoint::contents,
    error::{Error, Result},
    json::with_tagged_floats,
};

/// What a `generation_config.json` asks for; everything is optional.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    pub bos_token_ids: Vec<i64>,
    pub eos_token_ids: Vec<i64>,
    pub do_sample: Option<bool>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub max_new_tokens: Option<u64>,
    /// Fields that change what transformers generates and that nothing here applies, each with its value.
    pub not_applied: Vec<String>,
}

/// Fields that change nothing about the text of one greedy or sampled continuation.
const HARMLESS: &[&str] = &[
    "_from_model_config",
    "_commit_hash",
    "transformers_version",
    "trust_remote_code",
    "pad_token_id",
    "decoder_start_token_id",
    "use_cache",
    "cache_implementation",
    "cache_config",
    "max_cache_len",
    "return_legacy_cache",
    "return_dict_in_generate",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "output_logits",
    "num_return_sequences",
    "remove_invalid_values",
    "renormalize_logits",
    "low_memory",
    "is_assistant",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "assistant_early_exit",
    "assistant_lookbehind",
    "target_lookbehind",
    "speculation_type",
    "use_mtp",
    "compile_config",
    "disable_compile",
    "continuous_batching_config",
    "prefill_chunk_size",
];

/// Fields that concern several beams, or the encoder of a model that has one: without these, they change nothing.
const OF_BEAMS_OR_ENCODERS: &[&str] = &[
    "length_penalty",
    "early_stopping",
    "num_beam_groups",
    "diversity_penalty",
    "encoder_repetition_penalty",
    "encoder_no_repeat_ngram_size",
];

/// Fields that only change which tokens are drawn, not which is the likeliest.
const OF_SAMPLING: &[&str] = &["top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"];

/// Values by which these fields do nothing, besides null, false, and empty ones.
const NEUTRAL: &[(&str, f64)] = &[
    ("top_k", 0.0),
    ("min_p", 0.0),
    ("top_h", 0.0),
    ("typical_p", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("repetition_penalty", 1.0),
    ("no_repeat_ngram_size", 0.0),
    ("num_beams", 1.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("penalty_alpha", 0.0),
    ("guidance_scale", 1.0),
];

impl GenerationConfig {
    /// Reads the file; an absent one asks for nothing.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::BadFile`] for a file that is not a JSON object, or a field of the wrong kind.
    pub fn load(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = contents(path)?;
        let fields: Map<String, Value> = serde_json::from_slice(&with_tagged_floats(&text))
            .map_err(|error| Error::bad_file(path, error.to_string()))?;
        let get = |name: &str| fields.get(name).filter(|value| !value.is_null());
        let wrong = |name: &str, expected: &str| {
            let found = fields.get(name).map_or_else(String::new, brief);
            Error::bad_file(path, format!("{name}: expected {expected}, found {found}"))
        };
        let ids = |name: &str| match get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) => {
                ids.iter().map(Value::as_i64).collect::<Option<Vec<_>>>().ok_or_else(|| wrong(name, "token ids"))
            }
            Some(id) => Ok(vec![id.as_i64().ok_or_else(|| wrong(name, "a token id or a list of them"))?]),
        };
        let number = |name: &str, expected: &str, within: fn(f64) -> bool| {
            let number = |value: &Value| value.as_f64().filter(|&number| within(number));
            get(name).map(|value| number(value).ok_or_else(|| wrong(name, expected))).transpose()
        };
        let flag = |name: &str| get(name).map(|value| value.as_bool().ok_or_else(|| wrong(name, "true or false")));
        let count = |name: &str| get(name).map(|value| value.as_u64().ok_or_else(|| wrong(name, "a whole number")));
        let do_sample = flag("do_sample").transpose()?;
        Ok(Self {
            bos_token_ids: ids("bos_token_id")?,
            eos_token_ids: ids("eos_token_id")?,
            do_sample,
            temperature: number("temperature", "a number of at least 0", |t| t >= 0.0 && t.is_finite())?,
            top_p: number("top_p", "a number from 0 to 1", |p| (0.0..=1.0).contains(&p))?,
            max_new_tokens: count("max_new_tokens").transpose()?,
            not_applied: fields
                .iter()
                .filter(|(name, value)| changes(name, value) && !(do_sample == Some(false) && sampling(name)))
                .map(|(name, value)| format!("{name} {}", brief(value)))
                .collect(),
        })
    }
}

fn sampling(name: &str) -> bool {
    OF_SAMPLING.contains(&name)
}

/// Whether a field changes what transformers generates, and is not read above.
fn changes(name: &str, value: &Value) -> bool {
    const APPLIED: &[&str] = &["bos_token_id", "eos_token_id", "do_sample", "temperature", "top_p", "max_new_tokens"];
    let known = [APPLIED, HARMLESS, OF_BEAMS_OR_ENCODERS].iter().any(|list| list.contains(&name));
    let neutral = match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => NEUTRAL.iter().any(|(of, neutral)| *of == name && value.as_f64() == Some(*neutral)),
    };
    !known && !neutral
}

/// Where generation begins and ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopTokens {
    /// What the first token is where there is no text: the BOS token, or an EOS token in its place.
    pub start: Option<u32>,
    /// The BOS token, where one is named.
    pub bos: Option<u32>,
    /// Each ends a text, the one that counts most first.
    pub eos: Vec<u32>,
    /// Named ids that the model has no row for.
    pub notes: Vec<String>,
}

impl StopTokens {
    /// Collects what is named, as transformers does: generation_config.json before config.json, then the tokenizer.
    /// Any EOS token ends a text, whoever names it.
    pub fn new(config: &Config, generation: &GenerationConfig, bos: Option<u32>, eos: Option<u32>) -> Self {
        let mut stops = Self::default();
        let by_config = |ids: &[u32]| ids.iter().copied().map(i64::from).collect::<Vec<_>>();
        // Those that the config's class would fill in are no stop tokens in transformers either.
        let written = |name: &str, ids: &[u32]| if config.raw.contains_key(name) { by_config(ids) } else { Vec::new() };
        let configured = written("bos_token_id", config.bos_token_id.as_slice());
        let bos = by_config(bos.as_slice());
        let eos = by_config(eos.as_slice());
        let files = ["generation_config.json", "config.json", "the tokenizer"];
        for (file, ids) in files.iter().zip([&generation.bos_token_ids, &configured, &bos]) {
            let within = stops.within(config, file, "BOS", ids);
            stops.bos = stops.bos.or(within.first().copied());
        }
        for (file, ids) in
            files.iter().zip([&generation.eos_token_ids, &written("eos_token_id", &config.eos_token_ids), &eos])
        {
            for id in stops.within(config, file, "EOS", ids) {
                if !stops.eos.contains(&id) {
                    stops.eos.push(id);
                }
            }
        }
        stops.start = stops.bos.or(stops.eos.first().copied());
        stops
    }

    /// The ids that the model has; the others get a note.
    fn within(&mut self, config: &Config, file: &str, role: &str, ids: &[i64]) -> Vec<u32> {
        let has = |id: i64| u32::try_from(id).ok().filter(|&id| (id as usize) < config.vocab_size);
        for id in ids.iter().filter(|&&id| has(id).is_none()) {
            let size = config.vocab_size;
            self.notes.push(format!("{file} names {id} as {role} token, outside of the vocabulary of {size}: ignored"));
        }
        ids.iter().filter_map(|&id| has(id)).collect()
    }
}

impl Model {
    /// Reads what generation_config.json beside the model asks for.
    ///
    /// # Errors
    /// As [`GenerationConfig::load`].
    pub fn generation_config(&self) -> Result<GenerationConfig> {
        GenerationConfig::load(&self.directory().join("generation_config.json"))
    }
}
