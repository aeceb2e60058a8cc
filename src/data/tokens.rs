//! Token ids as they stand in files, `{"input_ids": [[…], …]}`, so that runs are reproducible across implementations.

use std::path::Path;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{
    file::read_text,
    json::{Place, Values, described},
};
use crate::{
    checkpoint::hex,
    error::{Error, Result},
    progress::Progress,
};

const EXPECTED: &str = "expected {\"input_ids\": [[token ids], ...]}";

/// Fields that describe tokens and change none.
const DESCRIPTIVE: &[&str] = &[
    "comment",
    "created",
    "dataset",
    "description",
    "id",
    "idx",
    "index",
    "length",
    "name",
    "num_tokens",
    "offset_mapping",
    "seed",
    "source",
    "special_tokens_mask",
    "split",
    "text",
    "texts",
    "timestamp",
    "title",
    "url",
];

/// Reads a token file: one object, an array of them, or one a line. Rows may differ in length.
///
/// # Errors
/// [`Error::Read`], [`Error::BadFile`] if it is not of this form, holds no tokens, or has a field that would change
/// what they mean.
pub fn read_token_file(path: &Path, progress: &dyn Progress) -> Result<Vec<Vec<u32>>> {
    let expected = |reason: String| Error::bad_file(path, format!("{EXPECTED}: {reason}"));
    let text = read_text(path)?;
    let values = Values::find(&text, path).map_err(|error| match error {
        Error::BadFile { reason, .. } => expected(reason),
        other => other,
    })?;
    let values = values
        .ok_or_else(|| expected(if text.trim().is_empty() { "the file is empty" } else { "this is no JSON" }.into()))?;
    let mut rows = TokenRows::default();
    values.each(path, |place, value| match value {
        Value::Object(fields) if fields.contains_key("input_ids") => {
            rows.add(fields, place).map_err(|reason| Error::bad_file(path, reason))
        }
        _ => Err(expected(format!("{place}no object with input_ids"))),
    })?;
    rows.finish(path, progress)
}

/// The rows of a token file as they come.
#[derive(Default)]
pub struct TokenRows {
    rows: Vec<Vec<u32>>,
    padding: usize,
}

impl TokenRows {
    /// Takes the rows of an object: one row or several; of an object that is the whole file, several.
    ///
    /// # Errors
    /// The reason, with the place.
    pub fn add(&mut self, mut fields: Map<String, Value>, place: Place) -> std::result::Result<(), String> {
        let several = |value: &Value| value.as_array().is_some_and(|rows| rows.iter().all(Value::is_array));
        let input_ids = fields.shift_remove("input_ids").unwrap_or_default();
        let one =
            !several(&input_ids) || input_ids.as_array().is_some_and(|rows| rows.is_empty() && place != Place::Whole);
        if one && (place == Place::Whole || !input_ids.is_array()) {
            return Err(format!("{place}{EXPECTED}: input_ids is {}", described(&input_ids)));
        }
        let grid = |value: Value| if one { vec![value] } else { as_array(value) };
        let mut rows = Vec::new();
        for (row, value) in grid(input_ids).into_iter().enumerate() {
            let ids = as_array(value).into_iter().enumerate().map(|(position, id)| {
                let valid = id.as_u64().and_then(|id| u32::try_from(id).ok());
                valid.ok_or_else(|| {
                    format!(
                        "{place}{EXPECTED}: token {position} of row {row} is {}, no whole number of 32 bits",
                        described(&id)
                    )
                })
            });
            rows.push(ids.collect::<std::result::Result<Vec<u32>, String>>()?);
        }
        if rows.is_empty() {
            return Err(format!("{place}input_ids has no rows"));
        }
        if let Some(row) = rows.iter().position(Vec::is_empty) {
            return Err(format!("{place}row {row} of input_ids is empty"));
        }
        let given: Vec<usize> = rows.iter().map(Vec::len).collect();
        // First, because it says which tokens the other fields are about.
        let mask = fields.shift_remove("attention_mask");
        let names = mask.map(|mask| ("attention_mask".to_owned(), mask)).into_iter().chain(fields);
        for (name, value) in names.filter(|(_, value)| !value.is_null()) {
            if DESCRIPTIVE.contains(&&*name) {
                continue;
            }
            let meant: fn(usize, u32) -> i64 = match &*name {
                "attention_mask" => |_, _| 1,
                "position_ids" => |position, _| position as i64,
                "labels" => |_, id| i64::from(id),
                "token_type_ids" => {
                    return Err(format!(
                        "{place}token_type_ids are not known: GPT-2 and GPT-J add the embedding of the token of that \
                         number, the others ignore them; remove the field"
                    ));
                }
                _ => {
                    return Err(format!(
                        "{place}the field {name:?} beside input_ids is not known and may change what they mean; \
                         remove it"
                    ));
                }
            };
            let values = numbers(grid(value), &given).map_err(|reason| format!("{place}{name}: {reason}"))?;
            if name == "attention_mask" {
                for (ids, mask) in rows.iter_mut().zip(&values) {
                    let kept = mask.iter().rposition(|&value| value != 0).map_or(0, |last| last + 1);
                    self.padding += ids.len() - kept;
                    ids.truncate(kept);
                }
                if let Some(row) = rows.iter().position(Vec::is_empty) {
                    return Err(format!("{place}row {row} of input_ids is nothing but padding"));
                }
            }
            for (row, (ids, values)) in rows.iter().zip(&values).enumerate() {
                for (position, (&id, &value)) in ids.iter().zip(values).enumerate() {
                    // What comes first is never predicted, so its label is none.
                    let unused = name == "labels" && position == 0;
                    if value != meant(position, id) && !unused {
                        return Err(format!("{place}{}", refused(&name, row, position, value)));
                    }
                }
            }
        }
        self.rows.append(&mut rows);
        Ok(())
    }

