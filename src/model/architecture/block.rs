//! What a layer is made of: blocks, and the stored tensors of their weights.

use super::role::Role;

/// A space that signals live in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// The residual stream, hidden_size wide: what slicing makes narrower.
    Residual,
    /// Queries, keys, values or the attention's result.
    Heads,
    /// Between the two linear layers of the MLP.
    Hidden,
    /// A number for each expert of a mixture.
    Experts,
}

/// How a linear weight is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[out, in]`.
    Linear,
    /// `[in, out]`, GPT-2's.
    Conv1d,
}

/// In which order a stored tensor has the rows of the weights that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One weight after the other.
    Concatenated,
    /// For each key-value head its queries, then its key, then its value.
    Grouped,
    /// For each query head its query, then the gate of its result.
    Paired,
}

/// When a weight has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    Never,
    Always,
    /// When this config field says so; `bool` if it does not speak.
    Field(&'static str, bool),
}

/// A stored tensor of a decoder layer, and the linear weights that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// Name within the layer, without `.weight`.
    pub name: &'static str,
    pub holds: &'static [Role],
    pub order: Order,
    pub reads: Space,
    pub writes: Space,
    pub layout: Layout,
    pub bias: Bias,
}

impl Weight {
    pub(super) const fn linear(
        name: &'static str,
        holds: &'static [Role],
        reads: Space,
        writes: Space,
        bias: Bias,
    ) -> Self {
        Self { name, holds, order: Order::Concatenated, reads, writes, layout: Layout::Linear, bias }
    }

    pub(super) const fn conv1d(name: &'static str, holds: &'static [Role], reads: Space, writes: Space) -> Self {
        let this = Self::linear(name, holds, reads, writes, Bias::Always);
        Self { layout: Layout::Conv1d, ..this }
    }
}

/// What a block computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    Attention,
    /// `gated`: activation(gate) · up instead of activation(up).
    Mlp {
        gated: bool,
    },
    /// Several gated MLPs, of which each token goes to a few.
    Mixture,
    /// Linear attention with a state that forgets and corrects itself, [`super::DeltaNets`].
    DeltaNet,
}

impl BlockKind {
    /// Whether what it makes of a token depends on those before it.
    pub fn looks_back(self) -> bool {
        matches!(self, Self::Attention | Self::DeltaNet)
    }

    /// Whether it has channels between two linear layers.
    pub fn is_mlp(self) -> bool {
        matches!(self, Self::Mlp { .. })
    }
}

/// A part of a layer that reads the residual stream once and adds to it once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub kind: BlockKind,
    /// The norm that its weights read the residual through. Two blocks may name the same one; without one they read the
    /// residual as it is.
    pub norm: Option<&'static str>,
    /// The norm of its result, before that is added to the residual.
    pub norm_after: Option<&'static str>,
    pub weights: &'static [Weight],
}
