//! How the work on attention's gradient is divided into blocks of queries.

use super::{AttentionShape, turns::TURNS};

/// At most this many bytes are taken by the shares of a block, unless four queries of one key-value head have more.
const SCRATCH: usize = 32 << 20;
/// Blocks of this many queries and more are multiples of it.
const ROWS: usize = 64;

/// How the work on a sequence is divided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Division {
    /// Key-value heads at a time.
    pub kv_heads: usize,
    /// Queries at a time.
    pub queries: usize,
}

impl Division {
    /// For a sequence of this length, with no more than `work` multiply-adds in a dispatch.
    pub fn new(shape: &AttentionShape, tokens: usize, work: usize) -> Self {
        let seen = |queries: usize| shape.window.map_or(tokens, |window| tokens.min(window + queries));
        // A turn for each query of the block and head of the group.
        let limit = tokens.min(TURNS / shape.group().max(1)).max(4);
        let fitting = |kv_heads: usize| {
            let of_query = |queries| kv_heads * shape.group() * seen(queries).next_multiple_of(4);
            let fits = |queries: usize| {
                8 * queries * of_query(queries) <= SCRATCH && queries * of_query(queries) * shape.head_dim <= work
            };
            let step = if limit < ROWS { 4 } else { ROWS };
            (0..=limit.next_multiple_of(step)).rev().step_by(step).find(|&queries| fits(queries)).unwrap_or(0)
        };
        let halves = std::iter::successors(Some(shape.k.heads.max(1)), |heads| (*heads > 1).then(|| heads.div_ceil(2)));
        let found = halves.map(|kv_heads| Self { kv_heads, queries: fitting(kv_heads) }).find(|one| one.queries > 0);
        found.unwrap_or(Self { kv_heads: 1, queries: 4 })
    }

    /// Rows and columns of the shares.
    pub fn shares(&self, shape: &AttentionShape, tokens: usize) -> [usize; 2] {
        let seen = shape.window.map_or(tokens, |window| tokens.min(window + self.queries));
        let rows = self.queries.min(tokens).next_multiple_of(4);
        [2 * self.kv_heads.min(shape.k.heads) * shape.group() * rows, seen.next_multiple_of(4)]
    }
}

/// Bytes on the GPU that the gradient of attention takes in a sequence of this length beside what it is given and its
/// result.
pub fn attention_backward_bytes(shape: &AttentionShape, tokens: usize) -> u64 {
    let [rows, columns] = Division::new(shape, tokens, usize::MAX).shares(shape, tokens);
    4 * rows as u64 * columns as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::HeadSpan;

    fn shape(heads: usize, kv_heads: usize, window: Option<usize>) -> AttentionShape {
        let span = |heads| HeadSpan { column: 0, heads };
        AttentionShape {
            head_dim: 64,
            q: span(heads),
            k: span(kv_heads),
            v: span(kv_heads),
            window,
            ..Default::default()
        }
    }

    #[test]
    fn blocks_of_queries_fit_into_memory_and_into_a_dispatch() {
        for (shape, tokens, work, kv_heads, queries) in [
            (shape(4, 4, None), 256, usize::MAX, 4, 256),
            (shape(4, 4, None), 7, usize::MAX, 4, 8),
            (shape(32, 8, None), 512, usize::MAX, 8, 256),
            (shape(32, 8, None), 8192, usize::MAX, 2, 64),
            (shape(128, 1, None), 2048, usize::MAX, 1, 4),
            (shape(32, 8, Some(100)), 8192, usize::MAX, 8, 256),
            (shape(32, 8, None), 512, 1 << 20, 1, 4),
        ] {
            let division = Division::new(&shape, tokens, work);
            assert_eq!(division, Division { kv_heads, queries }, "{shape:?} {tokens}");
            let [rows, columns] = division.shares(&shape, tokens);
            assert!(4 * rows * columns <= SCRATCH, "{shape:?} {tokens}");
        }
    }
}
