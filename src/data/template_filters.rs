//! Filters and functions of Jinja that minijinja has not, or has otherwise.

use minijinja::{
    Environment, Error, State, Value,
    value::{Kwargs, Rest, Tuple, ValueKind},
};

use super::{
    python_methods::{is_space, lines, padded},
    python_objects::{Cycler, Markup, Range, invalid},
    template_source::FORMAT,
};

type Result<T> = std::result::Result<T, Error>;

/// Puts them into an environment, in the place of minijinja's.
pub fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("e", |value: &Value| Markup::escaped(value));
    environment.add_filter("escape", |value: &Value| Markup::escaped(value));
    environment.add_filter("forceescape", |value: &Value| Markup::forced(value));
    environment.add_filter("safe", |value: &Value| Markup::safe(value));
    environment.add_filter("attr", |_: &Value, name: String| -> Result<Value> {
        Err(invalid(format!("attr finds what Python knows of an object, which is not known here; write .{name}")))
    });
    environment.add_filter("pprint", |_: &Value, _: Rest<Value>| -> Result<Value> {
        Err(invalid("pprint is not implemented"))
    });
    environment.add_filter(FORMAT, format);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("trim", trim);
    environment.add_filter("center", |value: &Value, width: Option<usize>| {
        padded(&value.to_string(), width.unwrap_or(80), "center", ' ')
    });
    environment.add_filter("wordcount", |value: &Value| {
        let text = value.to_string();
        text.split(|char: char| !char.is_alphanumeric() && char != '_').filter(|word| !word.is_empty()).count()
    });
    environment.add_filter("truncate", truncate);
    environment.add_filter("indent", indent);
    environment.add_filter("urlencode", urlencode);
    environment.add_function("range", Range::value);
    environment.add_function("cycler", |values: Rest<Value>| Cycler::value(values.to_vec()));
    environment.add_function("dict", dict);
}

/// What is given by place or by name, if it is.
fn given<T>(by_place: Option<T>, named: &Kwargs, name: &str, of: impl Fn(Value) -> Result<T>) -> Result<Option<T>> {
    match by_place {
        None if named.has(name) => of(named.get::<Value>(name)?).map(Some),
        other => Ok(other),
    }
}

/// The operator % of a string: what is to its right is one value, or as many as a tuple has.
fn format(state: &mut State, text: String, operand: Value) -> Result<Value> {
    let values = match operand.downcast_object_ref::<Tuple>() {
        Some(_) => operand.try_iter()?.collect(),
        None => vec![operand],
    };
    let unnamed = !values.iter().any(|value| matches!(value.kind(), ValueKind::Map | ValueKind::Seq));
    // A width that is an argument is refused by name.
    if unnamed && !text.contains('*') && values.len() > text.replace("%%", "").matches('%').count() {
        return Err(invalid("not all arguments converted during string formatting"));
    }
    state.apply_filter("format", &[vec![text.into()], values].concat())
}

fn defined(value: &Value) -> Result<()> {
    if value.is_undefined() { Err(invalid("a number is asked of what is undefined")) } else { Ok(()) }
}

fn int(value: &Value, default: Option<Value>, base: Option<u32>, named: Kwargs) -> Result<Value> {
    let default = given(default, &named, "default", Ok)?.unwrap_or(0.into());
    let base = given(base, &named, "base", u32::try_from)?.unwrap_or(10);
    named.assert_all_used()?;
    defined(value)?;
    let whole = |number: f64| if number.is_finite() { Value::from(number.trunc() as i128) } else { default.clone() };
    Ok(match value.kind() {
        ValueKind::Bool => i64::from(value.is_true()).into(),
        ValueKind::Number if value.is_integer() => value.clone(),
        ValueKind::Number => match f64::try_from(value.clone())? {
            number if number.is_infinite() => return Err(invalid("cannot convert float infinity to integer")),
            number => whole(number),
        },
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            match parse_int(text, base)? {
                Some(number) => number.into(),
                None => parse_float(text)?.map_or(default.clone(), whole),
            }
        }
        _ => default,
    })
}

fn float(value: &Value, default: Option<Value>, named: Kwargs) -> Result<Value> {
    let default = given(default, &named, "default", Ok)?.unwrap_or(0.0.into());
    named.assert_all_used()?;
    defined(value)?;
    Ok(match value.kind() {
        ValueKind::Bool => f64::from(value.is_true()).into(),
        ValueKind::Number => f64::try_from(value.clone())?.into(),
        ValueKind::String => parse_float(value.as_str().unwrap_or_default())?.map_or(default, Value::from),
        _ => default,
    })
}

/// The characters of a number without white space around them and underscores between digits, which have to be those
/// from 0 to 9; `None` where an underscore is elsewhere.
fn digits(text: &str) -> Result<Option<String>> {
    let text = text.trim_matches(is_space);
    if let Some(other) = text.chars().find(|char| char.is_numeric() && !char.is_ascii()) {
        return Err(invalid(format!("a number with {other:?}: only the digits from 0 to 9 are known")));
    }
    let parts: Vec<&str> = text.split('_').collect();
    let ends = |part: &&str| part.ends_with(|char: char| char.is_ascii_alphanumeric());
    let begins = |part: &&str| part.starts_with(|char: char| char.is_ascii_alphanumeric());
    let between = parts[..parts.len() - 1].iter().all(ends) && parts[1..].iter().all(begins);
    Ok(between.then(|| parts.concat()))
}

