//! Is training what PyTorch does, does every way to train make small what it is to make small, and does it resume to
//! the same bytes?

mod support;

use std::collections::BTreeMap;

use slicegpt_gpu::{
    checkpoint::{Checkpoint, Dtype, OutputDirectory, TensorPlan},
    error::Result,
    gpu::Gpu,
    model::{AdapterForm, Model, TensorSpec},
    progress::Silent,
    recover::{Job, Mode, Options, Recovered, Schedule, Snapshot, Target, Trained, check_teacher},
    stream::{MemoryPlan, Placement, Types},
};

/// As make_recovery.py has them.
fn options() -> Options {
    Options {
        mode: Mode::Lora,
        steps: 3,
        batch_size: 1000,
        learning_rate: 0.02,
        rate_flag: Options::RATE,
        schedule: Schedule::Linear,
        warmup: 0.0,
        weight_decay: 0.1,
        betas: [0.9, 0.95],
        eps: 1e-2,
        max_grad_norm: 0.5,
        rank: 3,
        alpha: 6.0,
        dropout: 0.0,
        trained: Trained {
            low_rank: Target::ALL.map(|(_, target)| target).to_vec(),
            weights: false,
            norms: false,
            biases: false,
        },
        temperature: 1.0,
        eval_every: 0,
        save_every: 1,
        seed: 7,
        dtype: Types::One(Dtype::F32),
    }
}

fn fixture(name: &str) -> (Model, Vec<Vec<u32>>) {
    let path = support::fixture("parity").join(name);
    let rows = support::tokens(&path.join("tokens.json")).into_iter().filter(|row| row.len() > 1).collect();
    (Model::open(&path).expect("a model"), rows)
}

/// What came of training, and the model that was written.
struct Made {
    recovered: Recovered,
    model: Model,
    files: BTreeMap<String, String>,
    _at: tempfile::TempDir,
}

/// How it is trained, beside the options.
#[derive(Clone, Copy)]
struct How<'a> {
    teacher: Option<&'a Model>,
    /// Which of its layers the model has.
    stay: Option<&'a [usize]>,
    counted: Option<&'a [Vec<bool>]>,
    memory: MemoryPlan,
    /// Whether it is stopped at every commit, to resume.
    stops: bool,
}

const PLAIN: fn() -> How<'static> =
    || How { teacher: None, stay: None, counted: None, memory: MemoryPlan::unlimited(None), stops: false };

fn train(gpu: &Gpu, model: &Model, rows: &[Vec<u32>], options: &Options, how: How) -> Made {
    attempt(gpu, model, rows, options, how).expect("training")
}

fn attempt(gpu: &Gpu, model: &Model, rows: &[Vec<u32>], options: &Options, how: How) -> Result<Made> {
    let at = tempfile::tempdir().expect("a directory");
    let directory = OutputDirectory::create(&at.path().join("out"), false).expect("an output");
    let config = model.config();
    let tensors: Vec<TensorPlan> = config
        .tensors()
        .into_iter()
        .map(|spec| TensorPlan { name: spec.name, shape: spec.shape, dtype: Dtype::F32 })
        .collect();
    let job = Job {
        model,
        teacher: how.teacher,
        stay: how.stay,
        rows,
        counted: how.counted,
        options,
        memory: how.memory,
        tensors: &tensors,
        directory: &directory,
        progress: &Silent,
    };
    let mut state: Option<Snapshot> = None;
    let mut sittings = 0;
    let recovered = loop {
        let found = job.run(gpu, state.as_ref(), &mut |_| Ok(!how.stops))?;
        sittings += 1;
        if found.snapshot.done {
            break found;
        }
        state = Some(found.snapshot);
    };
    assert!(!how.stops || sittings > 1, "it was never stopped");
    directory.write("config.json", &serde_json::to_vec(&config.raw).expect("JSON")).expect("a config");
    directory.finish().expect("an output");
    let model = Model::open(&at.path().join("out")).expect("the trained model");
    let files = model.store.checkpoint.sha256().expect("hashes");
    Ok(Made { recovered, model, files, _at: at })
}

