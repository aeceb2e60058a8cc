//! Mixtures of experts: which experts leave, and what those that stay write.
//!
//! The experts leave that add least to the smaller model's residual z, as REAP has it ([`ExpertSums`]); the router's
//! choice among the others stays. With h = norm(z), K(h) the experts that the router then chooses, g their gates and a
//! what their last linear layers read, the smaller model's mixture adds Σ_j∈K(h) g_j · W_j · a_j. What that lacks of
//! the target t of the other writes ([`super::refit`]) is made up for expert by expert, each by least squares on its
//! own tokens and with what the ones before it have made up for already, ms(·) a token's mean square and w what it
//! counts for its place:
//!
//! ```text
//!     e = t − Σ_j g_j·W_j·a_j
//!     Δ = argmin Σ_{h: j∈K(h)} w·‖e − g_j·Δ·a_j‖² / ms(x_new) + μ_j‖Δ‖²,     W_j ← W_j + Δ,     e ← e − g_j·Δ·a_j
//! ```
//!
//! one sweep of the block coordinate descent on all writes at once, which needs the weights and the sums of one expert
//! at a time. The expert that every token goes to, where there is one, comes first: what it makes up for, the others
//! need not. An expert sees a fraction of the tokens, and with few of them the sums say little of most directions: so
//! μ_j = λ·(1 + ν·F/n_j) · tr(Σ g²·a·aᵀ / ms)/F, F the width of a and n_j the expert's tokens. In the share of the mean
//! energy that λ is, this is what the other fits have where tokens are many; where they are few, it is the energy of
//! ν·λ tokens in every direction, whatever n_j, and what tokens do not tell stays as it was. An expert without tokens
//! stays as it is stored.

use std::ops::Range;

use super::{cut::pick, results::MADE_UP};
use crate::{
    error::{Error, Result},
    fit::{Regression, copied, write_target},
    gpu::{Gpu, Matrix},
    model::{
        Config, ExpertTap, Given, HostLinear, Kept, LayerContext, Linear, Names, NoExpertTap, PLACES, Routed,
        StepWeights, TensorSpec,
        architecture::{Role, Weight},
        gathered, mix, place, without_lowest,
    },
    stream::{ExpertSums, Pass, Placement, Residual, located, transposed},
};

/// The ν above. On a small trained mixture, with 256, 1024, 4096 and 16384 tokens, 60 to 200 were within 3 % in
/// perplexity of the best of 0, 1, 5, 20, 60, 200 and 600.
const PULL: f64 = 100.0;

/// A mixture with some of its experts.
pub struct Mixture<'a> {
    /// Of the model that it belongs to, which has as many experts in this layer.
    pub config: &'a Config,
    pub layer: usize,
    /// The router, with a row for each of the experts, and the norm before it.
    pub weights: &'a StepWeights,
    /// By their numbers in the dense model.
    pub experts: &'a [usize],
    pub rope_tables: &'a [Matrix],
}

/// The residuals that a fit has to do with, and how much their tokens count.
pub struct Residuals<'a> {
    /// The dense model's, after the step.
    pub dense: &'a Residual,
    /// The dense model's before it, of the batches that count; used up.
    pub before: &'a mut Residual,
    /// The smaller model's before it, which becomes that after it.
    pub small: &'a mut Residual,
    /// The smaller model's after it, while that is worked on.
    pub made: &'a mut Residual,
    pub by_place: [f32; PLACES],
}

impl Residuals<'_> {
    /// Puts what a batch of the smaller model's residual is to be after the step in the place of the dense one before
    /// it; `z` is the smaller one before it.
    fn aim(&mut self, gpu: &Gpu, index: usize, z: &Matrix) -> Result<()> {
        let x = copied(gpu, &self.dense.load(gpu, index)?)?;
        let goal = write_target(gpu, x, &self.before.load(gpu, index)?, z, MADE_UP)?;
        gpu.subtract(&goal, z, -1.0)?;
        self.before.store(gpu, index, goal, false)
    }
}

