//! Blocks of 256 values that name points of a codebook, with signs and scales beside them.

use super::{
    bytes::{half_at, u16_at, u32_at},
    grids::{Grid, IQ1, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS},
};

/// The signs that seven bits stand for: the eighth makes their number even.
fn eight_signs(seven: u32) -> u8 {
    let seven = seven as u8 & 0x7f;
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// Writes a point: `signs` has a bit for each value that is negative.
fn signed<const N: usize>(scale: f32, point: [f32; N], signs: u8, values: &mut [f32]) {
    for (index, (value, coordinate)) in values.iter_mut().zip(point).enumerate() {
        *value = scale * coordinate * if signs >> index & 1 == 1 { -1.0 } else { 1.0 };
    }
}

/// Writes two points of four values, of which the second has the upper signs.
fn signed_pair(scale: f32, grid: &Grid<4>, indices: [usize; 2], signs: u8, values: &mut [f32]) {
    let (first, second) = values.split_at_mut(4);
    signed(scale, grid.point(indices[0]), signs, first);
    signed(scale, grid.point(indices[1]), signs >> 4, second);
}

/// The four bits of a scale, by its number.
fn four_bits(packed: &[u8], index: usize) -> f32 {
    f32::from(packed[index / 2] >> (index % 2 * 4) & 15)
}

pub fn iq2_xxs(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 0);
    for (group, values) in values.chunks_exact_mut(32).enumerate() {
        let at = 2 + 8 * group;
        let rest = u32_at(block, at + 4);
        let scale = scale * (0.5 + (rest >> 28) as f32) * 0.25;
        for (part, values) in values.chunks_exact_mut(8).enumerate() {
            signed(scale, IQ2_XXS.point(block[at + part].into()), eight_signs(rest >> (7 * part)), values);
        }
    }
}

pub fn iq2_xs(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 0);
    for (part, values) in values.chunks_exact_mut(8).enumerate() {
        let word = u16_at(block, 2 + 2 * part);
        let scale = scale * (0.5 + four_bits(&block[66..], part / 2)) * 0.25;
        signed(scale, IQ2_XS.point(usize::from(word & 511)), eight_signs(u32::from(word >> 9)), values);
    }
}

pub fn iq2_s(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 0);
    for (part, values) in values.chunks_exact_mut(8).enumerate() {
        let high = block[66 + part / 4] >> (part % 4 * 2) & 3;
        let scale = scale * (0.5 + four_bits(&block[74..], part / 2)) * 0.25;
        signed(scale, IQ2_S.point(usize::from(block[2 + part]) | usize::from(high) << 8), block[34 + part], values);
    }
}

pub fn iq3_xxs(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 0);
    for (group, values) in values.chunks_exact_mut(32).enumerate() {
        let rest = u32_at(block, 66 + 4 * group);
        let scale = scale * (0.5 + (rest >> 28) as f32) * 0.5;
        for (part, values) in values.chunks_exact_mut(8).enumerate() {
            let at = 2 + 8 * group + 2 * part;
            let indices = [block[at].into(), block[at + 1].into()];
            signed_pair(scale, &IQ3_XXS, indices, eight_signs(rest >> (7 * part)), values);
        }
    }
}

pub fn iq3_s(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 0);
    for (part, values) in values.chunks_exact_mut(8).enumerate() {
        let scale = scale * (1.0 + 2.0 * four_bits(&block[106..], part / 4));
        let index = |point: usize| {
            let high = block[66 + point / 8] >> (point % 8) & 1;
            usize::from(block[2 + point]) | usize::from(high) << 8
        };
        signed_pair(scale, &IQ3_S, [index(2 * part), index(2 * part + 1)], block[74 + part], values);
    }
}

/// What is added to or taken from every coordinate.
const SHIFT: f32 = 0.125;

/// Writes a point of which every value is shifted.
fn shifted(scale: f32, index: usize, less: bool, values: &mut [f32]) {
    let shift = if less { -SHIFT } else { SHIFT };
    for (value, coordinate) in values.iter_mut().zip(IQ1.point(index)) {
        *value = scale * (coordinate + shift);
    }
}

pub fn iq1_s(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 0);
    for (part, values) in values.chunks_exact_mut(8).enumerate() {
        let rest = u16_at(block, 34 + part / 4 * 2);
        let scale = scale * f32::from(2 * (rest >> 12 & 7) + 1);
        let high = usize::from(rest >> (part % 4 * 3) & 7);
        shifted(scale, usize::from(block[2 + part]) | high << 8, rest & 0x8000 != 0, values);
    }
}

pub fn iq1_m(block: &[u8], values: &mut [f32]) {
    let scales: [u16; 4] = std::array::from_fn(|word| u16_at(block, 48 + 2 * word));
    // Four bits of the scale stand in each of these words.
    let bits = scales.iter().enumerate().fold(0, |bits, (word, packed)| bits | (packed >> 12) << (4 * word));
    let scale = half::f16::from_bits(bits).to_f32();
    for (part, values) in values.chunks_exact_mut(8).enumerate() {
        let group = part / 2;
        let scale = scale * f32::from(2 * (scales[group / 4] >> (group % 4 * 3) & 7) + 1);
        let rest = block[32 + group] >> (part % 2 * 4) & 15;
        shifted(scale, usize::from(block[part]) | usize::from(rest & 7) << 8, rest & 8 != 0, values);
    }
}
