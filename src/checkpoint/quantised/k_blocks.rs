//! Blocks of 256 values with scales of a few bits for each 16 or 32 of them, and one scale for those scales.

use super::{
    bytes::{half_at, u16_at},
    small_blocks::UNEVEN,
};

pub fn q2_k(block: &[u8], values: &mut [f32]) {
    let (scale, least) = (half_at(block, 80), half_at(block, 82));
    for (group, values) in values.chunks_exact_mut(16).enumerate() {
        let packed = block[group];
        let (scale, least) = (scale * f32::from(packed & 15), least * f32::from(packed >> 4));
        for (index, value) in values.iter_mut().enumerate() {
            *value = scale * f32::from(two_bits(&block[16..80], 16 * group + index)) - least;
        }
    }
}

/// The two bits of a value of 256: 32 bytes hold 128 of them, the first 32 in the lowest bits.
fn two_bits(packed: &[u8], index: usize) -> u8 {
    packed[index / 128 * 32 + index % 32] >> (index % 128 / 32 * 2) & 3
}

pub fn q3_k(block: &[u8], values: &mut [f32]) {
    let (high, low, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let scale = half_at(block, 108);
    for (group, values) in values.chunks_exact_mut(16).enumerate() {
        // Four bits in the first eight bytes, two more in the last four.
        let four = scales[group % 8] >> (group / 8 * 4) & 15;
        let two = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = scale * (f32::from(four | two << 4) - 32.0);
        for (index, value) in values.iter_mut().enumerate() {
            let index = 16 * group + index;
            // A bit that is there takes nothing away.
            let less = if high[index % 32] >> (index / 32) & 1 == 1 { 0.0 } else { 4.0 };
            *value = scale * (f32::from(two_bits(low, index)) - less);
        }
    }
}

/// Scale and minimum of a group of 32 in Q4_K and Q5_K, six bits each.
fn scale_and_least(packed: &[u8], group: usize) -> (f32, f32) {
    let at = group % 4;
    let (first, second, rest) = (packed[at], packed[4 + at], packed[8 + at]);
    let (scale, least) = if group < 4 {
        (first & 63, second & 63)
    } else {
        (rest & 15 | first >> 2 & 0x30, rest >> 4 | second >> 2 & 0x30)
    };
    (f32::from(scale), f32::from(least))
}

/// The four bits of a value of 256: 32 bytes hold 64 of them, the first 32 in the lower bits.
fn four_bits(packed: &[u8], index: usize) -> u8 {
    packed[index / 64 * 32 + index % 32] >> (index % 64 / 32 * 4) & 15
}

pub fn q4_k(block: &[u8], values: &mut [f32]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    for (group, values) in values.chunks_exact_mut(32).enumerate() {
        let (of_scale, of_least) = scale_and_least(&block[4..16], group);
        let (scale, least) = (scale * of_scale, least * of_least);
        for (index, value) in values.iter_mut().enumerate() {
            *value = scale * f32::from(four_bits(&block[16..], 32 * group + index)) - least;
        }
    }
}

pub fn q5_k(block: &[u8], values: &mut [f32]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    let (high, low) = (&block[16..48], &block[48..]);
    for (group, values) in values.chunks_exact_mut(32).enumerate() {
        let (of_scale, of_least) = scale_and_least(&block[4..16], group);
        let (scale, least) = (scale * of_scale, least * of_least);
        for (index, value) in values.iter_mut().enumerate() {
            let fifth = high[index] >> group & 1;
            *value = scale * f32::from(four_bits(low, 32 * group + index) | fifth << 4) - least;
        }
    }
}

pub fn q6_k(block: &[u8], values: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half_at(block, 208);
    for (group, values) in values.chunks_exact_mut(16).enumerate() {
        let scale = scale * f32::from(scales[group] as i8);
        for (index, value) in values.iter_mut().enumerate() {
            let index = 16 * group + index;
            // 64 bytes hold 128 values, the first 64 in the lower bits.
            let four = low[index / 128 * 64 + index % 64] >> (index % 128 / 64 * 4) & 15;
            *value = scale * (f32::from(four | two_bits(high, index) << 4) - 32.0);
        }
    }
}

pub fn iq4_xs(block: &[u8], values: &mut [f32]) {
    let (scale, high, low) = (half_at(block, 0), u16_at(block, 2), &block[4..8]);
    for (group, values) in values.chunks_exact_mut(32).enumerate() {
        let four = low[group / 2] >> (group % 2 * 4) & 15;
        let two = (high >> (2 * group) & 3) as u8;
        let scale = scale * (f32::from(four | two << 4) - 32.0);
        let packed = &block[8 + 16 * group..][..16];
        for (index, value) in values.iter_mut().enumerate() {
            let bits = packed[index % 16] >> (index / 16 * 4) & 15;
            *value = scale * UNEVEN[usize::from(bits)];
        }
    }
}
