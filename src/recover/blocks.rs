//! Block reconstruction: each layer is trained by itself to make of what its trained predecessors give it what the same
//! layer of a teacher makes of its own (arXiv 2510.14444).
//!
//! What is to become small is the squared distance of each token's residual from the teacher's, relative to the length
//! of that: a few tokens with huge residuals, the first of a sequence above all, would else be all that counts.

use std::ops::Range;

use super::{
    job::{Job, Pace, Recovered, Snapshot},
    options::Options,
    order::sequences,
    parameters::{restore, state, update},
    weights::{Layers, Stored, Whole},
    write::write,
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    model::{
        Batch, BatchSize, Config, LayerContext, LayerWeights, Model, NoExpertTap, StepGradients, back_through_step,
        forward, plan_batches, through_step,
    },
    stream::{Placement, Residual, Supply},
};

/// Layers that are trained one after the other, and what goes through them.
struct Blocks<'a> {
    job: &'a Job<'a>,
    gpu: &'a Gpu,
    teacher: &'a Model,
    /// The sequences of each group that is trained on together.
    groups: Vec<Range<usize>>,
    /// How many of the groups, at the end, are not trained on.
    held: usize,
    rope_tables: [Vec<Matrix>; 2],
}

/// Trains and writes, as [`Job::run`] does.
pub(super) fn run(
    job: &Job,
    gpu: &Gpu,
    from: Option<&Snapshot>,
    commit: &mut dyn FnMut(&Snapshot) -> Result<bool>,
) -> Result<Recovered> {
    let teacher = job.teacher.ok_or_else(|| Error::Usage("--mode blocks needs --teacher DENSE".into()))?;
    check_teacher(job.config(), teacher.config(), job.stay)?;
    let blocks = Blocks::new(job, gpu, teacher)?;
    let mut now = from.cloned().unwrap_or_default();
    if !blocks.train(&mut now, commit)? {
        return Ok(Recovered { snapshot: now, low_rank: Vec::new() });
    }
    let mut low_rank = Vec::new();
    for layer in 0..job.config().layers.len() {
        low_rank.extend(blocks.trained(layer, &now)?.low_rank()?);
    }
    if !now.done {
        let mut open: Option<(usize, Layers)> = None;
        write(job, gpu, None, &mut |layer, step| {
            let layers = match open.take() {
                Some((found, layers)) if found == layer => layers,
                _ => blocks.trained(layer, &now)?,
            };
            let weights = layers.merged(layer, step);
            open = Some((layer, layers));
            weights
        })?;
        now.done = true;
        commit(&now)?;
    }
    Ok(Recovered { snapshot: now, low_rank })
}

/// Whether the layers of a model of this config can be trained towards those of a teacher: both have the same residual
/// stream, and as many layers, or the model those of the teacher that `stay`.
///
/// # Errors
/// [`Error::Usage`] that says what differs.
pub fn check_teacher(config: &Config, teacher: &Config, stay: Option<&[usize]>) -> Result<()> {
    let usage = |what: &str, own: usize, theirs: usize| {
        Err(Error::Usage(format!(
            "--teacher has {theirs} {what}, the model {own}: --mode blocks compares layer with layer; use --mode distil"
        )))
    };
    if config.fused() {
        return Err(Error::Usage(
            "--mode blocks needs a residual stream in the teacher's coordinates, and a sliced model has others; use \
             --mode lora or distil"
                .into(),
        ));
    }
    if teacher.fused() {
        return Err(Error::Usage("--teacher is a sliced model, whose residual stream has other coordinates".into()));
    }
    let like = stay.map_or(teacher.layers.len(), <[usize]>::len);
    if config.layers.len() != like {
        return usage("layers", config.layers.len(), like);
    }
    if config.hidden_size != teacher.hidden_size {
        return usage("coordinates", config.hidden_size, teacher.hidden_size);
    }
    if config.vocab_size != teacher.vocab_size {
        return usage("tokens", config.vocab_size, teacher.vocab_size);
    }
    Ok(())
}

