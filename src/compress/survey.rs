//! One pass of the dense model: what its residual stream holds, what is read of it, and what each run of layers
//! changes.

use std::{fs, time::Instant};

use faer::Mat;
use serde::{Deserialize, Serialize};

use super::{
    mixture::Mixture,
    plan::{Plan, Width},
};
use crate::{
    error::{Error, Result},
    fit::{Covariance, PointSums, Rotation, Signal, TiedAxes, axes, signal, weighting},
    gpu::Matrix,
    model::{
        Config, HostEnds, HostLayer, HostStep, Kept, Linear, NoExpertTap, NoTap, StepWeights, architecture::Space, fuse,
    },
    stream::{At, Checksum, Method, Pass, Residual, Saved},
};

/// Tokens that say how similar the residual is before and after some layers.
pub(super) const SAMPLED: usize = 256;

/// What was found.
pub struct Facts {
    /// Signals and reads of all points, as [`crate::fit::axes`] has them.
    sums: PointSums,
    /// The residual of a few tokens before each layer and after the last, `[layers + 1][tokens · hidden_size]`.
    samples: Vec<Vec<f32>>,
    hidden_size: usize,
}

impl Facts {
    /// With a number, as all that methods keep beside an output.
    const FILE: &str = "survey.0";

    /// Keeps the facts beside the output, and returns their checksum.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, pass: &Pass) -> Result<u64> {
        let values = tail(&self.sums, &self.samples);
        pass.job.directory.write_beside(Self::FILE, bytemuck::cast_slice(&values))?;
        Ok(checksum(&values))
    }

    /// Reads what was kept.
    ///
    /// # Errors
    /// [`Error::BadFile`] if it is damaged; [`Error::Read`].
    pub fn restore(pass: &Pass, expected: u64) -> Result<Self> {
        let path = pass.job.directory.beside(Self::FILE);
        let bytes = fs::read(&path).map_err(Error::kept(&path, Error::read(&path)))?;
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes[..bytes.len() / 4 * 4]);
        let width = pass.config.hidden_size;
        if checksum(&values) != expected || values.len() < 4 * width * width {
            return Err(Error::bad_file(&path, "not what was written there; --force starts over"));
        }
        let (sums, samples) = parts(&values, width, pass.config.layers.len() + 1);
        Ok(Self { sums, samples, hidden_size: width })
    }

    /// The coordinates of a narrower residual stream, and the weights of the final norm where the head stays the
    /// embedding.
    ///
    /// # Errors
    /// [`Error::Numerical`]; [`Error::OutOfMemory`].
    pub fn coordinates(&self, pass: &Pass, plan: &Plan, ends: &HostEnds) -> Result<(Rotation, Option<Vec<f64>>)> {
        let began = Instant::now();
        let (gpu, width, kept) = (pass.gpu, self.hidden_size, plan.width);
        let Width { by_reads, tolerance } = plan.basis;
        let (signal, reads) = self.sums.matrices();
        let weighting = if by_reads { weighting(reads.as_ref()) } else { Mat::identity(width, width) };
        let found = if let (true, Some(norm)) = (plan.config.tie_word_embeddings, &ends.final_norm) {
            let tied = TiedAxes::find(signal.as_ref(), weighting.as_ref(), &norm.weight, tolerance, kept)?;
            (tied.rotation(gpu)?, Some(tied.final_norm))
        } else {
            let (axes, _) = axes(signal.as_ref(), weighting.as_ref(), kept)?;
            (Rotation::upload(gpu, axes.as_ref(), kept)?, None)
        };
        pass.timed("eigensolve", began);
        Ok(found)
    }

    /// 1 − E cos(x, y) of the residual x before a run of layers and y after it.
    pub fn distance(&self, first: usize, end: usize) -> f64 {
        let pairs =
            self.samples[first].chunks_exact(self.hidden_size).zip(self.samples[end].chunks_exact(self.hidden_size));
        let count = pairs.len().max(1) as f64;
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
        let cosine = |(x, y): (&[f32], &[f32])| dot(x, y) / (dot(x, x) * dot(y, y)).sqrt().max(f64::MIN_POSITIVE);
        1.0 - pairs.map(cosine).sum::<f64>() / count
    }
}

/// Adds the normed tokens of a residual to sums over them.
fn add_signals(pass: &Pass, x: &Matrix, covariance: &mut Covariance) -> Result<()> {
    covariance.add(pass.gpu, &signal(pass.gpu, pass.config, Signal::Normed, x.clone())?)
}

fn checksum(values: &[f32]) -> u64 {
    let mut checksum = Checksum::default();
    checksum.add(values);
    checksum.value()
}

fn tail(sums: &PointSums, samples: &[Vec<f32>]) -> Vec<f32> {
    sums.bits().into_iter().chain(samples.iter().flatten().copied()).collect()
}

fn parts(values: &[f32], width: usize, samples: usize) -> (PointSums, Vec<Vec<f32>>) {
    let (bits, sampled) = values.split_at((4 * width * width).min(values.len()));
    let each = sampled.len() / samples.max(1);
    (PointSums::from_bits(bits, width), sampled.chunks(each.max(1)).map(<[f32]>::to_vec).collect())
}

/// What resuming a survey needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Surveyed {
    pub layers: usize,
    residual: Saved,
    /// Values of a sample.
    sampled: usize,
}

/// The pass.
pub struct Survey {
    residual: Residual,
    facts: Facts,
}

