//! One pass that makes the smaller model: the dense one runs beside it, step by step, and everything is fitted to that.
//!
//! With x the dense residual and z the smaller model's, T₀ and S' the ways from z's coordinates and into them
//! ([`crate::fit::axes`]), n(·) the norm before a block, a' what the smaller model's own weights read, q how much of
//! what was lost before is made up for, and each token of a write's error divided by the root mean square of x_new
//! (without what the mean of an embedding adds, where a layer norm takes that off), as the next norm will do, and
//! counted by its place in its sequence, w (`sensitivity`):
//!
//! ```text
//!     reads:   T = argmin Σ ‖n(x) − T·n(z)‖² + μ‖T − T₀‖²              W' = W·T
//!     writes:  W' = argmin Σ w·‖t − W'·a'‖² / ms(x_new) + Σ μ‖W' − S'·W‖²,   t = S'·(x_new − x) + q·(S'·x − z)
//! ```
//!
//! Where a norm comes after a block, it makes of anything what has that norm's length: the target is then what the
//! dense block gives before it, o, with each token's error divided by the root mean square of that, t = o.
//!
//! Heads and channels that are to go leave the second problem where they cost it least ([`crate::linalg::subset`]),
//! what is lost of a direction counting by how much the predictions mind (`sensitivity`), and then what wrote them.
//! Where layers are left out, the dense model runs through them alone, and the write before the gap is fitted to the
//! residual after it. Until the first cut both residuals are the same: nothing is fitted there, and what is written is
//! what was read. Where the width is whole, S' and T₀ are the identity, norms stay as they are, and so do the weights
//! that read: on the models that were tried, fitting these won nothing that the writes after them did not.

use std::{cell::RefCell, ops::Range, time::Instant};

use super::{
    cut::{Cut, Quota, Rows, pick_kept, pick_rows, record},
    dense::{Dense, Reads, Recorded},
    head::{Head, Ways},
    layers::Costs,
    mixture::{Fitting, Residuals},
    plan::Plan,
    results::{MADE_UP, Outcome, Refitted, has_norm_after},
    sensitivity::Sensitivities,
    survey::Facts,
    watch::agreement,
};
use crate::{
    error::{Error, Result},
    fit::{Fit, Map, Metric, Regression, Rotation, System, Writes, copied, project_write, write_target},
    gpu::Matrix,
    model::{
        Agreement, Config, HostEnds, HostLayer, HostStep, InnerTap, Kept, LayerSpec, Linear, Names, NoTap, Step,
        StepWeights, TensorSpec, architecture::Space, places,
    },
    stream::{At, Method, Pass, Residual, located},
};

/// Both models, one step at a time.
pub struct Refit<'a> {
    plan: &'a Plan,
    ridge: f64,
    /// What selections and fits go by; none where what stays is `selected`, or experts alone leave.
    sensitivities: Option<Sensitivities<'a>>,
    /// What carries the narrower stream back, `[hidden_size, width]`, where it is.
    back: Option<Vec<f32>>,
    /// What somebody else has chosen to stay of each layer.
    selected: Vec<Kept>,
    /// Into the narrower residual stream, with the final norm where the head is the embedding.
    coordinates: Option<(Rotation, Option<Vec<f64>>)>,
    dense: Dense<'a>,
    small: Residual,
    /// The smaller one after a mixture that is being fitted.
    made: Residual,
    /// Whether the two models differ.
    apart: bool,
    /// The dense model's config with the heads and channels that are left.
    cut: Config,
    /// A step that is finished once the dense model is through the layers that are left out after it.
    waiting: Option<Waiting>,
    kept: Vec<Kept>,
    /// What it costs to cut each layer, where that is asked for.
    costs: Option<Vec<Costs>>,
    agreement: Option<Agreement>,
}

/// A step of the smaller model whose reads are there.
struct Waiting {
    layer: usize,
    step: Step,
    weights: StepWeights,
    /// Projected, to be fitted.
    writes: Vec<Linear>,
}

impl<'a> Refit<'a> {
    /// Starts, or restores what was committed.
    ///
    /// # Errors
    /// [`Error::BadFile`] if what was committed is damaged; [`Error::Read`]; [`Error::Numerical`]; whatever the upload
    /// reports.
    pub fn new(pass: &Pass, plan: &'a Plan, facts: &Facts, ridge: f64, from: Option<&Refitted>) -> Result<Self> {
        let coordinates = match plan.sizes.width {
            Some(_) => Some(facts.coordinates(pass, plan, &pass.job.model.store.ends()?)?),
            None => None,
        };
        let back = coordinates.as_ref().map(|(rotation, _)| rotation.values(pass.gpu)).transpose()?;
        Self { coordinates, back, ..Self::of_width(pass, plan, ridge) }.from(pass, from)
    }