impl<'a> Blocks<'a> {
    fn new(job: &'a Job<'a>, gpu: &'a Gpu, teacher: &'a Model) -> Result<Self> {
        let longest = job.rows.iter().map(Vec::len).max().unwrap_or(0);
        let (trained, held) = job.rows.split_at(job.rows.len() - job.held());
        // As many together as one step takes, or as there is room for.
        let room = job.memory.batch.rows.unwrap_or((job.memory.batch.tokens / longest.max(1)).max(1));
        let size = BatchSize { rows: Some(room.min(job.options.batch_size)), ..job.memory.batch };
        let mut groups = plan_batches(gpu, teacher.config(), trained, size)?;
        let along = plan_batches(gpu, teacher.config(), held, size)?;
        let held = along.len();
        groups.extend(along.into_iter().map(|rows| rows.start + trained.len()..rows.end + trained.len()));
        let rope_tables = [teacher.rope_tables(gpu, longest)?, job.model.rope_tables(gpu, longest)?];
        Ok(Self { job, gpu, teacher, groups, held, rope_tables })
    }

    fn batch(&self, group: usize) -> Result<Batch> {
        let rows = &self.job.rows[self.groups[group].clone()];
        Batch::new(self.gpu, self.job.config(), &rows.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    fn residual(&self, name: &str) -> Residual {
        let tokens = |rows: &Range<usize>| self.job.rows[rows.clone()].iter().map(Vec::len).sum();
        let batches = self.groups.iter().map(tokens).collect();
        let width = self.teacher.config().hidden_size;
        Residual::new(self.job.directory, name, self.job.memory.placement, width, batches)
    }

    /// What a model's first layer gets.
    fn embedded(&self, model: &Model, name: &str) -> Result<Residual> {
        let ends = model.ends(self.gpu)?;
        let mut residual = self.residual(name);
        for group in 0..self.groups.len() {
            residual.store(self.gpu, group, ends.embed(self.gpu, &self.batch(group)?)?, false)?;
        }
        residual.finish_pass();
        Ok(residual)
    }

    /// Refuses a model whose embeddings are others than the teacher's, as those of a rotated one are.
    fn check_coordinates(&self, own: &Residual, target: &Residual) -> Result<()> {
        let (x, t) = (own.load(self.gpu, 0)?, target.load(self.gpu, 0)?);
        let y = self.gpu.columns(&x, 0..x.cols())?;
        let apart = self.apart(&y, &t, &self.gpu.energy(&t)?)? / y.rows() as f64;
        if apart <= SAME {
            return Ok(());
        }
        Err(Error::Usage(
            "--mode blocks: the model embeds tokens otherwise than --teacher, so its residual stream has other \
             coordinates; use --mode distil"
                .into(),
        ))
    }

    /// Σ ‖y − t‖² / ‖t‖² over the tokens, of which y becomes (y − t) / ‖t‖, and `lengths` are the ‖t‖².
    fn apart(&self, y: &Matrix, t: &Matrix, lengths: &Matrix) -> Result<f64> {
        self.gpu.subtract(y, t, 1.0)?;
        self.gpu.scale_tokens(y, lengths, None, 1, EPSILON)?;
        Ok(self.gpu.download(&self.gpu.energy(y)?)?.into_iter().map(f64::from).sum())
    }

    /// Takes all groups through a layer, in place.
    fn forward(&self, which: usize, layer: usize, weights: &dyn Supply, residual: &mut Residual) -> Result<()> {
        let (gpu, model) = (self.gpu, if which == 0 { self.teacher } else { self.job.model });
        let config = model.config();
        let steps = config.layer_steps(layer).map(|step| weights.weights(layer, step)).collect::<Result<Vec<_>>>()?;
        // The experts of a mixture come once for all groups that are on the GPU.
        let on_gpu = self.job.memory.placement == Placement::Gpu;
        let together = if on_gpu && config.layers[layer].experts.is_some() { self.groups.len().max(1) } else { 1 };
        for first in (0..self.groups.len()).step_by(together) {
            let groups = first..self.groups.len().min(first + together);
            let held = groups.clone().map(|group| self.batch(group)).collect::<Result<Vec<_>>>()?;
            let mut states = groups.clone().map(|group| residual.load(gpu, group)).collect::<Result<Vec<_>>>()?;
            let contexts = held.iter().map(|batch| batch.context(gpu, config, layer, &self.rope_tables[which]));
            let mut batches: Vec<(LayerContext, &mut Matrix)> = contexts.zip(&mut states).collect();
            let progress = || self.job.progress.advance(0);
            forward(gpu, model, &LayerWeights { steps: steps.clone() }, &mut batches, &mut NoExpertTap, progress)?;
            for (group, x) in groups.zip(states) {
                residual.store(gpu, group, x, false)?;
            }
        }
        residual.finish_pass();
        Ok(())
    }

    /// A layer before its first step.
    fn fresh(&self, layer: usize) -> Result<Layers<'a>> {
        Layers::new(self.gpu, self.job.model, self.job.options, layer..layer + 1, true)
    }

    /// A layer as it was saved after its last step.
    fn trained(&self, layer: usize, now: &Snapshot) -> Result<Layers<'a>> {
        let mut layers = self.fresh(layer)?;
        let saved = now.saved.get(layer).ok_or_else(|| Error::shape("blocks", "a layer that was not trained"))?;
        restore(self.gpu, layers.parameters(), &self.job.load(*saved)?)?;
        Ok(layers)
    }

