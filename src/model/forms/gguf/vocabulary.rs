//! `tokenizer.json` as the vocabulary of a GGUF file. llama.cpp has tokenizers of its own: what it does not do as the
//! file says is refused.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{
    metadata::Metadata,
    pieces::{Pieces, pre_tokenizer, steps},
    tokenizer_json::File,
};
use crate::{
    checkpoint::GgufValue,
    error::{Error, Result},
    model::Config,
};

/// Where the vocabulary of the file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vocabulary<'a> {
    /// This tokenizer; with llama.cpp's name for how it cuts text into words, where that is not to be found out.
    Tokenizer { pre: Option<&'a str>, tokenizer: &'a GgufTokenizer },
    /// None: the file takes and gives token ids.
    None,
}

/// What a GGUF file holds of a tokenizer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GgufTokenizer {
    /// It as a tokenizer.json.
    pub json: String,
    /// What to name in messages.
    pub path: PathBuf,
    /// Ids of its special tokens by their roles (`unk`, `pad`, `sep`, `mask`).
    pub roles: Vec<(String, u32)>,
    /// What a text begins with, where something names it.
    pub bos: Option<u32>,
    /// All that ends a text, the tokenizer's own first.
    pub eos: Vec<u32>,
    /// Chat templates by name, with `default` among them.
    pub chat_templates: Vec<(String, String)>,
}

/// What `tokenizer.ggml.token_type` calls tokens.
#[derive(Clone, Copy, PartialEq)]
pub enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// The metadata that makes the vocabulary, and the name of the model, by which llama.cpp tells what special tokens do.
///
/// # Errors
/// [`Error::BadFile`] for a tokenizer that llama.cpp would not follow, with the way out.
pub fn vocabulary(
    config: &Config,
    name: &str,
    wanted: Vocabulary,
    notes: &mut Vec<String>,
) -> Result<(Metadata, String)> {
    let Vocabulary::Tokenizer { pre, tokenizer } = wanted else {
        let none = ("tokenizer.ggml.model".to_owned(), GgufValue::Text("no_vocab".into()));
        return Ok((vec![none], name.into()));
    };
    let path = &tokenizer.path;
    let file: File = serde_json::from_str(&tokenizer.json).map_err(|error| Error::bad_file(path, error.to_string()))?;
    let reader = Reader { file, path, config, tokenizer };
    Ok((reader.metadata(pre, notes)?, reader.named(name, notes)))
}

/// What names have of the models whose special tokens llama.cpp lets take the spaces after them, all but the first
/// three of [`STRIPS`]; without any of which it fails.
pub const STRIPPING: [&str; 2] = ["phi-3", "phi3"];
const STRIPS: [&str; 4] = ["<unk>", "<s>", "<|endoftext|>", "</s>"];

struct Reader<'a> {
    file: File,
    path: &'a Path,
    config: &'a Config,
    tokenizer: &'a GgufTokenizer,
}

