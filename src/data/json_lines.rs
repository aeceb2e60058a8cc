//! Rows of a data set, as JSON → texts, conversations or token ids. Which keys make a row is decided here.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{
    chat::{Chat, ChatTemplate},
    examples::{Example, answers},
    json::{Place, Values, described},
    tokens::TokenRows,
};
use crate::{
    error::{Error, Result},
    json::is_falsy,
    progress::Progress,
};

/// What a row may be, for messages.
pub const KNOWN: &str = "a JSON string or an object with \"text\", \"content\", \"messages\" or \"conversations\", \
     \"instruction\" and \"output\", \
                         \"prompt\" and \"completion\", or \"input_ids\"";

/// The forms of a row. Where a row has the keys of several, the one named first here counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    InputIds,
    Messages,
    Conversations,
    Text,
    Content,
    Instruction,
    Prompt,
}

impl Form {
    /// All forms and the keys that make them.
    const ALL: [(Self, &[&str]); 7] = [
        (Self::InputIds, &["input_ids"]),
        (Self::Messages, &["messages"]),
        (Self::Conversations, &["conversations"]),
        (Self::Text, &["text"]),
        (Self::Content, &["content"]),
        (Self::Instruction, &["instruction", "output"]),
        (Self::Prompt, &["prompt", "completion"]),
    ];

    fn key(self) -> &'static str {
        Self::ALL.iter().find(|(form, _)| *form == self).map_or("", |(_, keys)| keys[0])
    }

    /// Whether it has questions and answers.
    fn asks(self) -> bool {
        matches!(self, Self::Messages | Self::Conversations | Self::Instruction | Self::Prompt)
    }
}

/// Keys that would change what a dialogue says, or which part of a row counts, and that are not honoured.
const MEANINGFUL: &[&str] = &[
    "add_generation_prompt",
    "chat_template",
    "context",
    "continue_final_message",
    "enable_thinking",
    "functions",
    "history",
    "loss_mask",
    "parallel_tool_calls",
    "suffix",
    "system",
    "system_prompt",
    "weight",
];

/// Those of them that mean the same beside a text.
const OF_TEXTS: &[&str] = &["loss_mask", "weight"];

/// Parameters of transformers' apply_chat_template, which take what is given by these names before a template sees it.
const ARGUMENTS: &[&str] = &[
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "documents",
    "max_length",
    "messages",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
    "truncation",
];

/// Keys of a message that say how much of it a model is trained on; here, all of it counts.
const WEIGHING: &[&str] = &["weight", "train", "loss", "loss_mask", "mask", "train_on_turn"];

/// The rows of a file.
pub enum Rows {
    Tokens(Vec<Vec<u32>>),
    Texts(Vec<String>),
    /// Conversations, rendered.
    Chats(Vec<String>),
    /// Questions and answers, where these were asked for.
    Examples(Vec<Example>),
}

/// What becomes of rows with questions and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Questions {
    /// They are text like any other.
    Joined,
    /// Each stays by itself.
    Apart,
    /// The same, and where the answers are is found out.
    Marked,
}

/// Reads all rows; conversations are rendered by the chat template.
///
/// # Errors
/// [`Error::BadFile`] that says which row is not known.
pub fn read_rows(
    values: Values,
    path: &Path,
    template: &dyn Fn() -> Result<ChatTemplate>,
    questions: Questions,
    progress: &dyn Progress,
) -> Result<Rows> {
    let mut reader = Reader {
        find: template,
        questions,
        form: None,
        tokens: TokenRows::default(),
        rows: Vec::new(),
        template: None,
        passed_over: None,
    };
    values.each(path, |place, value| {
        reader.add(value, place).map_err(|problem| match problem {
            Problem::Row(reason) => Error::bad_file(path, reason),
            Problem::Template(error) => error,
        })
    })?;
    if let Some((form, other)) = reader.passed_over {
        progress.note(&format!("{}: rows have both {form:?} and {other:?}; {form:?} counts", path.display()));
    }
    let texts = |rows: Vec<Example>| rows.into_iter().map(|row| row.text).collect();
    Ok(match reader.form {
        Some((Form::InputIds, _)) => Rows::Tokens(reader.tokens.finish(path, progress)?),
        Some((form, _)) if questions != Questions::Joined && form.asks() => Rows::Examples(reader.rows),
        Some((Form::Messages | Form::Conversations, _)) => Rows::Chats(texts(reader.rows)),
        _ => Rows::Texts(texts(reader.rows)),
    })
}

enum Problem {
    Row(String),
    Template(Error),
}

impl From<String> for Problem {
    fn from(reason: String) -> Self {
        Self::Row(reason)
    }
}

