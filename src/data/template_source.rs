//! The source of a chat template in Jinja's words → in those that minijinja understands alike: line ends, escapes in
//! strings, the operator % after strings, and what marks the text that a model is trained on.

/// The filter that stands for the operator % of strings.
pub const FORMAT: &str = "python_format";

/// Puts a template into words that mean the same to minijinja as the given ones to Jinja.
///
/// # Errors
/// The reason, for words that have no such form.
pub fn translated(source: &str) -> Result<String, String> {
    // Wherever they stand, as Jinja does.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some((start, opening)) = first_of(rest, &["{{", "{%", "{#"]) {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let length = match (opening, word(tag)) {
            ("{#", _) => tag.find("#}").map_or(tag.len(), |end| end + 2),
            ("{%", Some(("raw", _))) => raw_length(tag),
            // A block that prints what is in it.
            ("{%", Some((word @ ("generation" | "endgeneration"), length))) => {
                let block = if word == "generation" { "with" } else { "endwith" };
                out.push_str(&tag[..length].replacen(word, block, 1));
                rest = &tag[length..];
                continue;
            }
            _ => {
                let length = expression(tag, if opening == "{%" { "%}" } else { "}}" }, &mut out)?;
                rest = &tag[length..];
                continue;
            }
        };
        out.push_str(&tag[..length]);
        rest = &tag[length..];
    }
    Ok(out + rest)
}

