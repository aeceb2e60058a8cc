//! Matrix products: linear layers, rotations, shortcuts.

use bytemuck::{Pod, Zeroable};

use super::{
    ElementType, Stored,
    product::{CANDIDATES, ProductConfig, product_shader},
    shader,
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix, MatrixUnits},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct GemmParams {
    m: u32,
    n: u32,
    k: u32,
    a_stride4: u32,
    a_column4: u32,
    w_stride4: u32,
    c_stride: u32,
    c_column: u32,
    bias_column: u32,
    has_bias: u32,
    accumulate: u32,
    unused: u32,
}

/// Pieces of a long product have a multiple of this many rows.
const ROWS: usize = 64;
/// Steps of one dispatch of a plain product, each of which reads another row of `b`: more rows would fall out of the caches.
const STEPS: usize = 512;
/// Up to so many rows of A, a matrix-vector product per row beats a tile that is mostly empty.
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
        self.linear_in(self.matrix_units(), a, w, bias, c, column, accumulate)
    }

    /// The product of a linear layer in f32: `c[:, column..column + N] (+)= a · wᵀ + bias`.
    ///
    /// `a` is `[M, K]`, `w` is `[N, K]` (f32, f16 or bf16), `bias` has N values, `c` has M rows. With `accumulate` the product is added to what
    /// `c` holds: a residual connection costs no pass of its own.
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
        self.linear_in(None, a, w, bias, c, column, accumulate)
    }

    /// On the matrix units given, or in f32.
    #[expect(clippy::too_many_arguments, reason = "the operands of a linear layer, and where")]
    fn linear_in(
        &self,
        units: Option<MatrixUnits>,
        a: &Matrix,
        w: &Matrix,
        bias: Option<&Matrix>,
        c: &Matrix,
        column: usize,
        accumulate: bool,
    ) -> Result<()> {
        let (m, n, k) = (a.rows(), w.rows(), a.cols());
        if w.cols() != k || c.rows() != m || column + n > c.cols() || bias.is_some_and(|bias| bias.cols() != n) {
            let (w, bias, c) = ([n, w.cols()], bias.map(Matrix::cols), [c.rows(), c.cols()]);
            let reason = format!("a [{m}, {k}], w {w:?}, bias {bias:?}, c {c:?} from column {column}");
            return Err(Error::shape("linear", reason));
        }
        let stride = w.stride();
        for first in (0..n).step_by(self.rows_per_binding(stride * w.element().size())) {
            let part = w.view(first..n.min(first + self.rows_per_binding(stride * w.element().size())))?;
            for (a, c) in self.row_pieces(a, c, part.rows() * k)? {
                // By all rows: how a product is cut must not change its bits.
                if m <= GEMV_ROWS {
                    self.gemv(&a, &part, bias, first, &c, column + first, accumulate)?;
                } else if let Some(units) = units {
                    self.gemm_f16_matrix(units, &a, &part, bias, first, &c, column + first, accumulate)?;
                } else {
                    self.gemm(&a, 0, &part, false, bias, first, &c, column + first, accumulate)?;
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

    /// The plain product `a · b` of `a` `[M, K]` and `b` `[K, N]`, both f32.
    ///
    /// # Errors
    /// [`Error::Shape`] if the inner sizes differ; [`Error::OutOfMemory`].
    pub fn matmul(&self, a: &Matrix, b: &Matrix) -> Result<Matrix> {
        let (m, n, k) = (a.rows(), b.cols(), b.rows());
        if a.cols() != k {
            return Err(Error::shape("matmul", format!("a [{m}, {}], b [{k}, {n}]", a.cols())));
        }
        let c = self.unfilled(m, n)?;
        let rows = self.rows_per_binding(b.stride() * b.element().size()).min(STEPS);
        for first in (0..k).step_by(rows) {
            let part = b.view(first..k.min(first + rows))?;
            for (a, c) in self.row_pieces(a, &c, part.rows() * n)? {
                self.gemm(&a, first, &part, true, None, 0, &c, 0, first > 0)?;
            }
        }
        Ok(c)
    }

    /// Pieces of rows of `a` and `c` that fit a binding each and keep a dispatch short; `work` is that of one row.
    fn row_pieces(&self, a: &Matrix, c: &Matrix, work: usize) -> Result<Vec<(Matrix, Matrix)>> {
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

    #[expect(clippy::too_many_arguments, reason = "the operands of one dispatch, after splitting")]
    pub(super) fn gemm(
        &self,
        a: &Matrix,
        a_column: usize,
        w: &Matrix,
        w_rows_are_steps: bool,
        bias: Option<&Matrix>,
        bias_column: usize,
        c: &Matrix,
        column: usize,
        accumulate: bool,
    ) -> Result<()> {
        let (n, k) = if w_rows_are_steps { (w.cols(), w.rows()) } else { (w.rows(), w.cols()) };
        let params = GemmParams {
            m: a.rows() as u32,
            n: n as u32,
            k: k as u32,
            a_stride4: (a.stride() / 4) as u32,
            a_column4: (a_column / 4) as u32,
            w_stride4: (w.stride() / 4) as u32,
            c_stride: c.stride() as u32,
            c_column: column as u32,
            bias_column: bias_column as u32,
            has_bias: bias.is_some().into(),
            accumulate: accumulate.into(),
            unused: 0,
        };
        let dispatch = |config: &ProductConfig, params: &GemmParams, c: &Matrix| {
            let kernel = kernel(Stored::of(w, self), w_rows_are_steps, config);
            let grid = [n.div_ceil(config.tile_columns()) as u32, a.rows().div_ceil(config.tile_rows()) as u32, 1];
            self.dispatch(
                &kernel,
                params,
                &[a.into(), w.into(), bias.into(), c.into()],
                grid,
                (a.rows() * n * k) as u64,
            )
        };
        let name = if w_rows_are_steps { "matmul" } else { "linear" };
        let config = self.product_config(name, [a.rows(), n, k], |config| {
            // Not into c, which may be accumulated to.
            let scratch = self.unfilled(a.rows(), n)?;
            dispatch(
                config,
                &GemmParams { c_stride: scratch.stride() as u32, c_column: 0, accumulate: 0, ..params },
                &scratch,
            )
        })?;
        dispatch(&config, &params, c)
    }
}

fn kernel(stored: Stored, w_rows_are_steps: bool, config: &ProductConfig) -> Kernel {
    let source = match stored {
        Stored::F32 => product_shader!(config, "shared/f32", "gemm"),
        Stored::F16 => product_shader!(config, "shared/f16", "gemm"),
        Stored::F16Bits => product_shader!(config, "shared/f16_bits", "gemm"),
        Stored::Bf16 => product_shader!(config, "shared/bf16", "gemm"),
    };
    let [x, y, steps] = config.constants();
    Kernel { name: "gemm", source, constants: vec![("W_ROWS_ARE_STEPS", w_rows_are_steps.into()), x, y, steps] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    let weights = Stored::ALL.into_iter().flat_map(|stored| [(stored, false), (stored, true)]);
    weights.flat_map(|(stored, steps)| CANDIDATES.each_ref().map(|config| kernel(stored, steps, config))).collect()
}
