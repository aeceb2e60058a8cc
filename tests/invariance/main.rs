//! Do the theorems hold? Fusing and rotating leave a model as it is, slicing loses what it says and no more, and it
//! agrees with f64.

mod covariance;
mod fusing;
mod refits;
mod rotating;
mod shared;
mod slicing;
mod stock;
#[path = "../support/mod.rs"]
mod support;
mod tied;

use std::path::{Path, PathBuf};

use slicegpt_gpu::{
    checkpoint::OutputDirectory,
    eval,
    gpu::Gpu,
    model::Model,
    progress::Silent,
    slice::{Cut, Options, Orientation, Plan, Site, slice},
};
use support::wide;
use tempfile::TempDir;

/// Fixtures that differ from others in what goes on within a block alone.
const ALIKE: [&str; 20] = [
    "cohere_tied",
    "cohere_untied",
    "falcon_7b",
    "falcon_alibi_parallel",
    "falcon_multi_head",
    "falcon_rw",
    "gemma_bf16",
    "gemma_untied",
    "gpt_neo_global",
    "gpt_neo_local",
    "ministral_listed",
    "mpt_clip",
    "olmo_untied",
    "phi3_longrope",
    "phi3_longrope_factor",
    "qwen35_bf16",
    "qwen35_multimodal",
    "qwen35_wide",
    "stablelm_parallel",
    "stablelm_qk_layernorm",
];

/// Every fixture with logits of transformers whose width can be cut.
fn fixtures() -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(support::fixture("parity"))
        .expect("fixtures")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| !ALIKE.contains(&name(path).as_str()) && open(path).0.config().can_slice().is_ok())
        .collect();
    paths.sort();
    assert!(paths.len() >= 50, "only {} fixtures", paths.len());
    paths
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn open(path: &Path) -> (Model, Vec<Vec<u32>>) {
    (
        Model::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        support::tokens(&path.join("tokens.json")),
    )
}

fn options(sparsity: f64, orientation: Orientation) -> Options {
    Options { cut: Cut::Sparsity(sparsity), round_interval: Some(1), orientation, ..Options::default() }
}

/// A sliced model on disk.
struct Sliced {
    model: Model,
    sites: Vec<Site>,
    width: usize,
    _directory: TempDir,
}

/// Slices on the GPU into a directory, as the command line does, and opens that.
fn sliced(gpu: &Gpu, model: &Model, rows: &[Vec<u32>], options: &Options) -> Sliced {
    let temporary = TempDir::new().expect("a temporary directory");
    let target = temporary.path().join("sliced");
    let directory = OutputDirectory::create(&target, false).expect("an output directory");
    let plan = Plan::new(model.config(), options).expect("a plan");
    let sites = slice(gpu, model, rows, options, &plan, &directory, &Silent)
        .unwrap_or_else(|error| panic!("{}: {error}", model.directory().display()));
    directory.write("config.json", &serde_json::to_vec(&plan.config.raw).expect("JSON")).expect("config.json");
    directory.finish().expect("a finished directory");
    let model = Model::open(&target).unwrap_or_else(|error| panic!("{}, sliced: {error}", model.directory().display()));
    Sliced { model, sites, width: plan.width, _directory: temporary }
}

/// The logits of all rows, one after the other, by the GPU.
fn logits(gpu: &Gpu, model: &Model, rows: &[Vec<u32>]) -> Vec<f32> {
    let mut all = Vec::new();
    eval::logits(gpu, model, rows, &Silent, |_, values| {
        all.extend(values);
        Ok(())
    })
    .expect("logits");
    all
}

/// The same by a network in f64.
fn reference_logits(network: &slicegpt_gpu::reference::Network, rows: &[Vec<u32>]) -> Vec<f64> {
    rows.iter()
        .flat_map(|row| network.logits(row).expect("logits").transpose().iter().copied().collect::<Vec<_>>())
        .collect()
}

/// max |a − b| / max |b|.
fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let most = b.iter().fold(0.0f64, |most, value| most.max(value.abs()));
    a.iter().zip(b).fold(0.0f64, |worst, (a, b)| if a.is_finite() { worst.max((a - b).abs()) } else { f64::INFINITY })
        / most
}

/// Collects what is too large, so that one run tells of all fixtures.
#[derive(Default)]
struct Failures {
    list: Vec<String>,
    largest: f64,
}

impl Failures {
    fn check(&mut self, what: &str, error: f64, allowed: f64) {
        self.largest = self.largest.max(error);
        println!("{what}: {error:.1e}");
        if error.is_nan() || error > allowed {
            self.list.push(format!("{what}: {error:.2e}, allowed {allowed:.2e}"));
        }
    }

    fn finish(self, claim: &str) {
        println!("{claim}: largest {:.1e}", self.largest);
        assert!(self.list.is_empty(), "{claim}:\n{}", self.list.join("\n"));
    }
}
