//! The factors by which a file divides each rotary frequency → the rule of llama3 that they follow.
//!
//! The rule keeps frequencies of more than `high_freq_factor` turns within `original_max_position_embeddings`, divides
//! those of fewer than `low_freq_factor` by `factor`, and goes from one to the other linearly in the number of turns.
//! So 1/f is a line in the frequency: 1/f = 1/F + s (1 − 1/F) with s = a·x − b, x the turns in one position, cut off
//! at 0 and 1. Its a and b say as much as the three numbers of the rule, of which one is free.

use std::f64::consts::TAU;

use serde_json::{Value, json};

/// How far factors of f32 may be from the rule.
const TOLERANCE: f64 = 2e-6;

/// The section of config.json; `None` if the factors follow no such rule.
pub fn llama3(factors: &[f32], dim: usize, theta: f64) -> Option<Value> {
    if factors.len() != dim / 2 || factors.iter().any(|factor| !factor.is_finite() || *factor <= 0.0) {
        return None;
    }
    let factors: Vec<f64> = factors.iter().map(|&factor| f64::from(factor)).collect();
    let turns: Vec<f64> = (0..factors.len()).map(|pair| theta.powf(-2.0 * pair as f64 / dim as f64) / TAU).collect();
    if factors.iter().all(|factor| *factor == 1.0) {
        return Some(Value::Null);
    }
    let most = factors.iter().copied().fold(1.0, f64::max);
    // What LLaMA 3 came with: where few frequencies are scaled, others would do as well.
    let known = [most, 8.0, 32.0].map(|factor| Rule { factor, low: 1.0, high: 4.0, original: 8192.0 });
    let fitted = Rule::fitted(&factors, &turns, most);
    let rule = known.into_iter().chain(fitted).find(|rule| rule.explains(&factors, &turns))?;
    Some(json!({
        "rope_type": "llama3",
        "factor": rule.factor,
        "low_freq_factor": rule.low,
        "high_freq_factor": rule.high,
        "original_max_position_embeddings": rule.original as u64,
    }))
}

struct Rule {
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

impl Rule {
    /// The rule through the factors between 1 and `factor`; the steepest where they leave a choice.
    fn fitted(factors: &[f64], turns: &[f64], factor: f64) -> Option<Self> {
        let share = |found: f64| (1.0 / found - 1.0 / factor) / (1.0 - 1.0 / factor);
        let between: Vec<(f64, f64)> = factors
            .iter()
            .zip(turns)
            .map(|(&found, &turns)| (turns, share(found)))
            .filter(|(_, share)| (1e-6..1.0 - 1e-6).contains(share))
            .collect();
        // Turns fall with the number of the pair: the last whole one and the first that is divided by all of it.
        let kept = factors.iter().rposition(|&found| share(found) >= 1.0 - 1e-6).map(|at| turns[at]);
        let scaled = factors.iter().position(|&found| share(found) <= 1e-6).map(|at| turns[at]);
        let (slope, at, share) = match between.as_slice() {
            [] => {
                let (kept, scaled) = (kept?, scaled?);
                (1.0 / (kept - scaled), scaled, 0.0)
            }
            [(at, share)] => {
                let below = scaled.map(|scaled| share / (at - scaled));
                let above = kept.map(|kept| (1.0 - share) / (kept - at));
                (below.into_iter().chain(above).fold(0.0, f64::max), *at, *share)
            }
            [first, .., last] => ((first.1 - last.1) / (first.0 - last.0), first.0, first.1),
        };
        let offset = slope * at - share;
        if !(slope.is_finite() && slope > 0.0) {
            return None;
        }
        // low = 1 where it can be; a whole number of positions in any case.
        let original = if offset > 0.0 { (slope / offset).round() } else { slope.round() }.clamp(1.0, 1e9);
        let low = offset * original / slope;
        Some(Self { factor, low, high: low + original / slope, original })
    }

    fn explains(&self, factors: &[f64], turns: &[f64]) -> bool {
        factors.iter().zip(turns).all(|(&found, &turns)| {
            let turns = turns * self.original;
            let share = ((turns - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
            let expected = 1.0 / ((1.0 - share) / self.factor + share);
            (found / expected - 1.0).abs() <= TOLERANCE * self.factor.max(1.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The factors of a rule, as llama.cpp's converter writes them.
    fn factors(rule: &Rule, dim: usize, theta: f64) -> Vec<f32> {
        let of = |pair: usize| {
            let turns = theta.powf(-2.0 * pair as f64 / dim as f64) / TAU * rule.original;
            let share = ((turns - rule.low) / (rule.high - rule.low)).clamp(0.0, 1.0);
            (1.0 / ((1.0 - share) / rule.factor + share)) as f32
        };
        (0..dim / 2).map(of).collect()
    }

    #[test]
    fn a_rule_is_found_again_from_its_factors_or_another_that_gives_the_same() {
        // Of LLaMA 3.1 and 3.2, with a short context, with few pairs, one of them or none between the two bounds.
        for (factor, low, high, original, dim, theta) in [
            (8.0, 1.0, 4.0, 8192.0, 128, 500_000.0),
            (32.0, 1.0, 4.0, 8192.0, 64, 500_000.0),
            (3.0, 2.0, 5.0, 100.0, 64, 10_000.0),
            (4.0, 1.5, 3.0, 64.0, 16, 10_000.0),
            (4.0, 1.0, 4.0, 32.0, 6, 10_000.0),
            (8.0, 1.0, 1.5, 64.0, 8, 10_000.0),
        ] {
            let rule = Rule { factor, low, high, original };
            let written = factors(&rule, dim, theta);
            let found = llama3(&written, dim, theta);
            assert!(found.is_some(), "{factor} {dim}: no rule");
            let found = found.unwrap_or_default();
            if found.is_null() {
                assert!(written.iter().all(|factor| *factor == 1.0));
                continue;
            }
            let number = |name: &str| found[name].as_f64().unwrap_or(f64::NAN);
            let again = Rule {
                factor: number("factor"),
                low: number("low_freq_factor"),
                high: number("high_freq_factor"),
                original: number("original_max_position_embeddings"),
            };
            for (pair, (one, other)) in written.iter().zip(factors(&again, dim, theta)).enumerate() {
                assert!((one / other - 1.0).abs() < 1e-5, "{factor} {dim}: pair {pair}: {one} and {other}");
            }
        }
        assert_eq!(llama3(&[1.0, 3.0, 2.0, 7.0], 8, 10_000.0), None, "no line");
        assert_eq!(llama3(&[1.0, 2.0], 8, 10_000.0), None, "too few");
    }
}
