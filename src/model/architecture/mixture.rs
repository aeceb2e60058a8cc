//! What the table says of mixtures: layers that have several MLPs, the experts, of which a router chooses a few for
//! each token.

use super::block::{Block, Weight};

/// When the gates of a token's experts are divided by their sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalised {
    Always,
    /// When this config field says so; `bool` if it does not speak.
    Field(&'static str, bool),
}

/// Which layers are mixtures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MixtureLayers {
    All,
    /// Every n-th, n by the field `step`, 1 by default, but none of those in the list `dense`.
    Every {
        step: &'static str,
        dense: &'static str,
    },
}

/// The mixtures of a row. Their layers have other blocks than the row's dense ones.
#[derive(Debug, Clone, Copy)]
pub struct Mixture {
    /// Those of a layer. The last one is the mixture, whose weight is the router.
    pub blocks: &'static [Block],
    pub layers: MixtureLayers,
    /// How many experts there are: names of the config field, and what the class takes without one.
    pub count: ([&'static str; 2], usize),
    /// How many of them a token goes to.
    pub chosen: (&'static str, usize),
    /// Between the linear layers of an expert; the field may be that of the dense MLP.
    pub intermediate_size: (&'static str, usize),
    pub normalised: Normalised,
    /// What stands before the number of an expert in the name of its tensors.
    pub experts: &'static str,
    /// The weights of an expert, by their names after its number.
    pub weights: &'static [Weight],
    /// An expert that every token goes to beside those.
    pub shared: Option<Shared>,
    /// Whether llama.cpp divides the gates of a token's experts by their sum.
    pub gguf_normalises: bool,
    /// What experts and router are called where the tensors of all experts are one.
    pub fused: Option<Fused>,
    /// The tensors of the experts of a layer where no expert has its own.
    pub together: Option<Together>,
    /// The fields of α and of the limit of [`crate::ops::ClampedSwiglu`], which experts have in place of the model's
    /// activation, and what the class takes without them; llama.cpp takes these whatever a file says.
    pub swiglu: Option<[(&'static str, f64); 2]>,
}

/// An expert that every token goes to. What it gives is multiplied by the sigmoid of its gate's product with what it
/// reads.
#[derive(Debug, Clone, Copy)]
pub struct Shared {
    pub intermediate_size: (&'static str, usize),
    /// By their names within a layer.
    pub weights: &'static [Weight],
    /// `[1, hidden_size]`.
    pub gate: &'static Weight,
}

/// Tensors that hold the weights of all experts of a layer, each the transpose of those of other models. Biases are in
/// tensors of these names with `_bias` after them. Where the weights are in MXFP4, their values are in one with
/// `_blocks` after the name, `[experts, out, in / 32, 16]`, and the scales of these in one with `_scales`,
/// `[experts, out, in / 32]`.
#[derive(Debug, Clone, Copy)]
pub struct Together {
    /// `[experts, hidden_size, 2 · intermediate_size]`: a column of gate, then one of up, in turn.
    pub gate_up: &'static str,
    /// `[experts, intermediate_size, hidden_size]`.
    pub down: &'static str,
}

/// How transformers names things in memory, and writes them if asked to.
#[derive(Debug, Clone, Copy)]
pub struct Fused {
    /// The router.
    pub router: &'static str,
    /// `[experts, 2 · intermediate_size, hidden_size]`: gate, then up, of each.
    pub gate_up: &'static str,
    /// `[experts, hidden_size, intermediate_size]`.
    pub down: &'static str,
}
