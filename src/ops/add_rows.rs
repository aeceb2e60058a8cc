//! Adding rows, each with its weight, to chosen rows of another matrix: what experts give back to their tokens.

use bytemuck::{Pod, Zeroable};

use super::{folded_rows, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    width: u32,
    x_stride: u32,
    y_stride: u32,
}

const SHADER: &str = shader!("shared/grid", "add_rows");

fn kernel() -> Kernel {
    Kernel { name: "add_rows", source: SHADER, constants: vec![] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

/// Values of a row that one workgroup adds.
const COLUMNS: usize = 256;

impl Gpu {
    /// `y[target] += gate · x[r]` for the `(target, gate)` of each row r of `x` `[rows, width]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the widths differ, a row of `x` has no target, or a target is outside of `y` or there twice:
    /// two threads would add to the same value.
    pub fn add_rows(&self, x: &Matrix, y: &Matrix, targets: &[(u32, f32)]) -> Result<()> {
        let mut rows: Vec<u32> = targets.iter().map(|(target, _)| *target).collect();
        rows.sort_unstable();
        let twice = rows.windows(2).any(|pair| pair[0] == pair[1]);
        let outside = rows.last().is_some_and(|&last| last as usize >= y.rows());
        if targets.len() != x.rows() || x.cols() != y.cols() || twice || outside {
            let sizes = [x.rows(), x.cols(), y.rows(), y.cols()];
            let reason = format!("{} targets of x and y of sizes {sizes:?}, twice: {twice}", targets.len());
            return Err(Error::shape("add_rows", reason));
        }
        let table: Vec<u32> = targets.iter().flat_map(|&(target, gate)| [target, gate.to_bits()]).collect();
        let params = Params {
            rows: x.rows() as u32,
            width: x.cols() as u32,
            x_stride: x.stride() as u32,
            y_stride: y.stride() as u32,
        };
        let table = self.upload_u32(&table)?;
        let grid = folded_rows(x.cols().div_ceil(COLUMNS), x.rows());
        let work = (x.rows() * x.cols()) as u64;
        self.dispatch(&kernel(), &params, &[x.into(), (&table).into(), y.into()], grid, work)
    }
}
