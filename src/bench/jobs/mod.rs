//! Workloads made ready: operands in place, executed once, and that execution's results compared with f64.

mod backward;
mod job;
mod kernels;
mod layer;
mod probes;
mod run;

pub use job::Job;

use super::workload::{Case, Workload};
use crate::{error::Result, gpu::Gpu, progress::Progress};

impl<'a> Job<'a> {
    /// Makes a workload ready.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], [`crate::Error::Shape`] if a binding of this adapter cannot hold an operand, and
    /// whatever the device reports.
    pub fn prepare(gpu: &'a Gpu, workload: &Workload, progress: &'a dyn Progress) -> Result<Self> {
        match workload.case {
            Case::Fma => probes::fma(gpu),
            Case::Copy => probes::copy(gpu),
            Case::Gemm { kernel, m, n, k, weights } => kernels::gemm(gpu, kernel, [m, n, k], weights),
            Case::Covariance { width, tokens } => kernels::covariance(gpu, width, tokens),
            Case::Eigh { width } => kernels::eigenproblem(width),
            Case::Attention { heads, kv_heads, head_dim, tokens, past, window } => {
                kernels::attention(gpu, [heads, kv_heads, head_dim], tokens, past, window)
            }
            Case::Norm { tokens, width } => kernels::norm(gpu, tokens, width),
            Case::Activation { tokens, width } => kernels::activation(gpu, tokens, width),
            Case::Backward(gradient) => backward::backward(gpu, gradient),
            Case::Layer { tokens, past, slicing } => layer::layer(gpu, workload.shape(), tokens, past, slicing),
            Case::Run { sequences, seqlen } => run::run(gpu, workload.shape(), sequences, seqlen, progress),
        }
    }
}
