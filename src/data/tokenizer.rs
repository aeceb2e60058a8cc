//! What is done with a tokenizer, fenced in: its file is user data, and the crate that reads it panics on some.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};

use tokenizers::Tokenizer;

/// The ids of a text, special tokens included, or the reason why there are none.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> std::result::Result<Vec<u32>, String> {
    fenced(|| Ok(tokenizer.encode(text, true)?.get_ids().to_vec()))
}

/// Does something with a tokenizer; a panic becomes a reason.
pub fn fenced<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> std::result::Result<T, String> {
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(work));
    set_hook(hook);
    match result {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(format!("tokenizer.json contradicts itself: {}", text.unwrap_or("the tokenizer gives up")))
        }
    }
}
