//! Every kernel with every combination of constants that can be chosen: for tests that validate and translate them all.

use super::{
    activation, activation_backward, adamw, add_rows, attention, attention_blocks, bound, bound_backward,
    clamped_swiglu, clamped_swiglu_backward, column_sums, copy_rows, covariance, delta_gates, delta_gates_backward,
    delta_marches, delta_rule, delta_rule_backward, divergence, divergence_backward, dropout, embed, embed_backward,
    energy, gate, gate_backward, gemm, gemm_f16_matrix, gemm_naive, gemv, head_norm, head_norm_backward, loss,
    loss_backward, norm, norm_backward, probe, rope, route, route_backward, row_products, sample, scale_tokens,
    short_conv, short_conv_backward, subtract, transpose,
};
use crate::gpu::Kernel;

/// All kernels, built as they are for a dispatch.
#[doc(hidden)]
pub fn kernels() -> Vec<Kernel> {
    let families = [
        activation::kernels(),
        activation_backward::kernels(),
        adamw::kernels(),
        add_rows::kernels(),
        attention::kernels(),
        attention_blocks::kernels(),
        bound::kernels(),
        bound_backward::kernels(),
        clamped_swiglu::kernels(),
        clamped_swiglu_backward::kernels(),
        column_sums::kernels(),
        copy_rows::kernels(),
        covariance::kernels(),
        delta_gates::kernels(),
        delta_gates_backward::kernels(),
        delta_marches::kernels(),
        delta_rule::kernels(),
        delta_rule_backward::kernels(),
        divergence::kernels(),
        divergence_backward::kernels(),
        dropout::kernels(),
        embed::kernels(),
        embed_backward::kernels(),
        energy::kernels(),
        gate::kernels(),
        gate_backward::kernels(),
        gemm::kernels(),
        gemm_f16_matrix::kernels(),
        gemm_naive::kernels(),
        gemv::kernels(),
        head_norm::kernels(),
        head_norm_backward::kernels(),
        loss::kernels(),
        loss_backward::kernels(),
        norm::kernels(),
        norm_backward::kernels(),
        probe::kernels(),
        rope::kernels(),
        route::kernels(),
        route_backward::kernels(),
        row_products::kernels(),
        sample::kernels(),
        scale_tokens::kernels(),
        short_conv::kernels(),
        short_conv_backward::kernels(),
        subtract::kernels(),
        transpose::kernels(),
    ];
    families.concat()
}
