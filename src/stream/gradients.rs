//! The gradients of a model's parameters, one step of a layer at a time: forward, keeping what lies between steps, then
//! backward, working out again what happens inside of them.
//!
//! The loss is the mean negative log-likelihood of all next tokens of the sequences, or, where each sequence is taken by
//! itself, of its own. A model's weights are on the GPU one step at a time, and its residuals where the plan has room
//! for them: what grows with the number of layers is on the disk if need be. All sums have a fixed order.

use std::ops::Range;

use super::{
    memory::MemoryPlan,
    store::{Placement, Residual},
};
use crate::{
    checkpoint::OutputDirectory,
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    model::{
        AffineGradients, Batch, BatchSize, HeadSlice, HostEnds, HostLayer, HostMatrix, Model, NoTap, Readout, Step,
        StepGradients, StepWeights, Targets, architecture::Position, logit_entries, plan_batches,
    },
    progress::Progress,
};

/// What takes gradients. Each is given once for the sequences that it is of: for all, or for each by itself. None
/// may be kept beyond the call but as a copy.
pub trait Collect {
    /// Of a step of a layer, from the last to the first.
    ///
    /// # Errors
    /// Those of whatever is made of them.
    fn step(&mut self, at: GradientsAt, gradients: &StepGradients) -> Result<()>;

    /// Whether those of the embeddings, the final norm and the head are wanted, too.
    fn ends(&self) -> bool {
        false
    }

    /// Of some rows of the head, as it is stored.
    ///
    /// # Errors
    /// Those of whatever is made of them.
    fn head(&mut self, _rows: Range<usize>, _gradients: &AffineGradients) -> Result<()> {
        Ok(())
    }

    /// Of the final norm.
    ///
    /// # Errors
    /// Those of whatever is made of them.
    fn final_norm(&mut self, _gradients: &AffineGradients) -> Result<()> {
        Ok(())
    }

    /// Of some rows of the embedding of tokens, or of positions; what a tied head adds is not in it.
    ///
    /// # Errors
    /// Those of whatever is made of them.
    fn embedding(&mut self, _positions: bool, _rows: Range<usize>, _gradient: &Matrix) -> Result<()> {
        Ok(())
    }
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
}

/// What is changed of the weights of a layer.
pub type Change<'a> = dyn Fn(usize, &mut HostLayer) -> Result<()> + 'a;

/// The sequences of a pass, and what is the same for all of its steps.
struct Plan {
    batches: Vec<Range<usize>>,
    rope_tables: Vec<Matrix>,
    /// Next tokens in all.
    predicted: usize,
}