    /// Takes the layers that are left; returns false if it was stopped before the end.
    fn train(&self, now: &mut Snapshot, commit: &mut dyn FnMut(&Snapshot) -> Result<bool>) -> Result<bool> {
        let (gpu, count) = (self.gpu, self.job.config().layers.len());
        let of_teacher = self.teacher.config().layers.len();
        let all = count * self.job.options.steps;
        let stored = Stored::new(gpu, self.teacher, false, None);
        let mut target = self.embedded(self.teacher, "teacher")?;
        let mut own = self.embedded(self.job.model, "student")?;
        self.check_coordinates(&own, &target)?;
        self.job.progress.begin("train", (all - now.steps) as u64);
        let mut pace = Pace::new(now.steps);
        let mut reached = 0;
        for layer in 0..count {
            // What is left out after a layer is made up for by that.
            let end = self.job.stay.map_or(layer + 1, |stay| stay.get(layer + 1).map_or(of_teacher, |next| *next));
            for passed in reached..end {
                self.forward(0, passed, &stored, &mut target)?;
            }
            reached = end;
            let layers = match now.saved.get(layer) {
                Some(_) => self.trained(layer, now)?,
                None => {
                    let layers = self.layer(layer, &own, &target, now, &mut pace)?;
                    if !commit(now)? && layer + 1 < count {
                        return Ok(false);
                    }
                    layers
                }
            };
            self.forward(1, layer, &Whole(&layers), &mut own)?;
        }
        self.job.progress.end();
        Ok(true)
    }

