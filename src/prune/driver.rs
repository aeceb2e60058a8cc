//! The rounds of pruning, and the writing of what is left; in one go, or resumed where it was stopped.

use serde::{Deserialize, Serialize};

use super::{
    choice::{LayerImportance, Share, cut, leaving},
    expert_scores::expert_scores,
    experts::{ExpertScores, cut_experts},
    measure::Measure,
    plan::{Groups, Options, Plan},
};
use crate::{
    checkpoint::OutputDirectory,
    error::Result,
    gpu::Gpu,
    model::{Config, HostLinear, Kept, Linear, Model, Names, TensorSpec, architecture::Space, without_lowest},
    progress::Progress,
    stream::{self, MemoryPlan, Pass, Passed, Sitting, StockForm},
};

/// What to prune, and how.
pub struct Job<'a> {
    pub model: &'a Model,
    /// The examples whose loss says what matters.
    pub rows: &'a [Vec<u32>],
    pub options: &'a Options,
    pub memory: MemoryPlan,
    /// Where the tensors go, and, beside them, what is needed to resume.
    pub directory: &'a OutputDirectory,
    pub progress: &'a dyn Progress,
}

/// What is done and durable.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Rounds that are over.
    pub rounds: usize,
    /// How far the gradients of the next one are, where they are begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradients: Option<Passed>,
    /// What is left of each layer after them; none before the first one.
    pub kept: Vec<Kept>,
    /// What each group of the layers that may be cut was last ranked by, where that is kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub importances: Vec<LayerImportance>,
    /// The coordinates of the residual stream that are left, where some have left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinates: Option<Vec<usize>>,
    /// What each of them was ranked by, where that is kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coordinate_importances: Vec<f64>,
    /// Layers that are written.
    pub written: usize,
    /// Whether all of the model is.
    pub done: bool,
}

impl Snapshot {
    /// Layers that were ranked, of a model of `layers` layers, once in every round.
    pub fn ranked(&self, layers: usize) -> usize {
        self.rounds * layers + self.gradients.as_ref().map_or(0, |passed| passed.layers(layers))
    }

    /// The plan of what is left of a model.
    ///
    /// # Errors
    /// As [`Plan::guess`].
    pub fn plan(&self, config: &Config, options: &Options) -> Result<Plan> {
        match &self.coordinates {
            Some(left) => Plan::narrower(config, left.len(), options),
            None => Plan::of(config, &self.kept, options),
        }
    }
}

