//! What a model writes itself, to be calibrated on beside a file: how much, what it goes on from, and how the two are
//! mixed.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

/// The most tokens that a model writes itself beside a file, in sequences of up to [`OWN_LENGTH`].
const OWN_TOKENS: usize = 65_536;
pub(super) const OWN_LENGTH: usize = 512;
/// With fewer tokens than these for each regressor of the widest fit, more of its own writing helps.
const TOKENS_OF_REGRESSOR: usize = 32;
/// One in this many tokens of such sequences, by turns, is of the file: what the model goes on from. Short passages
/// leave it to write what it knows, long ones keep it to the file's kind; which is better depends on the model.
const PASSAGES: [usize; 4] = [128, 64, 32, 16];

/// How many tokens a model is to write itself beside `file` tokens, where its widest fit has `regressors`: as many, or
/// up to twice as many where both would be few.
pub(super) fn own_tokens(file: usize, regressors: usize) -> usize {
    (TOKENS_OF_REGRESSOR * regressors).saturating_sub(file).clamp(file, 2 * file).min(OWN_TOKENS)
}

/// What each of `count` sequences of `length` tokens goes on from, in tokens.
pub(super) fn passage_lengths(count: usize, length: usize) -> impl Iterator<Item = usize> {
    PASSAGES.iter().cycle().take(count).map(move |part| length / part)
}

/// Passages of these lengths in tokens, at least one, each as likely to be drawn as any other of its length; of the
/// longest sequence if all are shorter. None if there are no tokens.
pub(super) fn passages(rows: &[Vec<u32>], lengths: impl Iterator<Item = usize>, seed: u64) -> Vec<Vec<u32>> {
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let drawn = |tokens: usize| {
        let tokens = tokens.clamp(1, longest.max(1));
        let all = |row: &Vec<u32>| (row.len() + 1).saturating_sub(tokens);
        let there = rows.iter().map(all).sum::<usize>() as u64;
        let mut at = rng.next_u64().checked_rem(there)? as usize;
        let row = rows.iter().find(|row| {
            let within = at < all(row);
            at -= if within { 0 } else { all(row) };
            within
        })?;
        Some(row[at..at + tokens].to_vec())
    };
    lengths.filter_map(drawn).collect()
}

/// Both, evenly mixed, each in its order: any run of them has its share of either.
pub(super) fn interleaved<T>(file: Vec<T>, own: Vec<T>) -> Vec<T> {
    let place = |index: usize, count: usize| (2 * index + 1) as f64 / (2 * count) as f64;
    let (of_file, of_own) = (file.len(), own.len());
    let file = file.into_iter().enumerate().map(|(index, row)| (place(index, of_file), row));
    let own = own.into_iter().enumerate().map(|(index, row)| (place(index, of_own), row));
    let mut all: Vec<(f64, T)> = file.chain(own).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.into_iter().map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, iter};

    use super::*;

    #[test]
    fn a_model_writes_more_itself_where_its_channels_have_few_tokens() {
        for (file, regressors, expected) in [
            (16_384, 172, 16_384),
            (12_288, 1536, 24_576),
            (24_576, 1024, 24_576),
            (20_000, 1536, 29_152),
            (60_000, 8192, 65_536),
            (262_144, 1536, 65_536),
            (0, 64, 0),
        ] {
            assert_eq!(own_tokens(file, regressors), expected, "{file} tokens, {regressors} regressors");
        }
    }

    #[test]
    fn passages_are_of_the_sequences_and_all_of_them_can_be_drawn() {
        let rows: Vec<Vec<u32>> = vec![vec![1, 2], (10..16).collect(), Vec::new(), (20..24).collect()];
        let of = |tokens: usize, seed: u64| passages(&rows, iter::repeat_n(tokens, 500), seed);
        let drawn = of(3, 1);
        assert!(drawn.iter().all(|passage| rows.iter().any(|row| row.windows(3).any(|other| other == passage))));
        let different: HashSet<&Vec<u32>> = drawn.iter().collect();
        assert_eq!((drawn.len(), different.len()), (500, 4 + 2));
        assert_ne!(of(3, 2), drawn);
        assert!(of(9, 1).iter().all(|passage| *passage == (10..16).collect::<Vec<u32>>()), "the longest");
        let single: HashSet<Vec<u32>> = of(0, 1).into_iter().collect();
        assert_eq!(single.len(), 12);
        assert_eq!(passage_lengths(5, 512).collect::<Vec<usize>>(), [4, 8, 16, 32, 4]);
        let each: Vec<usize> = passages(&rows, passage_lengths(4, 64), 1).iter().map(Vec::len).collect();
        assert_eq!(each, [1, 1, 2, 4]);
        assert!(passages(&[Vec::new()], iter::repeat_n(3, 5), 1).is_empty());
    }
}
