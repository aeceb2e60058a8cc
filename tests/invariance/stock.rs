//! Does the stock form, an ordinary checkpoint of the original `model_type`, compute what the sliced model does?

use nalgebra::DMatrix;
use slicegpt_gpu::{
    checkpoint::Dtype,
    model::{Model, without_mean},
    ops::Norm,
    reference::{self, Network},
    slice::{Basis, Options, Plan, Refit},
};

use super::{
    Failures, fixtures, name, open, reference_logits, relative,
    shared::{REFITS, fused, gpu_logits, options},
    sliced,
    support::{self, Random},
};

#[test]
fn a_stock_layer_norm_of_the_lifted_coordinates_is_their_scaled_rms_norm_in_f64() {
    for (d, full) in [(1usize, 2usize), (2, 3), (3, 3), (7, 32), (12, 32), (128, 160), (513, 1024)] {
        let u = DMatrix::from_row_slice(d + 1, d, &without_mean(d));
        let gram = u.transpose() * &u;
        assert!((gram - DMatrix::identity(d, d)).amax() < 1e-14 * (d + 1) as f64, "columns of {d} are not orthonormal");
        assert!(u.row_sum().amax() < 1e-14 * (d + 1) as f64, "columns of {d} have a mean");
        let x = reference::matrix(5, d, &Random::new(d as u64).values(5 * d, 3.0));
        let (eps, ratio) = (1e-3, full as f64 / (d + 1) as f64);
        let weight = vec![ratio.sqrt(); d + 1];
        let stock = reference::norm(Norm::Layer, &(&x * u.transpose()), Some(&weight), None, d + 1, eps * ratio);
        let expected = reference::norm(Norm::Rms, &x, None, None, full, eps) * u.transpose();
        assert!((stock - &expected).amax() < 1e-13 * expected.amax(), "width {d} of {full}");
    }
}

/// The fixture with another ε of its norms, in a directory of its own.
fn with_eps(fixture: &str, eps: f64) -> (tempfile::TempDir, Model, Vec<Vec<u32>>) {
    let from = support::fixture("parity").join(fixture);
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::copy(from.join("model.safetensors"), directory.path().join("model.safetensors")).expect("the weights");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(from.join("config.json")).expect("config.json")).expect("JSON");
    for field in ["rms_norm_eps", "layer_norm_eps"] {
        if let Some(value) = config.get_mut(field) {
            *value = eps.into();
        }
    }
    std::fs::write(directory.path().join("config.json"), config.to_string()).expect("config.json");
    let model = Model::open(directory.path()).expect("the model");
    assert!((f64::from(model.config().norm_eps) / eps - 1.0).abs() < 1e-6);
    (directory, model, support::tokens(&from.join("tokens.json")))
}

#[test]
fn the_stock_form_is_exact_however_large_eps_is() {
    let gpu = support::gpu();
    let mut failures = Failures::default();
    for fixture in [
        "llama_gqa_tied",
        "mistral_no_window",
        "qwen2_gqa_tied",
        "qwen3_bias",
        "qwen3_tied",
        "qwen35_tied",
        "phi3_gqa",
        "phi_gqa",
    ] {
        // So large that an ε of the wrong width shows, in norms of queries and keys as well.
        let (_directory, model, rows) = with_eps(fixture, 0.2);
        for refit in REFITS {
            let options = options(0.5, Basis::SHARED, refit);
            let found = sliced(&gpu, &model, &rows, &options);
            assert!(!found.model.config().fused(), "{fixture}: no stock form");
            let expected = fused(&model).refitted(&rows, found.width, &options).expect("a sliced network");
            let error = relative(&gpu_logits(&gpu, &found, &rows), &reference_logits(&expected.network, &rows));
            failures.check(&format!("{fixture}, refit {refit}"), error, 1e-4);
        }
    }
    failures.finish("stock form against the sliced model");
}

/// What a norm and the weights after it do together, f32 against a narrower type: Σ a·b / Σ b² − 1 over all products
/// of the norm's weight and a weight, in which the rounding of the many weights averages out, and that of the one
/// number in the norm does not.
fn bias_of_reads(narrow: &Model, exact: &Model) -> f64 {
    let products = |model: &Model| -> Vec<f64> {
        let (layer, ends) = (model.store.layer(0).expect("a layer"), model.store.ends().expect("ends"));
        let attention = layer.blocks().next().expect("a block").norm.as_ref().expect("a norm").weight[0];
        let last = ends.final_norm.as_ref().expect("a norm").weight[0];
        let reads =
            layer.linears().filter(|linear| linear.spec.reads == slicegpt_gpu::model::architecture::Space::Residual);
        let mut all: Vec<f64> = Vec::new();
        for linear in reads {
            all.extend(
                linear.matrix.to_f32().expect("values").iter().map(|&value| f64::from(value) * f64::from(attention)),
            );
        }
        all.extend(ends.head.to_f32().expect("values").iter().map(|&value| f64::from(value) * f64::from(last)));
        all
    };
    let (a, b) = (products(narrow), products(exact));
    a.iter().zip(&b).map(|(a, b)| a * b).sum::<f64>() / b.iter().map(|b| b * b).sum::<f64>() - 1.0
}

