//! One step of a layer, forward and back, for all batches of a pass of gradients: batch by batch; but of a mixture of
//! experts all side by side, where residuals lie on the GPU, so that each expert comes from the file once.

use std::ops::Range;

use super::{
    gradients::{AndThen, AtStep, Collect, Gradients, GradientsAt},
    sitting::{layer_gradient, step_gradient},
    store::{Placement, Residual},
};
use crate::{
    error::Result,
    gpu::Matrix,
    model::{
        Batch, LayerContext, MixtureBack, NoExpertTap, NoTap, PlaceSums, StepGradients, StepWeights, mix_all,
        mix_backward, places,
    },
};

impl AtStep<'_> {
    fn context<'c>(&'c self, gradients: &Gradients<'c>, batch: &'c Batch) -> LayerContext<'c> {
        batch.context(gradients.gpu, self.model.config(), self.layer, &self.plan.rope_tables)
    }

    /// The batches that go through it side by side.
    fn groups(&self, placement: Placement) -> impl Iterator<Item = Range<usize>> + use<> {
        let count = self.plan.batches.len();
        let together = self.step.is_mixture() && placement == Placement::Gpu;
        let each = if together { count.max(1) } else { 1 };
        (0..count).step_by(each).map(move |first| first..count.min(first + each))
    }
}

impl Gradients<'_> {
    fn held(&self, at: &AtStep, group: &Range<usize>) -> Result<Vec<Batch>> {
        at.plan.batches[group.clone()].iter().map(|rows| self.batch(rows)).collect()
    }

    /// Makes the residual after a step of that before it.
    pub(super) fn step(
        &self,
        at: AtStep,
        before: &Residual,
        after: &mut Residual,
        AndThen { used, saved }: AndThen,
    ) -> Result<()> {
        let gpu = self.gpu;
        for group in at.groups(self.memory.placement) {
            let held = self.held(&at, &group)?;
            let mut states = Vec::with_capacity(held.len());
            for index in group.clone() {
                let x = before.load(gpu, index)?;
                // A step may write its result in place of what it has read.
                let shared = !used && self.memory.placement == Placement::Gpu;
                states.push(if shared { gpu.columns(&x, 0..x.cols())? } else { x });
            }
            if at.step.is_mixture() {
                let contexts = held.iter().map(|batch| at.context(self, batch));
                let mut batches: Vec<(LayerContext, &mut Matrix)> = contexts.zip(&mut states).collect();
                mix_all(gpu, at.model, at.weights, &mut batches, &mut NoExpertTap)?;
            }
            for ((index, batch), x) in group.zip(&held).zip(states) {
                let mixed = at.step.is_mixture();
                let result = if mixed { x } else { at.context(self, batch).step(at.weights, x, &mut NoTap)? };
                after.store(gpu, index, result, saved)?;
                self.progress.advance(1)?;
            }
        }
        Ok(())
    }

    /// A step backward: makes the gradient of what it has read, `x`, of that of its result, `after`, to be `kept` or
    /// not.
    pub(super) fn step_back(
        &self,
        at: AtStep,
        (x, after): (&Residual, &Residual),
        gradient: &mut Residual,
        collect: &mut dyn Collect,
        kept: bool,
    ) -> Result<()> {
        let (gpu, AtStep { plan, layer, step, weights, .. }) = (self.gpu, at);
        let wanted = self.training.map_or_else(|| collect.wanted(), |training| training.wanted);
        let mut sums = StepGradients::new(weights, wanted);
        // Not in the file that is read.
        let number = layer * self.model.config().steps().len() + step.index;
        let name = if kept { layer_gradient(layer) } else { step_gradient(number) };
        let mut before = self.residual(plan, &name, x.width());
        for group in at.groups(self.memory.placement) {
            let held = self.held(&at, &group)?;
            let mut batches = Vec::with_capacity(held.len());
            for (index, batch) in group.clone().zip(&held) {
                let d = gradient.load(gpu, index)?;
                if wanted.results {
                    let y = after.load(gpu, index)?;
                    self.add_places(weights, batch, (&d, &y), &mut sums.places)?;
                }
                let x = x.load(gpu, index)?;
                batches.push(MixtureBack { context: at.context(self, batch), x, d });
            }
            let experts = match step.is_mixture() {
                true => mix_backward(gpu, at.model, weights, &batches, &mut sums)?,
                false => Vec::new(),
            };
            let mut experts = experts.iter();
            for (index, batch) in group.zip(&batches) {
                let dx = match experts.next() {
                    Some(d_normed) => batch.context.mixture_backward(weights, batch, d_normed, &mut sums)?,
                    None => batch.context.step_backward(weights, &batch.x, &batch.d, &mut sums)?,
                };
                before.store(gpu, index, dx, kept)?;
                if self.apart {
                    collect.step(GradientsAt { layer, step, rows: plan.batches[index].clone() }, &sums)?;
                    sums = StepGradients::new(weights, wanted);
                }
                self.progress.advance(1)?;
            }
        }
        *gradient = before;
        if self.apart { Ok(()) } else { collect.step(GradientsAt { layer, step, rows: 0..self.rows.len() }, &sums) }
    }

    /// Adds what the gradient `d` of a step's result `y` says of the tokens of each kind of place.
    fn add_places(
        &self,
        weights: &StepWeights,
        batch: &Batch,
        (d, y): (&Matrix, &Matrix),
        sums: &mut PlaceSums,
    ) -> Result<()> {
        let gpu = self.gpu;
        let energies = gpu.download(&gpu.energy(d)?)?;
        let normed = weights.blocks.iter().any(|block| block.norm_after.is_some());
        let sizes = if normed { vec![1.0; y.rows()] } else { gpu.download(&gpu.energy(y)?)? };
        for (place, (energy, size)) in places(&batch.sequences).zip(energies.iter().zip(sizes)) {
            sums.add(place, f64::from(*energy) * f64::from(size));
        }
        Ok(())
    }
}
