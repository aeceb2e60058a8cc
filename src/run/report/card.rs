//! The model card, README.md of the output.

use std::fmt::Write;

use super::{
    super::{method::Section, origin::Origin},
    Report,
    front_matter::shared_name,
};

impl<R: Section> Report<R> {
    /// The model card of what was made of `original`.
    pub fn model_card(&self, original: &Origin) -> String {
        let mut text = self.front_matter(original);
        text.push_str(&self.method.introduction(&original.name, self.tool_version));
        text.push_str("| | before | after | change |\n|---|---|---|---|\n");
        for row in self.rows() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        for perplexity in self.measured() {
            let _ = write!(
                text,
                "\nPerplexity was measured on {} ({} sequences, {} tokens).",
                shared_name(&perplexity.text),
                perplexity.sequences,
                perplexity.tokens
            );
        }
        if let Some(calibration) = &self.calibration {
            let answers =
                calibration.answer_tokens.map(|count| format!(", {count} of answers, which alone were learned"));
            let source = shared_name(&calibration.source);
            let of = match calibration.own_sequences {
                0 if source == "self" => " that the model wrote itself".into(),
                0 => format!(" of {source}"),
                own => format!(", {} of {source} and {own} that the model wrote itself", calibration.sequences - own),
            };
            let _ = write!(
                text,
                "\nCalibrated on {} sequences ({} tokens{}){of}; sha256 of the token ids {}.",
                calibration.sequences,
                calibration.tokens,
                answers.unwrap_or_default(),
                calibration.sha256
            );
        }
        text.push_str(&self.method.card_findings());
        text.push_str("\nThe original's own card is not copied: it says what that was trained on, and for which use.");
        text.push_str(self.method.loading());
        text.push_str("\n```\nslicegpt-gpu generate . --prompt \"Once\"\nslicegpt-gpu verify .\n```\n");
        text
    }
}
