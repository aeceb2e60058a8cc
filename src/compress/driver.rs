//! The stages of a compression: survey, probes, candidates; in one go, or resumed where it was stopped.

use std::thread;

use super::{
    axis::Axis,
    budget::{Curve, Space},
    layers::by_layer,
    plan::{Options, Plan, Width, bases},
    ranking::{Ranking, selected},
    refit::Refit,
    results::{Outcome, Refitted},
    snapshot::{Candidate, Probe, Snapshot},
    survey::{Facts, Survey, Surveyed},
};
use crate::{
    checkpoint::OutputDirectory,
    error::{Error, Result},
    fit::least_tied_width,
    gpu::Gpu,
    model::{Config, Model, Resize},
    progress::Progress,
    stream::{self, MemoryPlan, Pass, StockForm, run},
};

/// What to compress, and how.
pub struct Job<'a> {
    pub model: &'a Model,
    /// The calibration sequences, at least two.
    pub rows: &'a [Vec<u32>],
    pub options: &'a Options,
    /// What heads and channels leave by, if not by what costs the fit least.
    pub ranking: Option<&'a [Ranking]>,
    pub memory: MemoryPlan,
    /// Where the tensors go, and, beside them, what is needed to resume.
    pub directory: &'a OutputDirectory,
    pub progress: &'a dyn Progress,
}

/// One sequence in this many, and at least one, is not fitted to but measured on while sizes are chosen.
const WATCHED: usize = 4;
/// More tokens than these are not needed to tell sizes apart.
const WATCHED_TOKENS: usize = 8192;

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
        Some((_, reason)) if axes.is_empty() || options.chosen => Err(Error::Usage(reason.clone())),
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
    let curves: Vec<Curve> = axes.iter().map(|&axis| Curve::usual(axis)).collect();
    let (_, sizes) = space.allocate(&axes, &curves)?.swap_remove(0);
    Plan::new(config, sizes, Width::default(), &options.dtype)
}

/// The ways in which layers can be left out that are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gaps {
    Contiguous,
    Single,
}

impl Job<'_> {
    fn config(&self) -> &Config {
        self.model.config()
    }

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
        let narrowest = self.narrowest()?;
        let mut work = Work { job: self, gpu, facts, axes, narrowest, state };
        if let Some((basis, gaps)) = work.probe(&mut commit)?
            && work.choose(basis, gaps, &mut commit)?
        {
            work.write(&mut commit)?;
        }
        Ok(work.state)
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

/// What a model is cut and fitted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To see how it agrees with the dense one.
    Agreement,
    /// The same, and what it costs to cut each layer.
    Costs,
    Write,
}

/// What is known once the model has been surveyed.
struct Work<'a> {
    job: &'a Job<'a>,
    gpu: &'a Gpu,
    facts: Facts,
    axes: Vec<Axis>,
    /// The least width of the residual stream that there are coordinates for.
    narrowest: usize,
    state: Snapshot,
}

