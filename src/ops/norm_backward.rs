//! The gradient of a norm's input.

use bytemuck::{Pod, Zeroable};

use super::{Norm, ROW_LANES, WORKGROUP, folded, row_lanes, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    width: u32,
    stride: u32,
    norm_width: u32,
    eps: f32,
    has_weight: u32,
    accumulate: u32,
    unused: u32,
}

const SHADER: &str = shader!("shared/grid", "shared/reduce", "norm_backward");

fn kernel(kind: Norm, lanes: usize) -> Kernel {
    Kernel { name: "norm_backward", source: SHADER, constants: vec![("KIND", kind as u32), ("LANES", lanes as u32)] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    [Norm::Rms, Norm::Layer].into_iter().flat_map(|kind| ROW_LANES.map(|lanes| kernel(kind, lanes))).collect()
}

/// A norm whose gradient is wanted: what [`Gpu::norm`] was given.
#[derive(Clone, Copy)]
pub struct NormInput<'a> {
    pub kind: Norm,
    /// `[tokens, width]`.
    pub x: &'a Matrix,
    pub weight: Option<&'a Matrix>,
    pub norm_width: usize,
    pub eps: f32,
}

impl Gpu {
    /// The gradient of what [`Gpu::norm`] was given, from that of its result: `dx[t, i] (+)= r · (g[t, i] − n[t, i] ·
    /// Σ_j g[t, j] n[t, j] / norm_width)` with `g = d · weight`, `n` the normed token without parameters and `r` the
    /// factor that made it; with [`Norm::Layer`], less the mean of `g`.
    ///
    /// `d` and `dx` are `[tokens, width]`. The gradients of weight and bias are sums over tokens: [`Gpu::column_sums`].
    ///
    /// # Errors
    /// [`Error::Shape`] as of [`Gpu::norm`], or if the gradients have another shape.
    pub fn norm_backward(&self, norm: NormInput, d: &Matrix, dx: &Matrix, accumulate: bool) -> Result<()> {
        let NormInput { kind, x, weight, norm_width, eps } = norm;
        let (tokens, width) = (x.rows(), x.cols());
        let same = [d, dx].iter().all(|one| (one.rows(), one.cols()) == (tokens, width));
        let fits = width <= norm_width && (kind == Norm::Rms || width == norm_width);
        if !same || !fits || weight.is_some_and(|weight| weight.cols() != width) {
            let sizes = [tokens, width, d.rows(), d.cols(), dx.rows(), dx.cols()];
            return Err(Error::shape("norm_backward", format!("{kind:?} norm of {norm_width}, sizes {sizes:?}")));
        }
        let lanes = row_lanes(width);
        let params = Params {
            tokens: tokens as u32,
            width: width as u32,
            stride: x.stride() as u32,
            norm_width: norm_width as u32,
            eps,
            has_weight: weight.is_some().into(),
            accumulate: accumulate.into(),
            unused: 0,
        };
        let bindings = [x.into(), weight.into(), d.into(), dx.into()];
        let grid = folded(tokens.div_ceil(WORKGROUP / lanes));
        self.dispatch(&kernel(kind, lanes), &params, &bindings, grid, (tokens * width * 5) as u64)
    }
}
