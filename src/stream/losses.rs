//! What is to become small, at the end of a pass forward, and its gradient by the last residual: a slice of the
//! vocabulary at a time.

use std::ops::Range;

use super::{
    gradients::{Collect, Gradients, Plan},
    sitting::GRADIENT,
    store::Residual,
    training::{Objective, Supply},
};
use crate::{
    error::{Error, Result},
    gpu::Matrix,
    model::{AffineGradients, Draw, HeadSlice, HostEnds, Model, Readout, Targets, TeacherSlice, logit_entries},
};

/// What was found of all batches.
pub(super) struct Found<'a> {
    /// The mean of what is to become small.
    pub mean: f64,
    readout: Readout,
    goal: Goal<'a>,
}

/// What the predictions of all batches are compared with.
enum Goal<'a> {
    NextToken(Vec<Targets>),
    Teacher(Box<Teacher<'a>>),
}

/// The predictions of another model for the same batches.
struct Teacher<'a> {
    ends: HostEnds<'a>,
    readout: Readout,
    temperature: f32,
    /// What its head reads of each batch.
    inputs: Vec<Matrix>,
    /// How far both are from each other at each token: [`crate::gpu::Gpu::divergence_at`].
    states: Vec<Matrix>,
    /// What the gradient is multiplied by: T over the number of tokens.
    factor: f32,
}

