//! Products of a few rows with a matrix.

use super::{Stored, operands::Operands, shader, weight_shader};
use crate::{
    error::Result,
    gpu::{Gpu, Kernel},
};

/// Threads that keep a large GPU busy.
const GEMV_THREADS: usize = 1 << 16;
/// How many threads share a row of w.
const LANES: [usize; 4] = [8, 16, 32, 64];

/// For `rows` rows of a and four times `rows4` of w to a thread.
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
    pub(super) fn gemv(&self, operands: Operands) -> Result<()> {
        let Operands { a, w, .. } = operands;
        // The fewer rows of w, the more threads along each, so that a large GPU is busy. A CPU needs no more than a
        // vector register of them.
        let by_size = || LANES.into_iter().find(|lanes| w.rows() / 4 * lanes >= GEMV_THREADS).unwrap_or(64);
        let lanes = if self.adapter().software { 8 } else { by_size() };
        // Where more threads are of no use, fewer of them read A, and fewer sums are left to be added.
        let rows4 = if self.adapter().software && a.rows() == 1 { 2 } else { 1 };
        let groups = w.rows().div_ceil(4 * rows4 * 64 / lanes);
        if groups > self.adapter().max_compute_workgroups_per_dimension as usize {
            return self.gemm(operands);
        }
        let kernel = kernel(Stored::of(w, self), lanes, a.rows(), rows4);
        self.dispatch(&kernel, &operands.params(), &operands.bindings(), [groups as u32, 1, 1], operands.work())
    }
}
