//! `tokenizer.json` as the vocabulary of a GGUF file. llama.cpp has tokenizers of its own: what it does not do as the file says is refused.

use std::{collections::HashMap, path::Path};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Metadata, Vocabulary,
    pieces::{Pieces, pre_tokenizer, steps},
};
use crate::{
    checkpoint::GgufValue,
    error::{Error, Result},
    model::{Config, Model},
};

/// A `tokenizer.json`, as far as it matters here.
#[derive(Deserialize)]
pub(super) struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub normalizer: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    pub model: ModelSection,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u64,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
pub(super) struct ModelSection {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    vocab: Value,
    #[serde(default)]
    merges: Vec<Merge>,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub ignore_merges: bool,
    #[serde(default)]
    unk_token: Option<String>,
}

/// Two pieces that become one, in the older or the newer way of writing.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

impl Merge {
    fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Self::Line(line) => line.split_once(' ').filter(|(_, right)| !right.contains(' ')),
            Self::Pair(left, right) => Some((left, right)),
        }
    }
}

/// What `tokenizer.ggml.token_type` calls tokens.
#[derive(Clone, Copy, PartialEq)]
enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// The metadata that makes the vocabulary.
///
/// # Errors
/// [`Error::BadFile`] for files that are damaged, or that llama.cpp would not follow, with the way out; [`Error::Read`].
pub fn vocabulary(model: &Model, wanted: Vocabulary, notes: &mut Vec<String>) -> Result<Metadata> {
    let path = model.directory().join("tokenizer.json");
    let none = || vec![("tokenizer.ggml.model".to_owned(), GgufValue::Text("no_vocab".into()))];
    let Vocabulary::Tokenizer { pre } = wanted else { return Ok(none()) };
    if !path.exists() {
        notes.push("there is no tokenizer.json beside the model: the file has no vocabulary, takes token ids and gives them".into());
        return Ok(none());
    }
    let text = std::fs::read(&path).map_err(Error::read(&path))?;
    let file: File = serde_json::from_slice(&text).map_err(|error| Error::bad_file(&path, error.to_string()))?;
    Reader { file, path: &path, config: model.config() }.metadata(pre, notes)
}

struct Reader<'a> {
    file: File,
    path: &'a Path,
    config: &'a Config,
}

