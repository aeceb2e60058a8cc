//! Which experts of a mixture each token goes to.

use bytemuck::{Pod, Zeroable};

use super::{WORKGROUP, folded, shader};
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
    chosen: u32,
    normalised: u32,
    unused: [u32; 3],
}

const SHADER: &str = shader!("shared/grid", "shared/reduce", "route");

fn kernel() -> Kernel {
    Kernel { name: "route", source: SHADER, constants: vec![("LANES", WORKGROUP as u32)] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

/// The experts of some tokens, in host memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Routes {
    /// How many experts each token goes to.
    pub chosen: usize,
    /// Token by token, the experts in the order of their gates, the largest first.
    pub ids: Vec<u32>,
    /// What the result of each is multiplied by.
    pub gates: Vec<f32>,
}

impl Gpu {
    /// The `chosen` experts with the largest `logits` `[tokens, experts]` of each token, of equals those before others,
    /// with their share of the softmax over all experts; `normalised`, the shares of the chosen ones add up to 1.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not as many experts; [`Error::Numerical`] if no logit of a token is a number;
    /// whatever the readback reports.
    pub fn route(&self, logits: &Matrix, chosen: usize, normalised: bool) -> Result<Routes> {
        let (tokens, experts) = (logits.rows(), logits.cols());
        if chosen == 0 || chosen > experts {
            return Err(Error::shape("route", format!("{chosen} of {experts} experts")));
        }
        // One row, as ids have: their values follow each other without padding.
        let ids = self.upload_u32(&vec![0; tokens * chosen])?;
        let gates = self.unfilled(1, tokens * chosen)?;
        let params = Params {
            tokens: tokens as u32,
            experts: experts as u32,
            stride: logits.stride() as u32,
            chosen: chosen as u32,
            normalised: normalised.into(),
            unused: [0; 3],
        };
        let work = (tokens * experts * (chosen + 2)) as u64;
        self.dispatch(&kernel(), &params, &[logits.into(), (&ids).into(), (&gates).into()], folded(tokens), work)?;
        let gates = self.download_later(&gates)?;
        let ids = self.download_u32(&ids)?;
        let gates = gates.wait(self)?;
        let numbers = ids.iter().all(|&id| (id as usize) < experts) && gates.iter().all(|gate| gate.is_finite());
        if !numbers {
            return Err(Error::Numerical("a router's logits are no numbers: the model's signals overflow".into()));
        }
        Ok(Routes { chosen, ids, gates })
    }
}
