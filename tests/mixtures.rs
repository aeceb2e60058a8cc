//! Do mixtures of experts write what transformers writes, are experts never on the GPU together, and do they leave as
//! an independent implementation has it?

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use slicegpt_gpu::{
    checkpoint::{Dtype, OutputDirectory, TensorPlan},
    eval::{self, EvalMemory, rope_bytes},
    generate::{Sampling, generate},
    gpu::Gpu,
    model::{
        Batch, BatchSize, Config, Experts, Kept, LayerSpec, Model, StepGradients, StepWeights, Wanted,
        architecture::{ARCHITECTURES, BlockKind, Role, Wiring},
        back_through_step, state_bytes,
    },
    ops::ClampedSwiglu,
    progress::Silent,
    prune::{Aggregate, Groups, Importance, Job, Options, Plan, Snapshot, expert_scores},
    recover::{self, Mode, Schedule, Target, Trained},
    reference::{self, Network},
    stream::{Extent, MemoryPlan, Placement, Sitting, Types},
    synthetic::{self, TokenRows},
};

const GREEDY: Sampling = Sampling { temperature: 0.0, top_p: 1.0, seed: 1 };

/// The parity fixtures with the likeliest tokens after a prompt: mixtures, and layers with states.
fn fixtures() -> Vec<PathBuf> {
    let all = std::fs::read_dir(support::fixture("parity")).expect("fixtures");
    let mut found: Vec<PathBuf> = all.map(|entry| entry.expect("an entry").path()).collect();
    found.retain(|path| path.join("greedy.json").exists());
    found.sort();
    assert!(found.len() >= 26, "{found:?}");
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
    for name in ["qwen3_moe_every_second", "mixtral_top_2", "gpt_oss_mxfp4"] {
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

fn config(fields: Value) -> Result<Config, slicegpt_gpu::Error> {
    let fields = fields.as_object().expect("fields").clone();
    Config::from_fields(fields, Path::new("config.json"))
}

/// A random model of one layer.
fn random(directory: &Path, fields: Value) -> Model {
    let config = config(fields).expect("a config");
    let output = OutputDirectory::create(&directory.join("model"), false).expect("a directory");
    synthetic::write(&output, &config, Dtype::F32, TokenRows { rows: 2, len: 40 }, 1, &Silent).expect("a model");
    output.finish().expect("a model");
    Model::open(&directory.join("model")).expect("a model")
}

#[test]
fn the_experts_of_a_layer_are_never_on_the_gpu_together() {
    let own = json!({
        "model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "num_experts": 64, "num_experts_per_tok": 8,
        "moe_intermediate_size": 128, "norm_topk_prob": true, "vocab_size": 100,
    });
    // In one tensor, with biases.
    let together = json!({
        "model_type": "gpt_oss", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "num_local_experts": 64, "num_experts_per_tok": 8,
        "intermediate_size": 128, "vocab_size": 100,
    });
    for fields in [own, together] {
        let directory = tempfile::tempdir().expect("a directory");
        let model = random(directory.path(), fields);
        let config = model.config();
        let rows = support::tokens(&directory.path().join("model/tokens.json"));
        let mut gpu = support::gpu();
        let memory = EvalMemory { batch_tokens: 40, ..EvalMemory::default() };
        let memory = EvalMemory { residual_bytes: 2 * 40 * state_bytes(config), ..memory };
        let planned = memory.gpu_bytes(config, 40, 4);
        gpu.set_planned_memory(Some(planned));
        logits(&gpu, &model, &rows, &memory);
        let (peak, experts) = (gpu.memory().peak, 4 * 64 * config.expert_parameters(0));
        println!("{peak} bytes at most, {planned} planned, {experts} of experts");
        assert!(peak <= planned, "{peak} bytes, where {planned} were planned");
        assert!(planned < experts / 2, "{planned} bytes are planned, where the experts have {experts}");
    }
}

/// How the model is trained in tests of memory.
fn training(mode: Mode) -> recover::Options {
    let low_rank = Target::ALL.map(|(_, target)| target).to_vec();
    let weights = mode == Mode::Blocks;
    recover::Options {
        mode,
        steps: 2,
        batch_size: 2,
        learning_rate: 1e-3,
        rate_flag: recover::Options::RATE,
        schedule: Schedule::Constant,
        warmup: 0.0,
        weight_decay: 0.0,
        betas: [0.9, 0.95],
        eps: 1e-8,
        max_grad_norm: 1.0,
        rank: 4,
        alpha: 8.0,
        dropout: 0.0,
        trained: Trained { low_rank: if weights { Vec::new() } else { low_rank }, weights, norms: true, biases: true },
        temperature: 1.0,
        eval_every: 0,
        save_every: 1,
        seed: 1,
        dtype: Types::One(Dtype::F32),
    }
}

#[test]
fn nor_are_they_while_gradients_go_through_them() {
    let at = tempfile::tempdir().expect("a directory");
    let model = random(
        at.path(),
        json!({
            "model_type": "qwen2_moe", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 32, "num_experts": 64, "num_experts_per_tok": 8,
            "moe_intermediate_size": 128, "shared_expert_intermediate_size": 96, "vocab_size": 100,
        }),
    );
    let config = model.config();
    let rows = support::tokens(&at.path().join("model/tokens.json"));
    let (extent, rope) = (Extent::of(&rows), rope_bytes(config, 40));
    let experts = 4 * 64 * config.expert_parameters(0);
    let one_by_one = BatchSize { rows: Some(1), ..BatchSize::default() };
    let tensors: Vec<TensorPlan> = config
        .tensors()
        .into_iter()
        .map(|spec| TensorPlan { name: spec.name, shape: spec.shape, dtype: Dtype::F32 })
        .collect();
    for placement in [Placement::Gpu, Placement::Host] {
        let memory = MemoryPlan { placement, batch: one_by_one, part_bytes: 16 << 10, keeps_dense: false };
        let check = |what: &str, planned: u64, run: &dyn Fn(&Gpu, &OutputDirectory)| {
            let directory = tempfile::tempdir().expect("a directory");
            let output = OutputDirectory::create(&directory.path().join("out"), false).expect("an output");
            let mut gpu = support::gpu();
            gpu.set_planned_memory(Some(planned));
            run(&gpu, &output);
            let peak = gpu.memory().peak;
            println!("{what}, {placement:?}: {peak} bytes at most, {planned} planned, {experts} of a layer's experts");
            assert!(peak <= planned, "{what}, {placement:?}: {peak} bytes, where {planned} were planned");
            assert!(planned < experts, "{what}, {placement:?}: {planned} bytes planned, {experts} of experts");
        };
        for mode in [Mode::Lora, Mode::Distil, Mode::Blocks] {
            let options = training(mode);
            let teacher = (mode != Mode::Lora).then_some(&model);
            let planned = options.peak(&memory, (config, teacher.map(Model::config)), 0, &extent, rope, 4).gpu;
            check(&mode.to_string(), planned, &|gpu, directory| {
                let (options, tensors, progress) = (&options, tensors.as_slice(), &Silent);
                let job = recover::Job {
                    model: &model,
                    teacher,
                    stay: None,
                    rows: &rows,
                    counted: None,
                    options,
                    memory,
                    tensors,
                    directory,
                    progress,
                };
                job.run(gpu, None, &mut |_| Ok(true)).expect("training");
            });
        }
        let options = Options { groups: Groups::Attention, ..options(config, 0.5, false) };
        let planned = options.peak(&memory, config, 0, &extent, rope, 4).gpu;
        check("prune", planned, &|gpu, directory| {
            let job = Job { model: &model, rows: &rows, options: &options, memory, directory, progress: &Silent };
            let all: Vec<Kept> = config.layers.iter().enumerate().map(|(at, spec)| Kept::all(at, spec)).collect();
            job.importances(gpu, &all, &mut Sitting::whole()).expect("importances");
        });
    }
}

#[test]
fn gradients_through_experts_are_derivatives_of_the_twin() {
    // Gates over all experts or the chosen ones, with biases, clamped; a shared expert; all of them in small bindings.
    for (name, small) in
        [("gpt_oss_plain", false), ("qwen2_moe_plain", false), ("olmoe_plain", false), ("qwen2_moe_plain", true)]
    {
        let gpu = if small { support::gpu_with(Some(16 << 10)) } else { support::gpu() };
        let model = Model::open(&support::fixture("parity").join(name)).expect("a model");
        let config = model.config();
        let row: Vec<u32> = (0..if small { 130 } else { 7 }).map(|token| token % 50).collect();
        let (tokens, width) = (row.len(), config.hidden_size);
        let mut random = support::Random::new(5);
        let [x, d] = [0, 1].map(|_| random.values(tokens * width, 1.0));
        let batch = Batch::new(&gpu, config, &[&row]).expect("a batch");
        let host = model.store.layer(0).expect("a layer");
        let step = config.layer_steps(0).find(|step| step.is_mixture()).expect("a mixture");
        let weights = StepWeights::upload(&gpu, &host.steps[step.index], host.fused).expect("weights");
        let tables = model.rope_tables(&gpu, tokens).expect("tables");
        let context = batch.context(&gpu, config, 0, &tables);
        let mut sums = StepGradients::new(&weights, Wanted::ALL);
        let on_gpu = [&x, &d].map(|values| gpu.upload(values, tokens, width).expect("a matrix"));
        let found = back_through_step(&model, &weights, context, on_gpu, &mut sums).expect("a gradient");
        let found = reference::matrix(tokens, width, &gpu.download(&found).expect("values"));
        let network = Network::load(&model.store).expect("a network");
        let [x, d] = [x, d].map(|values| reference::matrix(tokens, width, &values));
        // A token's gradient depends on nothing but that token: of many, some.
        let some = (0..tokens).step_by(if small { 20 } else { 1 });
        let mut worst: f64 = 0.0;
        for (token, at) in some.flat_map(|token| (0..width).map(move |at| (token, at))) {
            let loss = |by: f64| {
                let mut one = x.rows(token, 1).into_owned();
                one[at] += by;
                network.step(0, step.index, &one).expect("a step").dot(&d.rows(token, 1))
            };
            let difference = (loss(1e-5) - loss(-1e-5)) / 2e-5;
            worst = support::worst([worst, (found[(token, at)] - difference).abs()]);
        }
        let error = worst / found.amax();
        println!("{name}: {error:.1e}");
        assert!(error < 1e-5, "{name}: {error:.1e}");
    }
}

#[test]
fn what_a_config_leaves_out_is_what_the_classes_of_transformers_take() {
    let spec = |fields: Value| config(fields).expect("a config").layers;
    let layers = spec(json!({ "model_type": "qwen3_moe" }));
    let experts = Experts { count: 128, chosen: 8, normalised: false, shared: None };
    assert_eq!((layers.len(), sizes(&layers[0]), layers[23].experts), (24, [32, 4, 64, 768], Some(experts)));
    let layers = spec(json!({ "model_type": "mixtral" }));
    let experts = Experts { count: 8, chosen: 2, normalised: true, shared: None };
    assert_eq!((layers.len(), sizes(&layers[0]), layers[31].experts), (32, [32, 8, 128, 14336], Some(experts)));
    assert_eq!(layers[0].window, None);
    let layers = spec(json!({ "model_type": "gpt_oss" }));
    let experts = Experts { count: 128, chosen: 4, normalised: true, shared: None };
    assert_eq!((layers.len(), sizes(&layers[0]), layers[35].experts), (36, [64, 8, 64, 2880], Some(experts)));
    assert_eq!([0, 1, 2, 35].map(|layer: usize| layers[layer].window), [Some(128), None, Some(128), None]);
    assert_eq!(layers[0].swiglu, Some(ClampedSwiglu { alpha: 1.702, limit: 7.0 }));
    // Either name, as either version of transformers writes it.
    for name in ["num_experts", "num_local_experts"] {
        for kind in ["qwen3_moe", "mixtral", "gpt_oss"] {
            let mut fields = json!({ "model_type": kind, "num_experts_per_tok": 2 });
            fields[name] = json!(5);
            assert_eq!(spec(fields)[0].experts.map(|experts| experts.count), Some(5), "{kind} {name}");
        }
    }
    let mixed = |more: Value| {
        let mut fields = json!({ "model_type": "qwen3_moe", "num_hidden_layers": 4 });
        fields.as_object_mut().expect("fields").extend(more.as_object().expect("fields").clone());
        spec(fields).iter().map(|layer| (layer.experts.is_some(), layer.intermediate_size)).collect::<Vec<_>>()
    };
    let (dense, mixture) = ((false, 6144), (true, 768));
    assert_eq!(mixed(json!({ "decoder_sparse_step": 2 })), [dense, mixture, dense, mixture]);
    assert_eq!(mixed(json!({ "mlp_only_layers": [0, 3, 9, -1] })), [dense, mixture, mixture, dense]);
    assert_eq!(mixed(json!({ "mlp_only_layers": null })), [mixture; 4]);
    assert_eq!(mixed(json!({ "num_experts": 0 })), [dense; 4]);
    for (fields, message) in [
        (json!({ "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 5 }), "num_experts_per_tok"),
        (json!({ "model_type": "mixtral", "num_local_experts": 0 }), "num_local_experts"),
        (json!({ "model_type": "qwen3_moe", "num_experts": 4, "num_local_experts": 8 }), "num_local_experts"),
        (json!({ "model_type": "qwen3_moe", "decoder_sparse_step": 0 }), "decoder_sparse_step"),
        (json!({ "model_type": "qwen3_moe", "mlp_only_layers": ["x"] }), "mlp_only_layers"),
        (json!({ "model_type": "gpt_oss", "swiglu_limit": -1.0 }), "swiglu_limit"),
        (json!({ "model_type": "gpt_oss", "sliding_window": null }), "sliding_window"),
        (json!({ "model_type": "gpt_oss", "quantization_config": { "quant_method": "fp8" } }), "quantization_config"),
        (json!({ "model_type": "llama", "quantization_config": { "quant_method": "mxfp4" } }), "quantization_config"),
        (json!({ "model_type": "llama", "num_local_experts": 8 }), "num_local_experts"),
    ] {
        let error = config(fields).expect_err(message).to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn more_experts_than_the_files_have_are_missed_by_number() {
    let directory = support::copy_of("qwen3_moe_normalised");
    support::set_fields(directory.path(), &[("num_local_experts", json!(8))]);
    let Err(error) = Model::open(directory.path()) else { panic!("a model with two experts that are not there") };
    let error = error.to_string();
    assert!(error.contains("gate.weight") && error.contains("the files have 6 experts in this layer"), "{error}");
}

/// Query heads, key-value heads, their width, and that of MLPs.
fn sizes(layer: &LayerSpec) -> [usize; 4] {
    [layer.heads, layer.kv_heads, layer.head_dim, layer.intermediate_size]
}

/// What tests/fixtures/make_experts.py found of a fixture.
#[derive(serde::Deserialize)]
struct Expected {
    share: f64,
    scores: Vec<Option<Vec<f64>>>,
    left: Vec<Option<Vec<usize>>>,
    left_global: Vec<Option<Vec<usize>>>,
}

fn options(config: &Config, share: f64, global: bool) -> Options {
    Options {
        ratio: share,
        layers: 0..config.layers.len(),
        importance: Importance::ParamFirst,
        aggregate: Aggregate::Sum,
        global,
        iterations: 1,
        groups: Groups::Experts,
        keep_importances: false,
        seed: 42,
        dtype: Types::One(Dtype::F32),
        in_mxfp4: Vec::new(),
    }
}

/// Prunes a model, stopping at every commit to resume; the experts that are left of each layer, and the model.
fn pruned(gpu: &Gpu, model: &Model, rows: &[Vec<u32>], options: &Options, at: &Path) -> (Vec<Vec<usize>>, Model) {
    let directory = OutputDirectory::create(at, false).expect("an output");
    let memory = MemoryPlan::unlimited(None);
    let job = Job { model, rows, options, memory, directory: &directory, progress: &Silent };
    let mut state: Option<Snapshot> = None;
    while state.as_ref().is_none_or(|state| !state.done) {
        state = Some(job.run(gpu, state.as_ref(), &mut |_| Ok(false)).expect("a step of the work"));
    }
    let kept = state.expect("a state").kept;
    let plan = Plan::of(model.config(), &kept, options).expect("a plan");
    let text = serde_json::to_vec(&plan.config.raw).expect("JSON");
    directory.write("config.json", &text).expect("a config");
    directory.finish().expect("an output");
    let pruned = Model::open(at).expect("the pruned model");
    assert_eq!(pruned.config().parameters(), plan.parameters);
    assert_eq!(pruned.store.unexpected(), Vec::<String>::new());
    (kept.into_iter().map(|kept| kept.experts).collect(), pruned)
}

#[test]
fn experts_leave_as_an_independent_implementation_has_it_and_the_rest_computes_what_that_computes() {
    let gpu = support::gpu();
    let names = [
        "qwen3_moe_normalised",
        "qwen3_moe_dense_between",
        "qwen3_moe_top_1",
        "qwen2_moe_plain",
        "mixtral_top_2",
        "olmoe_plain",
        "gpt_oss_plain",
        "gpt_oss_mxfp4",
    ];
    for name in names {
        let path = support::fixture("parity").join(name);
        let model = Model::open(&path).expect("a model");
        let rows = support::tokens(&path.join("tokens.json"));
        let files = support::fixture("experts").join(name);
        let text = std::fs::read(files.with_extension("json")).expect("a file");
        let expected: Expected = serde_json::from_slice(&text).expect("JSON");
        let layers = 0..model.config().layers.len();
        // Together, and one batch after the other as where there is little memory.
        let one_by_one = BatchSize { rows: Some(1), ..BatchSize::default() };
        for memory in [
            MemoryPlan::unlimited(None),
            MemoryPlan { placement: Placement::Host, batch: one_by_one, part_bytes: 1024, keeps_dense: false },
        ] {
            let found = expert_scores(&gpu, &model, &rows, layers.clone(), &memory, &Silent).expect("scores");
            let mixtures: Vec<_> =
                expected.scores.iter().enumerate().filter_map(|(at, of)| Some((at, of.as_ref()?))).collect();
            assert_eq!(found.len(), mixtures.len(), "{name}");
            for (found, (layer, expected)) in found.iter().zip(mixtures) {
                assert_eq!(found.layer, layer, "{name}");
                let worst = support::worst(found.scores.iter().zip(expected).map(|(a, b)| support::relative(*a, *b)));
                println!("{name} layer {layer}: {worst:.1e}");
                assert!(worst < 1e-5, "{name} layer {layer}: relative error {worst:.1e}");
            }
        }
        for (global, left, kind) in [(false, &expected.left, "each"), (true, &expected.left_global, "global")] {
            let directory = tempfile::tempdir().expect("a directory");
            let options = options(model.config(), expected.share, global);
            options.check(model.config()).expect("what makes sense");
            let (kept, smaller) = pruned(&gpu, &model, &rows, &options, &directory.path().join("out"));
            let left: Vec<Vec<usize>> = left.iter().map(|left| left.clone().unwrap_or_default()).collect();
            assert_eq!(kept, left, "{name} {kind}");
            let counts: Vec<usize> = left.iter().map(Vec::len).filter(|count| *count > 0).collect();
            let alike = counts.windows(2).all(|pair| pair[0] == pair[1]);
            assert_eq!(smaller.config().pruned, !alike, "{name} {kind}");
            let expected: Vec<f32> = (0..rows.len())
                .flat_map(|row| support::tensor(&files.with_extension("safetensors"), &format!("{kind}.{row}")))
                .collect();
            let error = support::relative_error(&logits(&gpu, &smaller, &rows, &EvalMemory::default()), &expected);
            assert!(error <= 1e-5, "{name} {kind}: relative error {error:.1e}");
        }
    }
}

#[test]
fn a_pruning_section_gives_layers_their_experts_and_no_impossible_numbers() {
    let section = |experts: Value| {
        let layer = |experts: &Value| json!({ "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 10, "num_experts": experts });
        config(json!({
            "model_type": "pruned_qwen3_moe", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 10,
            "vocab_size": 50, "pruning": { "layers": [layer(&experts), layer(&json!(6))] },
        }))
    };
    let layers = section(json!(3)).expect("a config").layers;
    assert_eq!([0, 1].map(|layer: usize| layers[layer].experts.map(|experts| experts.count)), [Some(3), Some(6)]);
    for wrong in [1, 7, 0] {
        assert!(section(json!(wrong)).expect_err("no such layer").to_string().contains("experts"), "{wrong}");
    }
}

#[test]
fn in_every_row_the_mixture_is_the_last_block_and_reads_what_the_others_wrote() {
    let mixtures = ARCHITECTURES.iter().filter_map(|row| Some((row, row.mixture?)));
    assert!(mixtures.clone().count() >= 3);
    for (row, mixture) in mixtures {
        let kinds: Vec<bool> = mixture.blocks.iter().map(|block| block.kind == BlockKind::Mixture).collect();
        assert_eq!(kinds, [false, true], "{}", row.model_type);
        assert_eq!(row.wiring, Wiring::Sequential, "{}", row.model_type);
        let roles: Vec<Role> = mixture.weights.iter().flat_map(|weight| weight.holds).copied().collect();
        assert_eq!(roles, [Role::Gate, Role::Up, Role::Down], "{}", row.model_type);
    }
}
