//! Texts that are JSON: one value, an array of them, or one a line; distinguished from plain text by whether they
//! parse.

use std::{fmt, path::Path};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, error::Category};

use super::foreign::named;
use crate::{
    error::{Error, Result},
    json::{not_a_number, with_tagged_floats},
};

/// Where in a file a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is the file.
    Whole,
    /// A line, from 1.
    Line(usize),
    /// An element of the array that is the file, from 0.
    Element(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Line(line) => write!(formatter, "line {line}: "),
            Self::Element(element) => write!(formatter, "element {element} of the array: "),
        }
    }
}

/// The values of a file.
pub enum Values<'a> {
    Whole(Value),
    Lines(Vec<(usize, &'a str)>),
    Elements(Vec<Value>),
}

impl<'a> Values<'a> {
    /// Finds out whether a text is JSON. A file that is named like JSON has to be; any other one is if it parses, and
    /// looks like it if most of its lines are objects or lists, or if it is put in braces or brackets as only JSON is:
    /// then it is damaged, and no text.
    ///
    /// # Errors
    /// [`Error::BadFile`] where JSON is named, begun or meant, and does not parse.
    pub fn find(text: &'a str, path: &Path) -> Result<Option<Self>> {
        let by_lines = named(path, &["jsonl", "ndjson", "jsonlines"]);
        let must = by_lines || named(path, &["json"]);
        let lines: Vec<(usize, &str)> = text
            .split('\n')
            .enumerate()
            // Some write a record separator before each value.
            .map(|(index, line)| (index + 1, line.trim_matches(|char: char| char.is_whitespace() || char == '\u{1e}')))
            .filter(|(_, line)| !line.is_empty())
            .collect();
        let Some(first) = lines.first().and_then(|(_, line)| line.chars().next()) else { return Ok(None) };
        if by_lines && lines.len() == 1 {
            return Ok(Some(Self::Lines(lines)));
        }
        if lines.len() > 1 && is_by_lines(&lines, must) {
            return Ok(Some(Self::Lines(lines)));
        }
        if !must && !matches!(first, '{' | '[' | '"') {
            return match without_comment(&lines) {
                Some(comment) => Err(Error::bad_file(
                    path,
                    format!(
                        "looks like JSON and is none: line {comment} is a comment, which JSON has none of; remove it"
                    ),
                )),
                None => Ok(None),
            };
        }
        match parse(text.trim_matches('\u{1e}')) {
            Ok(Value::String(_)) if !must => Ok(None),
            Ok(Value::Array(elements)) => Ok(Some(Self::Elements(elements))),
            Ok(value) => Ok(Some(Self::Whole(value))),
            // Objects one after the other, each over several lines.
            Err(_) if first == '{' && second_object(text) => Err(Error::bad_file(
                path,
                "several JSON objects over several lines each; write one a line, for example with jq -c . FILE",
            )),
            // What ends too early was JSON up to there.
            Err(error)
                if must || (first != '"' && error.classify() == Category::Eof) || is_in_brackets(text.trim()) =>
            {
                Err(Error::bad_file(
                    path,
                    format!(
                        "looks like JSON and is none: line {}, column {}: {}",
                        error.line(),
                        error.column(),
                        reason(&error)
                    ),
                ))
            }
            Err(_) => Ok(None),
        }
    }

    /// Hands over each value and its place.
    ///
    /// # Errors
    /// [`Error::BadFile`] if a line does not parse; whatever `each` reports.
    pub fn each(self, path: &Path, mut each: impl FnMut(Place, Value) -> Result<()>) -> Result<()> {
        match self {
            Self::Whole(value) => each(Place::Whole, value),
            Self::Elements(elements) => {
                elements.into_iter().enumerate().try_for_each(|(index, value)| each(Place::Element(index), value))
            }
            Self::Lines(lines) => lines.into_iter().try_for_each(|(line, text)| {
                let value = parse(text).map_err(|error| {
                    Error::bad_file(
                        path,
                        format!(
                            "line {line} is no JSON: column {}: {}; mend or remove the line",
                            error.column(),
                            reason(&error)
                        ),
                    )
                })?;
                each(Place::Line(line), value)
            }),
        }
    }
}

/// Whether each line is a value: of texts that need not be JSON, if most are objects or lists of such or of texts,
/// damaged or not, or all are.
fn is_by_lines(lines: &[(usize, &str)], must: bool) -> bool {
    if must {
        // The first line is a value, or would be but for what is in it.
        let within = [('{', '}'), ('[', ']')]
            .iter()
            .any(|(open, close)| lines.iter().all(|(_, line)| line.starts_with(*open) && line.ends_with(*close)));
        return within || parse(lines[0].1).is_ok();
    }
    let is_value = |line: &str| match parse(line.trim_end_matches(',')) {
        Ok(Value::Object(_)) => true,
        Ok(Value::Array(elements)) => elements.iter().any(|element| element.is_object() || element.is_string()),
        _ => false,
    };
    let most = |is: &dyn Fn(&str) -> bool| 2 * lines.iter().filter(|(_, line)| is(line)).count() > lines.len();
    // Of an object or a list over several lines, a line to a brace, the first is no value.
    let most = most(&|line| line.starts_with(['{', '['])) && (is_value(lines[0].1) || most(&is_value));
    most || (lines[0].1.starts_with(['{', '[', '"']) && lines.iter().all(|(_, line)| parse(line).is_ok()))
}

/// The line of a comment before what would be JSON without it.
fn without_comment(lines: &[(usize, &str)]) -> Option<usize> {
    let is_comment = |line: &str| line.starts_with("//") || line.starts_with('#');
    let rest: Vec<_> = lines.iter().skip_while(|(_, line)| is_comment(line)).collect();
    let (first, begun) = (lines.first()?, rest.first()?);
    let whole = || rest.iter().map(|(_, line)| *line).collect::<Vec<_>>().join("\n");
    let is = is_comment(first.1)
        && begun.1.starts_with(['{', '['])
        && (rest.iter().all(|(_, line)| parse(line).is_ok()) || parse(&whole()).is_ok());
    is.then_some(first.0)
}

/// Whether a text is put in braces or brackets, and what stands in them begins like JSON, or as Python and JavaScript
/// write such.
fn is_in_brackets(text: &str) -> bool {
    let within = |open: char, close: char| {
        let text = text.trim_end_matches(',').trim_end();
        text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close)).map(str::trim_start)
    };
    let is_key = |text: &str| {
        let quoted = text.starts_with(['"', '\'']);
        let word = text.split(':').next().unwrap_or_default().trim_end();
        quoted
            || (text.contains(':')
                && !word.is_empty()
                && word.chars().all(|char| char.is_alphanumeric() || char == '_'))
    };
    let object = within('{', '}').is_some_and(is_key);
    let list = || {
        let inside = within('[', ']')?;
        Some(
            inside
                .strip_prefix('{')
                .map_or_else(|| inside.starts_with(['"', '\'']), |object| is_key(object.trim_start())),
        )
    };
    object || list().unwrap_or(false)
}

