//! SliceGPT as the paper has it: a basis for each point, found from what the sliced layers before it have made of the signals.
//!
//! The weights of half a layer are on the GPU at a time, and written out as soon as they are done. The residual stays in the original basis.

use std::{thread::Scope, time::Instant};

use super::{
    basis::signal,
    calibrate::Covariance,
    driver::{Commit, Job},
    pass::Pass,
    residual::Residual,
    rotate::Rotation,
    snapshot::{Saved, Snapshot, Stage},
};
use crate::{
    error::Result,
    gpu::{Gpu, Matrix},
    model::{Half, HostEnds, HostLayer, LayerWeights, Linear, Names, architecture::Space, halves},
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
        let layers = config.num_hidden_layers;
        let pass = Pass::new(gpu, job, from.map(|from| from.layers), from.map_or(Vec::new(), |from| from.sites.clone()))?;
        let sites = 1 + layers * halves(config).len();
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
        let rope_table = job.model.rope_table(gpu, job.rows.iter().map(Vec::len).max().unwrap_or(0))?;
        this.pass.read_ahead(scope, snapshot.layers..layers);
        for layer in snapshot.layers..layers {
            let weights = job.model.store.layer(layer)?;
            for half in halves(config) {
                rotation = this.half(layer, *half, &weights, rotation, rope_table.as_ref())?;
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

    /// Runs half a layer from the signals in `rotation`'s coordinates, and slices its weights. The residual stays in the original basis; hands
    /// over the rotation into the axes of what it is now.
    fn half(&mut self, layer: usize, half: Half, host: &HostLayer, rotation: Rotation, rope_table: Option<&Matrix>) -> Result<Rotation> {
        let (gpu, config, progress) = (self.pass.gpu, self.pass.config, self.pass.job.progress);
        let mut weights = self.weights(half, host, &rotation)?;
        let last = half == halves(config)[halves(config).len() - 1];
        let over = last && layer + 1 == config.num_hidden_layers;
        let mut covariance = Covariance::new(config.hidden_size);
        for index in 0..self.pass.batches.len() {
            let batch = self.pass.batch(index)?;
            let x = rotation.rows(gpu, &self.residual.load(gpu, index)?)?;
            let y = batch.context(gpu, config, layer, rope_table).half(&weights, half, x)?;
            covariance.add(gpu, &signal(gpu, config, self.pass.job.options.signal, y.clone())?)?;
            if !over {
                self.residual.store(gpu, index, y, last)?;
            }
            progress.advance(1)?;
        }
        self.residual.turn();
        let (reads, writes): (Vec<Linear>, Vec<Linear>) = weights.linears.drain(..).partition(|linear| linear.spec.reads == Space::Residual);
        drop(weights);
        let began = Instant::now();
        for linear in reads {
            self.pass.output.linear(layer, &linear)?;
        }
        self.pass.timed("write weights", began);
        let widths = self.pass.job.plan.config.widths(layer);
        let next = self.pass.axes(Some(layer), covariance, if half.mlp { widths.output } else { widths.mlp_input })?;
        progress.advance(1)?;
        let began = Instant::now();
        for mut linear in writes {
            linear.weight = next.columns(gpu, &linear.weight)?;
            linear.bias = linear.bias.as_ref().map(|bias| next.rows(gpu, bias)).transpose()?;
            self.pass.output.linear(layer, &linear)?;
        }
        self.pass.output.matrix(&Names::of(config).shortcut(layer, half.shortcut), &rotation.shortcut(gpu, &next)?)?;
        self.pass.timed("write weights", began);
        Ok(next)
    }

    /// The fused weights of half a layer, those that read the residual in `rotation`'s coordinates.
    fn weights(&self, half: Half, host: &HostLayer, rotation: &Rotation) -> Result<LayerWeights> {
        let began = Instant::now();
        let gpu = self.pass.gpu;
        let mut linears = Vec::new();
        for linear in self.pass.linears(half) {
            let mut linear = linear?;
            if linear.spec.reads == Space::Residual {
                linear.weight = rotation.rows(gpu, &linear.weight)?;
            }
            linears.push(linear);
        }
        let mut shortcuts = [None, None];
        shortcuts[half.shortcut] = Some(rotation.back().clone());
        let weights = LayerWeights::fused(gpu, linears, host.head_norms.as_ref(), shortcuts);
        self.pass.timed("read and fuse weights", began);
        weights
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
