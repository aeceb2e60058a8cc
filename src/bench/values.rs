//! Matrices of reproducible random values, of which any element can be computed without the rest: a check needs no
//! copy of a large operand.

use faer::Mat;

use crate::{
    error::Result,
    gpu::{ElementType, Gpu, Matrix},
};

/// A matrix of independent values, uniform between `-scale` and `scale`.
#[derive(Debug, Clone, Copy)]
pub struct Values {
    pub seed: u32,
    pub rows: usize,
    pub cols: usize,
    pub scale: f32,
    /// [`ElementType::F32`] or [`ElementType::F16`].
    pub element: ElementType,
}

impl Values {
    /// Signals: f32 of unit variance.
    pub fn signal(seed: u32, rows: usize, cols: usize) -> Self {
        Self { seed, rows, cols, scale: 3.0f32.sqrt(), element: ElementType::F32 }
    }

    /// A weight `[out, in]` that keeps the variance of what it reads.
    pub fn weight(seed: u32, rows: usize, cols: usize, element: ElementType) -> Self {
        Self { seed, rows, cols, scale: (3.0 / cols as f32).sqrt(), element }
    }

    /// The element as it is stored.
    pub fn at(&self, row: usize, col: usize) -> f32 {
        // The integer hash "lowbias32" over the index; 24 bits of it are a number.
        let mut x = ((row * self.cols + col) as u32).wrapping_add(self.seed.wrapping_mul(0x9e37_79b9));
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        let uniform = ((x ^ (x >> 16)) >> 8) as f32 / (1 << 23) as f32 - 1.0;
        self.element.nearest(f64::from(self.scale * uniform))
    }

    /// All values of some rows, row-major.
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Vec<f32> {
        rows.flat_map(|row| (0..self.cols).map(move |col| self.at(row, col))).collect()
    }

    /// The matrix on the GPU.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn upload(&self, gpu: &Gpu) -> Result<Matrix> {
        let values = self.rows(0..self.rows);
        gpu.upload_bytes(&self.element.encode(&values), self.rows, self.cols, self.element)
    }

    /// The matrix in f64.
    pub fn wide(&self) -> Mat<f64> {
        Mat::from_fn(self.rows, self.cols, |row, col| f64::from(self.at(row, col)))
    }

    /// `x · selfᵀ` in f64, a block of rows of this matrix at a time.
    pub fn apply(&self, x: &Mat<f64>) -> Mat<f64> {
        const BLOCK: usize = 512;
        let mut product = Mat::zeros(x.nrows(), self.rows);
        for first in (0..self.rows).step_by(BLOCK) {
            let count = BLOCK.min(self.rows - first);
            let block = Mat::from_fn(count, self.cols, |row, col| f64::from(self.at(first + row, col)));
            product.subcols_mut(first, count).copy_from(x * block.transpose());
        }
        product
    }
}
