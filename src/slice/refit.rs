//! Slicing with the dense model beside the sliced one, layer by layer: what reads the residual stream is fitted again to what it gave, and what
//! writes it to where the stream was, so that each layer also makes up for what the ones before it have lost.
//!
//! With x the dense residual and z the sliced one, n(·) the norm without parameters, S and S' the bases before and after half a layer, a' what the
//! sliced model's own weights read, and each token of a write's error divided by the root mean square of x_new, as the next norm will do:
//!
//! ```text
//!     reads:   T = argmin Σ ‖n(x) − T·n(z)‖² + μ‖T − S‖²                   W' = W·T
//!     writes:  [K, W'] = argmin Σ ‖S'ᵀ·x_new − [K, W']·[z, a']‖² / ms(x_new) + Σ μ‖[K, W'] − [S'ᵀ·S, S'ᵀ·W]‖²
//! ```
//!
//! K is the shortcut, and the identity where there is none: then z is taken off the target. All reads of half a layer share T, since
//! ‖W·n(x) − W·T·n(z)‖ is least for the same T whatever W. Where weights have biases, means are taken off, and the biases hold what they leave.

use std::{ops::Range, thread::Scope, time::Instant};

use super::{
    basis::{self, Bases, Found},
    covariance::{Covariance, signal},
    driver::{Commit, Job},
    maps::{Map, Writes, copied, project_write},
    options::Refit,
    pass::{Pass, located},
    regression::Regression,
    residual::Residual,
    rotate::Rotation,
    snapshot::{Snapshot, Stage},
};
use crate::{
    error::Result,
    gpu::{Gpu, Matrix},
    model::{HostEnds, HostStep, InnerTap, Linear, Names, NoTap, Step, StepWeights, architecture::Space},
    ops::Norm,
};

/// Where in the model the work is.
#[derive(Clone, Copy)]
struct Place<'p> {
    layer: usize,
    step: Step,
    rope_tables: &'p [Matrix],
}

/// Both models, one step at a time.
pub struct Refitted<'a> {
    pass: Pass<'a>,
    /// None where each point has its own basis.
    bases: Option<Bases>,
    /// The residual of the dense model, in the original basis, and that of the sliced one; neither where nothing is fitted.
    dense: Residual,
    sliced: Residual,
}

