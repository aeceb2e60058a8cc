//! Norms in the weights beside them: the same function.

use slicegpt_gpu::{model::fuse, ops::Norm, reference::Network};

use super::{Failures, fixtures, logits, name, open, reference_logits, relative, support, wide};

#[test]
fn reference_agrees_with_transformers_for_every_fixture() {
    let mut failures = Failures::default();
    for path in fixtures() {
        let (model, rows) = open(&path);
        let network = Network::load(&model.store).expect("a network");
        for (index, row) in rows.iter().enumerate() {
            let expected = support::tensor(&path.join("logits.safetensors"), &format!("logits.{index}"));
            let found = reference_logits(&network, std::slice::from_ref(row));
            // What transformers rounds in f32.
            failures.check(&format!("{} row {index}", name(&path)), relative(&found, &wide(&expected)), 1e-5);
        }
    }
    failures.finish("f64 against transformers");
}

#[test]
fn gpu_agrees_with_reference_for_every_fixture() {
    let gpu = support::gpu();
    let mut failures = Failures::default();
    for path in fixtures() {
        let (model, rows) = open(&path);
        let expected = reference_logits(&Network::load(&model.store).expect("a network"), &rows);
        failures.check(&name(&path), relative(&wide(&logits(&gpu, &model, &rows)), &expected), 1e-5);
    }
    failures.finish("GPU against f64");
}

#[test]
fn fusing_leaves_the_logits_of_every_fixture_unchanged() {
    let mut failures = Failures::default();
    for path in fixtures() {
        let (model, rows) = open(&path);
        let dense = reference_logits(&Network::load(&model.store).expect("a network"), &rows);
        let fused = reference_logits(&Network::load_fused(&model.store).expect("a network"), &rows);
        // Exact but for the fused weights, which are rounded to f32 up to three times (mean, norm, both): 3·2^-24 in
        // each of nine linear layers in a row, times what cancellation in sums of a few dozen terms and the
        // softmax make of it (at most about ten).
        failures.check(&name(&path), relative(&fused, &dense), 9.0 * 10.0 * 3.0 * support::ROUNDOFF);
    }
    failures.finish("fused against dense");
}

#[test]
fn the_mean_is_subtracted_from_embeddings_of_layer_norm_models_only() {
    for path in fixtures() {
        let (model, _) = open(&path);
        let ends = model.store.ends().expect("ends");
        let stored = ends.embedding.to_f32().expect("values");
        let fused = fuse::embedding_rows(model.config(), &ends.embedding, 0..ends.embedding.rows).expect("values");
        let mean = |row: &[f32]| (row.iter().map(|&value| f64::from(value)).sum::<f64>() / row.len() as f64).abs();
        let largest_mean = |values: &[f32]| values.chunks(ends.embedding.cols).map(mean).fold(0.0, f64::max);
        assert!(largest_mean(&stored) > 1e-3, "{}: rows without a mean prove nothing", name(&path));
        match model.config().architecture.norm.kind {
            Norm::Rms => assert_eq!(fused, stored, "{}: RMSNorm(x·M) is not RMSNorm(x)", name(&path)),
            Norm::Layer => assert!(largest_mean(&fused) < 1e-7, "{}: mean {}", name(&path), largest_mean(&fused)),
        }
    }
}

#[test]
fn writers_lose_their_mean_in_layer_norm_models_only() {
    use slicegpt_gpu::model::architecture::Space;
    for path in fixtures() {
        let (model, _) = open(&path);
        let stored = model.store.layer(0).expect("a layer");
        let fused = fuse::layer(model.config(), &stored).expect("a layer");
        for (before, after) in
            stored.linears().zip(fused.linears()).filter(|(linear, _)| linear.spec.writes == Space::Residual)
        {
            let (cols, values) = (after.matrix.cols, after.matrix.to_f32().expect("values"));
            let mean = (0..cols)
                .map(|col| values.iter().skip(col).step_by(cols).map(|&value| f64::from(value)).sum::<f64>().abs())
                .fold(0.0, f64::max);
            match model.config().architecture.norm.kind {
                Norm::Rms => {
                    assert_eq!(values, before.matrix.to_f32().expect("values"), "{} {}", name(&path), after.spec.name)
                }
                Norm::Layer => assert!(mean < 1e-5, "{} {}: columns sum to {mean}", name(&path), after.spec.name),
            }
        }
    }
}
