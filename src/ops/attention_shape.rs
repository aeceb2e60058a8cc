//! Where the heads of attention lie, and how its queries are dealt out to workgroups.

use super::{Alibi, HeadSpan};

/// What attention needs to know of a layer: where heads lie in the rows of the queries, and of the keys and values.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AttentionShape {
    pub head_dim: usize,
    pub q: HeadSpan,
    pub k: HeadSpan,
    pub v: HeadSpan,
    /// What q·k is multiplied by, usually 1 / sqrt(head_dim).
    pub scale: f32,
    /// A token sees itself and the `window - 1` tokens before it; all of them if `None`.
    pub window: Option<usize>,
    /// Scores become `c · tanh(score / c)` with this c.
    pub softcap: Option<f32>,
    pub alibi: Option<Alibi>,
}

/// Wider heads would not leave room for a tile of keys and values, nor for a thread's registers.
pub(super) const MAX_NARROW: usize = 128;
/// The widest heads.
pub const MAX_HEAD_DIM: usize = 256;

impl AttentionShape {
    /// Query heads that share one key-value head.
    pub fn group(&self) -> usize {
        self.q.heads / self.k.heads.max(1)
    }

    /// Keys that a kernel takes at a time, and the turns of its loops for them, at most: found on the driver that
    /// counts them, which unrolls some, with heads of 8 to 128.
    pub(super) fn turns(&self, queries: usize) -> [usize; 2] {
        match queries {
            MANY => [32, 84 + 20 * self.head_dim.div_ceil(16)],
            _ => [64, 24 + 2 * self.head_dim.div_ceil(4)],
        }
    }

    pub(super) fn grid(&self, decoding: bool) -> Grid {
        let queries = match decoding {
            true if self.group() == 1 => ONE,
            false if self.head_dim <= MAX_NARROW => MANY,
            _ => FEW,
        };
        let group_part = self.group().min(queries);
        Grid { queries, group_part, tokens: queries / group_part }
    }
}

/// The most queries of a workgroup: decoding where each head has its own keys; decoding otherwise, and wide heads; all
/// else.
pub(super) const ONE: usize = 1;
pub(super) const FEW: usize = 4;
pub(super) const MANY: usize = 64;

/// How queries are dealt out to workgroups.
pub(super) struct Grid {
    /// Which kernel: the one for this many.
    pub queries: usize,
    /// The queries of a workgroup are `tokens` of a block times `group_part` heads of a group.
    pub group_part: usize,
    pub tokens: usize,
}
