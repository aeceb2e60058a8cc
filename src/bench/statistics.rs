//! What a series of measurements says: its median, how far it spreads, and whether it drifts.

/// A row whose spread exceeds this share of its median is flagged as unstable.
pub const UNSTABLE: f64 = 0.05;
/// A row whose last third is slower than its first by more than this share is flagged as throttling.
const THROTTLING: f64 = 0.05;

/// The value below which a share `at` of the sorted values lies, between neighbours in proportion; 0 of nothing.
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = at * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The median: what a row reports, since one disturbed repetition does not move it.
pub fn median(samples: &[f64]) -> f64 {
    quantile(&sorted(samples), 0.5)
}

/// Half the distance between the quartiles, as a share of the median: half of all repetitions lie about so far from it.
pub fn spread(samples: &[f64]) -> f64 {
    let sorted = sorted(samples);
    (quantile(&sorted, 0.75) - quantile(&sorted, 0.25)) / 2.0 / quantile(&sorted, 0.5).max(f64::MIN_POSITIVE)
}

/// Whether a series gets slower while it runs, as of a device that heats up: the median of its last third exceeds that
/// of its first by more than 5 %. Series of fewer than six have no thirds worth the name.
pub fn throttles(samples: &[f64]) -> bool {
    let third = samples.len() / 3;
    third >= 2 && median(&samples[samples.len() - third..]) > (1.0 + THROTTLING) * median(&samples[..third])
}
