//! The metadata of a GGUF file about its model: values by their keys, and which keys nobody asked for.

use std::{cell::RefCell, collections::BTreeSet, path::Path};

use serde_json::Value;

use crate::{
    checkpoint::{GgufField, GgufHeader},
    error::{Error, Result},
};

/// The entries of one file.
pub struct Keys<'a> {
    header: &'a GgufHeader,
    path: &'a Path,
    architecture: &'a str,
    asked: RefCell<BTreeSet<String>>,
}

/// Those about the architecture that change nothing here, whatever they say.
const HARMLESS: &[&str] = &[
    "vocab_size",
    "rope.scaling.finetuned",
    "tensor_data_layout",
    "decoder_start_token_id",
    "expert_used_count",
    // Where it changes something, it is asked for; elsewhere the tensors say it.
    "use_parallel_residual",
];

impl<'a> Keys<'a> {
    /// Those of a file, which must say what it is of.
    ///
    /// # Errors
    /// [`Error::BadFile`].
    pub fn of(header: &'a GgufHeader, path: &'a Path) -> Result<Self> {
        let bad = |reason: &str| Err(Error::bad_file(path, reason));
        let architecture = match header.metadata.get("general.architecture") {
            Some(GgufField::Text(name)) => name,
            Some(_) => return bad("general.architecture is no text"),
            None => return bad("has no general.architecture: it is no model, or older than what is read here"),
        };
        let keys = Self { header, path, architecture, asked: RefCell::default() };
        match keys.text_at("general.type")? {
            Some(kind) if kind != "model" => {
                return bad(&format!("holds what it calls {kind:?}, where a model is expected"));
            }
            _ => {}
        }
        Ok(keys)
    }

