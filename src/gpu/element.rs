//! How numbers are stored: their sizes and names, and to and from f32. All that is stored is little-endian.

use half::{bf16, f16, slice::HalfFloatSliceExt};

/// Views must start at an offset that every adapter can bind (256 bytes): this many rows do, whatever the width (4
/// elements of 2 bytes a row at least).
pub const ROW_ALIGNMENT: usize = 64;

/// How an element is stored, in a file or on the GPU. Arithmetic is always f32: 16-bit elements are widened by the
/// kernel that reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElementType {
    F32,
    F16,
    Bf16,
    /// Token ids, positions and tables of rows.
    U32,
}

impl ElementType {
    /// Size in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Bytes of a row on the GPU, which is padded to a multiple of four elements.
    pub const fn row_bytes(self, cols: usize) -> u64 {
        (cols.next_multiple_of(4) * self.size()) as u64
    }

    /// What transformers calls it in config.json.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::U32 => "uint32",
        }
    }

    /// The largest value that it holds.
    pub fn max(self) -> f32 {
        match self {
            Self::F16 => f16::MAX.to_f32(),
            Self::Bf16 => bf16::MAX.to_f32(),
            Self::F32 | Self::U32 => f32::MAX,
        }
    }

    /// The nearest value that it holds.
    pub fn nearest(self, value: f64) -> f32 {
        match self {
            Self::F16 => f16::from_f64(value).to_f32(),
            Self::Bf16 => bf16::from_f64(value).to_f32(),
            Self::F32 | Self::U32 => value as f32,
        }
    }

    /// The bytes of values, each rounded to the nearest that it holds.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F16 => {
                let mut stored = vec![f16::ZERO; values.len()];
                stored.convert_from_f32_slice(values);
                stored.into_iter().flat_map(f16::to_le_bytes).collect()
            }
            Self::Bf16 => {
                let mut stored = vec![bf16::ZERO; values.len()];
                stored.convert_from_f32_slice(values);
                stored.into_iter().flat_map(bf16::to_le_bytes).collect()
            }
            Self::F32 | Self::U32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    /// The values of bytes.
    pub fn decode(self, bytes: &[u8]) -> impl Iterator<Item = f32> {
        bytes.chunks_exact(self.size()).map(move |b| match self {
            Self::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
            Self::Bf16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            Self::F32 | Self::U32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        })
    }

    /// The index of the first value that is NaN or infinite.
    pub fn first_not_finite(self, bytes: &[u8]) -> Option<usize> {
        // All bits of the exponent are set.
        let mut values = bytes.chunks_exact(self.size());
        match self {
            Self::F32 | Self::U32 => values.position(|b| b[3] & 0x7f == 0x7f && b[2] & 0x80 == 0x80),
            Self::F16 => values.position(|b| b[1] & 0x7c == 0x7c),
            Self::Bf16 => values.position(|b| b[1] & 0x7f == 0x7f && b[0] & 0x80 == 0x80),
        }
    }
}
