//! Which sizes are tried: each axis alone, then those that cost least by all that was measured before; and the best of
//! them, fitted to all tokens and written.

use std::{cell::RefCell, thread};

use super::{
    axis::Axis,
    budget::Space,
    curve::{Measured, fit},
    dense::Recorded,
    job::Job,
    layers::by_layer,
    plan::{Options, Plan, Width, bases},
    ranking::selected,
    refit::Refit,
    results::{Outcome, Refitted},
    sensitivity::Sensitivities,
    snapshot::{Candidate, Probe, Snapshot},
    survey::Facts,
};
use crate::{
    error::{Error, Result},
    gpu::Gpu,
    model::{Config, Resize},
    stream::{self, Pass, StockForm, run},
};

/// One sequence in this many, and at least one, is not fitted to but measured on while sizes are chosen.
const WATCHED: usize = 4;
/// More tokens than these are not needed to tell sizes apart.
pub(super) const WATCHED_TOKENS: usize = 4096;

/// The ways in which layers can be left out that are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Gaps {
    #[default]
    Contiguous,
    Single,
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

/// Which way of leaving layers out costs less, by how many leave.
#[derive(Debug, Clone, Default)]
struct Ways(Vec<(usize, Gaps)>);

impl Ways {
    /// The one that was better where a number next to this one left, of two as near the smaller one.
    fn of(&self, leave: usize) -> Gaps {
        let nearest = self.0.iter().min_by_key(|(count, _)| (count.abs_diff(leave), *count));
        nearest.map(|(_, gaps)| *gaps).unwrap_or_default()
    }
}

/// What cutting each axis alone has shown.
#[derive(Default)]
struct Probed {
    basis: Width,
    ways: Ways,
    /// The best of each axis and depth.
    alone: Vec<Candidate>,
}

/// Sequences that sizes are fitted to, then those that they are measured on, and the number of these.
type Part = (Vec<Vec<u32>>, usize);

/// Called at each commit point; returns false to stop there.
type Commit<'a> = &'a mut dyn FnMut(&Snapshot) -> Result<bool>;

/// What is known once the model has been surveyed.
pub struct Work<'a> {
    pub job: &'a Job<'a>,
    pub gpu: &'a Gpu,
    pub facts: Facts,
    /// What selections and fits go by; `None` where a ranking chooses what stays, or experts alone leave.
    pub sensitivities: Option<Sensitivities<'a>>,
    pub axes: Vec<Axis>,
    /// The least width of the residual stream that there are coordinates for.
    pub narrowest: usize,
    pub state: Snapshot,
    /// Residuals of the dense model, recorded while sizes are compared if there is room for them: once with its norms
    /// separate and once with them in the weights, as the two round differently.
    pub recorded: Option<[RefCell<Recorded>; 2]>,
}