/// Whether a text begins with one object, and continues with another.
fn second_object(text: &str) -> bool {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    values.next().is_some_and(|first| first.is_ok()) && text[values.byte_offset()..].trim_start().starts_with('{')
}

/// What is wrong, without the place, which is given in the file's own lines.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(&*text, |(reason, _)| reason);
    // What the parser says of "\ud800" with no other half after it.
    if reason.contains("hex escape") {
        format!("{reason}, or half of a surrogate pair, which is no character")
    } else {
        reason.to_owned()
    }
}

/// A value for messages.
pub fn described(value: &Value) -> String {
    if let Some(literal) = not_a_number(value) {
        return literal.to_owned();
    }
    match value {
        Value::Array(array) if !array.is_empty() && array.iter().all(Value::is_number) => "an array of numbers".into(),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
        Value::String(_) => "a string".into(),
        other => other.to_string(),
    }
}

/// Parses one value; a key that an object has twice is an error, since either value may be meant.
pub fn parse(text: &str) -> serde_json::Result<Value> {
    let tagged = with_tagged_floats(text.as_bytes());
    let mut deserializer = serde_json::Deserializer::from_slice(&tagged);
    let value = Strict.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> std::result::Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(element) = elements.next_element_seed(Strict)? {
            array.push(element);
        }
        Ok(array.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> std::result::Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            let value = fields.next_value_seed(Strict)?;
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} is there twice")));
            }
            object.insert(key, value);
        }
        Ok(object.into())
    }
}
