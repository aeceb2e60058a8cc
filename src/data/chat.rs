//! Chat templates: where a model keeps its own, as transformers looks for it, and what it makes of a conversation.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use minijinja::{Environment, ErrorKind, context, syntax::SyntaxConfig, value::Serde};
use serde_json::{Map, Value};

use super::{fence::fence, python};
use crate::error::{Error, Result};

/// A conversation, and what else a template is given.
#[derive(Debug, Clone, Default)]
pub struct Chat {
    pub messages: Vec<Map<String, Value>>,
    pub tools: Option<Value>,
    pub documents: Option<Value>,
    /// Further variables, such as `enable_thinking`.
    pub variables: Map<String, Value>,
}

impl Chat {
    /// A user's message, after one of the system if there is one.
    pub fn of_prompt(prompt: &str, system: Option<&str>) -> Self {
        let message = |role: &str, content: &str| Map::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), content.into())]);
        let messages = system.map(|system| message("system", system)).into_iter().chain([message("user", prompt)]).collect();
        Self { messages, ..Self::default() }
    }
}

/// The chat template of a model.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// For messages.
    path: PathBuf,
    special_tokens: Map<String, Value>,
}

/// Named, where nothing else is.
const DEFAULT: &str = "default";
/// The one for conversations with tools, if there is one.
const TOOL_USE: &str = "tool_use";
/// What a template may do, in minijinja's measure: about a second's work, or 256 MB of text.
const FUEL: u64 = 4_000_000;

impl ChatTemplate {
    /// Finds the template of the model in a directory: chat_template.jinja and additional_chat_templates/*.jinja; where there are none,
    /// `chat_template` of tokenizer_config.json; where there is none, chat_template.json.
    ///
    /// # Errors
    /// [`Error::BadFile`] if there is none, or it does not parse.
    pub fn find(directory: &Path) -> Result<Self> {
        let config = directory.join("tokenizer_config.json");
        let (path, templates) = match files(directory)? {
            (path, templates) if !templates.is_empty() => (path, templates),
            _ => match in_json(&config)? {
                templates if !templates.is_empty() => (config, templates),
                _ => (directory.join("chat_template.json"), in_json(&directory.join("chat_template.json"))?),
            },
        };
        if templates.is_empty() {
            return Err(Error::bad_file(
                directory,
                "no chat template (in chat_template.jinja, additional_chat_templates, tokenizer_config.json or chat_template.json): \
                 put one there, or give plain text",
            ));
        }
        let mut environment = environment();
        for (name, source) in templates {
            let source = without_generation(&source.replace("\r\n", "\n"));
            let added = fence(|| environment.add_template_owned(name.clone(), source)).map_err(|panic| Error::bad_file(&path, panic))?;
            added.map_err(|error| Error::bad_file(&path, format!("the chat template {name:?} is not understood: {}", explained(&error))))?;
        }
        Ok(Self { environment, path, special_tokens: special_tokens(directory)? })
    }

    /// The text of a conversation; with what makes the model answer at its end, if asked for.
    ///
    /// # Errors
    /// The reason, if the template refuses the conversation or does not come to an end.
    pub fn render(&self, chat: &Chat, add_generation_prompt: bool) -> std::result::Result<String, String> {
        if chat.messages.is_empty() {
            return Err("a conversation without messages".into());
        }
        let refused = |reason: String| format!("the chat template of {} does not take this conversation: {reason}", self.path.display());
        let name = if chat.tools.is_some() && self.environment.get_template(TOOL_USE).is_ok() { TOOL_USE } else { DEFAULT };
        let template = self.environment.get_template(name).map_err(|_| {
            let names: Vec<&str> = self.environment.templates().map(|(name, _)| name).collect();
            refused(format!("there are only {}; name one of them {DEFAULT:?}", names.join(", ")))
        })?;
        let mut variables = self.special_tokens.clone();
        variables.extend(chat.variables.clone());
        let messages: Vec<_> = chat.messages.iter().map(completed).collect();
        let given = context! {
            messages => minijinja::Value::from(Serde(messages)),
            tools => minijinja::Value::from(Serde(&chat.tools)),
            documents => minijinja::Value::from(Serde(&chat.documents)),
            add_generation_prompt,
            ..minijinja::Value::from(Serde(variables))
        };
        fence(|| template.render(given)).map_err(refused)?.map_err(|error| {
            refused(match error.kind() {
                ErrorKind::OutOfFuel => "it takes too long, or writes too much".into(),
                _ => explained(&error),
            })
        })
    }
}