    /// All rows, and a word on what was left out.
    ///
    /// # Errors
    /// [`Error::BadFile`] if there are none.
    pub fn finish(self, path: &Path, progress: &dyn Progress) -> Result<Vec<Vec<u32>>> {
        if self.rows.is_empty() {
            return Err(Error::bad_file(path, "input_ids has no rows"));
        }
        if self.padding > 0 {
            progress.note(&format!(
                "{}: {} tokens of padding, by attention_mask, are left out",
                path.display(),
                self.padding
            ));
        }
        Ok(self.rows)
    }
}

/// Why a field with this value cannot be honoured.
fn refused(name: &str, row: usize, position: usize, value: i64) -> String {
    let advice = match name {
        "attention_mask" => {
            "only ones are known, and zeros at the end of a row, which are padding and left out; write each row \
             without its padding"
        }
        "labels" => "a loss over other tokens than input_ids is not known; remove labels if all tokens count",
        _ => "positions other than 0, 1, 2, ... are not known; write sequences that are packed into one row as rows",
    };
    format!("{name} of token {position} of row {row} is {value}: {advice}")
}

fn as_array(value: Value) -> Vec<Value> {
    if let Value::Array(array) = value { array } else { Vec::new() }
}

/// Whole numbers in rows of these lengths.
fn numbers(rows: Vec<Value>, lengths: &[usize]) -> std::result::Result<Vec<Vec<i64>>, String> {
    if rows.len() != lengths.len() {
        return Err(format!("{} rows, but input_ids has {}", rows.len(), lengths.len()));
    }
    let row = |(row, (value, &length)): (usize, (Value, &usize))| {
        let Value::Array(values) = value else {
            return Err(format!("row {row} is {}, no row of numbers", described(&value)));
        };
        if values.len() != length {
            return Err(format!("row {row} has {} values, but that of input_ids {length} tokens", values.len()));
        }
        let number = |value: &Value| {
            value
                .as_i64()
                .or(value.as_bool().map(i64::from))
                .ok_or_else(|| format!("row {row} holds {}", described(value)))
        };
        values.iter().map(number).collect()
    };
    rows.into_iter().zip(lengths).enumerate().map(row).collect()
}

/// Checks that a model can take these tokens: ids below `vocab_size`, rows of at most `positions` tokens if these are
/// learned; `source` is for messages.
///
/// # Errors
/// [`Error::BadTokens`] that says where.
pub fn check(rows: &[Vec<u32>], vocab_size: usize, positions: Option<usize>, source: &str) -> Result<()> {
    for (index, row) in rows.iter().enumerate() {
        if let Some((position, id)) = row.iter().enumerate().find(|(_, id)| **id as usize >= vocab_size) {
            return Err(Error::BadTokens(format!(
                "{source}: token {position} of row {index} is {id}, outside of the vocabulary of {vocab_size}; is it \
                 another model's?"
            )));
        }
        if let Some(most) = positions.filter(|&most| row.len() > most) {
            return Err(Error::BadTokens(format!(
                "{source}: row {index} has {} tokens, the model has positions for {most}",
                row.len()
            )));
        }
    }
    Ok(())
}

/// sha256 of token ids: each row as its length and its ids, all little-endian u32.
pub fn sha256(rows: &[Vec<u32>]) -> String {
    let mut hasher = Sha256::new();
    for row in rows {
        hasher.update((row.len() as u32).to_le_bytes());
        for id in row {
            hasher.update(id.to_le_bytes());
        }
    }
    hex(hasher.finalize())
}
