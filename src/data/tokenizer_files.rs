//! The files of a tokenizer beside a model, read but not yet built, and what their settings say about its tokens.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::foreign::recognise;
use crate::{
    checkpoint::{contents, mistaken},
    error::{Error, Result},
    json::with_tagged_floats,
};

/// Everything beside a model that tokenizes, as it was read.
pub struct TokenizerFiles {
    pub(super) directory: PathBuf,
    /// tokenizer_config.json; empty if there is none.
    pub(super) settings: Map<String, Value>,
    /// tokenizer.json, as text.
    pub(super) serialized: Option<(PathBuf, String)>,
    /// special_tokens_map.json, which counts only where tokenizer_config.json does not list the added tokens.
    special_map: Map<String, Value>,
    /// added_tokens.json, likewise.
    added: Map<String, Value>,
}

/// A token as settings name it: its text alone, or with how it is found in texts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Named {
    pub content: String,
    /// `None` for a text alone.
    pub token: Option<AddedToken>,
}

/// The tokens that have a part to play.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// By their roles (`bos_token`, …), in the order of transformers.
    pub roles: Vec<(String, Named)>,
    /// Roles that are said to be filled by none.
    pub vacant: Vec<&'static str>,
    /// Special tokens without a role.
    pub extra: Vec<Named>,
    /// Tokens beside the vocabulary, by the ids that files give them.
    pub added: BTreeMap<u64, AddedToken>,
}

/// The roles that every tokenizer may fill, in the order of transformers.
pub(super) const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The release of transformers that is followed, where files differ by it.
const RELEASE: [u64; 3] = [5, 23, 0];

impl TokenizerFiles {
    /// Reads what lies beside a model. A directory without any tokenizer is no error yet.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::BadFile`] for a file that is not a JSON object, or a setting that is not followed
    /// here.
    pub fn read(directory: &Path) -> Result<Self> {
        let settings = object(&directory.join("tokenizer_config.json"))?;
        let file = |name: &str| directory.join(name);
        if settings.get("fix_mistral_regex").is_some_and(|value| value == true) {
            return Err(Error::bad_file(
                &file("tokenizer_config.json"),
                format!("fix_mistral_regex is not implemented; {}", convert(directory)),
            ));
        }
        check_kinds(&settings, &file("tokenizer_config.json"))?;
        let path = file(&current(&settings));
        let serialized = match path.exists() {
            true => Some((path.clone(), text(&path)?)),
            false => None,
        };
        let special_map = object(&file("special_tokens_map.json"))?;
        let added = object(&file("added_tokens.json"))?;
        Ok(Self { directory: directory.to_owned(), settings, serialized, special_map, added })
    }

    /// The class that tokenizer_config.json names.
    pub fn named_class(&self) -> Option<&str> {
        self.settings.get("tokenizer_class").and_then(Value::as_str)
    }

    /// The fields of tokenizer_config.json; none if there is no such file.
    pub fn settings(&self) -> &Map<String, Value> {
        &self.settings
    }

    /// Whether tokenizer.json is of the byte-level kind.
    pub fn of_bytes(&self) -> bool {
        self.serialized.as_ref().is_some_and(|(_, text)| text.contains("\"ByteLevel\""))
    }

    /// Whether there is anything to build a tokenizer from.
    pub fn any(&self) -> bool {
        self.serialized.is_some() || self.directory.join("vocab.json").exists()
    }

