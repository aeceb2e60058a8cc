//! What the table says of gated delta nets: layers whose attention keeps a state of fixed size in place of keys and
//! values.
//!
//! With x what a layer reads, * a causal convolution of each channel by itself, and h a value head:
//!
//! ```text
//!     q, k, v = silu(conv * W_mixed·x),   q ← q / (‖q‖·√d_k),   k ← k / ‖k‖
//!     a = exp(−exp(A_log)·softplus(W_decay·x + dt_bias)),   b = sigmoid(W_beta·x)
//!     S_t = a·S_{t−1}·(I − b·k·kᵀ) + b·v·kᵀ,   o = S_t·q
//!     y = W_out·(norm(o)·silu(W_gate·x))
//! ```

use super::block::Block;

/// The gated delta nets of a row. Their layers have other blocks than those with attention.
#[derive(Debug, Clone, Copy)]
pub struct DeltaNets {
    /// Those of a layer.
    pub blocks: &'static [Block],
    /// Where `layer_types` does not say: every n-th layer has attention, n by this field or its default.
    pub interval: (&'static str, usize),
    pub key_heads: (&'static str, usize),
    pub value_heads: (&'static str, usize),
    pub key_dim: (&'static str, usize),
    pub value_dim: (&'static str, usize),
    /// Tokens that the convolution sees.
    pub taps: (&'static str, usize),
    /// `[channels, 1, taps]`.
    pub convolution: &'static str,
    /// The logarithm of the rate of each value head.
    pub rate: &'static str,
    /// What is added to the decay of each value head.
    pub decay_bias: &'static str,
    /// The weight of the norm of each value head's result.
    pub norm: &'static str,
}
