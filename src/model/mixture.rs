//! Layers forward for several batches side by side, mixtures among them: experts come from the file one after the
//! other, and all batches send each their tokens before the next one comes. So a layer's experts are never on the GPU
//! at once, each is read once, and those without tokens are not read at all.
//!
//! With h = norm(x), a mixture adds Σ_j g_j · f_j(h) to x: the router's logits say which experts j a token goes to, and
//! the gates g_j ([`Gpu::route`]); f_j is a gated MLP. An expert gathers its tokens, and adds its weighted results to
//! theirs. An expert that every token goes to comes last. The sums are in the order of the experts' numbers, whatever
//! the batches, for no two results of an expert belong to the same token.

use super::{
    Model,
    architecture::Role,
    config::Config,
    expert::{Given, uploaded},
    layer::{BlockWeights, LayerContext, LayerWeights, Linear, NoTap, StepWeights},
    shared_expert::SharedExpert,
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    ops::Routes,
};

/// What looks on while experts run.
pub trait ExpertTap {
    /// What an expert of a layer gives for some tokens, `[tokens, width]`, before it is multiplied by the gates, which
    /// are here divided by the sum of their token's.
    ///
    /// # Errors
    /// Whatever the implementation reports.
    fn result(&mut self, _layer: usize, _expert: usize, _gates: &[f32], _result: &Matrix) -> Result<()> {
        Ok(())
    }
}

/// Looks at nothing.
pub struct NoExpertTap;

impl ExpertTap for NoExpertTap {}

/// Which tokens of a batch each expert of a layer gets, by the numbers that these have in the router.
#[derive(Debug, Clone, Default)]
pub struct Routed {
    tokens: Vec<Vec<Given>>,
}

impl Routed {
    pub(super) fn new(experts: usize, routes: &Routes) -> Self {
        let mut tokens = vec![Vec::new(); experts];
        let rows = routes.ids.chunks(routes.chosen.max(1)).zip(routes.gates.chunks(routes.chosen.max(1)));
        for (token, (ids, gates)) in rows.enumerate() {
            let sum: f32 = gates.iter().sum();
            for (number, (&id, &gate)) in ids.iter().zip(gates).enumerate() {
                let place = (token * routes.chosen + number) as u32;
                tokens[id as usize].push(Given { token: token as u32, gate, share: gate / sum, place });
            }
        }
        Self { tokens }
    }

    /// Whether no token of any of these goes to an expert.
    pub(super) fn none<'r>(mut all: impl Iterator<Item = &'r Self>, expert: usize) -> bool {
        all.all(|routed| routed.tokens[expert].is_empty())
    }

    /// The tokens of an expert, in their order.
    pub fn tokens(&self, expert: usize) -> &[Given] {
        &self.tokens[expert]
    }
}

/// Runs batches through a layer, whose `weights` are on the GPU but those of experts: each residual `[tokens, width]`
/// becomes what the layer makes of it. `each` is called after each batch, of a mixture before its experts come.
///
/// # Errors
/// As [`mix`]; those of `each`.
pub fn forward(
    gpu: &Gpu,
    model: &Model,
    weights: &LayerWeights,
    batches: &mut [(LayerContext, &mut Matrix)],
    tap: &mut dyn ExpertTap,
    mut each: impl FnMut() -> Result<()>,
) -> Result<()> {
    let (mixtures, others): (Vec<_>, Vec<_>) = weights.steps.iter().partition(|step| step.mixture().is_some());
    for (context, x) in batches.iter_mut() {
        for step in &others {
            **x = context.step(step, x.clone(), &mut NoTap)?;
        }
        each()?;
    }
    for step in mixtures {
        mix_all(gpu, model, step, batches, tap)?;
    }
    Ok(())
}

/// Takes a batch through one step: `x` `[tokens, width before]`, which may itself become the result.
///
/// # Errors
/// As [`LayerContext::step`] and [`mix`].
pub fn through_step(model: &Model, step: &StepWeights, context: LayerContext, mut x: Matrix) -> Result<Matrix> {
    if step.mixture().is_none() {
        return context.step(step, x, &mut NoTap);
    }
    mix_all(context.gpu, model, step, &mut [(context, &mut x)], &mut NoExpertTap)?;
    Ok(x)
}

