//! Gradients of linear layers: products that the forward pass and the sums of slicing have kernels for.

use std::{borrow::Cow, ops::Range};

use super::COVARIANCE_TOKENS;
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
};

impl Gpu {
    /// The gradient of what a linear layer read, from that of its result: `dx (+)= d[:, columns] · w`, in f32 whatever
    /// the precision of linear layers.
    ///
    /// `d` is `[tokens, *]`, `w` is `[columns, width]` (f32, f16 or bf16), `dx` is `[tokens, width]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit; [`Error::OutOfMemory`].
    pub fn linear_backward(
        &self,
        d: &Matrix,
        columns: Range<usize>,
        w: &Matrix,
        dx: &Matrix,
        accumulate: bool,
    ) -> Result<()> {
        check("linear_backward", d, &columns)?;
        if columns.len() != w.rows() || (dx.rows(), dx.cols()) != (d.rows(), w.cols()) {
            let found = format!("{columns:?}, w [{}, {}], dx [{}, {}]", w.rows(), w.cols(), dx.rows(), dx.cols());
            return Err(Error::shape("linear_backward", found));
        }
        let (d, columns) = self.aligned(d, columns)?;
        self.product_into(&d, columns.start, w, dx, accumulate)
    }

    /// The gradient of a linear layer's weight: `d[:, columns]ᵀ · x`, `[columns, width]`, for `d` `[tokens, *]` and `x`
    /// `[tokens, width]`. Summed like [`Gpu::cross_covariance`], in turn over more tokens than that sums at once.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit; [`Error::OutOfMemory`].
    pub fn linear_weight_backward(&self, d: &Matrix, columns: Range<usize>, x: &Matrix) -> Result<Matrix> {
        check("linear_weight_backward", d, &columns)?;
        let (d, columns) = self.aligned(d, columns)?;
        let mut sum: Option<Matrix> = None;
        for first in (0..x.rows().max(1)).step_by(COVARIANCE_TOKENS) {
            let tokens = first..x.rows().min(first + COVARIANCE_TOKENS);
            let (d, x) = (d.view(tokens.clone())?, x.view(tokens)?);
            let part = self.cross_covariance(&d, columns.clone(), &x, 0..x.cols())?;
            match &sum {
                Some(sum) => self.subtract(sum, &part, -1.0)?,
                None => sum = Some(part),
            }
        }
        sum.ok_or_else(|| Error::shape("linear_weight_backward", "no tokens"))
    }

    /// The columns as kernels can begin at them: of the matrix itself, or of a copy of them alone.
    fn aligned<'m>(&self, d: &'m Matrix, columns: Range<usize>) -> Result<(Cow<'m, Matrix>, Range<usize>)> {
        if columns.start.is_multiple_of(4) {
            return Ok((Cow::Borrowed(d), columns));
        }
        let copy = self.columns(d, columns.clone())?;
        Ok((Cow::Owned(copy), 0..columns.len()))
    }
}

fn check(op: &'static str, d: &Matrix, columns: &Range<usize>) -> Result<()> {
    if columns.start > columns.end || columns.end > d.cols() {
        return Err(Error::shape(op, format!("columns {columns:?} of [{}, {}]", d.rows(), d.cols())));
    }
    Ok(())
}
