//! Checkpoints on disk: safetensors files, one or many, read tensor by tensor and written whole or not at all; GGUF
//! files, written only.

mod atomic;
mod diagnose;
mod gguf;
mod made;
mod output;
mod reader;
mod select;
mod target;
mod writer;
mod writes;

pub use atomic::AtomicFile;
pub use diagnose::{adapter, mistaken, shard_of};
pub use gguf::{GgufFile, GgufTensor, GgufType, GgufValue};
pub use made::RECORD;
pub use output::OutputDirectory;
pub use reader::{Checkpoint, Tensor, sha256};
pub use safetensors::Dtype;
pub use writer::{SHARD_BYTES, TensorFile, TensorPlan, TensorWriter, shards};
pub use writes::{COMPANION_FILES, FileTarget, Writes};
