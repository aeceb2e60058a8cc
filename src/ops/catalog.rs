//! Every kernel with every combination of constants that can be chosen: for tests that validate and translate them all.

use super::{
    activation, attention, copy_rows, covariance, divergence, embed, energy, gemm, gemm_f16_matrix, gemm_naive, gemv,
    head_norm, loss, norm, probe, rope, sample, scale_tokens, subtract, transpose,
};
use crate::gpu::Kernel;

/// All kernels, built as they are for a dispatch.
#[doc(hidden)]
pub fn kernels() -> Vec<Kernel> {
    let families = [
        activation::kernels(),
        attention::kernels(),
        copy_rows::kernels(),
        covariance::kernels(),
        divergence::kernels(),
        embed::kernels(),
        energy::kernels(),
        gemm::kernels(),
        gemm_f16_matrix::kernels(),
        gemm_naive::kernels(),
        gemv::kernels(),
        head_norm::kernels(),
        loss::kernels(),
        norm::kernels(),
        probe::kernels(),
        rope::kernels(),
        sample::kernels(),
        scale_tokens::kernels(),
        subtract::kernels(),
        transpose::kernels(),
    ];
    families.concat()
}
