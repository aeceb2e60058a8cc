//! What one dispatch of a linear layer multiplies, after splitting.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Binding, Matrix};

/// `c[:, column..column + N] (+)= a · wᵀ + bias[bias_column..]`.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    /// `[M, K]`.
    pub a: &'a Matrix,
    /// `[N, K]`.
    pub w: &'a Matrix,
    pub bias: Option<&'a Matrix>,
    pub bias_column: usize,
    /// M rows.
    pub c: &'a Matrix,
    pub column: usize,
    pub accumulate: bool,
}

/// The operands as kernels of few rows and of matrix units see them.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct RowParams {
    m: u32,
    n: u32,
    k4: u32,
    a_stride4: u32,
    w_stride4: u32,
    c_stride: u32,
    c_column: u32,
    bias_column: u32,
    has_bias: u32,
    accumulate: u32,
    unused: [u32; 2],
}

impl<'a> Operands<'a> {
    pub fn params(&self) -> RowParams {
        RowParams {
            m: self.a.rows() as u32,
            n: self.w.rows() as u32,
            k4: (self.w.stride() / 4) as u32,
            a_stride4: (self.a.stride() / 4) as u32,
            w_stride4: (self.w.stride() / 4) as u32,
            c_stride: self.c.stride() as u32,
            c_column: self.column as u32,
            bias_column: self.bias_column as u32,
            has_bias: self.bias.is_some().into(),
            accumulate: self.accumulate.into(),
            unused: [0; 2],
        }
    }

    /// In the order of the kernels' bindings.
    pub fn bindings(&self) -> [Binding<'a>; 4] {
        [self.a.into(), self.w.into(), self.bias.into(), self.c.into()]
    }

    /// Multiply-adds.
    pub fn work(&self) -> u64 {
        (self.a.rows() * self.w.rows() * self.w.cols()) as u64
    }
}
