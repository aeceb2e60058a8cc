//! JSON as Python reads it, which has literals for floats that are no numbers, and takes numbers of any size.

use std::borrow::Cow;

use serde_json::Value;

/// The key of the object that stands for such a literal, as transformers writes it.
pub const TAG: &str = "__float__";

/// The literals that Python writes for floats that are no numbers, the longest first.
pub const LITERALS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// JSON with every such literal outside of strings replaced by an object, and numbers beyond those of f64 by that of
/// infinity.
pub fn with_tagged_floats(text: &[u8]) -> Cow<'_, [u8]> {
    let (mut out, mut copied, mut at, mut quoted) = (Vec::new(), 0, 0, false);
    while let Some(&byte) = text.get(at) {
        let found = match byte {
            b'\\' if quoted => {
                at += 1;
                None
            }
            b'"' => {
                quoted = !quoted;
                None
            }
            b'-' | b'I' | b'N' | b'0'..=b'9' if !quoted => no_number(&text[at..]),
            _ => None,
        };
        let (length, literal) = found.unwrap_or((1, None));
        if let Some(literal) = literal {
            out.extend_from_slice(&text[copied..at]);
            out.extend_from_slice(format!("{{\"{TAG}\":\"{literal}\"}}").as_bytes());
            copied = at + length;
        }
        at += length;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.extend_from_slice(&text[copied..]);
    Cow::Owned(out)
}

/// What a text begins with, literal or number: its length, and the literal for its value if f64 has no number for it.
fn no_number(text: &[u8]) -> Option<(usize, Option<&'static str>)> {
    if let Some(literal) = LITERALS.into_iter().find(|literal| text.starts_with(literal.as_bytes())) {
        return Some((literal.len(), Some(literal)));
    }
    let length = text.iter().take_while(|byte| b"0123456789.eE+-".contains(byte)).count();
    let number: f64 = str::from_utf8(&text[..length]).ok()?.parse().ok()?;
    let literal = number.is_infinite().then_some(if number > 0.0 { "Infinity" } else { "-Infinity" });
    Some((length, literal))
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
