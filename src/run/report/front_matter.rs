//! The beginning of the model card, which the Hugging Face Hub reads: YAML between two lines of dashes.

use std::fmt::{Display, Write};

use super::{
    super::{
        method::Section,
        origin::Origin,
        outcome::{PerplexityReport, held_out_end, held_out_of},
    },
    Report,
};

impl<R: Section> Report<R> {
    /// Where the model comes from, its terms, and what was measured.
    pub(super) fn front_matter(&self, original: &Origin) -> String {
        let mut text = String::from("---\n");
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "{name}: {}", quoted(value));
        };
        line("base_model", &original.repository);
        for (name, value) in [
            ("license", &original.license),
            ("license_name", &original.license_name),
            ("license_link", &original.license_link),
        ] {
            if let Some(value) = value {
                line(name, value);
            }
        }
        line("library_name", "transformers");
        line("pipeline_tag", "text-generation");
        let tags = [self.model_type.clone(), "slicegpt-gpu".to_owned(), self.method.tag().to_owned()];
        for (name, values) in [("language", &original.languages[..]), ("tags", &tags)] {
            if !values.is_empty() {
                let _ = writeln!(text, "{name}:");
            }
            for value in values {
                let _ = writeln!(text, "- {}", quoted(value));
            }
        }
        let results: String = self.measured().map(result).collect();
        if !results.is_empty() {
            let name = quoted(format!("{}-{}", original.name, self.method.tag()));
            let _ = write!(text, "model-index:\n- name: {name}\n  results:\n{results}");
        }
        text.push_str("---\n\n");
        text
    }
}

/// What was measured on one text.
fn result(found: &PerplexityReport) -> String {
    let mut result = format!(
        "  - task:\n      type: text-generation\n    dataset:\n      name: {}\n      type: text\n    metrics:\n",
        quoted(shared_name(&found.text))
    );
    let mut metric = |kind: &str, name: &str, value: f64| {
        let _ = writeln!(result, "    - type: {kind}\n      name: {name}\n      value: {value:?}");
    };
    metric("perplexity", "Perplexity", found.sliced);
    if let Some(agreement) = &found.agreement {
        metric("kl-divergence", "KL divergence from the original, in nats", agreement.kl);
        metric("top-1-agreement", "Share of tokens with the original's top prediction", agreement.top_1);
    }
    result
}

/// What a text is called in a card, which others read: without the directories of the machine that it was on.
pub(super) fn shared_name(text: &str) -> String {
    let name = |path: &str| path.rsplit(['/', '\\']).next().unwrap_or(path).to_owned();
    match held_out_of(text) {
        Some(path) => held_out_end(&name(path)),
        None => name(text),
    }
}

/// Text as YAML and JSON both read it: in quotes, so that `no` is a language and `1.0` a name.
fn quoted(text: impl Display) -> String {
    serde_json::Value::from(text.to_string()).to_string()
}
