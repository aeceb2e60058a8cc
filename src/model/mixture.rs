//! Layers forward for several batches side by side, mixtures among them: experts come from the file one after the other,
//! and all batches send each their tokens before the next one comes. So a layer's experts are never on the GPU at once,
//! each is read once, and those without tokens are not read at all.
//!
//! With h = norm(x), a mixture adds Σ_j g_j · f_j(h) to x: the router's logits say which experts j a token goes to, and
//! the gates g_j ([`Gpu::route`]); f_j is a gated MLP. An expert gathers its tokens, and adds its weighted results to
//! theirs. An expert that every token goes to comes last. The sums are in the order of the experts' numbers, whatever the batches, for no two results of an expert
//! belong to the same token.

use super::{
    Model,
    architecture::Role,
    layer::{BlockWeights, LayerContext, LayerWeights, Linear, NoTap},
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

/// What the experts of a layer read of a batch, and which tokens each of them gets.
struct Routed {
    normed: Matrix,
    /// By expert.
    tokens: Vec<Vec<Given>>,
}

/// A token that an expert gets.
#[derive(Debug, Clone, Copy)]
struct Given {
    token: u32,
    gate: f32,
    /// The gate divided by the sum of its token's gates.
    share: f32,
}

impl Routed {
    fn new(normed: Matrix, experts: usize, routes: &Routes) -> Self {
        let mut tokens = vec![Vec::new(); experts];
        let rows = routes.ids.chunks(routes.chosen.max(1)).zip(routes.gates.chunks(routes.chosen.max(1)));
        for (token, (ids, gates)) in rows.enumerate() {
            let sum: f32 = gates.iter().sum();
            for (&id, &gate) in ids.iter().zip(gates) {
                tokens[id as usize].push(Given { token: token as u32, gate, share: gate / sum });
            }
        }
        Self { normed, tokens }
    }
}

/// Runs batches through a layer, whose `weights` are on the GPU but those of experts: each residual `[tokens, width]`
/// becomes what the layer makes of it. `each` is called after each batch, of a mixture when it is routed.
///
/// # Errors
/// [`Error::Shape`], [`Error::OutOfMemory`]; [`Error::BadTensor`] and [`Error::Read`] for experts;
/// [`Error::Numerical`] for a router whose logits are no numbers; those of `tap` and `each`.
pub fn forward(
    gpu: &Gpu,
    model: &Model,
    weights: &LayerWeights,
    batches: &mut [(LayerContext, &mut Matrix)],
    tap: &mut dyn ExpertTap,
    mut each: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut routed = Vec::new();
    for (context, x) in batches.iter_mut() {
        for step in &weights.steps {
            match step.mixture() {
                Some(block) => routed.push(context.route(block, x)?),
                None => **x = context.step(step, x.clone(), &mut NoTap)?,
            }
        }
        each()?;
    }
    let count = routed.iter().map(|routed| routed.tokens.len()).max().unwrap_or(0);
    for expert in 0..count {
        if routed.iter().all(|routed| routed.tokens[expert].is_empty()) {
            continue;
        }
        let layer = batches[0].0.layer;
        let host = model.store.expert(layer, expert)?;
        let linears = host.iter().map(|linear| Linear::upload(gpu, linear)).collect::<Result<Vec<_>>>()?;
        for ((context, x), routed) in batches.iter().zip(&routed) {
            let mut tap = |shares: &[f32], result: &Matrix| tap.result(layer, expert, shares, result);
            context.expert(&linears, &routed.normed, &routed.tokens[expert], x, &mut tap)?;
        }
    }
    if count > 0 {
        shared(gpu, model, batches, &routed)?;
    }
    Ok(())
}

/// Runs all tokens through the expert that all of them go to, where there is one.
fn shared(gpu: &Gpu, model: &Model, batches: &[(LayerContext, &mut Matrix)], routed: &[Routed]) -> Result<()> {
    let host = model.store.shared_expert(batches[0].0.layer)?;
    let Some((gate, weights)) = host.split_last() else { return Ok(()) };
    let gate = Linear::upload(gpu, gate)?;
    let linears = weights.iter().map(|linear| Linear::upload(gpu, linear)).collect::<Result<Vec<_>>>()?;
    for ((context, x), Routed { normed, .. }) in batches.iter().zip(routed) {
        let logits = gpu.download(&gpu.product(normed, &gate.weight)?)?;
        let given = |(token, logit): (usize, f32)| {
            let gate = (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32;
            Given { token: token as u32, gate, share: gate }
        };
        let tokens: Vec<Given> = logits.into_iter().enumerate().map(given).collect();
        context.expert(&linears, normed, &tokens, x, &mut |_, _| Ok(()))?;
    }
    Ok(())
}

impl LayerContext<'_> {
    /// What the experts read of `x` `[tokens, width]`, and which tokens go to which.
    fn route(&self, block: &BlockWeights, x: &Matrix) -> Result<Routed> {
        let experts = self.spec().experts.ok_or_else(|| Error::shape("route", "a layer without experts"))?;
        let router = block.linears.iter().find(|linear| linear.role == Role::Router);
        let router = router.ok_or_else(|| Error::shape("route", "a mixture without a router"))?;
        let normed = self.norm(block, x)?;
        // In f32 whatever the precision: rounding may send a token elsewhere.
        let logits = self.gpu.unfilled(normed.rows(), router.weight.rows())?;
        self.gpu.linear(&normed, &router.weight, router.bias.as_ref(), &logits, 0, false)?;
        let routes = self.gpu.route(&logits, experts.chosen, experts.normalised)?;
        Ok(Routed::new(normed, experts.count, &routes))
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
        let of = |role: Role| {
            let found = linears.iter().find(|linear| linear.role == role);
            found.ok_or_else(|| Error::shape("expert", format!("an expert without its {role:?}")))
        };
        let (gpu, inner, width) = (self.gpu, of(Role::Gate)?.weight.rows(), x.cols());
        let together = gpu.rows_per_binding(2 * inner.next_multiple_of(4) * 4);
        for tokens in given.chunks(together) {
            let gathered = gpu.unfilled(tokens.len(), width)?;
            let rows: Vec<(usize, usize)> =
                tokens.iter().enumerate().map(|(row, given)| (given.token as usize, row)).collect();
            gpu.copy_rows(normed, &gathered, &rows, RowCopy::whole(width))?;
            let both = gpu.unfilled(tokens.len(), 2 * inner)?;
            for (role, column) in [(Role::Gate, 0), (Role::Up, inner)] {
                let Linear { weight, bias, .. } = of(role)?;
                gpu.linear_layer(&gathered, weight, bias.as_ref(), &both, column, false)?;
            }
            let hidden = match self.spec().swiglu {
                Some(swiglu) => gpu.clamped_swiglu(swiglu, &both)?,
                None => gpu.activation(self.config.activation, true, &both)?,
            };
            let result = gpu.unfilled(tokens.len(), width)?;
            let Linear { weight, bias, .. } = of(Role::Down)?;
            gpu.linear_layer(&hidden, weight, bias.as_ref(), &result, 0, false)?;
            let shares: Vec<f32> = tokens.iter().map(|given| given.share).collect();
            tap(&shares, &result)?;
            let targets: Vec<(u32, f32)> = tokens.iter().map(|given| (given.token, given.gate)).collect();
            gpu.add_rows(&result, x, &targets)?;
        }
        Ok(())
    }
}
