//! `tokenizer.json`, as far as a GGUF file holds it.

use serde::Deserialize;
use serde_json::Value;

/// A `tokenizer.json`, as far as it matters here.
#[derive(Deserialize)]
pub struct File {
    #[serde(default)]
    pub added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub normalizer: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    #[serde(default)]
    pub post_processor: Value,
    pub model: ModelSection,
}

#[derive(Deserialize)]
pub struct AddedToken {
    pub id: u64,
    pub content: String,
    #[serde(default)]
    pub special: bool,
    /// Whether it takes the spaces after it.
    #[serde(default)]
    pub rstrip: bool,
}

#[derive(Deserialize)]
pub struct ModelSection {
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub vocab: Value,
    #[serde(default)]
    pub merges: Vec<Merge>,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub ignore_merges: bool,
    #[serde(default)]
    pub unk_token: Option<String>,
}

/// Two pieces that become one, in the older or the newer way of writing.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Merge {
    Line(String),
    Pair(String, String),
}

impl Merge {
    pub fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Self::Line(line) => line.split_once(' ').filter(|(_, right)| !right.contains(' ')),
            Self::Pair(left, right) => Some((left, right)),
        }
    }
}
