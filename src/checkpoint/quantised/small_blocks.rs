//! Blocks of 32 or 64 values with a scale or two of their own. Where values have four bits, a byte holds one of the
//! first half of the block and one of the second.

use super::bytes::{half_at, u32_at};

/// The four bits of value `index` of a block of 32.
fn nibble(packed: &[u8], index: usize) -> u8 {
    if index < 16 { packed[index] & 15 } else { packed[index - 16] >> 4 }
}

/// Those and a fifth one.
fn five_bits(packed: &[u8], fifth: u32, index: usize) -> u8 {
    nibble(packed, index) | ((fifth >> index & 1) as u8) << 4
}

pub fn q4_0(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 0);
    for (index, value) in values.iter_mut().enumerate() {
        *value = scale * (f32::from(nibble(&block[2..], index)) - 8.0);
    }
}

pub fn q4_1(block: &[u8], values: &mut [f32]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    for (index, value) in values.iter_mut().enumerate() {
        *value = scale * f32::from(nibble(&block[4..], index)) + least;
    }
}

pub fn q5_0(block: &[u8], values: &mut [f32]) {
    let (scale, fifth) = (half_at(block, 0), u32_at(block, 2));
    for (index, value) in values.iter_mut().enumerate() {
        *value = scale * (f32::from(five_bits(&block[6..], fifth, index)) - 16.0);
    }
}

pub fn q5_1(block: &[u8], values: &mut [f32]) {
    let (scale, least, fifth) = (half_at(block, 0), half_at(block, 2), u32_at(block, 4));
    for (index, value) in values.iter_mut().enumerate() {
        *value = scale * f32::from(five_bits(&block[8..], fifth, index)) + least;
    }
}

pub fn q8_0(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 0);
    for (value, &stored) in values.iter_mut().zip(&block[2..]) {
        *value = f32::from(stored as i8) * scale;
    }
}

/// The values that four bits stand for in IQ4_NL and IQ4_XS: closer together around zero.
pub const UNEVEN: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

pub fn iq4_nl(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 0);
    for (index, value) in values.iter_mut().enumerate() {
        *value = scale * UNEVEN[usize::from(nibble(&block[2..], index))];
    }
}

/// Twice the values of a float of four bits: sign, two of the exponent, one of the mantissa.
pub const E2M1: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

pub fn mxfp4(block: &[u8], values: &mut [f32]) {
    let scale = half_of_e8m0(block[0]);
    for (index, value) in values.iter_mut().enumerate() {
        *value = scale * E2M1[usize::from(nibble(&block[1..], index))];
    }
}

/// The block of [`mxfp4`] nearest to 32 finite values, as ggml has it: the largest is between 4 and 8 times the scale,
/// of which it holds up to 6, and what is half way between two goes to the smaller one. Values of such a block come
/// back.
pub fn to_mxfp4(values: &[f32]) -> [u8; 17] {
    let largest = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    // f32 stores the exponent as the scale does.
    let exponent = ((largest.to_bits() >> 23) as u8).saturating_sub(2);
    let scale = half_of_e8m0(exponent);
    let mut block = [0; 17];
    block[0] = exponent;
    for (index, value) in values.iter().enumerate() {
        let far = |bits: usize| (scale * E2M1[bits] - value).abs();
        let nearest = (1..E2M1.len()).fold(0, |best, bits| if far(bits) < far(best) { bits } else { best });
        block[1 + index % 16] |= (nearest as u8) << (index / 16 * 4);
    }
    block
}

/// Half of two to the power of the exponent less 127.
pub fn half_of_e8m0(exponent: u8) -> f32 {
    let exponent = u32::from(exponent);
    // Below 2, only a subnormal number holds it.
    f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 })
}

pub fn nvfp4(block: &[u8], values: &mut [f32]) {
    for (group, values) in values.chunks_exact_mut(16).enumerate() {
        let scale = half_of_e4m3(block[group]);
        let packed = &block[4 + 8 * group..][..8];
        for (index, value) in values.iter_mut().enumerate() {
            let bits = if index < 8 { packed[index] & 15 } else { packed[index - 8] >> 4 };
            *value = scale * E2M1[usize::from(bits)];
        }
    }
}

/// Half the value of a float of eight bits without sign: four of the exponent, three of the mantissa.
fn half_of_e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    match (bits, exponent) {
        // The one that stands for no number.
        (0x7f, _) => 0.0,
        (_, 0) => mantissa * 2f32.powi(-9) * 0.5,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7) * 0.5,
    }
}
