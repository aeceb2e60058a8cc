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
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down, Self::Router];
}
