//! The text of a config.json → its fields, as Python reads it: NaN and Infinity are numbers, and a key that is there twice counts as the last.

use std::{borrow::Cow, path::Path};

use serde_json::{Map, Value};

use crate::{
    checkpoint::content,
    error::{Error, Result},
};

/// Reads a `config.json`. NaN and Infinity, which JSON has no numbers for, become what transformers writes for them, `{"__float__": "NaN"}`.
///
/// # Errors
/// [`Error::Read`]; [`Error::BadFile`] that says what the file is instead.
pub fn read(path: &Path) -> Result<Map<String, Value>> {
    let bytes = std::fs::read(path).map_err(Error::read(path))?;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    serde_json::from_slice(&with_tagged_floats(text)).map_err(|error| {
        let found = content(&bytes).map_or(String::new(), |found| format!("; the file is {found}"));
        Error::bad_file(path, format!("{error}{found}"))
    })
}

const TAG: &str = "__float__";

/// The literals that Python writes for floats that are no numbers, the longest first.
const LITERALS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// JSON with every such literal outside of strings replaced by an object.
fn with_tagged_floats(text: &[u8]) -> Cow<'_, [u8]> {
    let (mut out, mut copied, mut at, mut quoted) = (Vec::new(), 0, 0, false);
    while let Some(&byte) = text.get(at) {
        match byte {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'-' | b'I' | b'N' if !quoted => {
                if let Some(literal) = LITERALS.iter().find(|literal| text[at..].starts_with(literal.as_bytes())) {
                    out.extend_from_slice(&text[copied..at]);
                    out.extend_from_slice(format!("{{\"{TAG}\":\"{literal}\"}}").as_bytes());
                    copied = at + literal.len();
                    at = copied - 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.extend_from_slice(&text[copied..]);
    Cow::Owned(out)
}

/// The literal that stood in the place of this value, where it is a float that is no number.
pub fn not_a_number(value: &Value) -> Option<&str> {
    let tag = value.as_object().filter(|fields| fields.len() == 1)?.get(TAG)?.as_str()?;
    LITERALS.contains(&tag).then_some(tag)
}

/// Whether Python takes a value for false: nothing, zero, or empty.
pub fn is_falsy(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// A value for a message: whole if short.
pub fn brief(value: &Value) -> String {
    let text = not_a_number(value).map_or_else(|| value.to_string(), str::to_owned);
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
