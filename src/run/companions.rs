//! What goes along from a model to its output unchanged: all that makes the tokenizer and the chat templates work, and
//! the terms of use.

use std::{
    fs,
    path::{Component, Path},
};

use serde_json::{Map, Value};

use crate::{
    checkpoint::{ADDITIONAL_TEMPLATES, COMPANION_FILES, contents, is_foreign_vocabulary},
    data::TokenizerFiles,
    error::{Error, Result},
    json::with_tagged_floats,
    model::{Config, Model},
    progress::Progress,
};

/// What the names of files hold, in whatever case, that say what the model may be used for.
const TERMS: &[&str] = &[
    "license",
    "licence",
    "notice",
    "use_policy",
    "copying",
    "copyright",
    "terms",
    "eula",
    "legal",
    "agreement",
    "rail",
    "patents",
    "disclaimer",
    "attribution",
    "responsible_use",
];

/// How texts end, if they do; others with such names are programs or data.
const TEXTS: &[&str] = &["txt", "md", "rst", "pdf", "html", "htm", "rtf", "doc", "docx", "odt"];

/// How weights end, which never go along, whatever they are called.
const WEIGHTS: &[&str] = &["safetensors", "bin", "pt", "pth", "ckpt", "gguf", "h5", "msgpack", "onnx", "index.json"];

/// The files that go along from a model.
#[derive(Debug, Default)]
pub struct Companions {
    /// The names of those that are copied, relative to the model's directory.
    pub copied: Vec<String>,
    /// The output's tokenizer_config.json, where it cannot be the model's.
    settings: Option<Vec<u8>>,
    /// What does not go along, although something says that it belongs to the model.
    warnings: Vec<String>,
}

const SETTINGS: &str = "tokenizer_config.json";

impl Companions {
    /// Collects what goes along from a model to an output with this config, and warns of what cannot.
    pub fn of(model: &Model, output: &Config, progress: &dyn Progress) -> Self {
        let mut found = Self::within(model.directory());
        match pinned_settings(model, output) {
            Ok(settings) => found.settings = settings,
            // Whoever needs the tokenizer is refused for that; a run on token ids does not.
            Err(error) => {
                found.warnings.push(format!("the tokenizer goes along as it is, but cannot be read: {error}"))
            }
        }
        found.warnings.iter().for_each(|warning| progress.note(warning));
        found
    }

