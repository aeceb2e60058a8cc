//! A step of the optimiser.

use bytemuck::{Pod, Zeroable};

use super::{WORKGROUP, folded, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    groups: u32,
    scale: f32,
    beta1: f32,
    beta2: f32,
    rate: f32,
    decay: f32,
    unbias1: f32,
    unbias2: f32,
    eps: f32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}

fn kernel() -> Kernel {
    Kernel { name: "adamw", source: shader!("shared/grid", "adamw"), constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

/// AdamW (arXiv 1711.05101): how fast, and with what memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// The learning rate of this step.
    pub rate: f64,
    /// β₁ and β₂.
    pub betas: [f64; 2],
    pub eps: f64,
    /// Of the weights, each step, times the learning rate.
    pub weight_decay: f64,
    /// The number of this step, from 1.
    pub step: u32,
}

impl Gpu {
    /// One step of AdamW: `g` `[rows, width]` is the gradient of `w`, taken times `scale`; `w` and its moments `m` and
    /// `v` are changed in place.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ, or this is step 0.
    pub fn adamw(&self, options: &AdamW, g: &Matrix, scale: f32, [w, m, v]: [&Matrix; 3]) -> Result<()> {
        let shape = (w.rows(), w.cols());
        if [g, m, v].iter().any(|other| (other.rows(), other.cols()) != shape) || options.step == 0 {
            let found = format!("w {shape:?}, g [{}, {}], step {}", g.rows(), g.cols(), options.step);
            return Err(Error::shape("adamw", found));
        }
        let AdamW { rate, betas, eps, weight_decay, step } = *options;
        let unbias = betas.map(|beta| (1.0 / (1.0 - beta.powi(step as i32))) as f32);
        let groups = w.rows() * w.stride() / 4;
        let params = Params {
            groups: groups as u32,
            scale,
            beta1: betas[0] as f32,
            beta2: betas[1] as f32,
            rate: rate as f32,
            decay: weight_decay as f32,
            unbias1: unbias[0],
            unbias2: unbias[1],
            eps: eps as f32,
            unused0: 0,
            unused1: 0,
            unused2: 0,
        };
        let grid = folded(groups.div_ceil(WORKGROUP));
        let work = (8 * w.rows() * w.cols()) as u64;
        self.dispatch(&kernel(), &params, &[g.into(), w.into(), m.into(), v.into()], grid, work)
    }
}
