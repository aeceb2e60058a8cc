//! The backward pass of a gated delta net. Its own norm, convolution, rates and biases are not trained.

use super::{
    backward::{Read, Sums},
    layer::{BlockWeights, LayerContext},
};
use crate::{
    error::{Error, Result},
    gpu::Matrix,
    ops::{DeltaGradients, Gate, HeadSpan, Norm},
};

impl LayerContext<'_> {
    /// Adds the gradient of the residual `x` that a gated delta net has read to `dx`, from that of the residual after
    /// it, `d`.
    pub(super) fn delta_net_backward(
        &self,
        block: &BlockWeights,
        x: &Matrix,
        d: &Matrix,
        dx: &Matrix,
        sums: &mut Sums,
    ) -> Result<()> {
        let missing = || Error::shape("delta net", "a layer without one");
        let (delta, weights) = (self.spec().delta.ok_or_else(missing)?, block.delta.as_ref().ok_or_else(missing)?);
        let (gpu, shape) = (self.gpu, delta.shape);
        let input = self.norm(block, x)?;
        let projected = self.projected(block, &input, 0)?;
        // Its columns are those of queries, keys and values, of the gate, and of beta and decay.
        let d_projected = gpu.unfilled(projected.rows(), projected.cols())?;
        let DeltaGradients { qkv: d_qkv, log_gates } = {
            let qkv = self.convolved(&delta, &projected, &weights.convolution)?;
            self.unit_in_place(&delta, weights, &qkv)?;
            let gates = gpu.delta_gates(&projected, delta.beta_column(), delta.decay_column(), &weights.gates)?;
            let out = self.recalled(&delta, &qkv, &gates)?;
            let d_out = self.gated_backward(block, (&projected, &d_projected), &out, d, sums)?;
            let runs = self.delta_runs(delta.together());
            gpu.delta_rule_backward(&shape, (&qkv, &gates), (&out, &d_out), &runs)?
        };
        let columns = [delta.beta_column(), delta.decay_column()];
        gpu.delta_gates_backward(&projected, columns, &weights.gates, &log_gates, &d_projected)?;
        drop(log_gates);
        let raw = self.convolved(&delta, &projected, &weights.convolution)?;
        for (span, unit) in weights.units(&shape) {
            gpu.head_norm_backward_in_place(Norm::Rms, &raw, span, unit, delta.unit_eps(), &d_qkv)?;
        }
        drop(raw);
        let convolution = &weights.convolution;
        gpu.short_conv_backward_in_place(&projected, convolution, self.sequences, &d_qkv, &d_projected)?;
        drop((projected, d_qkv));
        self.reads_backward(block, 0, Read { x, input: &input }, &d_projected, dx, sums)
    }

    /// The gradient of what the states give, `out`, from that of the residual after the block, `d`; and that of the
    /// gate in its columns of all that the weights made of a token.
    fn gated_backward(
        &self,
        block: &BlockWeights,
        projected: (&Matrix, &Matrix),
        out: &Matrix,
        d: &Matrix,
        sums: &mut Sums,
    ) -> Result<Matrix> {
        let missing = || Error::shape("delta net", "a layer without one");
        let (delta, weights) = (self.spec().delta.ok_or_else(missing)?, block.delta.as_ref().ok_or_else(missing)?);
        let (gpu, eps) = (self.gpu, self.config.head_norm_eps);
        let heads = HeadSpan { column: 0, heads: delta.shape.value_heads };
        let normed = gpu.columns(out, 0..out.cols())?;
        gpu.head_norm(Norm::Rms, &normed, heads, &weights.norm, None, eps)?;
        let gated = gpu.columns(&normed, 0..normed.cols())?;
        gpu.gate_in_place(Gate::Silu, &gated, projected.0, delta.gate_column())?;
        let d = self.output_backward(block, 0, &gated, d, sums)?;
        drop(gated);
        gpu.gate_backward_in_place(Gate::Silu, &normed, projected, delta.gate_column(), &d)?;
        gpu.head_norm_backward_in_place(Norm::Rms, out, heads, &weights.norm, eps, &d)?;
        Ok(d)
    }
}
