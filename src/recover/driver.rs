//! Training of a whole model, step by step, and the writing of what came of it; in one go, or resumed where it was
//! stopped.

use std::{collections::HashMap, ops::Range};

use super::{
    blocks,
    job::{Best, Job, Pace, Recovered, Snapshot},
    options::{Mode, Options},
    order::sequences,
    parameters::{restore, state, update},
    weights::{Layers, Stored, Whole},
    write::write,
};
use crate::{
    error::{Error, Result},
    gpu::Gpu,
    model::{AffineGradients, StepGradients},
    progress::Progress,
    stream::{Collect, Gradients, GradientsAt, Objective, Placement, Supply, Training},
};

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
struct Gathered {
    steps: HashMap<(usize, usize), StepGradients>,
    wants_final_norm: bool,
    final_norm: Option<AffineGradients>,
}

impl Collect for Gathered {
    fn step(&mut self, at: GradientsAt, gradients: &StepGradients) -> Result<()> {
        // The matrices themselves are made anew in every pass.
        self.steps.insert((at.layer, at.step.index), gradients.clone());
        Ok(())
    }

    fn wants_final_norm(&self) -> bool {
        self.wants_final_norm
    }

    fn final_norm(&mut self, _: Range<usize>, gradients: &AffineGradients) -> Result<()> {
        self.final_norm = Some(gradients.clone());
        Ok(())
    }
}

impl<'a> Job<'a> {
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
        let mut layers = Layers::new(gpu, self.model, self.options, layers, resident)?.with_final_norm()?;
        let mut now = from.cloned().unwrap_or_default();
        if let Some(saved) = now.saved.last() {
            restore(gpu, layers.parameters(), &self.load(*saved)?)?;
        }
        if !self.train(gpu, &mut layers, &mut now, resident, commit)? {
            return Ok(Recovered { snapshot: now, low_rank: Vec::new() });
        }
        let low_rank = layers.low_rank()?;
        if !now.done {
            write(self, gpu, layers.final_norm()?, &mut |layer, step| layers.merged(layer, step))?;
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
        let teacher = self.teacher.map(|model| Stored::new(gpu, model, resident, None));
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
            let mut gathered = Gathered { wants_final_norm: layers.trains_final_norm(), ..Gathered::default() };
            let pass = self.pass(gpu, layers, &quiet, teacher, (&rows, counted.as_deref()))?;
            let found = pass.run(&mut gathered);
            let loss = self.at(step, found)?;
            for ((layer, step), gradients) in &gathered.steps {
                layers.set_gradients(*layer, *step, gradients)?;
            }
            gathered.final_norm.iter().try_for_each(|gradients| layers.set_final_norm(gradients))?;
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
                 after that is not written; more text, fewer steps or a lower {} would use it",
                best.step, self.options.rate_flag
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
            _ => Objective::NextToken,
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
            drawn: None,
            training: Some(Training { weights, wanted: self.options.wanted(), objective, counted }),
        })
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
