//! The products of rows of two matrices: the gradients of what rows were multiplied by.

use bytemuck::{Pod, Zeroable};

use super::{WORKGROUP, folded, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    width: u32,
    a_stride: u32,
    b_stride: u32,
}

const SHADER: &str = shader!("shared/grid", "shared/reduce", "row_products");

fn kernel() -> Kernel {
    Kernel { name: "row_products", source: SHADER, constants: vec![("LANES", WORKGROUP as u32)] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// `y[places[r]] = Σ_i a[r, i] · b[r, i]` for `a` and `b` `[rows, width]` and `y` `[1, *]`, the rest of which
    /// stays.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ, `y` has several rows, a row has no place, or a place is outside of `y` or
    /// there twice: two threads would write the same value.
    pub fn row_products(&self, a: &Matrix, b: &Matrix, places: &[u32], y: &Matrix) -> Result<()> {
        let mut sorted = places.to_vec();
        sorted.sort_unstable();
        let twice = sorted.windows(2).any(|pair| pair[0] == pair[1]);
        let outside = y.rows() != 1 || sorted.last().is_some_and(|&last| last as usize >= y.cols());
        if (a.rows(), a.cols()) != (b.rows(), b.cols()) || places.len() != a.rows() || twice || outside {
            let sizes = [a.rows(), a.cols(), b.rows(), b.cols(), y.rows(), y.cols()];
            let reason = format!("{} places of a, b and y of sizes {sizes:?}, twice: {twice}", places.len());
            return Err(Error::shape("row_products", reason));
        }
        let params = Params {
            rows: a.rows() as u32,
            width: a.cols() as u32,
            a_stride: a.stride() as u32,
            b_stride: b.stride() as u32,
        };
        let places = self.upload_u32(places)?;
        let bindings = [a.into(), b.into(), (&places).into(), y.into()];
        self.dispatch(&kernel(), &params, &bindings, folded(a.rows()), (a.rows() * a.cols()) as u64)
    }
}