struct Reader<'a> {
    find: &'a dyn Fn() -> Result<ChatTemplate>,
    questions: Questions,
    /// That of the first row, and where it stands: the others must have the same.
    form: Option<(Form, Place)>,
    tokens: TokenRows,
    rows: Vec<Example>,
    template: Option<ChatTemplate>,
    /// The keys of a form that did not count.
    passed_over: Option<(&'static str, &'static str)>,
}

impl Reader<'_> {
    fn add(&mut self, value: Value, place: Place) -> std::result::Result<(), Problem> {
        let mut fields = match value {
            Value::String(text) => Map::from_iter([("text".to_owned(), text.into())]),
            // A conversation without an object around it.
            Value::Array(messages) if !messages.is_empty() && messages.iter().all(is_message) => {
                Map::from_iter([("messages".to_owned(), messages.into())])
            }
            Value::Object(fields) => fields,
            other => {
                let found = described(&other);
                let way = "; if such lines are a text of their own, give it as {\"text\": \"...\"}";
                let way = if other.is_array() || other.is_number() { way } else { "" };
                return Err(format!("{place}expected {KNOWN}; found {found}{way}").into());
            }
        };
        let form = self.form(&fields, place)?;
        if form == Form::InputIds {
            return Ok(self.tokens.add(fields, place)?);
        }
        let plain = matches!(form, Form::Text | Form::Content);
        let meaningful = MEANINGFUL.iter().filter(|name| !plain || OF_TEXTS.contains(name));
        if let Some(name) = meaningful.copied().find(|name| fields.get(*name).is_some_and(|value| !is_empty(value))) {
            let advice = match name {
                "system" | "system_prompt" => "; make it the first of \"messages\", with the role \"system\"",
                _ => "",
            };
            return Err(format!(
                "{place}the field {name:?} is not read and may change what the row means; remove it{advice}"
            )
            .into());
        }
        let (given_input, dialogue) = (
            fields.get("input").is_some_and(|input| !input.is_null()),
            fields.get("prompt").is_some_and(Value::is_array),
        );
        let mut string = |key: &str| string(&mut fields, key).map_err(|reason| format!("{place}{reason}"));
        let row = match form {
            Form::Text => Example::text(string("text")?),
            Form::Content => Example::text(string("content")?),
            Form::Instruction => {
                let input = if given_input { string("input")? } else { String::new() };
                Example::answered(alpaca(&string("instruction")?, &input), &string("output")?)
            }
            Form::Prompt if !dialogue => Example::answered(string("prompt")?, &string("completion")?),
            _ => {
                let chat = conversation(form, fields).map_err(|reason| format!("{place}{reason}"))?;
                let template = match &mut self.template {
                    Some(template) => template,
                    none => none.insert((self.find)().map_err(Problem::Template)?),
                };
                let row = template.render(&chat, false).and_then(|text| {
                    let marked = self.questions == Questions::Marked;
                    let answers = if marked { answers(template, &chat, &text)? } else { Vec::new() };
                    Ok(Example { text, answers, rendered: true })
                });
                row.map_err(|reason| format!("{place}{reason}"))?
            }
        };
        self.rows.push(row);
        Ok(())
    }

    /// The form of a row, which must be that of the rows before.
    fn form(&mut self, fields: &Map<String, Value>, place: Place) -> std::result::Result<Form, Problem> {
        let given = |key: &str| fields.get(key).is_some_and(|value| !value.is_null());
        let mut found =
            Form::ALL.into_iter().filter(|(_, keys)| keys.iter().all(|key| given(key))).map(|(form, _)| form);
        let Some(mut form) = found.next() else {
            let null =
                Form::ALL.iter().flat_map(|(_, keys)| *keys).find(|key| fields.get(**key).is_some_and(Value::is_null));
            let found = match null {
                Some(key) => format!("found {key:?} that is null"),
                None if fields.is_empty() => "found an object with nothing in it".into(),
                None => format!(
                    "found an object with {}",
                    fields.keys().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ")
                ),
            };
            return Err(format!("{place}expected {KNOWN}; {found}").into());
        };
        // A description of tokens that are there.
        if let Some(other) = found.find(|other| form != Form::InputIds || *other != Form::Text) {
            self.passed_over.get_or_insert((form.key(), other.key()));
        }
        if form == Form::Content && given("role") {
            return Err(format!(
                "{place}a message outside of a conversation; expected {{\"messages\": [{{\"role\": ..., \
                     \"content\": ...}}, ...]}}"
            )
            .into());
        }
        if form == Form::Prompt && fields["prompt"].is_array() {
            form = Form::Messages;
        }
        match self.form {
            Some((first, at)) if first != form => Err(format!(
                "{place}a row with {:?} where the first ({}) has {:?}; rows must be of one kind: put each kind into a \
                 file of its own",
                form.key(),
                at.to_string().trim_end_matches(": "),
                first.key()
            )
            .into()),
            _ => {
                self.form.get_or_insert((form, place));
                Ok(form)
            }
        }
    }
}

