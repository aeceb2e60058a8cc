//! Training of a whole model, step by step, and the writing of what came of it; in one go, or resumed where it was stopped.

use std::{collections::HashMap, fs, time::Instant};

use serde::{Deserialize, Serialize};

use super::{
    blocks,
    options::{Mode, Options},
    order::sequences,
    parameters::{restore, state, update},
    weights::{Layers, Stored, Whole},
    write::write,
};
use crate::{
    checkpoint::{OutputDirectory, TensorPlan},
    error::{Error, Result},
    gpu::Gpu,
    model::{Config, LowRank, Model, StepGradients},
    progress::Progress,
    stream::{
        Checksum, Collect, Gradients, GradientsAt, MemoryPlan, Objective, Placement, Saved, Supply, Training, located,
    },
};

/// What to train, and how.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub model: &'a Model,
    /// What is imitated, where something is.
    pub teacher: Option<&'a Model>,
    pub rows: &'a [Vec<u32>],
    /// Which tokens of each sequence count where they are predicted; all if `None`.
    pub counted: Option<&'a [Vec<bool>]>,
    pub options: &'a Options,
    pub memory: MemoryPlan,
    /// Every tensor that is written.
    pub tensors: &'a [TensorPlan],
    /// Where the tensors go, and, beside them, what is needed to resume.
    pub directory: &'a OutputDirectory,
    pub progress: &'a dyn Progress,
}

/// What is done and durable.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Steps of the optimiser that are over; of all layers together.
    pub steps: usize,
    /// Where the parameters lie and what they come to.
    pub saved: Vec<Saved>,
    /// What was to become small, step by step.
    pub losses: Vec<f32>,
    /// The same on sequences that are not trained on, after this many steps.
    pub validation: Vec<(usize, f32)>,
    /// Where the loss on these sequences was smallest, which is what is written.
    pub best: Option<Best>,
    /// Whether all of the model is written.
    pub done: bool,
}

/// The step after which the loss on sequences that are not trained on was smallest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: usize,
    pub loss: f32,
    /// Where the parameters lie.
    pub saved: Saved,
}

/// What came of it.
pub struct Recovered {
    pub snapshot: Snapshot,
    /// A and B, where the work came to its end and there are any.
    pub low_rank: Vec<LowRank>,
}

/// At most this many sequences are not trained on but measured, and at most this share of all: one in twenty.
const VALIDATION: usize = 32;
const SHARE: usize = 20;
/// How often a user is told where training is.
const REPORTS: usize = 20;

/// Says nothing of phases within a step, but lets it be interrupted.
pub(super) struct Within<'a>(pub &'a dyn Progress);

impl Progress for Within<'_> {
    fn begin(&self, _: &'static str, _: u64) {}

    fn advance(&self, _: u64) -> Result<()> {
        self.0.advance(0)
    }

    fn note(&self, message: &str) {
        self.0.note(message);
    }
}

/// Keeps all gradients of a step.
#[derive(Default)]
struct Gathered(HashMap<(usize, usize), StepGradients>);

impl Collect for Gathered {
    fn step(&mut self, at: GradientsAt, gradients: &StepGradients) -> Result<()> {
        // The matrices themselves are made anew in every pass.
        self.0.insert((at.layer, at.step.index), gradients.clone());
        Ok(())
    }
}