/// The values of a tensor.
fn values(model: &Model, name: &str) -> Vec<f32> {
    let specs = model.config().tensors();
    let spec = specs.iter().find(|spec| spec.name == name).unwrap_or_else(|| panic!("no {name}"));
    model.store.whole(spec).expect("a tensor").to_f32().expect("values")
}

/// max |a − b|, relative to the largest |b|.
fn difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0, |most: f64, value| most.max(f64::from(value.abs())));
    support::worst(a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()))) / largest.max(1e-12)
}

/// The products that make_recovery.py has of a matrix: with cosines from the right, and from the left.
fn products(values: &[f32], cols: usize) -> [Vec<f32>; 2] {
    let cosine = |index: usize| (1.7 * (index + 1) as f64).cos();
    let rows = values.chunks_exact(cols);
    let right =
        rows.clone().map(|row| row.iter().enumerate().map(|(j, w)| f64::from(*w) * cosine(j)).sum::<f64>() as f32);
    let mut left = vec![0.0f64; cols];
    for (i, row) in rows.clone().enumerate() {
        row.iter().zip(&mut left).for_each(|(w, sum)| *sum += cosine(i) * f64::from(*w));
    }
    [right.collect(), left.into_iter().map(|sum| sum as f32).collect()]
}

/// The model of a fixture with all matrices times 1.25.
fn sharper(name: &str) -> (Model, tempfile::TempDir) {
    let at = support::copy_of(name);
    let path = at.path().join("model.safetensors");
    let mut tensors = support::tensors(&path);
    for (dtype, shape, bytes) in tensors.values_mut() {
        assert_eq!(*dtype, Dtype::F32);
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(bytes);
        let scale = if shape.len() == 2 { 1.25 } else { 1.0 };
        *bytes = values.iter().flat_map(|value| (scale * value).to_le_bytes()).collect();
    }
    support::write_tensors(&path, &tensors, &[]);
    (Model::open(at.path()).expect("a model"), at)
}

#[test]
fn three_steps_are_those_of_pytorch() {
    let gpu = support::gpu();
    // Norms after blocks, and a soft-cap of the logits that a teacher's are compared with.
    for (name, others, taught) in [
        ("llama_gqa_tied", false, false),
        ("opt_untied", true, false),
        ("gemma2_tied", false, false),
        ("gemma2_final_cap", false, true),
        // Norms that are stored as w - 1, after blocks, before two blocks at once, and of heads in every form.
        ("gemma3_tied", true, false),
        ("olmo2_untied", true, false),
        ("cohere_qk_norm", true, false),
        ("stablelm_qk_layernorm", true, false),
        ("phi_qk_layernorm", true, false),
        // Gated delta nets, and attention with gates, whose queries and gates are in one tensor.
        ("qwen35_tied", true, false),
        // Experts, and a dense layer; towards another mixture.
        ("qwen2_moe_dense_between", true, false),
        ("qwen3_moe_normalised", false, true),
    ] {
        let (model, rows) = fixture(name);
        let path = support::fixture("recovery").join(format!("{name}.safetensors"));
        let expected = Checkpoint::open_named(&path, None).expect("a fixture");
        let of = |name: &str| {
            let tensor = expected.tensor(name).unwrap_or_else(|| panic!("no {name} in the fixture"));
            bytemuck::pod_collect_to_vec::<u8, f32>(&tensor.read().expect("bytes"))
        };
        let mut options = options();
        (options.trained.norms, options.trained.biases) = (others, others);
        let teacher = taught.then(|| sharper(name));
        if taught {
            (options.mode, options.temperature) = (Mode::Distil, 2.0);
        }
        // In one go, and with two sequences at a time.
        for together in [None, Some(2)] {
            let teacher = teacher.as_ref().map(|(model, _)| model);
            let how = How { teacher, memory: MemoryPlan::unlimited(together), ..PLAIN() };
            let made = train(&gpu, &model, &rows, &options, how);
            let mut worst = difference(&made.recovered.snapshot.losses, &of("losses"));
            let form = AdapterForm { base: String::new(), rank: 3, alpha: 6.0, dropout: 0.0 };
            let (_, tensors) = form.write(model.config(), &made.recovered.low_rank).expect("an adapter");
            for (key, [_, cols], found) in tensors {
                let part = key.strip_prefix("base_model.model.").expect("PEFT's prefix");
                let (weight, half) = part.split_once(".lora_").expect("a module");
                let half = if half.starts_with('A') { "a" } else { "b" };
                worst = worst.max(difference(&found, &of(&format!("{weight}.{half}"))));
                if half == "a" {
                    let [right, left] = products(&values(&made.model, &format!("{weight}.weight")), cols);
                    worst = worst.max(difference(&right, &of(&format!("{weight}.right"))));
                    worst = worst.max(difference(&left, &of(&format!("{weight}.left"))));
                }
            }
            let vectors: Vec<String> = expected
                .names()
                .filter(|name| name.contains("norm") || name.ends_with(".bias"))
                .map(str::to_owned)
                .collect();
            assert_eq!(vectors.is_empty(), !others);
            for vector in &vectors {
                worst = worst.max(difference(&values(&made.model, vector), &of(vector)));
            }
            println!("{name}, {together:?} at a time: {worst:.1e}");
            assert!(worst < 1e-4, "{name}, {together:?} at a time: relative error {worst:.1e}");
        }
    }
}

