//! Moving weights and signals into the first coordinates of a rotated basis, on the GPU.

use faer::MatRef;

use crate::{
    error::Result,
    gpu::{Gpu, Matrix},
};

/// Into `width` coordinates of the residual stream, z = x·A·S, with A `[D, D]` diagonal and S `[D, width]` orthonormal,
/// and back, x ≈ z·Sᵀ·A⁻¹. Without an A, S is the first columns of an orthogonal Q.
#[derive(Clone)]
pub struct Rotation {
    /// A⁻¹·S, `[D, width]`: what carries z back.
    forward: Matrix,
    /// (A·S)ᵀ, `[width, D]`.
    backward: Matrix,
}

impl Rotation {
    /// Uploads the first `width` columns of `q`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn upload(gpu: &Gpu, q: MatRef<'_, f64>, width: usize) -> Result<Self> {
        let rows = q.nrows();
        let forward: Vec<f32> = (0..rows).flat_map(|i| (0..width).map(move |j| q[(i, j)] as f32)).collect();
        let backward: Vec<f32> = (0..width).flat_map(|j| (0..rows).map(move |i| q[(i, j)] as f32)).collect();
        Ok(Self { forward: gpu.upload(&forward, rows, width)?, backward: gpu.upload(&backward, width, rows)? })
    }

    /// Uploads S `[rows, width]`, row-major, with the diagonal of an A.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`]; [`crate::Error::Shape`] if there are not `rows · width` values.
    pub fn scaled(gpu: &Gpu, s: &[f32], scale: &[f64], width: usize) -> Result<Self> {
        let rows = scale.len();
        let forward: Vec<f32> =
            s.iter().enumerate().map(|(at, &value)| (f64::from(value) / scale[at / width.max(1)]) as f32).collect();
        let backward: Vec<f32> = (0..width)
            .flat_map(|j| scale.iter().enumerate().map(move |(i, &a)| (f64::from(s[i * width + j]) * a) as f32))
            .collect();
        Ok(Self { forward: gpu.upload(&forward, rows, width)?, backward: gpu.upload(&backward, width, rows)? })
    }

    /// Uploads what [`Rotation::values`] has returned.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`]; [`crate::Error::Shape`] if there are not `rows · width` values.
    pub fn restore(gpu: &Gpu, forward: &[f32], rows: usize, width: usize) -> Result<Self> {
        let matrix = gpu.upload(forward, rows, width)?;
        let backward: Vec<f32> = (0..width).flat_map(|j| (0..rows).map(move |i| forward[i * width + j])).collect();
        Ok(Self { forward: matrix, backward: gpu.upload(&backward, width, rows)? })
    }

    /// A⁻¹·S, or Q[:, :width], row-major.
    ///
    /// # Errors
    /// Whatever the readback reports.
    pub fn values(&self, gpu: &Gpu) -> Result<Vec<f32>> {
        gpu.download(&self.forward)
    }

    /// How many coordinates are kept.
    pub fn width(&self) -> usize {
        self.forward.cols()
    }

    /// `x·A·S`, or `x·Q[:, :width]`: signals `[tokens, D]`, embeddings `[vocab_size, D]`, biases `[1, D]`; without an
    /// A, weights that read the residual `[out, D]`, too.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn rows(&self, gpu: &Gpu, x: &Matrix) -> Result<Matrix> {
        gpu.product(x, &self.backward)
    }

    /// `W·A⁻¹·S`: weights that read the residual, `[out, D]`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn reads(&self, gpu: &Gpu, w: &Matrix) -> Result<Matrix> {
        gpu.matmul(w, &self.forward)
    }

    /// `Sᵀ·A·W`, or `Qᵀ[:width, :]·W`: weights that write the residual, `[D, in]`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn columns(&self, gpu: &Gpu, w: &Matrix) -> Result<Matrix> {
        gpu.matmul(&self.backward, w)
    }

    /// `u·(A·S)ᵀ` for a u `[tokens, width]`: the transpose of [`Rotation::rows`].
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn rows_transposed(&self, gpu: &Gpu, u: &Matrix) -> Result<Matrix> {
        gpu.matmul(u, &self.backward)
    }

    /// What carries a signal in these coordinates back into the original basis, as the weight `[D, width]` of a linear
    /// layer.
    pub fn back(&self) -> &Matrix {
        &self.forward
    }

    /// The shortcut `Q[:, :width]ᵀ · Q'[:, :width']` from these coordinates into the `next`, `[width, width']`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn shortcut(&self, gpu: &Gpu, next: &Self) -> Result<Matrix> {
        next.rows(gpu, &self.backward)
    }
}
