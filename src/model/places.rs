//! Places of tokens in their sequences: the first ones are read by all that follow, and may matter more.

use crate::ops::Sequence;

/// How many kinds of places there are: the first token of a sequence, the second, the next 2, 4 and 8, and all others.
pub const PLACES: usize = 6;

/// The kind of the place of a token at this position of its sequence.
pub fn place(position: usize) -> usize {
    (usize::BITS - position.leading_zeros()).min(PLACES as u32 - 1) as usize
}

/// The kinds of the places of all tokens of a batch.
pub fn places(sequences: &[Sequence]) -> impl Iterator<Item = usize> {
    sequences.iter().flat_map(|sequence| (0..sequence.tokens).map(|token| place(sequence.position + token)))
}

/// Sums over the tokens of each kind of place, and how many tokens these are.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PlaceSums {
    sums: [f64; PLACES],
    tokens: [f64; PLACES],
}

impl PlaceSums {
    /// Adds what a token has.
    pub fn add(&mut self, place: usize, value: f64) {
        self.sums[place] += value;
        self.tokens[place] += 1.0;
    }

    /// The mean of each kind as a multiple of that of the last one, the tokens that are not among the first; 1 where
    /// there are no tokens of a kind to tell, or none but first ones.
    pub fn relative(&self) -> [f64; PLACES] {
        let mean = |place: usize| self.sums[place] / self.tokens[place];
        let usual = mean(PLACES - 1);
        std::array::from_fn(|place| {
            let relative = mean(place) / usual;
            if relative.is_finite() { relative } else { 1.0 }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sequences;

    #[test]
    fn the_first_tokens_of_each_sequence_have_places_of_their_own() {
        let found: Vec<usize> = places(&sequences([20, 1, 3])).collect();
        let long = [0, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5];
        assert_eq!(found, [&long[..], &[0], &[0, 1, 2]].concat());
        assert_eq!(place(usize::MAX), PLACES - 1);
    }

    #[test]
    fn means_are_given_as_multiples_of_the_usual_one() {
        let mut sums = PlaceSums::default();
        for (place, value) in [(0, 8.0), (0, 4.0), (2, 1.0), (5, 1.0), (5, 2.0), (5, 3.0)] {
            sums.add(place, value);
        }
        assert_eq!(sums.relative(), [3.0, 1.0, 0.5, 1.0, 1.0, 1.0]);
        // Sequences too short to have a usual token, and no gradient at all.
        assert_eq!(PlaceSums::default().relative(), [1.0; PLACES]);
        let mut none = PlaceSums::default();
        [0, 5].into_iter().for_each(|place| none.add(place, 0.0));
        assert_eq!(none.relative(), [1.0; PLACES]);
    }
}