/// Rows that are long enough to learn something from.
fn texts(model: &Model, count: usize) -> Vec<Vec<u32>> {
    let vocabulary = model.config().vocab_size as u32;
    (0..count as u32).map(|row| (0..24).map(|at| (row + at * (1 + row % 2)) % vocabulary).collect()).collect()
}

#[test]
fn every_way_to_train_makes_its_loss_small_and_resumes_to_the_same_bytes_wherever_residuals_lie() {
    every_way("llama_gqa_tied", [24, 8]);
}

#[test]
fn so_does_every_way_to_train_a_mixture_whose_experts_stay_as_they_are() {
    // On all sequences: other ones of random tokens would have other losses, which few weights make up for.
    for name in ["qwen2_moe_dense_between", "mixtral_tied_window"] {
        let models = every_way(name, [10, 9]);
        let (model, _) = fixture(name);
        let experts = |model: &Model| -> BTreeMap<String, Vec<f32>> {
            let specs = model.config().tensors().into_iter();
            let stay = specs.filter(|spec| [".experts.", "gate.weight"].iter().any(|part| spec.name.contains(part)));
            stay.map(|spec| (spec.name.clone(), values(model, &spec.name))).collect()
        };
        let expected = experts(&model);
        assert!(expected.len() > 20, "{name}: {:?}", expected.keys());
        let layers = if name.starts_with("qwen2") { 1..3 } else { 0..0 };
        let shared = layers.map(|layer| format!("model.layers.{layer}.mlp.shared_expert.down_proj.weight"));
        let shared: Vec<String> = shared.collect();
        for found in &models {
            assert!(experts(&found.model) == expected, "{name}: other experts");
            assert!(shared.iter().all(|one| values(&found.model, one) != values(&model, one)), "{name}: {shared:?}");
        }
    }
}

