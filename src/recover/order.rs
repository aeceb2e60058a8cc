//! In which order sequences are trained on.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

/// The sequences of step `step`, `size` of `count`: all of them once, in an order drawn anew, before any comes again.
pub(super) fn sequences(step: usize, size: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut shuffled: Option<(usize, Vec<usize>)> = None;
    let mut of = |place: usize| {
        let (round, at) = (place / count, place % count);
        let order = match &mut shuffled {
            Some((found, order)) if *found == round => order,
            other => &mut other.insert((round, shuffle(count, seed, round))).1,
        };
        order[at]
    };
    (step * size..(step + 1) * size).map(&mut of).collect()
}

/// A permutation (Fisher and Yates).
fn shuffle(count: usize, seed: u64, round: usize) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Apart from the streams that parameters are drawn from.
    rng.set_stream(u64::MAX - round as u64);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, (rng.next_u64() % (last as u64 + 1)) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_takes_every_sequence_once_before_any_comes_again() {
        for (count, size) in [(7, 3), (4, 4), (5, 1), (1, 1)] {
            let all: Vec<usize> = (0..2 * count).flat_map(|step| sequences(step, size, count, 3)).collect();
            for round in all.chunks_exact(count) {
                let mut sorted = round.to_vec();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..count).collect::<Vec<_>>(), "{count} by {size}");
            }
        }
        assert_ne!(sequences(0, 50, 50, 3), sequences(1, 50, 50, 3));
        assert_ne!(sequences(0, 50, 50, 3), sequences(0, 50, 50, 4));
    }
}
