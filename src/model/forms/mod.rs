//! The forms that a model can be written in beside our own: the stock checkpoint of its `model_type`, GGUF, and Python
//! files by which transformers loads what has no stock form. A row that lacks one is refused by name.

mod adapter;
mod gguf;
mod python;
mod resize;
mod stock;

pub use adapter::{AdapterForm, AdapterTensor, LowRank};
pub use gguf::{GgufExport, GgufTokenizer, Vocabulary, is_gguf, open_gguf};
pub use resize::Resize;
pub use stock::without_mean;

pub use super::architecture::{
    Forms, Gguf, GgufAlibi, GgufBiases, GgufHead, GgufOwn, GgufQkNorm, GgufWindows, OtherWidths, RemoteCode,
};
