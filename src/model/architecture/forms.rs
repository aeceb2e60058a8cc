//! The forms that models of a row can be written in, beside our own.

use super::{gguf::Gguf, remote_code::RemoteCode};

/// Those that a row has; one that it lacks is refused by name.
#[derive(Debug, Clone, Copy)]
pub struct Forms {
    /// Whether a narrower model can be an ordinary checkpoint; none can where the stock class takes heads times
    /// head_dim for the width of the residual stream.
    pub stock: bool,
    /// Whether transformers refuses a hidden_size that num_attention_heads does not divide, though head_dim is
    /// explicit.
    pub width_by_heads: bool,
    pub gguf: Option<Gguf>,
    pub code: Option<RemoteCode>,
}