    /// The names of all files that come of them in the output.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.copied.clone();
        if self.settings.is_some() && !names.iter().any(|name| name == SETTINGS) {
            names.push(SETTINGS.to_owned());
        }
        names
    }

    /// What a file holds in the output; `directory` is the model's.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn contents(&self, directory: &Path, name: &str) -> Result<Vec<u8>> {
        let path = directory.join(name);
        match &self.settings {
            Some(settings) if name == SETTINGS => Ok(settings.clone()),
            _ => fs::read(&path).map_err(Error::read(&path)),
        }
    }

    /// Collects what goes along from a directory.
    pub(super) fn within(directory: &Path) -> Self {
        let mut found = Self::default();
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        for name in &names {
            let terms = is_terms(name);
            if COMPANION_FILES.contains(&name.as_str()) || is_foreign_vocabulary(name) || terms {
                let path = directory.join(name);
                if path.is_file() {
                    found.copied.push(name.clone());
                } else if path.is_dir() && terms {
                    found.warnings.push(format!("{name} is a directory, and does not go along to the output"));
                } else if !path.is_dir() {
                    found.missing(name, "a link to nothing");
                }
            }
        }
        let templates = fs::read_dir(directory.join(ADDITIONAL_TEMPLATES)).into_iter().flatten().flatten();
        let mut templates: Vec<_> = templates.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        templates.sort();
        for name in templates.iter().filter(|name| name.ends_with(".jinja")) {
            found.add(directory, &format!("{ADDITIONAL_TEMPLATES}/{name}"), "a link to nothing");
        }
        found.add_named(directory);
        let place =
            |name: &str| COMPANION_FILES.iter().position(|named| *named == name).unwrap_or(COMPANION_FILES.len());
        found.copied.sort_by(|a, b| place(a).cmp(&place(b)).then(a.cmp(b)));
        found
    }

    fn missing(&mut self, name: &str, why: &str) {
        self.warnings.push(format!("{name} does not go along to the output: {why}"));
    }

    /// Takes a file that something names, if it is there.
    fn add(&mut self, directory: &Path, name: &str, why: &str) {
        if !directory.join(name).is_file() {
            self.missing(name, why);
        } else if !self.copied.iter().any(|known| known == name) {
            self.copied.push(name.to_owned());
        }
    }

    /// The files that tokenizer_config.json names.
    fn add_named(&mut self, directory: &Path) {
        let text = contents(&directory.join(SETTINGS)).unwrap_or_default();
        // What is wrong with the file is said where it is used.
        let settings: Map<String, Value> = serde_json::from_slice(&with_tagged_floats(&text)).unwrap_or_default();
        for (field, value) in &settings {
            let Some(name) = value.as_str() else { continue };
            let is_template = field == "chat_template" && name.len() < 256 && directory.join(name).is_file();
            if field.ends_with("_file") && !name.is_empty() && !is_within(name) && !is_weights(name) {
                self.missing(
                    name,
                    &format!("tokenizer_config.json names it as {field}, outside of the model's directory"),
                );
            } else if is_within(name) && (field.ends_with("_file") || is_template) {
                self.add(directory, name, &format!("tokenizer_config.json names it as {field}, and it is not there"));
            }
        }
        let versions = settings.get("fast_tokenizer_files").and_then(Value::as_array).into_iter().flatten();
        for name in versions.filter_map(Value::as_str).filter(|name| is_within(name)) {
            self.add(directory, name, "tokenizer_config.json names it in fast_tokenizer_files, and it is not there");
        }
        let codes = match settings.get("auto_map") {
            Some(Value::Object(classes)) => classes.get("AutoTokenizer"),
            other => other,
        };
        let codes = match codes {
            Some(Value::Array(classes)) => classes.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(class)) => vec![class.as_str()],
            _ => Vec::new(),
        };
        for class in codes {
            match class.split_once("--") {
                Some((repository, _)) => {
                    self.missing(
                        class,
                        &format!("the Python code of the tokenizer lies in the repository {repository}"),
                    );
                }
                None => self.add_code(directory, class.split('.').next().unwrap_or_default()),
            }
        }
    }

    /// A Python file of the tokenizer, and those that it imports from beside it.
    fn add_code(&mut self, directory: &Path, module: &str) {
        let name = format!("{module}.py");
        if !is_word(module) || self.copied.contains(&name) {
            return;
        }
        self.add(directory, &name, "tokenizer_config.json names it in auto_map, and it is not there");
        let code = fs::read_to_string(directory.join(&name)).unwrap_or_default();
        for line in code.lines() {
            let import = line.trim().strip_prefix("from .").and_then(|rest| rest.split_once(" import "));
            if let Some((module, names)) = import {
                let modules = if module.trim().is_empty() { names } else { module };
                modules.split(',').for_each(|module| self.add_code(directory, module.trim()));
            }
        }
    }
}

/// Whether a name is that of a file within the directory, and no weights.
fn is_within(name: &str) -> bool {
    let normal = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    normal && !name.is_empty() && !is_weights(name)
}

fn is_word(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|char| char.is_alphanumeric() || char == '_')
}

fn is_terms(name: &str) -> bool {
    let lower = name.to_ascii_lowercase().replace(['-', ' '], "_");
    // Where a word begins: at the start, after a separator, or in a name of ThisKind.
    let begins = |at: usize| {
        let before = name[..at].chars().next_back();
        before.is_none_or(|before| {
            !before.is_alphabetic() || (before.is_lowercase() && name[at..].starts_with(char::is_uppercase))
        })
    };
    let is_text = lower.rsplit_once('.').is_none_or(|(_, ending)| TEXTS.contains(&ending));
    let named = |terms: &&str| lower.match_indices(*terms).any(|(at, _)| begins(at) && (at == 0 || is_text));
    TERMS.iter().any(named) && !is_weights(name)
}

fn is_weights(name: &str) -> bool {
    let name = name.to_lowercase();
    WEIGHTS.iter().any(|ending| name.ends_with(&format!(".{ending}")))
}

/// The tokenizer_config.json of an output, where it has to name the class that transformers chose by the `model_type`
/// of the original; `None` where the original's does as it is.
///
/// # Errors
/// [`Error::BadFile`], [`Error::Read`] for files that cannot be read.
fn pinned_settings(model: &Model, output: &Config) -> Result<Option<Vec<u8>>> {
    let files = TokenizerFiles::read(model.directory())?;
    let class_of = |config: &Config| config.tokenizer_class(files.named_class(), files.of_bytes());
    let class = class_of(model.config());
    if !files.any() || class == class_of(output) {
        return Ok(None);
    }
    let mut settings = files.settings().clone();
    settings.insert("tokenizer_class".into(), class.into());
    let text = serde_json::to_string_pretty(&settings).map_err(Error::internal)?;
    Ok(Some(format!("{text}\n").into_bytes()))
}
