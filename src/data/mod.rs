//! Texts and token files → sequences of token ids.

mod chat;
mod compressed;
mod fence;
mod file;
mod foreign;
mod json;
mod json_lines;
mod python;
mod text;
mod tokenizer;
mod tokens;

pub use chat::{Chat, ChatTemplate};
pub use text::{Text, Tokens};
pub use tokenizer::{encode, fenced, load_tokenizer};
pub use tokens::{check, read_token_file, sha256};