/// An expert: its weights on the GPU, and the tokens of each batch that go to it.
struct Expert<'h> {
    host: Vec<HostLinear<'h>>,
    linears: Vec<Linear>,
    given: Vec<Vec<Given>>,
}

impl<'h> Expert<'h> {
    fn upload(gpu: &Gpu, host: Vec<HostLinear<'h>>, given: Vec<Vec<Given>>) -> Result<Self> {
        let linears = host.iter().map(|linear| Linear::upload(gpu, linear)).collect::<Result<Vec<_>>>()?;
        Ok(Self { host, linears, given })
    }

    /// What writes the residual.
    fn down(&self) -> Result<&Linear> {
        let down = self.linears.iter().find(|linear| linear.role == Role::Down);
        down.ok_or_else(|| Error::shape("expert", "an expert that writes nothing"))
    }
}

/// Where the weights of an expert are written.
enum Place<'p> {
    /// Each to a tensor of its own, by the names that it had and has now.
    Apart(&'p dyn Fn(&Weight) -> [String; 2]),
    /// What writes the residual to the end of a tensor of all experts, as transpose; other weights are there.
    Together { from: &'p TensorSpec, expert: usize, to: &'p str },
}

/// How the mixture of a layer is cut and fitted.
pub struct Fitting<'a> {
    /// The dense model's config with what is left of each layer.
    pub cut: &'a Config,
    pub ridge: f64,
    pub layer: usize,
    /// Of the layer in the output.
    pub place: usize,
    pub rope_tables: &'a [Matrix],
}

impl Fitting<'_> {
    /// Chooses the experts that stay, if nobody has `selected` them, fits them, writes them, and takes the smaller
    /// residual through them. `weights` has the router of the dense model. Returns the experts.
    ///
    /// # Errors
    /// As [`mix`]; [`Error::Numerical`], [`Error::Write`], those of residuals.
    pub fn choose_and_fit(
        &self,
        pass: &mut Pass,
        mut weights: StepWeights,
        selected: Option<&Kept>,
        mut residuals: Residuals,
    ) -> Result<Vec<usize>> {
        let Self { cut, ridge, layer, place, rope_tables } = *self;
        let of = |config: &Config| Kept::all(layer, &config.layers[layer]).experts;
        let (all, left) = (of(pass.config), of(cut).len());
        let experts = match selected {
            Some(selected) => selected.experts.clone(),
            None if left == all.len() => all,
            None => {
                let whole = Mixture { config: pass.config, layer, weights: &weights, experts: &all, rope_tables };
                let scores = whole.scores(pass, residuals.small, residuals.made)?;
                without_lowest(&scores, &all, all.len() - left)
            }
        };
        // The router's rows go with their experts.
        for linear in weights.blocks.iter_mut().flat_map(|block| &mut block.linears) {
            *linear = pick(pass.gpu, linear, &experts)?;
        }
        let mixture = Mixture { config: cut, layer, weights: &weights, experts: &experts, rope_tables };
        mixture.fit(pass, place, &mut residuals, ridge)?;
        Ok(experts)
    }
}

