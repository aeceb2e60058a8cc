//! One basis for several layers, and weights fitted again: does the driver do it as the formulas say, and do they hold
//! what they promise?

use nalgebra::DMatrix;
use slicegpt_gpu::{
    gpu::Gpu,
    model::Model,
    ops::Norm,
    reference::{self, Network},
    slice::{Basis, Options, Orientation, Refit, Signal},
};

use super::{Failures, Sliced, fixtures, logits, name, open, reference_logits, relative, sliced, support, wide};

pub const REFITS: [Refit; 3] = [Refit::None, Refit::Reads, Refit::Full];

/// One fixture of each kind.
const KINDS: [(&str, &str); 10] = [
    ("llama_gqa_tied", "stock form, tied head"),
    ("mistral_no_window", "stock form, no biases"),
    ("qwen2_gqa_tied", "stock form, biases on some reads and no write"),
    ("qwen3_bias", "stock form, QK-norm, biases on attention reads and writes"),
    ("phi_gqa", "stock form of layer norm, parallel, biased head"),
    ("phi3_partial_rotary", "stock form, fused projections"),
    ("opt_relu", "layer norm, learned positions, biases everywhere"),
    ("gpt2_tied", "layer norm, Conv1D"),
    ("gpt_neox_parallel", "parallel, two norms"),
    ("gpt_neox_sequential", "layer norm, sequential"),
];

pub fn options(sparsity: f64, basis: Basis, refit: Refit) -> Options {
    Options { basis, refit, signal: Signal::Normed, slice_head: true, ..super::options(sparsity, Orientation::Pca) }
}

pub fn fused(model: &Model) -> Network<'_> {
    Network::load_fused(&model.store).expect("a network")
}

pub fn gpu_logits(gpu: &Gpu, found: &Sliced, rows: &[Vec<u32>]) -> Vec<f64> {
    wide(&logits(gpu, &found.model, rows))
}

#[test]
fn bases_and_refits_agree_with_least_squares_in_f64() {
    let gpu = support::gpu();
    let mut failures = Failures::default();
    for (fixture, reason) in KINDS {
        let (model, rows) = open(&support::fixture("parity").join(fixture));
        let dense = wide(&logits(&gpu, &model, &rows));
        for (basis, slice_head) in
            [(Basis::PerBlock, false), (Basis::PerBlock, true), (Basis::Segments(2), true), (Basis::SHARED, true)]
        {
            for (refit, signal) in REFITS.iter().flat_map(|&refit| [(refit, Signal::Raw), (refit, Signal::Normed)]) {
                let options = Options { signal, slice_head, ..options(0.25, basis, refit) };
                let what = format!("{fixture} ({reason}), {basis}, head sliced {slice_head}, refit {refit}, {signal}");
                let found = sliced(&gpu, &model, &rows, &options);
                let stock = basis == Basis::SHARED && model.config().has_stock_form();
                assert_eq!(found.model.config().fused(), !stock, "{what}");
                let expected = fused(&model).refitted(&rows, found.width, &options).expect("a sliced network");
                assert_eq!(found.sites.len(), expected.kept_energies.len(), "{what}");
                for (site, kept) in found.sites.iter().zip(&expected.kept_energies) {
                    failures.check(
                        &format!("{what}, energy kept at {:?}", site.layer),
                        (site.kept_energy - kept).abs(),
                        1e-6,
                    );
                }
                let found_logits = gpu_logits(&gpu, &found, &rows);
                // Gram matrices are rounded by about 2^-22 of their trace, and the ridge is 2^-12 of it and more (a
                // hundredth of a mean over up to 90 unknowns): so are the weights in the directions that hold least,
                // and the logits far less, 1e-5 at most where measured.
                failures.check(
                    &format!("{what}, logits"),
                    relative(&found_logits, &reference_logits(&expected.network, &rows)),
                    5e-5,
                );
                assert!(
                    relative(&found_logits, &dense) > 1e-2,
                    "{what}: slicing changed nothing, so the test proves nothing"
                );
            }
        }
    }
    failures.finish("driver against f64");
}

