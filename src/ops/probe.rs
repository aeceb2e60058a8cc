//! Kernels that measure what an adapter can do at most: multiply-adds in registers, and copying.

use bytemuck::{Pod, Zeroable};

use super::{WORKGROUP, folded, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct FmaParams {
    threads: u32,
    steps: u32,
    factor: f32,
    summand: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct CopyParams {
    count4: u32,
    unused: [u32; 3],
}

/// Independent multiply-adds of each thread and step of [`Gpu::probe_fma`].
pub const PROBE_CHAINS: usize = 12;

/// Steps are taken this many at a time.
const UNROLLED: u32 = 32;

fn fma() -> Kernel {
    Kernel { name: "probe_fma", source: shader!("probe_fma"), constants: Vec::new() }
}

fn copy() -> Kernel {
    Kernel { name: "probe_copy", source: shader!("shared/grid", "probe_copy"), constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![fma(), copy()]
}

impl Gpu {
    /// Every thread t < `y.cols()` takes [`PROBE_CHAINS`] numbers that begin at `t % 16`, `t % 16 + 1`, …, puts each
    /// through `z ← z·factor + summand` `steps` times, and writes their sum into `y` `[1, threads]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `steps` is not a multiple of 32, or there are more threads than one dimension of a grid
    /// holds.
    pub fn probe_fma(&self, y: &Matrix, steps: u32, factor: f32, summand: f32) -> Result<()> {
        if !steps.is_multiple_of(UNROLLED) || y.rows() != 1 {
            return Err(Error::shape(
                "probe_fma",
                format!("{steps} steps (expected a multiple of {UNROLLED}), y of {} rows (expected 1)", y.rows()),
            ));
        }
        let params = FmaParams { threads: y.cols() as u32, steps, factor, summand };
        let grid = [y.cols().div_ceil(WORKGROUP) as u32, 1, 1];
        self.dispatch(&fma(), &params, &[y.into()], grid, (y.cols() * PROBE_CHAINS * steps as usize) as u64)
    }

    /// Copies `x` into `y`, both f32 and of one shape.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ.
    pub fn probe_copy(&self, x: &Matrix, y: &Matrix) -> Result<()> {
        if (x.rows(), x.cols()) != (y.rows(), y.cols()) || x.element() != y.element() {
            return Err(Error::shape(
                "probe_copy",
                format!("x [{}, {}], y [{}, {}]", x.rows(), x.cols(), y.rows(), y.cols()),
            ));
        }
        let count4 = x.rows() * x.stride() / 4;
        let params = CopyParams { count4: count4 as u32, unused: [0; 3] };
        self.dispatch(&copy(), &params, &[x.into(), y.into()], folded(count4.div_ceil(WORKGROUP)), count4 as u64)
    }
}
