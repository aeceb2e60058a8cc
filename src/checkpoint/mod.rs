//! Checkpoints on disk: safetensors files, one or many, read tensor by tensor and written whole or not at all; GGUF
//! files, one or many, read through what makes a checkpoint of them, and written.

mod assembled;
mod atomic;
mod contents;
mod diagnose;
mod gguf;
mod gguf_header;
mod gguf_split;
mod made;
mod mxfp4;
mod output;
mod quantised;
mod reader;
mod select;
mod target;
mod writer;
mod writes;
mod written;

pub use assembled::{Assembled, Part};
pub use atomic::AtomicFile;
pub use contents::contents;
pub use diagnose::{adapter, mistaken, shard_of};
pub use gguf::{GgufFile, GgufTensor, GgufType, GgufValue};
pub use gguf_header::{GgufEntry, GgufField, GgufHeader};
pub use gguf_split::{GgufFiles, GgufSplit};
pub use made::RECORD;
pub use mxfp4::{BLOCK, BLOCK_BYTES};
pub use output::OutputDirectory;
pub use quantised::Encoding;
pub use reader::{Checkpoint, Tensor, hex, sha256};
pub use safetensors::Dtype;
pub use writer::{SHARD_BYTES, TensorFile, TensorPlan, TensorWriter, shards, tensor_file};
pub use writes::{ADDITIONAL_TEMPLATES, COMPANION_FILES, FileTarget, Writes, is_foreign_vocabulary};
pub use written::Written;
