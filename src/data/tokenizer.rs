//! What is done with a tokenizer, fenced in: its file is user data, and the crate that reads it panics on some.

use tokenizers::Tokenizer;

use super::fence::fence;

/// The ids of a text, or the reason why there are none. `special_tokens` says whether those that begin or end a text
/// are added; a rendered conversation has its own.
///
/// # Errors
/// The reason.
pub fn encode(tokenizer: &Tokenizer, text: &str, special_tokens: bool) -> Result<Vec<u32>, String> {
    fenced(|| Ok(tokenizer.encode(text, special_tokens)?.get_ids().to_vec()))
}

/// What a text ends with that was not written when its last tokens came, because they did not make up characters: the
/// first `written` of its `ids` did. Whatever still is no character is shown as U+FFFD.
pub fn held_back(tokenizer: &Tokenizer, ids: &[u32], written: usize) -> String {
    let text = |ids: &[u32]| fenced(|| tokenizer.decode(ids, true)).unwrap_or_default();
    if written == ids.len() {
        return String::new();
    }
    text(ids).strip_prefix(&text(&ids[..written])).unwrap_or_default().to_owned()
}

/// Does something with a tokenizer; a panic becomes a reason.
///
/// # Errors
/// The reason, of an error or a panic.
pub fn fenced<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match fence(work) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("tokenizer.json contradicts itself: {panic}")),
    }
}
