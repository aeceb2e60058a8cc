//! The expert of a mixture that every token goes to, forward and back: as the others, but that its weights can be
//! trained. Then they are among the weights of the block, and have gradients there.
//!
//! With f the expert, h what it reads of a token and s = sigmoid(w·h), it adds s · f(h). From the gradient d of that, f
//! has s·d, and w·h has s·(1 − s) · ⟨d, f(h)⟩. The gate w stays, as routers do.

use super::{
    Model,
    architecture::Role,
    backward::Sums,
    expert::{gathered, targets, uploaded, weight},
    layer::{BlockWeights, LayerContext, Linear},
};
use crate::{
    error::Result,
    gpu::{Gpu, Matrix},
};

/// Its weights on the GPU.
pub(super) struct SharedExpert<'a> {
    block: &'a BlockWeights,
    gate: Linear,
    linears: Vec<Linear>,
    /// Whether they are the block's, and have gradients.
    trained: bool,
}

impl<'a> SharedExpert<'a> {
    /// That of a layer whose mixture is `block`, from the file unless the block has it; `None` where there is no such.
    pub fn of(gpu: &Gpu, model: &Model, layer: usize, block: &'a BlockWeights) -> Result<Option<Self>> {
        let host = model.store.shared_expert(layer)?;
        let Some((gate, weights)) = host.split_last() else { return Ok(None) };
        let own: Vec<Linear> = block.linears.iter().filter(|linear| linear.role != Role::Router).cloned().collect();
        let trained = !own.is_empty();
        let linears = if trained { own } else { uploaded(gpu, weights)? };
        Ok(Some(Self { block, gate: Linear::upload(gpu, gate)?, linears, trained }))
    }

    /// Adds what it makes of all tokens, `normed` `[tokens, width]`, to `x`.
    pub fn add(&self, context: &LayerContext, normed: &Matrix, x: &Matrix) -> Result<()> {
        let gpu = context.gpu;
        let (given, rows) = (context.shared(&self.gate, normed)?, context.expert_rows(&self.linears)?);
        for (number, tokens) in given.chunks(rows).enumerate() {
            let (first, read) = (number * rows, gathered(gpu, normed, tokens)?);
            let hidden = context.expert_activated(&self.projected(context, &read, first)?)?;
            gpu.add_rows(&self.result(context, &hidden, first)?, x, &targets(tokens))?;
        }
        Ok(())
    }

    /// Gate and up of tokens, the first of which is the one numbered `first`, side by side.
    fn projected(&self, context: &LayerContext, read: &Matrix, first: usize) -> Result<Matrix> {
        let both = context.expert_projected(&self.linears, read)?;
        for (role, column) in [(Role::Gate, 0), (Role::Up, both.cols() / 2)] {
            if let Some(adapter) = self.block.adapter(weight(&self.linears, role)?) {
                adapter.add(context.gpu, read, first, &both, column)?;
            }
        }
        Ok(both)
    }

    fn result(&self, context: &LayerContext, hidden: &Matrix, first: usize) -> Result<Matrix> {
        let result = context.expert_result(&self.linears, hidden)?;
        if let Some(adapter) = self.block.adapter(weight(&self.linears, Role::Down)?) {
            adapter.add(context.gpu, hidden, first, &result, 0)?;
        }
        Ok(result)
    }

    /// Adds what comes through it, and through its gate, to `d_normed`, the gradient of what it has read, from that of
    /// its result, `d`; and the gradients of its weights to `sums`, where these are trained.
    pub fn backward(
        &self,
        context: &LayerContext,
        normed: &Matrix,
        [d, d_normed]: [&Matrix; 2],
        sums: &mut Sums,
    ) -> Result<()> {
        let (gpu, whole) = (context.gpu, d);
        let [gate, up, down] = [Role::Gate, Role::Up, Role::Down].map(|role| weight(&self.linears, role));
        let (gate, up, down) = (gate?, up?, down?);
        let inner = gate.weight.rows();
        let (given, rows) = (context.shared(&self.gate, normed)?, context.expert_rows(&self.linears)?);
        let d_gates = gpu.unfilled(1, given.len())?;
        for (number, tokens) in given.chunks(rows).enumerate() {
            let (first, read) = (number * rows, gathered(gpu, normed, tokens)?);
            let both = self.projected(context, &read, first)?;
            let hidden = context.expert_activated(&both)?;
            let raw = gathered(gpu, whole, tokens)?;
            let places: Vec<u32> = tokens.iter().map(|given| given.token).collect();
            gpu.row_products(&raw, &self.result(context, &hidden, first)?, &places, &d_gates)?;
            let d = gpu.zeros(raw.rows(), raw.cols())?;
            let gates: Vec<(u32, f32)> = (0..).zip(tokens).map(|(row, given)| (row, given.gate)).collect();
            gpu.add_rows(&raw, &d, &gates)?;
            drop(raw);
            let d_hidden = gpu.unfilled(tokens.len(), inner)?;
            gpu.linear_backward(&d, 0..d.cols(), &down.weight, &d_hidden, false)?;
            let mut gradient = |linear, x: &Matrix, d: (&Matrix, std::ops::Range<usize>), dx: &Matrix| {
                let linear = (self.block, linear);
                if self.trained { context.add_linear(linear, first, x, d, dx, sums) } else { Ok(()) }
            };
            gradient(down, &hidden, (&d, 0..d.cols()), &d_hidden)?;
            drop((hidden, d));
            let d_both = context.expert_activated_backward(&both, &d_hidden)?;
            drop((both, d_hidden));
            let d_read = gpu.unfilled(tokens.len(), normed.cols())?;
            for (linear, column) in [(gate, 0), (up, inner)] {
                let columns = column..column + inner;
                gpu.linear_backward(&d_both, columns.clone(), &linear.weight, &d_read, column > 0)?;
                gradient(linear, &read, (&d_both, columns), &d_read)?;
            }
            let once: Vec<(u32, f32)> = tokens.iter().map(|given| (given.token, 1.0)).collect();
            gpu.add_rows(&d_read, d_normed, &once)?;
        }
        let d_gates = gpu.download(&d_gates)?;
        let slopes = given.iter().map(|given| f64::from(given.gate) * (1.0 - f64::from(given.gate)));
        let d_logits: Vec<f32> = d_gates.iter().zip(slopes).map(|(d, slope)| (f64::from(*d) * slope) as f32).collect();
        let d_logits = gpu.upload(&d_logits, given.len(), 1)?;
        gpu.linear_backward(&d_logits, 0..1, &self.gate.weight, d_normed, true)
    }
}
