//! The gradient of what a causal depthwise convolution read.

use bytemuck::{Pod, Zeroable};

use super::{Sequence, folded_rows, shader};
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
    given_stride: u32,
    w_stride: u32,
    to_stride: u32,
    unused: [u32; 2],
}

fn kernel(step: u32) -> Kernel {
    let source = shader!("shared/grid", "short_conv_backward");
    Kernel { name: "short_conv_backward", source, constants: vec![("STEP", step)] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel(0), kernel(1)]
}

/// Channels of a workgroup.
const PART: usize = 256;

impl Gpu {
    /// The gradient of what [`Gpu::short_conv`] read of whole sequences, the first columns of `x` `[tokens, *]`, from
    /// that of its result, `d` `[tokens, channels]`, into the same columns of `dx`; others stay as they are. `d`
    /// becomes the gradient of what the convolution makes before its silu.
    ///
    /// # Errors
    /// [`Error::Shape`] if matrices or sequences do not fit; [`Error::OutOfMemory`].
    pub fn short_conv_backward_in_place(
        &self,
        x: &Matrix,
        weight: &Matrix,
        sequences: &[Sequence],
        d: &Matrix,
        dx: &Matrix,
    ) -> Result<()> {
        let (channels, taps, tokens) = (weight.cols(), weight.rows(), x.rows());
        let has = |of: &Matrix| of.rows() == tokens && channels <= of.cols();
        let whole = |one: &Sequence| one.position == 0 && one.first + one.tokens <= tokens;
        let fits = has(x) && has(dx) && has(d) && sequences.iter().all(whole);
        if !fits {
            let sizes = [x, weight, d, dx].map(|of| (of.rows(), of.cols()));
            return Err(Error::shape("short_conv_backward", format!("{sequences:?} of matrices of {sizes:?}")));
        }
        // Tokens of no sequence see nothing.
        let mut places = vec![[0u32; 2]; tokens];
        for one in sequences {
            for token in 0..one.tokens {
                places[one.first + token] = [token as u32 + 1, (one.tokens - token) as u32];
            }
        }
        let places = self.upload_u32(places.as_flattened())?;
        for (step, given, to) in [(0, x, d), (1, d, dx)] {
            let params = Params {
                tokens: tokens as u32,
                channels: channels as u32,
                taps: taps as u32,
                given_stride: given.stride() as u32,
                w_stride: weight.stride() as u32,
                to_stride: to.stride() as u32,
                unused: [0; 2],
            };
            let bindings = [given.into(), weight.into(), (&places).into(), to.into()];
            let grid = folded_rows(channels.div_ceil(PART), tokens);
            self.dispatch(&kernel(step), &params, &bindings, grid, (tokens * channels * taps) as u64)?;
        }
        Ok(())
    }
}
