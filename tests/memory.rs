//! Does the memory that is planned suffice, and is it not far from what is needed; and does it grow with nothing that
//! it should not?

mod support;

use std::path::Path;

use serde_json::json;
use slicegpt_gpu::{
    Error, Result,
    checkpoint::{Dtype, OutputDirectory, TensorPlan},
    eval::{EvalMemory, perplexity_within, rope_bytes},
    gpu::{Gpu, GpuOptions},
    model::{BatchSize, Config, Kept, Model},
    progress::Silent,
    prune::{self, Aggregate, Groups, Importance},
    recover::{self, Mode, Schedule, Target, Trained},
    run::{
        Slice,
        memory::{Ceilings, Pieces, RunPlan, Workload, parse_bytes},
    },
    slice::{Basis, Job, Options, Plan, Refit, Signal},
    stream::{Extent, MemoryPlan, Placement, Sitting, Types},
    synthetic::{self, TokenRows},
};
use tempfile::TempDir;

/// A model of random weights, and tokens.
struct Scene {
    _directory: TempDir,
    model: Model,
    rows: Vec<Vec<u32>>,
    method: Slice,
}

/// hidden_size, intermediate_size, layers, vocab_size.
type Shape = [usize; 4];

fn scene(model_type: &str, shape: Shape, rows: usize, len: usize) -> Scene {
    scene_with(model_type, shape, rows, len, Options::default())
}

fn scene_with(
    model_type: &str,
    [hidden, inner, layers, vocab]: Shape,
    rows: usize,
    len: usize,
    options: Options,
) -> Scene {
    let directory = tempfile::tempdir().expect("a directory");
    let fields = match model_type {
        "opt" => json!({
            "model_type": "opt", "hidden_size": hidden, "ffn_dim": inner, "num_hidden_layers": layers, "num_attention_heads": 4,
            "vocab_size": vocab, "max_position_embeddings": 512, "word_embed_proj_dim": hidden, "do_layer_norm_before": true,
            "activation_function": "relu", "tie_word_embeddings": true, "torch_dtype": "float16"
        }),
        "phi" => json!({
            "model_type": "phi", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 4,
            "vocab_size": vocab, "max_position_embeddings": 512, "layer_norm_eps": 1e-5, "hidden_act": "gelu_new", "partial_rotary_factor": 0.5,
            "tie_word_embeddings": false, "torch_dtype": "float16"
        }),
        "qwen3_5_text" => json!({
            "model_type": "qwen3_5_text", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": vocab, "full_attention_interval": 2,
            "linear_num_key_heads": 4, "linear_num_value_heads": 32, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
            "max_position_embeddings": 512, "tie_word_embeddings": false, "torch_dtype": "float16"
        }),
        _ => json!({
            "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": vocab, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "hidden_act": "silu",
            "tie_word_embeddings": false, "torch_dtype": "float16"
        }),
    };
    let config = Config::from_fields(fields.as_object().expect("an object").clone(), Path::new("config.json"))
        .expect("a config");
    let output = OutputDirectory::create(&directory.path().join("model"), false).expect("a directory");
    synthetic::write(&output, &config, Dtype::F16, TokenRows { rows, len }, 3, &Silent).expect("a checkpoint");
    output.finish().expect("a directory");
    let model = Model::open(&directory.path().join("model")).expect("a model");
    let rows = support::tokens(&directory.path().join("model/tokens.json"));
    let options = Options { seed: 1, dtype: Dtype::F16.into(), ..options };
    let plan = Plan::new(model.config(), &options).expect("a plan");
    Scene { _directory: directory, model, rows, method: Slice { options, plan } }
}