impl Reader<'_> {
    fn bad(&self, reason: impl Into<String>) -> Error {
        Error::bad_file(self.path, reason)
    }

    /// What llama.cpp would do otherwise than the file says.
    fn refused(&self, what: &str) -> Error {
        self.bad(format!(
            "{what}, which llama.cpp does not; --no-tokenizer leaves the vocabulary out, for token ids alone"
        ))
    }

    /// The name under which llama.cpp lets special tokens take the spaces after them, or not, as this tokenizer does.
    fn named(&self, name: &str, notes: &mut Vec<String>) -> String {
        let file = &self.file;
        let strips = file.added_tokens.iter().any(|token| token.special && token.rstrip);
        let listed = |text: &&str| file.added_tokens.iter().any(|token| token.content == **text);
        let able = STRIPS.iter().all(|text| listed(text) || file.model.vocab.get(*text).is_some());
        let says = |name: &str| {
            let lower = name.to_ascii_lowercase();
            STRIPPING.iter().find_map(|part| Some((lower.find(part)?, part.len())))
        };
        let mut name = name.to_owned();
        if strips && !able {
            notes.push("special tokens take the spaces after them, as they do not in llama.cpp".into());
        } else if strips && says(&name).is_none() {
            name += " (phi-3)";
        }
        while let Some((at, length)) = says(&name).filter(|_| !(strips && able)) {
            name.replace_range(at..at + length, "phi 3");
        }
        name
    }

    fn metadata(&self, pre: Option<&str>, notes: &mut Vec<String>) -> Result<Metadata> {
        let model = &self.file.model;
        let kind = model.kind.as_deref().unwrap_or("BPE");
        if kind != "BPE" {
            return Err(self.refused(&format!("splits words by a {kind} model")));
        }
        let vocab =
            model.vocab.as_object().ok_or_else(|| self.bad("model.vocab: expected an object of tokens and ids"))?;
        let ids = self.ids(vocab)?;
        let pieces = Pieces::of(&self.file).map_err(|what| self.refused(&what))?;
        let (tokens, mut types) = self.tokens(&ids)?;
        let merges = model
            .merges
            .iter()
            .map(|merge| merge.pair().ok_or_else(|| self.bad("model.merges: expected two pieces in each")));
        let merges = merges.collect::<Result<Vec<_>>>()?;
        let mut list: Metadata = Vec::new();
        let mut add = |key: &str, value| list.push((format!("tokenizer.ggml.{key}"), value));
        let text = |text: &str| GgufValue::Text(text.to_owned());
        match pieces {
            Pieces::Bytes { composed } => {
                if composed {
                    notes.push(
                        "the tokenizer composes characters first (NFC), which llama.cpp does not: texts that are not \
                         composed become other tokens"
                            .into(),
                    );
                }
                let found = pre_tokenizer(&self.file);
                let pre = pre.or(found).ok_or_else(|| {
                    self.bad(format!(
                        "cuts text into words in a way that has no known name in llama.cpp: {}; --tokenizer-pre NAME \
                         gives one, --no-tokenizer leaves the vocabulary out",
                        brief(&self.file.pre_tokenizer)
                    ))
                })?;
                add("model", text("gpt2"));
                add("pre", text(pre));
                let lines =
                    merges.iter().map(|(left, right)| match [left, right].iter().any(|piece| piece.contains(' ')) {
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
                if let Some(id) = self.unknown(&ids) {
                    types[id as usize] = TokenType::Unknown;
                }
                let (scores, other) = scores(&merges, &ids, tokens.len());
                if other > 0 {
                    notes.push(format!(
                        "{other} pairs of pieces make a token without a merge that says so: llama.cpp merges them, \
                         and may cut some words otherwise"
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
        list.extend(chat_templates(&self.tokenizer.chat_templates, notes));
        Ok(list)
    }

    /// The id of every token, added ones included.
    fn ids<'v>(&'v self, vocab: &'v Map<String, Value>) -> Result<HashMap<&'v str, u32>> {
        let mut ids = HashMap::new();
        let mut taken = vec![false; self.config.vocab_size];
        let listed = vocab.iter().map(|(token, id)| (token.as_str(), id.as_u64()));
        for (token, id) in
            listed.chain(self.file.added_tokens.iter().map(|token| (token.content.as_str(), Some(token.id))))
        {
            let id = id.filter(|&id| id < taken.len() as u64).ok_or_else(|| {
                self.bad(format!(
                    "token {token:?} has no id below vocab_size {}; --no-tokenizer leaves the vocabulary out",
                    taken.len()
                ))
            })?;
            let before = ids.insert(token, id as u32);
            if before.is_none() && std::mem::replace(&mut taken[id as usize], true)
                || before.is_some_and(|before| before != id as u32)
            {
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

    /// The token for what is in no vocabulary.
    fn unknown(&self, ids: &HashMap<&str, u32>) -> Option<u32> {
        let named = self.file.model.unk_token.as_deref().and_then(|token| ids.get(token).copied());
        named.or(self.role("unk"))
    }

    /// The id of a special token that the model has a row for.
    fn role(&self, name: &str) -> Option<u32> {
        let role = self.tokenizer.roles.iter().find(|(role, _)| role == name).map(|(_, id)| *id);
        role.filter(|&id| (id as usize) < self.config.vocab_size)
    }

    /// The tokens with a part to play, and which of them are put around every text.
    fn special(
        &self,
        ids: &HashMap<&str, u32>,
        notes: &mut Vec<String>,
        add: &mut impl FnMut(&str, GgufValue),
    ) -> Result<()> {
        let (before, after) = self.around(ids)?;
        let ends = &self.tokenizer.eos;
        let eos = after.or(ends.first().copied());
        // Without one that is named, llama.cpp would take some number.
        let bos = before.or(self.tokenizer.bos).or(eos);
        // It stops at the ends of turns and of messages, too: room for two more of the tokens that end a text.
        let mut more = ends.iter().copied().filter(|&id| Some(id) != eos);
        let (eot, eom) = (more.next(), more.next());
        let others = more.count();
        let named = [
            ("bos", bos),
            ("eos", eos),
            ("eot", eot),
            ("eom", eom),
            ("unknown", self.unknown(ids)),
            ("seperator", self.role("sep")),
            ("padding", self.role("pad")),
            ("mask", self.role("mask")),
        ];
        for (key, id) in named {
            if let Some(id) = id {
                add(&format!("{key}_token_id"), GgufValue::U32(id));
            }
        }
        if eos.is_none() {
            notes.push("neither tokenizer nor config name a token that ends texts".into());
        }
        if others > 0 {
            notes.push(format!("{others} more tokens end texts than GGUF has names for: {ends:?}"));
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
                    let token = |part: &Value| {
                        part.get("SpecialToken")?.get("id")?.as_str().and_then(|token| ids.get(token).copied())
                    };
                    around = match step.get("single").and_then(Value::as_array).map(Vec::as_slice) {
                        Some([text]) if text.get("Sequence").is_some() => (None, None),
                        Some([first, text]) if text.get("Sequence").is_some() && token(first).is_some() => {
                            (token(first), None)
                        }
                        Some([text, last]) if text.get("Sequence").is_some() && token(last).is_some() => {
                            (None, token(last))
                        }
                        Some([first, text, last])
                            if text.get("Sequence").is_some() && token(first).is_some() && token(last).is_some() =>
                        {
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
}

/// The metadata for chat templates: the default one, and each of the others under its name.
fn chat_templates(templates: &[(String, String)], notes: &mut Vec<String>) -> Metadata {
    // llama.cpp's converter writes names so.
    let plain = |name: &str| name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect::<String>();
    let mut list = Metadata::new();
    let mut names = Vec::new();
    for (name, template) in templates {
        let name = plain(name);
        if name == "default" {
            list.push(("tokenizer.chat_template".into(), GgufValue::Text(template.clone())));
        } else if names.contains(&name) {
            notes.push(format!("two chat templates would be called {name}: the first is written"));
        } else if !name.is_empty() {
            list.push((format!("tokenizer.chat_template.{name}"), GgufValue::Text(template.clone())));
            names.push(name);
        }
    }
    if !names.is_empty() {
        list.push(("tokenizer.chat_templates".into(), GgufValue::Texts(names)));
    }
    list
}

/// A score for each token, such that the best pair by score is the one with the earliest merge; and how many pairs
/// llama.cpp would merge although no merge says so.
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
        cuts.filter(|(left, right)| {
            ids.contains_key(left) && ids.contains_key(right) && !known.contains(&(*left, *right))
        })
        .count()
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
