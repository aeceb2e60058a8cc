//! Values that are floats as they stand.

use super::bytes::{half_at, u16_at, u32_at};

pub fn f32(block: &[u8], values: &mut [f32]) {
    values[0] = f32::from_bits(u32_at(block, 0));
}

pub fn f16(block: &[u8], values: &mut [f32]) {
    values[0] = half_at(block, 0);
}

pub fn bf16(block: &[u8], values: &mut [f32]) {
    values[0] = f32::from_bits(u32::from(u16_at(block, 0)) << 16);
}
