//! What chat templates expect of Python where minijinja differs: `json.dumps`, how floats are written, and what is a
//! sequence.

use minijinja::{
    Error, Output, State, Value,
    formatting::{self},
    value::{Kwargs, ValueKind},
};

use super::python_objects::{Range, View, invalid};

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

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if value.downcast_object_ref::<Range>().is_some() || value.downcast_object_ref::<View>().is_some() {
            return Err(invalid(format!("{value} cannot be written as JSON; make a list of it first")));
        }
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
    value.downcast_object_ref::<View>().is_none()
        && matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::String | ValueKind::Map)
}

/// The test `iterable`: what can be gone through, which nothing cannot.
pub fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}
