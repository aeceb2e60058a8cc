//! One job: a model, its calibration, and how to slice it; done in one go, or gone on with where it was stopped.

use std::thread;

use super::{
    memory::MemoryPlan,
    options::Options,
    paper::Paper,
    plan::Plan,
    refit::Refitted,
    snapshot::{Site, Snapshot},
};
use crate::{
    checkpoint::OutputDirectory,
    error::{Error, Result},
    gpu::Gpu,
    model::Model,
    progress::Progress,
};

/// What to slice, and how.
pub struct Job<'a> {
    pub model: &'a Model,
    /// The calibration sequences.
    pub rows: &'a [Vec<u32>],
    pub options: &'a Options,
    pub plan: &'a Plan,
    pub memory: MemoryPlan,
    /// Where the tensors go, and, beside them, what is needed to go on.
    pub directory: &'a OutputDirectory,
    pub progress: &'a dyn Progress,
}

/// Gets what is needed to go on, and says whether to go on now.
pub type Commit<'a> = dyn FnMut(&Snapshot) -> Result<bool> + 'a;

/// Slices `model` as planned, from the signals of the calibration sequences `rows`, into tensors in `directory`, in one go and with all
/// residuals on the GPU.
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
    let memory = MemoryPlan::unlimited(options);
    Ok(Job { model, rows, options, plan, memory, directory, progress }.run(gpu, None, |_| Ok(true))?.sites)
}

impl Job<'_> {
    /// Slices all layers, or those that are left behind `from`. Whenever something is finished and durable, `commit` gets what is needed to go on
    /// from there, and says whether to go on now.
    ///
    /// # Errors
    /// [`Error::BadTensor`], [`Error::Numerical`] if a signal is not finite or a solve fails its check, [`Error::Write`], [`Error::Interrupted`],
    /// [`Error::BadFile`] if what was committed is damaged, those of `commit`, and whatever the GPU reports.
    pub fn run(&self, gpu: &Gpu, from: Option<&Snapshot>, mut commit: impl FnMut(&Snapshot) -> Result<bool>) -> Result<Snapshot> {
        if from.is_some_and(|from| !from.fits(self.model.config(), self.plan, self.options)) {
            return Err(Error::bad_file(self.directory.path(), "what was kept of it does not fit this model; --force starts over"));
        }
        thread::scope(|scope| {
            let (job, commit) = (self, &mut commit);
            if self.options.is_paper() { Paper::run(scope, gpu, job, from, commit) } else { Refitted::run(scope, gpu, job, from, commit) }
        })
    }
}
