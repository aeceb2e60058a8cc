//! Linear layers on matrix units.

use bytemuck::{Pod, Zeroable};

use super::{Stored, shader, weight_shader};
use crate::{
    error::Result,
    gpu::{Gpu, Kernel, Matrix, MatrixUnits},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    m: u32,
    n: u32,
    k4: u32,
    a_stride4: u32,
    w_stride4: u32,
    c_stride: u32,
    c_column: u32,
    bias_column: u32,
    has_bias: u32,
    accumulate: u32,
    unused: [u32; 2],
}

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
    /// `a` and `w` are rounded to f16 on the way. What is beyond its range becomes ±65504, its largest number, and what is below 6e-8 becomes zero
    /// (below 6e-5 where the hardware has no subnormal numbers).
    #[expect(clippy::too_many_arguments, reason = "the operands of one dispatch, after splitting")]
    pub(super) fn gemm_f16_matrix(
        &self,
        units: MatrixUnits,
        a: &Matrix,
        w: &Matrix,
        bias: Option<&Matrix>,
        bias_column: usize,
        c: &Matrix,
        column: usize,
        accumulate: bool,
    ) -> Result<()> {
        let params = Params {
            m: a.rows() as u32,
            n: w.rows() as u32,
            k4: (w.stride() / 4) as u32,
            a_stride4: (a.stride() / 4) as u32,
            w_stride4: (w.stride() / 4) as u32,
            c_stride: c.stride() as u32,
            c_column: column as u32,
            bias_column: bias_column as u32,
            has_bias: bias.is_some().into(),
            accumulate: accumulate.into(),
            unused: [0; 2],
        };
        let grid = [w.rows().div_ceil(TILE) as u32, a.rows().div_ceil(TILE) as u32, 1];
        let work = (a.rows() * w.rows() * w.cols()) as u64;
        self.dispatch(
            &kernel(Stored::of(w, self), units),
            &params,
            &[a.into(), w.into(), bias.into(), c.into()],
            grid,
            work,
        )
    }
}
