//! How the predictions of a smaller model agree with those of the dense one.

use serde::{Deserialize, Serialize};

use crate::ops::Divergence;

/// Means over tokens; perplexities as exp of the mean over the sequences of their mean loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Mean KL divergence of the dense model's prediction from the other's, in nats.
    pub kl: f64,
    /// The share of tokens to which both give the largest probability.
    pub top_1: f64,
    pub dense_perplexity: f64,
    pub perplexity: f64,
    /// Mean over the tokens of the loss, in nats.
    pub dense_loss: f64,
    pub loss: f64,
    pub sequences: usize,
    /// Tokens that were predicted: all but the first of each sequence.
    pub tokens: usize,
}

/// Sums of which the means are taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct Agreements {
    kl: f64,
    agrees: usize,
    losses: [f64; 2],
    /// Of all tokens alike.
    totals: [f64; 2],
    sequences: usize,
    tokens: usize,
}

impl Agreements {
    /// Adds sequences of these lengths, whose tokens `found` has one after the other. The last of each predicts
    /// nothing.
    pub fn add(&mut self, lengths: impl Iterator<Item = usize>, found: &[Divergence]) {
        let mut start = 0;
        for length in lengths {
            let predicted = &found[start..start + length.saturating_sub(1)];
            start += length;
            if predicted.is_empty() {
                continue;
            }
            self.kl += predicted.iter().map(|token| token.kl).sum::<f64>();
            self.agrees += predicted.iter().filter(|token| token.agrees).count();
            for of in [0, 1] {
                let total = predicted.iter().map(|token| token.losses[of]).sum::<f64>();
                self.totals[of] += total;
                self.losses[of] += total / predicted.len() as f64;
            }
            self.sequences += 1;
            self.tokens += predicted.len();
        }
    }

    /// The means.
    pub fn means(&self) -> Agreement {
        let (tokens, sequences) = (self.tokens.max(1) as f64, self.sequences.max(1) as f64);
        let [dense, other] = self.losses.map(|sum| (sum / sequences).exp());
        Agreement {
            kl: self.kl / tokens,
            top_1: self.agrees as f64 / tokens,
            dense_perplexity: dense,
            perplexity: other,
            dense_loss: self.totals[0] / tokens,
            loss: self.totals[1] / tokens,
            sequences: self.sequences,
            tokens: self.tokens,
        }
    }
}
