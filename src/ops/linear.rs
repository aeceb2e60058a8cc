//! Linear layers of any size: split to fit bindings and to keep dispatches short, by the kernel that suits their rows.

use super::{ElementType, operands::Operands};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix, MatrixUnits},
};

/// Pieces of a long product have a multiple of this many rows.
const ROWS: usize = 64;
/// Up to this many rows of A, a matrix-vector product per row beats a tile that is mostly empty.
const GEMV_ROWS: usize = 4;

impl Gpu {
    /// A linear layer of a model's forward pass: [`Gpu::linear`] in the precision that the device was opened with.
    ///
    /// With [`crate::gpu::Precision::F16Matrix`], products of more than four rows are of `a` and `w` rounded to f16.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit.
    pub fn linear_layer(
        &self,
        a: &Matrix,
        w: &Matrix,
        bias: Option<&Matrix>,
        c: &Matrix,
        column: usize,
        accumulate: bool,
    ) -> Result<()> {
        self.linear_in(self.matrix_units(), Operands { a, w, bias, bias_column: 0, c, column, accumulate })
    }

    /// The product of a linear layer in f32: `c[:, column..column + N] (+)= a · wᵀ + bias`.
    ///
    /// `a` is `[M, K]`, `w` is `[N, K]` (f32, f16 or bf16), `bias` has N values, `c` has M rows. With `accumulate` the
    /// product is added to what `c` holds: a residual connection costs no pass of its own.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit.
    pub fn linear(
        &self,
        a: &Matrix,
        w: &Matrix,
        bias: Option<&Matrix>,
        c: &Matrix,
        column: usize,
        accumulate: bool,
    ) -> Result<()> {
        self.linear_in(None, Operands { a, w, bias, bias_column: 0, c, column, accumulate })
    }

    /// On the matrix units given, or in f32.
    fn linear_in(&self, units: Option<MatrixUnits>, operands: Operands) -> Result<()> {
        let Operands { a, w, bias, c, column, .. } = operands;
        let (m, n, k) = (a.rows(), w.rows(), a.cols());
        if w.cols() != k || c.rows() != m || column + n > c.cols() || bias.is_some_and(|bias| bias.cols() != n) {
            let (w, bias, c) = ([n, w.cols()], bias.map(Matrix::cols), [c.rows(), c.cols()]);
            let reason = format!("a [{m}, {k}], w {w:?}, bias {bias:?}, c {c:?} from column {column}");
            return Err(Error::shape("linear", reason));
        }
        let rows = self.rows_per_binding(w.stride() * w.element().size());
        for first in (0..n).step_by(rows) {
            let w = w.view(first..n.min(first + rows))?;
            for (a, c) in self.row_pieces(a, c, w.rows() * k)? {
                let part = Operands { a: &a, w: &w, c: &c, bias_column: first, column: column + first, ..operands };
                // By all rows: how a product is cut must not change its bits.
                if m <= GEMV_ROWS {
                    self.gemv(part)?;
                } else if let Some(units) = units {
                    self.gemm_f16_matrix(units, part)?;
                } else {
                    self.gemm(part)?;
                }
            }
        }
        Ok(())
    }

    /// `a · wᵀ` of `a` `[M, K]` and `w` `[N, K]`, in f32 whatever the precision of linear layers.
    ///
    /// # Errors
    /// [`Error::Shape`] if the inner sizes differ; [`Error::OutOfMemory`].
    pub fn product(&self, a: &Matrix, w: &Matrix) -> Result<Matrix> {
        let c = self.unfilled(a.rows(), w.rows())?;
        self.linear(a, w, None, &c, 0, false)?;
        Ok(c)
    }

    /// Pieces of rows of `a` and `c` that fit a binding each and keep a dispatch short; `work` is that of one row.
    pub(super) fn row_pieces(&self, a: &Matrix, c: &Matrix, work: usize) -> Result<Vec<(Matrix, Matrix)>> {
        let row_bytes = a.stride().max(c.stride()) * ElementType::F32.size();
        let short = (self.work_per_dispatch() / work.max(1) / ROWS).max(1) * ROWS;
        let rows = self.rows_per_binding(row_bytes).min(short);
        (0..a.rows())
            .step_by(rows)
            .map(|first| {
                let range = first..a.rows().min(first + rows);
                Ok((a.view(range.clone())?, c.view(range)?))
            })
            .collect()
    }
}
