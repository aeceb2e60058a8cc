//! Which tokens of a batch belong together.

/// A run of tokens of one sequence, and where the keys and values of that sequence begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// Row of the first token in the queries.
    pub first: usize,
    pub tokens: usize,
    /// Row of the sequence's position 0 in the keys and values.
    pub kv_row: usize,
    /// Position of the first token in its sequence.
    pub position: usize,
}

impl Sequence {
    /// The rows of its tokens in the queries, and of their keys and values in a cache.
    pub fn cache_rows(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.tokens).map(move |token| (self.first + token, self.kv_row + self.position + token))
    }

    /// This run in shorter ones, of up to `tokens` each.
    pub(super) fn pieces(self, tokens: usize) -> impl Iterator<Item = Self> {
        (0..self.tokens).step_by(tokens).map(move |skip| Self {
            first: self.first + skip,
            tokens: tokens.min(self.tokens - skip),
            position: self.position + skip,
            ..self
        })
    }
}

/// Whole sequences that follow one another, keys beside queries.
pub fn sequences(lengths: impl IntoIterator<Item = usize>) -> Vec<Sequence> {
    let mut first = 0;
    lengths
        .into_iter()
        .map(|tokens| {
            let sequence = Sequence { first, tokens, kv_row: first, position: 0 };
            first += tokens;
            sequence
        })
        .collect()
}