impl Scene {
    fn workload(&self) -> Workload<'_, Slice> {
        let calibration = Extent::of(&self.rows);
        Workload {
            model: &self.model,
            method: &self.method,
            rows_per_batch: self.method.options.rows_per_batch,
            calibration,
            eval: Some(calibration),
            sampling: None,
            flags: ["--cal-nsamples", "--cal-max-seqlen"],
        }
    }

    /// Slices with this much GPU memory; returns the peak.
    fn slice(&self, memory: MemoryPlan, ceiling: u64) -> Result<u64> {
        let directory = tempfile::tempdir().expect("a directory");
        let output = OutputDirectory::create(&directory.path().join("out"), false)?;
        let gpu = Gpu::new(&GpuOptions { max_memory: Some(ceiling), ..GpuOptions::default() })?;
        let job = Job {
            model: &self.model,
            rows: &self.rows,
            options: &self.method.options,
            plan: &self.method.plan,
            memory,
            directory: &output,
            progress: &Silent,
        };
        job.run(&gpu, None, |_| Ok(true))?;
        Ok(gpu.memory().peak)
    }

    /// Trains a step; returns what is planned and the peak.
    fn train(&self, memory: MemoryPlan, options: &recover::Options) -> Result<(u64, u64)> {
        let (config, directory) = (self.model.config(), tempfile::tempdir().expect("a directory"));
        let specs = config.tensors().into_iter();
        let tensors: Vec<TensorPlan> =
            specs.map(|spec| TensorPlan { name: spec.name, shape: spec.shape, dtype: Dtype::F16 }).collect();
        let job = recover::Job {
            model: &self.model,
            teacher: None,
            stay: None,
            rows: &self.rows,
            counted: None,
            options,
            memory,
            tensors: &tensors,
            directory: &OutputDirectory::create(&directory.path().join("out"), false)?,
            progress: &Silent,
        };
        let examples = Extent::of(&self.rows);
        let rope = rope_bytes(config, examples.longest);
        let planned = options.peak(&memory, (config, None), 0, &examples, rope, 2).gpu;
        let gpu = Gpu::new(&GpuOptions { max_memory: Some(planned), ..GpuOptions::default() })?;
        job.run(&gpu, None, &mut |_| Ok(true))?;
        Ok((planned, gpu.memory().peak))
    }

    /// Finds out what the groups of all layers matter; returns what is planned and the peak.
    fn importances(&self, memory: MemoryPlan, options: &prune::Options) -> Result<(u64, u64)> {
        let (config, directory) = (self.model.config(), tempfile::tempdir().expect("a directory"));
        let directory = &OutputDirectory::create(&directory.path().join("out"), false)?;
        let job = prune::Job { model: &self.model, rows: &self.rows, options, memory, directory, progress: &Silent };
        let examples = Extent::of(&self.rows);
        let planned = options.peak(&memory, config, 0, &examples, rope_bytes(config, examples.longest), 2).gpu;
        let gpu = Gpu::new(&GpuOptions { max_memory: Some(planned), ..GpuOptions::default() })?;
        let kept: Vec<Kept> = config.layers.iter().enumerate().map(|(layer, spec)| Kept::all(layer, spec)).collect();
        job.importances(&gpu, &kept, &mut Sitting::whole())?;
        Ok((planned, gpu.memory().peak))
    }

    fn perplexity(&self, memory: &EvalMemory, ceiling: u64) -> Result<u64> {
        let gpu = Gpu::new(&GpuOptions { max_memory: Some(ceiling), ..GpuOptions::default() })?;
        perplexity_within(&gpu, &self.model, &self.rows, memory, "perplexity", &Silent)?;
        Ok(gpu.memory().peak)
    }
}

fn planned(plan: &RunPlan, phase: &str) -> u64 {
    plan.peaks.iter().find(|peak| peak.phase == phase).map(|peak| peak.gpu_bytes).expect("a phase")
}

/// Checks that so much suffices, and that two thirds of it do not.
fn check(what: &str, planned: u64, run: impl Fn(u64) -> Result<u64>) {
    let peak = run(planned).unwrap_or_else(|error| panic!("{what}: planned {planned}, but {error}"));
    assert!(peak <= planned, "{what}: planned {planned}, measured {peak}");
    let less = run(planned * 2 / 3);
    assert!(
        matches!(less, Err(Error::OutOfMemory(_))),
        "{what}: {} suffice where {planned} are planned: {less:?}",
        planned * 2 / 3
    );
}

const MIB: u64 = 1 << 20;

