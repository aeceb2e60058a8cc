//! Checkpoints on disk: safetensors files, one or many, read tensor by tensor and written whole or not at all; GGUF files, written only.

mod atomic;
mod diagnose;
mod gguf;
mod output;
mod reader;
mod select;
mod writer;

pub use diagnose::{adapter, beginning, content, shard_of};
pub use gguf::{GgufFile, GgufTensor, GgufType, GgufValue};
pub use output::OutputDirectory;
pub use reader::{Checkpoint, Tensor, sha256};
pub use safetensors::Dtype;
pub use writer::{SHARD_BYTES, TensorFile, TensorPlan, TensorWriter, shards};
