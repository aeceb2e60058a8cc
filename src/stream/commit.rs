//! What a committed state is made of.

use serde::{Deserialize, Serialize};

/// A residual in one of its two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    pub file: usize,
    pub checksum: u64,
}

/// Tells a damaged file from a whole one; no protection against intent.
#[derive(Debug, Clone, Copy)]
pub struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    /// Adds values, one at a time, as FNV-1a does bytes.
    pub fn add(&mut self, values: &[f32]) {
        self.0 = values.iter().fold(self.0, |hash, value| {
            (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29)
        });
    }

    /// The number that goes with what was added.
    pub fn value(self) -> u64 {
        self.0
    }
}

/// Numbers that come back as they were, to the last bit: decimal digits in JSON need not.
pub mod exact {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the bits.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.to_bits())
    }

    /// Reads the bits.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}