    pub fn architecture(&self) -> &'a str {
        self.architecture
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn get(&self, name: &str) -> Option<&'a GgufField> {
        let key = self.key(name);
        let found = self.header.metadata.get(&key);
        self.asked.borrow_mut().insert(key);
        found
    }

    fn wrong(&self, key: &str, expected: &str, found: &GgufField) -> Error {
        Error::bad_file(self.path, format!("{key}: expected {expected}, found {}", brief(found)))
    }

    /// The file, for messages.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// The value is not followed here.
    pub fn unsupported(&self, name: &str, value: &Value, reason: &str) -> Error {
        Error::UnsupportedField {
            field: self.key(name),
            value: value.to_string(),
            path: self.path.into(),
            reason: reason.into(),
        }
    }

    /// A size of the model.
    ///
    /// # Errors
    /// [`Error::BadFile`] if it is no whole number, or not there.
    pub fn size(&self, name: &str) -> Result<u64> {
        self.optional_size(name)?.ok_or_else(|| Error::bad_file(self.path, format!("has no {}", self.key(name))))
    }

    /// A size that may be left out.
    ///
    /// # Errors
    /// As [`Keys::size`].
    pub fn optional_size(&self, name: &str) -> Result<Option<u64>> {
        let sizes = self.sizes(name)?;
        let Some(first) = sizes.first().copied() else { return Ok(None) };
        if sizes.iter().any(|size| *size != first) {
            let reason = "layers that differ in this are not implemented for this architecture";
            return Err(self.unsupported(name, &sizes.into(), reason));
        }
        Ok(Some(first))
    }

    /// A size of each layer, one for all, or none.
    ///
    /// # Errors
    /// As [`Keys::size`].
    pub fn sizes(&self, name: &str) -> Result<Vec<u64>> {
        let Some(found) = self.get(name) else { return Ok(Vec::new()) };
        let wrong = || self.wrong(&self.key(name), "whole numbers", found);
        match found {
            GgufField::Integer(number) => Ok(vec![u64::try_from(*number).map_err(|_| wrong())?]),
            GgufField::Integers(numbers) => {
                numbers.iter().map(|number| u64::try_from(*number).map_err(|_| wrong())).collect()
            }
            _ => Err(wrong()),
        }
    }

    /// A number; zero is what llama.cpp takes for none.
    ///
    /// # Errors
    /// [`Error::BadFile`] if it is something else.
    pub fn number(&self, name: &str) -> Result<Option<f64>> {
        let Some(found) = self.get(name) else { return Ok(None) };
        let number = match found {
            GgufField::Float(number) => Some(*number),
            GgufField::Integer(number) => Some(*number as f64),
            _ => None,
        };
        let number = number.filter(|number| number.is_finite());
        let number = number.ok_or_else(|| self.wrong(&self.key(name), "a number", found))?;
        Ok(Some(number).filter(|number| *number != 0.0))
    }

    /// A text.
    ///
    /// # Errors
    /// [`Error::BadFile`] if it is something else.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.asked.borrow_mut().insert(self.key(name));
        self.text_at(&self.key(name))
    }

    /// What is on or off.
    ///
    /// # Errors
    /// [`Error::BadFile`] if it is something else.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.asked.borrow_mut().insert(self.key(name));
        self.flag_at(&self.key(name))
    }

    /// A text by its whole key.
    ///
    /// # Errors
    /// As [`Keys::text`].
    pub fn text_at(&self, key: &str) -> Result<Option<&'a str>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(GgufField::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "a text", other)),
        }
    }

    /// What is on or off, by its whole key.
    ///
    /// # Errors
    /// As [`Keys::flag`].
    pub fn flag_at(&self, key: &str) -> Result<Option<bool>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(GgufField::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    /// A whole number by its whole key.
    ///
    /// # Errors
    /// [`Error::BadFile`] if it is something else.
    pub fn integer_at(&self, key: &str) -> Result<Option<i128>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(GgufField::Integer(number)) => Ok(Some(*number)),
            Some(other) => Err(self.wrong(key, "a whole number", other)),
        }
    }

    /// A list by its whole key, if there is one.
    ///
    /// # Errors
    /// [`Error::BadFile`] if `read` makes nothing of it.
    pub fn list_at<T: ?Sized>(
        &self,
        key: &str,
        expected: &str,
        read: fn(&'a GgufField) -> Option<&'a T>,
    ) -> Result<Option<&'a T>> {
        let read = |found| read(found).ok_or_else(|| self.wrong(key, expected, found));
        self.header.metadata.get(key).map(read).transpose()
    }

    /// Refuses what nobody asked for and is not switched off.
    ///
    /// # Errors
    /// [`Error::UnsupportedField`] that names the first.
    pub fn check_all_asked(&self) -> Result<()> {
        let asked = self.asked.borrow();
        for (key, value) in &self.header.metadata {
            let Some(name) = key.strip_prefix(self.architecture).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            let off = match value {
                GgufField::Integer(number) => *number == 0,
                GgufField::Float(number) => *number == 0.0,
                GgufField::Bool(flag) => *flag == (name == "attention.causal"),
                _ => false,
            };
            if !asked.contains(key) && !off && !HARMLESS.contains(&name) {
                return Err(Error::UnsupportedField {
                    field: key.clone(),
                    value: brief(value),
                    path: self.path.into(),
                    reason: "it changes what the model computes, and is not implemented".into(),
                });
            }
        }
        Ok(())
    }
}

/// A number that the file has as f32 in as few digits as that needs: 1e-05, not 0.000009999999747378752.
pub fn shortest(number: f64) -> Value {
    let narrow = number as f32;
    let short = narrow.to_string().parse::<f64>().ok().filter(|_| f64::from(narrow) == number);
    short.unwrap_or(number).into()
}

/// A value for a message.
fn brief(value: &GgufField) -> String {
    let listed = |count: usize| format!("a list of {count}");
    match value {
        GgufField::Integer(number) => number.to_string(),
        GgufField::Float(number) => number.to_string(),
        GgufField::Bool(flag) => flag.to_string(),
        GgufField::Text(text) => format!("{:?}", text.chars().take(80).collect::<String>()),
        GgufField::Integers(list) => listed(list.len()),
        GgufField::Floats(list) => listed(list.len()),
        GgufField::Bools(list) => listed(list.len()),
        GgufField::Texts(list) => listed(list.len()),
    }
}
