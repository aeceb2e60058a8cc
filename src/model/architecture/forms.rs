//! The forms that models of a row can be written in, beside our own.

use super::{remote_code::RemoteCode, role::Role};
use crate::ops::Activation;

/// Those that a row has; one that it lacks is refused by name.
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

/// What llama.cpp computes for its architecture of a row beyond what it does for llama.
#[derive(Debug, Clone, Copy)]
pub struct GgufOwn {
    /// In the MLPs.
    pub activation: Activation,
    /// Every so manieth layer has no window there, where others have one; `None` where it has no windows.
    pub window_interval: Option<usize>,
    /// Whether it reads soft-caps of scores and logits from the file.
    pub softcaps: bool,
    /// Whether the head is always the embedding.
    pub tied: bool,
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
