//! The matrix product that everybody writes first, for the bench to compare with.

use bytemuck::{Pod, Zeroable};

use super::shader;
use crate::{
    error::{Error, Result},
    gpu::{ElementType, Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    m: u32,
    n: u32,
    k: u32,
    a_stride: u32,
    w_stride: u32,
    c_stride: u32,
    unused: [u32; 2],
}

/// Rows and columns of results by one workgroup.
const TILE: usize = 8;

fn kernel() -> Kernel {
    Kernel { name: "gemm_naive", source: shader!("gemm_naive"), constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// `c = a · wᵀ` with one result a thread: `a` `[M, K]`, `w` `[N, K]`, `c` `[M, N]`, all f32. [`Gpu::linear`] is
    /// what to use.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit, or `w` is not f32.
    pub fn gemm_naive(&self, a: &Matrix, w: &Matrix, c: &Matrix) -> Result<()> {
        let (m, n, k) = (a.rows(), w.rows(), a.cols());
        if w.cols() != k || (c.rows(), c.cols()) != (m, n) || w.element() != ElementType::F32 {
            return Err(Error::shape(
                "gemm_naive",
                format!("a [{m}, {k}], w [{n}, {}] {:?}, c [{}, {}]", w.cols(), w.element(), c.rows(), c.cols()),
            ));
        }
        let params = Params {
            m: m as u32,
            n: n as u32,
            k: k as u32,
            a_stride: a.stride() as u32,
            w_stride: w.stride() as u32,
            c_stride: c.stride() as u32,
            unused: [0; 2],
        };
        let grid = [n.div_ceil(TILE) as u32, m.div_ceil(TILE) as u32, 1];
        self.dispatch(&kernel(), &params, &[a.into(), w.into(), c.into()], grid, (m * n * k) as u64)
    }
}
