//! Blocks of 256 values that are −1, 0 or 1 times a scale.

use super::bytes::half_at;

pub fn tq1_0(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 52);
    // A byte holds five values, the last one four: as a fraction of 256 in base 3, whose first digit comes first. The
    // same digit of consecutive bytes makes consecutive values.
    let runs = [(0..32, 5), (32..48, 5), (48..52, 4)];
    let mut next = 0;
    for (bytes, digits) in runs {
        for digit in 0..digits {
            for &byte in &block[bytes.clone()] {
                let rest = byte.wrapping_mul(3u8.pow(digit));
                values[next] = scale * (f32::from(((u16::from(rest) * 3) >> 8) as u8) - 1.0);
                next += 1;
            }
        }
    }
}

pub fn tq2_0(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 64);
    for (index, value) in values.iter_mut().enumerate() {
        let bits = block[index / 128 * 32 + index % 32] >> (index % 128 / 32 * 2) & 3;
        *value = scale * (f32::from(bits) - 1.0);
    }
}
