//! JSON as Python writes it, which has literals for floats that are no numbers.

use std::borrow::Cow;

/// The key of the object that stands for such a literal, as transformers writes it.
pub const TAG: &str = "__float__";

/// The literals that Python writes for floats that are no numbers, the longest first.
pub const LITERALS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// JSON with every such literal outside of strings replaced by an object.
pub fn with_tagged_floats(text: &[u8]) -> Cow<'_, [u8]> {
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
