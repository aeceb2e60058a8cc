//! Does the driver slice as the paper's algorithm does in f64?

use slicegpt_gpu::{
    checkpoint::Dtype,
    eval,
    model::Model,
    progress::Silent,
    reference::Network,
    slice::{Options, Orientation},
};

use super::{Failures, logits, name, open, options, reference_logits, relative, sliced, support, wide};

#[test]
fn slicing_agrees_with_the_naive_algorithm_in_f64() {
    let gpu = support::gpu();
    let mut failures = Failures::default();
    for (fixture, reason) in [
        ("llama_gqa_tied", "sequential, RMS norm, tied head"),
        ("qwen3_bias", "sequential, QK-norm, biases"),
        ("opt_relu", "sequential, layer norm, learned positions"),
        ("gpt2_tied", "sequential, layer norm, Conv1D, fused projection"),
        ("gpt_neox_parallel", "parallel, two norms, interleaved projection"),
        ("phi_gqa", "parallel, one norm, biased head"),
        ("phi3_partial_rotary", "sequential, fused projections"),
    ] {
        let path = support::fixture("parity").join(fixture);
        let (model, rows) = open(&path);
        for sparsity in [0.25, 0.5] {
            let what = format!("{} ({reason}) at {sparsity}", name(&path));
            let found = sliced(&gpu, &model, &rows, &options(sparsity, Orientation::Pca));
            let expected = Network::load_fused(&model.store)
                .expect("a network")
                .sliced(&rows, found.width, &options(sparsity, Orientation::Pca))
                .expect("a sliced network");
            assert_eq!(found.sites.len(), expected.kept_energies.len());
            for (site, kept) in found.sites.iter().zip(&expected.kept_energies) {
                failures.check(
                    &format!("{what}, energy kept at {:?}", site.layer),
                    (site.kept_energy - kept).abs(),
                    1e-6,
                );
            }
            let found_logits = wide(&logits(&gpu, &found.model, &rows));
            let expected_logits = reference_logits(&expected.network, &rows);
            failures.check(&format!("{what}, logits"), relative(&found_logits, &expected_logits), 1e-4);
            let stored = reference_logits(&Network::load(&found.model.store).expect("a network"), &rows);
            failures.check(&format!("{what}, logits of the written model"), relative(&found_logits, &stored), 1e-5);
            let dense = wide(&logits(&gpu, &model, &rows));
            let change = relative(&found_logits, &dense);
            assert!(change > 1e-2, "{what}: slicing changed nothing ({change:.1e}), so the test proves nothing");

            let windows: Vec<Vec<u32>> = rows.iter().filter(|row| row.len() > 1).cloned().collect();
            let perplexity =
                eval::perplexity(&gpu, &found.model, &windows, "test", &Silent).expect("a perplexity").perplexity;
            let expected = expected.network.perplexity(&windows).expect("a perplexity");
            failures.check(&format!("{what}, perplexity"), (perplexity / expected - 1.0).abs(), 1e-5);
        }
    }
    failures.finish("driver against the naive algorithm");
}

#[test]
fn kept_energies_are_shares_that_fall_with_the_width() {
    let gpu = support::gpu();
    let (model, rows) = open(&support::fixture("parity/llama_gqa_tied"));
    let kept = |sparsity| -> Vec<f64> {
        sliced(&gpu, &model, &rows, &options(sparsity, Orientation::Pca))
            .sites
            .iter()
            .map(|site| site.kept_energy)
            .collect()
    };
    let (all, most, half) = (kept(0.0), kept(0.2), kept(0.5));
    for site in 0..all.len() {
        assert!(
            (all[site] - 1.0).abs() < 1e-12 && all[site] > most[site] && most[site] > half[site] && half[site] > 0.5,
            "site {site}"
        );
    }
}

#[test]
fn a_sliced_model_gives_the_same_bits_on_every_reload() {
    let (gpu, another) = (support::gpu(), support::gpu());
    let (model, rows) = open(&support::fixture("parity/qwen3_bias"));
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let found = sliced(&gpu, &model, &rows, &Options { dtype: dtype.into(), ..options(0.25, Orientation::Pca) });
        let first = logits(&gpu, &found.model, &rows);
        let again = Model::open(found.model.directory()).expect("the sliced model");
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&first), bits(&logits(&another, &again, &rows)), "{dtype:?}");
    }
}
