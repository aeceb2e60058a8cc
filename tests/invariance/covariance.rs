//! Is the covariance good enough to find the small eigenvalues, and the same whatever the batches?

use nalgebra::DMatrix;
use slicegpt_gpu::{
    reference,
    slice::{Covariance, Orientation},
};

use super::{
    Failures, logits, name, open, options, relative, sliced,
    support::{self, Random},
    wide,
};

const WIDTH: usize = 128;
const TOKENS: usize = 1 << 16;

/// Where the few tokens of huge norm point.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Massive {
    /// All along the same two coordinates, as in real models.
    Fixed,
    /// Each in its own direction, which real models do not do: every entry of the covariance is swamped.
    Anywhere,
}

/// Tokens with a spectrum that falls by `fall` in energy, in a random basis; eight of them have norms 100 to 1000 times
/// the rest.
fn tokens_with_massive_activations(massive: Massive, fall: f64) -> Vec<f32> {
    let mut random = Random::new(31);
    let basis = reference::matrix(WIDTH, WIDTH, &random.values(WIDTH * WIDTH, 1.0)).qr().q();
    let spread = |i: usize| fall.powf(-0.5 * i as f64 / (WIDTH - 1) as f64);
    let plain = DMatrix::from_fn(WIDTH, TOKENS, |i, _| spread(i) * f64::from(random.normal()));
    let mut tokens = basis * plain;
    for (index, factor) in [100.0, 1000.0, 300.0, 500.0, 1000.0, 200.0, 700.0, 900.0].into_iter().enumerate() {
        let mut token = tokens.column_mut(index * 8000 + 17);
        let norm = token.norm();
        match massive {
            Massive::Anywhere => token.scale_mut(factor),
            Massive::Fixed => {
                token[5] += factor * norm;
                token[77] -= 0.4 * factor * norm;
            }
        }
    }
    // Column-major with a column a token: row-major with a row a token.
    tokens.iter().map(|&value| value as f32).collect()
}

/// The energy lost by dropping all but the first `kept` of some axes, relative to the least possible, less one.
fn excess_loss(covariance: &DMatrix<f64>, axes: &DMatrix<f64>, kept: usize) -> f64 {
    let dropped = axes.columns(kept, WIDTH - kept);
    let lost = (dropped.transpose() * covariance * dropped).trace();
    let (values, _) = reference::principal_axes(covariance);
    lost / values[kept..].iter().sum::<f64>() - 1.0
}

/// The excess losses with the axes of the measured covariance, and with those of one running f32 sum.
fn excess_losses(values: &[f32], kept: &[usize]) -> Vec<(f64, f64)> {
    let gpu = support::gpu_unlimited();
    let mut covariance = Covariance::new(WIDTH);
    covariance.add(&gpu, &gpu.upload(values, TOKENS, WIDTH).expect("an upload")).expect("a covariance");
    let eigen = covariance.principal_axes(&gpu).expect("axes");
    let axes = DMatrix::from_fn(WIDTH, WIDTH, |i, j| eigen.vectors[(i, j)]);

    let mut running = vec![0f32; WIDTH * WIDTH];
    for token in values.chunks(WIDTH) {
        for (row, &left) in running.chunks_mut(WIDTH).zip(token) {
            row.iter_mut().zip(token).for_each(|(sum, &right)| *sum += left * right);
        }
    }
    let (_, plain_axes) = reference::principal_axes(&reference::matrix(WIDTH, WIDTH, &running));

    let truth = reference::covariance(&reference::matrix(TOKENS, WIDTH, values));
    let excess = |&kept: &usize| (excess_loss(&truth, &axes, kept), excess_loss(&truth, &plain_axes, kept));
    kept.iter().map(excess).collect()
}

#[test]
fn covariance_keeps_small_eigenvalues_beside_massive_activations() {
    for (massive, fall) in
        [(Massive::Fixed, 1e3), (Massive::Anywhere, 1e3), (Massive::Fixed, 1e4), (Massive::Anywhere, 1e4)]
    {
        for (found, plain) in excess_losses(&tokens_with_massive_activations(massive, fall), &[64, 96, 112]) {
            println!(
                "{massive:?}, falling by {fall}: energy lost in excess {found:.1e}, with one running f32 sum \
                 {plain:.1e}"
            );
            assert!(found <= 1e-5, "{massive:?}, {fall}: {found:.2e} more than the least loss");
            assert!(plain > 1e-5, "a running sum loses only {plain:.2e}, so the test proves nothing");
        }
    }
}

#[test]
fn covariance_is_the_same_in_one_piece_and_by_rows() {
    let gpu = support::gpu();
    let (tokens, width) = (300, 37);
    let values = Random::new(32).values(tokens * width, 1.0);
    let mut whole = Covariance::new(width);
    whole.add(&gpu, &gpu.upload(&values, tokens, width).expect("an upload")).expect("a covariance");
    let mut by_rows = Covariance::new(width);
    for piece in values.chunks(7 * width) {
        by_rows.add(&gpu, &gpu.upload(piece, piece.len() / width, width).expect("an upload")).expect("a covariance");
    }
    let [whole, by_rows] = [whole, by_rows].map(|covariance| covariance.principal_axes(&gpu).expect("axes").values);
    // Sums of 64 terms in f32.
    let error = relative(&by_rows, &whole);
    assert!(error <= 8.0 * support::ROUNDOFF, "eigenvalues differ by {error:.1e}");
}

#[test]
fn sequences_in_a_ragged_batch_are_as_if_alone() {
    let gpu = support::gpu();
    let mut failures = Failures::default();
    for fixture in ["llama_gqa_tied", "opt_relu", "gpt_neox_parallel", "mistral_window"] {
        let path = support::fixture("parity").join(fixture);
        let (model, rows) = open(&path);
        let together = wide(&logits(&gpu, &model, &rows));
        let alone: Vec<f32> = rows.iter().flat_map(|row| logits(&gpu, &model, std::slice::from_ref(row))).collect();
        // Products of a few rows are summed in another order.
        failures.check(&format!("{}, logits", name(&path)), relative(&wide(&alone), &together), 1e-5);

        let batch = sliced(&gpu, &model, &rows, &options(0.25, Orientation::Pca));
        let single = sliced(
            &gpu,
            &model,
            &rows,
            &slicegpt_gpu::slice::Options { rows_per_batch: Some(1), ..options(0.25, Orientation::Pca) },
        );
        for (a, b) in batch.sites.iter().zip(&single.sites) {
            failures.check(
                &format!("{}, energy kept at {:?}", name(&path), a.layer),
                (a.kept_energy - b.kept_energy).abs(),
                1e-6,
            );
        }
        let [batch, single] = [batch, single].map(|sliced| wide(&logits(&gpu, &sliced.model, &rows)));
        failures.check(&format!("{}, logits when sliced", name(&path)), relative(&single, &batch), 1e-4);
    }
    failures.finish("one batch against one by one");
}
