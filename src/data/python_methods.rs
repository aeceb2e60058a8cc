//! Methods of Python's strings, lists and dictionaries: those of minijinja's `pycompat`, others that templates use, and
//! those that differ.

use minijinja::{
    Error, State, Value,
    value::{Kwargs, Tuple, ValueKind, from_args},
};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::python_objects::{View, invalid};

/// What Python takes for white space: what Unicode does, and four separators.
pub fn is_space(char: char) -> bool {
    char.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&char)
}

/// A method of a value that minijinja has none for.
pub fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => string(state, value, name, args),
        ValueKind::Map => match (View::of(value, name), name) {
            (Some(view), _) => from_args(args).map(|()| view),
            (None, "copy") => from_args(args).map(|()| value.clone()),
            _ => unknown_method_callback(state, value, name, args),
        },
        ValueKind::Seq => match name {
            "copy" => from_args(args).map(|()| value.clone()),
            "index" => {
                let (wanted,): (Value,) = from_args(args)?;
                let place = value.try_iter()?.position(|found| found == wanted);
                place.map(Value::from).ok_or_else(|| invalid("the value is not in the list"))
            }
            _ => unknown_method_callback(state, value, name, args),
        },
        _ => unknown_method_callback(state, value, name, args),
    }
}

fn string(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else { return unknown_method_callback(state, value, name, args) };
    let three = |parts: Option<(&str, &str)>, separator: &str, otherwise: [&str; 3]| {
        let parts = parts.map_or(otherwise, |(before, after)| [before, separator, after]);
        Value::from(Tuple::from(parts.map(Value::from)))
    };
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            let goes = |char: char| chars.map_or(is_space(char), |chars| chars.contains(char));
            Ok(match name {
                "strip" => text.trim_matches(goes),
                "lstrip" => text.trim_start_matches(goes),
                _ => text.trim_end_matches(goes),
            }
            .into())
        }
        "split" | "rsplit" => {
            let (separator, most, named): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = separator.or(named.get("sep")?).filter(|separator| !separator.is_none());
            let most = most.or(named.get("maxsplit")?).and_then(|most| usize::try_from(most).ok());
            named.assert_all_used()?;
            let parts = match (separator.as_ref().map(|separator| separator.as_str()), name) {
                (None, "split") => words(text, most),
                (None, _) => last_words(text, most),
                (Some(Some("")), _) => return Err(invalid("empty separator")),
                (Some(Some(separator)), "split") => {
                    text.splitn(most.map_or(usize::MAX, |most| most + 1), separator).collect()
                }
                (Some(Some(separator)), _) => {
                    let mut parts: Vec<_> = text.rsplitn(most.map_or(usize::MAX, |most| most + 1), separator).collect();
                    parts.reverse();
                    parts
                }
                (Some(None), _) => return Err(invalid("a separator is a string or none")),
            };
            Ok(parts.into_iter().map(Value::from).collect())
        }
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
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            let rest = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Ok(rest.unwrap_or(text).into())
        }
        "title" => from_args(args).map(|()| title(text).into()),
        "swapcase" => {
            let () = from_args(args)?;
            let mut swapped = String::with_capacity(text.len());
            for char in text.chars() {
                match char.is_uppercase() {
                    true => swapped.extend(char.to_lowercase()),
                    false => swapped.extend(char.to_uppercase()),
                }
            }
            Ok(swapped.into())
        }
        "splitlines" => {
            let (keep, named): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(named.get("keepends")?).unwrap_or(false);
            named.assert_all_used()?;
            Ok(lines(text, keep).into_iter().map(Value::from).collect())
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let found = part(text, start, end).and_then(|(offset, part)| {
                let at = if name.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) };
                Some(offset + part[..at?].chars().count())
            });
            match found {
                Some(place) => Ok(place.into()),
                None if name.ends_with("find") => Ok((-1).into()),
                None => Err(invalid("substring not found")),
            }
        }
        "count" => {
            let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            Ok(part(text, start, end).map_or(0, |(_, part)| part.matches(wanted).count()).into())
        }
        "startswith" | "endswith" if args.len() > 1 => {
            let (wanted, start, end): (Value, Option<i64>, Option<i64>) = from_args(args)?;
            match part(text, start, end) {
                Some((_, part)) => unknown_method_callback(state, &part.into(), name, &[wanted]),
                None => Ok(false.into()),
            }
        }
        "join" => {
            let (parts,): (&Value,) = from_args(args)?;
            match parts.try_iter()?.find(|part| part.as_str().is_none()) {
                Some(other) => Err(invalid(format!("join takes strings, and not the {} {other}", other.kind()))),
                None => unknown_method_callback(state, value, name, args),
            }
        }
        "isspace" => from_args(args).map(|()| (!text.is_empty() && text.chars().all(is_space)).into()),
        "isdigit" | "isdecimal" | "isnumeric" => {
            let () = from_args(args)?;
            match text.chars().find(|char| char.is_numeric() && !char.is_ascii()) {
                Some(other) => Err(invalid(format!("{name} of {other:?} is not known, only of 0 to 9"))),
                None => Ok((!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).into()),
            }
        }
        "center" | "ljust" | "rjust" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            let mut fill = fill.unwrap_or(" ").chars();
            match (fill.next(), fill.next()) {
                (Some(fill), None) => padded(text, width, name, fill).map(Value::from),
                _ => Err(invalid("the fill character must be exactly one character long")),
            }
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
            let sign = &text[..text.len() - digits.len()];
            Ok(format!("{sign}{}", padded(digits, width.saturating_sub(sign.len()), "rjust", '0')?).into())
        }
        _ => unknown_method_callback(state, value, name, args),
    }
}