impl<'a> Job<'a> {
    pub(super) fn config(&self) -> &'a Config {
        self.model.config()
    }

    /// How many of the sequences, at the end, are not trained on.
    pub(super) fn held(&self) -> usize {
        if self.options.eval_every == 0 { 0 } else { (self.rows.len() / SHARE).min(VALIDATION) }
    }

    /// Trains and writes, or resumes after `from`. Called at each commit point, `commit` returns false to stop there.
    ///
    /// # Errors
    /// [`Error::Numerical`] that names the step if the loss is not finite; [`Error::Write`], [`Error::Interrupted`],
    /// those of `commit`, and whatever the model or the GPU reports.
    pub fn run(
        &self,
        gpu: &Gpu,
        from: Option<&Snapshot>,
        commit: &mut dyn FnMut(&Snapshot) -> Result<bool>,
    ) -> Result<Recovered> {
        if self.options.mode == Mode::Blocks {
            return blocks::run(self, gpu, from, commit);
        }
        let resident = self.memory.placement == Placement::Gpu;
        let layers = 0..self.config().layers.len();
        let mut layers = Layers::new(gpu, self.model, self.options, layers, resident)?;
        let mut now = from.cloned().unwrap_or_default();
        if let Some(saved) = now.saved.last() {
            restore(gpu, layers.parameters(), &self.load(*saved)?)?;
        }
        if !self.train(gpu, &mut layers, &mut now, resident, commit)? {
            return Ok(Recovered { snapshot: now, low_rank: Vec::new() });
        }
        let low_rank = layers.low_rank()?;
        if !now.done {
            write(self, gpu, &mut |layer, step| layers.merged(layer, step))?;
            now.done = true;
            commit(&now)?;
        }
        Ok(Recovered { snapshot: now, low_rank })
    }

    /// Takes the steps that are left; returns false if it was stopped before the end.
    fn train(
        &self,
        gpu: &Gpu,
        layers: &mut Layers,
        now: &mut Snapshot,
        resident: bool,
        commit: &mut dyn FnMut(&Snapshot) -> Result<bool>,
    ) -> Result<bool> {
        let Options { steps, batch_size, eval_every, save_every, seed, .. } = *self.options;
        let teacher = self.teacher.map(|model| Stored::new(gpu, model, resident, false));
        let teacher = teacher.as_ref().map(|stored| stored as &dyn Supply);
        let trained = self.rows.len() - self.held();
        self.progress.begin("train", (steps - now.steps) as u64);
        let quiet = Within(self.progress);
        if now.steps == 0 && self.held() > 0 {
            // What training has to be better than.
            self.validate(gpu, layers, teacher, now)?;
        }
        let mut pace = Pace::new(now.steps);
        while now.steps < steps {
            let step = now.steps;
            let chosen = sequences(step, batch_size.min(trained), trained, seed);
            let rows: Vec<Vec<u32>> = chosen.iter().map(|&row| self.rows[row].clone()).collect();
            let counted: Option<Vec<Vec<bool>>> =
                self.counted.map(|counted| chosen.iter().map(|&row| counted[row].clone()).collect());
            layers.begin(step);
            let mut gathered = Gathered::default();
            let pass = self.pass(gpu, layers, &quiet, teacher, (&rows, counted.as_deref()))?;
            let found = pass.run(&mut gathered);
            let loss = self.at(step, found)?;
            for ((layer, step), gradients) in &gathered.0 {
                layers.set_gradients(*layer, *step, gradients)?;
            }
            drop(gathered);
            self.at(step, update(gpu, self.options, step, layers.parameters()))?;
            now.steps += 1;
            now.losses.push(loss as f32);
            pace.add(rows.iter().map(Vec::len).sum());
            let mut better = false;
            if self.held() > 0 && (now.steps.is_multiple_of(eval_every) || now.steps == steps) {
                better = self.validate(gpu, layers, teacher, now)?;
            }
            pace.tell(self.progress, now, steps);
            self.progress.advance(1)?;
            if better || now.steps.is_multiple_of(save_every) || now.steps == steps {
                if !better {
                    now.saved = vec![self.save(free(now), &state(gpu, &layers.parameters())?)?];
                }
                if !commit(now)? && now.steps < steps {
                    return Ok(false);
                }
            }
        }
        self.progress.end();
        if let Some(best) = now.best.filter(|best| best.step < now.steps) {
            self.progress.note(&format!(
                "the loss on sequences that were not trained on was smallest after step {} of {steps}: what was trained \
                 after that is not written; more text, fewer steps or a lower --learning-rate would use it",
                best.step
            ));
            restore(gpu, layers.parameters(), &self.load(best.saved)?)?;
        }
        layers.begin(steps);
        Ok(true)
    }

    /// Measures the loss on the sequences that are not trained on; keeps the parameters, and returns true, if it was
    /// never smaller.
    fn validate(
        &self,
        gpu: &Gpu,
        layers: &mut Layers,
        teacher: Option<&dyn Supply>,
        now: &mut Snapshot,
    ) -> Result<bool> {
        let first = self.rows.len() - self.held();
        layers.begin(now.steps);
        let (whole, quiet) = (Whole(layers), Within(self.progress));
        let counted = self.counted.map(|counted| &counted[first..]);
        let pass = self.pass(gpu, &whole, &quiet, teacher, (&self.rows[first..], counted))?;
        let loss = self.at(now.steps.max(1) - 1, pass.measure())? as f32;
        now.validation.push((now.steps, loss));
        if now.best.is_some_and(|best| best.loss <= loss) {
            return Ok(false);
        }
        let saved = self.save(free(now), &state(gpu, &layers.parameters())?)?;
        now.best = Some(Best { step: now.steps, loss, saved });
        now.saved = vec![saved];
        Ok(true)
    }

    /// A pass over some sequences.
    fn pass<'g>(
        &'g self,
        gpu: &'g Gpu,
        weights: &'g dyn Supply,
        progress: &'g dyn Progress,
        teacher: Option<&'g dyn Supply>,
        (rows, counted): (&'g [Vec<u32>], Option<&'g [Vec<bool>]>),
    ) -> Result<Gradients<'g>> {
        let objective = match (self.options.mode, self.teacher, teacher) {
            (Mode::Distil, Some(model), Some(weights)) => {
                Objective::Teacher { model, weights, temperature: self.options.temperature as f32 }
            }
            (Mode::Distil, ..) => return Err(Error::Usage("--mode distil needs --teacher DENSE".into())),
            _ => Objective::NextToken(counted),
        };
        Ok(Gradients {
            gpu,
            model: self.model,
            rows,
            memory: self.memory,
            directory: self.directory,
            progress,
            apart: false,
            change: None,
            training: Some(Training { weights, wanted: self.options.wanted(), objective }),
        })
    }

    /// Says in an error of numbers in which step it came, and what to do.
    pub(super) fn at<T>(&self, step: usize, found: Result<T>) -> Result<T> {
        let rate = self.options.learning_rate;
        let found = found.map_err(|error| match error {
            Error::Numerical(reason) => {
                Error::Numerical(format!("{reason}; lower --learning-rate {rate}, or raise --warmup"))
            }
            other => other,
        });
        located(format!("step {} of training", step + 1), found)
    }

    /// Makes values durable in one of the files beside the output.
    pub(super) fn save(&self, number: usize, values: &[f32]) -> Result<Saved> {
        let mut checksum = Checksum::default();
        checksum.add(values);
        self.directory.write_beside(&format!("training.{number}"), bytemuck::cast_slice(values))?;
        Ok(Saved { file: number, checksum: checksum.value() })
    }

    /// Reads them back.
    pub(super) fn load(&self, saved: Saved) -> Result<Vec<f32>> {
        let path = self.directory.beside(&format!("training.{}", saved.file));
        let bytes = fs::read(&path).map_err(Error::kept(&path, Error::read(&path)))?;
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes[..bytes.len() / 4 * 4]);
        let mut checksum = Checksum::default();
        checksum.add(&values);
        if checksum.value() != saved.checksum {
            return Err(Error::bad_file(&path, "not what was written there; --force starts over"));
        }
        Ok(values)
    }
}

