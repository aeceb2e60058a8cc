//! Slicing with the dense model beside the sliced one, step by step: what reads the residual stream is re-fitted to
//! what it gave, and what writes it to where the stream was, so that each step also makes up for what the ones before
//! it have lost.
//!
//! With x the dense residual and z the sliced one, n(·) the norm without parameters, S and S' the bases before and
//! after a step, a' what the sliced model's own weights read, and each token of a write's error divided by the root
//! mean square of x_new, as the next norm will do:
//!
//! ```text
//!     reads:   T = argmin Σ ‖n(x) − T·n(z)‖² + μ‖T − S‖²                   W' = W·T
//!     writes:  [K, W'] = argmin Σ ‖S'ᵀ·x_new − [K, W']·[z, a']‖² / ms(x_new) + Σ μ‖[K, W'] − [S'ᵀ·S, S'ᵀ·W]‖²
//! ```
//!
//! K is the shortcut, and the identity where there is none: then z is taken off the target. All reads of a step share
//! T, since ‖W·n(x) − W·T·n(z)‖ is least for the same T whatever W. Where weights have biases, means are taken off, and
//! the biases hold what they leave.

use std::{ops::Range, time::Instant};

use super::{
    basis::Bases,
    options::Refit,
    points::Points,
    snapshot::{Snapshot, Stage},
};
use crate::{
    error::{Error, Result},
    fit::{Covariance, Factor, Map, Regression, Rotation, Writes, copied, project_write, signal},
    gpu::Matrix,
    model::{HostEnds, HostLayer, HostStep, InnerTap, Linear, Names, NoTap, StepWeights, architecture::Space},
    ops::Norm,
    stream::{At, Method, Pass, Residual, located},
};

/// Both models, one step at a time.
pub struct Refitted<'a> {
    points: Points<'a>,
    /// None where each point has its own basis.
    bases: Option<Bases>,
    /// The residual of the dense model, in the original basis, and that of the sliced one; neither where nothing is
    /// fitted.
    dense: Residual,
    sliced: Residual,
    /// Into the basis after what has been sliced.
    rotation: Option<Rotation>,
}

impl<'a> Refitted<'a> {
    /// Starts with the bases found before, or restores what was committed.
    ///
    /// # Errors
    /// [`Error::BadFile`] if what was committed is damaged; [`Error::Read`]; whatever the upload reports.
    pub fn new(pass: &Pass, points: Points<'a>, bases: Option<Bases>, from: Option<&Snapshot>) -> Result<Self> {
        let (config, layers) = (pass.config, pass.config.layers.len());
        let width = from.map_or(points.plan.width, |from| from.width);
        let (dense, sliced) = (pass.residual("residual", config.hidden_size), sliced_residual(pass, &points, width));
        let steps = (layers - from.map_or(0, |from| from.layers)) * config.steps().len();
        let passes = match points.options.refit {
            Refit::None => 0,
            Refit::Reads => 2,
            Refit::Full => 3,
        };
        pass.job.progress.begin("slice", (steps * (1 + passes * pass.batches.len())) as u64);
        let mut this = Self { points, bases, dense, sliced, rotation: None };
        if let Some(from) = from {
            this.resume(pass, from)?;
        }
        Ok(this)
    }

    /// Restores both residuals, and the basis after them.
    fn resume(&mut self, pass: &Pass, from: &Snapshot) -> Result<()> {
        let (gpu, width) = (pass.gpu, pass.config.hidden_size);
        let tail = if self.bases.is_some() { 0 } else { width * from.width };
        let mut values = Vec::new();
        if let [dense, sliced] = from.residuals[..] {
            values = self.dense.resume(gpu, dense, tail)?;
            self.sliced.resume(gpu, sliced, 0)?;
        }
        self.rotation = Some(match &self.bases {
            Some(bases) => bases.rotation(pass, self.points.plan, self.segment(pass, from.layers))?,
            None => Rotation::restore(gpu, &values, width, from.width)?,
        });
        Ok(())
    }

    fn refits(&self) -> bool {
        self.points.options.refits()
    }

    fn rotation(&self) -> Result<&Rotation> {
        self.rotation.as_ref().ok_or_else(|| Error::shape("slice", "no basis yet"))
    }

    /// The segment of a layer, or of what comes after the last one.
    fn segment(&self, pass: &Pass, layer: usize) -> usize {
        self.points.options.basis.segment(layer, pass.config.layers.len()).unwrap_or(0)
    }

