//! Layers forward for several batches side by side, mixtures among them: experts come from the file one after the other,
//! and all batches send each their tokens before the next one comes. So a layer's experts are never on the GPU at once,
//! each is read once, and those without tokens are not read at all.
//!
//! With h = norm(x), a mixture adds Σ_j g_j · f_j(h) to x: the router's logits say which experts j a token goes to, and
//! the gates g_j ([`Gpu::route`]); f_j is a gated MLP. An expert gathers its tokens, and adds its weighted results to
//! theirs. An expert that every token goes to comes last. The sums are in the order of the experts' numbers, whatever
//! the batches, for no two results of an expert belong to the same token.

use super::{
    Model,
    architecture::Role,
    config::Config,
    host::HostLinear,
    layer::{BlockWeights, LayerContext, LayerWeights, Linear, NoTap, StepWeights},
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    ops::{Routes, RowCopy},
};

/// What looks on while experts run.
pub trait ExpertTap {
    /// What an expert of a layer gives for some tokens, `[tokens, width]`, before it is multiplied by the gates, which
    /// are here divided by the sum of their token's.
    ///
    /// # Errors
    /// Those of whatever is made of it.
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

/// A token that an expert gets.
#[derive(Debug, Clone, Copy)]
pub struct Given {
    pub token: u32,
    pub gate: f32,
    /// The gate divided by the sum of its token's gates.
    share: f32,
    /// Where the gate is in the list of all tokens' gates.
    pub(super) place: u32,
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
    let host = model.store.shared_expert(layer)?;
    if let Some((gate, weights)) = host.split_last() {
        let gate = Linear::upload(gpu, gate)?;
        let linears = uploaded(gpu, weights)?;
        for ((context, x), normed) in batches.iter().zip(&normed) {
            context.expert(&linears, normed, &context.shared(&gate, normed)?, x, &mut |_, _| Ok(()))?;
        }
    }
    Ok(routed)
}

/// Bytes that a token takes in the host's memory while the experts of a mixture come one after the other: which it goes to.
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

    /// What the expert that every token goes to gets of what the experts read: all, with the sigmoid of the product with
    /// its `gate`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; whatever the readback reports.
    pub fn shared(&self, gate: &Linear, normed: &Matrix) -> Result<Vec<Given>> {
        let logits = self.gpu.download(&self.gpu.product(normed, &gate.weight)?)?;
        let given = |(token, logit): (usize, f32)| {
            let gate = (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32;
            Given { token: token as u32, gate, share: gate, place: token as u32 }
        };
        Ok(logits.into_iter().enumerate().map(given).collect())
    }

    /// How many tokens an expert with these weights takes at once: what one binding holds of its inner activations.
    ///
    /// # Errors
    /// [`Error::Shape`] if a weight is missing.
    pub fn expert_rows(&self, linears: &[Linear]) -> Result<usize> {
        let inner = weight(linears, Role::Gate)?.weight.rows();
        Ok(self.gpu.rows_per_binding(2 * inner.next_multiple_of(4) * 4))
    }

    /// What the last linear layer of an expert reads, of tokens `normed` `[tokens, width]`.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::OutOfMemory`].
    pub fn expert_hidden(&self, linears: &[Linear], normed: &Matrix) -> Result<Matrix> {
        self.expert_activated(&self.expert_projected(linears, normed)?)
    }

    /// Gate and up of an expert side by side.
    pub(super) fn expert_projected(&self, linears: &[Linear], normed: &Matrix) -> Result<Matrix> {
        let (gpu, inner) = (self.gpu, weight(linears, Role::Gate)?.weight.rows());
        let both = gpu.unfilled(normed.rows(), 2 * inner)?;
        for (role, column) in [(Role::Gate, 0), (Role::Up, inner)] {
            let Linear { weight, bias, .. } = weight(linears, role)?;
            gpu.linear_layer(normed, weight, bias.as_ref(), &both, column, false)?;
        }
        Ok(both)
    }

    pub(super) fn expert_activated(&self, both: &Matrix) -> Result<Matrix> {
        match self.spec().swiglu {
            Some(swiglu) => self.gpu.clamped_swiglu(swiglu, both),
            None => self.gpu.activation(self.config.activation, true, both),
        }
    }

    /// What an expert makes of what its last linear layer reads.
    pub(super) fn expert_result(&self, linears: &[Linear], hidden: &Matrix) -> Result<Matrix> {
        let Linear { weight, bias, .. } = weight(linears, Role::Down)?;
        let result = self.gpu.unfilled(hidden.rows(), weight.rows())?;
        self.gpu.linear_layer(hidden, weight, bias.as_ref(), &result, 0, false)?;
        Ok(result)
    }

    /// Adds what an expert makes of the tokens given to `x`; `tap` gets their shares, and what it gives before the gates.
    fn expert(
        &self,
        linears: &[Linear],
        normed: &Matrix,
        given: &[Given],
        x: &Matrix,
        tap: &mut dyn FnMut(&[f32], &Matrix) -> Result<()>,
    ) -> Result<()> {
        let gpu = self.gpu;
        for tokens in given.chunks(self.expert_rows(linears)?) {
            let hidden = self.expert_hidden(linears, &gathered(gpu, normed, tokens)?)?;
            let result = self.expert_result(linears, &hidden)?;
            let shares: Vec<f32> = tokens.iter().map(|given| given.share).collect();
            tap(&shares, &result)?;
            gpu.add_rows(&result, x, &targets(tokens))?;
        }
        Ok(())
    }
}

/// Where what is made of tokens goes to, and what it is multiplied by.
pub(super) fn targets(given: &[Given]) -> Vec<(u32, f32)> {
    given.iter().map(|given| (given.token, given.gate)).collect()
}

/// Weights on the GPU.
pub(super) fn uploaded(gpu: &Gpu, linears: &[HostLinear]) -> Result<Vec<Linear>> {
    linears.iter().map(|linear| Linear::upload(gpu, linear)).collect()
}

/// The router of a mixture.
pub(super) fn router(block: &BlockWeights) -> Result<&Linear> {
    let found = block.linears.iter().find(|linear| linear.role == Role::Router);
    found.ok_or_else(|| Error::shape("route", "a mixture without a router"))
}

pub(super) fn weight(linears: &[Linear], role: Role) -> Result<&Linear> {
    let found = linears.iter().find(|linear| linear.role == role);
    found.ok_or_else(|| Error::shape("expert", format!("an expert without its {role:?}")))
}

/// The rows of `x` of the tokens given, in a matrix of their own.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn gathered(gpu: &Gpu, x: &Matrix, given: &[Given]) -> Result<Matrix> {
    let rows: Vec<(usize, usize)> = given.iter().enumerate().map(|(row, given)| (given.token as usize, row)).collect();
    let found = gpu.unfilled(given.len(), x.cols())?;
    gpu.copy_rows(x, &found, &rows, RowCopy::whole(x.cols()))?;
    Ok(found)
}