/// Trains a model in every way, on this many sequences and this many in a step, and returns what came of each.
fn every_way(name: &str, [count, batch_size]: [usize; 2]) -> Vec<Made> {
    let mut all = Vec::new();
    let gpu = support::gpu();
    let (model, _) = fixture(name);
    let (other, _) = fixture(name);
    let rows = texts(&model, count);
    // A student: the same model after other training.
    let student = {
        let options = Options { steps: 4, batch_size: 8, learning_rate: 0.05, ..options() };
        train(&gpu, &model, &rows, &options, PLAIN()).model
    };
    let base = Options { steps: 6, batch_size, save_every: 2, learning_rate: 0.01, eps: 1e-8, ..options() };
    let whole = Trained { low_rank: Vec::new(), weights: true, norms: true, biases: true };
    for (what, options) in [
        ("lora", Options { eval_every: 3, ..base.clone() }),
        ("lora with dropout", Options { dropout: 0.3, ..base.clone() }),
        (
            "lora of some weights, cosine",
            Options {
                schedule: Schedule::Cosine,
                trained: Trained { low_rank: vec![Target::Query, Target::Down], ..base.trained.clone() },
                ..base.clone()
            },
        ),
        ("distil", Options { mode: Mode::Distil, temperature: 2.0, ..base.clone() }),
        (
            "distil, all weights",
            Options { mode: Mode::Distil, trained: whole.clone(), learning_rate: 2e-3, ..base.clone() },
        ),
        ("blocks", Options { mode: Mode::Blocks, trained: whole, eval_every: 3, learning_rate: 2e-3, ..base.clone() }),
        ("blocks by lora", Options { mode: Mode::Blocks, ..base.clone() }),
    ] {
        let teacher = (options.mode != Mode::Lora).then_some(&other);
        let how = How { teacher, ..PLAIN() };
        let once = train(&gpu, &student, &rows, &options, how);
        let losses = &once.recovered.snapshot.losses;
        let layers = if options.mode == Mode::Blocks { student.config().layers.len() } else { 1 };
        assert_eq!(losses.len(), layers * options.steps, "{what}");
        for layer in losses.chunks(options.steps) {
            assert!(layer[options.steps - 1] < layer[0], "{what}: {losses:?}");
        }
        let validated = &once.recovered.snapshot.validation;
        assert_eq!(validated.is_empty(), options.eval_every == 0, "{what}: {validated:?}");
        for (placement, stops) in [(Placement::Gpu, true), (Placement::Disk, false)] {
            let memory = MemoryPlan { placement, ..MemoryPlan::unlimited(None) };
            let again = train(&gpu, &student, &rows, &options, How { memory, stops, ..how });
            assert_eq!(again.files, once.files, "{what}, {placement:?}, stopped: {stops}");
            assert_eq!(again.recovered.snapshot.losses, once.recovered.snapshot.losses, "{what}, {placement:?}");
        }
        all.push(once);
    }
    all
}

#[test]
fn experts_in_mxfp4_are_written_as_they_are_stored() {
    let gpu = support::gpu();
    let (model, rows) = fixture("gpt_oss_mxfp4");
    let (config, experts) = (model.config(), model.store.in_mxfp4());
    assert!(!experts.is_empty());
    let plan = |name: String, shape: Vec<usize>, dtype| TensorPlan { name, shape, dtype };
    let of = |spec: TensorSpec| match spec.in_mxfp4().filter(|_| experts.contains(&spec.name)) {
        Some(parts) => parts.map(|part| plan(part.name, part.shape, Dtype::U8)).into(),
        None => vec![plan(spec.name, spec.shape, Dtype::F32)],
    };
    let tensors: Vec<TensorPlan> = config.tensors().into_iter().flat_map(of).collect();
    let at = tempfile::tempdir().expect("a directory");
    let directory = OutputDirectory::create(&at.path().join("out"), false).expect("an output");
    let options = Options { steps: 1, ..options() };
    let job = Job {
        model: &model,
        teacher: None,
        stay: None,
        rows: &rows,
        counted: None,
        options: &options,
        memory: MemoryPlan::unlimited(None),
        tensors: &tensors,
        directory: &directory,
        progress: &Silent,
    };
    job.run(&gpu, None, &mut |_| Ok(true)).expect("training");
    directory.finish().expect("an output");
    let after = Checkpoint::open(&at.path().join("out")).expect("the trained tensors");
    let before = Checkpoint::open(&support::fixture("parity").join("gpt_oss_mxfp4")).expect("those before");
    let bytes = |of: &Checkpoint, name: &str| of.tensor(name).expect("the tensor").read().expect("bytes").to_vec();
    let stored: Vec<&TensorPlan> = tensors.iter().filter(|plan| plan.dtype == Dtype::U8).collect();
    assert_eq!(stored.len(), 2 * experts.len());
    for TensorPlan { name, .. } in stored {
        assert!(bytes(&after, name) == bytes(&before, name), "{name}: other bytes");
    }
    // Routers come with them, and attention is trained.
    let compared = |name: &str| [values(&model, name), bytemuck::pod_collect_to_vec::<u8, f32>(&bytes(&after, name))];
    let [router, same] = compared("model.layers.0.mlp.router.weight");
    assert_eq!(router, same);
    let [query, other] = compared("model.layers.0.self_attn.q_proj.weight");
    assert_ne!(query, other);
}

