//! The vocabulary of a GGUF file → tokenizer.json and tokenizer_config.json: the inverse of [`super::vocabulary`].

use std::{collections::HashMap, path::Path};

use serde_json::{Map, Value, json};

use super::{
    keys::Keys,
    pieces::{begins_texts, cutter},
    vocabulary::TokenType,
};
use crate::{
    checkpoint::GgufField,
    error::{Error, Result},
};

/// What a file says about texts.
#[derive(Debug, Default)]
pub struct Read {
    /// tokenizer.json; `None` if the file has no vocabulary.
    pub json: Option<String>,
    /// tokenizer_config.json.
    pub settings: Map<String, Value>,
    pub bos: Option<u32>,
    /// All that ends a text, the one of the vocabulary first.
    pub eos: Vec<u32>,
    pub pad: Option<u32>,
}

/// Reads the vocabulary of a model with this many rows; `rstrip` is whether its special tokens take the spaces after
/// them.
///
/// # Errors
/// [`Error::BadFile`] for vocabularies that contradict themselves; [`Error::UnsupportedField`] for kinds that are not
/// implemented.
pub fn read(keys: &Keys, vocab_size: usize, rstrip: bool, path: &Path) -> Result<Read> {
    let kind = keys.text_at("tokenizer.ggml.model")?.unwrap_or("no_vocab");
    let kind = match kind {
        "no_vocab" | "none" => return Ok(Read::default()),
        "gpt2" => Kind::Bytes,
        "llama" => Kind::Sentence,
        "t5" => Kind::Unigram,
        other => {
            return Err(Error::UnsupportedField {
                field: "tokenizer.ggml.model".into(),
                value: format!("{other:?}"),
                path: path.into(),
                reason: "known: gpt2 (bytes), llama (sentencepiece), t5 (unigram), no_vocab".into(),
            });
        }
    };
    let bad = |reason: String| Error::bad_file(path, format!("tokenizer: {reason}"));
    let tokens = texts(keys, "tokens")?.ok_or_else(|| bad("has no list of tokens".into()))?;
    if tokens.len() > vocab_size {
        return Err(bad(format!("has {} tokens, where the model has {vocab_size}", tokens.len())));
    }
    let types = keys.list_at("tokenizer.ggml.token_type", "whole numbers", |field| match field {
        GgufField::Integers(list) => Some(list.as_slice()),
        _ => None,
    })?;
    if types.is_some_and(|types| types.len() != tokens.len()) {
        return Err(bad("has another number of tokens than of their types".into()));
    }
    let reader = Reader { keys, path, tokens, types, kind, rstrip };
    reader.all()
}

fn texts<'a>(keys: &Keys<'a>, name: &str) -> Result<Option<&'a [String]>> {
    keys.list_at(&format!("tokenizer.ggml.{name}"), "a list of texts", |field| match field {
        GgufField::Texts(list) => Some(list.as_slice()),
        _ => None,
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Merges of bytes.
    Bytes,
    /// Merges of characters, by scores.
    Sentence,
    /// The likeliest pieces, by scores.
    Unigram,
}

/// What of tokenizer.json differs by the kind.
struct Sections {
    model: Value,
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
}

struct Reader<'a> {
    keys: &'a Keys<'a>,
    path: &'a Path,
    tokens: &'a [String],
    types: Option<&'a [i64]>,
    kind: Kind,
    rstrip: bool,
}

/// Texts of special tokens that end a turn or a text, whatever else the file says, as llama.cpp has it.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<EOT>",
    "<end_of_utterance>",
];