#[test]
fn the_weights_behind_a_norm_make_up_for_its_rounding_to_16_bits() {
    let gpu = support::gpu();
    let mut shown = 0;
    for fixture in ["llama_gqa_tied", "mistral_no_window", "qwen2_gqa_tied", "phi3_gqa", "phi_gqa"] {
        let (model, rows) = open(&support::fixture("parity").join(fixture));
        for sparsity in [0.15, 0.34, 0.5] {
            let [exact, narrow] = [Dtype::F32, Dtype::BF16].map(|dtype| {
                sliced(
                    &gpu,
                    &model,
                    &rows,
                    &Options { dtype: dtype.into(), ..options(sparsity, Basis::SHARED, Refit::None) },
                )
            });
            let weight =
                |model: &Model| f64::from(model.store.ends().expect("ends").final_norm.expect("a norm").weight[0]);
            let rounding = (weight(&narrow.model) / weight(&exact.model) - 1.0).abs();
            let found = bias_of_reads(&narrow.model, &exact.model).abs();
            println!("{fixture} at {sparsity}: the norm is off by {rounding:.1e}, with its weights by {found:.1e}");
            // Thousands of weights, each rounded by up to 2^-9 of itself, in either direction.
            assert!(found < 2e-4, "{fixture} at {sparsity}: {found:.1e} off");
            shown += usize::from(rounding > 1e-3);
        }
    }
    assert!(shown > 3, "norms are hardly rounded, so the test proves little: {shown}");
}

#[test]
fn the_stock_form_in_16_bits_is_as_near_as_its_weights_are() {
    let gpu = support::gpu();
    let mut failures = Failures::default();
    for fixture in ["llama_gqa_tied", "qwen3_bias", "phi_gqa", "phi3_gqa"] {
        let (model, rows) = open(&support::fixture("parity").join(fixture));
        for (dtype, allowed) in [(Dtype::F16, 4e-3), (Dtype::BF16, 3e-2)] {
            let [exact, narrow] = [Dtype::F32, dtype].map(|dtype| {
                sliced(
                    &gpu,
                    &model,
                    &rows,
                    &Options { dtype: dtype.into(), ..options(0.34, Basis::SHARED, Refit::Full) },
                )
            });
            let narrow_logits = gpu_logits(&gpu, &narrow, &rows);
            // The same weights, widened: nothing but f32's own rounding.
            let widened = reference_logits(&Network::load(&narrow.model.store).expect("a network"), &rows);
            failures.check(&format!("{fixture}, {dtype:?}, in f64"), relative(&narrow_logits, &widened), 1e-5);
            failures.check(
                &format!("{fixture}, {dtype:?}, against f32"),
                relative(&narrow_logits, &gpu_logits(&gpu, &exact, &rows)),
                allowed,
            );
        }
    }
    failures.finish("16 bits against f32");
}

#[test]
fn the_config_of_every_stock_form_opens_as_an_ordinary_model() {
    let mut count = 0;
    for path in fixtures() {
        let (model, _) = open(&path);
        let config = model.config();
        if !config.has_stock_form() {
            let has_none = !config.architecture.forms.stock || config.architecture.model_type == "starcoder2";
            let counted = config.ropes.iter().any(|rope| rope.long.is_some());
            assert!(
                has_none || counted || (config.architecture.norm.kind == Norm::Layer && config.qk_norm),
                "{}",
                name(&path)
            );
            continue;
        }
        count += 1;
        for sparsity in [0.0, 0.2, 0.5] {
            let plan =
                Plan::new(config, &Options { round_interval: None, ..options(sparsity, Basis::SHARED, Refit::Full) })
                    .expect("a plan");
            let again =
                slicegpt_gpu::model::Config::from_fields(plan.config.raw.clone(), std::path::Path::new("config.json"))
                    .expect("a config");
            assert!(plan.stock && !again.fused() && !again.tie_word_embeddings, "{}", name(&path));
            assert_eq!(
                (again.hidden_size, again.layers[0].head_dim),
                (plan.stored_width, config.layers[0].head_dim),
                "{}",
                name(&path)
            );
            assert_eq!(again.architecture.model_type, config.architecture.model_type);
            assert_eq!(
                plan.stored_width - plan.width,
                usize::from(config.architecture.norm.kind == Norm::Layer),
                "{}",
                name(&path)
            );
            // Where it stays, the residual stream is scaled instead.
            let ratio = config.hidden_size as f64 / plan.stored_width as f64;
            let eps = f64::from(config.norm_eps) * if config.has_delta_nets() { 1.0 } else { ratio };
            assert!((f64::from(again.norm_eps) / eps - 1.0).abs() < 1e-6, "{}: eps {}", name(&path), again.norm_eps);
            if config.architecture.forms.width_by_heads {
                assert!(
                    plan.stored_width.is_multiple_of(config.layers[0].heads),
                    "{}: width {}",
                    name(&path),
                    plan.stored_width
                );
            }
            let shapes = |tensors: Vec<slicegpt_gpu::model::TensorSpec>| {
                tensors.into_iter().map(|spec| (spec.name, spec.shape)).collect::<Vec<_>>()
            };
            let planned: Vec<_> =
                plan.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect();
            assert_eq!(shapes(again.tensors()), planned, "{}", name(&path));
            // Everything else stays as it was.
            let changed = [
                config.architecture.fields.hidden_size,
                config.architecture.fields.norm_eps.0.unwrap_or_default(),
                "head_dim",
                "tie_word_embeddings",
            ];
            for (field, value) in &config.raw {
                let value =
                    if field == "dtype" || field == "torch_dtype" { &serde_json::json!("float32") } else { value };
                assert!(
                    changed.contains(&field.as_str()) || plan.config.raw[field] == *value,
                    "{}: {field}",
                    name(&path)
                );
            }
        }
    }
    assert!(count > 20, "only {count} fixtures have a stock form");
}