    /// The same where the width and the layers stay, and so does what is `selected` of each layer.
    ///
    /// # Errors
    /// As [`Refit::new`].
    pub fn of_selection(
        pass: &Pass,
        plan: &'a Plan,
        selected: &[Kept],
        ridge: f64,
        from: Option<&Refitted>,
    ) -> Result<Self> {
        Self::of_width(pass, plan, ridge).of_those(selected.to_vec()).from(pass, from)
    }

    /// Nothing done, at the width that the plan has.
    fn of_width(pass: &Pass, plan: &'a Plan, ridge: f64) -> Self {
        let config = pass.config;
        let mut cut = config.clone();
        for (place, &layer) in plan.sizes.layers.iter().enumerate() {
            cut.layers[layer] = plan.config.layers[place].clone();
        }
        Self {
            plan,
            ridge,
            sensitivities: None,
            back: None,
            selected: Vec::new(),
            coordinates: None,
            dense: Dense::new(pass),
            small: pass.residual("small", plan.width),
            made: pass.residual("made", plan.width),
            apart: false,
            cut,
            waiting: None,
            kept: Vec::new(),
            costs: None,
            agreement: None,
        }
    }

    /// Restores what was committed, and begins.
    fn from(mut self, pass: &Pass, from: Option<&Refitted>) -> Result<Self> {
        self.apart = self.narrower();
        if let Some(from) = from {
            self.kept = from.kept.clone();
            let mut residuals = from.residuals.iter();
            if let Some(saved) = residuals.next() {
                self.dense.now.resume(pass.gpu, *saved, 0)?;
            }
            if let Some(saved) = residuals.next() {
                self.small.resume(pass.gpu, *saved, 0)?;
                self.apart = true;
            }
        }
        let done = from.map_or(0, |from| from.layers);
        let steps = pass.config.steps().len();
        let stay = self.plan.sizes.layers.iter().filter(|&&layer| layer >= done).count();
        let passes = (pass.config.layers.len() - done + 2 * stay) * steps * pass.batches.len();
        pass.job.progress.begin("fit", (passes + pass.batches.len() - pass.counted) as u64);
        Ok(self)
    }

    /// The same, where what leaves layers is chosen by how much the model minds.
    pub fn with_sensitivities(self, sensitivities: Option<Sensitivities<'a>>) -> Self {
        Self { sensitivities, ..self }
    }

    /// The same, noting what it costs to cut each layer.
    pub fn with_costs(self) -> Self {
        Self { costs: Some(Vec::new()), ..self }
    }

    /// The same, with what was recorded of the dense model on these sequences, or recording it.
    pub fn with_recorded(mut self, recorded: &'a RefCell<Recorded>) -> Self {
        self.dense = self.dense.with_recorded(recorded);
        self
    }

    /// The same where what stays of each layer is chosen already.
    pub fn of_those(self, selected: Vec<Kept>) -> Self {
        Self { selected, ..self }
    }

    /// What came of it, once the end was reached.
    pub fn outcome(self) -> Option<Outcome> {
        Some(Outcome { agreement: self.agreement?, kept: self.kept, costs: self.costs.unwrap_or_default() })
    }

    fn narrower(&self) -> bool {
        self.coordinates.is_some()
    }

    fn rotation(&self) -> Option<&Rotation> {
        self.coordinates.as_ref().map(|(rotation, _)| rotation)
    }

    /// A signal of the dense model in the smaller one's coordinates, in memory of its own.
    fn moved(&self, pass: &Pass, x: &Matrix) -> Result<Matrix> {
        match self.rotation() {
            Some(rotation) => rotation.rows(pass.gpu, x),
            None => copied(pass.gpu, x),
        }
    }

    /// Runs a step of the dense model; where the width is cut, returns the map that its reads are fitted with. `keeps`
    /// says whether the residual before it is needed.
    fn run_dense(&mut self, pass: &Pass, at: At, weights: &StepWeights, keeps: bool) -> Result<Option<Map>> {
        let (gpu, config) = (pass.gpu, pass.config);
        let mut reads = at.step.weights().filter(|weight| weight.reads == Space::Residual);
        let bias = reads.all(|weight| self.plan.config.linear_bias(weight));
        // Once fused, the norm before all blocks is the same, and they share a map.
        let fits = keeps && self.narrower();
        let reads = fits.then_some(Reads { small: &self.small, bias });
        let sums = self.dense.step(pass, at, weights, keeps, reads)?;
        let (Some(sums), Some(rotation)) = (sums, self.rotation()) else { return Ok(None) };
        let began = Instant::now();
        let fit = located(format_args!("layer {}", at.layer), sums.fit(gpu, &rotation.values(gpu)?, self.ridge))?;
        pass.timed("solve", began);
        Map::upload(gpu, &fit, config.hidden_size, self.small.width()).map(Some)
    }

