//! Do re-fitted weights do better than projected ones where signals tell something, and stay near them where not?

use std::path::Path;

use nalgebra::DMatrix;
use serde_json::{Value, json};
use slicegpt_gpu::{
    Error,
    checkpoint::{Dtype, FileTarget, OutputDirectory, TensorFile, TensorPlan},
    data::{SERIALIZED_CLASS, TokenizerFiles, Tokens},
    eval,
    model::{Config, Model, architecture::Role},
    ops::Norm,
    progress::Silent,
    reference::{self, Affine, Network},
    slice::{Basis, Options, Plan, Refit, slice},
};
use tempfile::TempDir;

use super::{
    Failures, logits, open, reference_logits, relative,
    shared::{REFITS, fused, gpu_logits, options},
    sliced,
    support::{self, Random},
};

/// All tokens of all sequences, one below the other.
fn stacked(parts: impl Iterator<Item = DMatrix<f64>>) -> DMatrix<f64> {
    parts
        .reduce(|all, part| {
            DMatrix::from_fn(all.nrows() + part.nrows(), all.ncols(), |t, i| {
                if t < all.nrows() { all[(t, i)] } else { part[(t - all.nrows(), i)] }
            })
        })
        .expect("signals")
}

#[test]
fn fitted_reads_and_writes_err_less_on_the_calibration_than_projected_ones() {
    let gpu = support::gpu();
    for fixture in ["llama_gqa_tied", "qwen3_bias", "opt_relu", "gpt2_tied", "gpt_neox_sequential"] {
        let (model, rows) = open(&support::fixture("parity").join(fixture));
        let dense = fused(&model);
        let (full, eps) = (model.config().hidden_size, f64::from(model.config().norm_eps));
        let found = REFITS.map(|refit| sliced(&gpu, &model, &rows, &options(0.34, Basis::Segments(2), refit)));
        let [none, reads, both] = found.each_ref().map(|found| Network::load(&found.model.store).expect("a network"));
        let basis = dense.embedding.clone().svd(true, true).solve(&none.embedding, 1e-6).expect("the basis");

        let embedded = |network: &Network| stacked(rows.iter().map(|row| network.embed(row)));
        let scaled = |x: DMatrix<f64>| reference::norm(Norm::Rms, &x, None, None, full, eps);
        let (n, m) = (scaled(embedded(&dense)), scaled(embedded(&none)));
        let outputs = |network: &Network, signal: &DMatrix<f64>| -> Vec<DMatrix<f64>> {
            let of = |Affine { weight, bias }: &Affine| reference::linear(signal, weight, bias.as_deref());
            let attention = &network.layers[0].steps[0].blocks[0];
            attention.linears.iter().filter(|(role, _)| *role != Role::Output).map(|(_, linear)| of(linear)).collect()
        };
        let wanted = outputs(&dense, &n);
        let projected = outputs(&none, &m);
        for (index, fitted) in outputs(&reads, &m).iter().enumerate() {
            let (before, after) = ((&projected[index] - &wanted[index]).norm(), (fitted - &wanted[index]).norm());
            println!("{fixture}, read {index}: {before:.3} to {after:.3}");
            assert!(after < 0.98 * before, "{fixture}, read {index}: {before} to {after}");
        }

        // Both read alike up to the first write.
        let behind = |network: &Network| {
            stacked(rows.iter().map(|row| network.step(0, 0, &network.embed(row)).expect("a signal")))
        };
        let (x, target) = (behind(&dense), behind(&dense) * &basis);
        let error = |network: &Network| -> f64 {
            let off = behind(network) - &target;
            (0..off.nrows()).map(|t| off.row(t).norm_squared() / (x.row(t).norm_squared() / full as f64 + eps)).sum()
        };
        let (before, after) = (error(&reads), error(&both));
        println!("{fixture}, write: {before:.4} to {after:.4}");
        assert!(after < 0.98 * before, "{fixture}, write: {before} to {after}");
    }
}

/// Σ‖a − b‖² / Σ‖b‖² over the weights of two models of the same shapes.
fn distance(a: &Model, b: &Model) -> f64 {
    let (mut off, mut all) = (0.0, 0.0);
    for spec in b.config().tensors() {
        let [a, b] = [a, b]
            .map(|model| model.store.checkpoint.tensor(&spec.name).expect("a tensor").read().expect("bytes").to_vec());
        let values = |bytes: &[u8]| {
            bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect::<Vec<_>>()
        };
        for (a, b) in values(&a).into_iter().zip(values(&b)) {
            off += (a - b).powi(2);
            all += b * b;
        }
    }
    off / all
}