/// Python's `int(text, base)`, where it is a number.
fn parse_int(text: &str, base: u32) -> Result<Option<i128>> {
    let prefix = match base {
        2 => "0b",
        8 => "0o",
        16 => "0x",
        3..=36 => "",
        _ => return Err(invalid(format!("a number to the base {base}: expected one from 2 to 36"))),
    };
    let Some(text) = digits(text)? else { return Ok(None) };
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(&text);
    let lower = unsigned.to_ascii_lowercase();
    let number = lower.strip_prefix(prefix).unwrap_or(&lower);
    if number.is_empty() || !number.chars().all(|char| char.is_digit(base)) {
        return Ok(None);
    }
    let number = i128::from_str_radix(number, base).map_err(|_| invalid("a number of more than 127 bits"))?;
    Ok(Some(if text.starts_with('-') { -number } else { number }))
}

/// Python's `float(text)`, where it is a number.
fn parse_float(text: &str) -> Result<Option<f64>> {
    Ok(digits(text)?.and_then(|text| text.parse().ok()))
}

fn trim(value: &Value, chars: Option<String>) -> String {
    let goes = |char: char| chars.as_ref().map_or(is_space(char), |chars| chars.contains(char));
    value.to_string().trim_matches(goes).to_owned()
}

fn truncate(
    value: &Value,
    length: Option<usize>,
    kill_words: Option<bool>,
    end: Option<String>,
    named: Kwargs,
) -> Result<String> {
    let length = length.or(named.get("length")?).unwrap_or(255);
    let kill_words = kill_words.or(named.get("killwords")?).unwrap_or(false);
    let end = end.or(named.get("end")?).unwrap_or("...".into());
    let leeway = named.get::<Option<usize>>("leeway")?.unwrap_or(5);
    named.assert_all_used()?;
    let text = value.as_str().ok_or_else(|| invalid("truncate takes a string"))?;
    let kept = length.checked_sub(end.chars().count()).ok_or_else(|| invalid("a length below that of the end"))?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.to_owned());
    }
    let kept: String = text.chars().take(kept).collect();
    let words = kept.rsplit_once(' ').map_or(&*kept, |(words, _)| words);
    Ok(format!("{}{end}", if kill_words { &kept } else { words }))
}

fn indent(
    value: &Value,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<String> {
    let width = given(width, &named, "width", Ok)?.unwrap_or(4.into());
    let first = first.or(named.get("first")?).unwrap_or(false);
    let blank = blank.or(named.get("blank")?).unwrap_or(false);
    named.assert_all_used()?;
    let indentation = match width.as_str() {
        Some(text) => text.to_owned(),
        None => padded("", usize::try_from(width)?, "ljust", ' ')?,
    };
    let text = format!("{}\n", value.as_str().ok_or_else(|| invalid("indent takes a string"))?);
    let indented = lines(&text, false).into_iter().enumerate().map(|(index, line)| {
        let indented = if index == 0 { first } else { blank || !line.is_empty() };
        if indented { format!("{indentation}{line}") } else { line.to_owned() }
    });
    Ok(indented.collect::<Vec<_>>().join("\n"))
}

/// A text for the path of an address, or pairs for its query.
fn urlencode(value: &Value) -> Result<String> {
    let pairs: Vec<Value> = match value.kind() {
        ValueKind::Map => {
            let pair = |key: Value| Ok(Value::from(vec![key.clone(), value.get_item(&key)?]));
            value.try_iter()?.map(pair).collect::<Result<_>>()?
        }
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.collect(),
        _ => return Ok(quoted(&value.to_string(), "/")),
    };
    let pair = |pair: Value| match pair.try_iter()?.collect::<Vec<_>>().as_slice() {
        [key, value] => {
            let part = |value: &Value| quoted(&value.to_string(), "").replace("%20", "+");
            Ok(format!("{}={}", part(key), part(value)))
        }
        _ => Err(invalid("urlencode takes a text or pairs")),
    };
    Ok(pairs.into_iter().map(pair).collect::<Result<Vec<_>>>()?.join("&"))
}

fn quoted(text: &str, safe: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let char = char::from(byte);
        match char.is_ascii_alphanumeric() || "_.-~".contains(char) || safe.contains(char) {
            true => out.push(char),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A dictionary from another, or from pairs, and from what is named.
fn dict(from: Option<Value>, named: Kwargs) -> Result<Value> {
    let mut pairs = Vec::new();
    if let Some(from) = from {
        let is_map = from.kind() == ValueKind::Map;
        for entry in from.try_iter()? {
            match is_map {
                true => pairs.push((entry.clone(), from.get_item(&entry)?)),
                false => match entry.try_iter()?.collect::<Vec<_>>().as_slice() {
                    [key, value] => pairs.push((key.clone(), value.clone())),
                    _ => return Err(invalid("dict takes a dictionary or pairs")),
                },
            }
        }
    }
    for name in named.args() {
        pairs.push((Value::from(name), named.get::<Value>(name)?));
    }
    Ok(Value::from_pairs(pairs))
}
