//! Builds the tokenizer that transformers would: tokenizer.json as it stands, or, for the classes that do so, anew from
//! its vocabulary and merges, or from vocab.json and merges.txt.

use std::path::PathBuf;

use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer, models::bpe::BPE};

use super::{
    tokenizer::fenced,
    tokenizer_files::{Named, Settings, TokenizerFiles, convert},
    tokenizer_growth::check_growth,
};
use crate::{
    checkpoint::is_foreign_vocabulary,
    error::{Error, Result},
};

/// A tokenizer, and the tokens that have a part to play for it.
pub struct BuiltTokenizer {
    pub tokenizer: Tokenizer,
    /// Names of roles (`bos`, `eos`, `unk`, `sep`, `pad`, …) and the ids that fill them.
    pub roles: Vec<(String, u32)>,
    /// What the user should know about it.
    pub notes: Vec<String>,
    /// Whether it is what tokenizer.json says, with nothing added.
    as_stored: bool,
}

/// The class that reads tokenizer.json as it stands.
pub const SERIALIZED_CLASS: &str = "TokenizersBackend";

/// What a class of transformers puts together itself.
struct Class {
    name: &'static str,
    /// Roles that are filled even where no file names a token.
    defaults: &'static [(&'static str, &'static str)],
    /// Characters are composed first.
    composes: bool,
    /// How text is cut before its bytes are merged; `None` as GPT-2 does.
    words: Option<&'static str>,
    /// Whether only the settings say what goes around a text, not tokenizer.json.
    own_template: bool,
    /// Whether it is for sentencepiece models: characters, with "▁" for a space and tokens for the bytes of unknown
    /// ones.
    sentence: bool,
}

const END_OF_TEXT: &str = "<|endoftext|>";
const ENDS: [(&str, &str); 3] = [("bos_token", END_OF_TEXT), ("eos_token", END_OF_TEXT), ("unk_token", END_OF_TEXT)];
const GPT2: Class = Class {
    name: "GPT2Tokenizer",
    defaults: &ENDS,
    composes: false,
    words: None,
    own_template: false,
    sentence: false,
};
const CLASSES: &[Class] = &[
    GPT2,
    Class { name: "CodeGenTokenizer", ..GPT2 },
    Class {
        name: "GPTNeoXTokenizer",
        defaults: &[ENDS[0], ENDS[1], ENDS[2], ("pad_token", "<|padding|>")],
        composes: true,
        own_template: true,
        ..GPT2
    },
    Class {
        name: "Qwen2Tokenizer",
        defaults: &[ENDS[1], ENDS[2], ("pad_token", END_OF_TEXT)],
        composes: true,
        words: Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ..GPT2
    },
    Class {
        name: "Qwen3_5Tokenizer",
        defaults: &[ENDS[1], ENDS[2], ("pad_token", END_OF_TEXT)],
        composes: true,
        words: Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ..GPT2
    },
    Class {
        name: "LlamaTokenizer",
        defaults: &[("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")],
        sentence: true,
        ..GPT2
    },
    Class {
        name: CODE_LLAMA,
        defaults: &[
            ("unk_token", "<unk>"),
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("prefix_token", "▁<PRE>"),
            ("middle_token", "▁<MID>"),
            ("suffix_token", "▁<SUF>"),
            ("eot_token", "▁<EOT>"),
            ("fill_token", "<FILL_ME>"),
        ],
        sentence: true,
        ..GPT2
    },
];

/// The one of them that knows no older way to put a space before a text.
const CODE_LLAMA: &str = "CodeLlamaTokenizer";

impl BuiltTokenizer {
    /// The id that fills a role (`bos`, `eos`, `unk`, `pad`, …).
    pub fn role(&self, name: &str) -> Option<u32> {
        self.roles.iter().find(|(role, _)| role == name).map(|(_, id)| *id)
    }
}

