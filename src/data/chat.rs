//! The chat template of a model, and what it makes of a conversation.

use std::path::{Path, PathBuf};

use minijinja::{Environment, ErrorKind, context, syntax::SyntaxConfig, value::Serde};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::{
    chat_templates::chat_templates, clock::strftime, fence::fence, python, python_methods, template_filters,
    template_source::translated, tokenizer_build::BuiltTokenizer, tokenizer_files::ROLES,
};
use crate::{
    error::{Error, Result},
    json::not_a_number,
};

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
        let message = |role: &str, content: &str| {
            Map::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), content.into())])
        };
        let messages =
            system.map(|system| message("system", system)).into_iter().chain([message("user", prompt)]).collect();
        Self { messages, ..Self::default() }
    }
}

/// The chat template of a model.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The model, for messages.
    shown: PathBuf,
    special_tokens: Map<String, Value>,
}

/// Named, where nothing else is.
const DEFAULT: &str = "default";
/// The one for conversations with tools, if there is one.
const TOOL_USE: &str = "tool_use";
/// What a template may do, in the measure of minijinja: about a second of work, or 640 MB of text.
const FUEL: u64 = 10_000_000;

impl ChatTemplate {
    /// Finds the template of the model in a directory (see [`chat_templates`]), whose tokenizer this is.
    ///
    /// # Errors
    /// [`Error::BadFile`] if there is none, or it does not parse.
    pub fn find(directory: &Path, tokenizer: &BuiltTokenizer) -> Result<Self> {
        Self::find_for(directory, directory, tokenizer)
    }

    /// The same of a model that messages call `shown`: of a GGUF file, the directory is made for the time being.
    ///
    /// # Errors
    /// As [`ChatTemplate::find`].
    pub fn find_for(shown: &Path, directory: &Path, tokenizer: &BuiltTokenizer) -> Result<Self> {
        let bad = |reason: String| Error::bad_file(shown, reason);
        let templates = chat_templates(directory)?;
        if templates.is_empty() && shown != directory {
            return Err(bad("no chat template in its metadata (tokenizer.chat_template): give plain text".into()));
        }
        if templates.is_empty() {
            return Err(bad("no chat template (in chat_template.jinja, additional_chat_templates, \
                 tokenizer_config.json or chat_template.json): \
                            put one there, or give plain text"
                .into()));
        }
        let mut environment = environment();
        for (name, source) in templates {
            let unclear = |reason: String| bad(format!("the chat template {name:?} is not understood: {reason}"));
            let source = translated(&source).map_err(unclear)?;
            let added = fence(|| environment.add_template_owned(name.clone(), source)).map_err(bad)?;
            added.map_err(|error| unclear(explained(&error)))?;
        }
        Ok(Self { environment, shown: shown.to_owned(), special_tokens: special_tokens(tokenizer) })
    }

    /// The text of a conversation; with what makes the model answer at its end, if asked for.
    ///
    /// # Errors
    /// The reason, if the template refuses the conversation or does not come to an end.
    pub fn render(&self, chat: &Chat, add_generation_prompt: bool) -> std::result::Result<String, String> {
        if chat.messages.is_empty() {
            return Err("a conversation without messages".into());
        }
        let refused = |reason: String| {
            format!("the chat template of {} does not take this conversation: {reason}", self.shown.display())
        };
        let name =
            if chat.tools.is_some() && self.environment.get_template(TOOL_USE).is_ok() { TOOL_USE } else { DEFAULT };
        let template = self.environment.get_template(name).map_err(|_| {
            let names: Vec<&str> = self.environment.templates().map(|(name, _)| name).collect();
            refused(format!("there are only {}; name one of them {DEFAULT:?}", names.join(", ")))
        })?;
        let mut variables = self.special_tokens.clone();
        variables.extend(chat.variables.clone());
        let messages: Vec<_> = chat.messages.iter().map(completed).collect();
        let given = context! {
            messages => minijinja::Value::from(Serde(messages.iter().map(Fields).collect::<Vec<_>>())),
            tools => minijinja::Value::from(Serde(chat.tools.as_ref().map(AsPython))),
            documents => minijinja::Value::from(Serde(chat.documents.as_ref().map(AsPython))),
            add_generation_prompt,
            ..minijinja::Value::from(Serde(Fields(&variables)))
        };
        fence(|| template.render(given)).map_err(refused)?.map_err(|error| {
            refused(match error.kind() {
                ErrorKind::OutOfFuel => "it takes too long, or writes too much".into(),
                _ => explained(&error),
            })
        })
    }
}

/// JSON as Python reads it: floats that are no numbers are floats.
struct AsPython<'a>(&'a Value);

/// An object of such values.
struct Fields<'a>(&'a Map<String, Value>);

impl Serialize for AsPython<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match (not_a_number(self.0), self.0) {
            (Some("NaN"), _) => serializer.serialize_f64(f64::NAN),
            (Some("-Infinity"), _) => serializer.serialize_f64(f64::NEG_INFINITY),
            (Some(_), _) => serializer.serialize_f64(f64::INFINITY),
            (None, Value::Array(items)) => serializer.collect_seq(items.iter().map(AsPython)),
            (None, Value::Object(fields)) => Fields(fields).serialize(serializer),
            (None, other) => other.serialize(serializer),
        }
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, AsPython(value))))
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
    environment.set_unknown_method_callback(python_methods::method);
    template_filters::add_to(&mut environment);
    environment.add_filter("tojson", python::tojson);
    environment.add_test("sequence", python::is_sequence);
    environment.add_test("iterable", python::is_iterable);
    environment.add_function("raise_exception", |reason: String| -> std::result::Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason))
    });
    environment.add_function("strftime_now", |format: String| {
        strftime(&format, &jiff::ZonedDateTime::now())
            .map_err(|reason| minijinja::Error::new(ErrorKind::InvalidOperation, reason))
    });
    environment
}

fn explained(error: &minijinja::Error) -> String {
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    error.line().map_or(reason.clone(), |line| format!("{reason} (line {line} of the template)"))
}

/// The special tokens with a role, as templates see them.
fn special_tokens(tokenizer: &BuiltTokenizer) -> Map<String, Value> {
    let token = |name: &&str| {
        Some((
            (*name).to_owned(),
            tokenizer.tokenizer.id_to_token(tokenizer.role(name.strip_suffix("_token")?)?)?.into(),
        ))
    };
    // Those that only some models have, too.
    let own = tokenizer.roles.iter().filter(|(role, _)| !ROLES.contains(&format!("{role}_token").as_str()));
    let own =
        own.filter_map(|(role, id)| Some((format!("{role}_token"), tokenizer.tokenizer.id_to_token(*id)?.into())));
    ROLES.iter().filter_map(token).chain(own).collect()
}

/// A message as transformers hands it over: without what is null, and reasoning under each of its names.
fn completed(message: &Map<String, Value>) -> Map<String, Value> {
    let mut message: Map<String, Value> =
        message.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())).collect();
    if let Some(reasoning) =
        ["reasoning_content", "thinking", "reasoning"].iter().find_map(|name| message.get(*name)).cloned()
    {
        if !message.contains_key("thinking") {
            message.shift_insert(0, "thinking".into(), reasoning.clone());
        }
        message.insert("reasoning_content".into(), reasoning);
    }
    message
}
