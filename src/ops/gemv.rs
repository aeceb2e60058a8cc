//! Products of a few rows with a matrix.

use bytemuck::{Pod, Zeroable};

use super::{Stored, shader, weight_shader};
use crate::{
    error::Result,
    gpu::{Gpu, Kernel, Matrix},
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

/// Threads that keep a large GPU busy.
const GEMV_THREADS: usize = 1 << 16;
/// How many threads share a row of w.
const LANES: [usize; 4] = [8, 16, 32, 64];

/// For so many rows of a and four times so many of w to a thread.
fn kernel(stored: Stored, lanes: usize, rows: usize, rows4: usize) -> Kernel {
    let constants = vec![("LANES", lanes as u32), ("M", rows as u32), ("ROWS4", rows4 as u32)];
    Kernel { name: "gemv", source: weight_shader!(stored, "gemv"), constants }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    let weights = Stored::ALL.into_iter().flat_map(|stored| LANES.map(|lanes| (stored, lanes)));
    weights
        .flat_map(|(stored, lanes)| {
            [(1, 1), (1, 2), (2, 1), (3, 1), (4, 1)].map(|(rows, rows4)| kernel(stored, lanes, rows, rows4))
        })
        .collect()
}

impl Gpu {
    /// One dispatch of [`Gpu::linear`] for at most four rows of `a`.
    #[expect(clippy::too_many_arguments, reason = "the operands of one dispatch, after splitting")]
    pub(super) fn gemv(
        &self,
        a: &Matrix,
        w: &Matrix,
        bias: Option<&Matrix>,
        bias_column: usize,
        c: &Matrix,
        column: usize,
        accumulate: bool,
    ) -> Result<()> {
        // The fewer rows of w, the more threads along each, so that a large GPU is busy. A CPU needs no more than a vector register of them.
        let by_size = || LANES.into_iter().find(|lanes| w.rows() / 4 * lanes >= GEMV_THREADS).unwrap_or(64);
        let lanes = if self.adapter().software { 8 } else { by_size() };
        // Where no more threads are of use, fewer read A, and are there to add up.
        let rows4 = if self.adapter().software && a.rows() == 1 { 2 } else { 1 };
        let groups = w.rows().div_ceil(4 * rows4 * 64 / lanes);
        if groups > self.adapter().max_compute_workgroups_per_dimension as usize {
            return self.gemm(a, 0, w, false, bias, bias_column, c, column, accumulate);
        }
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
        let kernel = kernel(Stored::of(w, self), lanes, a.rows(), rows4);
        let grid = [groups as u32, 1, 1];
        self.dispatch(
            &kernel,
            &params,
            &[a.into(), w.into(), bias.into(), c.into()],
            grid,
            (a.rows() * w.rows() * w.cols()) as u64,
        )
    }
}
