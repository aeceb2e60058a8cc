//! The gradient of an embedding table.

use bytemuck::{Pod, Zeroable};

use super::{WORKGROUP, folded_rows, shader};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    runs: u32,
    stride4: u32,
    unused: [u32; 2],
}

fn kernel() -> Kernel {
    Kernel { name: "embed_backward", source: shader!("shared/grid", "embed_backward"), constants: Vec::new() }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![kernel()]
}

impl Gpu {
    /// Adds the gradient `d` `[tokens, width]` of looked-up tokens to that of the table, whose entries from `first` on
    /// are `table` `[*, width]`: `table[ids[t] − first] += d[t]`, the tokens of an entry in their order. Other ids are
    /// left out.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not one id a token, or the widths differ; [`Error::OutOfMemory`].
    pub fn embed_backward(&self, ids: &[u32], first: usize, d: &Matrix, table: &Matrix) -> Result<()> {
        if ids.len() != d.rows() || table.cols() != d.cols() {
            let found = format!("{} ids, d [{}, {}], table of {}", ids.len(), d.rows(), d.cols(), table.cols());
            return Err(Error::shape("embed_backward", found));
        }
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        // Stable: the tokens of an entry stay in their order.
        order.sort_by_key(|&token| ids[token as usize]);
        let rows = self.rows_per_binding(table.stride() * table.element().size());
        let stride4 = table.stride() / 4;
        for start in (0..table.rows()).step_by(rows) {
            let slice = table.view(start..table.rows().min(start + rows))?;
            let runs = runs_of(ids, &order, first + start, slice.rows());
            let words: Vec<u32> = runs.into_iter().flatten().collect();
            let params = Params { runs: (words.len() / 4) as u32, stride4: stride4 as u32, unused: [0; 2] };
            let (places, runs) = (self.upload_u32(&order)?, self.upload_u32(&words)?);
            let bindings = [(&places).into(), (&runs).into(), d.into(), (&slice).into()];
            let grid = folded_rows(stride4.div_ceil(WORKGROUP), words.len() / 4);
            self.dispatch(&kernel(), &params, &bindings, grid, (ids.len() * stride4) as u64)?;
        }
        Ok(())
    }
}

/// The runs of tokens of one entry each, of the entries from `first` on: (row, first place in `order`, tokens, 0).
fn runs_of(ids: &[u32], order: &[u32], first: usize, rows: usize) -> Vec<[u32; 4]> {
    let mut runs: Vec<[u32; 4]> = Vec::new();
    for (place, &token) in order.iter().enumerate() {
        let Some(row) = (ids[token as usize] as usize).checked_sub(first).filter(|&row| row < rows) else { continue };
        match runs.last_mut() {
            Some(last) if last[0] == row as u32 => last[2] += 1,
            _ => runs.push([row as u32, place as u32, 1, 0]),
        }
    }
    runs
}
