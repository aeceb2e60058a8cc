//! What becomes of the scores of attention before their softmax, and of values that are kept within a limit.

use nalgebra::DMatrix;

use crate::ops::{AttentionShape, Bound};

/// The slopes of linear biases by head, as the paper's own code recurs: powers of 2^(−8/n) for n a power of two, and
/// otherwise those of the power before n, and every other one of the power after it.
pub fn slopes(heads: usize) -> Vec<f64> {
    if heads.is_power_of_two() {
        return (1..=heads).map(|head| 2f64.powf(-8.0 * head as f64 / heads as f64)).collect();
    }
    let power = heads.next_power_of_two() / 2;
    let more = slopes(2 * power).into_iter().step_by(2).take(heads - power);
    slopes(power).into_iter().chain(more).collect()
}

fn bf16(value: f64) -> f64 {
    half::bf16::from_f64(value).to_f64()
}

/// The score of a key by its scaled product with a query, both of them by their positions, and its derivative.
pub(super) fn scored(shape: &AttentionShape, product: f64, head: usize, query: usize, key: usize) -> (f64, f64) {
    let (score, slope) = match shape.softcap.map(f64::from) {
        Some(cap) => {
            let share = (product / cap).tanh();
            (cap * share, 1.0 - share * share)
        }
        None => (product, 1.0),
    };
    let Some(alibi) = shape.alibi else { return (score, slope) };
    let steep = slopes(alibi.heads)[head];
    let bias = match alibi.in_bf16 {
        true => bf16(bf16(steep) * bf16(key as f64)) - bf16(bf16(steep) * bf16(query as f64)),
        false => -steep * (query - key) as f64,
    };
    (score + f64::from(alibi.factor) * bias, slope)
}

/// Values kept within a limit.
pub fn bound(kind: Bound, y: &DMatrix<f64>, limit: f64) -> DMatrix<f64> {
    y.map(|value| match kind {
        Bound::Clip => value.clamp(-limit, limit),
        Bound::SoftCap => limit * (value / limit).tanh(),
    })
}

/// The gradient of what was bounded, from that of the result `y`.
pub fn bound_backward(kind: Bound, y: &DMatrix<f64>, limit: f64, d: &DMatrix<f64>) -> DMatrix<f64> {
    y.zip_map(d, |value, d| match kind {
        Bound::Clip if value.abs() < limit => d,
        Bound::Clip => 0.0,
        Bound::SoftCap => d * (1.0 - (value / limit).powi(2)),
    })
}
