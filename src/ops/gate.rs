//! A signal times a function of another.

use bytemuck::{Pod, Zeroable};

use super::{folded_rows, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

/// What a gate is put through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Sigmoid = 0,
    Silu = 1,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    width: u32,
    column: u32,
    x_stride: u32,
    y_stride: u32,
    unused: [u32; 3],
}

fn kernel(kind: Gate) -> Kernel {
    Kernel { name: "gate", source: shader!("shared/grid", "gate"), constants: vec![("KIND", kind as u32)] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    [Gate::Sigmoid, Gate::Silu].map(kernel).into()
}

/// Values of a workgroup.
const PART: usize = 256;

impl Gpu {
    /// `y[t, i] ← y[t, i] · f(x[t, column + i])` for `y` `[tokens, width]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` has not these columns.
    pub fn gate_in_place(&self, kind: Gate, y: &Matrix, x: &Matrix, column: usize) -> Result<()> {
        if x.rows() != y.rows() || column + y.cols() > x.cols() {
            let sizes = [y.rows(), y.cols(), x.rows(), x.cols(), column];
            return Err(Error::shape("gate", format!("rows and columns of sizes {sizes:?}")));
        }
        let params = Params {
            tokens: y.rows() as u32,
            width: y.cols() as u32,
            column: column as u32,
            x_stride: x.stride() as u32,
            y_stride: y.stride() as u32,
            unused: [0; 3],
        };
        let grid = folded_rows(y.cols().div_ceil(PART), y.rows());
        self.dispatch(&kernel(kind), &params, &[x.into(), y.into()], grid, 4 * (y.rows() * y.cols()) as u64)
    }
}