impl Work<'_> {
    fn config(&self) -> &Config {
        self.job.config()
    }

    /// Which layers stay when 0, 1, 2 … leave.
    fn stay(&self, gaps: Gaps) -> Vec<Vec<usize>> {
        let count = self.config().layers.len();
        let most = count / 2;
        let all: Vec<usize> = (0..count).collect();
        let mut stay = vec![all.clone()];
        for leave in 1..=most {
            let out: Option<Vec<usize>> = match gaps {
                // The first layer stays.
                Gaps::Contiguous => {
                    let distance = |first: &usize| self.facts.distance(*first, first + leave);
                    let gap = |first: usize| (first..first + leave).collect::<Vec<usize>>();
                    let can = (1..=count - leave).filter(|first| self.config().can_lose(&gap(*first)));
                    can.min_by(|a, b| distance(a).total_cmp(&distance(b))).map(gap)
                }
                Gaps::Single => {
                    let distance = |layer: &usize| self.facts.distance(*layer, layer + 1);
                    let mut order: Vec<usize> = (1..count).collect();
                    order.sort_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.cmp(b)));
                    self.config().first_that_can_leave(order, leave)
                }
            };
            let Some(out) = out else { break };
            stay.push(all.iter().copied().filter(|layer| !out.contains(layer)).collect());
        }
        stay
    }

    fn space(&self, gaps: Gaps) -> Space<'_> {
        let Options { dtype, goal, .. } = self.job.options;
        Space::new(self.config(), dtype, *goal, self.stay(gaps)).not_below(self.narrowest)
    }

    /// Cuts and fits on `rows`, of which the last ones are only watched, for a purpose.
    fn refit(
        &self,
        plan: &Plan,
        (rows, watched): (&[Vec<u32>], usize),
        purpose: Purpose,
        from: Option<&Refitted>,
        commit: &mut dyn FnMut(&Refitted) -> Result<bool>,
    ) -> Result<Option<Outcome>> {
        let Job { model, memory, directory, progress, options, .. } = *self.job;
        let tensors = if purpose == Purpose::Write { plan.tensors.as_slice() } else { &[] };
        let job = stream::Job {
            model,
            rows,
            counted: None,
            watched,
            memory,
            output: &plan.config,
            tensors,
            directory,
            progress,
        };
        let form = match plan.sizes.width {
            Some(stored) => StockForm::new(self.gpu, self.config(), plan.width, stored, &plan.tensors)?,
            None => StockForm::fused(plan.stored_width),
        };
        let done = from.map(|from| from.layers);
        let written = done.map(|done| plan.sizes.layers.iter().filter(|&&layer| layer < done).count());
        thread::scope(|scope| {
            let mut pass = Pass::new(self.gpu, job, form, written)?;
            let mut refit = Refit::new(&pass, plan, &self.facts, options.ridge, from)?;
            if purpose == Purpose::Costs {
                refit = refit.with_costs();
            }
            if let Some(ranking) = self.job.ranking {
                refit = refit.of_those(selected(self.config(), plan, ranking));
            }
            if !run(scope, &mut pass, &mut refit, done, commit)? {
                return Ok(None);
            }
            pass.writer.finish()?;
            Ok(refit.outcome())
        })
    }

    /// How sizes of this plan, fitted to `rows`, agree with the dense model on those that are watched.
    fn measure(&self, plan: &Plan, part: (&[Vec<u32>], usize), purpose: Purpose) -> Result<Outcome> {
        let found = self.refit(plan, part, purpose, None, &mut |_| Ok(true))?;
        found.ok_or_else(|| Error::internal("a probe without an end"))
    }

    fn tokens(&self) -> usize {
        self.job.rows.iter().map(Vec::len).sum()
    }

    /// About `wanted` tokens of the calibration, then the sequences that are watched, and the number of those.
    fn part(&self, wanted: usize) -> (Vec<Vec<u32>>, usize) {
        let rows = self.job.rows;
        let first = |rows: &mut dyn Iterator<Item = &Vec<u32>>, wanted: usize| {
            let mut seen = 0;
            rows.take_while(|row| {
                let before = seen;
                seen += row.len();
                before < wanted
            })
            .count()
        };
        let most = (rows.len() / WATCHED).max(1);
        let watched = first(&mut rows.iter().rev().take(most), WATCHED_TOKENS);
        let (calibration, along) = rows.split_at(rows.len() - watched);
        let fitted = first(&mut calibration.iter(), wanted);
        (calibration[..fitted].iter().chain(along).cloned().collect(), watched)
    }

    /// Cuts each axis alone, and fits its curve; returns which basis and which gaps won.
    fn probe(&mut self, commit: &mut dyn FnMut(&Snapshot) -> Result<bool>) -> Result<Option<(Width, Gaps)>> {
        // Nothing has to leave, and nothing is asked of the axes.
        if self.space(Gaps::Contiguous).holds_all() {
            return Ok(Some((Width::default(), Gaps::Contiguous)));
        }
        let effort = self.job.options.effort;
        let (rows, watched) = self.part(effort.probe_tokens(self.config(), self.tokens()));
        let (mut basis, mut gaps) = (Width::default(), Gaps::Contiguous);
        let (mut curves, mut next) = (Vec::new(), 0);
        for axis in self.axes.clone() {
            let mut points = Vec::new();
            for (number, &share) in effort.depths().iter().enumerate() {
                // What is chosen among is tried at the deepest point.
                let ways: Vec<(Width, Gaps)> = match axis {
                    Axis::Width if number == 0 => bases(self.config(), effort).map(|basis| (basis, gaps)).collect(),
                    Axis::Layers if number == 0 => vec![(basis, Gaps::Contiguous), (basis, Gaps::Single)],
                    _ => vec![(basis, gaps)],
                };
                let mut best: Option<(f64, f64, (Width, Gaps))> = None;
                let mut tried: Vec<Resize> = Vec::new();
                for (basis, gaps) in ways {
                    let Some(sizes) = self.space(gaps).alone(axis, share) else { continue };
                    let depth = axis.depth(self.config(), &sizes);
                    let again = axis != Axis::Width && tried.contains(&sizes);
                    if again || points.iter().any(|(other, _)| *other == depth) {
                        continue;
                    }
                    tried.push(sizes.clone());
                    let plan = Plan::new(self.config(), sizes, basis, &self.job.options.dtype)?;
                    let kl = match self.state.probes.get(next) {
                        Some(probe) => probe.agreement.kl,
                        None => {
                            let agreement = self.measure(&plan, (&rows, watched), Purpose::Agreement)?.agreement;
                            let parameters = plan.parameters;
                            self.state.probes.push(Probe { axis, depth, basis, parameters, agreement });
                            if !commit(&self.state)? {
                                return Ok(None);
                            }
                            agreement.kl
                        }
                    };
                    next += 1;
                    if best.is_none_or(|(least, ..)| kl < least) {
                        best = Some((kl, depth, (basis, gaps)));
                    }
                }
                if let Some((kl, depth, way)) = best {
                    points.push((depth, kl));
                    (basis, gaps) = way;
                }
            }
            if !points.is_empty() {
                curves.push(Curve::fit(axis, &points));
            }
        }
        self.state.curves = curves;
        Ok(Some((basis, gaps)))
    }

    /// Measures the best candidates on part of the tokens; returns false if it was stopped.
    fn choose(&mut self, basis: Width, gaps: Gaps, commit: &mut dyn FnMut(&Snapshot) -> Result<bool>) -> Result<bool> {
        let effort = self.job.options.effort;
        let space = self.space(gaps);
        let allocated = space.allocate(&self.axes, &self.state.curves)?;
        let allocated = space.shortlist(allocated, effort.candidates());
        let first = if self.job.options.per_layer { Purpose::Costs } else { Purpose::Agreement };
        let alone = allocated.len() == 1 && first == Purpose::Agreement;
        let part = self.part(effort.candidate_tokens(self.config(), self.tokens()));
        for (predicted, sizes) in allocated {
            let mut next = Some((sizes, first));
            // The second time around, with what the first has shown.
            while let Some((sizes, purpose)) = next.take() {
                let at = match self.state.candidates.iter().position(|candidate| candidate.sizes == sizes) {
                    Some(at) => at,
                    None => {
                        let plan = Plan::new(self.config(), sizes, basis, &self.job.options.dtype)?;
                        let part = (part.0.as_slice(), part.1);
                        let measured = if alone { None } else { Some(self.measure(&plan, part, purpose)?) };
                        self.add(plan, predicted, measured);
                        if !commit(&self.state)? {
                            return Ok(false);
                        }
                        self.state.candidates.len() - 1
                    }
                };
                next = self.state.candidates[at].by_layer.clone().map(|sizes| (sizes, Purpose::Agreement));
            }
        }
        Ok(true)
    }

    /// Notes a candidate, and which sizes by layer follow from what it costs to cut each, where that was measured.
    fn add(&mut self, plan: Plan, predicted: f64, measured: Option<Outcome>) {
        let depths = self.axes.iter().map(|axis| (*axis, axis.depth(self.config(), &plan.sizes)));
        let depths = depths.filter(|(_, depth)| *depth > 0.0).collect();
        let Plan { sizes, parameters, basis, .. } = plan;
        let by_layer = measured.as_ref().and_then(|found| by_layer(self.config(), &sizes, &found.costs));
        let agreement = measured.map(|measured| measured.agreement);
        self.state.candidates.push(Candidate { depths, predicted, sizes, basis, parameters, agreement, by_layer });
    }

    /// Writes the candidate that agrees best with the dense model, fitted to all tokens.
    fn write(&mut self, commit: &mut dyn FnMut(&Snapshot) -> Result<bool>) -> Result<()> {
        if self.state.kept.is_some() {
            return Ok(());
        }
        let kl = |at: &usize| self.state.candidates[*at].agreement.map_or(0.0, |agreement| agreement.kl);
        let best = (0..self.state.candidates.len()).min_by(|a, b| kl(a).total_cmp(&kl(b))).unwrap_or(0);
        self.state.best = Some(best);
        let Candidate { sizes, basis, .. } = &self.state.candidates[best];
        let plan = Plan::new(self.config(), sizes.clone(), *basis, &self.job.options.dtype)?;
        let from = self.state.fitting.clone();
        let mut state = self.state.clone();
        let mut each = |refitted: &Refitted| {
            state.fitting = Some(refitted.clone());
            commit(&state)
        };
        let found = self.refit(&plan, (self.job.rows, 0), Purpose::Write, from.as_ref(), &mut each)?;
        self.state = state;
        if let Some(Outcome { kept, .. }) = found {
            self.state.kept = Some(kept);
            commit(&self.state)?;
        }
        Ok(())
    }
}
