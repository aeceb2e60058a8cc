//! Scaling tokens by the size of another signal's.

use bytemuck::{Pod, Zeroable};

use super::{folded, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    stride4: u32,
    norm_width: f32,
    eps: f32,
}

fn kernel() -> Kernel {
    Kernel { name: "scale_tokens", source: shader!("shared/grid", "scale_tokens"), constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// Divides every token of `y` `[tokens, width]`, in place, by the root mean square of another signal's token: `y[t,
    /// i] ← y[t, i] / sqrt(e[t] / norm_width + eps)` with the squared lengths `e` `[1, tokens]` that [`Gpu::energy`]
    /// gives.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not as many lengths as tokens.
    pub fn scale_tokens(&self, y: &Matrix, e: &Matrix, norm_width: usize, eps: f32) -> Result<()> {
        if e.cols() != y.rows() {
            return Err(Error::shape("scale_tokens", format!("{} lengths for {} tokens", e.cols(), y.rows())));
        }
        let params =
            Params { tokens: y.rows() as u32, stride4: (y.stride() / 4) as u32, norm_width: norm_width as f32, eps };
        self.dispatch(&kernel(), &params, &[e.into(), y.into()], folded(y.rows()), (y.rows() * y.cols()) as u64)
    }
}
