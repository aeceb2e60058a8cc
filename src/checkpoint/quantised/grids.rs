//! The points of the codebooks: groups of 8 or 4 values that an index stands for.
//!
//! The file has two bytes for each point, little-endian: two bits for each of 8 values, or four for each of 4, the
//! first value in the lowest.

const POINTS: &[u8] = include_bytes!("../../../assets/gguf/codebooks.bin");

/// The points of one codebook.
pub struct Grid<const N: usize> {
    first: usize,
    /// What the bits of a value stand for.
    values: &'static [f32],
}

const THREE: &[f32] = &[8.0, 25.0, 43.0, 0.0];

pub const IQ2_XXS: Grid<8> = Grid { first: 0, values: THREE };
pub const IQ2_XS: Grid<8> = Grid { first: 256, values: THREE };
pub const IQ2_S: Grid<8> = Grid { first: 768, values: THREE };
pub const IQ1: Grid<8> = Grid { first: 1792, values: &[-1.0, 0.0, 1.0, 0.0] };
pub const IQ3_XXS: Grid<4> = Grid { first: 3840, values: &[4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0] };
pub const IQ3_S: Grid<4> = Grid { first: 4096, values: &[1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0] };

/// How many points there are in all.
const COUNT: usize = 4608;
const _: () = assert!(POINTS.len() == 2 * COUNT);

impl<const N: usize> Grid<N> {
    /// The values of a point.
    pub fn point(&self, index: usize) -> [f32; N] {
        let at = 2 * (self.first + index);
        let bits = u16::from_le_bytes([POINTS[at], POINTS[at + 1]]);
        let each = 16 / N;
        std::array::from_fn(|value| self.values[usize::from(bits >> (each * value)) & ((1 << each) - 1) & 7])
    }
}