impl Survey {
    /// Starts, or restores what was committed.
    ///
    /// # Errors
    /// [`Error::BadFile`] if what was committed is damaged; [`Error::Read`]; whatever the upload reports.
    pub fn new(pass: &Pass, from: Option<&Surveyed>) -> Result<Self> {
        let width = pass.config.hidden_size;
        let mut residual = pass.residual("residual", width);
        let (mut sums, mut samples) = (PointSums::new(width), Vec::new());
        if let Some(from) = from {
            let count = from.layers + 1;
            let values = residual.resume(pass.gpu, from.residual, 4 * width * width + count * from.sampled)?;
            (sums, samples) = parts(&values, width, count);
        }
        let left = pass.config.layers.len() - from.map_or(0, |from| from.layers);
        let steps = left * pass.config.steps().len() * pass.batches.len();
        pass.job.progress.begin("survey", steps as u64);
        Ok(Self { residual, facts: Facts { sums, samples, hidden_size: width } })
    }

    /// What was found, once the end was reached.
    pub fn found(self) -> Facts {
        self.facts
    }

    fn sample(&mut self, pass: &Pass) -> Result<()> {
        let x = self.residual.load(pass.gpu, 0)?;
        self.facts.samples.push(pass.gpu.download(&x.view(0..x.rows().min(SAMPLED))?)?);
        Ok(())
    }

    /// What the experts of a layer read.
    fn add_experts_reads(&self, pass: &Pass, layer: usize, host: &HostStep, reads: &mut Covariance) -> Result<()> {
        let (config, store) = (pass.config, &pass.job.model.store);
        let experts = Kept::all(layer, &config.layers[layer]).experts.into_iter();
        let Some(block) = host.blocks.first() else { return Ok(()) };
        for linears in experts.map(|expert| store.expert(layer, expert)).chain([store.shared_expert(layer)]) {
            for linear in linears?.iter().filter(|linear| linear.spec.reads == Space::Residual) {
                reads.add(pass.gpu, &Linear::upload(pass.gpu, &fuse::linear(config, block, linear)?)?.weight)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, config: &Config, sums: &[f64], place: std::fmt::Arguments) -> Result<()> {
        self.facts.sums.add_signal(config, sums).map_err(|reason| Error::Numerical(format!("{place}: {reason}")))
    }
}

impl Method for Survey {
    type State = Surveyed;

    fn begin(&mut self, pass: &mut Pass, ends: &HostEnds) -> Result<()> {
        pass.embed(ends, &mut self.residual)?;
        self.sample(pass)
    }

    fn step(&mut self, pass: &mut Pass, At { layer, step, rope_tables }: At, host: &HostStep) -> Result<()> {
        let (gpu, config) = (pass.gpu, pass.config);
        let linears = pass.linears(step).collect::<Result<Vec<_>>>()?;
        let mut reads = Covariance::new(config.hidden_size);
        for linear in linears.iter().filter(|linear| linear.spec.reads == Space::Residual) {
            reads.add(gpu, &linear.weight)?;
        }
        let mut covariance = Covariance::new(config.hidden_size);
        let saved = step.last && layer + 1 < config.layers.len();
        if step.is_mixture() {
            self.add_experts_reads(pass, layer, host, &mut reads)?;
            self.facts.sums.add_reads(config, reads.sums(gpu)?);
            for index in 0..pass.batches.len() {
                let x = self.residual.load(gpu, index)?;
                add_signals(pass, &x, &mut covariance)?;
            }
            let (weights, all) = (StepWeights::upload(gpu, host, false)?, Kept::all(layer, &config.layers[layer]));
            let mixture = Mixture { config, layer, weights: &weights, experts: &all.experts, rope_tables };
            mixture.run(pass, &mut self.residual, 0..pass.batches.len(), saved, &mut NoExpertTap)?;
            self.residual.finish_pass();
            return self.add(config, &covariance.sums(gpu)?, format_args!("layer {layer}"));
        }
        self.facts.sums.add_reads(config, reads.sums(gpu)?);
        let weights = StepWeights::fused(gpu, &host.blocks, linears)?;
        for index in 0..pass.batches.len() {
            let batch = pass.batch(index)?;
            let x = self.residual.load(gpu, index)?;
            add_signals(pass, &x, &mut covariance)?;
            let y = batch.context(gpu, config, layer, rope_tables).step(&weights, x, &mut NoTap)?;
            self.residual.store(gpu, index, y, saved)?;
            pass.job.progress.advance(1)?;
        }
        self.residual.finish_pass();
        self.add(config, &covariance.sums(gpu)?, format_args!("layer {layer}"))
    }

    fn layer(&mut self, pass: &mut Pass, _: usize, _: &HostLayer) -> Result<()> {
        self.sample(pass)
    }

    fn state(&mut self, pass: &mut Pass, layers: usize) -> Result<Option<Surveyed>> {
        if layers == 0 || layers == pass.config.layers.len() {
            return Ok(None);
        }
        let residual = self.residual.save(&tail(&self.facts.sums, &self.facts.samples))?;
        let sampled = self.facts.samples.first().map_or(0, Vec::len);
        Ok(Some(Surveyed { layers, residual, sampled }))
    }

    fn end(&mut self, pass: &mut Pass, _: &HostEnds) -> Result<()> {
        let (gpu, config) = (pass.gpu, pass.config);
        let mut covariance = Covariance::new(config.hidden_size);
        for index in 0..pass.batches.len() {
            let x = self.residual.load(gpu, index)?;
            add_signals(pass, &x, &mut covariance)?;
        }
        self.add(config, &covariance.sums(gpu)?, format_args!("after the last layer"))
    }
}