    /// Trains a layer that gets `own` to give `target`, and saves it.
    fn layer(
        &self,
        layer: usize,
        own: &Residual,
        target: &Residual,
        now: &mut Snapshot,
        pace: &mut Pace,
    ) -> Result<Layers<'a>> {
        let (job, gpu) = (self.job, self.gpu);
        let Options { steps, batch_size, seed, .. } = *job.options;
        let mut layers = self.fresh(layer)?;
        let trained = self.groups.len() - self.held;
        // Of full groups.
        let together = batch_size.div_ceil(self.groups[0].len()).min(trained);
        for step in 0..steps {
            layers.begin(step);
            let groups = sequences(step, together, trained, seed);
            let mut sums = None;
            let found = self.distance(layer, &layers, (own, target), &groups, Some(&mut sums));
            let loss = job.at(now.steps, found)?;
            for (index, sums) in sums.iter().flatten().enumerate() {
                layers.set_gradients(layer, index, sums)?;
            }
            job.at(now.steps, update(gpu, job.options, step, layers.parameters()))?;
            now.steps += 1;
            now.losses.push(loss as f32);
            pace.add(groups.iter().map(|&group| self.tokens(group)).sum());
            if step + 1 == steps && self.held > 0 {
                layers.begin(steps);
                let groups: Vec<usize> = (trained..self.groups.len()).collect();
                let found = self.distance(layer, &Whole(&layers), (own, target), &groups, None);
                now.validation.push((now.steps, job.at(now.steps - 1, found)? as f32));
            }
            pace.tell(job.progress, now, job.config().layers.len() * steps);
            job.progress.advance(1)?;
        }
        layers.begin(steps);
        now.saved.push(job.save(layer, &state(gpu, &layers.parameters())?)?);
        Ok(layers)
    }

    fn tokens(&self, group: usize) -> usize {
        self.job.rows[self.groups[group].clone()].iter().map(Vec::len).sum()
    }

    /// The mean over the tokens of some groups of `‖y − t‖² / ‖t‖²`, and its gradients by what is wanted of each step.
    fn distance(
        &self,
        layer: usize,
        weights: &dyn Supply,
        (own, target): (&Residual, &Residual),
        groups: &[usize],
        sums: Option<&mut Option<Vec<StepGradients>>>,
    ) -> Result<f64> {
        let (gpu, config) = (self.gpu, self.job.config());
        let steps = config.layer_steps(layer).map(|step| weights.weights(layer, step)).collect::<Result<Vec<_>>>()?;
        let tokens: usize = groups.iter().map(|&group| self.tokens(group)).sum();
        let wanted = self.job.options.wanted();
        let mut gradients: Vec<_> = steps.iter().map(|step| StepGradients::new(step, wanted)).collect();
        let mut total = 0.0;
        for &group in groups {
            let batch = self.batch(group)?;
            let context = batch.context(gpu, config, layer, &self.rope_tables[1]);
            let mut inputs = vec![own.load(gpu, group)?];
            for step in &steps {
                let x = inputs.last().ok_or_else(|| Error::shape("blocks", "no residual"))?;
                // A step may write its result in place of what it has read.
                inputs.push(through_step(self.job.model, step, context, gpu.columns(x, 0..x.cols())?)?);
            }
            let y = inputs.pop().ok_or_else(|| Error::shape("blocks", "no residual"))?;
            let t = target.load(gpu, group)?;
            let lengths = gpu.energy(&t)?;
            total += self.apart(&y, &t, &lengths)?;
            if sums.is_some() {
                gpu.scale_tokens(&y, &lengths, None, 1, EPSILON)?;
                let mut d = gpu.zeros(y.rows(), y.cols())?;
                gpu.subtract(&d, &y, -2.0 / tokens as f32)?;
                for ((step, x), sums) in steps.iter().zip(inputs).zip(&mut gradients).rev() {
                    d = back_through_step(self.job.model, step, context, [x, d], sums)?;
                }
            }
        }
        if let Some(sums) = sums {
            *sums = Some(gradients);
        }
        let mean = total / tokens as f64;
        if mean.is_finite() { Ok(mean) } else { Err(Error::Numerical(format!("the loss is {mean}"))) }
    }
}

/// Embeddings may differ from the teacher's by this, squared and relative to their length: weights are rounded, and
/// some quantised. In other coordinates it is about 2.
const SAME: f64 = 0.25;
/// Keeps a token whose residual is zero from dividing by that.
const EPSILON: f32 = 1e-12;
