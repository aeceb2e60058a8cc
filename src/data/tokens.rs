//! Token files, `{"input_ids": [[…], …]}`: used as they stand, so that runs are reproducible across implementations.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Reads a token file. Rows may differ in length.
///
/// # Errors
/// [`Error::Read`], [`Error::BadFile`] if it is not of this form or holds no tokens.
pub fn read_token_file(path: &Path) -> Result<Vec<Vec<u32>>> {
    #[derive(serde::Deserialize)]
    struct File {
        input_ids: Vec<Vec<u32>>,
    }
    let text = std::fs::read(path).map_err(Error::read(path))?;
    let File { input_ids } =
        serde_json::from_slice(&text).map_err(|error| Error::bad_file(path, format!("expected {{\"input_ids\": [[token ids], ...]}}: {error}")))?;
    if input_ids.is_empty() {
        return Err(Error::bad_file(path, "input_ids has no rows"));
    }
    if let Some(row) = input_ids.iter().position(Vec::is_empty) {
        return Err(Error::bad_file(path, format!("row {row} of input_ids is empty")));
    }
    Ok(input_ids)
}

/// Checks that a model can take these tokens: ids below `vocab_size`, rows of at most `positions` tokens if these are learned; `source` is for
/// messages.
///
/// # Errors
/// [`Error::BadTokens`] that says where.
pub fn check(rows: &[Vec<u32>], vocab_size: usize, positions: Option<usize>, source: &str) -> Result<()> {
    for (index, row) in rows.iter().enumerate() {
        if let Some((position, id)) = row.iter().enumerate().find(|(_, id)| **id as usize >= vocab_size) {
            return Err(Error::BadTokens(format!(
                "{source}: token {position} of row {index} is {id}, outside of the vocabulary of {vocab_size}; is it another model's?"
            )));
        }
        if let Some(most) = positions.filter(|&most| row.len() > most) {
            return Err(Error::BadTokens(format!("{source}: row {index} has {} tokens, the model has positions for {most}", row.len())));
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
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
