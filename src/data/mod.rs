//! Texts and token files → sequences of token ids.

mod chat;
mod chat_templates;
mod clock;
mod compressed;
mod examples;
mod fence;
mod file;
mod foreign;
mod json;
mod json_lines;
mod python;
mod python_methods;
mod python_objects;
mod template_filters;
mod template_source;
mod text;
mod tokenizer;
mod tokenizer_build;
mod tokenizer_files;
mod tokenizer_growth;
mod tokens;
mod vocabulary;

pub use chat::{Chat, ChatTemplate};
pub use chat_templates::chat_templates;
pub use examples::{Encoded, Example};
pub use fence::is_fenced;
pub use text::{Lessons, Text, Tokens};
pub use tokenizer::{encode, fenced, held_back};
pub use tokenizer_build::{BuiltTokenizer, SERIALIZED_CLASS};
pub use tokenizer_files::{TokenizerFiles, object};
pub use tokens::{check, read_token_file, sha256};
pub use vocabulary::{VocabularyCut, Wanted, ids_in, renumber_ids};
