//! Does compression keep what its theory promises: nothing changes where nothing is cut, what is superfluous goes first
//! and costs nothing, and what is written is an ordinary model that agrees with the original as well as was said?

mod axes;
mod families;
mod free;
mod mixtures;
mod search;
mod sensitivity;
#[path = "../support/mod.rs"]
mod support;
mod twin;
mod whole;

use std::path::Path;

use slicegpt_gpu::{
    checkpoint::{Dtype, OutputDirectory},
    compress::{Axis, Effort, Goal, Job, Options, Plan, Ranking, Snapshot, Width},
    eval,
    gpu::Gpu,
    model::{Agreement, Model, Resize},
    progress::Silent,
    stream::{MemoryPlan, Types},
};
use support::{Random, Tensors, fixture};
use tempfile::TempDir;

/// One fixture of each kind, and those with a tied head where others have none.
const KINDS: [(&str, &str); 26] = [
    ("llama_gqa_tied", "rms norm, tied head, grouped queries"),
    ("llama_mha_untied", "a key and a value for every query, three layers"),
    ("llama_bias", "biases on reads and writes"),
    ("mistral_no_window", "no biases"),
    ("qwen2_gqa_tied", "biases on attention's reads alone"),
    ("qwen3_tied", "norms of queries and keys, one key-value head"),
    ("qwen3_bias", "norms of queries and keys, biases"),
    ("smollm3_listed", "layers without rotary positions"),
    ("granite_tied", "factors of embedding, residual, attention and logits"),
    ("phi3_tied", "fused projections, tied head"),
    ("phi3_gqa", "fused projections"),
    ("phi_gqa", "layer norm, parallel, biased head"),
    ("opt_relu", "layer norm, learned positions"),
    ("gpt2_tied", "transposed weights"),
    ("gptj_tied", "parallel, tied and biased head"),
    ("gpt_neox_parallel", "two norms before one step"),
    ("gpt_neox_sequential", "query, key and value of each head together"),
    ("starcoder2_tied", "layer norm, grouped queries"),
    ("gemma_tied", "norms of one more than their weights, embeddings times the root of the width"),
    ("gemma2_tied", "norms after blocks, soft-caps"),
    ("olmo2_untied", "norms after blocks alone, queries and keys normalised whole"),
    ("cohere_untied", "layer norm without a bias, parallel gated blocks"),
    ("falcon_rw", "linear biases"),
    ("qwen2_moe_dense_between", "mixtures beside dense layers, an expert that every token goes to"),
    ("qwen3_moe_normalised", "mixtures, an untied head"),
    ("gpt_oss_plain", "sinks, biases of routers and experts, all experts in one tensor"),
];

