//! The tokenizer beside a model, fenced in: its file is user data, and the crate that reads it panics on some.

use std::path::Path;

use tokenizers::Tokenizer;

use super::fence::fence;
use crate::error::{Error, Result};

/// The tokenizer beside a model.
///
/// # Errors
/// [`Error::BadFile`] if there is none, or it cannot be read.
pub fn load_tokenizer(directory: &Path) -> Result<Tokenizer> {
    let path = directory.join("tokenizer.json");
    if !path.exists() {
        return Err(Error::bad_file(&path, "no tokenizer.json beside the model: give token ids in a .json file instead of text"));
    }
    let load = || {
        let mut tokenizer = Tokenizer::from_file(&path)?;
        // Files often say how training cut and filled its texts: here texts count whole, and nothing else does.
        tokenizer.with_truncation(None)?;
        tokenizer.with_padding(None);
        Ok(tokenizer)
    };
    fenced(load).map_err(|reason| Error::bad_file(&path, reason))
}

/// The ids of a text, or the reason why there are none. `special_tokens` says whether those that begin or end a text are added; a rendered
/// conversation has its own.
pub fn encode(tokenizer: &Tokenizer, text: &str, special_tokens: bool) -> std::result::Result<Vec<u32>, String> {
    fenced(|| Ok(tokenizer.encode(text, special_tokens)?.get_ids().to_vec()))
}

/// Does something with a tokenizer; a panic becomes a reason.
pub fn fenced<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> std::result::Result<T, String> {
    match fence(work) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("tokenizer.json contradicts itself: {panic}")),
    }
}