    /// Slices a step, from the basis `from` into the next, which it returns.
    fn slice(&mut self, pass: &mut Pass, at: At, host: &HostStep, from: &Rotation) -> Result<Rotation> {
        let (gpu, config) = (pass.gpu, pass.config);
        let At { layer, step, .. } = at;
        let began = Instant::now();
        let linears = pass.linears(step).collect::<Result<Vec<_>>>()?;
        let mut dense = StepWeights::fused(gpu, &host.blocks, linears)?;
        pass.timed("read and fuse weights", began);
        let widths = self.points.plan.config.widths(layer);
        let (_, width) = widths.step(step);
        let has_shortcut = self.points.plan.config.shortcuts(layer).any(|(with, ..)| with == step);
        if !self.refits() {
            let to = self.next(pass, at, from)?;
            self.project(pass, at, dense, from, &to, has_shortcut)?;
            return Ok(to);
        }

        let (map, covariance) = self.run_dense(pass, at, &dense, from)?;
        let to = match covariance {
            Some(covariance) => self.points.axes(pass, Some(layer), covariance, width)?,
            None => self.next(pass, at, from)?,
        };
        let (reads, writes) = dense.take_linears();
        drop(dense);
        let reads = reads.into_iter().map(|linear| map.read(gpu, linear)).collect::<Result<Vec<_>>>()?;
        reads.iter().try_for_each(|linear| pass.writer.linear(layer, linear))?;
        let mut sliced = StepWeights::fused(gpu, &host.blocks, reads)?;
        let projected = writes.into_iter().map(|linear| project_write(gpu, &to, linear)).collect::<Result<Vec<_>>>()?;
        let shortcut = if has_shortcut { Some(from.shortcut(gpu, &to)?) } else { None };
        let (writes, shortcut) = if self.points.options.refit == Refit::Full {
            located(format_args!("layer {layer}"), self.fit_writes(pass, at, &sliced, &to, projected, shortcut))?
        } else {
            (projected, shortcut)
        };
        for linear in &writes {
            pass.writer.linear(layer, linear)?;
        }
        if let Some(shortcut) = &shortcut {
            pass.writer.matrix(&Names::of(config).shortcut(layer, step), shortcut)?;
            sliced.shortcut = Some(gpu.transposed(shortcut)?);
        }
        writes.into_iter().for_each(|linear| sliced.add(linear));
        self.run_sliced(pass, at, &sliced, to.width())?;
        Ok(to)
    }

    /// The basis after this step, if already known.
    fn next(&self, pass: &Pass, At { layer, step, .. }: At, from: &Rotation) -> Result<Rotation> {
        let segment = self.segment(pass, layer + usize::from(step.last));
        match &self.bases {
            Some(bases) if segment != self.segment(pass, layer) => bases.rotation(pass, self.points.plan, segment),
            _ => Ok(from.clone()),
        }
    }

    /// Writes the projected weights, without any signals.
    fn project(
        &self,
        pass: &mut Pass,
        At { layer, step, .. }: At,
        mut dense: StepWeights,
        from: &Rotation,
        to: &Rotation,
        has_shortcut: bool,
    ) -> Result<()> {
        let gpu = pass.gpu;
        let (reads, writes) = dense.take_linears();
        for mut linear in reads {
            linear.weight = from.reads(gpu, &linear.weight)?;
            pass.writer.linear(layer, &linear)?;
        }
        for linear in writes {
            pass.writer.linear(layer, &project_write(gpu, to, linear)?)?;
        }
        if has_shortcut {
            let shortcut = from.shortcut(gpu, to)?;
            pass.writer.matrix(&Names::of(pass.config).shortcut(layer, step), &shortcut)?;
        }
        Ok(())
    }

    /// Runs a step of the dense model; returns the map that its reads are fitted with, and the covariance after it
    /// where that is needed.
    fn run_dense(
        &mut self,
        pass: &Pass,
        At { layer, step, rope_tables }: At,
        weights: &StepWeights,
        from: &Rotation,
    ) -> Result<(Map, Option<Covariance>)> {
        let (gpu, config, job) = (pass.gpu, pass.config, pass.job);
        let mut reads = step.weights().filter(|weight| weight.reads == Space::Residual);
        let bias = reads.all(|weight| self.points.plan.config.linear_bias(weight));
        let mut regression = Regression::new(vec![self.sliced.width()], config.hidden_size, bias);
        let mut covariance = self.bases.is_none().then(|| Covariance::new(config.hidden_size));
        for index in 0..pass.batches.len() {
            let batch = pass.batch(index)?;
            let x = self.dense.load(gpu, index)?;
            self.compare(pass, &mut regression, index, &x)?;
            let y = batch.context(gpu, config, layer, rope_tables).step(weights, x, &mut NoTap)?;
            if let Some(covariance) = &mut covariance {
                covariance.add(gpu, &signal(gpu, config, self.points.options.signal, y.clone())?)?;
            }
            self.dense.store(gpu, index, y, step.last)?;
            job.progress.advance(1)?;
        }
        self.dense.finish_pass();
        let began = Instant::now();
        let fit =
            located(format_args!("layer {layer}"), regression.fit(gpu, &from.values(gpu)?, self.points.options.ridge))?;
        pass.timed("solve", began);
        Ok((Map::upload(gpu, &fit, config.hidden_size, self.sliced.width())?, covariance))
    }