impl TokenizerFiles {
    /// Builds the tokenizer as this class of transformers does.
    ///
    /// # Errors
    /// [`Error::BadFile`] if there are no files that the class builds from, or they contradict each other.
    pub fn build(&self, class: &str) -> Result<BuiltTokenizer> {
        let tokens = self.tokens()?;
        let merges = self.merges();
        let class_here = CLASSES.iter().find(|known| known.name == class).filter(|_| merges);
        let source = self.source();
        if let Some((path, text)) = &self.serialized {
            check_growth(text).map_err(|reason| Error::bad_file(path, reason))?;
        }
        let built = fenced(|| match class_here {
            Some(known) => self.rebuilt(known, tokens),
            None => self.as_it_stands(tokens),
        });
        let mut built = match built.map_err(|reason| Error::bad_file(&source, reason))? {
            Some(built) => built,
            None => return Err(self.nothing_for(class)),
        };
        // Files often say how training cut and filled its texts: here texts count whole, and nothing else does.
        built.tokenizer.with_padding(None);
        built.tokenizer.with_truncation(None).map_err(|error| Error::bad_file(&source, error.to_string()))?;
        if class_here.is_none() && class != SERIALIZED_CLASS {
            let why = if merges { "is not implemented" } else { "builds from merges, which it has none of" };
            built.notes.push(format!(
                "tokenizer.json is used as it stands, and transformers may find other tokens: the class {class} {why}"
            ));
        }
        if self.settings.contains_key("auto_map") {
            built.notes.push("tokenizer_config.json names Python code (auto_map), which is not run".into());
        }
        Ok(built)
    }

    /// Whether tokenizer.json, if there is one, holds merges: the classes that build anew make nothing of other kinds.
    fn merges(&self) -> bool {
        #[derive(serde::Deserialize)]
        struct Model {
            merges: Option<serde::de::IgnoredAny>,
        }
        #[derive(serde::Deserialize)]
        struct File {
            model: Option<Model>,
        }
        let file = |text: &str| serde_json::from_str::<File>(text).ok();
        self.serialized
            .as_ref()
            .is_none_or(|(_, text)| file(text).is_none_or(|file| file.model.is_none_or(|model| model.merges.is_some())))
    }

    /// A built tokenizer as a tokenizer.json: the one that is there, where nothing was added to it.
    ///
    /// # Errors
    /// [`Error::BadFile`] if it has no such form.
    pub fn json(&self, built: &BuiltTokenizer) -> Result<String> {
        match &self.serialized {
            Some((_, text)) if built.as_stored => Ok(text.clone()),
            _ => fenced(|| built.tokenizer.to_string(false)).map_err(|reason| Error::bad_file(&self.source(), reason)),
        }
    }

    /// The tokenizer.json that is there, or one of the built tokenizer, where there are only other files.
    ///
    /// # Errors
    /// As [`TokenizerFiles::json`].
    pub fn json_as_stored(&self, built: &BuiltTokenizer) -> Result<String> {
        self.serialized.as_ref().map_or_else(|| self.json(built), |(_, text)| Ok(text.clone()))
    }

    /// The file to name in messages.
    pub fn source(&self) -> PathBuf {
        let vocabulary = || self.directory.join("vocab.json");
        self.serialized.as_ref().map_or_else(vocabulary, |(path, _)| path.clone())
    }

    fn as_it_stands(&self, tokens: Settings) -> tokenizers::Result<Option<BuiltTokenizer>> {
        let Some((_, text)) = &self.serialized else { return Ok(None) };
        let tokenizer: Tokenizer = text.parse()?;
        let has_template = tokenizer.get_post_processor().is_some();
        let (count, before) = (tokenizer.get_vocab_size(true), tokenizer.get_added_tokens_decoder());
        let mut built = self.completed(tokenizer, tokens, !has_template)?;
        let after = built.tokenizer.get_added_tokens_decoder();
        built.as_stored = after == before && built.tokenizer.get_vocab_size(true) == count;
        Ok(Some(built))
    }