/// A file that nothing committed lies in.
fn free(now: &Snapshot) -> usize {
    let taken = |number: &usize| {
        let best = now.best.map(|best| best.saved);
        now.saved.iter().chain(&best).any(|saved| saved.file == *number)
    };
    (0..3).find(|number| !taken(number)).unwrap_or(3)
}

/// How fast training is.
pub(super) struct Pace {
    began: Instant,
    first: usize,
    tokens: usize,
}

impl Pace {
    pub fn new(first: usize) -> Self {
        Self { began: Instant::now(), first, tokens: 0 }
    }

    pub fn add(&mut self, tokens: usize) {
        self.tokens += tokens;
    }

    /// Tells, a few times in all.
    pub fn tell(&self, progress: &dyn Progress, now: &Snapshot, steps: usize) {
        let every = steps.div_ceil(REPORTS).max(1);
        if !(now.steps.is_multiple_of(every) || now.steps == steps) {
            return;
        }
        let seconds = self.began.elapsed().as_secs_f64().max(1e-9);
        let recent = &now.losses[now.losses.len().saturating_sub(every)..];
        let loss = recent.iter().map(|loss| f64::from(*loss)).sum::<f64>() / recent.len().max(1) as f64;
        let left = seconds / (now.steps - self.first).max(1) as f64 * (steps - now.steps) as f64;
        let validation = match now.validation.last() {
            Some((at, loss)) if *at == now.steps => format!(", held out {loss:.4}"),
            _ => String::new(),
        };
        progress.say(&format!(
            "step {} of {steps}: loss {loss:.4}{validation}, {:.0} tokens/s, about {left:.0} s left",
            now.steps,
            self.tokens as f64 / seconds
        ));
    }
}