#[test]
fn at_full_width_every_basis_and_refit_leaves_the_logits_of_every_fixture_unchanged() {
    let gpu = support::gpu();
    let mut failures = Failures::default();
    for path in fixtures() {
        let (model, rows) = open(&path);
        let (config, dense) = (model.config(), wide(&logits(&gpu, &model, &rows)));
        for (basis, refit) in
            [Basis::SHARED, Basis::Segments(2)].into_iter().flat_map(|basis| REFITS.map(|refit| (basis, refit)))
        {
            let found = sliced(&gpu, &model, &rows, &options(0.0, basis, refit));
            // A residual whose mean is zero has no more dimensions.
            let stock_of_layer_norm =
                basis == Basis::SHARED && config.has_stock_form() && config.architecture.norm.kind == Norm::Layer;
            assert_eq!(found.width, config.hidden_size - usize::from(stock_of_layer_norm));
            failures.check(
                &format!("{}, {basis}, refit {refit}", name(&path)),
                relative(&gpu_logits(&gpu, &found, &rows), &dense),
                2e-5,
            );
        }
    }
    failures.finish("full width against dense");
}

#[test]
fn the_final_orientation_does_not_change_what_a_refitted_model_computes() {
    let gpu = support::gpu();
    let mut failures = Failures::default();
    for (fixture, _) in KINDS {
        let (model, rows) = open(&support::fixture("parity").join(fixture));
        for (basis, refit) in [
            (Basis::SHARED, Refit::None),
            (Basis::SHARED, Refit::Full),
            (Basis::Segments(2), Refit::Full),
            (Basis::PerBlock, Refit::Full),
        ] {
            let [pca, random] = [Orientation::Pca, Orientation::Random].map(|orientation| {
                sliced(&gpu, &model, &rows, &Options { orientation, ..options(0.25, basis, refit) })
            });
            let tables = [&pca, &random]
                .map(|found| found.model.store.ends().expect("ends").embedding.to_f32().expect("values"));
            assert!(tables[0] != tables[1], "{fixture}, {basis}: nothing was turned");
            let [pca, random] = [pca, random].map(|found| gpu_logits(&gpu, &found, &rows));
            failures.check(&format!("{fixture}, {basis}, refit {refit}"), relative(&random, &pca), 1e-4);
        }
    }
    failures.finish("random against pca");
}

/// The residual at every point, all tokens of all sequences, and Σ x·xᵀ / tr of each, summed.
fn mean_covariance(network: &Network, rows: &[Vec<u32>]) -> DMatrix<f64> {
    let full = network.config.hidden_size;
    let mut points = vec![DMatrix::zeros(full, full); 1 + network.layers.len() * 2];
    for row in rows {
        let mut x = network.embed(row);
        points[0] += reference::covariance(&x);
        for layer in 0..network.layers.len() {
            if !network.config.parallel {
                points[2 * layer + 1] += reference::covariance(&network.step(layer, 0, &x).expect("a signal"));
            }
            x = network.layer(layer, &x).expect("a signal");
            points[2 * layer + 2] += reference::covariance(&x);
        }
    }
    points
        .into_iter()
        .filter(|point| point.trace() > 0.0)
        .fold(DMatrix::zeros(full, full), |sum, point| sum + &point / point.trace())
}

#[test]
fn the_energy_that_a_shared_basis_keeps_is_what_its_columns_hold_of_the_mean_covariance() {
    let gpu = support::gpu();
    let mut failures = Failures::default();
    for (fixture, _) in KINDS {
        let (model, rows) = open(&support::fixture("parity").join(fixture));
        let network = fused(&model);
        let covariance = mean_covariance(&network, &rows);
        let (values, _) = reference::principal_axes(&covariance);
        let found =
            sliced(&gpu, &model, &rows, &Options { signal: Signal::Raw, ..options(0.25, Basis::SHARED, Refit::None) });
        // The embedding E became E·S, or E·S·Uᵀ, whose columns span another space of the same d dimensions.
        let table = Network::load(&found.model.store).expect("a network").embedding;
        let basis = network.embedding.clone().svd(true, true).solve(&table, 1e-6).expect("the basis");
        let gram = basis.transpose() * &basis;
        let projector = gram.clone() * &gram - &gram;
        failures.check(&format!("{fixture}, columns are orthonormal"), projector.amax(), 1e-5);
        failures.check(&format!("{fixture}, their number"), (gram.trace() - found.width as f64).abs(), 1e-4);
        let kept = (basis.transpose() * &covariance * &basis).trace() / covariance.trace();
        assert_eq!(found.sites.len(), 1);
        failures.check(&format!("{fixture}, energy kept"), (found.sites[0].kept_energy - kept).abs(), 1e-5);
        let most = values[..found.width].iter().sum::<f64>() / covariance.trace();
        assert!(kept <= most + 1e-9 && kept > 0.5, "{fixture}: {kept} kept of at most {most}");
    }
    failures.finish("energy kept");
}