    fn rebuilt(&self, class: &Class, mut tokens: Settings) -> tokenizers::Result<Option<BuiltTokenizer>> {
        let mut template = Value::Null;
        let mut model = json!({
            "type": "BPE", "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": class.sentence,
            "byte_fallback": class.sentence, "vocab": {}, "merges": []
        });
        let mut files = None;
        if let Some((_, text)) = &self.serialized {
            let mut file: Map<String, Value> = serde_json::from_str(text)?;
            template = file.remove("post_processor").unwrap_or_default();
            let mut stored = file.remove("model").unwrap_or_default();
            model["vocab"] = mapped(stored["vocab"].take());
            model["merges"] = Some(stored["merges"].take()).filter(|merges| !merges.is_null()).unwrap_or(json!([]));
        } else {
            let names = ["vocab.json", "merges.txt"].map(|name| self.directory.join(name));
            if class.sentence || !names.iter().all(|path| path.is_file()) {
                return Ok(None);
            }
            files = Some(names);
        }
        let shell = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "model": model,
            "normalizer": if class.composes { json!({ "type": "NFC" }) } else { Value::Null },
            "pre_tokenizer": self.pre_tokenizer(class), "decoder": self.decoder(class), "post_processor": &template
        });
        let mut tokenizer: Tokenizer = serde_json::to_string(&shell)?.parse()?;
        if let Some([vocab, merges]) = files {
            let (vocab, merges) = BPE::read_file(&vocab.to_string_lossy(), &merges.to_string_lossy())?;
            let builder = BPE::builder().vocab_and_merges(vocab, merges);
            tokenizer.with_model(
                builder.continuing_subword_prefix(String::new()).end_of_word_suffix(String::new()).build()?,
            );
        }
        for (role, content) in class.defaults {
            if !tokens.vacant.contains(role) && !tokens.roles.iter().any(|(name, _)| name == role) {
                let named = tokens.added.values().find(|token| token.content == *content).cloned();
                tokens.roles.push(((*role).to_owned(), Named { content: (*content).to_owned(), token: named }));
            }
        }
        let order = |name: &str| super::tokenizer_files::ROLES.iter().position(|role| *role == name);
        tokens.roles.sort_by_key(|(name, _)| order(name).unwrap_or(usize::MAX));
        let all_special = (class.name == "Qwen2Tokenizer").then(|| {
            let roles = tokens.roles.iter().map(|(_, named)| named);
            roles.chain(&tokens.extra).map(|named| AddedToken::from(named.content.clone(), true)).collect::<Vec<_>>()
        });
        let mut built = self.completed(tokenizer, tokens, template.is_null() || class.own_template)?;
        built.tokenizer.add_tokens(all_special.into_iter().flatten())?;
        Ok(Some(built))
    }

    /// Adds the tokens that files name and the vocabulary lacks, and what goes around a text; `template` is whether
    /// that is to be made even where no setting asks for it.
    fn completed(
        &self,
        mut tokenizer: Tokenizer,
        tokens: Settings,
        template: bool,
    ) -> tokenizers::Result<BuiltTokenizer> {
        let known = tokenizer.get_added_tokens_decoder();
        let mut missing: Vec<AddedToken> =
            tokens.added.into_values().filter(|token| !known.values().any(|known| known == token)).collect();
        let is_known =
            |missing: &[AddedToken], content: &str| known.values().chain(missing).any(|token| token.content == content);
        let roles: Vec<_> = tokens.roles.iter().map(|(_, named)| named.content.clone()).collect();
        for token in &mut missing {
            token.special |= roles.contains(&token.content);
        }
        for named in tokens.roles.iter().map(|(_, named)| named).chain(&tokens.extra) {
            if !is_known(&missing, &named.content) {
                missing.push(named.clone().into_added());
            }
        }
        tokenizer.add_tokens(missing)?;
        tokenizer.set_encode_special_tokens(self.flag("split_special_tokens"));
        let roles: Vec<(String, u32)> = tokens
            .roles
            .iter()
            .filter_map(|(name, named)| {
                let role = name.strip_suffix("_token").unwrap_or(name).to_owned();
                Some((role, tokenizer.token_to_id(&named.content)?))
            })
            .collect();
        // Beside a tokenizer.json, transformers does not read these settings.
        let listens = self.serialized.is_none();
        let asked = ["add_bos_token", "add_eos_token"].map(|name| listens && self.settings.contains_key(name));
        if template || asked.contains(&true) {
            let around = ["bos_token", "eos_token"].map(|role| {
                let named = tokens.roles.iter().find(|(name, _)| name == role).map(|(_, named)| &named.content)?;
                Some((named.clone(), tokenizer.token_to_id(named)?))
                    .filter(|_| listens && self.flag(&format!("add_{role}")))
            });
            let processor: PostProcessorWrapper = serde_json::from_value(around_text(&around))?;
            tokenizer.with_post_processor(Some(processor));
        }
        let mut notes = Vec::new();
        if self.flag("clean_up_tokenization_spaces")
            && !matches!(tokenizer.get_model(), tokenizers::ModelWrapper::BPE(_))
        {
            notes
                .push("clean_up_tokenization_spaces is not applied: spaces before punctuation stay as they are".into());
        }
        Ok(BuiltTokenizer { tokenizer, roles, notes, as_stored: false })
    }

    fn pre_tokenizer(&self, class: &Class) -> Value {
        let prefix = self.settings.get("add_prefix_space").and_then(Value::as_bool);
        if class.sentence {
            let legacy = class.name != CODE_LLAMA && self.flag("legacy");
            let scheme = match (prefix.unwrap_or(true), legacy) {
                (false, _) => "never",
                (true, false) => "first",
                (true, true) => "always",
            };
            return json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false });
        }
        let prefix = prefix.unwrap_or(false);
        let bytes = |own_words: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": own_words });
        match class.words {
            None => bytes(true),
            Some(words) => json!({ "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": words }, "behavior": "Isolated", "invert": false }, bytes(false)
            ] }),
        }
    }

    fn decoder(&self, class: &Class) -> Value {
        if !class.sentence {
            return json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
        }
        let mut steps = vec![
            json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if class.name == CODE_LLAMA || self.settings.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(true) {
            steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        json!({ "type": "Sequence", "decoders": steps })
    }

    /// Whether there is no vocabulary of any kind.
    pub fn is_empty(&self) -> bool {
        !self.any() && self.foreign().is_none()
    }

    /// A vocabulary in a form that is not read here.
    fn foreign(&self) -> Option<String> {
        let names = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| is_foreign_vocabulary(name)).min()
    }

    /// Says what there is instead of the files that a class builds from, and what to do.
    fn nothing_for(&self, class: &str) -> Error {
        let has = |name: &str| self.directory.join(name).exists();
        let ids = "or give token ids in a .json file instead of text";
        let linked = std::fs::read_link(self.directory.join("tokenizer.json"));
        let reason = if let Ok(to) = linked {
            format!("a link to {}, which is not there; mend the link, or download the file again, {ids}", to.display())
        } else if has("vocab.json") && !has("merges.txt") {
            format!("vocab.json is there, but not the merges.txt that belongs to it; add it, {ids}")
        } else if has("vocab.json") && !CLASSES.iter().any(|known| known.name == class) {
            let directory = self.directory.display();
            format!(
                "no tokenizer.json, and the class {class} makes no tokenizer of vocab.json and merges.txt, neither in \
                 transformers; download the model's tokenizer.json, or, if the two are of GPT-2's kind, with `pip \
                 install transformers`, `python -c \"from transformers import GPT2Tokenizer as T; \
                 T.from_pretrained('{directory}').save_pretrained('{directory}')\"` writes it, {ids}"
            )
        } else if let Some(name) = self.foreign() {
            format!("no tokenizer.json, only {name}, which is not read; {}, {ids}", convert(&self.directory))
        } else if self.settings.contains_key("auto_map") {
            format!("no tokenizer.json, only a tokenizer in Python (auto_map in tokenizer_config.json); {ids}")
        } else {
            format!("no tokenizer.json beside the model: put the model's there, {ids}")
        };
        Error::bad_file(&self.directory.join("tokenizer.json"), reason)
    }
}

