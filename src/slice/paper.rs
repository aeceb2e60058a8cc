//! SliceGPT as the paper has it: a basis for each point, found from what the sliced layers before it have made of the
//! signals.
//!
//! The weights of one step are on the GPU at a time, and written out as soon as they are done. The residual stays in
//! the original basis.

use std::time::Instant;

use super::{
    points::Points,
    snapshot::{Snapshot, Stage},
};
use crate::{
    error::{Error, Result},
    fit::{Covariance, Rotation, signal},
    gpu::Gpu,
    model::{HostEnds, HostLayer, HostStep, Names, NoTap, Step, StepWeights, architecture::Space},
    stream::{At, Method, Pass, Residual},
};

/// The paper's way through a model.
pub struct Paper<'a> {
    points: Points<'a>,
    residual: Residual,
    /// Into the basis after what has been sliced.
    rotation: Option<Rotation>,
}

impl<'a> Paper<'a> {
    /// Starts, or restores what was committed.
    ///
    /// # Errors
    /// [`Error::BadFile`] if what was committed is damaged; [`Error::Read`]; whatever the upload reports.
    pub fn new(pass: &Pass, points: Points<'a>, from: Option<&Snapshot>) -> Result<Self> {
        let (gpu, width) = (pass.gpu, pass.config.hidden_size);
        let all = 1 + pass.config.points();
        pass.job.progress.begin("slice", ((all - points.sites.len()) * (pass.batches.len() + 1)) as u64);
        let mut this = Self { points, residual: pass.residual("residual", width), rotation: None };
        if let Some(from) = from {
            if from.layers == pass.config.layers.len() {
                this.residual.clear();
            }
            let values = this.residual.resume(gpu, from.residuals[0], width * from.width)?;
            this.rotation = Some(Rotation::restore(gpu, &values, width, from.width)?);
        }
        Ok(this)
    }

    fn rotation(&self) -> Result<&Rotation> {
        self.rotation.as_ref().ok_or_else(|| Error::shape("slice", "no basis yet"))
    }

    /// The fused weights of a step, those that read the residual in the coordinates before it.
    fn weights(&self, gpu: &Gpu, pass: &Pass, step: Step, host: &HostStep) -> Result<StepWeights> {
        let (began, rotation) = (Instant::now(), self.rotation()?);
        let mut linears = Vec::new();
        for linear in pass.linears(step) {
            let mut linear = linear?;
            if linear.spec.reads == Space::Residual {
                linear.weight = rotation.rows(gpu, &linear.weight)?;
            }
            linears.push(linear);
        }
        let mut weights = StepWeights::fused(gpu, &host.blocks, linears)?;
        weights.shortcut = Some(rotation.back().clone());
        pass.timed("read and fuse weights", began);
        Ok(weights)
    }
}

impl Method for Paper<'_> {
    type State = Snapshot;

    /// The axes of the embeddings' residual, and the rotated tables written.
    fn begin(&mut self, pass: &mut Pass, ends: &HostEnds) -> Result<()> {
        let (gpu, config) = (pass.gpu, pass.config);
        pass.embed(ends, &mut self.residual)?;
        let mut covariance = Covariance::new(config.hidden_size);
        for index in 0..pass.batches.len() {
            let x = self.residual.load(gpu, index)?;
            covariance.add(gpu, &signal(gpu, config, self.points.options.signal, x.clone())?)?;
            self.residual.store(gpu, index, x, true)?;
            pass.job.progress.advance(1)?;
        }
        let rotation = self.points.axes(pass, None, covariance, self.points.plan.width)?;
        pass.job.progress.advance(1)?;
        pass.write_tables(ends, |gpu, part| rotation.rows(gpu, part))?;
        self.rotation = Some(rotation);
        Ok(())
    }

    /// Runs a step from the signals in the coordinates before it, and slices its weights. The residual stays in the
    /// original basis.
    fn step(&mut self, pass: &mut Pass, At { layer, step, rope_tables }: At, host: &HostStep) -> Result<()> {
        let (gpu, config, progress) = (pass.gpu, pass.config, pass.job.progress);
        let rotation = self.rotation()?.clone();
        let mut weights = self.weights(gpu, pass, step, host)?;
        let over = step.last && layer + 1 == config.layers.len();
        let mut covariance = Covariance::new(config.hidden_size);
        for index in 0..pass.batches.len() {
            let batch = pass.batch(index)?;
            let x = rotation.rows(gpu, &self.residual.load(gpu, index)?)?;
            let y = batch.context(gpu, config, layer, rope_tables).step(&weights, x, &mut NoTap)?;
            covariance.add(gpu, &signal(gpu, config, self.points.options.signal, y.clone())?)?;
            if !over {
                self.residual.store(gpu, index, y, step.last)?;
            }
            progress.advance(1)?;
        }
        self.residual.finish_pass();
        let (reads, writes) = weights.take_linears();
        drop(weights);
        let began = Instant::now();
        for linear in reads {
            pass.writer.linear(layer, &linear)?;
        }
        pass.timed("write weights", began);
        let (_, width) = self.points.plan.config.widths(layer).step(step);
        let next = self.points.axes(pass, Some(layer), covariance, width)?;
        progress.advance(1)?;
        let began = Instant::now();
        for mut linear in writes {
            linear.weight = next.columns(gpu, &linear.weight)?;
            linear.bias = linear.bias.as_ref().map(|bias| next.rows(gpu, bias)).transpose()?;
            pass.writer.linear(layer, &linear)?;
        }
        let shortcut = rotation.shortcut(gpu, &next)?;
        pass.writer.matrix(&Names::of(config).shortcut(layer, step), &shortcut)?;
        pass.timed("write weights", began);
        self.rotation = Some(next);
        Ok(())
    }

    fn layer(&mut self, pass: &mut Pass, layer: usize, host: &HostLayer) -> Result<()> {
        if layer + 1 == pass.config.layers.len() {
            self.residual.clear();
        }
        pass.writer.norms(layer, host)
    }

    fn state(&mut self, pass: &mut Pass, layers: usize) -> Result<Option<Snapshot>> {
        let began = Instant::now();
        pass.writer.sync()?;
        let rotation = self.rotation()?.clone();
        let saved = self.residual.save(&rotation.values(pass.gpu)?)?;
        pass.timed("save the state", began);
        let (sites, residuals) = (self.points.sites.clone(), vec![saved]);
        let width = rotation.width();
        Ok(Some(Snapshot { stage: Stage::Slice, layers, sites, width, residuals, bases: Vec::new() }))
    }

    fn end(&mut self, pass: &mut Pass, ends: &HostEnds) -> Result<()> {
        let rotation = self.rotation()?;
        pass.write_head(ends, |gpu, part, bias| Ok((rotation.rows(gpu, part)?, bias)))
    }
}