    /// A setting that is on or off.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.settings.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The tokens that the files name, as transformers puts them together.
    ///
    /// # Errors
    /// [`Error::BadFile`] for tokens that are neither texts nor objects with `content`.
    pub(super) fn tokens(&self) -> Result<Settings> {
        let path = self.directory.join("tokenizer_config.json");
        let mut found = Settings::default();
        let mut fields = self.settings.clone();
        let listed = fields.get("added_tokens_decoder").and_then(Value::as_object);
        for (id, token) in listed.into_iter().flatten() {
            let wrong = || Error::bad_file(&path, format!("added_tokens_decoder: {id:?} is not an id with a token"));
            let id = id.parse().map_err(|_| wrong())?;
            found.added.insert(id, Named::of(token).and_then(|named| named.token).ok_or_else(wrong)?);
        }
        if !fields.contains_key("added_tokens_decoder") {
            self.add_legacy(&mut fields, &mut found)?;
        }
        // A role that is null is nobody's, whatever the class would make of it.
        found.vacant = ROLES.iter().filter(|name| fields.get(**name).is_some_and(Value::is_null)).copied().collect();
        fields.retain(|_, value| !value.is_null());
        let extra = fields.get("extra_special_tokens").filter(|value| !is_empty(value));
        let extra = extra.or(fields.get("additional_special_tokens")).cloned();
        let role = |name: &str, token: &Value| {
            let wrong = || Error::bad_file(&path, format!("{name}: expected a token, found {token}"));
            let mut token = token.clone();
            // It becomes special, and special tokens are looked for in texts as they are.
            if let Some(fields) = token.as_object_mut().filter(|fields| !fields.contains_key("normalized")) {
                fields.insert("normalized".into(), false.into());
            }
            Ok::<_, Error>((name.to_owned(), Named::of(&token).ok_or_else(wrong)?))
        };
        for name in ROLES {
            found.roles.extend(fields.get(name).map(|token| role(name, token)).transpose()?);
        }
        // Roles that only some models have, such as `image_token`.
        let own = |name: &str, token: &Value| {
            name.ends_with("_token") && !ROLES.contains(&name) && (token.is_string() || token.is_object())
        };
        for (name, token) in fields.iter().filter(|(name, token)| own(name, token)) {
            found.roles.push(role(name, token)?);
        }
        // Where both are objects, only the other one counts.
        let specific = fields.get("model_specific_special_tokens").and_then(Value::as_object);
        let specific = specific.filter(|_| !extra.as_ref().is_some_and(Value::is_object));
        for (name, token) in specific.into_iter().flatten() {
            found.roles.push(role(name, token)?);
        }
        match extra {
            Some(Value::Object(tokens)) => {
                for (name, token) in &tokens {
                    found.roles.push(role(name, token)?);
                }
            }
            Some(Value::Array(tokens)) => {
                for token in &tokens {
                    found.extra.push(role("extra_special_tokens", token)?.1);
                }
            }
            _ => {}
        }
        for (_, named) in &mut found.roles {
            if let Some(token) = found.added.values().find(|token| token.content == named.content) {
                named.token = Some(token.clone());
            }
        }
        Ok(found)
    }

    /// The older files, which count where tokenizer_config.json does not list the added tokens itself.
    fn add_legacy(&self, fields: &mut Map<String, Value>, found: &mut Settings) -> Result<()> {
        for (name, value) in &self.special_map {
            let mut value = value.clone();
            if let Some(token) = value.as_object_mut().filter(|_| name != "extra_special_tokens") {
                token.insert("special".into(), true.into());
            }
            if let (Value::Array(more), "extra_special_tokens") = (&value, name.as_str()) {
                let mut all = fields.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
                all.extend(more.iter().filter(|token| !all.contains(token)).cloned().collect::<Vec<_>>());
                value = all.into();
            }
            fields.insert(name.clone(), value);
        }
        let content = |value: &Value| Named::of(value).map(|named| named.content);
        let mut special: Vec<String> = ROLES.iter().filter_map(|name| fields.get(*name).and_then(content)).collect();
        let extra = fields.get("extra_special_tokens").and_then(Value::as_array);
        special.extend(extra.into_iter().flatten().filter_map(content));
        for (token, id) in &self.added {
            let path = self.directory.join("added_tokens.json");
            let id =
                id.as_u64().ok_or_else(|| Error::bad_file(&path, format!("{token:?}: expected an id, found {id}")))?;
            found.added.insert(id, AddedToken::from(token.clone(), special.contains(token)));
        }
        let Some((path, text)) = &self.serialized else { return Ok(()) };
        #[derive(serde::Deserialize)]
        struct File {
            #[serde(default)]
            added_tokens: Vec<Value>,
        }
        let file: File = serde_json::from_str(text).map_err(|error| Error::bad_file(path, error.to_string()))?;
        for token in &file.added_tokens {
            let id = token.get("id").and_then(Value::as_u64);
            let named = Named::of(token).and_then(|named| named.token);
            let (Some(id), Some(token)) = (id, named) else {
                return Err(Error::bad_file(path, format!("added_tokens: expected tokens with ids, found {token}")));
            };
            found.added.insert(id, token);
        }
        Ok(())
    }
}

