//! One basis for several layers, found before any of them is sliced.
//!
//! The dense model runs once over the calibration; what is summed on the way, and the basis that follows from it, is in
//! [`crate::fit::axes`].

use std::{fs, time::Instant};

use super::{
    plan::Plan,
    points::Points,
    snapshot::{Site, Snapshot, Stage},
};
use crate::{
    error::{Error, Result},
    fit::{Covariance, PointSums, Rotation, TOLERANCE, TiedAxes, axes, signal, weighting},
    model::{Config, HostEnds, HostLayer, HostStep, NoTap, StepWeights, architecture::Space},
    stream::{At, Checksum, Method, Pass, Residual},
};

/// The bases of all segments.
pub struct Bases {
    /// The columns of each, `[hidden_size, width]`, row-major; where the head stays the embedding, the diagonal of A
    /// and the weights of the final norm follow, see [`TiedAxes`].
    values: Vec<Vec<f32>>,
    pub checksums: Vec<u64>,
}

impl Bases {
    /// Reads those that were found before.
    ///
    /// # Errors
    /// [`Error::BadFile`] if one of them is damaged; [`Error::Read`].
    pub fn restore(pass: &Pass, plan: &Plan, checksums: &[u64]) -> Result<Self> {
        let mut values = Vec::new();
        for (number, &expected) in checksums.iter().enumerate() {
            let path = pass.job.directory.beside(&file_name(number));
            let bytes = fs::read(&path).map_err(Error::kept(&path, Error::read(&path)))?;
            let read: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes[..bytes.len() / 4 * 4]);
            let mut checksum = Checksum::default();
            checksum.add(&read);
            if checksum.value() != expected || bytes.len() != 4 * count(pass.config, plan) {
                return Err(Error::bad_file(&path, "not what was written there; --force starts over"));
            }
            values.push(read);
        }
        Ok(Self { values, checksums: checksums.to_vec() })
    }

    /// The basis of a segment, on the GPU.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn rotation(&self, pass: &Pass, plan: &Plan, segment: usize) -> Result<Rotation> {
        let (columns, rest) = self.values[segment].split_at(pass.config.hidden_size * plan.width);
        if rest.is_empty() {
            return Rotation::restore(pass.gpu, columns, pass.config.hidden_size, plan.width);
        }
        let scale: Vec<f64> = rest[..pass.config.hidden_size].iter().map(|&value| f64::from(value)).collect();
        Rotation::scaled(pass.gpu, columns, &scale, plan.width)
    }

    /// The weights of the final norm for a head that stays the embedding.
    pub fn final_norm(&self, pass: &Pass, plan: &Plan) -> Option<Vec<f32>> {
        let values = self.values.last().filter(|_| plan.tied)?;
        Some(values[pass.config.hidden_size * (plan.width + 1)..].to_vec())
    }

    fn add(&mut self, pass: &Pass, values: Vec<f32>) -> Result<()> {
        let mut checksum = Checksum::default();
        checksum.add(&values);
        pass.job.directory.write_beside(&file_name(self.values.len()), bytemuck::cast_slice(&values))?;
        self.checksums.push(checksum.value());
        self.values.push(values);
        Ok(())
    }
}

/// How many values a basis has.
fn count(config: &Config, plan: &Plan) -> usize {
    config.hidden_size * plan.width + if plan.tied { config.hidden_size + plan.width } else { 0 }
}

fn file_name(number: usize) -> String {
    format!("basis.{number}")
}

/// Finding the bases of all segments, in a pass of the dense model.
pub struct Find<'a> {
    points: Points<'a>,
    residual: Residual,
    bases: Bases,
    sums: PointSums,
}

impl<'a> Find<'a> {
    /// Starts, or restores what was committed.
    ///
    /// # Errors
    /// [`Error::BadFile`] if what was committed is damaged; [`Error::Read`]; whatever the upload reports.
    pub fn new(pass: &Pass, points: Points<'a>, from: Option<&Snapshot>) -> Result<Self> {
        let width = pass.config.hidden_size;
        let mut residual = pass.residual("residual", width);
        let (mut bases, mut sums) = (Bases { values: Vec::new(), checksums: Vec::new() }, PointSums::new(width));
        if let Some(from) = from {
            let bits = residual.resume(pass.gpu, from.residuals[0], 4 * width * width)?;
            (bases, sums) = (Bases::restore(pass, points.plan, &from.bases)?, PointSums::from_bits(&bits, width));
        }
        let left = pass.config.layers.len() - from.map_or(0, |from| from.layers);
        let steps = left * pass.config.steps().len() * pass.batches.len();
        pass.job.progress.begin("find the basis", steps as u64);
        Ok(Self { points, residual, bases, sums })
    }

    /// What was found, once the end was reached.
    pub fn found(self) -> (Points<'a>, Bases) {
        (self.points, self.bases)
    }