    /// Accumulates the normed dense and sliced signals of a batch, whose dense residual is `x`.
    fn compare(&self, pass: &Pass, regression: &mut Regression, index: usize, x: &Matrix) -> Result<()> {
        let gpu = pass.gpu;
        let (n, m) = (normed(pass, x)?, normed(pass, &self.sliced.load(gpu, index)?)?);
        regression.add(gpu, &[m], &n, &gpu.upload(&vec![1.0; n.rows()], n.rows(), 1)?)
    }

    /// The weights that write the residual after a step, and the shortcut `[before, after]` past it where there is one,
    /// re-fitted; `projected` and `shortcut` are what they are pulled towards.
    fn fit_writes(
        &self,
        pass: &Pass,
        At { layer, rope_tables, .. }: At,
        sliced: &StepWeights,
        to: &Rotation,
        projected: Vec<Linear>,
        shortcut: Option<Matrix>,
    ) -> Result<(Vec<Linear>, Option<Matrix>)> {
        let (gpu, config, job) = (pass.gpu, pass.config, pass.job);
        let writes = Writes { shortcut, linears: projected };
        let mut regression = Regression::new(writes.widths(), to.width(), writes.has_bias());
        for index in 0..pass.batches.len() {
            let batch = pass.batch(index)?;
            let (x, z) = (self.dense.load(gpu, index)?, self.sliced.load(gpu, index)?);
            let target = to.rows(gpu, &x)?;
            if writes.shortcut.is_none() {
                gpu.subtract(&target, &z, 1.0)?;
            }
            let ones = gpu.upload(&vec![1.0; x.rows()], x.rows(), 1)?;
            let mut tap = InnerTap(|tokens: Range<usize>, inner: &[Matrix]| {
                let mut regressors = inner.to_vec();
                if writes.shortcut.is_some() {
                    regressors.insert(0, copied(gpu, &z.view(tokens.clone())?)?);
                }
                let (target, ones) = (target.view(tokens.clone())?, ones.view(tokens.clone())?);
                let energy = gpu.energy(&x.view(tokens)?)?;
                for signal in regressors.iter().chain([&target, &ones]) {
                    gpu.scale_tokens(signal, &energy, None, config.hidden_size, config.norm_eps)?;
                }
                regression.add(gpu, &regressors, &target, &ones)
            });
            batch.context(gpu, config, layer, rope_tables).inner(sliced, &z, &mut tap)?;
            job.progress.advance(1)?;
        }
        let prior = writes.prior(gpu, to.width())?;
        let began = Instant::now();
        let fit = regression.fit(gpu, &prior, self.points.options.ridge)?;
        pass.timed("solve", began);
        let widths = writes.widths();
        let Writes { shortcut, linears } = writes.fitted(gpu, fit, to.width(), &widths)?;
        Ok((linears, shortcut))
    }

    /// Writes the final norm before a head that stays the embedding, with the factor that brings what it gives nearest
    /// to what the dense model's gives.
    fn end_tied(&self, pass: &mut Pass, ends: &HostEnds, mut final_norm: Vec<f32>) -> Result<()> {
        let (gpu, config, rotation) = (pass.gpu, pass.config, self.rotation()?);
        if let (true, Some(norm)) = (self.refits(), &ends.final_norm) {
            let weighted = |x: &Matrix, weights: &[f32]| {
                let weights = gpu.upload(weights, 1, weights.len())?;
                gpu.norm(Norm::Rms, x, Some(&weights), None, config.hidden_size, config.norm_eps)
            };
            let mut factor = Factor::default();
            for index in 0..pass.batches.len() {
                let (x, z) = (self.dense.load(gpu, index)?, self.sliced.load(gpu, index)?);
                let goal = rotation.reads(gpu, &weighted(&x, &norm.weight)?)?;
                factor.add(gpu, &goal, &weighted(&z, &final_norm)?)?;
            }
            let factor = factor.value();
            final_norm.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * factor) as f32);
        }
        pass.write_tied_end(&final_norm, config.stock_norm_weight(self.points.plan.stored_width))
    }

    /// Runs a step of the sliced model.
    fn run_sliced(
        &mut self,
        pass: &Pass,
        At { layer, step, rope_tables }: At,
        weights: &StepWeights,
        width: usize,
    ) -> Result<()> {
        let (gpu, config) = (pass.gpu, pass.config);
        let mut wider = (width != self.sliced.width()).then(|| sliced_residual(pass, &self.points, width));
        for index in 0..pass.batches.len() {
            let batch = pass.batch(index)?;
            let z = self.sliced.load(gpu, index)?;
            let z = batch.context(gpu, config, layer, rope_tables).step(weights, z, &mut NoTap)?;
            wider.as_mut().unwrap_or(&mut self.sliced).store(gpu, index, z, step.last)?;
            pass.job.progress.advance(1)?;
        }
        if let Some(wider) = wider {
            self.sliced = wider;
        }
        self.sliced.finish_pass();
        Ok(())
    }
}

