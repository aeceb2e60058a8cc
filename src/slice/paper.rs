//! SliceGPT as the paper has it: a basis for each point, found from what the sliced layers before it have made of the signals.
//!
//! The weights of one step are on the GPU at a time, and written out as soon as they are done. The residual stays in the original basis.

use std::{thread::Scope, time::Instant};

use super::{
    covariance::{Covariance, signal},
    driver::{Commit, Job},
    pass::Pass,
    residual::Residual,
    rotate::Rotation,
    snapshot::{Saved, Snapshot, Stage},
};
use crate::{
    error::Result,
    gpu::{Gpu, Matrix},
    model::{HostEnds, HostStep, Names, NoTap, Step, StepWeights, architecture::Space},
};

/// The paper's way through a model.
pub struct Paper<'a> {
    pass: Pass<'a>,
    residual: Residual,
}

impl<'a> Paper<'a> {
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
        let pass = Pass::new(gpu, job, from.map(|from| from.layers), from.map_or(Vec::new(), |from| from.sites.clone()))?;
        let sites = 1 + config.points();
        job.progress.begin("slice", ((sites - pass.sites.len()) * (pass.batches.len() + 1)) as u64);

        let ends = job.model.store.ends()?;
        let mut residual = pass.residual("residual", config.hidden_size);
        if from.is_some_and(|from| from.layers == layers) {
            residual.clear();
        }
        let mut this = Self { pass, residual };
        let (mut snapshot, mut rotation) = match from {
            Some(from) => {
                let behind = config.hidden_size * from.width;
                let values = this.residual.resume(gpu, from.residuals[0], behind)?;
                (from.clone(), Rotation::restore(gpu, &values, config.hidden_size, from.width)?)
            }
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
            let weights = job.model.store.layer(layer)?;
            for (step, weights) in config.steps().zip(&weights.steps) {
                rotation = this.step(layer, step, weights, rotation, &rope_tables)?;
            }
            this.pass.output.norms(layer, &weights)?;
            if layer + 1 == layers {
                this.residual.clear();
            }
            snapshot = this.snapshot(layer + 1, &rotation)?;
            if !commit(&snapshot)? {
                return Ok(snapshot);
            }
        }
        this.pass.write_head(&ends, |gpu, part, bias| Ok((rotation.rows(gpu, part)?, bias)))?;
        this.pass.output.finish()?;
        Ok(snapshot)
    }

    /// The axes of the embeddings' residual, and the rotated tables written.
    fn embeddings(&mut self, ends: &HostEnds) -> Result<Rotation> {
        self.pass.embed(ends, &mut self.residual)?;
        let gpu = self.pass.gpu;
        let mut covariance = Covariance::new(self.pass.config.hidden_size);
        for index in 0..self.pass.batches.len() {
            let x = self.residual.load(gpu, index)?;
            covariance.add(gpu, &signal(gpu, self.pass.config, self.pass.job.options.signal, x.clone())?)?;
            self.residual.store(gpu, index, x, true)?;
            self.pass.job.progress.advance(1)?;
        }
        let rotation = self.pass.axes(None, covariance, self.pass.job.plan.width)?;
        self.pass.job.progress.advance(1)?;
        self.pass.write_tables(ends, &rotation)?;
        Ok(rotation)
    }

    /// Runs a step from the signals in `rotation`'s coordinates, and slices its weights. The residual stays in the original
    /// basis; returns the rotation into the axes of what it is now.
    fn step(
        &mut self,
        layer: usize,
        step: Step,
        host: &HostStep,
        rotation: Rotation,
        rope_tables: &[Matrix],
    ) -> Result<Rotation> {
        let (gpu, config, progress) = (self.pass.gpu, self.pass.config, self.pass.job.progress);
        let mut weights = self.weights(step, host, &rotation)?;
        let over = step.last && layer + 1 == config.layers.len();
        let mut covariance = Covariance::new(config.hidden_size);
        for index in 0..self.pass.batches.len() {
            let batch = self.pass.batch(index)?;
            let x = rotation.rows(gpu, &self.residual.load(gpu, index)?)?;
            let y = batch.context(gpu, config, layer, rope_tables).step(&weights, x, &mut NoTap)?;
            covariance.add(gpu, &signal(gpu, config, self.pass.job.options.signal, y.clone())?)?;
            if !over {
                self.residual.store(gpu, index, y, step.last)?;
            }
            progress.advance(1)?;
        }
        self.residual.turn();
        let (reads, writes) = weights.take_linears();
        drop(weights);
        let began = Instant::now();
        for linear in reads {
            self.pass.output.linear(layer, &linear)?;
        }
        self.pass.timed("write weights", began);
        let (_, width) = self.pass.job.plan.config.widths(layer).step(step);
        let next = self.pass.axes(Some(layer), covariance, width)?;
        progress.advance(1)?;
        let began = Instant::now();
        for mut linear in writes {
            linear.weight = next.columns(gpu, &linear.weight)?;
            linear.bias = linear.bias.as_ref().map(|bias| next.rows(gpu, bias)).transpose()?;
            self.pass.output.linear(layer, &linear)?;
        }
        let shortcut = rotation.shortcut(gpu, &next)?;
        self.pass.output.matrix(&Names::of(config).shortcut(layer, step), &shortcut)?;
        self.pass.timed("write weights", began);
        Ok(next)
    }

    /// The fused weights of a step, those that read the residual in `rotation`'s coordinates.
    fn weights(&self, step: Step, host: &HostStep, rotation: &Rotation) -> Result<StepWeights> {
        let began = Instant::now();
        let gpu = self.pass.gpu;
        let mut linears = Vec::new();
        for linear in self.pass.linears(step) {
            let mut linear = linear?;
            if linear.spec.reads == Space::Residual {
                linear.weight = rotation.rows(gpu, &linear.weight)?;
            }
            linears.push(linear);
        }
        let mut weights = StepWeights::fused(gpu, &host.blocks, linears)?;
        weights.shortcut = Some(rotation.back().clone());
        self.pass.timed("read and fuse weights", began);
        Ok(weights)
    }

    /// Makes everything durable that going on from here needs.
    fn snapshot(&mut self, layers: usize, rotation: &Rotation) -> Result<Snapshot> {
        let began = Instant::now();
        self.pass.output.sync()?;
        let saved: Saved = self.residual.save(&rotation.values(self.pass.gpu)?)?;
        self.pass.timed("save the state", began);
        let sites = self.pass.sites.clone();
        Ok(Snapshot { stage: Stage::Slice, layers, sites, width: rotation.width(), residuals: vec![saved], bases: Vec::new() })
    }
}
