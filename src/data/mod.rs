//! Texts and token files → sequences of token ids.

mod text;
mod tokenizer;
mod tokens;

pub use text::{Text, Tokens};
pub use tokenizer::{encode, fenced, load_tokenizer};
pub use tokens::{check, read_token_file, sha256};