    /// Begins the smaller residual where it leaves the dense one.
    fn part(&mut self, pass: &Pass) -> Result<()> {
        for index in 0..pass.batches.len() {
            let z = self.moved(pass, &self.dense.now.load(pass.gpu, index)?)?;
            self.small.store(pass.gpu, index, z, false)?;
        }
        self.small.finish_pass();
        self.apart = true;
        Ok(())
    }

    /// Fits what writes the residual after a step to the dense one as it is now, chooses what leaves, writes the step
    /// and runs it.
    fn finish(&mut self, pass: &mut Pass, waiting: Waiting, rope_tables: &[Matrix]) -> Result<()> {
        let Waiting { layer, step, mut weights, writes } = waiting;
        let place = self.plan.place(layer).ok_or_else(|| Error::shape("refit", "a layer that is left out"))?;
        if step.is_mixture() {
            return self.finish_mixture(pass, (layer, place, step), weights, rope_tables);
        }
        let (now, writes) = self.cut_and_fit(pass, (layer, step), &mut weights, writes, rope_tables)?;
        for linear in weights.blocks.iter().flat_map(|block| &block.linears).chain(&writes) {
            pass.writer.linear(place, linear)?;
        }
        writes.into_iter().for_each(|linear| weights.add(linear));
        for index in 0..pass.batches.len() {
            let batch = pass.batch(index)?;
            let z = self.small.load(pass.gpu, index)?;
            let z = batch.context(pass.gpu, &now, layer, rope_tables).step(&weights, z, &mut NoTap)?;
            self.small.store(pass.gpu, index, z, step.last)?;
            pass.job.progress.advance(1)?;
        }
        self.small.finish_pass();
        Ok(())
    }

    /// Fits what writes the residual after a step, and takes what is to leave the layer out of it and of the reads in
    /// `weights`. Returns the dense model's config with what is left of the layer, and the writes.
    fn cut_and_fit(
        &mut self,
        pass: &mut Pass,
        (layer, step): (usize, Step),
        weights: &mut StepWeights,
        mut writes: Vec<Linear>,
        rope_tables: &[Matrix],
    ) -> Result<(Config, Vec<Linear>)> {
        let mut now = pass.config.clone();
        let selected = self.selected.get(layer).cloned();
        let cuts = match selected {
            Some(_) => Vec::new(),
            None => Cut::of_step(&now.layers[layer], &self.cut.layers[layer], step),
        };
        if let Some(kept) = selected {
            let spec = &now.layers[layer];
            if kept != Kept::all(layer, spec) {
                *record(&mut self.kept, layer, spec) = kept.clone();
            }
            pick_kept(pass.gpu, &kept, spec, weights, &mut writes)?;
            now.layers[layer] = self.cut.layers[layer].clone();
        }
        let sensitivities = self.sensitivities.as_ref().filter(|_| !cuts.is_empty());
        let metric = sensitivities.map(|found| found.metric(layer, step, self.back.as_deref())).transpose()?.flatten();
        // Whole groups of heads leave first, and queries of those that stay after a fit without them.
        for round in 0..cuts.len().max(1) {
            let before = Writes { shortcut: None, linears: writes };
            let system = self.sums(pass, &now, (layer, step), weights, &before, rope_tables)?;
            let (began, mut widths) = (Instant::now(), before.widths());
            let fit = match cuts.get(round) {
                None => {
                    let fit = located(format_args!("layer {layer}"), system.solve())?;
                    pass.timed("solve", began);
                    fit
                }
                Some(cut) => {
                    let spec = now.layers[layer].clone();
                    let (kept, fit) = self.choose(system, (layer, &spec), cut, &before.linears, metric.as_ref())?;
                    pass.timed("solve", began);
                    let rows = Rows::of_columns(&spec, &before.linears, &kept);
                    record(&mut self.kept, layer, &spec).choose(&rows, &spec, &before.linears);
                    widths = before.linears.iter().map(|linear| rows.of(linear.role).len()).collect();
                    pick_rows(pass.gpu, &rows, weights)?;
                    rows.resize(&mut now.layers[layer]);
                    fit
                }
            };
            writes = before.fitted(pass.gpu, fit, self.small.width(), &widths)?.linears;
        }
        Ok((now, writes))
    }

