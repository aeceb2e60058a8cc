//! Do mixtures of experts write what transformers writes, are experts never on the GPU together, and do they leave as
//! an independent implementation has it?

mod support;

use std::path::{Path, PathBuf};

use slicegpt_gpu::{
    checkpoint::{Dtype, OutputDirectory},
    eval::{self, EvalMemory},
    generate::{Sampling, generate},
    gpu::Gpu,
    model::{Config, Model},
    progress::Silent,
    synthetic::{self, TokenRows},
};

const GREEDY: Sampling = Sampling { temperature: 0.0, top_p: 1.0, seed: 1 };

/// The parity fixtures that are mixtures.
fn fixtures() -> Vec<PathBuf> {
    let all = std::fs::read_dir(support::fixture("parity")).expect("fixtures");
    let mut found: Vec<PathBuf> = all.map(|entry| entry.expect("an entry").path()).collect();
    found.retain(|path| path.join("greedy.json").exists());
    found.sort();
    assert!(found.len() >= 13, "{found:?}");
    found
}

fn logits(gpu: &Gpu, model: &Model, rows: &[Vec<u32>], memory: &EvalMemory) -> Vec<f32> {
    let mut all = Vec::new();
    let collect = |_, values: Vec<f32>| {
        all.extend(values);
        Ok(())
    };
    eval::logits_within(gpu, model, rows, memory, &Silent, collect).expect("logits");
    all
}

#[test]
fn the_likeliest_tokens_are_those_of_transformers_with_a_cache() {
    #[derive(serde::Deserialize)]
    struct Greedy {
        prompt: Vec<u32>,
        tokens: Vec<u32>,
    }
    let gpu = support::gpu();
    for path in fixtures() {
        let model = Model::open(&path).expect("a model");
        let text = std::fs::read(path.join("greedy.json")).expect("a file");
        let Greedy { prompt, tokens } = serde_json::from_slice(&text).expect("tokens");
        let mut found = Vec::new();
        generate(&gpu, &model, &prompt, &[], tokens.len(), &GREEDY, |token| {
            found.push(token);
            Ok(true)
        })
        .expect("text");
        assert_eq!(found, tokens, "{}", path.display());
    }
}

#[test]
fn logits_do_not_depend_on_which_sequences_run_together_or_how_experts_are_cut_to_fit_a_binding() {
    for name in ["qwen3_moe_every_second", "mixtral_top_2"] {
        let path = support::fixture("parity").join(name);
        let model = Model::open(&path).expect("a model");
        let rows = vec![support::tokens(&path.join("tokens.json"))[0].clone(); 3];
        let expected = support::tensor(&path.join("logits.safetensors"), "logits.0").repeat(3);
        let usual = EvalMemory::default();
        // One batch with all; each in a batch of its own, together; and one batch after the other.
        let small = EvalMemory { batch_tokens: 1, ..usual };
        for (memory, reason) in [
            (usual, "together"),
            (small, "three batches"),
            (EvalMemory { residual_bytes: 0, ..small }, "one batch at a time"),
        ] {
            let found = logits(&support::gpu(), &model, &rows, &memory);
            let error = support::relative_error(&found, &expected);
            assert!(error <= 1e-5, "{name}, {reason}: relative error {error:.1e}");
        }
        let cut = support::gpu_with(Some(16 << 10));
        let inner = 2 * model.config().layers[1].intermediate_size.next_multiple_of(4) * 4;
        assert!(cut.rows_per_binding(inner) < 111 || name != "qwen3_moe_every_second", "nothing is cut");
        let error = support::relative_error(&logits(&cut, &model, &rows, &usual), &expected);
        assert!(error <= 1e-5, "{name}, in small bindings: relative error {error:.1e}");
    }
}

/// A random mixture of 64 experts in one layer.
fn many_experts(directory: &Path) -> Model {
    let fields = serde_json::json!({
        "model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "num_experts": 64, "num_experts_per_tok": 8,
        "moe_intermediate_size": 128, "norm_topk_prob": true, "vocab_size": 100,
    });
    let serde_json::Value::Object(fields) = fields else { unreachable!() };
    let config = Config::from_fields(fields, Path::new("config.json")).expect("a config");
    let output = OutputDirectory::create(&directory.join("model"), false).expect("a directory");
    synthetic::write(&output, &config, Dtype::F32, TokenRows { rows: 2, len: 40 }, 1, &Silent).expect("a model");
    output.finish().expect("a model");
    Model::open(&directory.join("model")).expect("a model")
}

#[test]
fn the_experts_of_a_layer_are_never_on_the_gpu_together() {
    let directory = tempfile::tempdir().expect("a directory");
    let model = many_experts(directory.path());
    let config = model.config();
    let rows = support::tokens(&directory.path().join("model/tokens.json"));
    let mut gpu = support::gpu();
    let (memory, planned) = EvalMemory::fit(config, &rows, 4, None).expect("a plan");
    gpu.set_planned_memory(Some(planned));
    logits(&gpu, &model, &rows, &memory);
    let (peak, experts) = (gpu.memory().peak, 4 * 64 * config.expert_parameters(0));
    println!("{peak} bytes at most, {planned} planned, {experts} of experts");
    assert!(peak <= planned, "{peak} bytes, where {planned} were planned");
    assert!(planned < experts / 2, "{planned} bytes are planned, where the experts have {experts}");
}
