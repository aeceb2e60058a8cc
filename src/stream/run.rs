//! The one loop over the layers of a model.

use std::thread::Scope;

use super::pass::Pass;
use crate::{
    error::Result,
    gpu::Matrix,
    model::{HostEnds, HostLayer, HostStep, Step},
};

/// Where in the model the work is.
#[derive(Clone, Copy)]
pub struct At<'t> {
    pub layer: usize,
    pub step: Step,
    pub rope_tables: &'t [Matrix],
}

/// What is made of a model, step by step.
pub trait Method {
    /// What resuming needs.
    type State;

    /// Whether the weights that it gets have the norms in them.
    fn fused(&self) -> bool {
        true
    }

    /// What comes before the first layer.
    ///
    /// # Errors
    /// Those of the method.
    fn begin(&mut self, pass: &mut Pass, ends: &HostEnds) -> Result<()>;

    /// One step of a layer, whose weights the pass has read ahead.
    ///
    /// # Errors
    /// Those of the method.
    fn step(&mut self, pass: &mut Pass, at: At, host: &HostStep) -> Result<()>;

    /// What is left of a layer after its steps.
    ///
    /// # Errors
    /// Those of the method.
    fn layer(&mut self, pass: &mut Pass, layer: usize, host: &HostLayer) -> Result<()>;

    /// Makes durable what resuming after `layers` layers needs; `None` where nothing is to be committed.
    ///
    /// # Errors
    /// Those of the method.
    fn state(&mut self, pass: &mut Pass, layers: usize) -> Result<Option<Self::State>>;

    /// What comes after the last layer.
    ///
    /// # Errors
    /// Those of the method.
    fn end(&mut self, pass: &mut Pass, ends: &HostEnds) -> Result<()>;
}

/// Runs a method over all layers, or over those after the first `done` of an earlier run whose state it has restored.
/// Called at each commit point, `commit` returns false to stop there. Returns whether the end was reached.
///
/// # Errors
/// Those of the method and of `commit`; whatever the model or the GPU reports.
pub fn run<'scope, 'a: 'scope, M: Method>(
    scope: &'scope Scope<'scope, '_>,
    pass: &mut Pass<'a>,
    method: &mut M,
    done: Option<usize>,
    commit: &mut dyn FnMut(&M::State) -> Result<bool>,
) -> Result<bool> {
    let (model, layers) = (pass.job.model, pass.config.layers.len());
    let ends = model.store.ends()?;
    if done.is_none() {
        method.begin(pass, &ends)?;
        if let Some(state) = method.state(pass, 0)?
            && !commit(&state)?
        {
            return Ok(false);
        }
    }
    let first = done.unwrap_or(0);
    let rope_tables = model.rope_tables(pass.gpu, pass.job.rows.iter().map(Vec::len).max().unwrap_or(0))?;
    pass.read_ahead(scope, first..layers, method.fused());
    for layer in first..layers {
        let host = model.store.layer(layer)?;
        for (step, weights) in pass.config.layer_steps(layer).zip(&host.steps) {
            method.step(pass, At { layer, step, rope_tables: &rope_tables }, weights)?;
        }
        method.layer(pass, layer, &host)?;
        if let Some(state) = method.state(pass, layer + 1)?
            && !commit(&state)?
        {
            return Ok(false);
        }
    }
    method.end(pass, &ends)?;
    Ok(true)
}