impl Reader<'_> {
    fn bad(&self, reason: impl Into<String>) -> Error {
        Error::bad_file(self.path, reason)
    }

    /// What llama.cpp would do otherwise than the file says.
    fn refused(&self, what: &str) -> Error {
        self.bad(format!("{what}, which llama.cpp does not; --no-tokenizer leaves the vocabulary out, for token ids alone"))
    }

    fn metadata(&self, pre: Option<&str>, notes: &mut Vec<String>) -> Result<Metadata> {
        let model = &self.file.model;
        let kind = model.kind.as_deref().unwrap_or("BPE");
        if kind != "BPE" {
            return Err(self.refused(&format!("splits words by a {kind} model")));
        }
        let vocab = model.vocab.as_object().ok_or_else(|| self.bad("model.vocab: expected an object of tokens and ids"))?;
        let ids = self.ids(vocab)?;
        let pieces = Pieces::of(&self.file).map_err(|what| self.refused(&what))?;
        let (tokens, mut types) = self.tokens(&ids)?;
        let merges = model.merges.iter().map(|merge| merge.pair().ok_or_else(|| self.bad("model.merges: expected two pieces in each")));
        let merges = merges.collect::<Result<Vec<_>>>()?;
        let mut list: Metadata = Vec::new();
        let mut add = |key: &str, value| list.push((format!("tokenizer.ggml.{key}"), value));
        let text = |text: &str| GgufValue::Text(text.to_owned());
        match pieces {
            Pieces::Bytes { composed } => {
                if composed {
                    notes.push(
                        "the tokenizer composes characters first (NFC), which llama.cpp does not: texts that are not composed become other tokens"
                            .into(),
                    );
                }
                let found = pre_tokenizer(&self.file);
                let pre = pre.or(found).ok_or_else(|| {
                    self.bad(format!(
                        "cuts text into words in a way that has no known name in llama.cpp: {}; --tokenizer-pre NAME gives one, --no-tokenizer leaves the vocabulary out",
                        brief(&self.file.pre_tokenizer)
                    ))
                })?;
                add("model", text("gpt2"));
                add("pre", text(pre));
                let lines = merges.iter().map(|(left, right)| match [left, right].iter().any(|piece| piece.contains(' ')) {
                    true => Err(self.refused("merges pieces with a space in them")),
                    false => Ok(format!("{left} {right}")),
                });
                add("merges", GgufValue::Texts(lines.collect::<Result<_>>()?));
            }
            Pieces::Sentence { prefix } => {
                for byte in 0..=255u8 {
                    let id = ids.get(format!("<0x{byte:02X}>").as_str());
                    let id = *id.ok_or_else(|| self.refused(&format!("has no token for the byte {byte:#04x}")))?;
                    types[id as usize] = TokenType::Byte;
                }
                if let Some(&id) = model.unk_token.as_deref().and_then(|token| ids.get(token)) {
                    types[id as usize] = TokenType::Unknown;
                }
                let (scores, other) = scores(&merges, &ids, tokens.len());
                if other > 0 {
                    notes.push(format!(
                        "{other} pairs of pieces make a token without a merge that says so: llama.cpp merges them, and may cut some words otherwise"
                    ));
                }
                add("model", text("llama"));
                add("pre", text("default"));
                add("scores", GgufValue::F32s(scores));
                add("add_space_prefix", GgufValue::Bool(prefix));
            }
        }
        add("tokens", GgufValue::Texts(tokens));
        add("token_type", GgufValue::I32s(types.into_iter().map(|kind| kind as i32).collect()));
        self.special(&ids, notes, &mut add)?;
        if let Some(template) = self.chat_template()? {
            list.push(("tokenizer.chat_template".into(), GgufValue::Text(template)));
        }
        Ok(list)
    }

    /// The id of every token, added ones included.
    fn ids<'v>(&'v self, vocab: &'v Map<String, Value>) -> Result<HashMap<&'v str, u32>> {
        let mut ids = HashMap::new();
        let mut taken = vec![false; self.config.vocab_size];
        let listed = vocab.iter().map(|(token, id)| (token.as_str(), id.as_u64()));
        for (token, id) in listed.chain(self.file.added_tokens.iter().map(|token| (token.content.as_str(), Some(token.id)))) {
            let id = id.filter(|&id| id < taken.len() as u64).ok_or_else(|| {
                self.bad(format!("token {token:?} has no id below vocab_size {}; --no-tokenizer leaves the vocabulary out", taken.len()))
            })?;
            let before = ids.insert(token, id as u32);
            if before.is_none() && std::mem::replace(&mut taken[id as usize], true) || before.is_some_and(|before| before != id as u32) {
                return Err(self.bad(format!("token {token:?} and another share an id, or it has two")));
            }
        }
        Ok(ids)
    }

    /// Text and type of every id; the model may have more rows than there are tokens.
    fn tokens(&self, ids: &HashMap<&str, u32>) -> Result<(Vec<String>, Vec<TokenType>)> {
        let mut tokens: Vec<String> = (0..self.config.vocab_size).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![TokenType::Unused; tokens.len()];
        for (&token, &id) in ids {
            token.clone_into(&mut tokens[id as usize]);
            types[id as usize] = TokenType::Normal;
        }
        for token in &self.file.added_tokens {
            types[token.id as usize] = if token.special { TokenType::Control } else { TokenType::UserDefined };
        }
        Ok((tokens, types))
    }

    /// The tokens with a part to play, and which of them are put around every text.
    fn special(&self, ids: &HashMap<&str, u32>, notes: &mut Vec<String>, add: &mut impl FnMut(&str, GgufValue)) -> Result<()> {
        let settings = self.json("tokenizer_config.json")?;
        let named = |name: &str| {
            let token = settings.get(name).and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()))?;
            ids.get(token).copied()
        };
        let (before, after) = self.around(ids)?;
        let within = |id: &u32| (*id as usize) < self.config.vocab_size;
        let eos = after.or(named("eos_token")).or(self.config.eos_token_ids.first().copied().filter(within));
        // Without one that is named, llama.cpp would take some number.
        let bos = before.or(named("bos_token")).or(self.config.bos_token_id.filter(within)).or(eos);
        let unknown = self.file.model.unk_token.as_deref().and_then(|token| ids.get(token).copied()).or(named("unk_token"));
        for (key, id) in [("bos", bos), ("eos", eos), ("unknown", unknown), ("padding", named("pad_token"))] {
            if let Some(id) = id {
                add(&format!("{key}_token_id"), GgufValue::U32(id));
            }
        }
        if eos.is_none() {
            notes.push("neither tokenizer nor config name a token that ends texts".into());
        }
        add("add_bos_token", GgufValue::Bool(before.is_some()));
        add("add_eos_token", GgufValue::Bool(after.is_some()));
        Ok(())
    }

    /// The special tokens that the tokenizer puts before and after a text.
    fn around(&self, ids: &HashMap<&str, u32>) -> Result<(Option<u32>, Option<u32>)> {
        let mut around = (None, None);
        for step in steps(&self.file.post_processor, "processors") {
            let kind = step.get("type").and_then(Value::as_str).unwrap_or_default();
            match kind {
                "ByteLevel" => {}
                "TemplateProcessing" => {
                    let token = |part: &Value| part.get("SpecialToken")?.get("id")?.as_str().and_then(|token| ids.get(token).copied());
                    around = match step.get("single").and_then(Value::as_array).map(Vec::as_slice) {
                        Some([text]) if text.get("Sequence").is_some() => (None, None),
                        Some([first, text]) if text.get("Sequence").is_some() && token(first).is_some() => (token(first), None),
                        Some([text, last]) if text.get("Sequence").is_some() && token(last).is_some() => (None, token(last)),
                        Some([first, text, last]) if text.get("Sequence").is_some() && token(first).is_some() && token(last).is_some() => {
                            (token(first), token(last))
                        }
                        _ => return Err(self.refused("puts more around a text than one token before and one after it")),
                    };
                }
                other => return Err(self.refused(&format!("finishes texts by {other:?}"))),
            }
        }
        Ok(around)
    }

    /// A JSON object beside the tokenizer; empty if there is none.
    fn json(&self, name: &str) -> Result<Map<String, Value>> {
        let path = self.path.with_file_name(name);
        if !path.exists() {
            return Ok(Map::new());
        }
        let text = std::fs::read(&path).map_err(Error::read(&path))?;
        serde_json::from_slice(&text).map_err(|error| Error::bad_file(&path, error.to_string()))
    }

    /// How conversations are written, in a file of its own or among the tokenizer's settings.
    fn chat_template(&self) -> Result<Option<String>> {
        let path = self.path.with_file_name("chat_template.jinja");
        if path.is_file() {
            return std::fs::read_to_string(&path).map(Some).map_err(Error::read(&path));
        }
        let settings = self.json("tokenizer_config.json")?;
        Ok(match settings.get("chat_template") {
            Some(Value::String(template)) => Some(template.clone()),
            Some(Value::Array(templates)) => {
                let default = templates.iter().find(|template| template.get("name").is_some_and(|name| name == "default"));
                default.and_then(|template| template.get("template")?.as_str()).map(str::to_owned)
            }
            _ => None,
        })
    }
}

/// A score for each token, such that the best pair by score is the one with the earliest merge; and how many pairs llama.cpp would merge although
/// no merge says so.
fn scores(merges: &[(&str, &str)], ids: &HashMap<&str, u32>, tokens: usize) -> (Vec<f32>, usize) {
    let mut scores = vec![0.0; tokens];
    for (rank, (left, right)) in merges.iter().enumerate().rev() {
        if let Some(&id) = ids.get(format!("{left}{right}").as_str()) {
            scores[id as usize] = -(rank as f32);
        }
    }
    let known: std::collections::HashSet<_> = merges.iter().collect();
    let splits = |token: &&str| {
        let token: &str = token;
        let cuts = token.char_indices().skip(1).map(move |(at, _)| token.split_at(at));
        cuts.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right) && !known.contains(&(*left, *right))).count()
    };
    // No word is so long; special tokens may be.
    let other = ids.keys().filter(|token| token.len() <= 64).map(splits).sum();
    (scores, other)
}

/// A value for a message, not too long.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