/// A vocabulary as tokens with ids; of a list with scores, the places are the ids.
fn mapped(vocab: Value) -> Value {
    match vocab {
        Value::Array(tokens) => {
            let text = |token: &Value| token.get(0).unwrap_or(token).as_str().map(str::to_owned);
            let tokens = tokens.iter().enumerate();
            tokens.filter_map(|(id, token)| Some((text(token)?, json!(id)))).collect::<Map<_, _>>().into()
        }
        other => other,
    }
}

/// The template that puts these tokens before and after a text.
fn around_text([before, after]: &[Option<(String, u32)>; 2]) -> Value {
    let special = |token: &Option<(String, u32)>, kind: u32| {
        token.as_ref().map(|(token, _)| json!({ "SpecialToken": { "id": token, "type_id": kind } }))
    };
    let part = |name: &str, kind: u32| {
        let text = json!({ "Sequence": { "id": name, "type_id": kind } });
        [special(before, kind), Some(text), special(after, kind)].into_iter().flatten().collect::<Vec<_>>()
    };
    let tokens = [before, after].into_iter().flatten();
    let tokens = tokens.map(|(token, id)| (token.clone(), json!({ "id": token, "ids": [id], "tokens": [token] })));
    let pair = [part("A", 0), part("B", 1)].concat();
    json!({
        "type": "TemplateProcessing", "single": part("A", 0), "pair": pair,
        "special_tokens": tokens.collect::<Map<_, _>>()
    })
}