impl Job<'_> {
    fn config(&self) -> &Config {
        self.model.config()
    }

    /// Ranks and cuts in rounds, and writes what is left, or resumes after `from`. Called at each commit point,
    /// `commit` returns false to stop there. Returns what is done.
    ///
    /// # Errors
    /// [`crate::Error::BadTensor`], [`crate::Error::Numerical`], [`crate::Error::Write`],
    /// [`crate::Error::Interrupted`], those of `commit`, and whatever the GPU reports.
    pub fn run(
        &self,
        gpu: &Gpu,
        from: Option<&Snapshot>,
        commit: &mut dyn FnMut(&Snapshot) -> Result<bool>,
    ) -> Result<Snapshot> {
        let mut state = from.cloned().unwrap_or_default();
        if self.rank(gpu, &mut state, commit)? && !state.done {
            self.write(gpu, &mut state, commit)?;
        }
        Ok(state)
    }

    /// Ranks and cuts in the rounds that are not over; returns whether all are.
    ///
    /// # Errors
    /// As [`Job::run`].
    pub fn rank(
        &self,
        gpu: &Gpu,
        state: &mut Snapshot,
        commit: &mut dyn FnMut(&Snapshot) -> Result<bool>,
    ) -> Result<bool> {
        if state.kept.is_empty() {
            state.kept = self.config().layers.iter().enumerate().map(|(layer, spec)| Kept::all(layer, spec)).collect();
        }
        while state.rounds < self.options.iterations {
            if self.options.groups == Groups::Experts {
                let Job { model, rows, ref memory, progress, .. } = *self;
                let Options { ratio, global, ref layers, .. } = *self.options;
                let scores = expert_scores(gpu, model, rows, layers.clone(), memory, progress)?;
                cut_experts(ratio, global, &self.config().layers, &scores, &mut state.kept);
                if self.options.keep_importances {
                    let importance = |found: ExpertScores| LayerImportance {
                        layer: found.layer,
                        experts: found.scores,
                        ..LayerImportance::default()
                    };
                    state.importances = scores.into_iter().map(importance).collect();
                }
            } else if self.options.groups == Groups::Coordinates {
                let measure = |job: &Self, _: &[Kept], sitting: &mut Sitting| job.coordinates(gpu, sitting);
                let Some(found) = self.sit(state, commit, measure)? else { return Ok(false) };
                let width = self.config().hidden_size;
                let all: Vec<usize> = (0..width).collect();
                let leave = leaving(width, width, 1, self.options.ratio);
                state.coordinates = Some(without_lowest(&found, &all, leave));
                if self.options.keep_importances {
                    state.coordinate_importances = found;
                }
            } else {
                let measure = |job: &Self, kept: &[Kept], sitting: &mut Sitting| job.importances(gpu, kept, sitting);
                let Some(importances) = self.sit(state, commit, measure)? else { return Ok(false) };
                if self.options.keep_importances {
                    let none =
                        |found: &LayerImportance| LayerImportance { layer: found.layer, ..LayerImportance::default() };
                    state.importances.extend(importances.iter().skip(state.importances.len()).map(none));
                    for (kept, newer) in state.importances.iter_mut().zip(&importances) {
                        kept.update(newer, &state.kept[newer.layer]);
                    }
                }
                self.round(state.rounds + 1, &importances, &mut state.kept);
            }
            state.rounds += 1;
            let passed = state.gradients.take();
            let goes_on = commit(state)?;
            passed.iter().for_each(|passed| passed.remove(self.directory));
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Measures from where it was stopped; `None` if it is stopped again.
    fn sit<T>(
        &self,
        state: &mut Snapshot,
        commit: &mut dyn FnMut(&Snapshot) -> Result<bool>,
        measure: impl FnOnce(&Self, &[Kept], &mut Sitting) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let (from, kept) = (state.gradients.clone().unwrap_or_default(), state.kept.clone());
        measure(
            self,
            &kept,
            &mut Sitting::after(from, &mut |passed| {
                state.gradients = Some(passed.clone());
                commit(state)
            }),
        )
    }

    /// What the groups of the layers that may be cut matter, where this much is left; `None` if it was stopped.
    ///
    /// # Errors
    /// As [`Job::run`].
    pub fn importances(&self, gpu: &Gpu, kept: &[Kept], sitting: &mut Sitting) -> Result<Option<Vec<LayerImportance>>> {
        self.measure(gpu, kept).run(sitting)
    }

    /// What the coordinates of the residual stream matter; `None` if it was stopped.
    ///
    /// # Errors
    /// As [`Job::run`].
    pub fn coordinates(&self, gpu: &Gpu, sitting: &mut Sitting) -> Result<Option<Vec<f64>>> {
        self.measure(gpu, &[]).coordinates(sitting)
    }

    fn measure<'m>(&'m self, gpu: &'m Gpu, kept: &'m [Kept]) -> Measure<'m> {
        let Job { model, rows, options, memory, directory, progress } = *self;
        Measure { gpu, model, rows, options, kept, memory, directory, progress }
    }

    /// Cuts what is due after round `number`: the share is spread evenly over the rounds.
    fn round(&self, number: usize, importances: &[LayerImportance], kept: &mut [Kept]) {
        let Options { ratio, iterations, groups, global, .. } = *self.options;
        // The last one is the whole share to the last bit.
        let ratio = if number == iterations { ratio } else { ratio * number as f64 / iterations as f64 };
        let (attention, mlp) = (groups != Groups::Mlp, groups != Groups::Attention);
        cut(Share { ratio, attention, mlp, global }, &self.config().layers, importances, kept);
    }

    fn write(&self, gpu: &Gpu, state: &mut Snapshot, commit: &mut dyn FnMut(&Snapshot) -> Result<bool>) -> Result<()> {
        let Job { model, memory, directory, progress, .. } = *self;
        let plan = state.plan(self.config(), self.options)?;
        let job = stream::Job {
            model,
            rows: &[],
            counted: None,
            watched: 0,
            memory,
            output: &plan.config,
            tensors: &plan.tensors,
            directory,
            progress,
        };
        let layers = self.config().layers.len();
        progress.begin("write", layers as u64);
        let written = (state.written > 0).then_some(state.written);
        let mut pass = Pass::new(gpu, job, StockForm::fused(plan.config.hidden_size), written)?;
        let coordinates = state.coordinates.clone();
        let coordinates = coordinates.as_deref();
        let names = Names::of(self.config());
        let tables = names.before_layers();
        let is_table = |name: &str| tables.iter().any(|start| name.starts_with(start));
        let of_layer = |name: &str| (0..layers).any(|layer| name.starts_with(&names.layer(layer, "")));
        if written.is_none() {
            self.copy(&mut pass, &plan, coordinates, |name| is_table(name))?;
        }
        for layer in state.written..layers {
            self.layer(gpu, &mut pass, &plan, &state.kept[layer], coordinates)?;
            pass.writer.sync()?;
            progress.advance(1)?;
            state.written = layer + 1;
            if !commit(state)? {
                return Ok(());
            }
        }
        self.copy(&mut pass, &plan, coordinates, |name| !is_table(name) && !of_layer(name))?;
        pass.writer.finish()?;
        state.done = true;
        commit(state).map(drop)
    }

    /// Writes tensors as they are, but for the coordinates of the residual stream that have left.
    fn copy(
        &self,
        pass: &mut Pass,
        plan: &Plan,
        coordinates: Option<&[usize]>,
        which: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let specs: Vec<TensorSpec> = self.config().tensors().into_iter().filter(|spec| which(&spec.name)).collect();
        let of_coordinates = Names::of(self.config()).of_coordinates();
        specs.iter().try_for_each(|spec| match coordinates {
            Some(left) if of_coordinates.contains(&spec.name) => pass.copy_columns(spec, left),
            _ if plan.in_mxfp4.contains(&spec.name) => pass.copy_mxfp4(spec, 0..spec.shape[0]),
            _ => pass.copy(spec, &spec.name),
        })
    }

    /// Writes what is left of a layer.
    fn layer(&self, gpu: &Gpu, pass: &mut Pass, plan: &Plan, kept: &Kept, coordinates: Option<&[usize]>) -> Result<()> {
        let (config, layer) = (self.config(), kept.layer);
        let start = Names::of(config).layer(layer, "");
        if coordinates.is_none() && *kept == Kept::all(layer, &config.layers[layer]) {
            return self.copy(pass, plan, None, |name| name.starts_with(&start));
        }
        let mut weights: Vec<String> = config.weights(layer).map(|weight| format!("{start}{}.", weight.name)).collect();
        let names = Names::of(config);
        let together = config.together(layer);
        weights.extend(together.iter().map(|spec| spec.name.clone()));
        weights.extend(config.expert_weights(layer).map(|(expert, weight)| names.expert(layer, expert, weight)));
        let others = |name: &str| name.starts_with(&start) && !weights.iter().any(|weight| name.starts_with(weight));
        self.copy(pass, plan, coordinates, others)?;
        for linear in self.model.store.layer(layer)?.linears() {
            pass.writer.linear(layer, &left(gpu, config, kept, coordinates, linear)?)?;
        }
        for spec in &together {
            if plan.in_mxfp4.contains(&spec.name) {
                pass.copy_mxfp4(spec, kept.experts.iter().copied())?;
                continue;
            }
            kept.experts.iter().try_for_each(|&expert| pass.copy_rows(spec, spec.rows_of(expert), &spec.name))?;
        }
        // Experts are numbered anew, and otherwise as they were.
        for (number, &expert) in kept.experts.iter().enumerate() {
            let own = |(of, _): &(usize, _)| *of == expert && together.is_empty();
            for (_, weight) in config.expert_weights(layer).filter(own) {
                let (rows, cols) = config.weight_shape(weight, layer);
                let spec = TensorSpec { name: names.expert(layer, expert, weight), shape: vec![rows, cols] };
                pass.copy(&spec, &names.expert(layer, number, weight))?;
            }
        }
        Ok(())
    }
}

/// The rows and columns of a weight that stay.
fn left(gpu: &Gpu, config: &Config, kept: &Kept, coordinates: Option<&[usize]>, linear: &HostLinear) -> Result<Linear> {
    let stays = kept.channels(linear.role, &config.layers[kept.layer]);
    let (all, cols) = (linear.matrix.to_f32()?, linear.matrix.cols);
    let whole = |count: usize| coordinates.map_or_else(|| (0..count).collect(), <[usize]>::to_vec);
    let (rows, columns) =
        if linear.spec.writes == Space::Residual { (whole(linear.matrix.rows), stays) } else { (stays, whole(cols)) };
    let values: Vec<f32> =
        rows.iter().flat_map(|row| columns.iter().map(|&col| all[row * cols + col]).collect::<Vec<_>>()).collect();
    let bias = linear.bias.as_ref().map(|bias| rows.iter().map(|&row| bias[row]).collect::<Vec<_>>());
    let bias = bias.map(|bias| gpu.upload(&bias, 1, bias.len())).transpose()?;
    let weight = gpu.upload(&values, rows.len(), columns.len())?;
    Ok(Linear { spec: linear.spec, role: linear.role, weight, bias })
}
