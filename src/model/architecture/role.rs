//! What the weights of a layer are for.

/// What a weight of a layer is for; from it follow its size and where its result goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
    /// What says which experts of a mixture a token goes to.
    Router,
    /// What the result of attention, or of a gated delta net, is multiplied by, through a sigmoid or silu.
    OutputGate,
    /// Queries, keys and values of a gated delta net, side by side, before their convolution.
    Mixed,
    /// How much of an error each head of a gated delta net corrects.
    Beta,
    /// How much of its state each head of a gated delta net forgets.
    Decay,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::Gate,
        Self::Up,
        Self::Down,
        Self::Router,
        Self::OutputGate,
        Self::Mixed,
        Self::Beta,
        Self::Decay,
    ];
}