impl Gradients<'_> {
    /// Hands all gradients over, and returns the mean loss of all next tokens.
    ///
    /// # Errors
    /// [`Error::BadTokens`] if there are no sequences, or one has no next token; [`Error::Numerical`] if the loss is not
    /// finite; those of `collect`; whatever the model, the GPU or the disk reports.
    pub fn run(&self, collect: &mut dyn Collect) -> Result<f64> {
        if self.rows.is_empty() || self.rows.iter().any(|row| row.len() < 2) {
            return Err(Error::BadTokens("gradients need sequences of two tokens or more".into()));
        }
        let config = self.model.config();
        let size = if self.apart { BatchSize { rows: Some(1), ..self.memory.batch } } else { self.memory.batch };
        let longest = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let plan = Plan {
            batches: plan_batches(self.gpu, config, self.rows, size)?,
            rope_tables: self.model.rope_tables(self.gpu, longest)?,
            predicted: self.rows.iter().map(|row| row.len() - 1).sum(),
        };
        let steps = config.points() as u64;
        self.progress.begin("gradients", (2 * steps + 2) * plan.batches.len() as u64);
        let ends = self.model.store.ends()?;
        let mut points = self.forward(&plan, &ends)?;
        let last = points.pop().ok_or_else(|| Error::shape("gradients", "no residual"))?;
        let (loss, mut gradient) = self.loss(&plan, &ends, &last, collect)?;
        drop(last);
        for layer in (0..config.layers.len()).rev() {
            let host = self.layer(layer)?;
            for (step, host_step) in config.steps().zip(&host.steps).collect::<Vec<_>>().into_iter().rev() {
                let weights = StepWeights::upload(self.gpu, host_step, host.fused)?;
                let x = points.pop().ok_or_else(|| Error::shape("gradients", "no residual"))?;
                self.step(&plan, layer, step, &weights, &x, &mut gradient, collect)?;
            }
        }
        if collect.ends() {
            self.embeddings(&plan, &ends, &gradient, collect)?;
        }
        self.progress.end();
        Ok(loss)
    }

    /// The weights of a layer as they are used.
    fn layer(&self, layer: usize) -> Result<HostLayer<'_>> {
        let mut host = self.model.store.layer(layer)?;
        self.change.map_or(Ok(()), |change| change(layer, &mut host))?;
        Ok(host)
    }

    fn batch(&self, rows: &Range<usize>) -> Result<Batch> {
        let rows: Vec<&[u32]> = self.rows[rows.clone()].iter().map(Vec::as_slice).collect();
        Batch::new(self.gpu, self.model.config(), &rows)
    }

    /// An empty residual of all batches.
    fn residual(&self, plan: &Plan, name: &str, width: usize) -> Residual {
        let tokens = |rows: &Range<usize>| self.rows[rows.clone()].iter().map(Vec::len).sum();
        let batches = plan.batches.iter().map(tokens).collect();
        Residual::new(self.directory, name, self.memory.placement, width, batches)
    }

    /// The residual before each step, and after the last one.
    fn forward(&self, plan: &Plan, ends: &HostEnds) -> Result<Vec<Residual>> {
        let (gpu, config) = (self.gpu, self.model.config());
        let mut points = vec![self.embed(plan, ends)?];
        for layer in 0..config.layers.len() {
            let host = self.layer(layer)?;
            for (step, host_step) in config.steps().zip(&host.steps) {
                let weights = StepWeights::upload(gpu, host_step, host.fused)?;
                let width = config.widths(layer).step(step).1;
                let mut after = self.residual(plan, &format!("residual.{}", points.len()), width);
                let before = points.last().ok_or_else(|| Error::shape("gradients", "no residual"))?;
                for (index, rows) in plan.batches.iter().enumerate() {
                    let batch = self.batch(rows)?;
                    let context = batch.context(gpu, config, layer, &plan.rope_tables);
                    let mut x = before.load(gpu, index)?;
                    // A step may write its result in place of what it has read.
                    if self.memory.placement == Placement::Gpu {
                        x = gpu.columns(&x, 0..x.cols())?;
                    }
                    after.store(gpu, index, context.step(&weights, x, &mut NoTap)?, false)?;
                    self.progress.advance(1)?;
                }
                points.push(after);
            }
        }
        Ok(points)
    }

    fn embed(&self, plan: &Plan, ends: &HostEnds) -> Result<Residual> {
        let gpu = self.gpu;
        let mut residual = self.residual(plan, "residual.0", ends.embedding.cols);
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
        let Some((positions, offset)) = self.positions(ends) else { return Ok(residual) };
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

    /// The table of learned positions, and the row of position 0.
    fn positions<'e>(&self, ends: &'e HostEnds<'e>) -> Option<(&'e HostMatrix<'e>, usize)> {
        match self.model.config().architecture.attention.position {
            Position::Learned { offset, .. } => Some((ends.positions.as_ref()?, offset)),
            Position::Rope { .. } | Position::None => None,
        }
    }

    /// The mean loss, and the gradient of the last residual.
    fn loss(
        &self,
        plan: &Plan,
        ends: &HostEnds,
        last: &Residual,
        collect: &mut dyn Collect,
    ) -> Result<(f64, Residual)> {
        let (gpu, config) = (self.gpu, self.model.config());
        let readout = Readout::upload(gpu, ends)?;
        let mut targets = Vec::new();
        for rows in &plan.batches {
            let rows = &self.rows[rows.clone()];
            let ids: Vec<u32> = rows.iter().flat_map(|row| row[1..].iter().copied().chain([u32::MAX])).collect();
            let predicted = if self.apart { ids.len() - rows.len() } else { plan.predicted };
            let (ids, state) = (gpu.upload_u32(&ids)?, gpu.loss_state(ids.len())?);
            targets.push(Targets { ids, state, factor: 1.0 / predicted as f32 });
        }
        self.each_slice(plan, ends, |first, table| {
            for (index, targets) in targets.iter().enumerate() {
                let input = readout.norm(gpu, config, &last.load(gpu, index)?)?;
                readout.logits(gpu, &input, first, table, |first, logits| {
                    gpu.loss(logits, first, &targets.ids, &targets.state)
                })?;
            }
            Ok(())
        })?;
        let mut total = 0.0;
        for (targets, rows) in targets.iter().zip(&plan.batches) {
            let losses = gpu.loss_values(&targets.state)?;
            let mut first = 0;
            for row in &self.rows[rows.clone()] {
                total += losses[first..first + row.len() - 1].iter().sum::<f64>();
                first += row.len();
            }
            self.progress.advance(1)?;
        }
        let loss = total / plan.predicted as f64;
        if !loss.is_finite() {
            return Err(Error::Numerical(format!("the loss is {loss}: the model's signals overflow")));
        }
        let gradient = self.head(plan, ends, &readout, &targets, last, collect)?;
        Ok((loss, gradient))
    }

    /// From the losses to the gradient of the last residual.
    fn head(
        &self,
        plan: &Plan,
        ends: &HostEnds,
        readout: &Readout,
        targets: &[Targets],
        last: &Residual,
        collect: &mut dyn Collect,
    ) -> Result<Residual> {
        let (gpu, config) = (self.gpu, self.model.config());
        let (wanted, scale) = (collect.ends(), config.logit_scale);
        let mut gradient = self.residual(plan, "gradient", last.width());
        self.each_slice(plan, ends, |first, table| {
            let mut sums = AffineGradients::default();
            for (index, targets) in targets.iter().enumerate() {
                let x = last.load(gpu, index)?;
                let input = readout.norm(gpu, config, &x)?;
                let d = if first > 0 { gradient.load(gpu, index)? } else { gpu.zeros(x.rows(), x.cols())? };
                let slice = HeadSlice { input: &input, first, table };
                readout.loss_backward(gpu, slice, targets, &d, wanted.then_some(&mut sums))?;
                gradient.store(gpu, index, d, false)?;
            }
            if wanted {
                // The model has the factor of the logits in its final norm, or else in its head, and in the bias.
                let sums = sums.scaled(gpu, if readout.has_norm() { 1.0 } else { scale }, scale)?;
                collect.head(first..first + table.rows(), &sums)?;
            }
            Ok(())
        })?;
        let mut sums = AffineGradients::default();
        for index in 0..plan.batches.len() {
            let (x, d) = (last.load(gpu, index)?, gradient.load(gpu, index)?);
            gradient.store(gpu, index, readout.norm_backward(gpu, config, &x, &d, &mut sums)?, false)?;
            self.progress.advance(1)?;
        }
        if wanted {
            collect.final_norm(&sums.scaled(gpu, scale, scale)?)?;
        }
        Ok(gradient)
    }

    /// Goes through the rows of the head, as many at a time as let the logits of every batch fit a binding.
    fn each_slice(
        &self,
        plan: &Plan,
        ends: &HostEnds,
        mut each: impl FnMut(usize, &Matrix) -> Result<()>,
    ) -> Result<()> {
        let tokens = |rows: &Range<usize>| self.rows[rows.clone()].iter().map(Vec::len).sum::<usize>();
        let most = plan.batches.iter().map(tokens).max().unwrap_or(0);
        let entries = logit_entries(self.gpu.max_binding_size(), most);
        for part in self.memory.parts(self.gpu, &ends.head) {
            let table = ends.head.upload(self.gpu, part.clone())?;
            for start in (0..table.rows()).step_by(entries) {
                each(part.start + start, &table.view(start..table.rows().min(start + entries))?)?;
            }
        }
        Ok(())
    }

    /// A step backward: makes the gradient of what it has read, `x`, of that of its result.
    #[expect(clippy::too_many_arguments, reason = "a step and its place")]
    fn step(
        &self,
        plan: &Plan,
        layer: usize,
        step: Step,
        weights: &StepWeights,
        x: &Residual,
        gradient: &mut Residual,
        collect: &mut dyn Collect,
    ) -> Result<()> {
        let (gpu, config) = (self.gpu, self.model.config());
        let mut sums = StepGradients::new(weights);
        // Not in the file that is read.
        let number = layer * config.steps().len() + step.index;
        let mut before = self.residual(plan, &format!("gradient.{}", number % 2), x.width());
        for (index, rows) in plan.batches.iter().enumerate() {
            let batch = self.batch(rows)?;
            let context = batch.context(gpu, config, layer, &plan.rope_tables);
            let (x, d) = (x.load(gpu, index)?, gradient.load(gpu, index)?);
            before.store(gpu, index, context.step_backward(weights, &x, &d, &mut sums)?, false)?;
            if self.apart {
                collect.step(GradientsAt { layer, step, rows: rows.clone() }, &sums)?;
                sums = StepGradients::new(weights);
            }
            self.progress.advance(1)?;
        }
        *gradient = before;
        if self.apart { Ok(()) } else { collect.step(GradientsAt { layer, step, rows: 0..self.rows.len() }, &sums) }
    }

    /// The gradients of the embeddings from that of the first residual.
    fn embeddings(&self, plan: &Plan, ends: &HostEnds, gradient: &Residual, collect: &mut dyn Collect) -> Result<()> {
        let scale = self.model.config().embedding_scale;
        let ids = |rows: &Range<usize>| self.rows[rows.clone()].concat();
        self.table(plan, &ends.embedding, gradient, &ids, |part, sums| {
            let sums = AffineGradients { weight: Some(sums), bias: None }.scaled(self.gpu, scale, 1.0)?;
            sums.weight.as_ref().map_or(Ok(()), |sums| collect.embedding(false, part, sums))
        })?;
        let Some((table, offset)) = self.positions(ends) else { return Ok(()) };
        let places = |rows: &Range<usize>| {
            let row = |row: &Vec<u32>| offset as u32..(offset + row.len()) as u32;
            self.rows[rows.clone()].iter().flat_map(row).collect()
        };
        self.table(plan, table, gradient, &places, |part, sums| collect.embedding(true, part, &sums))
    }

    /// The gradient of a table, run of rows by run of rows; `ids` are the rows that tokens are looked up in.
    fn table(
        &self,
        plan: &Plan,
        table: &HostMatrix,
        gradient: &Residual,
        ids: &dyn Fn(&Range<usize>) -> Vec<u32>,
        mut each: impl FnMut(Range<usize>, Matrix) -> Result<()>,
    ) -> Result<()> {
        for part in self.memory.parts(self.gpu, table) {
            let sums = self.gpu.zeros(part.len(), table.cols)?;
            for (index, rows) in plan.batches.iter().enumerate() {
                self.gpu.embed_backward(&ids(rows), part.start, &gradient.load(self.gpu, index)?, &sums)?;
            }
            each(part, sums)?;
        }
        Ok(())
    }
}
