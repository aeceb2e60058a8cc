//! The gradients of a model's parameters, one step of a layer at a time: forward, keeping what lies between steps, then
//! backward, working out again what happens inside of them.
//!
//! The loss is the mean negative log-likelihood of all next tokens of the sequences, or, where each sequence is taken
//! by itself, of its own. A model's weights are on the GPU one step at a time, and its residuals where the plan has
//! room for them: what grows with the number of layers is on the disk if need be. All sums have a fixed order.

use std::ops::Range;

use super::{
    memory::MemoryPlan,
    sitting::{Back, GRADIENT, Sitting, layer_gradient, load_found, point_name, save_found},
    store::Residual,
    training::Training,
};
use crate::{
    checkpoint::OutputDirectory,
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    model::{
        AffineGradients, Batch, BatchSize, HostEnds, HostLayer, HostMatrix, Model, Step, StepGradients, StepWeights,
        Wanted, architecture::Position, plan_batches,
    },
    progress::Progress,
};

/// What takes gradients. Each is given once for the sequences that it is of: for all, or for each by itself. None
/// may be kept beyond the call but as a copy.
pub trait Collect {
    /// Of a step of a layer, from the last to the first.
    ///
    /// # Errors
    /// Whatever the implementation reports.
    fn step(&mut self, at: GradientsAt, gradients: &StepGradients) -> Result<()>;

    /// Which gradients of steps are wanted, of a model that is not being trained.
    fn wanted(&self) -> Wanted {
        Wanted::ALL
    }

    /// Whether those of the embeddings, the final norm and the head are wanted, too.
    fn ends(&self) -> bool {
        false
    }

    /// Whether those of the final norm are wanted.
    fn wants_final_norm(&self) -> bool {
        self.ends()
    }

    /// Of some rows of the head, as it is stored, by the loss of the sequences `of`.
    ///
    /// # Errors
    /// Whatever the implementation reports.
    fn head(&mut self, _of: Range<usize>, _rows: Range<usize>, _gradients: &AffineGradients) -> Result<()> {
        Ok(())
    }

    /// Of the final norm, by the loss of the sequences `of`.
    ///
    /// # Errors
    /// Whatever the implementation reports.
    fn final_norm(&mut self, _of: Range<usize>, _gradients: &AffineGradients) -> Result<()> {
        Ok(())
    }

    /// Of some rows of a table, by the loss of the sequences `of`; what a tied head adds is not in it.
    ///
    /// # Errors
    /// Whatever the implementation reports.
    fn embedding(&mut self, _table: Table, _of: Range<usize>, _rows: Range<usize>, _gradient: &Matrix) -> Result<()> {
        Ok(())
    }

    /// What was made of all gradients that were handed over, as a pass keeps it that can be resumed.
    fn found(&self) -> Vec<f64> {
        Vec::new()
    }

    /// Takes that back.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is something else.
    fn restore(&mut self, _found: &[f64]) -> Result<()> {
        Ok(())
    }
}

/// What tokens are looked up in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Tokens,
    Positions,
}

/// Which gradients these are.
#[derive(Debug, Clone)]
pub struct GradientsAt {
    pub layer: usize,
    pub step: Step,
    /// The sequences whose loss they are of.
    pub rows: Range<usize>,
}

/// A model, sequences whose loss is differentiated, and what is needed for that.
#[derive(Clone, Copy)]
pub struct Gradients<'a> {
    pub gpu: &'a Gpu,
    pub model: &'a Model,
    pub rows: &'a [Vec<u32>],
    pub memory: MemoryPlan,
    /// Beside which residuals lie that are on the disk.
    pub directory: &'a OutputDirectory,
    pub progress: &'a dyn Progress,
    /// Whether each sequence is taken by itself: its gradients are those of the mean loss of its own tokens.
    pub apart: bool,
    /// What is changed of the weights of a layer before they are used, if anything.
    pub change: Option<&'a Change<'a>>,
    /// The seed of next tokens that are drawn from what the model itself predicts, in place of those of the sequences;
    /// these if `None`.
    pub drawn: Option<u32>,
    /// What is trained, and how; all weights of the file, by the loss of all next tokens, if `None`.
    pub training: Option<Training<'a>>,
}