    /// Solves for the writes of a layer of sizes `spec` without what a cut takes out; returns the columns that stay,
    /// and the fit.
    fn choose(
        &mut self,
        system: System,
        (layer, spec): (usize, &LayerSpec),
        cut: &Cut,
        writes: &[Linear],
        metric: Option<&Metric>,
    ) -> Result<(Vec<Range<usize>>, Fit)> {
        let (groups, quotas) = cut.groups(spec, writes);
        let remove: Vec<usize> = quotas.iter().map(|quota| quota.leave).collect();
        let deepest: Vec<usize> = self.costs.iter().flat_map(|_| quotas.iter().map(Quota::deepest)).collect();
        let chosen = system.subset(&groups, (&remove, &deepest), metric);
        let (kept, fit, removals) = located(format_args!("layer {layer}"), chosen)?;
        if let Some(costs) = &mut self.costs {
            costs.push(Costs::of(layer, &quotas, &groups, &removals));
        }
        Ok((kept.into_iter().map(|group| groups[group].columns.clone()).collect(), fit))
    }

    /// The same of a mixture, whose router `weights` has.
    fn finish_mixture(
        &mut self,
        pass: &mut Pass,
        (layer, place, step): (usize, usize, Step),
        weights: StepWeights,
        rope_tables: &[Matrix],
    ) -> Result<()> {
        let by_place = Sensitivities::places(self.sensitivities.as_ref(), layer, step);
        let Self { dense: Dense { now, before, .. }, small, made, .. } = self;
        let residuals = Residuals { dense: now, before, small, made, by_place };
        let fitting = Fitting { cut: &self.cut, ridge: self.ridge, layer, place, rope_tables };
        let experts = fitting.choose_and_fit(pass, weights, self.selected.get(layer), residuals)?;
        let spec = &pass.config.layers[layer];
        if experts.len() < Kept::all(layer, spec).experts.len() {
            record(&mut self.kept, layer, spec).experts = experts;
        }
        Ok(())
    }

    /// The equations of the writes of a step.
    fn sums(
        &self,
        pass: &Pass,
        now: &Config,
        (layer, step): (usize, Step),
        weights: &StepWeights,
        writes: &Writes,
        rope_tables: &[Matrix],
    ) -> Result<System> {
        let (gpu, config) = (pass.gpu, pass.config);
        let by_place = Sensitivities::places(self.sensitivities.as_ref(), layer, step);
        let mut regression = Regression::new(writes.widths(), self.small.width(), writes.has_bias());
        for index in 0..pass.counted {
            let batch = pass.batch(index)?;
            let z = self.small.load(gpu, index)?;
            let before = self.dense.before.load(gpu, index)?;
            let (x, target) = if has_norm_after(weights) {
                let target = copied(gpu, &before)?;
                (before, target)
            } else {
                let (x, before) = (self.dense.now.load(gpu, index)?, self.moved(pass, &before)?);
                let target = write_target(gpu, self.moved(pass, &x)?, &before, &z, MADE_UP)?;
                (x, target)
            };
            let ones = gpu.upload(&vec![1.0; x.rows()], x.rows(), 1)?;
            let counts: Vec<f32> = places(&batch.sequences).map(|place| by_place[place]).collect();
            let mut tap = InnerTap(|tokens: Range<usize>, inner: &[Matrix]| {
                let (target, ones) = (target.view(tokens.clone())?, ones.view(tokens.clone())?);
                let energy = gpu.energy(&x.view(tokens.clone())?)?;
                let counts = gpu.upload(&counts[tokens.clone()], 1, tokens.len())?;
                for signal in inner.iter().chain([&target, &ones]) {
                    gpu.scale_tokens(signal, &energy, Some(&counts), config.hidden_size, config.norm_eps)?;
                }
                regression.add(gpu, inner, &target, &ones)
            });
            batch.context(gpu, now, layer, rope_tables).inner(weights, &z, &mut tap)?;
            pass.job.progress.advance(1)?;
        }
        regression.system(gpu, &writes.prior(gpu, self.small.width())?, self.ridge)
    }

    /// Copies tensors of the dense model that the smaller one has as they are.
    fn copy(&self, pass: &mut Pass, specs: impl IntoIterator<Item = (TensorSpec, String)>) -> Result<()> {
        specs.into_iter().try_for_each(|(from, to)| pass.copy(&from, &to))
    }
}

