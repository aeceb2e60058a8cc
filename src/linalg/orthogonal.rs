//! Random rotations.

use faer::Mat;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, StandardNormal};

/// A random orthogonal `[n, n]` matrix, uniform over all of them (Haar): the Q of a Gaussian matrix's QR, with R's
/// diagonal made positive.
///
/// `stream` picks one of many independent matrices of the same seed.
pub fn random_orthogonal(n: usize, seed: u64, stream: u64) -> Mat<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let gaussian: Mat<f64> = Mat::from_fn(n, n, |_, _| StandardNormal.sample(&mut rng));
    let qr = gaussian.qr();
    let (q, r) = (qr.compute_Q(), qr.R());
    Mat::from_fn(n, n, |i, j| if r[(j, j)] < 0.0 { -q[(i, j)] } else { q[(i, j)] })
}
