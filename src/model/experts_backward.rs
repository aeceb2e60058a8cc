//! The backward pass of a mixture of experts for several batches side by side: as in the forward pass
//! ([`super::mixture`]), experts come from the file one after the other, and no two are on the GPU together.
//!
//! With y = x + Σ_j g_j · f_j(h), h = norm(x), and d the gradient of y, that of h is
//!
//! ```text
//!     Σ_j g_j · J_jᵀ d  +  Rᵀ · route'(⟨d, f_j(h)⟩)
//! ```
//!
//! where J_j is the derivative of expert j, R the router and route' that of the gates by its logits
//! ([`Gpu::route_backward`]); which experts a token goes to is constant. The gate of the expert that every token goes
//! to is the sigmoid of w·h, and adds w · g·(1 − g) · ⟨d, f(h)⟩. Sums are in the order of the experts' numbers, then
//! come that expert and the router, whatever the batches. Experts and routers have no gradients: they stay as they are,
//! but for the expert that every token goes to where the block has its weights ([`super::shared_expert`]).

use super::{
    Model,
    architecture::{BlockKind, Role},
    backward::{StepGradients, Sums},
    expert::{Given, gathered, targets, uploaded, weight},
    layer::{LayerContext, Linear, StepWeights},
    mixture::{Routed, router},
    shared_expert::SharedExpert,
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    ops::Routes,
};

/// A batch at a mixture on the way back.
pub struct MixtureBack<'a> {
    pub context: LayerContext<'a>,
    /// What the step has read, `[tokens, width]`.
    pub x: Matrix,
    /// The gradient of its result.
    pub d: Matrix,
}

/// What is known of a batch while experts come.
struct Under {
    /// What the experts read, and its gradient so far.
    normed: Matrix,
    d_normed: Matrix,
    logits: Matrix,
    routes: Routes,
    routed: Routed,
    /// The gradients of the gates, `[1, tokens · chosen]`.
    d_gates: Matrix,
}

/// A mixture backward: from the gradients of the results of [`super::mix_all`], those of what the experts have read,
/// batch by batch, for [`LayerContext::mixture_backward`]. Adds the gradients of what is trained of the experts to
/// `gradients`, which was made of the same weights.
///
/// # Errors
/// As [`super::mix_all`].
pub fn mix_backward(
    gpu: &Gpu,
    model: &Model,
    step: &StepWeights,
    batches: &[MixtureBack],
    gradients: &mut StepGradients,
) -> Result<Vec<Matrix>> {
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    let block = step.mixture().ok_or_else(|| Error::shape("mix_backward", "a step without experts"))?;
    let (layer, router) = (first.context.layer, router(block)?);
    let mut under = Vec::new();
    for MixtureBack { context, x, .. } in batches {
        let normed = context.norm(block, x)?;
        let (logits, routes) = context.routes(router, &normed)?;
        under.push(Under {
            d_normed: gpu.zeros(normed.rows(), normed.cols())?,
            d_gates: gpu.unfilled(1, routes.gates.len())?,
            routed: Routed::new(logits.cols(), &routes),
            normed,
            logits,
            routes,
        });
    }
    for expert in 0..router.weight.rows() {
        if Routed::none(under.iter().map(|one| &one.routed), expert) {
            continue;
        }
        let linears = uploaded(gpu, &model.store.expert(layer, expert)?)?;
        for (batch, one) in batches.iter().zip(&under) {
            batch.expert_backward(&linears, &one.normed, one.routed.tokens(expert), [&one.d_normed, &one.d_gates])?;
        }
    }
    if let Some(shared) = SharedExpert::of(gpu, model, layer, block)? {
        let mut sums = gradients.blocks.iter_mut();
        let sums = sums.find(|sums| sums.spec.kind == BlockKind::Mixture);
        let block = sums.ok_or_else(|| Error::shape("mix_backward", "gradients of another step"))?;
        let sums = &mut Sums { block, wanted: gradients.wanted };
        for (batch, one) in batches.iter().zip(&under) {
            shared.backward(&batch.context, &one.normed, [&batch.d, &one.d_normed], sums)?;
        }
    }
    let mut found = Vec::new();
    for (MixtureBack { context, .. }, Under { d_normed, logits, routes, d_gates, .. }) in batches.iter().zip(under) {
        let normalised = context.spec().experts.is_some_and(|experts| experts.normalised);
        let d_logits = gpu.route_backward(&logits, &routes, normalised, &d_gates)?;
        gpu.linear_backward(&d_logits, 0..d_logits.cols(), &router.weight, &d_normed, true)?;
        found.push(d_normed);
    }
    Ok(found)
}