/// What is changed of the weights of a layer.
pub type Change<'a> = dyn Fn(usize, &mut HostLayer) -> Result<()> + 'a;

/// The sequences of a pass, and what is the same for all of its steps.
pub(super) struct Plan {
    pub batches: Vec<Range<usize>>,
    pub rope_tables: Vec<Matrix>,
    /// Next tokens in all that count.
    pub predicted: usize,
}

impl Gradients<'_> {
    /// Hands all gradients over, and returns the mean loss of all next tokens.
    ///
    /// # Errors
    /// [`Error::BadTokens`] if there are no sequences, or one has no next token; [`Error::Numerical`] if the loss is
    /// not finite; those of `collect`; whatever the model, the GPU or the disk reports.
    pub fn run(&self, collect: &mut dyn Collect) -> Result<f64> {
        let loss = self.sit(&mut Sitting::whole(), collect)?;
        loss.ok_or_else(|| Error::shape("gradients", "stopped"))
    }

    /// The same, or what is left of it: after every layer, forward and back, it can be stopped and resumed. `None` if
    /// it was stopped.
    ///
    /// # Errors
    /// As [`Gradients::run`]; [`Error::BadFile`] if what was committed is damaged; those of the commit.
    pub fn sit(&self, sitting: &mut Sitting, collect: &mut dyn Collect) -> Result<Option<f64>> {
        let (config, plan) = (self.model.config(), self.plan(self.model)?);
        self.progress.begin("gradients", self.left(sitting) * plan.batches.len() as u64);
        let ends = self.model.store.ends()?;
        let Some(mut points) = self.forward(&plan, &ends, sitting)? else { return Ok(None) };
        let missing = || Error::shape("gradients", "no residual");
        let mut after = points.pop().ok_or_else(missing)?;
        let (loss, mut gradient, left) = if let Some(back) = sitting.passed.back {
            collect.restore(&load_found(self.directory, back.found)?)?;
            (back.loss, self.reached(&plan, back)?, back.left)
        } else {
            let (loss, mut gradient) = self.loss(&plan, &ends, &after, collect, sitting.keeps())?;
            if !self.keep(sitting, (config.layers.len(), loss), &mut gradient, collect)? {
                return Ok(None);
            }
            (loss, gradient, config.layers.len())
        };
        for layer in (0..left).rev() {
            let of_layer = self.layer(layer)?;
            for step in config.layer_steps(layer).collect::<Vec<_>>().into_iter().rev() {
                let weights = &self.weights(layer, step, of_layer.as_ref())?;
                let x = points.pop().ok_or_else(missing)?;
                let kept = sitting.keeps() && step.index == 0;
                let at = AtStep { plan: &plan, model: self.model, layer, step, weights };
                self.step_back(at, (&x, &after), &mut gradient, collect, kept)?;
                after = x;
            }
            if !self.keep(sitting, (layer, loss), &mut gradient, collect)? {
                return Ok(None);
            }
        }
        if collect.ends() {
            self.embeddings(&plan, &ends, &gradient, collect)?;
        }
        self.progress.end();
        Ok(Some(loss))
    }

    /// Steps of a pass that are left of it, for each batch: forward, loss, and back.
    fn left(&self, sitting: &Sitting) -> u64 {
        let (config, passed) = (self.model.config(), &sitting.passed);
        let all = config.points();
        let left = match passed.back {
            Some(back) => back.left * config.steps().len(),
            None => 2 * all + 2 - passed.points.len().min(all),
        };
        left as u64
    }

    /// Commits what lies before all but the first `left` layers, where the pass can be resumed; returns whether to go
    /// on.
    fn keep(
        &self,
        sitting: &mut Sitting,
        (left, loss): (usize, f64),
        gradient: &mut Residual,
        collect: &dyn Collect,
    ) -> Result<bool> {
        if !sitting.keeps() {
            return Ok(true);
        }
        let found = save_found(self.directory, left, &collect.found())?;
        sitting.passed.back = Some(Back { left, loss, gradient: gradient.save(&[])?, found });
        sitting.commit()
    }

    /// The gradient that a pass back has reached.
    fn reached(&self, plan: &Plan, back: Back) -> Result<Residual> {
        let config = self.model.config();
        let (name, width) = if back.left < config.layers.len() {
            (layer_gradient(back.left), config.widths(back.left).attention_input)
        } else {
            (GRADIENT.to_owned(), config.widths(back.left - 1).output)
        };
        let mut gradient = self.residual(plan, &name, width);
        gradient.resume(self.gpu, back.gradient, 0)?;
        Ok(gradient)
    }

    /// The mean of what is to become small, and nothing of its gradients.
    ///
    /// # Errors
    /// As [`Gradients::run`].
    pub fn measure(&self) -> Result<f64> {
        let plan = self.plan(self.model)?;
        self.progress.begin("loss", 2 * (self.model.config().points() + 1) as u64 * plan.batches.len() as u64);
        let ends = self.model.store.ends()?;
        let supply = |layer, step| self.weights(layer, step, self.layer(layer)?.as_ref());
        let last = self.forward_only(self.model, &plan, &supply)?;
        let found = self.objective(&plan, &ends, &last).map(|objective| objective.mean);
        self.progress.end();
        found
    }

    /// How the sequences go through a model.
    pub(super) fn plan(&self, model: &Model) -> Result<Plan> {
        if self.rows.is_empty() || self.rows.iter().any(|row| row.len() < 2) {
            return Err(Error::BadTokens("gradients need sequences of two tokens or more".into()));
        }
        let size = if self.apart { BatchSize { rows: Some(1), ..self.memory.batch } } else { self.memory.batch };
        let longest = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        Ok(Plan {
            batches: plan_batches(self.gpu, self.model.config(), self.rows, size)?,
            rope_tables: model.rope_tables(self.gpu, longest)?,
            predicted: (0..self.rows.len()).map(|row| self.counted(row)).sum(),
        })
    }

    /// How many next tokens of a sequence count.
    pub(super) fn counted(&self, row: usize) -> usize {
        (1..self.rows[row].len()).filter(|&token| self.counts(row, token)).count()
    }

    /// Whether a token of a sequence counts where it is predicted.
    pub(super) fn counts(&self, row: usize, token: usize) -> bool {
        let counted = self.training.and_then(|training| training.counted);
        counted.is_none_or(|counted| counted.get(row).and_then(|row| row.get(token)).copied().unwrap_or(true))
    }

    /// The weights of a layer as they are used, unless they come from elsewhere.
    fn layer(&self, layer: usize) -> Result<Option<HostLayer<'_>>> {
        if self.training.is_some() {
            return Ok(None);
        }
        let mut host = self.model.store.layer(layer)?;
        self.change.map_or(Ok(()), |change| change(layer, &mut host))?;
        Ok(Some(host))
    }

    /// The weights of a step: those of its layer where these are given.
    fn weights(&self, layer: usize, step: Step, host: Option<&HostLayer>) -> Result<StepWeights> {
        match (host, &self.training) {
            (Some(host), _) => StepWeights::upload(self.gpu, &host.steps[step.index], host.fused),
            (None, Some(training)) => training.weights.weights(layer, step),
            (None, None) => Err(Error::shape("gradients", "no weights")),
        }
    }

    /// The residual after the last step alone.
    pub(super) fn forward_only(
        &self,
        model: &Model,
        plan: &Plan,
        weights: &dyn Fn(usize, Step) -> Result<StepWeights>,
    ) -> Result<Residual> {
        let config = model.config();
        let mut x = self.embed(plan, model, &model.store.ends()?)?;
        for layer in 0..config.layers.len() {
            for step in config.layer_steps(layer) {
                let weights = &weights(layer, step)?;
                let number = layer * config.steps().len() + step.index + 1;
                let mut after =
                    self.residual(plan, &format!("forward.{}", number % 2), config.widths(layer).step(step).1);
                let at = AtStep { plan, model, layer, step, weights };
                self.step(at, &x, &mut after, AndThen { used: true, saved: false })?;
                x = after;
            }
        }
        Ok(x)
    }

    pub(super) fn batch(&self, rows: &Range<usize>) -> Result<Batch> {
        let rows: Vec<&[u32]> = self.rows[rows.clone()].iter().map(Vec::as_slice).collect();
        Batch::new(self.gpu, self.model.config(), &rows)
    }

    /// An empty residual of all batches.
    pub(super) fn residual(&self, plan: &Plan, name: &str, width: usize) -> Residual {
        let tokens = |rows: &Range<usize>| self.rows[rows.clone()].iter().map(Vec::len).sum();
        let batches = plan.batches.iter().map(tokens).collect();
        Residual::new(self.directory, name, self.memory.placement, width, batches)
    }

    /// The residual before each step, and after the last one; of a pass back that has begun, those of the steps that
    /// are left. `None` if it was stopped.
    fn forward(&self, plan: &Plan, ends: &HostEnds, sitting: &mut Sitting) -> Result<Option<Vec<Residual>>> {
        let (gpu, config, steps) = (self.gpu, self.model.config(), self.model.config().steps().len());
        let wanted = sitting.passed.back.map_or(config.points(), |back| back.left * steps);
        let mut points = vec![self.embed(plan, self.model, ends)?];
        let saved: Vec<_> = sitting.passed.points.iter().copied().take(wanted).collect();
        for (number, saved) in saved.into_iter().enumerate() {
            let at = config.layer_steps(number / steps).nth(number % steps);
            let step = at.ok_or_else(|| Error::shape("gradients", "a residual of no step"))?;
            let width = config.widths(number / steps).step(step).1;
            let mut point = self.residual(plan, &point_name(number + 1), width);
            point.resume(gpu, saved, 0)?;
            points.push(point);
        }
        let done = match sitting.passed.back {
            Some(_) => config.layers.len(),
            None => points.len().saturating_sub(1) / steps,
        };
        for layer in done..config.layers.len() {
            let of_layer = self.layer(layer)?;
            for step in config.layer_steps(layer) {
                let weights = &self.weights(layer, step, of_layer.as_ref())?;
                let width = config.widths(layer).step(step).1;
                let mut after = self.residual(plan, &point_name(points.len()), width);
                let before = points.last().ok_or_else(|| Error::shape("gradients", "no residual"))?;
                let at = AtStep { plan, model: self.model, layer, step, weights };
                self.step(at, before, &mut after, AndThen { used: false, saved: sitting.keeps() })?;
                if sitting.keeps() {
                    sitting.passed.points.push(after.save(&[])?);
                }
                points.push(after);
            }
            if !sitting.commit()? {
                return Ok(None);
            }
        }
        Ok(Some(points))
    }

    fn embed(&self, plan: &Plan, model: &Model, ends: &HostEnds) -> Result<Residual> {
        let gpu = self.gpu;
        let mut residual = self.residual(plan, &point_name(0), ends.embedding.cols);
        for part in self.memory.parts(gpu, &ends.embedding) {
            let table = ends.embedding.upload(gpu, part.clone())?;
            for (index, rows) in plan.batches.iter().enumerate() {
                let batch = self.batch(rows)?;
                let begun = part.start > 0;
                let x = if begun { residual.load(gpu, index)? } else { gpu.zeros(batch.tokens, table.cols())? };
                gpu.embed(&batch.ids, part.start, &table, &x, false)?;
                residual.store(gpu, index, x, false)?;
            }
        }
        let Some((positions, offset)) = positions_of(model, ends) else { return Ok(residual) };
        for part in self.memory.parts(gpu, positions) {
            let table = positions.upload(gpu, part.clone())?;
            for (index, rows) in plan.batches.iter().enumerate() {
                let x = residual.load(gpu, index)?;
                gpu.embed_positions(&self.batch(rows)?.positions, part.start, offset, &table, &x)?;
                residual.store(gpu, index, x, false)?;
            }
        }
        Ok(residual)
    }

    /// The gradients of the embeddings from that of the first residual.
    fn embeddings(&self, plan: &Plan, ends: &HostEnds, gradient: &Residual, collect: &mut dyn Collect) -> Result<()> {
        let scale = self.model.config().embedding_scale;
        let ids = |rows: &Range<usize>| self.rows[rows.clone()].concat();
        self.table(plan, &ends.embedding, gradient, &ids, |sequences, part, sums| {
            let sums = AffineGradients { weight: Some(sums), bias: None }.scaled(self.gpu, scale, 1.0)?;
            sums.weight.as_ref().map_or(Ok(()), |sums| collect.embedding(Table::Tokens, sequences, part, sums))
        })?;
        let Some((table, offset)) = positions_of(self.model, ends) else { return Ok(()) };
        let places = |rows: &Range<usize>| {
            let row = |row: &Vec<u32>| offset as u32..(offset + row.len()) as u32;
            self.rows[rows.clone()].iter().flat_map(row).collect()
        };
        let mut each = |sequences, part, sums| collect.embedding(Table::Positions, sequences, part, &sums);
        self.table(plan, table, gradient, &places, &mut each)
    }

    /// The gradient of a table, run of rows by run of rows; `ids` are the rows that tokens are looked up in.
    fn table(
        &self,
        plan: &Plan,
        table: &HostMatrix,
        gradient: &Residual,
        ids: &dyn Fn(&Range<usize>) -> Vec<u32>,
        mut each: impl FnMut(Range<usize>, Range<usize>, Matrix) -> Result<()>,
    ) -> Result<()> {
        for part in self.memory.parts(self.gpu, table) {
            for batches in self.together(plan) {
                let sums = self.gpu.zeros(part.len(), table.cols)?;
                for index in batches.clone() {
                    let rows = &plan.batches[index];
                    self.gpu.embed_backward(&ids(rows), part.start, &gradient.load(self.gpu, index)?, &sums)?;
                }
                each(plan.sequences(&batches), part.clone(), sums)?;
            }
        }
        Ok(())
    }

    /// The batches whose gradients are handed over together: all, or each by itself.
    pub(super) fn together(&self, plan: &Plan) -> Vec<Range<usize>> {
        let count = plan.batches.len();
        let each = if self.apart { 1 } else { count.max(1) };
        (0..count).step_by(each).map(|first| first..first + each).collect()
    }
}

/// A step, and what goes through it.
#[derive(Clone, Copy)]
pub(super) struct AtStep<'a> {
    pub plan: &'a Plan,
    pub model: &'a Model,
    pub layer: usize,
    pub step: Step,
    pub weights: &'a StepWeights,
}

/// What becomes of residuals.
#[derive(Clone, Copy)]
pub(super) struct AndThen {
    /// Whether that before the step is needed no longer.
    pub used: bool,
    /// Whether that after it will be committed.
    pub saved: bool,
}

impl Plan {
    /// The sequences of some batches.
    pub fn sequences(&self, batches: &Range<usize>) -> Range<usize> {
        self.batches[batches.start].start..self.batches[batches.end - 1].end
    }
}

/// The table of learned positions, and the row of position 0.
fn positions_of<'e>(model: &Model, ends: &'e HostEnds<'e>) -> Option<(&'e HostMatrix<'e>, usize)> {
    match model.config().architecture.attention.position {
        Position::Learned { offset, .. } => Some((ends.positions.as_ref()?, offset)),
        Position::Rope { .. } | Position::None => None,
    }
}