/// Models of three layers, the second of which does nothing, of three that all do something, and of the first of these
/// without that second layer.
fn with_a_layer_between() -> [(Model, tempfile::TempDir); 3] {
    [(3, true), (3, false), (2, true)].map(|(count, idle)| {
        let at = support::copy_of("llama_gqa_tied");
        let path = at.path().join("model.safetensors");
        let mut tensors = support::tensors(&path);
        let second: Vec<String> = tensors.keys().filter(|name| name.contains("layers.1.")).cloned().collect();
        for name in second.into_iter().filter(|_| count == 3) {
            let (dtype, shape, mut bytes) = tensors[&name].clone();
            tensors.insert(name.replace("layers.1.", "layers.2."), (dtype, shape.clone(), bytes.clone()));
            if idle && (name.contains("o_proj") || name.contains("down_proj")) {
                bytes.fill(0);
            }
            tensors.insert(name, (dtype, shape, bytes));
        }
        support::write_tensors(&path, &tensors, &[]);
        support::set_fields(at.path(), &[("num_hidden_layers", count.into())]);
        (Model::open(at.path()).expect("a model"), at)
    })
}

#[test]
fn a_layer_before_a_gap_is_trained_towards_what_the_teacher_has_after_it() {
    let gpu = support::gpu();
    let [(idle, _a), (busy, _b), (student, _c)] = with_a_layer_between();
    let rows = texts(&student, 8);
    let options = Options { mode: Mode::Blocks, steps: 1, ..options() };
    let loss = |teacher: &Model, stay: &[usize]| {
        let how = How { teacher: Some(teacher), stay: Some(stay), ..PLAIN() };
        train(&gpu, &student, &rows, &options, how).recovered.snapshot.losses
    };
    // Nothing is to be learned where the layer that is left out did nothing.
    let found = loss(&idle, &[0, 2]);
    assert!(found.iter().all(|loss| *loss < 1e-6), "{found:?}");
    // Otherwise the first layer has to do what both did, unless it is another that is missing.
    let found = [loss(&busy, &[0, 2]), loss(&busy, &[0, 1])];
    assert!(found[0][0] > 1e-3 && found[1][0] < 1e-6 && found[1][1] > 1e-3, "{found:?}");
    let error = check_teacher(student.config(), idle.config(), None).expect_err("other layers");
    assert!(error.to_string().contains("3 layers, the model 2"), "{error}");
}

#[test]
fn targets_are_named_as_tensors_are_and_are_refused_where_a_model_has_none() {
    for (name, target) in [
        ("q", Target::Query),
        ("down_proj", Target::Down),
        ("in_proj_qkv", Target::Mixed),
        ("in_proj_z", Target::OutputGate),
        ("b", Target::Beta),
        ("in_proj_a", Target::Decay),
    ] {
        assert_eq!(name.parse::<Target>(), Ok(target), "{name}");
    }
    assert!("in_proj".parse::<Target>().is_err());
    let gates = Trained { low_rank: vec![Target::OutputGate], ..options().trained };
    let options = Options { trained: gates, ..options() };
    options.check(fixture("qwen35_tied").0.config()).expect("gates");
    let error = options.check(fixture("llama_gqa_tied").0.config()).expect_err("no gates").to_string();
    assert!(error.contains("name others of --targets"), "{error}");
}