#[test]
fn planned_gpu_memory_suffices_and_two_thirds_of_it_do_not() {
    for (model_type, shape, rows, len, tokens, placement, reason) in [
        ("llama", [256, 704, 2, 2000], 8, 256, 2048, Placement::Gpu, "all on the GPU"),
        ("llama", [256, 704, 2, 2000], 16, 256, 512, Placement::Disk, "little on the GPU"),
        ("llama", [512, 1536, 2, 1000], 4, 64, 64, Placement::Host, "weights and rotations decide"),
        ("opt", [128, 512, 2, 30000], 4, 64, 256, Placement::Gpu, "tables decide"),
        ("phi", [256, 1024, 2, 1000], 8, 256, 1024, Placement::Gpu, "parallel blocks"),
        ("qwen3_5_text", [128, 176, 2, 500], 16, 16, 256, Placement::Gpu, "a delta net, and attention with gates"),
    ] {
        let scene = scene(model_type, shape, rows, len);
        let pieces = Pieces { batch: BatchSize { tokens, rows: None }, eval_tokens: tokens, part_bytes: 8 * MIB };
        let mut plan =
            scene.workload().fit(Ceilings::default(), Some(pieces), placement != Placement::Gpu).expect("a plan");
        if placement == Placement::Disk {
            // No host memory but for one batch.
            let host = plan.peaks.iter().map(|peak| peak.host_bytes).max().unwrap_or(0);
            let ceilings = Ceilings { host_bytes: Some(host - MIB), ..Ceilings::default() };
            plan = scene.workload().fit(ceilings, Some(pieces), true).expect("a plan");
        }
        assert_eq!(plan.layers.placement, placement, "{reason}");
        check(&format!("{model_type} {shape:?}, {reason}, slice"), planned(&plan, "slice"), |ceiling| {
            scene.slice(plan.layers, ceiling)
        });
        check(&format!("{model_type} {shape:?}, {reason}, perplexity"), planned(&plan, "perplexity"), |ceiling| {
            scene.perplexity(&plan.eval, ceiling)
        });
    }
}

#[test]
fn planned_gpu_memory_suffices_for_every_basis_and_refit() {
    let with = |basis, refit| Options { basis, refit, signal: Signal::Normed, slice_head: true, ..Options::default() };
    for (model_type, shape, rows, len, tokens, placement, options) in [
        ("llama", [256, 704, 2, 2000], 8, 256, 2048, Placement::Gpu, with(Basis::SHARED, Refit::Full)),
        ("llama", [256, 704, 2, 2000], 16, 256, 512, Placement::Host, with(Basis::SHARED, Refit::Full)),
        ("llama", [512, 1536, 2, 1000], 4, 64, 64, Placement::Host, with(Basis::SHARED, Refit::Reads)),
        ("opt", [256, 1024, 2, 1000], 8, 256, 1024, Placement::Host, with(Basis::Segments(2), Refit::Full)),
        ("phi", [256, 1024, 2, 1000], 8, 256, 1024, Placement::Gpu, with(Basis::PerBlock, Refit::Full)),
        ("phi", [256, 1024, 2, 1000], 8, 256, 1024, Placement::Host, with(Basis::SHARED, Refit::None)),
    ] {
        let scene = scene_with(model_type, shape, rows, len, options);
        let pieces = Pieces { batch: BatchSize { tokens, rows: None }, eval_tokens: tokens, part_bytes: 8 * MIB };
        let plan =
            scene.workload().fit(Ceilings::default(), Some(pieces), placement != Placement::Gpu).expect("a plan");
        let what = format!(
            "{model_type} {shape:?}, {placement:?}, {} {}",
            scene.method.options.basis, scene.method.options.refit
        );
        check(&what, planned(&plan, "slice"), |ceiling| scene.slice(plan.layers, ceiling));
    }
}

