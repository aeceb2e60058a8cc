//! The text of a config.json → its fields, as Python reads it: NaN and Infinity are numbers, and a key that is there
//! twice counts as the last. And what a field has to be.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{
    checkpoint::{contents, mistaken},
    error::{Error, Result, shortened},
    json::{not_a_number, with_tagged_floats},
};

/// Sizes beyond these are not models but mistakes or attacks.
pub(super) const MAX_WIDTH: u64 = 1 << 20;
pub(super) const MAX_LAYERS: u64 = 4096;
pub(super) const MAX_EXPERTS: u64 = 4096;
/// Of all layers together.
pub(super) const MAX_EXPERTS_IN_ALL: usize = 1 << 17;
pub(super) const MAX_VOCABULARY: u64 = 1 << 24;
pub(super) const MAX_POSITIONS: u64 = 1 << 28;

/// Reads a `config.json`. NaN and Infinity, which JSON has no numbers for, become what transformers writes for them,
/// `{"__float__": "NaN"}`.
///
/// # Errors
/// [`Error::Read`]; [`Error::BadFile`] that says what the file is instead.
pub fn read(path: &Path) -> Result<Map<String, Value>> {
    let bytes = contents(path)?;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    serde_json::from_slice(&with_tagged_floats(text))
        .map_err(|error| Error::bad_file(path, format!("{error}{}", mistaken(&bytes, "; the file is "))))
}

/// A value for a message: whole if short.
pub fn brief(value: &Value) -> String {
    not_a_number(value).map_or_else(|| shortened(&value.to_string()), str::to_owned)
}

/// The fields of one config, with the path for messages.
pub struct Reader<'a> {
    pub fields: &'a Map<String, Value>,
    pub path: &'a Path,
}

impl Reader<'_> {
    /// A field that is not null; of a section, as "section.field".
    pub fn get(&self, name: &str) -> Option<&Value> {
        let (section, field) = name.split_once('.').map_or((None, name), |(section, field)| (Some(section), field));
        let fields = match section {
            Some(section) => self.fields.get(section)?.as_object()?,
            None => self.fields,
        };
        fields.get(field).filter(|value| !value.is_null())
    }

    /// A positive number, if the field has one.
    pub fn positive(&self, name: &str) -> Result<Option<f64>> {
        let positive = |value: &Value| value.as_f64().filter(|number| *number > 0.0 && (*number as f32).is_finite());
        self.get(name)
            .map(|value| positive(value).ok_or_else(|| self.unsupported(name, value, "expected a number above 0")))
            .transpose()
    }

    /// The positive number of a field that counts as its default where it is not there, and as none where it is null.
    pub fn optional(&self, field: Option<(&str, Option<f64>)>) -> Result<Option<f32>> {
        let Some((name, default)) = field else { return Ok(None) };
        let there = self.fields.contains_key(name);
        Ok(if there { self.positive(name)? } else { default }.map(|number| number as f32))
    }

    pub fn wrong(&self, name: &str, expected: &str) -> Error {
        let found = self.fields.get(name).map_or("nothing".to_owned(), brief);
        Error::bad_file(self.path, format!("{name}: expected {expected}, found {found}"))
    }

    pub fn unsupported(&self, field: &str, value: &Value, reason: &str) -> Error {
        Error::UnsupportedField {
            field: field.into(),
            value: brief(value),
            path: self.path.into(),
            reason: reason.into(),
        }
    }

    pub fn size_or(&self, name: &str, most: u64, default: usize) -> Result<usize> {
        if !self.fields.contains_key(name) {
            return Ok(default);
        }
        self.size(name, most)
    }

    pub fn size(&self, name: &str, most: u64) -> Result<usize> {
        let number = self.get(name).and_then(Value::as_u64).filter(|number| (1..=most).contains(number));
        number
            .map(|number| number as usize)
            .ok_or_else(|| self.wrong(name, &format!("a whole number from 1 to {most}")))
    }

    /// The name of a size in this file: `general`, if it is there, counts more than that of the row, as transformers
    /// maps one to the other.
    pub fn name<'a>(&self, general: &'a str, own: &'a str) -> &'a str {
        if self.fields.contains_key(general) { general } else { own }
    }

    /// Whether a field is on, or by default; null is off, as everywhere in Python.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(name, "true or false")),
            None => Ok(default && !self.fields.contains_key(name)),
        }
    }

    /// A factor of the signals, 1 where there is none.
    pub fn multiplier(&self, name: Option<&str>, usable: fn(f32) -> bool) -> Result<f64> {
        let Some((name, value)) = name.and_then(|name| Some((name, self.get(name)?))) else { return Ok(1.0) };
        let factor = value.as_f64().filter(|factor| (*factor as f32).is_finite());
        let factor = factor.ok_or_else(|| self.wrong(name, "a number"))?;
        let reason = "the signals are divided by it, for which it has to be above 0, or at least another number than 0";
        Some(factor).filter(|factor| usable(*factor as f32)).ok_or_else(|| self.unsupported(name, value, reason))
    }

    /// Token ids; those that no vocabulary has, such as -1, mean that there is none.
    pub fn ids(&self, name: &str, default: Option<u32>) -> Result<Vec<u32>> {
        if !self.fields.contains_key(name) {
            return Ok(default.into_iter().collect());
        }
        let id = |value: &Value| match value.as_i64() {
            Some(id) if id < 0 => Ok(None),
            Some(id) if u32::try_from(id).is_ok() => Ok(Some(id as u32)),
            _ => Err(self.wrong(name, "a token id, or a list of them")),
        };
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().filter_map(|value| id(value).transpose()).collect(),
            Some(value) => Ok(id(value)?.into_iter().collect()),
        }
    }
}
