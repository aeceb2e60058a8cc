//! A head that stays the embedding: is it one matrix, and does it compute what two would?

use slicegpt_gpu::{
    fit::least_tied_width,
    gpu::Gpu,
    model::Model,
    slice::{Basis, Cut, Head, Options, Orientation, Plan, Refit},
};
use tempfile::TempDir;

use super::{
    Failures, Sliced, logits, open, relative,
    shared::{REFITS, gpu_logits, options},
    sliced, support, wide,
};

/// Fixtures whose head is the embedding and can stay so; one has a factor of the logits.
const TIED: [&str; 7] =
    ["llama_gqa_tied", "qwen2_gqa_tied", "qwen3_tied", "qwen35_tied", "phi3_tied", "granite_tied", "smollm3_interval"];

/// A tied fixture whose final norm has the weights that `weight` gives for its coordinates.
fn with_final_norm(fixture: &str, weight: impl Fn(usize) -> f32) -> (TempDir, Model, Vec<Vec<u32>>) {
    let directory = support::copy_of(fixture);
    let path = directory.path().join("model.safetensors");
    let mut tensors = support::tensors(&path);
    let (_, shape, bytes) = tensors.get_mut("model.norm.weight").expect("a final norm");
    *bytes = (0..shape[0]).flat_map(|at| weight(at).to_le_bytes()).collect();
    support::write_tensors(&path, &tensors, &[("format", "pt")]);
    let (model, rows) = open(directory.path());
    (directory, model, rows)
}

fn tied(sparsity: f64, refit: Refit) -> Options {
    Options { head: Head::Tied, ..options(sparsity, Basis::SHARED, refit) }
}

fn dense(gpu: &Gpu, model: &Model, rows: &[Vec<u32>]) -> Vec<f64> {
    wide(&logits(gpu, model, rows))
}

/// Checks that the result is an ordinary model with one matrix for embedding and head.
fn check_is_tied(found: &Sliced, what: &str) {
    let (config, store) = (found.model.config(), &found.model.store);
    assert!(config.tie_word_embeddings && !config.fused() && store.unexpected().is_empty(), "{what}");
    let heads = store.checkpoint.names().filter(|name| name.contains("lm_head")).count();
    assert_eq!(heads, 0, "{what}: a head beside the embedding");
}

#[test]
fn at_full_width_a_tied_head_leaves_the_logits_unchanged_however_unusual_a_few_weights_are() {
    let gpu = support::gpu();
    let mut failures = Failures::default();
    for fixture in TIED {
        let (_directory, model, rows) = with_final_norm(fixture, |at| match at {
            3 => -0.7,
            7 => 4.0,
            _ => 1.5,
        });
        let before = dense(&gpu, &model, &rows);
        for refit in REFITS {
            let found = sliced(&gpu, &model, &rows, &tied(0.0, refit));
            let what = format!("{fixture}, refit {refit}");
            check_is_tied(&found, &what);
            failures.check(&what, relative(&gpu_logits(&gpu, &found, &rows), &before), 1e-4);
        }
    }
    failures.finish("full width against dense");
}

#[test]
fn where_weights_of_the_final_norm_differ_a_little_a_tied_head_costs_little() {
    let gpu = support::gpu();
    let mut failures = Failures::default();
    for fixture in TIED {
        let (_directory, model, rows) = with_final_norm(fixture, |at| 1.5 + 0.1 * (at as f32).sin());
        let before = dense(&gpu, &model, &rows);
        let found = sliced(&gpu, &model, &rows, &tied(0.0, Refit::Full));
        failures.check(fixture, relative(&gpu_logits(&gpu, &found, &rows), &before), 0.05);
    }
    failures.finish("full width against dense");
}

#[test]
fn with_a_constant_final_norm_tied_and_untied_are_the_same() {
    let gpu = support::gpu();
    let mut failures = Failures::default();
    for fixture in TIED {
        let (_directory, model, rows) = with_final_norm(fixture, |_| 1.25);
        let [one, two] = [Head::Tied, Head::Untied]
            .map(|head| sliced(&gpu, &model, &rows, &Options { head, ..tied(0.25, Refit::None) }));
        check_is_tied(&one, fixture);
        assert!(one.width == two.width && (one.sites[0].kept_energy - two.sites[0].kept_energy).abs() < 1e-6);
        let [one, two] = [one, two].map(|found| gpu_logits(&gpu, &found, &rows));
        failures.check(fixture, relative(&one, &two), 1e-4);
    }
    failures.finish("tied against untied");
}

#[test]
fn the_final_orientation_does_not_change_what_a_model_with_a_tied_head_computes() {
    let gpu = support::gpu();
    let mut failures = Failures::default();
    for refit in [Refit::None, Refit::Full] {
        let (_directory, model, rows) = with_final_norm("llama_gqa_tied", |at| if at == 5 { 9.0 } else { 1.1 });
        let [pca, random] = [Orientation::Pca, Orientation::Random]
            .map(|orientation| sliced(&gpu, &model, &rows, &Options { orientation, ..tied(0.25, refit) }));
        let tables =
            [&pca, &random].map(|found| found.model.store.ends().expect("ends").embedding.to_f32().expect("values"));
        assert!(tables[0] != tables[1], "nothing was turned");
        let [pca, random] = [pca, random].map(|found| gpu_logits(&gpu, &found, &rows));
        failures.check(&format!("refit {refit}"), relative(&random, &pca), 1e-4);
    }
    failures.finish("random against pca");
}

#[test]
fn a_tied_head_is_counted_once_and_leaves_room_for_more_width() {
    let (model, _) = open(&support::fixture("parity").join("llama_gqa_tied"));
    let plan = |head| {
        let options = Options { head, cut: Cut::Parameters(0.2), ..tied(0.0, Refit::Full) };
        Plan::new(model.config(), &options).expect("a plan")
    };
    let [tied, untied] = [Head::Tied, Head::Untied].map(plan);
    assert!(tied.width > untied.width, "{} and {}", tied.width, untied.width);
    let of_tensors: usize = tied.tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
    assert_eq!(of_tensors as u64, tied.sliced_parameters);
    let most = 0.8 * tied.original_parameters as f64;
    assert!(tied.sliced_parameters as f64 <= most);
}

#[test]
fn a_head_that_cannot_stay_tied_is_refused_by_name_with_the_way_out() {
    for (fixture, basis, expected) in [
        ("llama_gqa_tied", Basis::PerBlock, "give --basis shared"),
        ("llama_gqa_tied", Basis::Segments(2), "give --basis shared"),
        ("llama_mha_untied", Basis::SHARED, "a matrix of its own already; leave out --head"),
        ("gpt2_tied", Basis::SHARED, "layer norm before the head of a gpt2"),
        ("phi_gqa", Basis::SHARED, "leave out --head"),
    ] {
        let (model, _) = open(&support::fixture("parity").join(fixture));
        let options = Options { basis, ..tied(0.25, Refit::Full) };
        let error = Plan::new(model.config(), &options).expect_err("no plan");
        let said = error.to_string();
        assert!(
            error.exit_code() == 2 && said.contains("--head tied: ") && said.contains(expected),
            "{fixture}: {said}"
        );
    }
}

#[test]
fn the_least_width_of_a_tied_head_holds_every_unusual_weight() {
    let mut alpha = vec![2.0; 40];
    assert_eq!(least_tied_width(&alpha), Some(1));
    alpha[3] = -2.0;
    alpha[9] = 100.0;
    assert_eq!(least_tied_width(&alpha), Some(3));
    assert_eq!((least_tied_width(&[0.0; 8]), least_tied_width(&[])), (None, None));
}
