//! Normalisation of tokens.

use bytemuck::{Pod, Zeroable};

use super::{ROW_LANES, WORKGROUP, folded, row_lanes, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

/// What a norm divides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// The root mean square.
    Rms,
    /// The standard deviation, after subtracting the mean.
    Layer,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    width: u32,
    stride: u32,
    norm_width: u32,
    eps: f32,
    has_weight: u32,
    has_bias: u32,
    unused: u32,
}

const SHADER: &str = shader!("shared/grid", "shared/reduce", "norm");

fn kernel(kind: Norm, lanes: usize) -> Kernel {
    Kernel { name: "norm", source: SHADER, constants: vec![("KIND", kind as u32), ("LANES", lanes as u32)] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    [Norm::Rms, Norm::Layer].into_iter().flat_map(|kind| ROW_LANES.map(|lanes| kernel(kind, lanes))).collect()
}

impl Gpu {
    /// Scales every token of `x` to unit root mean square: `y[t, i] = x[t, i] / sqrt(Σ_j x[t, j]² / norm_width + eps) ·
    /// weight[i] + bias[i]`; with [`Norm::Layer`], after subtracting the token's mean.
    ///
    /// `x` is `[tokens, width]`; the result has the same shape. `norm_width` is the model's `hidden_size` before
    /// slicing.
    ///
    /// # Errors
    /// [`Error::Shape`] if `width > norm_width`, or a layer norm is asked of a sliced token, or the parameters have
    /// another width.
    pub fn norm(
        &self,
        kind: Norm,
        x: &Matrix,
        weight: Option<&Matrix>,
        bias: Option<&Matrix>,
        norm_width: usize,
        eps: f32,
    ) -> Result<Matrix> {
        let width = x.cols();
        let fits = |parameter: Option<&Matrix>| parameter.is_none_or(|parameter| parameter.cols() == width);
        if width > norm_width || (kind == Norm::Layer && width != norm_width) || !fits(weight) || !fits(bias) {
            return Err(Error::shape("norm", format!("{kind:?} norm of tokens of {width}, norm_width {norm_width}")));
        }
        let y = self.unfilled(x.rows(), width)?;
        let lanes = row_lanes(width);
        let params = Params {
            tokens: x.rows() as u32,
            width: width as u32,
            stride: x.stride() as u32,
            norm_width: norm_width as u32,
            eps,
            has_weight: weight.is_some().into(),
            has_bias: bias.is_some().into(),
            unused: 0,
        };
        self.dispatch(
            &kernel(kind, lanes),
            &params,
            &[x.into(), weight.into(), bias.into(), (&y).into()],
            folded(x.rows().div_ceil(WORKGROUP / lanes)),
            (x.rows() * width * 2) as u64,
        )?;
        Ok(y)
    }
}