#[test]
fn planned_gpu_memory_suffices_for_gradients() {
    let training = |rank, weights| recover::Options {
        mode: Mode::Lora,
        steps: 1,
        batch_size: 8,
        learning_rate: 1e-3,
        rate_flag: recover::Options::RATE,
        schedule: Schedule::Constant,
        warmup: 0.0,
        weight_decay: 0.0,
        betas: [0.9, 0.95],
        eps: 1e-8,
        max_grad_norm: 1.0,
        rank,
        alpha: 16.0,
        dropout: 0.0,
        trained: Trained {
            low_rank: if weights { Vec::new() } else { Target::ALL.map(|(_, target)| target).to_vec() },
            weights,
            norms: false,
            biases: false,
        },
        temperature: 1.0,
        eval_every: 0,
        save_every: 10,
        seed: 1,
        dtype: Types::One(Dtype::F16),
    };
    let pruning = prune::Options {
        ratio: 0.5,
        layers: 0..2,
        importance: Importance::ParamFirst,
        aggregate: Aggregate::Sum,
        global: false,
        iterations: 1,
        groups: Groups::Both,
        keep_importances: false,
        seed: 1,
        dtype: Types::One(Dtype::F16),
        in_mxfp4: Vec::new(),
    };
    for (model_type, shape) in [("llama", [256, 704, 2, 500]), ("qwen3_5_text", [128, 176, 2, 500])] {
        let scene = scene(model_type, shape, 8, 128);
        for placement in [Placement::Gpu, Placement::Host] {
            let batch = BatchSize { tokens: 1024, rows: None };
            let memory = MemoryPlan { batch, placement, part_bytes: 8 * MIB, keeps_dense: false };
            let trained = |weights| scene.train(memory, &training(4, weights));
            let found = [trained(false), trained(true), scene.importances(memory, &pruning)];
            for (found, what) in found.into_iter().zip(["low ranks", "weights", "importances"]) {
                let what = format!("{model_type}, {placement:?}, {what}");
                let (planned, peak) = found.unwrap_or_else(|error| panic!("{what}: {error}"));
                println!("{what}: planned {planned}, measured {peak}");
                assert!(peak <= planned && 3 * peak > planned, "{what}: planned {planned}, measured {peak}");
            }
        }
    }
}

#[test]
fn peaks_grow_neither_with_layers_nor_with_sequences() {
    let plan = |layers, rows| {
        let scene = scene("llama", [256, 704, layers, 1000], rows, 128);
        let small = Ceilings { gpu_bytes: Some(24 * MIB), ..Ceilings::default() };
        let plan = scene.workload().fit(small, None, true).expect("a plan");
        let measured = scene.slice(plan.layers, planned(&plan, "slice")).expect("within the plan");
        assert!(measured <= 24 * MIB);
        (planned(&plan, "slice"), planned(&plan, "perplexity"))
    };
    let (slice, perplexity) = plan(2, 8);
    assert_eq!(plan(4, 8), (slice, perplexity), "twice the layers");
    let (more_slice, more_perplexity) = plan(2, 32);
    assert_eq!(more_slice, slice, "four times the sequences");
    assert!(more_perplexity <= 24 * MIB, "perplexity takes what there is, and no more");
}

#[test]
fn the_residual_moves_away_and_pieces_shrink_as_ceilings_fall() {
    let scene = scene("llama", [256, 704, 2, 2000], 64, 128);
    let fit = |gpu: u64, host: Option<u64>| {
        scene.workload().fit(Ceilings { gpu_bytes: Some(gpu), host_bytes: host, shared: false }, None, false)
    };
    let largest = fit(1 << 30, None).expect("a plan");
    assert_eq!((largest.layers.placement, largest.layers.batch.tokens), (Placement::Gpu, 2048));
    let whole = planned(&largest, "slice");
    // 8192 tokens of 256 values are 8 MiB.
    let less = fit(whole - MIB, None).expect("a plan");
    assert_eq!((less.layers.placement, less.layers.batch.tokens), (Placement::Host, 2048));
    let spilled =
        fit(whole - MIB, Some(less.peaks.iter().map(|peak| peak.host_bytes).max().unwrap_or(0) - MIB)).expect("a plan");
    assert_eq!((spilled.layers.placement, spilled.layers.batch.tokens), (Placement::Disk, 2048));
    assert!(spilled.peaks.iter().any(|peak| peak.disk_bytes > 8 * MIB));
    let small = fit(20 * MIB, None).expect("a plan");
    assert!(small.layers.batch.tokens < 2048 && planned(&small, "slice") <= 20 * MIB, "{small:?}");
    scene.slice(small.layers, 20 * MIB).expect("it runs in what was planned");
    let error = fit(2 * MIB, None).expect_err("too little");
    assert!(error.exit_code() == 5 && error.to_string().contains("--max-gpu-memory is too low by "), "{error}");
    let error = fit(1 << 30, Some(MIB)).expect_err("too little");
    assert!(error.to_string().contains("--max-host-memory is too low by "), "{error}");
    // Where the GPU's memory is the host's, both together must fit.
    let shared = Ceilings { gpu_bytes: None, host_bytes: Some(300 * MIB), shared: true };
    let plan = scene.workload().fit(shared, None, false).expect("a plan");
    let host = plan.peaks.iter().map(|peak| peak.host_bytes).max().unwrap_or(0);
    assert!(plan.peaks.iter().all(|peak| peak.gpu_bytes + peak.host_bytes <= 300 * MIB), "{plan:?}");
    assert_eq!(plan.gpu_ceiling(), Some(300 * MIB - host));
}

