//! How the tensors of a GGUF file store their values: plain floats, or blocks of a row that share scales. Every block
//! is widened by the same operations in the same order as in the gguf package, so that results are equal to the last
//! bit.

mod bytes;
mod codebooks;
mod floats;
mod grids;
mod k_blocks;
mod small_blocks;
mod ternary;

use safetensors::Dtype;

pub use small_blocks::{E2M1, half_of_e8m0, to_mxfp4};

/// One way of storing values.
#[derive(Debug, Clone, Copy)]
pub struct Encoding {
    /// The number of the type in the file.
    id: u32,
    pub name: &'static str,
    /// Values of a row that are stored together.
    pub block: usize,
    /// Bytes of such a block.
    pub bytes: usize,
    /// Widens one block.
    widen: fn(&[u8], &mut [f32]),
}

const fn encoding(id: u32, name: &'static str, block: usize, bytes: usize, widen: fn(&[u8], &mut [f32])) -> Encoding {
    Encoding { id, name, block, bytes, widen }
}

/// Values in most blocks.
const SUPER: usize = 256;

/// The number of floats of four bits whose scales are powers of two.
const MXFP4: u32 = 39;

/// Every one that is known.
const ENCODINGS: &[Encoding] = &[
    encoding(0, "F32", 1, 4, floats::f32),
    encoding(1, "F16", 1, 2, floats::f16),
    encoding(2, "Q4_0", 32, 18, small_blocks::q4_0),
    encoding(3, "Q4_1", 32, 20, small_blocks::q4_1),
    encoding(6, "Q5_0", 32, 22, small_blocks::q5_0),
    encoding(7, "Q5_1", 32, 24, small_blocks::q5_1),
    encoding(8, "Q8_0", 32, 34, small_blocks::q8_0),
    encoding(10, "Q2_K", SUPER, 84, k_blocks::q2_k),
    encoding(11, "Q3_K", SUPER, 110, k_blocks::q3_k),
    encoding(12, "Q4_K", SUPER, 144, k_blocks::q4_k),
    encoding(13, "Q5_K", SUPER, 176, k_blocks::q5_k),
    encoding(14, "Q6_K", SUPER, 210, k_blocks::q6_k),
    encoding(16, "IQ2_XXS", SUPER, 66, codebooks::iq2_xxs),
    encoding(17, "IQ2_XS", SUPER, 74, codebooks::iq2_xs),
    encoding(18, "IQ3_XXS", SUPER, 98, codebooks::iq3_xxs),
    encoding(19, "IQ1_S", SUPER, 50, codebooks::iq1_s),
    encoding(20, "IQ4_NL", 32, 18, small_blocks::iq4_nl),
    encoding(21, "IQ3_S", SUPER, 110, codebooks::iq3_s),
    encoding(22, "IQ2_S", SUPER, 82, codebooks::iq2_s),
    encoding(23, "IQ4_XS", SUPER, 136, k_blocks::iq4_xs),
    encoding(29, "IQ1_M", SUPER, 56, codebooks::iq1_m),
    encoding(30, "BF16", 1, 2, floats::bf16),
    encoding(34, "TQ1_0", SUPER, 54, ternary::tq1_0),
    encoding(35, "TQ2_0", SUPER, 66, ternary::tq2_0),
    encoding(MXFP4, "MXFP4", 32, 17, small_blocks::mxfp4),
    encoding(40, "NVFP4", 64, 36, small_blocks::nvfp4),
];

impl PartialEq for Encoding {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Encoding {
    /// The one of this number.
    pub fn of(id: u32) -> Option<Self> {
        ENCODINGS.iter().find(|known| known.id == id).copied()
    }

    /// The names of all.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ENCODINGS.iter().map(|known| known.name)
    }

    /// The type in which values are read: their own, or f32 where they are quantised; bf16 where that holds every one.
    pub fn dtype(self) -> Dtype {
        self.float().unwrap_or(if self.id == MXFP4 { Dtype::BF16 } else { Dtype::F32 })
    }

    /// The type of plain floats; `None` for quantised values.
    pub fn float(self) -> Option<Dtype> {
        match self.id {
            0 => Some(Dtype::F32),
            1 => Some(Dtype::F16),
            30 => Some(Dtype::BF16),
            _ => None,
        }
    }

    /// Bytes of this many values; `None` if they are no whole blocks, or too many.
    pub fn byte_len(self, values: usize) -> Option<usize> {
        if !values.is_multiple_of(self.block) {
            return None;
        }
        (values / self.block).checked_mul(self.bytes)
    }

    /// The values of whole blocks.
    pub fn widen(self, stored: &[u8]) -> Vec<f32> {
        let mut values = vec![0.0; stored.len() / self.bytes * self.block];
        for (block, values) in stored.chunks_exact(self.bytes).zip(values.chunks_exact_mut(self.block)) {
            (self.widen)(block, values);
        }
        values
    }
}
