//! Causal depthwise convolution over a few tokens.

use bytemuck::{Pod, Zeroable};

use super::{folded_rows, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    channels: u32,
    taps: u32,
    x_stride: u32,
    w_stride: u32,
    y_stride: u32,
    unused: [u32; 2],
}

fn kernel() -> Kernel {
    Kernel { name: "short_conv", source: shader!("shared/grid", "short_conv"), constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

/// Channels of a workgroup.
const PART: usize = 256;

impl Gpu {
    /// `y[t, c] = silu(Σ_j weight[taps − 1 − j, c] · x[row − j, c])`, j < min(taps, seen), for `x` `[rows, *]`, whose
    /// first columns are the channels, and `weight` `[taps, channels]`; `places` has for every token its row, and how
    /// many tokens of its sequence it sees in the rows before, itself included.
    ///
    /// # Errors
    /// [`Error::Shape`] if a token sees a row that is not there, or `x` has too few columns; [`Error::OutOfMemory`].
    pub fn short_conv(&self, x: &Matrix, weight: &Matrix, places: &[[u32; 2]]) -> Result<Matrix> {
        let (channels, taps) = (weight.cols(), weight.rows());
        let outside = |[row, seen]: &[u32; 2]| *row as usize >= x.rows() || row + 1 < (taps as u32).min(*seen);
        if channels > x.cols() || places.iter().any(outside) {
            let sizes = [x.rows(), x.cols(), taps, channels];
            return Err(Error::shape("short_conv", format!("{} tokens of matrices of sizes {sizes:?}", places.len())));
        }
        let y = self.unfilled(places.len(), channels)?;
        let params = Params {
            tokens: places.len() as u32,
            channels: channels as u32,
            taps: taps as u32,
            x_stride: x.stride() as u32,
            w_stride: weight.stride() as u32,
            y_stride: y.stride() as u32,
            unused: [0; 2],
        };
        let grid = folded_rows(channels.div_ceil(PART), places.len());
        let table = self.upload_u32(places.as_flattened())?;
        let bindings = [x.into(), weight.into(), (&table).into(), (&y).into()];
        self.dispatch(&kernel(), &params, &bindings, grid, (places.len() * channels * taps) as u64)?;
        Ok(y)
    }
}