impl Method for Refitted<'_> {
    type State = Snapshot;

    /// The embeddings in their basis, written; and both residuals after them.
    fn begin(&mut self, pass: &mut Pass, ends: &HostEnds) -> Result<()> {
        let (gpu, config) = (pass.gpu, pass.config);
        if self.refits() {
            pass.embed(ends, &mut self.dense)?;
        }
        let rotation = match &self.bases {
            Some(bases) => bases.rotation(pass, self.points.plan, 0)?,
            None => {
                let mut covariance = Covariance::new(config.hidden_size);
                for index in 0..pass.batches.len() {
                    let x = self.dense.load(gpu, index)?;
                    covariance.add(gpu, &signal(gpu, config, self.points.options.signal, x)?)?;
                }
                self.points.axes(pass, None, covariance, self.points.plan.width)?
            }
        };
        if self.refits() {
            for index in 0..pass.batches.len() {
                let x = self.dense.load(gpu, index)?;
                self.sliced.store(gpu, index, rotation.rows(gpu, &x)?, true)?;
                self.dense.store(gpu, index, x, true)?;
            }
        }
        pass.write_tables(ends, |gpu, part| rotation.rows(gpu, part))?;
        self.rotation = Some(rotation);
        Ok(())
    }

    fn step(&mut self, pass: &mut Pass, at: At, host: &HostStep) -> Result<()> {
        let from = self.rotation()?.clone();
        self.rotation = Some(self.slice(pass, at, host, &from)?);
        pass.job.progress.advance(1)
    }

    fn layer(&mut self, pass: &mut Pass, layer: usize, host: &HostLayer) -> Result<()> {
        pass.writer.norms(layer, host)
    }

    fn state(&mut self, pass: &mut Pass, layers: usize) -> Result<Option<Snapshot>> {
        let began = Instant::now();
        pass.writer.sync()?;
        let rotation = self.rotation()?.clone();
        let tail = if self.bases.is_some() { Vec::new() } else { rotation.values(pass.gpu)? };
        let residuals = match self.refits() {
            true => vec![self.dense.save(&tail)?, self.sliced.save(&[])?],
            false => Vec::new(),
        };
        pass.timed("save the state", began);
        let bases = self.bases.as_ref().map_or(Vec::new(), |bases| bases.checksums.clone());
        let (sites, width) = (self.points.sites.clone(), rotation.width());
        Ok(Some(Snapshot { stage: Stage::Slice, layers, sites, width, residuals, bases }))
    }

    /// The head, fitted to what the last residual has become.
    fn end(&mut self, pass: &mut Pass, ends: &HostEnds) -> Result<()> {
        let (gpu, width, rotation) = (pass.gpu, pass.config.hidden_size, self.rotation()?);
        if let Some(final_norm) = self.bases.as_ref().and_then(|bases| bases.final_norm(pass, self.points.plan)) {
            return self.end_tied(pass, ends, final_norm);
        }
        if !self.refits() {
            return pass.write_head(ends, |gpu, part, bias| Ok((rotation.rows(gpu, part)?, bias)));
        }
        let has_bias = self.points.plan.config.has_head_bias();
        let mut regression = Regression::new(vec![self.sliced.width()], width, has_bias);
        for index in 0..pass.batches.len() {
            self.compare(pass, &mut regression, index, &self.dense.load(gpu, index)?)?;
        }
        let fit = located("head", regression.fit(gpu, &rotation.values(gpu)?, self.points.options.ridge))?;
        let map = Map::upload(gpu, &fit, width, self.sliced.width())?;
        pass.write_head(ends, |gpu, part, bias| map.rows(gpu, part, bias))
    }
}

fn normed(pass: &Pass, x: &Matrix) -> Result<Matrix> {
    pass.gpu.norm(Norm::Rms, x, None, None, pass.config.hidden_size, pass.config.norm_eps)
}

/// The sliced model's residual: under another name where it is wider than usual, before a head that is not sliced.
fn sliced_residual(pass: &Pass, points: &Points, width: usize) -> Residual {
    pass.residual(if width == points.plan.width { "sliced" } else { "sliced.whole" }, width)
}
