//! One job: a model, its calibration, and how to slice it; done in one go, or resumed where it was stopped.

use std::thread::{self, Scope};

use super::{
    basis::{Bases, Find},
    options::Options,
    paper::Paper,
    plan::Plan,
    points::Points,
    refit::Refitted,
    snapshot::{Site, Snapshot, Stage},
};
use crate::{
    checkpoint::OutputDirectory,
    error::{Error, Result},
    gpu::Gpu,
    model::Model,
    progress::Progress,
    stream::{self, MemoryPlan, Pass, StockForm, run},
};

/// What to slice, and how.
pub struct Job<'a> {
    pub model: &'a Model,
    /// The calibration sequences.
    pub rows: &'a [Vec<u32>],
    pub options: &'a Options,
    pub plan: &'a Plan,
    pub memory: MemoryPlan,
    /// Where the tensors go, and, beside them, what is needed to resume.
    pub directory: &'a OutputDirectory,
    pub progress: &'a dyn Progress,
}

/// Slices `model` as planned, from the signals of the calibration sequences `rows`, into tensors in `directory`, in one
/// go and with all residuals on the GPU.
///
/// # Errors
/// As [`Job::run`].
pub fn slice(
    gpu: &Gpu,
    model: &Model,
    rows: &[Vec<u32>],
    options: &Options,
    plan: &Plan,
    directory: &OutputDirectory,
    progress: &dyn Progress,
) -> Result<Vec<Site>> {
    let memory = MemoryPlan::unlimited(options.rows_per_batch);
    Ok(Job { model, rows, options, plan, memory, directory, progress }.run(gpu, None, |_| Ok(true))?.sites)
}

impl Job<'_> {
    /// Slices all layers, or those after `from`. Called at each commit point, `commit` returns false to stop there.
    ///
    /// # Errors
    /// [`Error::BadTensor`], [`Error::Numerical`] if a signal is not finite or a solve fails its check,
    /// [`Error::Write`], [`Error::Interrupted`], [`Error::BadFile`] if what was committed is damaged, those of
    /// `commit`, and whatever the GPU reports.
    pub fn run(
        &self,
        gpu: &Gpu,
        from: Option<&Snapshot>,
        mut commit: impl FnMut(&Snapshot) -> Result<bool>,
    ) -> Result<Snapshot> {
        if from.is_some_and(|from| !from.fits(self.model.config(), self.plan, self.options)) {
            let reason = "what was kept of it does not fit this model; --force starts over";
            return Err(Error::bad_file(self.directory.path(), reason));
        }
        let mut last = from.cloned();
        thread::scope(|scope| {
            self.run_in(scope, gpu, from, &mut |snapshot| {
                last = Some(snapshot.clone());
                commit(snapshot)
            })
        })?;
        last.ok_or_else(|| Error::shape("slice", "nothing was committed"))
    }

    fn run_in<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        gpu: &'scope Gpu,
        from: Option<&Snapshot>,
        commit: &mut dyn FnMut(&Snapshot) -> Result<bool>,
    ) -> Result<()> {
        let slicing = from.filter(|from| from.stage == Stage::Slice);
        let mut pass = self.pass(gpu, slicing.map(|from| from.layers))?;
        let sites = from.map_or(Vec::new(), |from| from.sites.clone());
        let mut points = Points { options: self.options, plan: self.plan, sites };
        let done = slicing.map(|from| from.layers);
        if self.options.is_paper() {
            let mut paper = Paper::new(&pass, points, slicing)?;
            return finish(run(scope, &mut pass, &mut paper, done, commit)?, pass);
        }
        let bases = match slicing {
            _ if self.options.passes() == 1 => None,
            Some(from) => Some(Bases::restore(&pass, self.plan, &from.bases)?),
            None => {
                let mut find = Find::new(&pass, points, from)?;
                if !run(scope, &mut pass, &mut find, from.map(|from| from.layers), commit)? {
                    return Ok(());
                }
                let bases;
                (points, bases) = find.found();
                Some(bases)
            }
        };
        let mut refitted = Refitted::new(&pass, points, bases, slicing)?;
        finish(run(scope, &mut pass, &mut refitted, done, commit)?, pass)
    }

    fn pass<'a>(&'a self, gpu: &'a Gpu, done: Option<usize>) -> Result<Pass<'a>> {
        let Self { model, rows, plan, memory, directory, progress, .. } = *self;
        let (output, tensors) = (&plan.config, plan.tensors.as_slice());
        let job = stream::Job { model, rows, counted: None, watched: 0, memory, output, tensors, directory, progress };
        let form = if plan.stock {
            StockForm::new(gpu, model.config(), plan.width, plan.stored_width, &plan.tensors)?
        } else {
            StockForm::fused(plan.stored_width)
        };
        Pass::new(gpu, job, form, done)
    }
}

/// Completes the output once the end was reached.
fn finish(reached: bool, pass: Pass) -> Result<()> {
    if reached { pass.writer.finish() } else { Ok(()) }
}