/// As [`mix`], with all experts that a layer has.
///
/// # Errors
/// As [`mix`].
pub fn mix_all(
    gpu: &Gpu,
    model: &Model,
    step: &StepWeights,
    batches: &mut [(LayerContext, &mut Matrix)],
    tap: &mut dyn ExpertTap,
) -> Result<Vec<Routed>> {
    let count = batches.first().and_then(|(context, _)| context.spec().experts).map_or(0, |experts| experts.count);
    mix(gpu, model, step, &(0..count).collect::<Vec<_>>(), batches, tap)
}

/// Adds to residuals what the mixture that a step is makes of them. Its router, on the GPU, has a row for each of these
/// `experts` of the layer; those weights come from the file one after the other. Returns who got which tokens of each
/// batch.
///
/// # Errors
/// [`Error::Shape`], [`Error::OutOfMemory`]; [`Error::BadTensor`] and [`Error::Read`] for experts;
/// [`Error::Numerical`] for a router whose logits are no numbers; those of `tap`.
pub fn mix(
    gpu: &Gpu,
    model: &Model,
    step: &StepWeights,
    experts: &[usize],
    batches: &mut [(LayerContext, &mut Matrix)],
    tap: &mut dyn ExpertTap,
) -> Result<Vec<Routed>> {
    let Some(layer) = batches.first().map(|(context, _)| context.layer) else { return Ok(Vec::new()) };
    let block = step.mixture().ok_or_else(|| Error::shape("mix", "a step without experts"))?;
    let (mut normed, mut routed) = (Vec::new(), Vec::new());
    for (context, x) in batches.iter() {
        let read = context.norm(block, x)?;
        routed.push(context.route(block, &read)?);
        normed.push(read);
    }
    for (number, &expert) in experts.iter().enumerate() {
        if Routed::none(routed.iter(), number) {
            continue;
        }
        let linears = uploaded(gpu, &model.store.expert(layer, expert)?)?;
        for (((context, x), normed), routed) in batches.iter().zip(&normed).zip(&routed) {
            let mut tap = |shares: &[f32], result: &Matrix| tap.result(layer, expert, shares, result);
            context.expert(&linears, normed, &routed.tokens[number], x, &mut tap)?;
        }
    }
    if let Some(shared) = SharedExpert::of(gpu, model, layer, block)? {
        for ((context, x), normed) in batches.iter().zip(&normed) {
            shared.add(context, normed, x)?;
        }
    }
    Ok(routed)
}

/// Bytes that a token takes in the host's memory while the experts of a mixture come one after the other: which it goes
/// to.
pub fn routes_bytes(config: &Config) -> u64 {
    let chosen = config.layers.iter().filter_map(|spec| spec.experts).map(|experts| experts.chosen);
    // In lists that grow, in the order of experts, and of tokens.
    chosen.max().unwrap_or(0) as u64 * (2 * size_of::<Given>() as u64 + 8)
}

impl LayerContext<'_> {
    /// Which tokens of what the experts read, `normed` `[tokens, width]`, go to which.
    fn route(&self, block: &BlockWeights, normed: &Matrix) -> Result<Routed> {
        let (logits, routes) = self.routes(router(block)?, normed)?;
        Ok(Routed::new(logits.cols(), &routes))
    }

    /// The logits of a router, and which experts they send tokens to.
    pub(super) fn routes(&self, router: &Linear, normed: &Matrix) -> Result<(Matrix, Routes)> {
        let experts = self.spec().experts.ok_or_else(|| Error::shape("route", "a layer without experts"))?;
        // In f32 whatever the precision: rounding may send a token elsewhere.
        let logits = self.gpu.unfilled(normed.rows(), router.weight.rows())?;
        self.gpu.linear(normed, &router.weight, router.bias.as_ref(), &logits, 0, false)?;
        let routes = self.gpu.route(&logits, experts.chosen, experts.normalised)?;
        Ok((logits, routes))
    }
}

/// The router of a mixture.
pub(super) fn router(block: &BlockWeights) -> Result<&Linear> {
    let found = block.linears.iter().find(|linear| linear.role == Role::Router);
    found.ok_or_else(|| Error::shape("route", "a mixture without a router"))
}