impl Reader<'_> {
    fn bad(&self, reason: impl Into<String>) -> Error {
        Error::bad_file(self.path, format!("tokenizer: {}", reason.into()))
    }

    fn is(&self, id: usize, kind: TokenType) -> bool {
        let of = self.types.map_or(TokenType::Normal as i64, |types| types[id]);
        of == kind as i64
    }

    /// The id that fills a role; `default` is what llama.cpp takes where the file does not say.
    fn role(&self, name: &str, default: Option<u32>) -> Result<Option<u32>> {
        let found = match self.keys.integer_at(&format!("tokenizer.ggml.{name}_token_id"))? {
            // What no vocabulary has means none.
            Some(id) if id < 0 || id == i128::from(u32::MAX) => None,
            Some(id) if id < self.tokens.len() as i128 => Some(id as u32),
            Some(id) => return Err(self.bad(format!("names {id} as {name}, of {} tokens", self.tokens.len()))),
            None => default.filter(|&id| (id as usize) < self.tokens.len()),
        };
        Ok(found)
    }

    fn all(&self) -> Result<Read> {
        let [bos, eos, unknown, pad] = match self.kind {
            Kind::Bytes => [None; 4],
            Kind::Sentence => [Some(1), Some(2), Some(0), None],
            Kind::Unigram => [None, Some(1), Some(2), Some(0)],
        };
        let (bos, eos) = (self.role("bos", bos)?, self.role("eos", eos)?);
        let (unknown, pad) = (self.role("unknown", unknown)?, self.role("padding", pad)?);
        let mut ends: Vec<u32> = eos.into_iter().collect();
        let named = [self.role("eot", None)?, self.role("eom", None)?];
        let known = (0..self.tokens.len()).filter(|&id| {
            let added = self.is(id, TokenType::Control) || self.is(id, TokenType::UserDefined);
            added && ENDS.contains(&self.tokens[id].as_str())
        });
        for id in named.into_iter().flatten().chain(known.map(|id| id as u32)) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        let mut file = self.file(unknown)?;
        file.insert("post_processor".into(), self.around(bos, eos)?);
        let roles = [
            ("bos_token", bos),
            ("eos_token", eos),
            ("unk_token", unknown),
            ("pad_token", pad),
            ("sep_token", self.role("seperator", None)?),
            ("mask_token", self.role("mask", None)?),
        ];
        let mut settings = Map::new();
        // The class that takes tokenizer.json as it stands.
        settings.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        settings.insert("clean_up_tokenization_spaces".into(), false.into());
        for (role, id) in roles {
            if let Some(id) = id {
                settings.insert(role.into(), self.tokens[id as usize].as_str().into());
            }
        }
        if let Some(templates) = self.chat_templates()? {
            settings.insert("chat_template".into(), templates);
        }
        let json = serde_json::to_string(&file).map_err(Error::internal)?;
        Ok(Read { json: Some(json), settings, bos, eos: ends, pad })
    }

    /// tokenizer.json, but for what goes around texts.
    fn file(&self, unknown: Option<u32>) -> Result<Map<String, Value>> {
        let sections = match self.kind {
            Kind::Bytes => self.bytes()?,
            Kind::Sentence => self.sentences(unknown)?,
            Kind::Unigram => self.unigram(unknown)?,
        };
        let fields = [
            ("version", "1.0".into()),
            ("truncation", Value::Null),
            ("padding", Value::Null),
            ("added_tokens", self.added().into()),
            ("normalizer", sections.normalizer),
            ("pre_tokenizer", sections.pre_tokenizer),
            ("decoder", sections.decoder),
            ("model", sections.model),
        ];
        Ok(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// The ids of the tokens, but of those that only fill rows.
    fn vocab(&self) -> Result<Value> {
        let mut vocab = Map::new();
        for (id, token) in self.tokens.iter().enumerate() {
            let filler = token.is_empty() || self.is(id, TokenType::Unused) && *token == format!("[PAD{id}]");
            if !filler && vocab.insert(token.clone(), id.into()).is_some() {
                return Err(self.bad(format!("token {token:?} is there twice")));
            }
        }
        Ok(vocab.into())
    }

    fn bytes(&self) -> Result<Sections> {
        let name = self.keys.text_at("tokenizer.ggml.pre")?.unwrap_or("default");
        let cutter = cutter(name).ok_or_else(|| Error::UnsupportedField {
            field: "tokenizer.ggml.pre".into(),
            value: format!("{name:?}"),
            path: self.path.into(),
            reason: "how it cuts texts into words is not known here".into(),
        })?;
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": cutter.whole, "vocab": self.vocab()?, "merges": self.listed_merges()?
        });
        let (normalizer, pre_tokenizer) = (cutter.normalizer, cutter.pre_tokenizer);
        Ok(Sections { model, normalizer, pre_tokenizer, decoder: byte_level() })
    }

    fn sentences(&self, unknown: Option<u32>) -> Result<Sections> {
        let prefix = self.keys.flag_at("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let unknown = unknown.map(|id| self.tokens[id as usize].as_str());
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": self.vocab()?, "merges": self.scored_merges()?
        });
        let mark = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
        let before = json!({ "type": "Prepend", "prepend": "▁" });
        let mut steps = vec![
            json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if prefix {
            steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        Ok(Sections {
            model,
            normalizer: json!({ "type": "Sequence", "normalizers": if prefix { vec![before, mark] } else { vec![mark] } }),
            pre_tokenizer: Value::Null,
            decoder: json!({ "type": "Sequence", "decoders": steps }),
        })
    }

    fn unigram(&self, unknown: Option<u32>) -> Result<Sections> {
        let flag = |name: &str| self.keys.flag_at(&format!("tokenizer.ggml.{name}"));
        if flag("treat_whitespace_as_suffix")?.unwrap_or(false) {
            return Err(self.bad("puts spaces after words, which is not implemented"));
        }
        let unknown = unknown.ok_or_else(|| self.bad("names no token for what is in no vocabulary"))?;
        // Rows without a token keep their place.
        let piece = |(id, (token, score)): (usize, (&String, &f32))| match token.is_empty() {
            true => json!([format!("[EMPTY_{id}]"), score]),
            false => json!([token, score]),
        };
        let vocab: Vec<Value> = self.tokens.iter().zip(self.scores()?).enumerate().map(piece).collect();
        let mut steps = Vec::new();
        let map = self.keys.list_at("tokenizer.ggml.precompiled_charsmap", "a list of bytes", |field| match field {
            GgufField::Integers(list) => Some(list.as_slice()),
            _ => None,
        })?;
        if let Some(map) = map {
            // Written as signed numbers or not.
            let map: Vec<u8> = map.iter().map(|&byte| byte as u8).collect();
            steps.push(json!({ "type": "Precompiled", "precompiled_charsmap": base64(&map) }));
        }
        let replace = |pattern: &str, content: &str| json!({ "type": "Replace", "pattern": { "Regex": pattern }, "content": content });
        let merged = flag("remove_extra_whitespaces")?.unwrap_or(false);
        if merged {
            steps.push(replace(r"\A +| +\z", ""));
            steps.push(replace(" {2,}", " "));
        }
        // llama.cpp puts one before the first word where it takes away the others, too; but never before spaces alone.
        let prefix = flag("add_space_prefix")?.unwrap_or(true) || merged;
        if prefix {
            steps.push(replace(r"\A(?= *[^ ])", "▁"));
        }
        steps.push(replace(" ", "▁"));
        let scheme = if prefix { "always" } else { "never" };
        Ok(Sections {
            model: json!({ "type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": false }),
            normalizer: json!({ "type": "Sequence", "normalizers": steps }),
            pre_tokenizer: Value::Null,
            decoder: json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false }),
        })
    }

    /// The scores, one for each token.
    fn scores(&self) -> Result<&[f32]> {
        let scores = self.keys.list_at("tokenizer.ggml.scores", "a list of numbers", |field| match field {
            GgufField::Floats(list) => Some(list.as_slice()),
            _ => None,
        })?;
        let scores = scores.ok_or_else(|| self.bad("has a vocabulary by scores without them"))?;
        if scores.len() != self.tokens.len() || scores.iter().any(|score| !score.is_finite()) {
            return Err(self.bad("has scores that are no numbers, or not one for each token"));
        }
        Ok(scores)
    }

    /// The tokens that are looked for in texts before anything else.
    fn added(&self) -> Vec<Value> {
        let plain = ["<unk>", "<s>", "<|endoftext|>"];
        let added = (0..self.tokens.len()).filter_map(|id| {
            let special = self.is(id, TokenType::Control) || self.is(id, TokenType::Unknown);
            let token = self.tokens[id].as_str();
            let found = (special || self.is(id, TokenType::UserDefined)) && !token.is_empty();
            let rstrip = self.rstrip && !plain.contains(&token);
            found.then(|| json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": rstrip, "normalized": false, "special": special }))
        });
        added.collect()
    }

    /// Merges as the file lists them, the earliest first.
    fn listed_merges(&self) -> Result<Value> {
        let lines = texts(self.keys, "merges")?.ok_or_else(|| self.bad("has tokens of bytes and no list of merges"))?;
        let pair = |line: &String| {
            // A piece may begin with a space where bytes are not letters of their own.
            let at = line.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
            let (left, right) = at.map(|at| (&line[..at], &line[at + 1..])).unzip();
            match (left, right) {
                (Some(left), Some(right)) if !right.is_empty() => Ok(json!([left, right])),
                _ => Err(self.bad(format!("{line:?} is no merge of two pieces"))),
            }
        };
        Ok(Value::Array(lines.iter().map(pair).collect::<Result<_>>()?))
    }

    /// Merges by the scores of what they make: llama.cpp takes the two pieces that make the token with the highest
    /// score.
    fn scored_merges(&self) -> Result<Value> {
        /// No word is so long; hostile ones may be.
        const LONGEST: usize = 512;
        let scores = self.scores()?;
        let usable = |id: usize| {
            let added = self.is(id, TokenType::Control) || self.is(id, TokenType::Unknown);
            !added && !self.is(id, TokenType::Byte) && self.tokens[id].len() <= LONGEST
        };
        let ids: HashMap<&str, usize> = self
            .tokens
            .iter()
            .enumerate()
            .filter(|(id, _)| usable(*id))
            .map(|(id, token)| (token.as_str(), id))
            .collect();
        let mut merges: Vec<(usize, usize, usize)> = Vec::new();
        for (&token, &made) in &ids {
            for (at, _) in token.char_indices().skip(1) {
                if let (Some(&left), Some(&right)) = (ids.get(&token[..at]), ids.get(&token[at..])) {
                    merges.push((made, left, right));
                }
            }
        }
        merges.sort_unstable_by(|one, other| scores[other.0].total_cmp(&scores[one.0]).then(one.cmp(other)));
        Ok(merges.into_iter().map(|(_, left, right)| json!([self.tokens[left], self.tokens[right]])).collect())
    }

    /// The step that puts special tokens before and after a text.
    fn around(&self, bos: Option<u32>, eos: Option<u32>) -> Result<Value> {
        let asked = |name: &str| self.keys.flag_at(&format!("tokenizer.ggml.add_{name}_token"));
        // What llama.cpp does where the file does not say.
        let (begins, ends) = match self.kind {
            Kind::Sentence => (true, false),
            Kind::Unigram => (false, true),
            Kind::Bytes => (begins_texts(self.keys.text_at("tokenizer.ggml.pre")?.unwrap_or("default")), false),
        };
        let (begins, ends) = (asked("bos")?.unwrap_or(begins), asked("eos")?.unwrap_or(ends));
        let (bos, eos) = (bos.filter(|_| begins), eos.filter(|_| ends));
        let text = |id: u32| self.tokens[id as usize].as_str();
        let special = |id: u32, kind: u8| json!({ "SpecialToken": { "id": text(id), "type_id": kind } });
        let side = |sequence: &str, kind: u8| -> Vec<Value> {
            let before = bos.map(|id| special(id, kind));
            let after = eos.map(|id| special(id, kind));
            let between = json!({ "Sequence": { "id": sequence, "type_id": kind } });
            before.into_iter().chain([between]).chain(after).collect()
        };
        let mut tokens = Map::new();
        for id in [bos, eos].into_iter().flatten() {
            tokens.insert(text(id).into(), json!({ "id": text(id), "ids": [id], "tokens": [text(id)] }));
        }
        let pair: Vec<Value> = side("A", 0).into_iter().chain(side("B", 1)).collect();
        let template =
            json!({ "type": "TemplateProcessing", "single": side("A", 0), "pair": pair, "special_tokens": tokens });
        Ok(match self.kind {
            Kind::Bytes if bos.or(eos).is_none() => byte_level(),
            Kind::Bytes => json!({ "type": "Sequence", "processors": [byte_level(), template] }),
            Kind::Sentence | Kind::Unigram => template,
        })
    }

    /// The chat template, or all of them with their names.
    fn chat_templates(&self) -> Result<Option<Value>> {
        let default = self.keys.text_at("tokenizer.chat_template")?;
        let names = self.keys.list_at("tokenizer.chat_templates", "a list of names", |field| match field {
            GgufField::Texts(list) => Some(list.as_slice()),
            _ => None,
        })?;
        let mut named = Vec::new();
        for name in names.unwrap_or_default() {
            if let Some(template) = self.keys.text_at(&format!("tokenizer.chat_template.{name}"))? {
                named.push(json!({ "name": name, "template": template }));
            }
        }
        if named.is_empty() {
            return Ok(default.map(Value::from));
        }
        let first = default.map(|template| json!({ "name": "default", "template": template }));
        Ok(Some(first.into_iter().chain(named).collect()))
    }
}

/// What turns letters that stand for bytes into text again.
fn byte_level() -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false })
}

/// Bytes as text in base 64.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().enumerate().fold(0u32, |bits, (at, &byte)| bits | u32::from(byte) << (16 - 8 * at));
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at > three.len() { '=' } else { char::from(letter) });
        }
    }
    text
}