impl Gradients<'_> {
    /// The mean of what is to become small, given the last residual.
    pub(super) fn objective(&self, plan: &Plan, ends: &HostEnds, last: &Residual) -> Result<Found<'_>> {
        let trained = self.training.map(|training| training.weights.final_norm()).transpose()?.flatten();
        let readout = Readout::upload(self.gpu, ends)?.with_norm(trained);
        let (mean, goal) = match self.training.map(|training| training.objective) {
            Some(Objective::Teacher { model, weights, temperature }) => {
                let (mean, teacher) = self.divergence(plan, ends, &readout, last, (model, weights, temperature))?;
                (mean, Goal::Teacher(Box::new(teacher)))
            }
            _ => {
                let (mean, targets) = self.next_tokens(plan, ends, &readout, last)?;
                (mean, Goal::NextToken(targets))
            }
        };
        if !mean.is_finite() {
            return Err(Error::Numerical(format!("the loss is {mean}: the model's signals overflow")));
        }
        Ok(Found { mean, readout, goal })
    }

    /// The mean loss of the next tokens.
    fn next_tokens(
        &self,
        plan: &Plan,
        ends: &HostEnds,
        readout: &Readout,
        last: &Residual,
    ) -> Result<(f64, Vec<Targets>)> {
        let (gpu, config) = (self.gpu, self.model.config());
        if plan.predicted == 0 {
            return Err(Error::BadTokens("no token of these sequences counts".into()));
        }
        let drawn = self.drawn.map(|seed| self.draw(seed, plan, ends, readout, last)).transpose()?;
        let mut targets = Vec::new();
        for (index, rows) in plan.batches.iter().enumerate() {
            let mut ids: Vec<u32> = Vec::new();
            for row in rows.clone() {
                let tokens = match &drawn {
                    // That after the last one is drawn, too.
                    Some(drawn) => &drawn[index][ids.len()..ids.len() + self.rows[row].len() - 1],
                    None => &self.rows[row][1..],
                };
                let target =
                    |(before, &token): (usize, &u32)| if self.counts(row, before + 1) { token } else { u32::MAX };
                ids.extend(tokens.iter().enumerate().map(target));
                ids.push(u32::MAX);
            }
            let predicted = if self.apart { ids.iter().filter(|id| **id != u32::MAX).count() } else { plan.predicted };
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
            for row in rows.clone() {
                let length = self.rows[row].len();
                let counted = (1..length).filter(|&token| self.counts(row, token));
                total += counted.map(|token| losses[first + token - 1]).sum::<f64>();
                first += length;
            }
            self.progress.advance(1)?;
        }
        Ok((total / plan.predicted as f64, targets))
    }

    /// A draw from what the model predicts after each token of each batch.
    fn draw(
        &self,
        seed: u32,
        plan: &Plan,
        ends: &HostEnds,
        readout: &Readout,
        last: &Residual,
    ) -> Result<Vec<Vec<u32>>> {
        let (gpu, config) = (self.gpu, self.model.config());
        let (mut draws, mut begun) = (Vec::new(), 0);
        for rows in &plan.batches {
            let tokens: usize = self.rows[rows.clone()].iter().map(Vec::len).sum();
            draws.push(Draw::new(gpu, seed, begun, tokens)?);
            begun += tokens;
        }
        self.each_slice(plan, ends, |first, table| {
            for (index, draw) in draws.iter().enumerate() {
                let input = readout.norm(gpu, config, &last.load(gpu, index)?)?;
                readout.logits(gpu, &input, first, table, |first, logits| draw.add(gpu, first, logits))?;
            }
            Ok(())
        })?;
        draws.iter().map(|draw| draw.ids(gpu)).collect()
    }

    /// T² times the mean divergence of a teacher's predictions.
    fn divergence<'t>(
        &self,
        plan: &Plan,
        ends: &HostEnds,
        readout: &Readout,
        last: &Residual,
        (model, weights, temperature): (&'t Model, &dyn Supply, f32),
    ) -> Result<(f64, Teacher<'t>)> {
        let (gpu, config) = (self.gpu, self.model.config());
        let teacher_ends = model.store.ends()?;
        let teacher_readout = Readout::upload(gpu, &teacher_ends)?;
        let own = self.plan(model)?;
        let residual = self.forward_only(model, &own, &|layer, step| weights.weights(layer, step))?;
        let (mut inputs, mut states, mut targets, mut tokens) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (index, rows) in plan.batches.iter().enumerate() {
            let x = residual.load(gpu, index)?;
            inputs.push(teacher_readout.norm(gpu, model.config(), &x)?);
            let counts = self.compared(rows);
            tokens += counts.iter().filter(|counts| **counts).count();
            states.push(gpu.divergence_state_of(&counts)?);
            targets.push(gpu.upload_u32(&vec![u32::MAX; x.rows()])?);
        }
        if tokens == 0 {
            return Err(Error::BadTokens("no token of these sequences counts".into()));
        }
        let factor = temperature / tokens as f32;
        let teacher = Teacher { ends: teacher_ends, readout: teacher_readout, temperature, inputs, states, factor };
        self.each_slice(plan, ends, |first, table| {
            let of_teacher = teacher.ends.head.upload(gpu, first..first + table.rows())?;
            for (index, targets) in targets.iter().enumerate() {
                let input = readout.norm(gpu, config, &last.load(gpu, index)?)?;
                teacher.readout.logits(gpu, &teacher.inputs[index], first, &of_teacher, |_, p| {
                    readout.logits(gpu, &input, first, table, |_, q| {
                        gpu.divergence_at(p, q, first, targets, &teacher.states[index], temperature)
                    })
                })?;
            }
            Ok(())
        })?;
        let mut total = 0.0;
        for state in &teacher.states {
            total += gpu.divergences(state)?.iter().map(|token| token.kl).sum::<f64>();
            self.progress.advance(1)?;
        }
        Ok((f64::from(temperature).powi(2) * total / tokens as f64, teacher))
    }

    /// Whether predictions count, token by token of some sequences: of all, or of those before a token that counts.
    fn compared(&self, rows: &Range<usize>) -> Vec<bool> {
        let marked = self.training.is_some_and(|training| training.counted.is_some());
        let of_row = |row: usize| {
            let length = self.rows[row].len();
            (1..=length).map(move |next| !marked || (next < length && self.counts(row, next)))
        };
        rows.clone().flat_map(of_row).collect()
    }

    /// The mean of what is to become small, and its gradient by the last residual, to be `kept` or not.
    pub(super) fn loss(
        &self,
        plan: &Plan,
        ends: &HostEnds,
        last: &Residual,
        collect: &mut dyn Collect,
        kept: bool,
    ) -> Result<(f64, Residual)> {
        let Found { mean, readout, goal } = self.objective(plan, ends, last)?;
        let (gpu, config) = (self.gpu, self.model.config());
        let (wanted, scale) = (collect.ends(), config.logit_scale);
        let mut gradient = self.residual(plan, GRADIENT, last.width());
        let together = self.together(plan);
        self.each_slice(plan, ends, |first, table| {
            let of_teacher = match &goal {
                Goal::Teacher(teacher) => Some(teacher.ends.head.upload(gpu, first..first + table.rows())?),
                Goal::NextToken(_) => None,
            };
            for batches in &together {
                let mut sums = AffineGradients::default();
                for index in batches.clone() {
                    let x = last.load(gpu, index)?;
                    let input = readout.norm(gpu, config, &x)?;
                    let d = if first > 0 { gradient.load(gpu, index)? } else { gpu.zeros(x.rows(), x.cols())? };
                    let slice = HeadSlice { input: &input, first, table };
                    match (&goal, &of_teacher) {
                        (Goal::Teacher(teacher), Some(table)) => {
                            let Teacher { readout: of, temperature, inputs, states, factor, .. } = teacher.as_ref();
                            let (input, state) = (&inputs[index], &states[index]);
                            let (temperature, factor) = (*temperature, *factor);
                            let teacher = TeacherSlice { readout: of, input, table, state, temperature, factor };
                            readout.divergence_backward(gpu, slice, teacher, &d)?;
                        }
                        (Goal::NextToken(targets), _) => {
                            readout.loss_backward(gpu, slice, &targets[index], &d, wanted.then_some(&mut sums))?;
                        }
                        (Goal::Teacher(_), None) => {}
                    }
                    gradient.store(gpu, index, d, false)?;
                }
                if wanted {
                    // The model has the factor of the logits in its final norm, or else in its head, and in the bias.
                    let sums = sums.scaled(gpu, if readout.has_norm() { 1.0 } else { scale }, scale)?;
                    collect.head(plan.sequences(batches), first..first + table.rows(), &sums)?;
                }
            }
            Ok(())
        })?;
        for batches in &together {
            let mut sums = AffineGradients::default();
            for index in batches.clone() {
                let (x, d) = (last.load(gpu, index)?, gradient.load(gpu, index)?);
                gradient.store(gpu, index, readout.norm_backward(gpu, config, &x, &d, &mut sums)?, kept)?;
                self.progress.advance(1)?;
            }
            if collect.wants_final_norm() {
                collect.final_norm(plan.sequences(batches), &sums.scaled(gpu, scale, scale)?)?;
            }
        }
        Ok((mean, gradient))
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
}