impl Mixture<'_> {
    /// Adds to the residuals of some batches what the mixture makes of them. Where residuals are not to stay on the
    /// GPU, the experts come again for every batch. Returns which tokens of each batch went where.
    ///
    /// # Errors
    /// As [`mix`]; those of the residual.
    pub fn run(
        &self,
        pass: &Pass,
        residual: &mut Residual,
        batches: Range<usize>,
        save: bool,
        tap: &mut dyn ExpertTap,
    ) -> Result<Vec<Routed>> {
        let (gpu, end) = (pass.gpu, batches.end);
        let together = if pass.job.memory.placement == Placement::Gpu { batches.len().max(1) } else { 1 };
        let mut routed = Vec::new();
        for first in batches.step_by(together) {
            let group = first..end.min(first + together);
            let held = group.clone().map(|index| pass.batch(index)).collect::<Result<Vec<_>>>()?;
            let mut signals = group.clone().map(|index| residual.load(gpu, index)).collect::<Result<Vec<_>>>()?;
            let contexts = held.iter().map(|batch| batch.context(gpu, self.config, self.layer, self.rope_tables));
            let mut both: Vec<(LayerContext, &mut Matrix)> = contexts.zip(&mut signals).collect();
            routed.extend(mix(gpu, pass.job.model, self.weights, self.experts, &mut both, tap)?);
            for (index, x) in group.zip(signals) {
                residual.store(gpu, index, x, save)?;
                pass.job.progress.advance(1)?;
            }
        }
        Ok(routed)
    }

    /// Takes the dense model's residual through all of its mixture; puts what it was before, of the batches that count,
    /// into `before`, where that is needed.
    ///
    /// # Errors
    /// As [`Mixture::run`].
    pub fn run_dense(
        &self,
        pass: &Pass,
        dense: &mut Residual,
        before: Option<&mut Residual>,
        save: bool,
    ) -> Result<()> {
        if let Some(before) = before {
            for index in 0..pass.counted {
                before.store(pass.gpu, index, copied(pass.gpu, &dense.load(pass.gpu, index)?)?, false)?;
            }
        }
        self.run(pass, dense, 0..pass.batches.len(), save, &mut NoExpertTap)?;
        dense.finish_pass();
        Ok(())
    }

    /// What each expert adds to the residual of the batches that count.
    fn scores(&self, pass: &Pass, small: &Residual, made: &mut Residual) -> Result<Vec<f64>> {
        for index in 0..pass.counted {
            made.store(pass.gpu, index, copied(pass.gpu, &small.load(pass.gpu, index)?)?, false)?;
        }
        let mut sums = ExpertSums::new(pass.gpu, self.config);
        self.run(pass, made, 0..pass.counted, false, &mut sums)?;
        sums.scores(self.layer)
    }

    /// Fits what the experts write, writes the mixture as that of layer `place` of the output, and takes the smaller
    /// model's residual through it.
    fn fit(&self, pass: &mut Pass, place: usize, residuals: &mut Residuals, ridge: f64) -> Result<()> {
        let (gpu, model, names) = (pass.gpu, pass.job.model, Names::of(pass.config));
        let all = 0..pass.batches.len();
        for index in all.clone() {
            let z = residuals.small.load(gpu, index)?;
            if index < pass.counted {
                residuals.aim(gpu, index, &z)?;
            }
            residuals.made.store(gpu, index, copied(gpu, &z)?, false)?;
        }
        let routed = self.run(pass, residuals.made, all.clone(), false, &mut NoExpertTap)?;
        for linear in self.weights.blocks.iter().flat_map(|block| &block.linears) {
            pass.writer.linear(place, linear)?;
        }
        let mut host = model.store.shared_expert(self.layer)?;
        if let Some(gate) = host.pop() {
            let given = self.shared(pass, residuals, &gate)?;
            let shared = Expert::upload(gpu, host, given)?;
            let name = |layer: usize, weight: &Weight| names.layer(layer, &format!("{}.weight", weight.name));
            self.copy(pass, &gate, [self.layer, place].map(|layer| name(layer, gate.spec)))?;
            let names = |spec: &Weight| [self.layer, place].map(|layer| name(layer, spec));
            self.fit_expert(pass, &shared, residuals, ridge, Place::Apart(&names))?;
        }
        let together = self.copy_together(pass, place)?;
        for (number, &expert) in self.experts.iter().enumerate() {
            let given = routed.iter().map(|routed| routed.tokens(number).to_vec()).collect();
            let own = Expert::upload(gpu, model.store.expert(self.layer, expert)?, given)?;
            let name = |spec: &Weight| [names.expert(self.layer, expert, spec), names.expert(place, number, spec)];
            let place = match &together {
                Some((from, to)) => Place::Together { from, expert, to },
                None => Place::Apart(&name),
            };
            self.fit_expert(pass, &own, residuals, ridge, place)?;
        }
        for index in all {
            residuals.small.store(gpu, index, residuals.made.load(gpu, index)?, true)?;
            pass.job.progress.advance(1)?;
        }
        residuals.small.finish_pass();
        Ok(())
    }

    /// Writes what the experts that stay read, and their biases, where a tensor holds those of all; returns the one of
    /// what they write, and its name in the output.
    fn copy_together(&self, pass: &mut Pass, place: usize) -> Result<Option<(TensorSpec, String)>> {
        let names = Names::of(pass.config);
        let Some(together) = pass.config.architecture.mixture.and_then(|mixture| mixture.together) else {
            return Ok(None);
        };
        let (start, down) = (names.layer(self.layer, ""), names.layer(self.layer, together.down));
        let mut written = None;
        for spec in pass.config.together(self.layer) {
            let name = names.layer(place, spec.name.strip_prefix(&start).unwrap_or(&spec.name));
            if spec.name == down {
                written = Some((spec, name));
                continue;
            }
            self.experts.iter().try_for_each(|&expert| pass.copy_rows(&spec, spec.rows_of(expert), &name))?;
        }
        Ok(written)
    }

    /// All tokens, with what the expert that all of them go to counts for each.
    fn shared(&self, pass: &Pass, residuals: &Residuals, gate: &HostLinear) -> Result<Vec<Vec<Given>>> {
        let gate = Linear::upload(pass.gpu, gate)?;
        let of = |index: usize| {
            let (batch, z) = (pass.batch(index)?, residuals.small.load(pass.gpu, index)?);
            let context = batch.context(pass.gpu, self.config, self.layer, self.rope_tables);
            context.shared(&gate, &self.normed(&context, &z)?)
        };
        (0..pass.batches.len()).map(of).collect()
    }

    fn normed(&self, context: &LayerContext, x: &Matrix) -> Result<Matrix> {
        let block = self.weights.mixture().ok_or_else(|| Error::shape("mixture", "a step without experts"))?;
        context.norm(block, x)
    }

    /// Fits what an expert writes, and writes its weights.
    fn fit_expert(
        &self,
        pass: &mut Pass,
        expert: &Expert,
        residuals: &mut Residuals,
        ridge: f64,
        place: Place,
    ) -> Result<()> {
        let gpu = pass.gpu;
        let change = self.change(pass, expert, residuals, ridge)?;
        if let Some(change) = &change {
            let change = gpu.upload(change, expert.down()?.weight.rows(), expert.down()?.weight.cols())?;
            self.add(pass, expert, residuals, &change)?;
        }
        for (linear, host) in expert.linears.iter().zip(&expert.host) {
            let fitted = match &change {
                Some(change) if linear.role == Role::Down && !pass.writer.is_idle() => {
                    let mut values = gpu.download(&linear.weight)?;
                    values.iter_mut().zip(change).for_each(|(value, change)| *value += change);
                    Some(values)
                }
                _ => None,
            };
            match (&place, fitted) {
                (Place::Apart(names), Some(values)) => pass.writer.write(&names(linear.spec)[1], &values)?,
                (Place::Apart(names), None) => self.copy(pass, host, names(linear.spec))?,
                (Place::Together { to, .. }, Some(values)) => {
                    let (rows, cols) = (linear.weight.rows(), linear.weight.cols());
                    pass.writer.write(to, &transposed(&values, rows, cols).collect::<Vec<_>>())?;
                }
                (Place::Together { from, expert, to }, None) if linear.role == Role::Down => {
                    pass.copy_rows(from, from.rows_of(*expert), to)?;
                }
                (Place::Together { .. }, None) => {}
            }
        }
        Ok(())
    }

    fn copy(&self, pass: &mut Pass, host: &HostLinear, [from, to]: [String; 2]) -> Result<()> {
        pass.copy(&TensorSpec { name: from, shape: vec![host.matrix.rows, host.matrix.cols] }, &to)
    }

    /// The Δ of an expert, `[width, intermediate_size]`, row-major; `None` where no token goes to it.
    fn change(&self, pass: &Pass, expert: &Expert, residuals: &Residuals, ridge: f64) -> Result<Option<Vec<f32>>> {
        let (gpu, down) = (pass.gpu, &expert.down()?.weight);
        let tokens: usize = expert.given[..pass.counted].iter().map(Vec::len).sum();
        if tokens == 0 {
            return Ok(None);
        }
        let (width, inner) = (down.rows(), down.cols());
        let mut regression = Regression::new(vec![inner], width, false);
        let sums = |index: usize, given: &[Given], hidden: Matrix| {
            let gated = gpu.zeros(given.len(), inner)?;
            let gates: Vec<(u32, f32)> = (0..).zip(given.iter().map(|given| given.gate)).collect();
            gpu.add_rows(&hidden, &gated, &gates)?;
            let rows = |residual: &Residual| gathered(gpu, &residual.load(gpu, index)?, given);
            let lacks = rows(residuals.before)?;
            gpu.subtract(&lacks, &rows(residuals.made)?, 1.0)?;
            let energy = gpu.energy(&rows(residuals.dense)?)?;
            let ones = gpu.upload(&vec![1.0; given.len()], given.len(), 1)?;
            let rows = pass.job.rows[pass.batches[index].clone()].iter();
            let all: Vec<usize> = rows.flat_map(|row| (0..row.len()).map(place)).collect();
            let counts: Vec<f32> = given.iter().map(|given| residuals.by_place[all[given.token as usize]]).collect();
            let counts = gpu.upload(&counts, 1, counts.len())?;
            for signal in [&gated, &lacks, &ones] {
                gpu.scale_tokens(signal, &energy, Some(&counts), self.config.hidden_size, self.config.norm_eps)?;
            }
            regression.add(gpu, &[gated], &lacks, &ones)
        };
        self.each_hidden(pass, expert, residuals.small, 0..pass.counted, sums)?;
        let ridge = ridge * (1.0 + PULL * inner as f64 / tokens as f64);
        let fit = regression.fit(gpu, &vec![0.0; width * inner], ridge);
        let fit = located(format_args!("layer {}", self.layer), fit)?;
        Ok(Some(fit.weights.into_iter().map(|value| value as f32).collect()))
    }

    /// Adds what the change of its weights makes of an expert's tokens to what is made so far.
    fn add(&self, pass: &Pass, expert: &Expert, residuals: &mut Residuals, change: &Matrix) -> Result<()> {
        let (gpu, made) = (pass.gpu, &mut *residuals.made);
        let add = |index: usize, given: &[Given], hidden: Matrix| {
            let result = gpu.unfilled(given.len(), change.rows())?;
            gpu.linear(&hidden, change, None, &result, 0, false)?;
            let y = made.load(gpu, index)?;
            let targets: Vec<(u32, f32)> = given.iter().map(|given| (given.token, given.gate)).collect();
            gpu.add_rows(&result, &y, &targets)?;
            made.store(gpu, index, y, false)
        };
        self.each_hidden(pass, expert, residuals.small, 0..pass.batches.len(), add)
    }

    /// What the last linear layer of an expert reads of its tokens of some batches, a part of them at a time.
    fn each_hidden(
        &self,
        pass: &Pass,
        expert: &Expert,
        small: &Residual,
        batches: Range<usize>,
        mut each: impl FnMut(usize, &[Given], Matrix) -> Result<()>,
    ) -> Result<()> {
        for index in batches.filter(|&index| !expert.given[index].is_empty()) {
            let (batch, z) = (pass.batch(index)?, small.load(pass.gpu, index)?);
            let context = batch.context(pass.gpu, self.config, self.layer, self.rope_tables);
            for given in expert.given[index].chunks(context.expert_rows(&expert.linears)?) {
                let read = self.normed(&context, &gathered(pass.gpu, &z, given)?)?;
                each(index, given, context.expert_hidden(&expert.linears, &read)?)?;
            }
        }
        Ok(())
    }
}
