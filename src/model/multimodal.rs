//! The text part of models that also see or hear: its section of config.json, and what its tensors are called there.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A `model_type` with a `text_config`, and what it puts before the names of the text part.
#[derive(Debug)]
pub struct TextPart {
    pub model_type: &'static str,
    /// The `model_type` of its text part where that does not say.
    text: &'static str,
    /// Whether the head is the embedding where the file does not say.
    tied: bool,
    /// What stands in place of the first part of the decoder's names, `model.`; older files may have another.
    pub decoders: &'static [&'static str],
    /// Before the name of the head, likewise.
    pub heads: &'static [&'static str],
    /// Before the names of what is no part of the text model, with the decoder's first part or without.
    pub others: &'static [&'static str],
    /// Fields of the text part that count in a model of it alone, and of which the class of the whole computes nothing.
    unread: &'static [&'static str],
}

impl TextPart {
    /// Whether a tensor belongs to another part.
    pub fn is_other(&self, name: &str) -> bool {
        let bare = name.strip_prefix("model.").unwrap_or(name);
        self.others.iter().any(|start| bare.starts_with(start))
    }
}

/// Those whose text parts have a row.
const WRAPPERS: &[TextPart] = &[
    TextPart { model_type: "gemma3", text: "gemma3_text", tied: true, unread: &["final_logit_softcapping"], ..NAMES },
    TextPart { model_type: "mistral3", text: "mistral", tied: true, ..NAMES },
    // Of the layers for several tokens ahead, transformers reads nothing either.
    TextPart { model_type: "qwen3_5", text: "qwen3_5_text", tied: false, others: &["visual.", "mtp."], ..NAMES },
];

const NAMES: TextPart = TextPart {
    model_type: "",
    text: "",
    tied: false,
    decoders: &["model.language_model.", "language_model.model."],
    heads: &["language_model."],
    others: &["vision_tower.", "multi_modal_projector."],
    unread: &[],
};

/// The section of the text part, with what of it stands beside it, if the model is one of [`WRAPPERS`]; all fields of
/// any other.
///
/// # Errors
/// [`Error::BadFile`] if the section is missing.
pub(super) fn text_part(
    mut raw: Map<String, Value>,
    path: &Path,
) -> Result<(Map<String, Value>, Option<&'static TextPart>)> {
    let named = raw.get("model_type").and_then(Value::as_str);
    let Some(wrapper) = WRAPPERS.iter().find(|wrapper| Some(wrapper.model_type) == named) else {
        return Ok((raw, None));
    };
    let Some(Value::Object(mut text)) = raw.remove("text_config") else {
        return Err(Error::bad_file(path, format!("a {} without the section text_config", wrapper.model_type)));
    };
    text.retain(|name, _| !wrapper.unread.contains(&name.as_str()));
    text.entry("model_type").or_insert_with(|| wrapper.text.into());
    // What counts for the whole counts for its part; of ids, both say the same, or the part says nothing.
    let tied = raw.remove("tie_word_embeddings").filter(|value| !value.is_null());
    text.insert("tie_word_embeddings".into(), tied.unwrap_or(wrapper.tied.into()));
    if let Some(value) = raw.remove("quantization_config") {
        text.insert("quantization_config".into(), value);
    }
    for name in ["bos_token_id", "eos_token_id", "dtype", "torch_dtype", "transformers_version"] {
        if let Some(value) = raw.remove(name) {
            text.entry(name).or_insert(value);
        }
    }
    Ok((text, Some(wrapper)))
}