#[test]
fn with_four_times_fewer_tokens_than_unknowns_refitted_weights_stay_near_the_projected_ones() {
    let gpu = support::gpu();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let model = Model::open(&demo).expect("the demo model");
    let files = TokenizerFiles::read(&demo).expect("its files");
    let tokenizer = files.build(SERIALIZED_CLASS).expect("its tokenizer").tokenizer;
    let no_chats = || unreachable!("a .txt has no conversations");
    let Tokens::Text(text) = Tokens::read(&demo.join("heldout.txt"), &no_chats, &Silent).expect("a text") else {
        panic!("heldout.txt holds text")
    };
    let text = text.windows(&tokenizer, 64).expect("windows");
    let eval_rows = &text[4..12];
    let perplexity =
        |model: &Model| eval::perplexity(&gpu, model, eval_rows, "test", &Silent).expect("a perplexity").perplexity;
    for (basis, sparsity) in [(Basis::SHARED, 0.2), (Basis::PerBlock, 0.2), (Basis::Segments(2), 0.2)] {
        // The MLP's activations are 256 wide, the residual 128.
        let rows = vec![text[0][..24].to_vec()];
        let [projected, fitted] =
            [Refit::None, Refit::Full].map(|refit| sliced(&gpu, &model, &rows, &options(sparsity, basis, refit)));
        let (before, after) = (perplexity(&projected.model), perplexity(&fitted.model));
        let moved = if basis == Basis::PerBlock { 0.0 } else { distance(&fitted.model, &projected.model) };
        println!("{basis}: perplexity {before:.1} projected, {after:.1} fitted; weights off by {moved:.3}");
        assert!(after.is_finite() && after < 1.5 * before, "{basis}: {before} to {after}");
        assert!(moved < 0.25, "{basis}: weights are off by {moved}");
    }
}

/// A model of random weights, with an odd width.
fn odd(model_type: &str, layers: usize, scale: impl Fn(&str) -> f32) -> (TempDir, Model) {
    let common = json!({
        "model_type": model_type, "hidden_size": 21, "num_hidden_layers": layers, "num_attention_heads": 3, "vocab_size": 37,
        "max_position_embeddings": 4096, "intermediate_size": 13, "ffn_dim": 13, "num_key_value_heads": 3
    });
    let mut fields = common.as_object().expect("an object").clone();
    if model_type != "opt" {
        fields.insert("head_dim".into(), Value::from(6));
    }
    let config = Config::from_fields(fields.clone(), Path::new("config.json")).expect("a config");
    let directory = TempDir::new().expect("a temporary directory");
    let specs = config.tensors();
    let plans = specs
        .iter()
        .map(|spec| TensorPlan { name: spec.name.clone(), shape: spec.shape.clone(), dtype: Dtype::F32 })
        .collect();
    let mut file =
        TensorFile::create(FileTarget::new(&directory.path().join("model.safetensors"), false).expect("a name"), plans)
            .expect("a file");
    let mut random = Random::new(77);
    for spec in &specs {
        let norm = spec.shape.len() == 1 && spec.name.ends_with("weight");
        let values: Vec<f32> = random
            .values(spec.parameters() as usize, 0.3)
            .iter()
            .map(|value| (value + f32::from(norm)) * scale(&spec.name))
            .collect();
        file.write(&spec.name, bytemuck::cast_slice(&values)).expect("a tensor");
    }
    file.finish().expect("a file");
    std::fs::write(directory.path().join("config.json"), Value::Object(fields).to_string()).expect("config.json");
    let model = Model::open(directory.path()).expect("a model");
    (directory, model)
}

#[test]
fn odd_widths_one_layer_and_sequences_longer_than_a_sum_agree_with_f64() {
    let gpu = support::gpu();
    let mut failures = Failures::default();
    let mut random = Random::new(5);
    let mut row = |len: usize| (0..len).map(|_| random.below(37)).collect::<Vec<u32>>();
    let (long, short) = (vec![row(2100), row(3)], vec![row(70), row(41), row(1)]);
    for (model_type, rows) in [("llama", &long), ("llama", &short), ("phi", &short), ("opt", &short)] {
        let (_directory, model) = odd(model_type, 1, |_| 1.0);
        for (basis, refit) in [
            (Basis::SHARED, Refit::None),
            (Basis::SHARED, Refit::Full),
            (Basis::PerBlock, Refit::Full),
            (Basis::PerBlock, Refit::Reads),
        ] {
            let options = options(0.2, basis, refit);
            let found = sliced(&gpu, &model, rows, &options);
            let expected = fused(&model).refitted(rows, found.width, &options).expect("a network");
            let error = relative(&gpu_logits(&gpu, &found, &short), &reference_logits(&expected.network, &short));
            failures.check(&format!("{model_type}, {basis}, refit {refit}, {} tokens", rows[0].len()), error, 1e-4);
        }
    }
    failures.finish("odd models against f64");
}

