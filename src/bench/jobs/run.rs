//! Slicing a whole model: files, calibration, eigenproblems, rotations.

use std::path::{Path, PathBuf};

use faer::Mat;

use super::job::{Job, compare, sizes};
use crate::{
    bench::row::{Bound, Check, Unit, Work},
    checkpoint::{Dtype, OutputDirectory},
    error::{Error, Result},
    gpu::Gpu,
    linalg::eigh,
    model::{Model, Shape, architecture::Position, fuse},
    progress::{Progress, Silent},
    slice::{Cut, Options, Plan, Site, slice},
    synthetic::{self, TokenRows},
};

/// A directory that goes when this does.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("slicegpt-gpu-bench-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(Error::write(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Passes on that the work should stop, and nothing else.
struct Interruptible<'a>(&'a dyn Progress);

impl Progress for Interruptible<'_> {
    fn begin(&self, _: &'static str, _: u64) {}

    fn advance(&self, _: u64) -> Result<()> {
        self.0.advance(0)
    }

    fn note(&self, _: &str) {}
}

const SPARSITY: f64 = 0.25;

pub fn run<'a>(
    gpu: &'a Gpu,
    shape: &str,
    sequences: usize,
    seqlen: usize,
    progress: &'a dyn Progress,
) -> Result<Job<'a>> {
    let temporary = Temporary::new()?;
    let directory = OutputDirectory::create(&temporary.0.join("model"), false)?;
    let tokens = TokenRows { rows: sequences, len: seqlen };
    synthetic::write(&directory, &Shape::named(shape)?.config(None)?, Dtype::F16, tokens, 1, &Silent)?;
    directory.finish()?;
    let model = Model::open(&temporary.0.join("model"))?;
    let rows: Vec<Vec<u32>> = (0..sequences as u32)
        .map(|row| {
            (0..seqlen as u32).map(|i| (7919 * (row * seqlen as u32 + i)) % model.config().vocab_size as u32).collect()
        })
        .collect();
    let options = Options { cut: Cut::Sparsity(SPARSITY), dtype: Dtype::F16.into(), ..Options::default() };
    let plan = Plan::new(model.config(), &options)?;
    let parameters = plan.original_parameters;

    let sites = execute(gpu, &model, &rows, &options, &plan, &temporary.0, progress)?;
    let check = kept_energy(&model, &rows, &plan, &sites)?;
    Ok(Job {
        sizes: sizes([("sequences", sequences), ("seqlen", seqlen), ("parameters", parameters as usize)]),
        unit: Unit::Tokens,
        bound: Bound::Nothing,
        work: Work { flops: 0.0, bytes: 0.0, items: (sequences * seqlen) as f64 },
        check,
        configuration: None,
        on_gpu: false,
        execute: Box::new(move || execute(gpu, &model, &rows, &options, &plan, &temporary.0, progress).map(drop)),
    })
}

/// Slices into a directory that is gone afterwards.
fn execute(
    gpu: &Gpu,
    model: &Model,
    rows: &[Vec<u32>],
    options: &Options,
    plan: &Plan,
    place: &Path,
    progress: &dyn Progress,
) -> Result<Vec<Site>> {
    let directory = OutputDirectory::create(&place.join("sliced"), true)?;
    let sites = slice(gpu, model, rows, options, plan, &directory, &Interruptible(progress))?;
    gpu.finish()?;
    Ok(sites)
}

/// The share of the embeddings' energy in the coordinates that are kept, worked out again in f64. (Each solve of the
/// run passes its own check, or the run fails.)
fn kept_energy(model: &Model, rows: &[Vec<u32>], plan: &Plan, sites: &[Site]) -> Result<Check> {
    let (config, ends) = (model.config(), model.store.ends()?);
    let row = |table, index: usize| fuse::embedding_rows(config, table, index..index + 1);
    let offset = match config.architecture.attention.position {
        Position::Learned { offset, .. } => offset,
        Position::Rope { .. } | Position::None => 0,
    };
    let mut signal = Vec::new();
    for (position, &id) in rows.iter().flat_map(|row| row.iter().enumerate()) {
        let mut token: Vec<f64> = row(&ends.embedding, id as usize)?.into_iter().map(f64::from).collect();
        if let Some(table) = &ends.positions {
            token
                .iter_mut()
                .zip(row(table, position + offset)?)
                .for_each(|(value, position)| *value += f64::from(position));
        }
        signal.push(token);
    }
    let x = Mat::from_fn(signal.len(), config.hidden_size, |token, i| signal[token][i]);
    let expected = eigh((x.transpose() * &x).as_ref())?.kept_energy(plan.width);
    let actual = sites.first().map_or(f64::NAN, |site| site.kept_energy);
    // The covariance is summed from signals of f32, so both numbers agree to a few of its roundings.
    Ok(compare("energy kept of the embeddings", 1e-6, std::iter::once((actual, expected, 1.0))))
}
