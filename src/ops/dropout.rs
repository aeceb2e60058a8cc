//! Values left out at random.

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
    stride4: u32,
    first: u32,
    seed: u32,
    threshold: u32,
    factor: f32,
    accumulate: u32,
    unused: u32,
}

fn kernel() -> Kernel {
    Kernel { name: "dropout", source: shader!("shared/grid", "dropout"), constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

/// Which values are left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// The share that is missing, from 0 up to but not 1.
    pub rate: f32,
    pub seed: u32,
    /// What is not missing is multiplied by this over `1 − rate`.
    pub scale: f32,
}

impl Dropout {
    /// Hashes below this are missing.
    fn threshold(self) -> u32 {
        (f64::from(self.rate) * 4_294_967_296.0).ceil() as u32
    }
}

impl Gpu {
    /// `y (+)= x` with some values missing and the others times `scale / (1 − rate)`; `x` and `y` are `[tokens,
    /// width]`, and their first token is the one numbered `first`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ.
    pub fn dropout(&self, dropout: Dropout, first: usize, x: &Matrix, y: &Matrix, accumulate: bool) -> Result<()> {
        if (x.rows(), x.cols()) != (y.rows(), y.cols()) {
            let found = format!("[{}, {}] to [{}, {}]", x.rows(), x.cols(), y.rows(), y.cols());
            return Err(Error::shape("dropout", found));
        }
        let groups = y.rows() * y.stride() / 4;
        let params = Params {
            groups: groups as u32,
            stride4: (y.stride() / 4) as u32,
            first: first as u32,
            seed: dropout.seed,
            threshold: dropout.threshold(),
            factor: dropout.scale / (1.0 - dropout.rate),
            accumulate: accumulate.into(),
            unused: 0,
        };
        let grid = folded(groups.div_ceil(WORKGROUP));
        self.dispatch(&kernel(), &params, &[x.into(), y.into()], grid, (8 * y.rows() * y.cols()) as u64)
    }
}
