//! Every kernel with every combination of constants that can be chosen: for tests that validate and translate them all.

use super::{activation, attention, copy_rows, covariance, embed, energy, gemm, gemm_naive, gemv, head_norm, loss, norm, probe, rope, sample};
use crate::gpu::{ElementType, Kernel};

/// The types that weights are stored in.
pub(super) const WEIGHTS: [ElementType; 3] = [ElementType::F32, ElementType::F16, ElementType::Bf16];

/// All kernels, built as they are for a dispatch.
#[doc(hidden)]
pub fn kernels() -> Vec<Kernel> {
    let families = [
        activation::kernels(),
        attention::kernels(),
        copy_rows::kernels(),
        covariance::kernels(),
        embed::kernels(),
        energy::kernels(),
        gemm::kernels(),
        gemm_naive::kernels(),
        gemv::kernels(),
        head_norm::kernels(),
        loss::kernels(),
        norm::kernels(),
        probe::kernels(),
        rope::kernels(),
        sample::kernels(),
    ];
    families.concat()
}
