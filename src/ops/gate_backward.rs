//! The gradients of a signal and of its gate.

use bytemuck::{Pod, Zeroable};

use super::{Gate, folded_rows, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    width: u32,
    column: u32,
    x_stride: u32,
    dx_stride: u32,
    y_stride: u32,
    d_stride: u32,
    unused: u32,
}

fn kernel(kind: Gate) -> Kernel {
    let source = shader!("shared/grid", "gate_backward");
    Kernel { name: "gate_backward", source, constants: vec![("KIND", kind as u32)] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    [Gate::Sigmoid, Gate::Silu].map(kernel).into()
}

/// Values of a workgroup.
const PART: usize = 256;

impl Gpu {
    /// From the gradient `d` `[tokens, width]` of what [`Gpu::gate_in_place`] made of `y` `[tokens, width]`, that of
    /// `y`, in place of it, and that of the gate in the same columns of `dx` as those of `x`: `dx[t, column + i] = d ·
    /// y · f'(x[t, column + i])`, `d ← d · f(x[t, column + i])`. Other columns of `dx` stay as they are.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` or `dx` has not these columns, or shapes differ.
    pub fn gate_backward_in_place(
        &self,
        kind: Gate,
        y: &Matrix,
        (x, dx): (&Matrix, &Matrix),
        column: usize,
        d: &Matrix,
    ) -> Result<()> {
        let (tokens, width) = (y.rows(), y.cols());
        let has = |of: &Matrix| of.rows() == tokens && column + width <= of.cols();
        if !has(x) || !has(dx) || (d.rows(), d.cols()) != (tokens, width) {
            let sizes = [y, d, x, dx].map(|of| (of.rows(), of.cols()));
            return Err(Error::shape("gate_backward", format!("matrices of {sizes:?} from column {column}")));
        }
        let params = Params {
            tokens: tokens as u32,
            width: width as u32,
            column: column as u32,
            x_stride: x.stride() as u32,
            dx_stride: dx.stride() as u32,
            y_stride: y.stride() as u32,
            d_stride: d.stride() as u32,
            unused: 0,
        };
        let bindings = [x.into(), y.into(), d.into(), dx.into()];
        let grid = folded_rows(width.div_ceil(PART), tokens);
        self.dispatch(&kernel(kind), &params, &bindings, grid, 8 * (tokens * width) as u64)
    }
}
