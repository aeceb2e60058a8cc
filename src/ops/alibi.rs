//! Linear biases of attention.

/// Linear biases, of Press et al. (2022): the score of a key that is i positions back loses `factor · slope · i`. The
/// slopes of n heads, n a power of two, are 2^(−8/n), 2^(−16/n) … 2^(−8); of more than n and fewer than 2n, those of n
/// and then every other one of 2n, from the first on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alibi {
    /// Query heads of the layer, on which the slopes depend.
    pub heads: usize,
    pub factor: f32,
    /// Whether slopes, and their products with positions, are rounded to bf16.
    pub in_bf16: bool,
}

impl Alibi {
    /// The largest power of two up to the number of heads.
    pub(super) fn power_of_two(&self) -> u32 {
        1 << self.heads.max(1).ilog2()
    }
}
