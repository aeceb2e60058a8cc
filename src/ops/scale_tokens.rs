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

fn kernel(weighted: bool) -> Kernel {
    let constants = vec![("WEIGHTED", u32::from(weighted))];
    Kernel { name: "scale_tokens", source: shader!("shared/grid", "scale_tokens"), constants }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    [false, true].map(kernel).into()
}

impl Gpu {
    /// Divides every token of `y` `[tokens, width]`, in place, by the root mean square of another signal's token: `y[t,
    /// i] ← y[t, i] · sqrt(w[t] / (e[t] / norm_width + eps))` with the squared lengths `e` `[1, tokens]` that
    /// [`Gpu::energy`] gives, and how much the square of each token is to count, `w` `[1, tokens]`; 1 without.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not as many lengths, or weights, as tokens.
    pub fn scale_tokens(&self, y: &Matrix, e: &Matrix, w: Option<&Matrix>, norm_width: usize, eps: f32) -> Result<()> {
        if let Some(given) = [Some(e), w].into_iter().flatten().find(|given| given.cols() != y.rows()) {
            let reason = format!("{} lengths or weights for {} tokens", given.cols(), y.rows());
            return Err(Error::shape("scale_tokens", reason));
        }
        let params =
            Params { tokens: y.rows() as u32, stride4: (y.stride() / 4) as u32, norm_width: norm_width as f32, eps };
        let bound = [e.into(), w.unwrap_or(e).into(), y.into()];
        let work = (y.rows() * y.cols()) as u64;
        self.dispatch(&kernel(w.is_some()), &params, &bound, folded(y.rows()), work)
    }
}
