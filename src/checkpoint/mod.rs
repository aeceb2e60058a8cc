//! Checkpoints on disk: safetensors files, one or many, read through memory maps and written whole or not at all.

mod reader;
mod writer;

pub use reader::{Checkpoint, Tensor};
pub use safetensors::Dtype;
pub use writer::{OutputDirectory, SHARD_BYTES, TensorFile, TensorPlan, TensorWriter, shards};