/// The first place of any of these, and which it is.
fn first_of(text: &str, openings: &[&'static str]) -> Option<(usize, &'static str)> {
    openings.iter().filter_map(|opening| Some((text.find(opening)?, *opening))).min()
}

/// The word that is all that a block tag has, and the length of the tag.
fn word(tag: &str) -> Option<(&str, usize)> {
    let signs = ['-', '+'];
    let inside = tag.strip_prefix("{%")?;
    let inside = inside.strip_prefix(signs).unwrap_or(inside).trim_start();
    let end = inside.find(|char: char| !char.is_alphanumeric() && char != '_')?;
    let (word, after) = inside.split_at(end);
    let after = after.trim_start();
    let after = after.strip_prefix(signs).unwrap_or(after).strip_prefix("%}")?;
    Some((word, tag.len() - after.len()))
}

/// The length of a raw block, its tags included.
fn raw_length(tag: &str) -> usize {
    let ends = tag.match_indices("{%").find_map(|(at, _)| match word(&tag[at..])? {
        ("endraw", length) => Some(at + length),
        _ => None,
    });
    ends.unwrap_or(tag.len())
}

/// Writes a tag that ends with `closing`, its strings translated; returns its length.
fn expression(tag: &str, closing: &str, out: &mut String) -> Result<usize, String> {
    let (mut at, mut copied, mut depth) = (2, 0, 0u32);
    // Where filters end that stand for the operator %.
    let mut filters: Vec<usize> = Vec::new();
    while let Some(char) = tag[at..].chars().next() {
        while filters.last() == Some(&at) {
            filters.pop();
            out.push_str(&tag[copied..at]);
            out.push(')');
            copied = at;
        }
        if depth == 0 && tag[at..].starts_with(closing) {
            at += closing.len();
            break;
        }
        match char {
            '\'' | '"' => {
                // Without an end, minijinja says so.
                let Some(length) = string_length(&tag[at..]) else {
                    at = tag.len();
                    break;
                };
                let own = formats(&tag[..at]);
                out.push_str(&tag[copied..=at]);
                string(&tag[at + 1..at + length - 1], char, out)?;
                copied = at + length - 1;
                at += length;
                let after = tag[at..].trim_start();
                let operand = after.strip_prefix('%').filter(|operand| own && !operand.starts_with('}'));
                if let Some(operand) = operand
                    && let Some(length) = operand_length(operand)
                {
                    out.push(char);
                    out.push_str(&format!(" | {FORMAT}("));
                    at = tag.len() - operand.len();
                    copied = at;
                    filters.push(at + length);
                }
                continue;
            }
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth = depth.saturating_sub(1),
            _ if char.is_alphanumeric() || char == '_' => {
                let length = tag[at..].find(|char: char| !char.is_alphanumeric() && char != '_');
                let (before, after) = (&tag[..at], &tag[at + length.unwrap_or(tag.len() - at)..]);
                let name = &tag[at..tag.len() - after.len()];
                let own = before.trim_end().ends_with('.') || after.trim_start().starts_with('=');
                if ["varargs", "kwargs"].contains(&name) && !own {
                    return Err(format!("{name}, the further arguments of a macro, are not implemented"));
                }
                at += name.len();
                continue;
            }
            _ => {}
        }
        at += char.len_utf8();
    }
    out.push_str(&tag[copied..at]);
    Ok(at)
}

/// Whether a string after this is formatted by a % that comes after it: what binds as much has to come after that.
fn formats(before: &str) -> bool {
    !before.trim_end().ends_with(['*', '/', '%', '\'', '"'])
}

/// The length of what stands to the right of an operator that binds less than a filter; `None` if it is not so simple.
fn operand_length(text: &str) -> Option<usize> {
    let name = |text: &str| text.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(text.len());
    let mut rest = text.trim_start().trim_start_matches(['-', '+']);
    rest = match rest.chars().next()? {
        '\'' | '"' => &rest[string_length(rest)?..],
        '(' | '[' | '{' => &rest[bracket_length(rest)?..],
        _ => &rest[Some(name(rest)).filter(|length| *length > 0)?..],
    };
    loop {
        let after = rest.trim_start();
        rest = match after.chars().next() {
            Some('.') => &after[1 + name(&after[1..])..],
            Some('[' | '(') => &after[bracket_length(after)?..],
            Some('|') => {
                let filter = after[1..].trim_start();
                &filter[name(filter)..]
            }
            Some('\'' | '"') => return None,
            _ if after.starts_with("**") || after.split_whitespace().next() == Some("is") => return None,
            _ => return Some(text.len() - rest.len()),
        };
    }
}

/// The length of what is in brackets at the beginning of a text, these included.
fn bracket_length(text: &str) -> Option<usize> {
    let (mut at, mut depth) = (0, 0u32);
    while let Some(char) = text[at..].chars().next() {
        match char {
            '\'' | '"' => {
                at += string_length(&text[at..])?;
                continue;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at += char.len_utf8();
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// The length of the string that a text begins with, its quotes included.
fn string_length(text: &str) -> Option<usize> {
    let quote = text.chars().next()?;
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, char)| {
        let ends = *char == quote && !escaped;
        escaped = *char == '\\' && !escaped;
        ends
    });
    end.map(|(at, _)| at + 1)
}

/// Writes what is between quotes so that minijinja reads what Python makes of it.
fn string(text: &str, quote: char, out: &mut String) -> Result<(), String> {
    if !text.contains('\\') {
        out.push_str(text);
        return Ok(());
    }
    // Python decodes what is no ASCII from escapes, too, which a backslash before it undoes.
    let ascii: String = text.chars().map(|char| if char.is_ascii() { char.into() } else { escape(char) }).collect();
    let mut chars = ascii.chars();
    let mut write = |char: char, escaped: bool| match char {
        '\\' => out.push_str("\\\\"),
        '\n' if escaped => out.push_str("\\n"),
        _ if char == quote => out.extend(['\\', quote]),
        _ => out.push(char),
    };
    while let Some(char) = chars.next() {
        if char != '\\' {
            write(char, false);
            continue;
        }
        let digits = |radix: u32, most: usize, rest: &str| -> String {
            rest.chars().take_while(|char| char.is_digit(radix)).take(most).collect()
        };
        let Some(kind) = chars.next() else { break };
        let char = match kind {
            '\n' => continue,
            '\\' | '\'' | '"' => kind,
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '0'..='7' => {
                let more = digits(8, 2, chars.as_str());
                chars = chars.as_str()[more.len()..].chars();
                code(&format!("{kind}{more}"), 8)?
            }
            'x' | 'u' | 'U' => {
                let wanted = match kind {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let found = digits(16, wanted, chars.as_str());
                if found.len() < wanted {
                    return Err(format!("\\{kind} in a string wants {wanted} digits"));
                }
                chars = chars.as_str()[found.len()..].chars();
                code(&found, 16)?
            }
            'N' => return Err("\\N in a string: the names of characters are not known; write the character".into()),
            other => {
                write('\\', true);
                other
            }
        };
        write(char, true);
    }
    Ok(())
}

fn escape(char: char) -> String {
    match u32::from(char) {
        code @ ..=0xff => format!("\\x{code:02x}"),
        code @ ..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

fn code(digits: &str, radix: u32) -> Result<char, String> {
    let found = u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
    found.ok_or_else(|| format!("{digits} in a string is no character, or half of a surrogate pair"))
}