/// What transformers gives its templates, in the same spelling.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    // Jinja's filters and functions that minijinja leaves out.
    minijinja_contrib::add_to_environment(&mut environment);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_formatter(python::print);
    environment.set_unknown_method_callback(python::method);
    environment.add_filter("tojson", python::tojson);
    environment.add_test("sequence", python::is_sequence);
    environment.add_function("raise_exception", |reason: String| -> std::result::Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason))
    });
    environment.add_function("strftime_now", |format: String| {
        jiff::fmt::strtime::format(&format, &jiff::ZonedDateTime::now())
            .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}")))
    });
    environment
}

fn explained(error: &minijinja::Error) -> String {
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    error.line().map_or(reason.clone(), |line| format!("{reason} (line {line} of the template)"))
}

/// The templates in files of their own, by name.
fn files(directory: &Path) -> Result<(PathBuf, BTreeMap<String, String>)> {
    let mut templates = BTreeMap::new();
    let mut add = |name: &str, path: &Path| -> Result<()> {
        let text = fs::read(path).map_err(Error::read(path))?;
        let text = String::from_utf8(text).map_err(|_| Error::bad_file(path, "a chat template that is not UTF-8 text"))?;
        templates.insert(name.to_owned(), text);
        Ok(())
    };
    let single = directory.join("chat_template.jinja");
    if single.is_file() {
        add(DEFAULT, &single)?;
    }
    let several = directory.join("additional_chat_templates");
    if several.is_dir() {
        for entry in fs::read_dir(&several).map_err(Error::read(&several))? {
            let path = entry.map_err(Error::read(&several))?.path();
            if let Some(name) =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jinja")).filter(|_| path.is_file())
            {
                add(name, &path)?;
            }
        }
    }
    Ok((single, templates))
}

/// What is at `chat_template` of a file of JSON: one template, or several with names.
fn in_json(path: &Path) -> Result<BTreeMap<String, String>> {
    let bad = || Error::bad_file(path, "chat_template: expected a template, or a list of objects with name and template");
    let named = |template: &Value| Some((template.get("name")?.as_str()?.to_owned(), template.get("template")?.as_str()?.to_owned()));
    match fields(path)?.remove("chat_template") {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(Value::String(template)) => Ok(BTreeMap::from([(DEFAULT.to_owned(), template)])),
        Some(Value::Array(templates)) => templates.iter().map(named).collect::<Option<_>>().ok_or_else(bad),
        Some(Value::Object(templates)) => {
            templates.iter().map(|(name, template)| Some((name.clone(), template.as_str()?.to_owned()))).collect::<Option<_>>().ok_or_else(bad)
        }
        Some(_) => Err(bad()),
    }
}

/// The fields of a file of JSON; none if it is not there.
fn fields(path: &Path) -> Result<Map<String, Value>> {
    if !path.is_file() {
        return Ok(Map::new());
    }
    let text = fs::read(path).map_err(Error::read(path))?;
    serde_json::from_slice(&text).map_err(|error| Error::bad_file(path, format!("expected a JSON object: {error}")))
}

/// The special tokens that have a name, as templates see them. special_tokens_map.json counts where tokenizer_config.json lists no tokens.
fn special_tokens(directory: &Path) -> Result<Map<String, Value>> {
    const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
    let mut named = fields(&directory.join("tokenizer_config.json"))?;
    if !named.contains_key("added_tokens_decoder") {
        named.extend(fields(&directory.join("special_tokens_map.json"))?);
    }
    let text = |token: &Value| token.as_str().or_else(|| token.get("content").and_then(Value::as_str)).map(Value::from);
    Ok(NAMES.iter().filter_map(|&name| Some((name.to_owned(), text(named.get(name)?)?))).collect())
}

/// A message as transformers hands it over: without what is null, and reasoning under each of its names.
fn completed(message: &Map<String, Value>) -> Map<String, Value> {
    let mut message: Map<String, Value> =
        message.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())).collect();
    if let Some(reasoning) = ["reasoning_content", "thinking", "reasoning"].iter().find_map(|name| message.get(*name)).cloned() {
        if !message.contains_key("thinking") {
            message.shift_insert(0, "thinking".into(), reasoning.clone());
        }
        message.insert("reasoning_content".into(), reasoning);
    }
    message
}

/// Writes `{% generation %}` … `{% endgeneration %}`, which marks what a model is trained on, as a block that prints what is in it.
fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let word = tag.trim_matches(['{', '%', '}']).trim_matches(['-', '+']).trim();
        match word {
            "generation" => out.push_str(&tag.replacen(word, "with", 1)),
            "endgeneration" => out.push_str(&tag.replacen(word, "endwith", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out + rest
}