#[test]
fn tokens_that_tell_nothing_leave_weights_finite() {
    let gpu = support::gpu();
    // Tokens that are all alike give Gram matrices that are nothing but rounding once their means are taken off.
    for (claim, rows) in [
        ("one token", vec![vec![5]]),
        ("one token again and again", vec![vec![7; 40]; 3]),
        ("many sequences of one token", vec![vec![9]; 70]),
    ] {
        // Where positions are learned, tokens of one id differ all the same.
        let alike = if rows[0].len() > 1 { &["llama", "phi"][..] } else { &["llama", "phi", "opt"] };
        for &model_type in alike {
            let (_directory, model) = odd(model_type, 2, |_| 1.0);
            let dense = logits(&gpu, &model, &rows);
            for basis in [Basis::SHARED, Basis::Segments(2), Basis::PerBlock] {
                for ridge in [1e-2, 1e-4] {
                    let found = sliced(&gpu, &model, &rows, &Options { ridge, ..options(0.2, basis, Refit::Full) });
                    let error = relative(&gpu_logits(&gpu, &found, &rows), &super::wide(&dense));
                    println!("{claim}, {model_type}, {basis}, ridge {ridge:.0e}: {error:.1e} off where it was fitted");
                    assert!(error < 0.1, "{claim}, {model_type}, {basis}, ridge {ridge:.0e}: {error:.1e}");
                    let others = gpu_logits(&gpu, &found, &[(0..37).collect()]);
                    assert!(
                        others.iter().all(|value| value.is_finite() && value.abs() < 1e3),
                        "{claim}, {model_type}, {basis}, ridge {ridge:.0e}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_signal_without_energy_keeps_the_projected_weights() {
    let gpu = support::gpu();
    // Nothing comes out of the attention's values, so that its output weight reads zeros.
    let (_directory, model) = odd("llama", 2, |name| if name.contains("v_proj") { 0.0 } else { 1.0 });
    let rows = vec![(0..37).collect::<Vec<u32>>(); 2];
    let [none, full] =
        [Refit::None, Refit::Full].map(|refit| sliced(&gpu, &model, &rows, &options(0.2, Basis::Segments(2), refit)));
    for name in ["model.layers.0.self_attn.o_proj.weight", "model.layers.1.self_attn.o_proj.weight"] {
        let [projected, kept] = [&none, &full].map(|found| support::tensor(found.model.directory(), name));
        assert!(support::relative_error(&kept, &projected) < 1e-6, "{name} changed");
    }
}

#[test]
fn signals_that_overflow_are_refused_wherever_they_do() {
    let gpu = support::gpu();
    let rows = vec![(0..37).collect::<Vec<u32>>(); 2];
    for (layer, model_type) in [(0, "llama"), (1, "llama"), (1, "opt")] {
        let write = if model_type == "opt" { "fc2.weight" } else { "down_proj.weight" };
        let at = format!("layers.{layer}.");
        let (_directory, model) = odd(model_type, 2, |name| {
            if name.contains(&at) && name.ends_with(write) {
                1e38
            } else if name.contains(&at) && name.contains("fc1") {
                1e3
            } else {
                1.0
            }
        });
        for options in [
            (Basis::SHARED, Refit::None),
            (Basis::SHARED, Refit::Full),
            (Basis::Segments(2), Refit::None),
            (Basis::PerBlock, Refit::Full),
        ]
        .map(|(basis, refit)| options(0.2, basis, refit))
        {
            let what = format!("{model_type}, layer {layer}, {}, refit {}", options.basis, options.refit);
            let directory = TempDir::new().expect("a temporary directory");
            let output = OutputDirectory::create(&directory.path().join("out"), false).expect("an output directory");
            let plan = Plan::new(model.config(), &options).expect("a plan");
            let error = slice(&gpu, &model, &rows, &options, &plan, &output, &Silent).expect_err(&what);
            assert!(matches!(&error, Error::Numerical(reason) if reason.contains("finite")), "{what}: {error}");
        }
    }
}
