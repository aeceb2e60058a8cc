//! The chat templates of a model, from each of the places where transformers looks for them.

use std::{fs, path::Path};

use serde_json::Value;

use super::tokenizer_files::{object, text};
use crate::{
    checkpoint::ADDITIONAL_TEMPLATES,
    error::{Error, Result},
};

/// The templates beside a model by name, `default` first. Those in files of their own come before what
/// tokenizer_config.json has, and that before the chat_template.json of older processors; the places are not mixed.
///
/// # Errors
/// [`Error::Read`]; [`Error::BadFile`] for files that are not UTF-8 or not JSON, and for templates that are no texts.
pub fn chat_templates(directory: &Path) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let path = directory.join("chat_template.jinja");
    if path.is_file() {
        found.push(("default".to_owned(), text(&path)?));
    }
    let additional = directory.join(ADDITIONAL_TEMPLATES);
    let mut files: Vec<_> =
        fs::read_dir(&additional).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.is_file()) {
        if let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jinja")) {
            found.push((name.to_owned(), text(path)?));
        }
    }
    for file in ["tokenizer_config.json", "chat_template.json"] {
        if found.is_empty() {
            let path = directory.join(file);
            found = named(&path, object(&path)?.get("chat_template").unwrap_or(&Value::Null))?;
        }
    }
    // The last of a name counts, at the place of the first.
    let mut templates: Vec<(String, String)> = Vec::new();
    for (name, source) in found {
        let source = source.replace("\r\n", "\n");
        match templates.iter_mut().find(|(known, _)| *known == name) {
            Some((_, earlier)) => *earlier = source,
            None => templates.push((name, source)),
        }
    }
    templates.sort_by_key(|(name, _)| name != "default");
    Ok(templates)
}

/// What a JSON file has for templates: one, a list of objects with `name` and `template`, or one object by name.
fn named(path: &Path, value: &Value) -> Result<Vec<(String, String)>> {
    let wrong = || {
        let expected = "expected a text, or a list of objects with name and template";
        Error::bad_file(path, format!("chat_template: {expected}"))
    };
    let pair = |name: Option<&str>, template: &Value| {
        let text = |text: &str| text.to_owned();
        Ok((name.map(text).ok_or_else(wrong)?, template.as_str().map(text).ok_or_else(wrong)?))
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(template) => Ok(vec![("default".to_owned(), template.clone())]),
        Value::Array(list) => {
            let entries = list.iter().map(|entry| (entry["name"].as_str(), &entry["template"]));
            entries.map(|(name, template)| pair(name, template)).collect()
        }
        Value::Object(fields) => fields.iter().map(|(name, template)| pair(Some(name), template)).collect(),
        _ => Err(wrong()),
    }
}
