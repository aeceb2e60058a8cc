//! What chat templates expect of Python where minijinja differs: `json.dumps`, how floats are written, string methods,
//! and what is a sequence.

use minijinja::{
    Error, ErrorKind, Output, State, Value,
    formatting::{self},
    value::{Kwargs, Tuple, ValueKind, from_args},
};
use minijinja_contrib::pycompat::unknown_method_callback;

/// How `json.dumps` is asked to write.
struct Style {
    ascii: bool,
    indent: Option<String>,
    between: String,
    after_key: String,
    sort_keys: bool,
}

/// The filter `tojson` as transformers defines it: `json.dumps` with non-ASCII characters as they are.
pub fn tojson(value: &Value, ensure_ascii: Option<bool>, kwargs: Kwargs) -> Result<Value, Error> {
    let indent = match kwargs.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none()) {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(count) => Some(
            " ".repeat(
                count
                    .as_usize()
                    .filter(|&count| count <= 64)
                    .ok_or_else(|| invalid("an indent of up to 64 is expected"))?,
            ),
        ),
    };
    let separators = kwargs.get::<Option<Value>>("separators")?.filter(|separators| !separators.is_none());
    let (between, after_key) = match separators {
        Some(pair) => match pair.try_iter()?.map(|part| part.to_string()).collect::<Vec<_>>().as_slice() {
            [between, after_key] => (between.clone(), after_key.clone()),
            _ => return Err(invalid("separators are two strings")),
        },
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.or(ensure_ascii).unwrap_or(false);
    let style = Style {
        ascii,
        indent,
        between,
        after_key,
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    Ok(out.into())
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value).replace("inf", "Infinity").replace("nan", "NaN")),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            // What `+` makes of two lists.
            ValueKind::Seq | ValueKind::Iterable => {
                self.list('[', ']', value.try_iter()?, depth, out, |element, out| self.write(&element, depth + 1, out))?
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.list('{', '}', keys.into_iter(), depth, out, |key, out| {
                    match key.kind() {
                        ValueKind::String => self.string(key.as_str().unwrap_or_default(), out),
                        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                            out.push('"');
                            self.write(&key, 0, out)?;
                            out.push('"');
                        }
                        kind => return Err(invalid(format!("a {kind} is no key of JSON"))),
                    }
                    out.push_str(&self.after_key);
                    self.write(&value.get_item(&key)?, depth + 1, out)
                })?;
            }
            kind => return Err(invalid(format!("an {kind} value cannot be written as JSON"))),
        }
        Ok(())
    }

    fn list(
        &self,
        open: char,
        close: char,
        parts: impl Iterator<Item = Value>,
        depth: usize,
        out: &mut String,
        mut write: impl FnMut(Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                (0..depth).for_each(|_| out.push_str(indent));
            }
        };
        out.push(open);
        let mut empty = true;
        for part in parts {
            if !empty {
                out.push_str(&self.between);
            }
            empty = false;
            line(depth + 1, out);
            write(part, out)?;
        }
        if !empty {
            line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for char in text.chars() {
            match char {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\0'..' ' => out.push_str(&format!("\\u{:04x}", u32::from(char))),
                _ if self.ascii && !char.is_ascii() => {
                    char.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
                }
                _ => out.push(char),
            }
        }
        out.push('"');
    }
}

/// A number as Python prints it.
fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => {
            formatting::format(formatting::FormatStyle::StrFormat, "{}", &[float.into()])
                .unwrap_or_else(|_| value.to_string())
        }
        _ => value.to_string(),
    }
}

/// Prints a value as Python's `str` does.
pub fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if value.is_number() && !value.is_integer() && value.kind() == ValueKind::Number {
        return out.write_str(&number(value)).map_err(Error::from);
    }
    minijinja::escape_formatter(out, state, value)
}

/// The test `sequence`: whatever has a length and an order of keys, which strings and dictionaries have, too.
pub fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::String | ValueKind::Map)
}

/// The test `iterable`: what can be gone through, which nothing cannot.
pub fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Methods of Python's strings: those that `pycompat` has, and others that templates use.
pub fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else { return unknown_method_callback(state, value, name, args) };
    let three = |parts: Option<(&str, &str)>, separator: &str, otherwise: [&str; 3]| {
        let parts = parts.map_or(otherwise, |(before, after)| [before, separator, after]);
        Value::from(Tuple::from(parts.map(Value::from)))
    };
    match name {
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(invalid("empty separator"));
            }
            Ok(match name {
                "partition" => three(text.split_once(separator), separator, [text, "", ""]),
                _ => three(text.rsplit_once(separator), separator, ["", "", text]),
            })
        }
        "rsplit" => match from_args(args)? {
            (Some(separator), Some(count)) if count >= 0 && !separator.is_empty() => {
                let mut parts: Vec<&str> = text.rsplitn(count as usize + 1, separator).collect();
                parts.reverse();
                Ok(parts.into_iter().map(Value::from).collect())
            }
            (None::<&str>, Some(0i64..)) => Err(invalid("rsplit with a limit wants a separator")),
            _ => unknown_method_callback(state, value, "split", args),
        },
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            let rest = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Ok(rest.unwrap_or(text).into())
        }
        // Unlike the filter of this name: every letter after anything but a letter.
        "title" => {
            let () = from_args(args)?;
            let mut inside = false;
            let mut titled = String::with_capacity(text.len());
            for char in text.chars() {
                match inside {
                    true => titled.extend(char.to_lowercase()),
                    false => titled.extend(char.to_uppercase()),
                }
                inside = char.is_alphabetic();
            }
            Ok(titled.into())
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(args)?;
            Ok(lines(text, keep.unwrap_or(false)).into_iter().map(Value::from).collect())
        }
        "index" => match unknown_method_callback(state, value, "find", args)? {
            place if place.as_i64() == Some(-1) => Err(invalid("substring not found")),
            place => Ok(place),
        },
        _ => unknown_method_callback(state, value, name, args),
    }
}

/// The lines of a text, which end wherever Python sees an end.
fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    const ENDS: [char; 10] =
        ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(ENDS) {
        let (line, after) = rest.split_at(end);
        let length = if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(0, char::len_utf8) };
        lines.push(if keep_ends { &rest[..end + length] } else { line });
        rest = &after[length..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}