impl Work<'_> {
    /// Probes, tries candidates and writes the best; returns what is done.
    ///
    /// # Errors
    /// As [`Job::run`].
    pub fn run(mut self, commit: Commit) -> Result<Snapshot> {
        let part = self.part();
        if let Some(probed) = self.probe(&part, commit)?
            && self.choose(&probed, &part, commit)?
            && self.spread(probed.basis, &part, commit)?
        {
            self.write(commit)?;
        }
        Ok(self.state)
    }

    fn config(&self) -> &Config {
        self.job.config()
    }

    /// Which layers stay when 0, 1, 2 … leave.
    fn stay(&self, ways: &Ways) -> Vec<Vec<usize>> {
        let count = self.config().layers.len();
        let most = count / 2;
        let all: Vec<usize> = (0..count).collect();
        let mut stay = vec![all.clone()];
        for leave in 1..=most {
            let out: Option<Vec<usize>> = match ways.of(leave) {
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

    fn space(&self, ways: &Ways) -> Space<'_> {
        let Options { dtype, goal, .. } = self.job.options;
        Space::new(self.config(), dtype, *goal, self.stay(ways)).not_below(self.narrowest)
    }

    fn plan(&self, sizes: Resize, basis: Width) -> Result<Plan> {
        Plan::new(self.config(), sizes, basis, &self.job.options.dtype)
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
            let refit = Refit::new(&pass, plan, &self.facts, options.ridge, from)?;
            let mut refit = refit.with_sensitivities(self.sensitivities.clone());
            if purpose == Purpose::Costs {
                refit = refit.with_costs();
            }
            if let Some(recorded) = self.recorded.as_ref().filter(|_| purpose != Purpose::Write) {
                refit = refit.with_recorded(&recorded[usize::from(plan.sizes.width.is_some())]);
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

    /// How sizes of this plan, fitted to part of the tokens, agree with the dense model on those that are watched.
    fn measure(&self, plan: &Plan, part: &Part, purpose: Purpose) -> Result<Outcome> {
        let found = self.refit(plan, (&part.0, part.1), purpose, None, &mut |_| Ok(true))?;
        found.ok_or_else(|| Error::internal("a probe without an end"))
    }

    /// What is fitted to and measured on while sizes are compared.
    fn part(&self) -> Part {
        let rows = self.job.rows;
        let tokens = rows.iter().map(Vec::len).sum();
        let wanted = self.job.options.effort.compared_tokens(self.config(), tokens);
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

    /// Cuts each axis alone; returns `None` if it was stopped.
    fn probe(&mut self, part: &Part, commit: Commit) -> Result<Option<Probed>> {
        let mut probed = Probed::default();
        // Nothing has to leave, and nothing is asked of the axes.
        if self.space(&probed.ways).holds_all() {
            return Ok(Some(probed));
        }
        let mut next = 0;
        for axis in self.axes.clone() {
            for (number, &share) in self.job.options.effort.depths().iter().enumerate() {
                let mut best: Option<(Candidate, Gaps)> = None;
                for (basis, gaps) in self.tries(axis, number == 0, &probed) {
                    let Some(sizes) = self.space(&Ways(vec![(0, gaps)])).alone(axis, share) else { continue };
                    let depth = axis.depth(self.config(), &sizes);
                    let again = best.as_ref().is_some_and(|(best, _)| axis != Axis::Width && best.sizes == sizes);
                    if again || probed.alone.iter().any(|other| other.depths == [(axis, depth)]) {
                        continue;
                    }
                    let plan = self.plan(sizes, basis)?;
                    if next == self.state.probes.len() {
                        let agreement = self.measure(&plan, part, Purpose::Agreement)?.agreement;
                        let parameters = plan.parameters;
                        self.state.probes.push(Probe { axis, depth, basis, parameters, agreement });
                        if !commit(&self.state)? {
                            return Ok(None);
                        }
                    }
                    let found = Candidate::new(self.config(), &plan, 0.0, Some(self.state.probes[next].agreement));
                    next += 1;
                    if best.as_ref().is_none_or(|(best, _)| found.kl() < best.kl()) {
                        best = Some((found, gaps));
                    }
                }
                if let Some((found, gaps)) = best {
                    probed.basis = found.basis;
                    if axis == Axis::Layers {
                        probed.ways.0.push((self.config().layers.len() - found.sizes.layers.len(), gaps));
                    }
                    probed.alone.push(found);
                }
            }
        }
        Ok(Some(probed))
    }

    /// Which bases and gaps an axis is probed with. A basis is chosen at the first, deepest point; which layers leave,
    /// at each: many in a row can cost more than as many single ones, and few of them less.
    fn tries(&self, axis: Axis, first: bool, probed: &Probed) -> Vec<(Width, Gaps)> {
        let basis = probed.basis;
        match axis {
            Axis::Width if first => {
                bases(self.config(), self.job.options.effort).map(|basis| (basis, Gaps::default())).collect()
            }
            Axis::Layers => vec![(basis, Gaps::Contiguous), (basis, Gaps::Single)],
            _ => vec![(basis, Gaps::default())],
        }
    }

    /// Measures sizes within the budget, each time those that cost least by all that was measured before; returns false
    /// if it was stopped. The probes that are within the budget are candidates too, so that the result is no worse than
    /// a cut on one axis alone.
    fn choose(&mut self, probed: &Probed, part: &Part, commit: Commit) -> Result<bool> {
        let space = self.space(&probed.ways);
        if space.holds_all() {
            let whole = self.plan(Resize::whole(self.config()), probed.basis)?;
            self.state.candidates = vec![Candidate::new(self.config(), &whole, 0.0, None)];
            return Ok(true);
        }
        let alone: Vec<&Candidate> = probed.alone.iter().filter(|probe| space.holds(&probe.sizes)).collect();
        self.state.curves = fit(&self.measured(probed));
        if self.state.candidates.is_empty() {
            let predicted = |probe: &Candidate| self.state.curves.predict(&probe.depths).unwrap_or(0.0);
            let candidate = |&probe: &&Candidate| Candidate { predicted: predicted(probe), ..probe.clone() };
            let alone: Vec<Candidate> = alone.iter().map(candidate).collect();
            (self.state.alone, self.state.candidates) = (alone.len(), alone);
        }
        let most = self.state.alone + self.job.options.effort.rounds();
        while self.state.candidates.iter().filter(|of| of.sizes.by_layer.is_none()).count() < most {
            let allocated = self.space(&probed.ways).allocate(&self.axes, &self.state.curves)?;
            let Some((predicted, sizes)) = self.state.untried(allocated) else { break };
            if !self.attempt(sizes, probed.basis, predicted, part, commit)? {
                return Ok(false);
            }
            self.state.curves = fit(&self.measured(probed));
        }
        Ok(true)
    }

    /// What was measured: the probes, and the candidates that are none.
    fn measured(&self, probed: &Probed) -> Vec<Measured> {
        let candidates = self.state.candidates.iter().skip(self.state.alone).filter(|one| one.sizes.by_layer.is_none());
        let measured = |cut: &Candidate| Measured { depths: cut.depths.clone(), kl: cut.kl() };
        probed.alone.iter().chain(candidates).map(measured).collect()
    }

    /// Measures a candidate; returns false if it was stopped.
    fn attempt(&mut self, sizes: Resize, basis: Width, predicted: f64, part: &Part, commit: Commit) -> Result<bool> {
        let plan = self.plan(sizes, basis)?;
        let agreement = self.measure(&plan, part, Purpose::Agreement)?.agreement;
        self.state.candidates.push(Candidate::new(self.config(), &plan, predicted, Some(agreement)));
        commit(&self.state)
    }

    /// Where layers may differ in size, tries the best candidate's heads and channels spread over them as what it costs
    /// to cut each says; returns false if it was stopped.
    fn spread(&mut self, basis: Width, part: &Part, commit: Commit) -> Result<bool> {
        let done = self.state.candidates.iter().any(|candidate| candidate.sizes.by_layer.is_some());
        let Some(best) = self.state.best_candidate().filter(|_| self.job.options.per_layer && !done) else {
            return Ok(true);
        };
        let sizes = self.state.candidates[best].sizes.clone();
        let spread = match &self.state.candidates[best].by_layer {
            Some(spread) => spread.clone(),
            None => {
                let costs = self.measure(&self.plan(sizes.clone(), basis)?, part, Purpose::Costs)?.costs;
                let spread = by_layer(self.config(), &sizes, &costs).unwrap_or_else(|| sizes.clone());
                self.state.candidates[best].by_layer = Some(spread.clone());
                if !commit(&self.state)? {
                    return Ok(false);
                }
                spread
            }
        };
        let predicted = self.state.candidates[best].predicted;
        if spread == sizes { Ok(true) } else { self.attempt(spread, basis, predicted, part, commit) }
    }

    /// Writes the candidate that agrees best with the dense model, fitted to all tokens.
    fn write(&mut self, commit: Commit) -> Result<()> {
        if self.state.kept.is_some() {
            return Ok(());
        }
        // It is of other sequences.
        self.recorded = None;
        let best = self.state.best_candidate().ok_or_else(|| Error::internal("no candidate"))?;
        self.state.best = Some(best);
        let Candidate { sizes, basis, .. } = &self.state.candidates[best];
        let plan = self.plan(sizes.clone(), *basis)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_leave_as_was_better_where_about_as_many_left() {
        let ways = Ways(vec![(8, Gaps::Single), (4, Gaps::Contiguous)]);
        let of: Vec<Gaps> = [1, 4, 6, 7, 12].map(|leave| ways.of(leave)).to_vec();
        let (row, single) = (Gaps::Contiguous, Gaps::Single);
        assert_eq!(of, [row, row, row, single, single]);
        assert_eq!(Ways::default().of(3), row);
    }
}
