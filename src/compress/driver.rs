//! The stages of a compression: survey, gradients, probes, candidates; in one go, or resumed where it was stopped.

use std::thread;

use super::{
    axis::Axis,
    budget::Space,
    curve::Curves,
    job::Job,
    plan::{Options, Plan, Width},
    search::Work,
    sensitivity::{Sensing, Sensitivities},
    snapshot::Snapshot,
    survey::{Facts, Survey, Surveyed},
};
use crate::{
    error::{Error, Result},
    fit::least_tied_width,
    gpu::Gpu,
    model::Config,
    stream::{self, Pass, Passed, Sitting, StockForm, run},
};

/// Axes that cannot be cut, and why.
type Refused = Vec<(Axis, String)>;

/// The axes that can be cut, and why others cannot.
///
/// # Errors
/// [`Error::Usage`] if none can, or one that was asked for by name.
pub fn axes(config: &Config, options: &Options) -> Result<(Vec<Axis>, Refused)> {
    // Which layers would leave is not known yet, and makes no difference here.
    let count = config.layers.len();
    let out = (0..count).map_while(|leave| config.first_that_can_leave((1..count).rev(), leave));
    let stay = out.map(|out| (0..count).filter(|layer| !out.contains(layer)).collect());
    let space = Space::new(config, &options.dtype, options.goal, stay.collect());
    let (mut axes, mut refused) = (Vec::new(), Vec::new());
    // Nobody expects experts of a model that has none.
    let meant = |axis: &&Axis| **axis != Axis::Experts || options.chosen || config.is_mixture();
    for &axis in options.axes.iter().filter(meant) {
        match space.can_cut(axis) {
            Ok(()) => axes.push(axis),
            Err(Error::Usage(reason)) => refused.push((axis, reason)),
            Err(other) => return Err(other),
        }
    }
    match refused.first() {
        Some((_, reason)) if options.chosen || (axes.is_empty() && refused.len() == 1) => {
            Err(Error::Usage(reason.clone()))
        }
        Some(_) if axes.is_empty() => {
            let reasons = refused.iter().map(|(_, reason)| format!("\n  {reason}"));
            Err(Error::Usage(format!("nothing of this model can be cut:{}", reasons.collect::<String>())))
        }
        _ => Ok((axes, refused)),
    }
}

/// What would be cut by curves that other models have had: nothing of this one is measured.
///
/// # Errors
/// As [`axes`]; [`Error::Usage`] if the goal is out of reach.
pub fn guess(config: &Config, options: &Options) -> Result<Plan> {
    let (axes, _) = axes(config, options)?;
    let count = config.layers.len();
    // Those in the middle change least, mostly.
    let out = (0..=count / 2).map(|leave| {
        let first = ((count - leave) / 2 + 1).min(count - leave);
        (first..first + leave).collect::<Vec<usize>>()
    });
    let out = out.take_while(|out| config.can_lose(out));
    let stay = out.map(|out| (0..count).filter(|layer| !out.contains(layer)).collect());
    let space = Space::new(config, &options.dtype, options.goal, stay.collect());
    let (_, sizes) = space.allocate(&axes, &Curves::usual(&axes))?.swap_remove(0);
    Plan::new(config, sizes, Width::default(), &options.dtype)
}

impl Job<'_> {
    /// Surveys, probes, and fits the candidates, or resumes after `from`. Called at each commit point, `commit` returns
    /// false to stop there. Returns what is done.
    ///
    /// # Errors
    /// [`Error::Usage`] if the goal cannot be met; [`Error::BadTensor`], [`Error::Numerical`], [`Error::Write`],
    /// [`Error::Interrupted`], [`Error::BadFile`] if what was committed is damaged, those of `commit`, and whatever the
    /// GPU reports.
    pub fn run(
        &self,
        gpu: &Gpu,
        from: Option<&Snapshot>,
        mut commit: impl FnMut(&Snapshot) -> Result<bool>,
    ) -> Result<Snapshot> {
        let mut state = from.cloned().unwrap_or_default();
        let (axes, _) = axes(self.config(), self.options)?;
        let Some(facts) = self.survey(gpu, &mut state, &mut commit)? else { return Ok(state) };
        let mut sensitivities = None;
        if self.ranking.is_none() && self.options.senses() {
            sensitivities = self.sense(gpu, &mut state, &mut commit)?;
            if sensitivities.is_none() {
                return Ok(state);
            }
        }
        let narrowest = self.narrowest()?;
        let recorded = self.memory.keeps_dense.then(Default::default);
        Work { job: self, gpu, facts, sensitivities, axes, narrowest, state, recorded }.run(&mut commit)
    }

    /// How much the model minds what is lost of what its blocks make; `None` if it was stopped.
    fn sense<'s>(
        &'s self,
        gpu: &Gpu,
        state: &mut Snapshot,
        commit: &mut dyn FnMut(&Snapshot) -> Result<bool>,
    ) -> Result<Option<Sensitivities<'s>>> {
        if let Some(checksums) = &state.sensed {
            return Sensitivities::restore(self.config(), self.directory, checksums.clone()).map(Some);
        }
        let from = state.sensing.clone().unwrap_or_default();
        let mut each = |passed: &Passed| {
            state.sensing = Some(passed.clone());
            commit(state)
        };
        let found = Sensing::of(self).run(gpu, self.options.seed, &mut Sitting::after(from, &mut each))?;
        let Some(found) = found else { return Ok(None) };
        let passed = state.sensing.take();
        state.sensed = Some(found.checksums().to_vec());
        let goes_on = commit(state)?;
        passed.iter().for_each(|passed| passed.remove(self.directory));
        Ok(goes_on.then_some(found))
    }

    /// The least width that leaves a tied head what must stay as it is; any width where the head is not tied.
    fn narrowest(&self) -> Result<usize> {
        if !self.config().can_stay_tied() {
            return Ok(1);
        }
        let norm = self.model.store.ends()?.final_norm;
        let least = norm.and_then(|norm| least_tied_width(&norm.weight));
        Ok(least.unwrap_or(self.config().hidden_size))
    }

    fn survey(
        &self,
        gpu: &Gpu,
        state: &mut Snapshot,
        commit: &mut dyn FnMut(&Snapshot) -> Result<bool>,
    ) -> Result<Option<Facts>> {
        let job = stream::Job {
            model: self.model,
            rows: self.rows,
            counted: None,
            watched: 0,
            memory: self.memory,
            output: self.config(),
            tensors: &[],
            directory: self.directory,
            progress: self.progress,
        };
        thread::scope(|scope| {
            let mut pass = Pass::new(gpu, job, StockForm::fused(self.config().hidden_size), None)?;
            if let Some(checksum) = state.survey {
                return Facts::restore(&pass, checksum).map(Some);
            }
            let from = state.surveying;
            let mut survey = Survey::new(&pass, from.as_ref())?;
            let done = from.map(|from| from.layers);
            let mut each = |surveyed: &Surveyed| {
                state.surveying = Some(*surveyed);
                commit(state)
            };
            if !run(scope, &mut pass, &mut survey, done, &mut each)? {
                return Ok(None);
            }
            let facts = survey.found();
            (state.surveying, state.survey) = (None, Some(facts.save(&pass)?));
            Ok(if commit(state)? { Some(facts) } else { None })
        })
    }
}