/// A text with characters around it up to a width, as the method of this name puts them.
pub fn padded(text: &str, width: usize, method: &str, fill: char) -> Result<String, Error> {
    const WIDEST: usize = 1 << 16;
    if width > WIDEST {
        return Err(invalid(format!("a width of more than {WIDEST}")));
    }
    let missing = width.saturating_sub(text.chars().count());
    let before = match method {
        "ljust" => 0,
        "rjust" => missing,
        // Where the sides cannot be the same, Python gives more to the left of texts in odd widths.
        _ => missing / 2 + (missing & width & 1),
    };
    let fill = |count: usize| fill.to_string().repeat(count);
    Ok(format!("{}{text}{}", fill(before), fill(missing - before)))
}

/// The part between two places, which count from the end where they are negative, and where it begins.
fn part(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    let length = text.chars().count() as i64;
    let place = |place: i64| if place < 0 { (place + length).max(0) } else { place };
    let (start, end) = (place(start.unwrap_or(0)), place(end.unwrap_or(length)).min(length));
    let offset = |place: i64| text.char_indices().nth(place as usize).map_or(text.len(), |(at, _)| at);
    (start <= end).then(|| (start as usize, &text[offset(start)..offset(end)]))
}

/// Words and the white space between them; after `most` of these, the rest as it stands.
fn words(text: &str, most: Option<usize>) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest.find(is_space).filter(|_| most != Some(parts.len())).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

/// As [`words`], from the end.
fn last_words(text: &str, most: Option<usize>) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        let space = rest.char_indices().rfind(|(_, char)| is_space(*char));
        let space = space.filter(|_| most != Some(parts.len()));
        let begin = space.map_or(0, |(at, char)| at + char.len_utf8());
        parts.push(&rest[begin..]);
        rest = rest[..begin].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

/// Unlike the filter of this name: every letter after anything but a letter.
fn title(text: &str) -> String {
    let mut inside = false;
    let mut titled = String::with_capacity(text.len());
    for char in text.chars() {
        match (inside, char) {
            (true, _) => titled.extend(char.to_lowercase()),
            // Letters of two, of which only the first becomes large.
            (false, 'Ǆ' | 'ǅ' | 'ǆ') => titled.push('ǅ'),
            (false, 'Ǉ' | 'ǈ' | 'ǉ') => titled.push('ǈ'),
            (false, 'Ǌ' | 'ǋ' | 'ǌ') => titled.push('ǋ'),
            (false, 'Ǳ' | 'ǲ' | 'ǳ') => titled.push('ǲ'),
            (false, _) => {
                let mut large = char.to_uppercase();
                titled.extend(large.next());
                large.for_each(|char| titled.extend(char.to_lowercase()));
            }
        }
        inside = char.is_alphabetic();
    }
    titled
}

/// The lines of a text, which end wherever Python sees an end.
pub fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
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
