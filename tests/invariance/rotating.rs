//! Another basis of the residual stream: the same function, and none lost where there is nothing to lose.

use std::collections::BTreeMap;

use nalgebra::DMatrix;
use slicegpt_gpu::{
    checkpoint::{Dtype, FileTarget, TensorFile, TensorPlan},
    model::{Model, architecture::Space},
    slice::Orientation,
};
use tempfile::TempDir;

use super::{
    Failures, fixtures, logits, name, open, options, relative, sliced,
    support::{self, Random},
    wide,
};

#[test]
fn a_random_rotation_of_every_residual_leaves_the_logits_of_every_fixture_unchanged() {
    let gpu = support::gpu();
    let mut failures = Failures::default();
    for path in fixtures() {
        let (model, rows) = open(&path);
        let rotated = sliced(&gpu, &model, &rows, &options(0.0, Orientation::Random));
        assert_eq!(rotated.width, model.config().hidden_size);
        let error = relative(&wide(&logits(&gpu, &rotated.model, &rows)), &wide(&logits(&gpu, &model, &rows)));
        failures.check(&name(&path), error, 1e-5);
    }
    failures.finish("rotated against dense");
}

#[test]
fn the_final_orientation_does_not_change_what_a_sliced_model_computes() {
    let gpu = support::gpu();
    let mut failures = Failures::default();
    for path in fixtures() {
        let (model, rows) = open(&path);
        let [pca, random] = [Orientation::Pca, Orientation::Random]
            .map(|orientation| sliced(&gpu, &model, &rows, &options(0.25, orientation)));
        assert!(pca.width < model.config().hidden_size);
        let error = relative(&wide(&logits(&gpu, &random.model, &rows)), &wide(&logits(&gpu, &pca.model, &rows)));
        // Gaps between eigenvalues at the cut are small in models this random, and rounding turns the axes by its ratio
        // to them.
        failures.check(&name(&path), error, 2e-4);
        for (a, b) in pca.sites.iter().zip(&random.sites) {
            failures.check(
                &format!("{}, energy kept at {:?}", name(&path), a.layer),
                (a.kept_energy - b.kept_energy).abs(),
                1e-5,
            );
        }
    }
    failures.finish("random against pca");
}

/// The fixture with everything that writes the residual projected onto a random subspace of `width` dimensions.
fn confined(name: &str, width: usize) -> (TempDir, Model) {
    let path = support::fixture("parity").join(name);
    let (model, _) = open(&path);
    let full = model.config().hidden_size;
    let gaussian = Random::new(21).values(full * width, 1.0);
    let basis = slicegpt_gpu::reference::matrix(full, width, &gaussian).qr().q();
    let projection = &basis * basis.transpose();
    let writers: Vec<_> = model
        .config()
        .architecture
        .weights()
        .filter(|weight| weight.writes == Space::Residual)
        .map(|weight| format!("{}.weight", weight.name))
        .collect();
    let mut tensors = BTreeMap::new();
    for tensor in model.store.checkpoint.names().map(str::to_owned) {
        let stored = model.store.checkpoint.tensor(&tensor).expect("a tensor");
        assert_eq!(stored.dtype, Dtype::F32);
        let values: Vec<f32> = stored
            .read()
            .expect("its bytes")
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let matrix = || slicegpt_gpu::reference::matrix(stored.shape[0], stored.shape[1], &values);
        let row_major = |matrix: DMatrix<f64>| matrix.transpose().iter().map(|&value| value as f32).collect();
        let values: Vec<f32> = match &tensor {
            tensor if tensor.contains("embed_tokens") => row_major(matrix() * &projection),
            tensor if writers.iter().any(|writer| tensor.ends_with(writer)) => row_major(&projection * matrix()),
            _ => values,
        };
        tensors.insert(tensor, (stored.shape.to_vec(), values));
    }
    let directory = TempDir::new().expect("a temporary directory");
    let plans = tensors
        .iter()
        .map(|(name, (shape, _))| TensorPlan { name: name.clone(), shape: shape.clone(), dtype: Dtype::F32 })
        .collect();
    let mut file =
        TensorFile::create(FileTarget::new(&directory.path().join("model.safetensors"), false).expect("a name"), plans)
            .expect("a file");
    for (name, (_, values)) in &tensors {
        file.write(name, bytemuck::cast_slice(values)).expect("a tensor");
    }
    file.finish().expect("a file");
    std::fs::copy(path.join("config.json"), directory.path().join("config.json")).expect("config.json");
    let model = Model::open(directory.path()).expect("the projected model");
    (directory, model)
}

#[test]
fn a_signal_confined_to_a_subspace_is_sliced_to_its_dimension_without_loss() {
    let gpu = support::gpu();
    let (_directory, model) = confined("llama_mha_untied", 16);
    let full = model.config().hidden_size;
    let rows = support::tokens(&support::fixture("parity/llama_mha_untied/tokens.json"));
    let dense = wide(&logits(&gpu, &model, &rows));
    let to = |width: usize| sliced(&gpu, &model, &rows, &options(1.0 - width as f64 / full as f64, Orientation::Pca));

    let exact = to(16);
    assert_eq!(exact.width, 16);
    let mut failures = Failures::default();
    failures.check("logits", relative(&wide(&logits(&gpu, &exact.model, &rows)), &dense), 1e-4);
    for site in &exact.sites {
        failures.check(&format!("energy lost at {:?}", site.layer), 1.0 - site.kept_energy, 1e-6);
    }
    failures.finish("sliced to the dimension of the signal");

    let narrower = to(12);
    let error = relative(&wide(&logits(&gpu, &narrower.model, &rows)), &dense);
    assert!(
        error > 1e-2,
        "slicing below the dimension of the signal lost nothing ({error:.1e}): the test proves nothing"
    );
}
