//! The re-fit alone, of a selection that something else has made.

use std::thread;

use super::{
    plan::{Plan, Width},
    refit::Refit,
    results::Refitted,
};
use crate::{
    error::Result,
    gpu::Gpu,
    model::{Config, Kept},
    stream::{Job, Pass, StockForm, Types, run},
};

/// The plan of a model with what is `kept` of its layers.
///
/// # Errors
/// [`crate::error::Error::Usage`] if there is no checkpoint of such a model.
pub fn plan_of_selection(config: &Config, kept: &[Kept], types: &Types) -> Result<Plan> {
    Plan::new(config, config.with_layers(kept.iter().map(Kept::sizes).collect()), Width::default(), types)
}

/// Cuts a model down to what is `kept` of its layers, and fits what writes the residual stream after the first cut to
/// the dense model on the sequences of `job`, whose tensors are those of `plan`. Returns whether the end was reached;
/// called at each commit point, `commit` returns false to stop there.
///
/// # Errors
/// [`crate::error::Error::BadTensor`], [`crate::error::Error::Numerical`], [`crate::error::Error::Write`], those of
/// `commit`, and whatever the GPU reports.
pub fn refit_selection(
    gpu: &Gpu,
    job: Job,
    plan: &Plan,
    kept: &[Kept],
    ridge: f64,
    from: Option<&Refitted>,
    commit: &mut dyn FnMut(&Refitted) -> Result<bool>,
) -> Result<bool> {
    let done = from.map(|from| from.layers);
    thread::scope(|scope| {
        let mut pass = Pass::new(gpu, job, StockForm::fused(plan.stored_width), done)?;
        let mut refit = Refit::of_selection(&pass, plan, kept, ridge, from)?;
        if !run(scope, &mut pass, &mut refit, done, commit)? {
            return Ok(false);
        }
        pass.writer.finish()?;
        Ok(true)
    })
}
