//! What kind of model a config is of that is in no row: only for messages.

use serde_json::{Map, Value};

/// What kind of model a config of an unknown `model_type` is of, where its classes say so; begins with a separator.
pub fn kind(raw: &Map<String, Value>) -> String {
    const KINDS: [(&str, &str); 12] = [
        ("ForSequenceClassification", "a classifier"),
        ("ForTokenClassification", "a classifier"),
        ("ForQuestionAnswering", "a classifier"),
        ("ForMaskedLM", "an encoder"),
        ("ForPreTraining", "an encoder"),
        ("ForConditionalGeneration", "an encoder-decoder or multimodal model"),
        ("ForSpeechSeq2Seq", "a speech model"),
        ("ForCTC", "a speech model"),
        ("ForImageClassification", "an image model"),
        ("ForObjectDetection", "an image model"),
        ("ForImageTextToText", "a multimodal model"),
        ("ForVision2Seq", "a multimodal model"),
    ];
    let class = raw.get("architectures").and_then(|names| names.get(0)?.as_str()).unwrap_or_default();
    let by_name = KINDS.iter().find(|(end, _)| class.ends_with(end)).map(|(_, kind)| *kind);
    let multimodal =
        ["vision_config", "audio_config"].iter().any(|name| raw.get(*name).is_some_and(serde_json::Value::is_object));
    let encoder_decoder = raw.get("is_encoder_decoder").and_then(serde_json::Value::as_bool) == Some(true);
    let kind = match () {
        () if multimodal => Some("a multimodal model"),
        () if encoder_decoder => Some("an encoder-decoder model"),
        () => by_name,
    };
    let shown = if class.is_empty() { "it" } else { class };
    kind.map_or(String::new(), |kind| format!("; {shown} is {kind}, and only decoders that write text can be sliced"))
}
