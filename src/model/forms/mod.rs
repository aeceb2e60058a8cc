//! The forms that a model can be written in beside our own: the stock checkpoint of its `model_type`, GGUF, and Python
//! files by which transformers loads what has no stock form. A row that lacks one is refused by name.

mod adapter;
mod gguf;
mod python;
mod resize;
mod stock;

pub use adapter::{AdapterForm, AdapterTensor, LowRank};
pub use gguf::{GgufExport, GgufTokenizer, Vocabulary, is_gguf, open_gguf};
pub use python::RemoteCode;
pub use resize::Resize;
pub use stock::without_mean;

use super::architecture::Role;

/// What of these a row has.
#[derive(Debug, Clone, Copy)]
pub struct Forms {
    pub stock: Option<Stock>,
    pub gguf: Option<Gguf>,
    pub code: Option<RemoteCode>,
}

/// A narrower model as an ordinary checkpoint; there is none where the stock class takes heads times head_dim for the
/// width of the residual stream.
#[derive(Debug, Clone, Copy)]
pub struct Stock {
    /// Whether transformers refuses a hidden_size that num_attention_heads does not divide, though head_dim is
    /// explicit.
    pub width_by_heads: bool,
}

/// How llama.cpp takes models of a row.
#[derive(Debug, Clone, Copy)]
pub struct Gguf {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// That of models whose layers differ in their heads or in the width of their MLPs, if there is one.
    pub by_layer: Option<&'static str>,
    /// Whether it turns neighbouring coordinates of a head together, where the checkpoint has those half a head apart.
    pub interleaved: bool,
    /// Whether it reads a factor for each frequency from the file.
    pub frequency_factors: bool,
    /// The weights that may have a bias.
    pub biases: &'static [Role],
    /// What to take those for whose queries together are not as wide as the residual stream, if they must be here.
    pub other_widths: Option<&'static Gguf>,
}