impl Method for Refit<'_> {
    type State = Refitted;

    fn fused(&self) -> bool {
        self.narrower()
    }

    fn begin(&mut self, pass: &mut Pass, ends: &HostEnds) -> Result<()> {
        pass.embed(ends, &mut self.dense.now)?;
        if let Some(rotation) = self.rotation().cloned() {
            self.part(pass)?;
            return pass.write_tables(ends, |gpu, part| rotation.rows(gpu, part));
        }
        let starts = Names::of(pass.config).before_layers();
        let mut tables = pass.config.tensors();
        tables.retain(|spec| starts.iter().any(|start| spec.name.starts_with(start)));
        self.copy(pass, tables.into_iter().map(|spec| (spec.clone(), spec.name)))
    }

    fn step(&mut self, pass: &mut Pass, at: At, host: &HostStep) -> Result<()> {
        let (gpu, At { layer, step, rope_tables }) = (pass.gpu, at);
        let linears = pass.linears(step).collect::<Result<Vec<_>>>()?;
        let mut dense = StepWeights::of(gpu, &host.blocks, linears, self.narrower())?;
        let stays = self.plan.place(layer).is_some();
        let gap = step.last && layer + 1 < pass.config.layers.len() && self.plan.place(layer + 1).is_none();
        if !stays {
            self.run_dense(pass, at, &dense, false)?;
            return match self.waiting.take_if(|_| step.last && !gap) {
                Some(waiting) => self.finish(pass, waiting, rope_tables),
                None => Ok(()),
            };
        }
        if !self.apart && !gap && Cut::leaves_whole(&pass.config.layers[layer], &self.cut.layers[layer], step) {
            self.run_dense(pass, at, &dense, false)?;
            return self.copy(pass, self.plan.of_step(pass.config, layer, step));
        }
        if !self.apart {
            self.part(pass)?;
        }
        let map = self.run_dense(pass, at, &dense, true)?;
        let mut weights = StepWeights::of(gpu, &host.blocks, Vec::new(), self.narrower())?;
        let (reads, wrote) = dense.take_linears();
        for linear in reads {
            weights.add(map.as_ref().map_or_else(|| Ok(linear.clone()), |map| map.read(gpu, linear.clone()))?);
        }
        let mut writes = Vec::new();
        for linear in wrote {
            writes.push(self.rotation().map_or(Ok(linear.clone()), |rotation| project_write(gpu, rotation, linear))?);
        }
        drop(dense);
        let waiting = Waiting { layer, step, weights, writes };
        if gap {
            self.waiting = Some(waiting);
            return Ok(());
        }
        self.finish(pass, waiting, rope_tables)
    }

    fn layer(&mut self, pass: &mut Pass, layer: usize, host: &HostLayer) -> Result<()> {
        let Some(place) = self.plan.place(layer) else { return Ok(()) };
        if self.narrower() {
            return pass.writer.norms(place, host);
        }
        let head_norms = pass.config.head_norms(layer).concat().into_iter().map(|(stem, _)| stem);
        let delta = pass.config.delta_tensors(layer).into_iter().flatten().map(|(name, _)| name);
        let norms = pass.config.norms(layer).into_iter().map(str::to_owned);
        let sinks = pass.config.architecture.attention.sinks.map(str::to_owned);
        let stems: Vec<String> = norms.chain(head_norms).chain(delta).chain(sinks).collect();
        let stems: Vec<&str> = stems.iter().map(String::as_str).collect();
        self.copy(pass, self.plan.of_layer(pass.config, layer, &stems))
    }

    fn state(&mut self, pass: &mut Pass, layers: usize) -> Result<Option<Refitted>> {
        if self.waiting.is_some() || layers == 0 {
            return Ok(None);
        }
        pass.writer.sync()?;
        let mut residuals = vec![self.dense.now.save(&[])?];
        if self.apart {
            residuals.push(self.small.save(&[])?);
        }
        Ok(Some(Refitted { layers, residuals, kept: self.kept.clone() }))
    }

    /// The head, and how the two models agree.
    fn end(&mut self, pass: &mut Pass, ends: &HostEnds) -> Result<()> {
        let ways = Ways {
            config: &self.plan.config,
            coordinates: self.coordinates.as_ref(),
            stored_width: self.plan.stored_width,
            ridge: self.ridge,
            dense: &self.dense.now,
            small: self.apart.then_some(&self.small),
        };
        let head = ways.head(pass, ends)?;
        ways.write(pass, ends, &head)?;
        let fused = matches!(head, Head::Fused(_));
        self.agreement = Some(agreement(pass, ends, fused, |pass, index| ways.inputs(pass, ends, &head, index))?);
        Ok(())
    }
}