    /// Finds the basis of the segment that the sums are of, and begins the next; `ends` are those of the dense model
    /// where the segment is the last.
    fn finish_segment(&mut self, pass: &Pass, ends: Option<&HostEnds>) -> Result<()> {
        let began = Instant::now();
        let (width, kept) = (pass.config.hidden_size, self.points.plan.width);
        let sums = std::mem::replace(&mut self.sums, PointSums::new(width));
        let (signal, reads) = sums.matrices();
        let weighting = weighting(reads.as_ref());
        let number = self.bases.values.len();
        let layers = pass.config.layers.len();
        let segment = |layer: &usize| self.points.options.basis.segment(*layer, layers);
        let layer = (0..layers).find(|layer| segment(layer) == Some(number));
        let final_norm = ends.filter(|_| self.points.plan.tied).and_then(|ends| ends.final_norm.as_ref());
        let (site, values) = if let Some(norm) = final_norm {
            let tied = TiedAxes::find(signal.as_ref(), weighting.as_ref(), &norm.weight, TOLERANCE, kept)?;
            let TiedAxes { kept_energy, eigen_residual, orthogonality, .. } = tied;
            let tied = self.points.rotated(tied, number);
            let others = tied.scale.iter().chain(&tied.final_norm).map(|&value| value as f32);
            let values = tied.values().into_iter().chain(others).collect();
            (Site { layer, kept_energy, eigen_residual, orthogonality }, values)
        } else {
            let (axes, eigen) = axes(signal.as_ref(), weighting.as_ref(), kept)?;
            let trace: f64 = (0..width).map(|i| signal[(i, i)]).sum();
            let share = if trace > 0.0 { eigen.values.iter().sum::<f64>() / trace } else { 1.0 };
            // Rounding may leave it a little above.
            let kept_energy = share.min(1.0);
            let site = Site { layer, kept_energy, eigen_residual: eigen.residual, orthogonality: eigen.orthogonality };
            (site, self.points.rotation(pass.gpu, axes.as_ref(), kept, number)?.values(pass.gpu)?)
        };
        pass.timed("eigensolve", began);
        self.points.sites.push(site);
        self.bases.add(pass, values)
    }
}

impl Method for Find<'_> {
    type State = Snapshot;

    fn begin(&mut self, pass: &mut Pass, ends: &HostEnds) -> Result<()> {
        pass.embed(ends, &mut self.residual)
    }

    /// Runs a step of the dense model, and sums what its weights read, and how.
    fn step(&mut self, pass: &mut Pass, At { layer, step, rope_tables }: At, host: &HostStep) -> Result<()> {
        let (gpu, config) = (pass.gpu, pass.config);
        // Only what is committed goes to the disk: not between two steps, nor after the last layer.
        let saved = step.last && layer + 1 < config.layers.len();
        let began = Instant::now();
        let linears = pass.linears(step).collect::<Result<Vec<_>>>()?;
        let mut reads = Covariance::new(config.hidden_size);
        for linear in linears.iter().filter(|linear| linear.spec.reads == Space::Residual) {
            reads.add(gpu, &linear.weight)?;
        }
        self.sums.add_reads(config, reads.sums(gpu)?);
        let weights = StepWeights::fused(gpu, &host.blocks, linears)?;
        pass.timed("read and fuse weights", began);
        let mut covariance = Covariance::new(config.hidden_size);
        for index in 0..pass.batches.len() {
            let batch = pass.batch(index)?;
            let x = self.residual.load(gpu, index)?;
            covariance.add(gpu, &signal(gpu, config, self.points.options.signal, x.clone())?)?;
            let y = batch.context(gpu, config, layer, rope_tables).step(&weights, x, &mut NoTap)?;
            self.residual.store(gpu, index, y, saved)?;
            pass.job.progress.advance(1)?;
        }
        self.residual.finish_pass();
        let sums = self.sums.add_signal(config, &covariance.sums(gpu)?);
        sums.map_err(|reason| Error::Numerical(format!("layer {layer}: {reason}")))
    }

    fn layer(&mut self, pass: &mut Pass, layer: usize, _: &HostLayer) -> Result<()> {
        let layers = pass.config.layers.len();
        let segment = |layer| self.points.options.basis.segment(layer, layers);
        let ends = layer + 1 < layers && segment(layer) != segment(layer + 1);
        if ends { self.finish_segment(pass, None) } else { Ok(()) }
    }

    fn state(&mut self, pass: &mut Pass, layers: usize) -> Result<Option<Snapshot>> {
        // The first state of slicing follows the last layer.
        if layers == 0 || layers == pass.config.layers.len() {
            return Ok(None);
        }
        let residuals = vec![self.residual.save(&self.sums.bits())?];
        let (sites, bases, width) = (self.points.sites.clone(), self.bases.checksums.clone(), self.points.plan.width);
        Ok(Some(Snapshot { stage: Stage::Basis, layers, sites, width, residuals, bases }))
    }

    /// What the head reads, and how; and the last basis.
    fn end(&mut self, pass: &mut Pass, ends: &HostEnds) -> Result<()> {
        let (gpu, config) = (pass.gpu, pass.config);
        let mut covariance = Covariance::new(config.hidden_size);
        for index in 0..pass.batches.len() {
            let x = self.residual.load(gpu, index)?;
            covariance.add(gpu, &signal(gpu, config, self.points.options.signal, x)?)?;
        }
        let sums = self.sums.add_signal(config, &covariance.sums(gpu)?);
        sums.map_err(|reason| Error::Numerical(format!("after the last layer: {reason}")))?;
        let mut reads = Covariance::new(config.hidden_size);
        pass.each_head_part(ends, |pass, part, _| reads.add(pass.gpu, part))?;
        self.sums.add_reads(config, reads.sums(gpu)?);
        self.finish_segment(pass, Some(ends))
    }
}
