//! Matrix products of tiles, and plain products.

use bytemuck::{Pod, Zeroable};

use super::{
    Stored,
    operands::Operands,
    product::{CANDIDATES, ProductConfig, product_shader},
    shader,
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
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

impl GemmParams {
    /// Without a bias, into the first columns of `c`.
    fn new([m, n, k]: [usize; 3], a: &Matrix, w: &Matrix, c: &Matrix) -> Self {
        Self {
            m: m as u32,
            n: n as u32,
            k: k as u32,
            a_stride4: (a.stride() / 4) as u32,
            w_stride4: (w.stride() / 4) as u32,
            c_stride: c.stride() as u32,
            ..Self::zeroed()
        }
    }
}

/// Steps of one dispatch of a plain product, each of which reads another row of `b`: more rows would fall out of the
/// caches.
const STEPS: usize = 512;

impl Gpu {
    /// The plain product `a · b` of `a` `[M, K]` and `b` `[K, N]`, both f32.
    ///
    /// # Errors
    /// [`Error::Shape`] if the inner sizes differ; [`Error::OutOfMemory`].
    pub fn matmul(&self, a: &Matrix, b: &Matrix) -> Result<Matrix> {
        if a.cols() != b.rows() {
            let sizes = format!("a [{}, {}], b [{}, {}]", a.rows(), a.cols(), b.rows(), b.cols());
            return Err(Error::shape("matmul", sizes));
        }
        let c = self.unfilled(a.rows(), b.cols())?;
        self.product_into(a, 0, b, &c, false)?;
        Ok(c)
    }

    /// `c (+)= a[:, column..column + K] · b` of `b` `[K, N]` (f32, f16 or bf16), for a `column` that is a multiple of
    /// 4.
    pub(super) fn product_into(
        &self,
        a: &Matrix,
        column: usize,
        b: &Matrix,
        c: &Matrix,
        accumulate: bool,
    ) -> Result<()> {
        let (n, k) = (b.cols(), b.rows());
        let rows = self.rows_per_binding(b.stride() * b.element().size()).min(STEPS);
        for first in (0..k).step_by(rows) {
            let part = b.view(first..k.min(first + rows))?;
            for (a, c) in self.row_pieces(a, c, part.rows() * n)? {
                let sizes = [a.rows(), n, part.rows()];
                let params = GemmParams {
                    a_column4: ((column + first) / 4) as u32,
                    accumulate: u32::from(accumulate || first > 0),
                    ..GemmParams::new(sizes, &a, &part, &c)
                };
                self.gemm_with(true, sizes, params, [&a, &part, &c], None)?;
            }
        }
        Ok(())
    }

    pub(super) fn gemm(&self, operands: Operands) -> Result<()> {
        let Operands { a, w, bias, bias_column, c, column, accumulate } = operands;
        let sizes = [a.rows(), w.rows(), w.cols()];
        let params = GemmParams {
            c_column: column as u32,
            bias_column: bias_column as u32,
            has_bias: bias.is_some().into(),
            accumulate: accumulate.into(),
            ..GemmParams::new(sizes, a, w, c)
        };
        self.gemm_with(false, sizes, params, [a, w, c], bias)
    }

    /// One dispatch in the fastest configuration that is known.
    fn gemm_with(
        &self,
        w_rows_are_steps: bool,
        [m, n, k]: [usize; 3],
        params: GemmParams,
        [a, w, c]: [&Matrix; 3],
        bias: Option<&Matrix>,
    ) -> Result<()> {
        let dispatch = |config: &ProductConfig, params: &GemmParams, c: &Matrix| {
            let kernel = kernel(Stored::of(w, self), w_rows_are_steps, config);
            let grid = [n.div_ceil(config.tile_columns()) as u32, m.div_ceil(config.tile_rows()) as u32, 1];
            let bindings = [a.into(), w.into(), bias.into(), c.into()];
            self.dispatch(&kernel, params, &bindings, grid, (m * n * k) as u64)
        };
        let name = if w_rows_are_steps { "matmul" } else { "linear" };
        let config = self.product_config(name, [m, n, k], |config| {
            // Not into c, which may be accumulated to.
            let scratch = self.unfilled(m, n)?;
            let c_stride = scratch.stride() as u32;
            dispatch(config, &GemmParams { c_stride, c_column: 0, accumulate: 0, ..params }, &scratch)
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