fn open(directory: &Path) -> Model {
    Model::open(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
}

/// Random rows of a model's vocabulary.
fn rows(model: &Model, lengths: &[usize]) -> Vec<Vec<u32>> {
    let (vocabulary, mut random) = (model.config().vocab_size as u32, Random::new(lengths.len() as u64));
    lengths.iter().map(|&length| (0..length).map(|_| random.below(vocabulary)).collect()).collect()
}

/// Options for sizes that are exactly `goal` large, with these axes.
fn options(model: &Model, goal: Goal, axes: &[Axis]) -> Options {
    Options {
        goal,
        axes: axes.to_vec(),
        chosen: false,
        effort: Effort::Normal,
        per_layer: false,
        ridge: 0.01,
        seed: 42,
        dtype: Types::own(&model.store),
    }
}

/// The goal that these sizes meet, and nothing larger.
fn as_large_as(model: &Model, sizes: Resize) -> slicegpt_gpu::Result<Goal> {
    let types = Types::own(&model.store);
    Plan::new(model.config(), sizes, Width::default(), &types).map(|plan| Goal::Bytes(plan.byte_len()))
}

/// A smaller model on disk, and what was found on the way.
struct Compressed {
    model: Model,
    snapshot: Snapshot,
    directory: TempDir,
}

impl Compressed {
    fn sizes(&self) -> &Resize {
        &self.snapshot.written().expect("all is done").0.sizes
    }

    fn tensors(&self) -> Tensors {
        support::tensors(&self.directory.path().join("small"))
    }
}

/// Compresses into a directory, as the command line does, and opens that.
fn compressed(gpu: &Gpu, model: &Model, rows: &[Vec<u32>], options: &Options) -> slicegpt_gpu::Result<Compressed> {
    compressed_by(gpu, model, rows, options, None)
}

/// The same, where heads and channels leave by a ranking.
fn compressed_by(
    gpu: &Gpu,
    model: &Model,
    rows: &[Vec<u32>],
    options: &Options,
    ranking: Option<&[Ranking]>,
) -> slicegpt_gpu::Result<Compressed> {
    compressed_within(gpu, model, rows, options, ranking, MemoryPlan::unlimited(None))
}

/// The same within a plan.
fn compressed_within(
    gpu: &Gpu,
    model: &Model,
    rows: &[Vec<u32>],
    options: &Options,
    ranking: Option<&[Ranking]>,
    memory: MemoryPlan,
) -> slicegpt_gpu::Result<Compressed> {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let target = temporary.path().join("small");
    let directory = OutputDirectory::create(&target, false)?;
    let job = Job { model, rows, options, ranking, memory, directory: &directory, progress: &Silent };
    let snapshot = job.run(gpu, None, |_| Ok(true))?;
    let (best, _) = snapshot.written().expect("all is done");
    let plan = Plan::new(model.config(), best.sizes.clone(), best.basis, &options.dtype)?;
    directory.write("config.json", &serde_json::to_vec(&plan.config.raw).expect("JSON"))?;
    directory.finish()?;
    Ok(Compressed { model: Model::open(&target)?, snapshot, directory: temporary })
}

fn agreement(gpu: &Gpu, model: &Model, dense: &Model, rows: &[Vec<u32>]) -> Agreement {
    let memory = eval::EvalMemory::default();
    eval::agreement(gpu, model, dense, rows, &memory, "compare", &Silent).expect("an agreement")
}

/// The logits of all rows, one after the other.
fn logits(gpu: &Gpu, model: &Model, rows: &[Vec<u32>]) -> Vec<f32> {
    let mut all = Vec::new();
    eval::logits(gpu, model, rows, &Silent, |_, values| {
        all.extend(values);
        Ok(())
    })
    .expect("logits");
    all
}

/// The values of a f32 tensor.
fn values(tensors: &Tensors, name: &str) -> (Vec<usize>, Vec<f32>) {
    let (dtype, shape, bytes) = tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}"));
    assert_eq!(*dtype, Dtype::F32, "{name}");
    (shape.clone(), bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// Changes the values of a f32 tensor; `change` gets its columns and its values.
fn change(tensors: &mut Tensors, name: &str, change: impl FnOnce(usize, &mut [f32])) {
    let (shape, mut all) = values(tensors, name);
    change(shape.get(1).copied().unwrap_or(1), &mut all);
    let bytes = all.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensors.insert(name.into(), (Dtype::F32, shape, bytes));
}

/// Row `to` becomes the sum of some rows times factors.
fn combine(tensors: &mut Tensors, name: &str, to: usize, of: &[(usize, f32)]) {
    change(tensors, name, |cols, all| {
        for col in 0..cols {
            all[to * cols + col] = of.iter().map(|(from, factor)| factor * all[from * cols + col]).sum();
        }
    });
}

/// The name of a matrix of a layer.
fn matrix(layer: usize, name: &str) -> String {
    format!("model.layers.{layer}.{name}.weight")
}

/// A copy of a fixture with other values in its tensors.
fn altered(name: &str, alter: impl FnOnce(&mut Tensors)) -> (TempDir, Model) {
    let directory = support::copy_of(name);
    let mut tensors = support::tensors(directory.path());
    alter(&mut tensors);
    support::write_tensors(&directory.path().join("model.safetensors"), &tensors, &[("format", "pt")]);
    let model = open(directory.path());
    (directory, model)
}

fn parity(name: &str) -> Model {
    open(&fixture("parity").join(name))
}
