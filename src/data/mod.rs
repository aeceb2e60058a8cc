//! Texts and token files → sequences of token ids.

mod text;
mod tokens;

pub use text::{Text, Tokens, load_tokenizer};
pub use tokens::{check, read_token_file, sha256};