impl Named {
    /// A token as JSON has it: a text, or an object with `content`.
    fn of(value: &Value) -> Option<Self> {
        if let Some(content) = value.as_str() {
            return Some(Self { content: content.to_owned(), token: None });
        }
        let content = value.get("content")?.as_str()?.to_owned();
        let flag = |name: &str| value.get(name).and_then(Value::as_bool);
        let special = flag("special").unwrap_or(false);
        let token = AddedToken {
            content: content.clone(),
            single_word: flag("single_word").unwrap_or(false),
            lstrip: flag("lstrip").unwrap_or(false),
            rstrip: flag("rstrip").unwrap_or(false),
            normalized: flag("normalized").unwrap_or(!special),
            special,
        };
        Some(Self { content, token: Some(token) })
    }

    /// What is added to a vocabulary that lacks it: tokens with a part to play are special.
    pub fn into_added(self) -> AddedToken {
        match self.token {
            Some(token) => AddedToken { special: true, ..token },
            None => AddedToken::from(self.content, true),
        }
    }
}

/// Refuses settings whose values are of another kind than what is read: they would count for nothing.
fn check_kinds(settings: &Map<String, Value>, path: &Path) -> Result<()> {
    type Kind = (&'static str, fn(&Value) -> bool, &'static [&'static str]);
    const KINDS: [Kind; 4] = [
        (
            "true or false",
            Value::is_boolean,
            &[
                "add_bos_token",
                "add_eos_token",
                "add_prefix_space",
                "split_special_tokens",
                "legacy",
                "clean_up_tokenization_spaces",
            ],
        ),
        ("a text", Value::is_string, &["tokenizer_class"]),
        ("an object", Value::is_object, &["added_tokens_decoder", "model_specific_special_tokens"]),
        (
            "a list or an object",
            |value| value.is_array() || value.is_object(),
            &["extra_special_tokens", "additional_special_tokens"],
        ),
    ];
    for (expected, is_of_kind, names) in KINDS {
        for name in names {
            if let Some(found) = settings.get(*name).filter(|value| !value.is_null() && !is_of_kind(value)) {
                return Err(Error::bad_file(path, format!("{name}: expected {expected}, found {found}")));
            }
        }
    }
    Ok(())
}

/// The file that holds the tokenizer for the release that is followed: settings may list `tokenizer.VERSION.json`, each
/// for its version and later ones.
fn current(settings: &Map<String, Value>) -> String {
    let names = settings.get("fast_tokenizer_files").and_then(Value::as_array);
    let version = |name: &str| name.strip_prefix("tokenizer.")?.strip_suffix(".json").map(str::to_owned);
    let names = names.into_iter().flatten().filter_map(Value::as_str);
    let mut versions: Vec<_> = names.filter_map(|name| Some((version(name)?, name))).collect();
    // As texts, as transformers does.
    versions.sort();
    let number = |version: &str| version.split('.').map(|part| part.parse().unwrap_or(u64::MAX)).collect::<Vec<_>>();
    let past = versions.iter().take_while(|(version, _)| number(version).as_slice() <= RELEASE.as_slice());
    past.last().map_or("tokenizer.json", |(_, name)| *name).to_owned()
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

/// The command of transformers that writes a tokenizer.json.
pub(super) fn convert(directory: &Path) -> String {
    let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let directory = directory.display();
    format!(
        "with `pip install transformers sentencepiece protobuf tiktoken`, `python -c \"from transformers import \
         AutoTokenizer as T; \
         T.from_pretrained('{directory}').save_pretrained('{directory}')\"` writes a tokenizer.json"
    )
}

pub(super) fn text(path: &Path) -> Result<String> {
    let bytes = contents(path)?;
    if let Some(reason) = recognise(&bytes, path) {
        return Err(Error::bad_file(path, reason));
    }
    String::from_utf8(bytes).map_err(|error| Error::bad_file(path, format!("not UTF-8: {error}")))
}

/// Reads a JSON object; an absent file is an empty one.
///
/// # Errors
/// [`Error::Read`]; [`Error::BadFile`] for a file that is no JSON object.
pub fn object(path: &Path) -> Result<Map<String, Value>> {
    match path.exists() {
        true => {
            let text = text(path)?;
            serde_json::from_slice(&with_tagged_floats(text.as_bytes())).map_err(|error| {
                Error::bad_file(path, format!("{error}{}", mistaken(text.as_bytes(), "; the file is ")))
            })
        }
        false => Ok(Map::new()),
    }
}
