//! Layers forward for several batches side by side, mixtures among them: experts come from the file one after the other,
//! and all batches send each their tokens before the next one comes. So a layer's experts are never on the GPU at once,
//! each is read once, and those without tokens are not read at all.
//!
//! With h = norm(x), a mixture adds Σ_j g_j · f_j(h) to x: the router's logits say which experts j a token goes to, and
//! the gates g_j ([`Gpu::route`]); f_j is a gated MLP. An expert gathers its tokens, and adds its weighted results to
//! theirs. The sums are in the order of the experts' numbers, whatever the batches, for no two results of an expert
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
    /// By expert: a token, its gate, and that divided by the sum of its token's gates.
    tokens: Vec<Vec<(u32, f32, f32)>>,
}

impl Routed {
    fn new(normed: Matrix, experts: usize, routes: &Routes) -> Self {
        let mut tokens = vec![Vec::new(); experts];
        let rows = routes.ids.chunks(routes.chosen.max(1)).zip(routes.gates.chunks(routes.chosen.max(1)));
        for (token, (ids, gates)) in rows.enumerate() {
            let sum: f32 = gates.iter().sum();
            for (&id, &gate) in ids.iter().zip(gates) {
                tokens[id as usize].push((token as u32, gate, gate / sum));
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
            context.expert(&linears, routed, expert, x, tap)?;
        }
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
        let logits = self.gpu.product(&normed, &router.weight)?;
        let routes = self.gpu.route(&logits, experts.chosen, experts.normalised)?;
        Ok(Routed::new(normed, experts.count, &routes))
    }

    /// Adds what one expert makes of its tokens to `x`.
    fn expert(
        &self,
        linears: &[Linear],
        routed: &Routed,
        expert: usize,
        x: &Matrix,
        tap: &mut dyn ExpertTap,
    ) -> Result<()> {
        let of = |role: Role| {
            let found = linears.iter().find(|linear| linear.role == role);
            found.ok_or_else(|| Error::shape("expert", format!("an expert without its {role:?}")))
        };
        let (gpu, inner, width) = (self.gpu, self.spec().intermediate_size, x.cols());
        for tokens in routed.tokens[expert].chunks(self.mlp_rows()) {
            let gathered = gpu.unfilled(tokens.len(), width)?;
            let rows: Vec<(usize, usize)> =
                tokens.iter().enumerate().map(|(row, (token, ..))| (*token as usize, row)).collect();
            gpu.copy_rows(&routed.normed, &gathered, &rows, RowCopy::whole(width))?;
            let both = gpu.unfilled(tokens.len(), 2 * inner)?;
            for (role, column) in [(Role::Gate, 0), (Role::Up, inner)] {
                let Linear { weight, bias, .. } = of(role)?;
                gpu.linear_layer(&gathered, weight, bias.as_ref(), &both, column, false)?;
            }
            let hidden = gpu.activation(self.config.activation, true, &both)?;
            let result = gpu.unfilled(tokens.len(), width)?;
            let Linear { weight, bias, .. } = of(Role::Down)?;
            gpu.linear_layer(&hidden, weight, bias.as_ref(), &result, 0, false)?;
            let shares: Vec<f32> = tokens.iter().map(|(.., share)| *share).collect();
            tap.result(self.layer, expert, &shares, &result)?;
            let targets: Vec<(u32, f32)> = tokens.iter().map(|(token, gate, _)| (*token, *gate)).collect();
            gpu.add_rows(&result, x, &targets)?;
        }
        Ok(())
    }
}
