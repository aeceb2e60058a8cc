//! The dense model beside the smaller one that is fitted to it, and what of it is kept from one fit to the next: sizes
//! are compared on the same sequences, which need go through the dense model once.

use std::cell::RefCell;

use super::{
    mixture::Mixture,
    results::{Results, has_norm_after},
};
use crate::{
    error::{Error, Result},
    fit::{Regression, copied},
    gpu::{Gpu, Matrix},
    model::{Config, Kept, NoTap, StepWeights},
    stream::{At, Pass, Placement, Residual},
};

/// The dense model's residual.
pub struct Dense<'a> {
    pub now: Residual,
    /// Before the step that is being fitted, of the batches that count; what its block has made where a norm comes
    /// after that.
    pub before: Residual,
    recorded: Option<&'a RefCell<Recorded>>,
}

/// A residual of the smaller model that what the dense one reads is fitted to.
pub struct Reads<'r> {
    pub small: &'r Residual,
    /// Whether what is fitted has a bias.
    pub bias: bool,
}

impl<'a> Dense<'a> {
    /// Nothing done.
    pub fn new(pass: &Pass) -> Self {
        let residual = |name| pass.residual(name, pass.config.hidden_size);
        Self { now: residual("residual"), before: residual("before"), recorded: None }
    }

    /// The same, taking what an earlier pass over the same sequences has recorded, or recording it.
    pub fn with_recorded(self, recorded: &'a RefCell<Recorded>) -> Self {
        Self { recorded: Some(recorded), ..self }
    }

    /// Takes it through a step; `keeps` says whether what was before it is needed. Where `reads` is given, returns the
    /// sums of the norm of the dense residual before the step over that of the smaller one.
    ///
    /// # Errors
    /// Those of the step and of residuals.
    pub fn step(
        &mut self,
        pass: &Pass,
        at: At,
        weights: &StepWeights,
        keeps: bool,
        reads: Option<Reads>,
    ) -> Result<Option<Regression>> {
        let (gpu, config, At { layer, step, rope_tables }) = (pass.gpu, pass.config, at);
        let number = layer * config.steps().len() + step.index;
        // What a block gives before the norm of that is not recorded.
        let by_result = keeps && has_norm_after(weights);
        let known = self.recorded.filter(|recorded| !by_result && recorded.borrow().is_whole());
        if step.is_mixture() && known.is_none() {
            let experts = Kept::all(layer, &config.layers[layer]).experts;
            let mixture = Mixture { config, layer, weights, experts: &experts, rope_tables };
            mixture.run_dense(pass, &mut self.now, keeps.then_some(&mut self.before), step.last)?;
            for index in 0..pass.batches.len() {
                self.record(pass, number, index, &self.now.load(gpu, index)?)?;
            }
            return Ok(None);
        }
        let fitted = reads.zip(weights.blocks.first());
        let regression =
            |Reads { small, bias }: &Reads| Regression::new(vec![small.width()], config.hidden_size, *bias);
        let mut sums = fitted.as_ref().map(|(reads, _)| regression(reads));
        for index in 0..pass.batches.len() {
            let batch = pass.batch(index)?;
            let x = self.now.load(gpu, index)?;
            let context = batch.context(gpu, config, layer, rope_tables);
            let counts = index < pass.counted;
            if counts && keeps && !by_result {
                self.before.store(gpu, index, copied(gpu, &x)?, false)?;
            }
            if let (Some((Reads { small, .. }, block)), Some(sums), true) = (&fitted, &mut sums, counts) {
                let z = small.load(gpu, index)?;
                let ones = gpu.upload(&vec![1.0; x.rows()], x.rows(), 1)?;
                sums.add(gpu, &[context.norm(block, &z)?], &context.norm(block, &x)?, &ones)?;
            }
            let y = match known {
                Some(recorded) => recorded.borrow().load(gpu, number, index)?,
                None if by_result && counts => {
                    let mut results = Results { gpu, all: gpu.zeros(x.rows(), config.hidden_size)? };
                    let y = context.step(weights, x, &mut results)?;
                    self.before.store(gpu, index, results.all, false)?;
                    y
                }
                None => context.step(weights, x, &mut NoTap)?,
            };
            if known.is_none() {
                self.record(pass, number, index, &y)?;
            }
            self.now.store(gpu, index, y, step.last)?;
            pass.job.progress.advance(1)?;
        }
        self.now.finish_pass();
        Ok(sums)
    }

    fn record(&self, pass: &Pass, number: usize, index: usize, y: &Matrix) -> Result<()> {
        self.recorded.map_or(Ok(()), |recorded| recorded.borrow_mut().add(pass, number, index, y))
    }
}

/// The dense model's residuals after every step, in host memory.
#[derive(Default)]
pub struct Recorded {
    after: Vec<Residual>,
    whole: bool,
}

impl Recorded {
    /// Bytes of it all for this many tokens.
    pub fn bytes(config: &Config, tokens: usize) -> u64 {
        4 * (config.points() * tokens * config.hidden_size) as u64
    }

    fn is_whole(&self) -> bool {
        self.whole
    }

    fn add(&mut self, pass: &Pass, number: usize, index: usize, y: &Matrix) -> Result<()> {
        if self.whole {
            return Ok(());
        }
        if self.after.len() == number {
            self.after.push(pass.residual_in("recorded", pass.config.hidden_size, Placement::Host));
        }
        let missing = || Error::shape("recorded", "a step before others");
        let after = self.after.get_mut(number).ok_or_else(missing)?;
        after.store(pass.gpu, index, y.clone(), false)?;
        self.whole = number + 1 == pass.config.points() && index + 1 == pass.batches.len();
        Ok(())
    }

    fn load(&self, gpu: &Gpu, number: usize, index: usize) -> Result<Matrix> {
        let missing = || Error::shape("recorded", "a step that was not recorded");
        self.after.get(number).ok_or_else(missing)?.load(gpu, index)
    }
}