impl MixtureBack<'_> {
    /// Adds what comes through an expert to the gradient of what it has read of the tokens given, and puts the
    /// gradients of their gates in their places.
    fn expert_backward(
        &self,
        linears: &[Linear],
        normed: &Matrix,
        given: &[Given],
        [d_normed, d_gates]: [&Matrix; 2],
    ) -> Result<()> {
        let (context, gpu) = (&self.context, self.context.gpu);
        let [gate, up, down] = [Role::Gate, Role::Up, Role::Down].map(|role| weight(linears, role));
        let (gate, up, down) = (gate?, up?, down?);
        let inner = gate.weight.rows();
        for tokens in given.chunks(context.expert_rows(linears)?) {
            let both = context.expert_projected(linears, &gathered(gpu, normed, tokens)?)?;
            let hidden = context.expert_activated(&both)?;
            let d = gathered(gpu, &self.d, tokens)?;
            let places: Vec<u32> = tokens.iter().map(|given| given.place).collect();
            gpu.row_products(&d, &context.expert_result(linears, &hidden)?, &places, d_gates)?;
            // All that follows is linear in d: gates multiply what comes of it.
            let d_hidden = gpu.unfilled(tokens.len(), inner)?;
            gpu.linear_backward(&d, 0..d.cols(), &down.weight, &d_hidden, false)?;
            drop((hidden, d));
            let d_both = context.expert_activated_backward(&both, &d_hidden)?;
            drop((both, d_hidden));
            let d_read = gpu.unfilled(tokens.len(), normed.cols())?;
            gpu.linear_backward(&d_both, 0..inner, &gate.weight, &d_read, false)?;
            gpu.linear_backward(&d_both, inner..2 * inner, &up.weight, &d_read, true)?;
            gpu.add_rows(&d_read, d_normed, &targets(tokens))?;
        }
        Ok(())
    }
}

impl LayerContext<'_> {
    /// What is left of a mixture backward: from the gradient `d` of its result, and `d_normed` of what its experts have
    /// read, that of `x`. Adds the gradients of the norm between to `gradients`, which was made of the same weights.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::OutOfMemory`].
    pub fn mixture_backward(
        &self,
        step: &StepWeights,
        MixtureBack { x, d, .. }: &MixtureBack,
        d_normed: &Matrix,
        gradients: &mut StepGradients,
    ) -> Result<Matrix> {
        let dx = self.gpu.columns(d, 0..d.cols())?;
        for (block, sums) in step.blocks.iter().zip(&mut gradients.blocks) {
            self.norm_backward(block, x, d_normed, &dx, &mut Sums { block: sums, wanted: gradients.wanted })?;
        }
        Ok(dx)
    }
}

/// A batch backward through one step, whatever it is: from the gradient `d` of its result, that of `x`.
///
/// # Errors
/// As [`LayerContext::step_backward`] and [`mix_backward`].
pub fn back_through_step(
    model: &Model,
    step: &StepWeights,
    context: LayerContext,
    [x, d]: [Matrix; 2],
    gradients: &mut StepGradients,
) -> Result<Matrix> {
    if step.mixture().is_none() {
        return context.step_backward(step, &x, &d, gradients);
    }
    let batch = [MixtureBack { context, x, d }];
    let found = mix_backward(context.gpu, model, step, &batch, gradients)?;
    let d_normed = found.first().ok_or_else(|| Error::shape("mix_backward", "no batch"))?;
    context.mixture_backward(step, &batch[0], d_normed, gradients)
}