#[test]
fn blocks_refuse_a_model_whose_embeddings_are_others() {
    let gpu = support::gpu();
    let (teacher, rows) = fixture("llama_gqa_tied");
    let at = support::copy_of("llama_gqa_tied");
    let path = at.path().join("model.safetensors");
    let mut tensors = support::tensors(&path);
    let (_, _, bytes) = tensors.get_mut("model.embed_tokens.weight").expect("an embedding");
    let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(bytes);
    values.reverse();
    *bytes = bytemuck::cast_slice(&values).to_vec();
    support::write_tensors(&path, &tensors, &[]);
    let other = Model::open(at.path()).expect("a model");
    let options = Options { mode: Mode::Blocks, steps: 1, ..options() };
    let how = How { teacher: Some(&teacher), ..PLAIN() };
    let error = attempt(&gpu, &other, &rows, &options, how).err().expect("other coordinates");
    assert!(error.to_string().contains("other coordinates; use --mode distil"), "{error}");
}

#[test]
fn only_tokens_that_count_are_learned() {
    let gpu = support::gpu();
    let (model, _) = fixture("llama_gqa_tied");
    let rows = texts(&model, 4);
    let counted: Vec<Vec<bool>> = rows.iter().map(|row| (0..row.len()).map(|token| token >= 20).collect()).collect();
    let options = Options { steps: 1, ..options() };
    let marked = train(&gpu, &model, &rows, &options, How { counted: Some(&counted), ..PLAIN() });
    // The loss of the marked tokens alone, from the logits of the same rows.
    let mut losses = Vec::new();
    for row in &rows {
        let logits = slicegpt_gpu::reference::logits(&model.store, row).expect("logits");
        for token in 20..row.len() {
            let line = logits.row(token - 1);
            let most = line.max();
            let sum: f64 = line.iter().map(|logit| (logit - most).exp()).sum();
            losses.push(most + sum.ln() - line[row[token] as usize]);
        }
    }
    let expected = losses.iter().sum::<f64>() / losses.len() as f64;
    let found = f64::from(marked.recovered.snapshot.losses[0]);
    assert!((found - expected).abs() < 1e-5 * expected, "{found}, expected {expected}");
}

#[test]
fn a_loss_that_is_no_number_stops_with_the_step_and_a_way_out() {
    let gpu = support::gpu();
    let (model, _) = fixture("llama_gqa_tied");
    let rows = texts(&model, 2);
    // As `recover` has them, and `compress`, which has no flag for a warm-up.
    for (rate_flag, advice) in [
        (Options::RATE, "; lower --learning-rate 1000000000000000000000000000000, or raise --warmup"),
        ("--recover-learning-rate", "; lower --recover-learning-rate 1000000000000000000000000000000"),
    ] {
        let options = Options { learning_rate: 1e30, rate_flag, ..options() };
        let error = attempt(&gpu, &model, &rows, &options, PLAIN()).err().expect("an error");
        let said = error.to_string();
        assert!(said.contains("step 2 of training") && said.ends_with(advice), "{said}");
        assert_eq!(error.exit_code(), 1);
    }
}

#[test]
fn the_learning_rate_rises_and_falls_as_its_schedule_says() {
    for (schedule, expected) in [
        (Schedule::Linear, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        (Schedule::Cosine, [0.5, 1.0, 1.0, 0.853_553, 0.5, 0.146_447]),
        (Schedule::Constant, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ] {
        for (step, expected) in expected.into_iter().enumerate() {
            let found = schedule.share(step, 2, 6);
            assert!((found - expected).abs() < 1e-6, "{schedule:?}, step {step}: {found}, expected {expected}");
        }
    }
}