#[test]
fn one_sequence_at_a_time_leaves_perplexity_to_shrink() {
    let scene = scene("llama", [128, 352, 2, 2000], 32, 128);
    let ceilings = |gpu: u64| Ceilings { gpu_bytes: Some(gpu), ..Ceilings::default() };
    let free = scene.workload().fit(ceilings(8 * MIB), None, false).expect("a plan");
    let fixed = Workload { rows_per_batch: Some(1), ..scene.workload() };
    let plan = fixed.fit(ceilings(8 * MIB), None, false).expect("as with batches by size");
    assert_eq!(plan.layers.batch.rows, Some(1));
    assert!(
        plan.eval.batch_tokens < EvalMemory::default().batch_tokens && planned(&free, "perplexity") <= 8 * MIB,
        "{plan:?}"
    );
}

#[test]
fn placements_and_lost_devices_change_no_bit() {
    let scene = scene("llama", [128, 352, 3, 500], 6, 64);
    let files = |memory: MemoryPlan, lose: Option<u64>| {
        let directory = tempfile::tempdir().expect("a directory");
        let target = directory.path().join("out");
        let output = OutputDirectory::create(&target, false).expect("an output");
        let job = Job {
            model: &scene.model,
            rows: &scene.rows,
            options: &scene.method.options,
            plan: &scene.method.plan,
            memory,
            directory: &output,
            progress: &Silent,
        };
        let gpu = support::gpu();
        if let Some(dispatches) = lose {
            gpu.lose_after(dispatches);
        }
        let mut last = None;
        let run = job.run(&gpu, None, |snapshot| {
            last = Some(snapshot.clone());
            Ok(true)
        });
        if lose.is_some() {
            assert!(matches!(run, Err(Error::DeviceLost(_))), "{run:?}");
            let again =
                Gpu::new(&GpuOptions { short_submits: true, ..GpuOptions::default() }).expect("the device again");
            job.run(&again, last.as_ref(), |_| Ok(true)).expect("the rest");
        } else {
            run.expect("a run");
        }
        output.finish().expect("an output");
        (std::fs::read(target.join("model.safetensors")).expect("the tensors"), last.map(|snapshot| snapshot.layers))
    };
    let of = |placement| MemoryPlan {
        placement,
        batch: BatchSize { tokens: 128, rows: None },
        ..MemoryPlan::unlimited(scene.method.options.rows_per_batch)
    };
    let (expected, _) = files(of(Placement::Gpu), None);
    for placement in [Placement::Host, Placement::Disk] {
        assert!(files(of(placement), None).0 == expected, "{placement:?} differs");
    }
    let mut resumed = Vec::new();
    for (placement, lose) in
        [(Placement::Gpu, 3), (Placement::Gpu, 110), (Placement::Host, 150), (Placement::Disk, 190)]
    {
        let (found, from) = files(of(placement), Some(lose));
        assert!(found == expected, "{placement:?}, lost after {lose} dispatches");
        resumed.push(from);
    }
    assert!(
        resumed.contains(&None) && resumed.iter().flatten().any(|&layers| layers > 0),
        "lost too early or too late: {resumed:?}"
    );
}

#[test]
fn sizes_are_read_in_both_kinds_of_units() {
    for (text, bytes) in [
        ("3GiB", 3 << 30),
        ("1.5 GiB", 3 << 29),
        ("500MB", 500_000_000),
        ("64k", 65536),
        ("4294967296", 1 << 32),
        ("2TB", 2_000_000_000_000),
    ] {
        assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
    }
    for text in ["", "GiB", "-1", "0", "1 apple", "1e400", "nan", "999999999999TiB", "1.2.3"] {
        assert!(parse_bytes(text).is_err(), "{text}");
    }
}
