//! Checkpoints on disk: safetensors files, one or many, read tensor by tensor and written whole or not at all; GGUF files, written only.

mod atomic;
mod gguf;
mod output;
mod reader;
mod writer;

pub use gguf::{GgufFile, GgufTensor, GgufType, GgufValue};
pub use output::OutputDirectory;
pub use reader::{Checkpoint, Tensor, sha256};
pub use safetensors::Dtype;
pub use writer::{SHARD_BYTES, TensorFile, TensorPlan, TensorWriter, shards};
