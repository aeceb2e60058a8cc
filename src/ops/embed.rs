//! Look-up of rows of an embedding table.

use bytemuck::{Pod, Zeroable};

use super::{Stored, WORKGROUP, folded, shader, weight_shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    stride4: u32,
    first: u32,
    rows: u32,
    accumulate: u32,
    offset: u32,
    unused: [u32; 2],
}

fn kernel(stored: Stored) -> Kernel {
    Kernel { name: "embed", source: weight_shader!(stored, "shared/grid", "embed"), constants: vec![] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    Stored::ALL.map(kernel).into()
}

impl Gpu {
    /// `x[t] (+)= table[ids[t] - first]`: `ids` has one u32 a token, `table` holds the entries from `first` on, `[*,
    /// width]` (f32, f16 or bf16), `x` is `[tokens, width]`. Other ids leave their token as it is.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit.
    pub fn embed(&self, ids: &Matrix, first: usize, table: &Matrix, x: &Matrix, accumulate: bool) -> Result<()> {
        self.look_up(ids, 0, first, table, x, accumulate)
    }

    /// `x[t] += table[positions[t] + offset - first]`, for learned positions.
    ///
    /// # Errors
    /// As [`Gpu::embed`].
    pub fn embed_positions(
        &self,
        positions: &Matrix,
        first: usize,
        offset: usize,
        table: &Matrix,
        x: &Matrix,
    ) -> Result<()> {
        self.look_up(positions, offset, first, table, x, true)
    }

    fn look_up(
        &self,
        ids: &Matrix,
        offset: usize,
        first: usize,
        table: &Matrix,
        x: &Matrix,
        accumulate: bool,
    ) -> Result<()> {
        if ids.cols() != x.rows() || table.cols() != x.cols() {
            return Err(Error::shape(
                "embed",
                format!(
                    "{} ids, table [{}, {}], x [{}, {}]",
                    ids.cols(),
                    table.rows(),
                    table.cols(),
                    x.rows(),
                    x.cols()
                ),
            ));
        }
        let rows = self.rows_per_binding(table.stride() * table.element().size());
        for start in (0..table.rows()).step_by(rows) {
            let slice = table.view(start..table.rows().min(start + rows))?;
            let params = Params {
                tokens: x.rows() as u32,
                stride4: (x.stride() / 4) as u32,
                first: (first + start) as u32,
                rows: slice.rows() as u32,
                accumulate: accumulate.into(),
                offset: offset as u32,
                unused: [0; 2],
            };
            let kernel = kernel(Stored::of(table, self));
            let threads = x.rows() * x.stride() / 4;
            self.dispatch(
                &kernel,
                &params,
                &[ids.into(), (&slice).into(), x.into()],
                folded(threads.div_ceil(WORKGROUP)),
                threads as u64,
            )?;
        }
        Ok(())
    }
}