impl<'a> Refitted<'a> {
    /// As [`Job::run`].
    pub fn run<'scope>(
        scope: &'scope Scope<'scope, '_>,
        gpu: &'a Gpu,
        job: &'a Job<'a>,
        from: Option<&Snapshot>,
        commit: &mut Commit,
    ) -> Result<Snapshot>
    where
        'a: 'scope,
    {
        let config = job.model.config();
        let layers = config.layers.len();
        let (slicing, finding) = (from.filter(|from| from.stage == Stage::Slice), from.filter(|from| from.stage == Stage::Basis));
        let sites = from.map_or(Vec::new(), |from| from.sites.clone());
        let mut pass = Pass::new(gpu, job, slicing.map(|from| from.layers), sites)?;
        let ends = job.model.store.ends()?;
        let bases = match slicing {
            _ if job.options.passes() == 1 => None,
            Some(from) => Some(Bases::restore(&pass, &from.bases)?),
            None => match basis::find(scope, &mut pass, &ends, finding, commit)? {
                Found::All(bases) => Some(bases),
                Found::Stopped(snapshot) => return Ok(snapshot),
            },
        };
        let (dense, sliced) =
            (pass.residual("residual", config.hidden_size), sliced_residual(&pass, slicing.map_or(job.plan.width, |from| from.width)));
        let mut this = Self { pass, bases, dense, sliced };
        let steps = (layers - slicing.map_or(0, |from| from.layers)) * config.steps().len();
        let passes = match job.options.refit {
            Refit::None => 0,
            Refit::Reads => 2,
            Refit::Full => 3,
        };
        job.progress.begin("slice", (steps * (1 + passes * this.pass.batches.len())) as u64);
        let (mut snapshot, mut rotation) = match slicing {
            Some(from) => (from.clone(), this.resume(from)?),
            None => {
                let rotation = this.embeddings(&ends)?;
                let snapshot = this.snapshot(0, &rotation)?;
                if !commit(&snapshot)? {
                    return Ok(snapshot);
                }
                (snapshot, rotation)
            }
        };
        let rope_tables = job.model.rope_tables(gpu, job.rows.iter().map(Vec::len).max().unwrap_or(0))?;
        this.pass.read_ahead(scope, snapshot.layers..layers);
        for layer in snapshot.layers..layers {
            let host = job.model.store.layer(layer)?;
            for (step, weights) in config.steps().zip(&host.steps) {
                rotation = this.step(Place { layer, step, rope_tables: &rope_tables }, weights, rotation)?;
                job.progress.advance(1)?;
            }
            this.pass.output.norms(layer, &host)?;
            snapshot = this.snapshot(layer + 1, &rotation)?;
            if !commit(&snapshot)? {
                return Ok(snapshot);
            }
        }
        this.head(&ends, &rotation)?;
        this.pass.output.finish()?;
        Ok(snapshot)
    }

    fn refits(&self) -> bool {
        self.pass.job.options.refits()
    }

    /// Both residuals as they were, and the basis behind them.
    fn resume(&mut self, from: &Snapshot) -> Result<Rotation> {
        let (gpu, config) = (self.pass.gpu, self.pass.config);
        let behind = if self.bases.is_some() { 0 } else { config.hidden_size * from.width };
        let mut values = Vec::new();
        if let [dense, sliced] = from.residuals[..] {
            values = self.dense.resume(gpu, dense, behind)?;
            self.sliced.resume(gpu, sliced, 0)?;
        }
        match &self.bases {
            Some(bases) => bases.rotation(&self.pass, self.segment(from.layers)),
            None => Rotation::restore(gpu, &values, config.hidden_size, from.width),
        }
    }

    /// The segment of a layer, or of what comes behind the last one.
    fn segment(&self, layer: usize) -> usize {
        self.pass.job.options.basis.segment(layer, self.pass.config.layers.len()).unwrap_or(0)
    }

    /// The embeddings in their basis, written; and both residuals behind them.
    fn embeddings(&mut self, ends: &HostEnds) -> Result<Rotation> {
        let gpu = self.pass.gpu;
        if self.refits() {
            self.pass.embed(ends, &mut self.dense)?;
        }
        let rotation = match &self.bases {
            Some(bases) => bases.rotation(&self.pass, 0)?,
            None => {
                let mut covariance = Covariance::new(self.pass.config.hidden_size);
                for index in 0..self.pass.batches.len() {
                    let x = self.dense.load(gpu, index)?;
                    covariance.add(gpu, &signal(gpu, self.pass.config, self.pass.job.options.signal, x)?)?;
                }
                self.pass.axes(None, covariance, self.pass.job.plan.width)?
            }
        };
        if self.refits() {
            for index in 0..self.pass.batches.len() {
                let x = self.dense.load(gpu, index)?;
                self.sliced.store(gpu, index, rotation.rows(gpu, &x)?, true)?;
                self.dense.store(gpu, index, x, true)?;
            }
        }
        self.pass.write_tables(ends, &rotation)?;
        Ok(rotation)
    }

    /// Slices a step, from the basis `from` into the next, which it returns.
    fn step(&mut self, place: Place, host: &HostStep, from: Rotation) -> Result<Rotation> {
        let (gpu, config) = (self.pass.gpu, self.pass.config);
        let Place { layer, step, .. } = place;
        let began = Instant::now();
        let linears = self.pass.linears(step).collect::<Result<Vec<_>>>()?;
        let mut dense = StepWeights::fused(gpu, &host.blocks, linears)?;
        self.pass.timed("read and fuse weights", began);
        let widths = self.pass.job.plan.config.widths(layer);
        let (_, width) = widths.step(step);
        let has_shortcut = self.pass.job.plan.config.shortcuts(layer).any(|(with, ..)| with == step);
        if !self.refits() {
            let to = self.next(place, &from)?;
            return self.project(place, dense, from, to, has_shortcut);
        }

        let (map, covariance) = self.run_dense(place, &dense, &from)?;
        let to = match covariance {
            Some(covariance) => self.pass.axes(Some(layer), covariance, width)?,
            None => self.next(place, &from)?,
        };
        let (reads, writes) = dense.take_linears();
        drop(dense);
        let reads = reads.into_iter().map(|linear| map.read(gpu, linear)).collect::<Result<Vec<_>>>()?;
        reads.iter().try_for_each(|linear| self.pass.output.linear(layer, linear))?;
        let mut sliced = StepWeights::fused(gpu, &host.blocks, reads)?;
        let projected = writes.into_iter().map(|linear| project_write(gpu, &to, linear)).collect::<Result<Vec<_>>>()?;
        let shortcut = if has_shortcut { Some(from.shortcut(gpu, &to)?) } else { None };
        let (writes, shortcut) = if self.pass.job.options.refit == Refit::Full {
            located(format_args!("layer {layer}"), self.fit_writes(place, &sliced, &to, projected, shortcut))?
        } else {
            (projected, shortcut)
        };
        for linear in &writes {
            self.pass.output.linear(layer, linear)?;
        }
        if let Some(shortcut) = &shortcut {
            self.pass.output.matrix(&Names::of(config).shortcut(layer, step), shortcut)?;
            sliced.shortcut = Some(gpu.transposed(shortcut)?);
        }
        writes.into_iter().for_each(|linear| sliced.add(linear));
        self.run_sliced(place, &sliced, to.width())?;
        Ok(to)
    }

    /// The basis after this step, if already known.
    fn next(&self, Place { layer, step, .. }: Place, from: &Rotation) -> Result<Rotation> {
        let segment = self.segment(layer + usize::from(step.last));
        match &self.bases {
            Some(bases) if segment != self.segment(layer) => bases.rotation(&self.pass, segment),
            _ => Ok(from.clone()),
        }
    }

    /// Writes the projected weights, without any signals.
    fn project(
        &mut self,
        Place { layer, step, .. }: Place,
        mut dense: StepWeights,
        from: Rotation,
        to: Rotation,
        has_shortcut: bool,
    ) -> Result<Rotation> {
        let gpu = self.pass.gpu;
        let (reads, writes) = dense.take_linears();
        for mut linear in reads {
            linear.weight = from.rows(gpu, &linear.weight)?;
            self.pass.output.linear(layer, &linear)?;
        }
        for linear in writes {
            self.pass.output.linear(layer, &project_write(gpu, &to, linear)?)?;
        }
        if has_shortcut {
            let shortcut = from.shortcut(gpu, &to)?;
            self.pass.output.matrix(&Names::of(self.pass.config).shortcut(layer, step), &shortcut)?;
        }
        Ok(to)
    }

    /// Runs a step of the dense model; returns the map that its reads are fitted with, and the covariance after it where
    /// that is needed.
    fn run_dense(&mut self, place: Place, weights: &StepWeights, from: &Rotation) -> Result<(Map, Option<Covariance>)> {
        let (gpu, config, job) = (self.pass.gpu, self.pass.config, self.pass.job);
        let Place { layer, step, rope_tables } = place;
        let mut reads = step.weights().filter(|weight| weight.reads == Space::Residual);
        let bias = reads.all(|weight| job.plan.config.linear_bias(weight));
        let mut regression = Regression::new(vec![self.sliced.width()], config.hidden_size, bias);
        let mut covariance = self.bases.is_none().then(|| Covariance::new(config.hidden_size));
        for index in 0..self.pass.batches.len() {
            let batch = self.pass.batch(index)?;
            let x = self.dense.load(gpu, index)?;
            self.compare(&mut regression, index, &x)?;
            let y = batch.context(gpu, config, layer, rope_tables).step(weights, x, &mut NoTap)?;
            if let Some(covariance) = &mut covariance {
                covariance.add(gpu, &signal(gpu, config, job.options.signal, y.clone())?)?;
            }
            self.dense.store(gpu, index, y, step.last)?;
            job.progress.advance(1)?;
        }
        self.dense.turn();
        let began = Instant::now();
        let fit = located(format_args!("layer {layer}"), regression.fit(gpu, &from.values(gpu)?, job.options.ridge))?;
        self.pass.timed("solve", began);
        Ok((Map::upload(gpu, &fit, config.hidden_size, self.sliced.width())?, covariance))
    }

    /// Takes in what the dense and the sliced model's norms make of a batch, whose dense residual is `x`.
    fn compare(&self, regression: &mut Regression, index: usize, x: &Matrix) -> Result<()> {
        let gpu = self.pass.gpu;
        let (n, m) = (self.normed(x)?, self.normed(&self.sliced.load(gpu, index)?)?);
        regression.add(gpu, &[m], &n, &gpu.upload(&vec![1.0; n.rows()], n.rows(), 1)?)
    }

    fn normed(&self, x: &Matrix) -> Result<Matrix> {
        self.pass.gpu.norm(Norm::Rms, x, None, None, self.pass.config.hidden_size, self.pass.config.norm_eps)
    }

    /// The weights that write behind half a layer, and the shortcut `[before, after]` past it where there is one, fitted again; `projected` and
    /// `shortcut` are what they are pulled towards.
    fn fit_writes(
        &mut self,
        Place { layer, rope_tables, .. }: Place,
        sliced: &StepWeights,
        to: &Rotation,
        projected: Vec<Linear>,
        shortcut: Option<Matrix>,
    ) -> Result<(Vec<Linear>, Option<Matrix>)> {
        let (gpu, config, job) = (self.pass.gpu, self.pass.config, self.pass.job);
        let writes = Writes { shortcut, linears: projected };
        let mut regression = Regression::new(writes.widths(), to.width(), writes.has_bias());
        for index in 0..self.pass.batches.len() {
            let batch = self.pass.batch(index)?;
            let (x, z) = (self.dense.load(gpu, index)?, self.sliced.load(gpu, index)?);
            let target = to.rows(gpu, &x)?;
            if writes.shortcut.is_none() {
                gpu.subtract(&target, &z)?;
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
                    gpu.scale_tokens(signal, &energy, config.hidden_size, config.norm_eps)?;
                }
                regression.add(gpu, &regressors, &target, &ones)
            });
            batch.context(gpu, config, layer, rope_tables).inner(sliced, &z, &mut tap)?;
            job.progress.advance(1)?;
        }
        let prior = writes.prior(gpu, to.width())?;
        let began = Instant::now();
        let fit = regression.fit(gpu, &prior, job.options.ridge)?;
        self.pass.timed("solve", began);
        let Writes { shortcut, linears } = writes.fitted(gpu, fit, to.width())?;
        Ok((linears, shortcut))
    }

    /// Runs a step of the sliced model.
    fn run_sliced(&mut self, place: Place, weights: &StepWeights, width: usize) -> Result<()> {
        let Place { layer, step, rope_tables } = place;
        let (gpu, config) = (self.pass.gpu, self.pass.config);
        let mut wider = (width != self.sliced.width()).then(|| sliced_residual(&self.pass, width));
        for index in 0..self.pass.batches.len() {
            let batch = self.pass.batch(index)?;
            let z = self.sliced.load(gpu, index)?;
            let z = batch.context(gpu, config, layer, rope_tables).step(weights, z, &mut NoTap)?;
            wider.as_mut().unwrap_or(&mut self.sliced).store(gpu, index, z, step.last)?;
            self.pass.job.progress.advance(1)?;
        }
        if let Some(wider) = wider {
            self.sliced = wider;
        }
        self.sliced.turn();
        Ok(())
    }

    /// Writes the head, fitted to what the last residual has become.
    fn head(&mut self, ends: &HostEnds, rotation: &Rotation) -> Result<()> {
        let (gpu, config, job) = (self.pass.gpu, self.pass.config, self.pass.job);
        if !self.refits() {
            return self.pass.write_head(ends, |gpu, part, bias| Ok((rotation.rows(gpu, part)?, bias)));
        }
        let mut regression = Regression::new(vec![self.sliced.width()], config.hidden_size, job.plan.config.has_head_bias());
        for index in 0..self.pass.batches.len() {
            self.compare(&mut regression, index, &self.dense.load(gpu, index)?)?;
        }
        let fit = located("head", regression.fit(gpu, &rotation.values(gpu)?, job.options.ridge))?;
        let map = Map::upload(gpu, &fit, config.hidden_size, self.sliced.width())?;
        self.pass.write_head(ends, |gpu, part, bias| map.rows(gpu, part, bias))
    }

    /// Makes everything durable that going on from here needs.
    fn snapshot(&mut self, layers: usize, rotation: &Rotation) -> Result<Snapshot> {
        let began = Instant::now();
        self.pass.output.sync()?;
        let behind = if self.bases.is_some() { Vec::new() } else { rotation.values(self.pass.gpu)? };
        let residuals = if self.refits() { vec![self.dense.save(&behind)?, self.sliced.save(&[])?] } else { Vec::new() };
        self.pass.timed("save the state", began);
        let bases = self.bases.as_ref().map_or(Vec::new(), |bases| bases.checksums.clone());
        Ok(Snapshot { stage: Stage::Slice, layers, sites: self.pass.sites.clone(), width: rotation.width(), residuals, bases })
    }
}

/// The sliced model's residual: under another name where it is wider than usual, before a head that is not sliced.
fn sliced_residual(pass: &Pass, width: usize) -> Residual {
    pass.residual(if width == pass.job.plan.width { "sliced" } else { "sliced.whole" }, width)
}
