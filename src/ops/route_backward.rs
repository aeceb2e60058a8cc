//! The gradient of a router's logits.

use bytemuck::{Pod, Zeroable};

use super::{Routes, WORKGROUP, folded, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    experts: u32,
    stride: u32,
    d_stride: u32,
    chosen: u32,
    normalised: u32,
    unused: [u32; 2],
}

const SHADER: &str = shader!("shared/grid", "shared/reduce", "route_backward");

fn kernel() -> Kernel {
    Kernel { name: "route_backward", source: SHADER, constants: vec![("LANES", WORKGROUP as u32)] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// The gradient of the `logits` `[tokens, experts]` that [`Gpu::route`] made `routes` of, from that of its gates,
    /// `d` `[1, tokens · chosen]`; which experts are chosen is constant.
    ///
    /// # Errors
    /// [`Error::Shape`] if the sizes differ, or an expert is chosen that is not there; [`Error::OutOfMemory`].
    pub fn route_backward(&self, logits: &Matrix, routes: &Routes, normalised: bool, d: &Matrix) -> Result<Matrix> {
        let (tokens, experts, chosen) = (logits.rows(), logits.cols(), routes.chosen);
        let outside = routes.ids.iter().any(|&id| id as usize >= experts);
        if routes.ids.len() != tokens * chosen || (d.rows(), d.cols()) != (1, tokens * chosen) || outside {
            let sizes = [tokens, experts, chosen, routes.ids.len(), d.rows(), d.cols()];
            return Err(Error::shape("route_backward", format!("{sizes:?}")));
        }
        let dl = self.unfilled(tokens, experts)?;
        let ids = self.upload_u32(&routes.ids)?;
        let params = Params {
            tokens: tokens as u32,
            experts: experts as u32,
            stride: logits.stride() as u32,
            d_stride: dl.stride() as u32,
            chosen: chosen as u32,
            normalised: normalised.into(),
            unused: [0; 2],
        };
        let bindings = [logits.into(), (&ids).into(), d.into(), (&dl).into()];
        self.dispatch(&kernel(), &params, &bindings, folded(tokens), (tokens * (2 * experts + chosen)) as u64)?;
        Ok(dl)
    }
}