fn string(fields: &mut Map<String, Value>, key: &str) -> std::result::Result<String, String> {
    match fields.shift_remove(key) {
        Some(Value::String(text)) => Ok(text),
        other => Err(format!("{key:?} is {}, expected a string", described(&other.unwrap_or_default()))),
    }
}

fn is_message(value: &Value) -> bool {
    value.get("role").is_some() || value.get("from").is_some()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(array) => array.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}

/// The prompt that Alpaca was trained on, up to its answer.
fn alpaca(instruction: &str, input: &str) -> String {
    let (more, input) = match input {
        "" => ("", String::new()),
        input => (", paired with an input that provides further context", format!("### Input:\n{input}\n\n")),
    };
    format!(
        "Below is an instruction that describes a task{more}. Write a response that appropriately completes the \
         request.\n\n\
         ### Instruction:\n{instruction}\n\n{input}### Response:\n"
    )
}

/// The conversation of a row, in the names that templates know.
fn conversation(form: Form, mut fields: Map<String, Value>) -> std::result::Result<Chat, String> {
    let prompted = fields.get("messages").is_none_or(Value::is_null);
    let mut list = |key: &str| match fields.shift_remove(key) {
        Some(Value::Array(messages)) => Ok(messages),
        other => Err(format!("{key:?} is {}, expected a list of messages", described(&other.unwrap_or_default()))),
    };
    let messages = match form {
        Form::Conversations => list("conversations")?,
        _ if !prompted => list("messages")?,
        _ => [list("prompt")?, list("completion")?].concat(),
    };
    let mut chat = Chat { messages: Vec::new(), tools: None, documents: None, variables: Map::new() };
    for (index, message) in messages.into_iter().enumerate() {
        let Value::Object(message) = message else {
            return Err(format!("message {index} is {}, expected an object", described(&message)));
        };
        if let Some(name) = WEIGHING.iter().find(|name| message.get(**name).is_some_and(|value| !value.is_null())) {
            return Err(format!(
                "message {index}: {name:?} says whether it counts for training, which is not read; remove it"
            ));
        }
        chat.messages.push(named_by_role(message).map_err(|reason| format!("message {index}: {reason}"))?);
    }
    let mut given = |key: &str| fields.shift_remove(key).filter(|value| !value.is_null());
    chat.tools = given("tools");
    if let Some(tools) = chat.tools.as_ref().filter(|tools| !tools.is_array()) {
        return Err(format!("\"tools\" is {}, expected a list of objects", described(tools)));
    }
    chat.documents = given("documents");
    match given("chat_template_kwargs") {
        None => {}
        Some(Value::Object(variables)) => {
            let asks = |name: &&&str| variables.get(**name).is_some_and(|value| !is_falsy(value));
            if let Some(name) = ARGUMENTS.iter().find(asks) {
                return Err(format!(
                    "\"chat_template_kwargs\" has {name:?}, which is no variable of the template but changes how \
                     transformers renders, and is not applied; remove it"
                ));
            }
            chat.variables = variables;
        }
        Some(other) => return Err(format!("\"chat_template_kwargs\" is {}, expected an object", described(&other))),
    }
    Ok(chat)
}

/// Roles, and what ShareGPT calls them.
const SPEAKERS: [(&str, &str); 4] =
    [("user", "human user"), ("assistant", "assistant gpt"), ("system", "system"), ("tool", "tool")];

/// A message with `role` and `content`, also from ShareGPT's `from` and `value`.
fn named_by_role(mut message: Map<String, Value>) -> std::result::Result<Map<String, Value>, String> {
    if message.contains_key("role") {
        return if message["role"].is_string() {
            Ok(message)
        } else {
            Err(format!("\"role\" is {}, expected a string", described(&message["role"])))
        };
    }
    let (Some(from), Some(value)) = (message.shift_remove("from"), message.shift_remove("value")) else {
        let keys = message.keys().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
        return Err(format!("expected \"role\" and \"content\", or \"from\" and \"value\"; found {keys}"));
    };
    let names = |(_, names): &&(&str, &str)| names.split(' ').any(|name| from == name);
    let Some((role, _)) = SPEAKERS.iter().find(names) else {
        return Err(format!("\"from\" is {from}, expected human, gpt, system, user, assistant or tool"));
    };
    let mut named = Map::from_iter([("role".to_owned(), json!(role)), ("content".to_owned(), value)]);
    named.extend(message);
    Ok(named)
}
