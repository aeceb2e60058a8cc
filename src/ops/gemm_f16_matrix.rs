//! Linear layers on matrix units.

use super::{Stored, operands::Operands, shader, weight_shader};
use crate::{
    error::Result,
    gpu::{Gpu, Kernel, MatrixUnits},
};

/// Rows and columns of results by one workgroup.
const TILE: usize = 64;

fn kernel(stored: Stored, units: MatrixUnits) -> Kernel {
    let source = match units.size {
        8 => weight_shader!(stored, "shared/fragments_8", "gemm_f16_matrix"),
        _ => weight_shader!(stored, "shared/fragments_16", "gemm_f16_matrix"),
    };
    Kernel { name: "gemm_f16_matrix", source, constants: vec![("THREADS", units.threads)] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    // Where there are matrix units, f16 can be unpacked.
    let weights = [Stored::F32, Stored::F16, Stored::Bf16];
    weights.into_iter().flat_map(|stored| MatrixUnits::ALL.map(|units| kernel(stored, units))).collect()
}

impl Gpu {
    /// One dispatch of [`Gpu::linear_layer`] on matrix units: f16 products, f32 sums.
    ///
    /// `a` and `w` are rounded to f16 on the way. What is beyond its range becomes ±65504, its largest number, and what
    /// is below 6e-8 becomes zero (below 6e-5 where the hardware has no subnormal numbers).
    pub(super) fn gemm_f16_matrix(&self, units: MatrixUnits, operands: Operands) -> Result<()> {
        let Operands { a, w, .. } = operands;
        let grid = [w.rows().div_ceil(TILE) as u32, a.rows().div_ceil(TILE) as u32, 1];
        let kernel = kernel(Stored::of(w, self), units);
        self.dispatch(&kernel, &operands.params(), &operands.bindings(), grid, operands.work())
    }
}
