//! The gated delta rule: linear attention whose state forgets, and corrects what it has of a key.

use bytemuck::{Pod, Zeroable};

use super::{WORKGROUP, folded_rows, shader, turns::TURNS};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

/// The sizes of the heads of a gated delta net.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeltaShape {
    /// Of queries and keys; each serves `value_heads / key_heads` value heads that follow one another.
    pub key_heads: usize,
    pub value_heads: usize,
    pub key_dim: usize,
    pub value_dim: usize,
}

impl DeltaShape {
    /// Columns of queries, keys and values side by side.
    pub fn qkv_width(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_width()
    }

    /// Columns of the result.
    pub fn value_width(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Columns of what its gradient works on: the gates, and three values of each of the result.
    pub fn work_width(&self) -> usize {
        2 * self.value_heads + 3 * self.value_width()
    }

    /// Rows of the state of a sequence, each of `value_dim` values.
    pub fn state_rows(&self) -> usize {
        self.value_heads * self.key_dim
    }
}

/// Some tokens of a sequence, and where its state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaRun {
    pub first: usize,
    pub tokens: usize,
    /// Which of the states.
    pub state: usize,
    /// Whether the sequence begins here: then it has no state before.
    pub begins: bool,
}

/// Registers for a column of the state.
pub(super) const KEY_DIMS: [usize; 6] = [8, 16, 32, 64, 128, 256];
/// The widest keys.
pub const MAX_KEY_DIM: usize = 256;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    sequences: u32,
    first: u32,
    tokens: u32,
    apart: u32,
    first_state: u32,
    begins: u32,
    heads: u32,
    key_heads: u32,
    value_dim: u32,
    q_stride: u32,
    g_stride: u32,
    s_stride: u32,
    o_stride: u32,
    key_dim: u32,
    unused: [u32; 2],
}

fn kernel(registers: usize, exact: bool) -> Kernel {
    let constants = vec![("KEY_DIM", registers as u32), ("EXACT", exact.into())];
    Kernel { name: "delta_rule", source: shader!("shared/grid", "delta_rule"), constants }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    KEY_DIMS.into_iter().flat_map(|registers| [kernel(registers, false), kernel(registers, true)]).collect()
}

/// How many of the runs are as long as the first one, and follow it as closely as the second.
pub(super) fn alike(runs: &[DeltaRun]) -> usize {
    let one = runs[0];
    let Some(apart) = runs.get(1).and_then(|next| next.first.checked_sub(one.first)) else { return 1 };
    let follows = |number: usize| DeltaRun { first: one.first + number * apart, state: one.state + number, ..one };
    runs.iter().enumerate().take_while(|(number, run)| **run == follows(*number)).count()
}

impl Gpu {
    /// The gated delta rule of every head, token by token, with its state S `[key_dim, value_dim]`: `S ← a·S`, `S ← S +
    /// k·(b·(v − Sᵀ·k))ᵀ`, `out = Sᵀ·q`.
    ///
    /// `qkv` is `[tokens, qkv_width]`: queries, keys and values side by side; `gates` `[tokens, 2 · value_heads]`: a of
    /// every head, then b; `states` has [`DeltaShape::state_rows`] rows of `value_dim` for each state, and gets what
    /// they are after the runs. The result is `[tokens, value_heads · value_dim]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if heads, runs or states lie outside of the matrices; [`Error::OutOfMemory`].
    pub fn delta_rule(
        &self,
        shape: &DeltaShape,
        qkv: &Matrix,
        gates: &Matrix,
        states: &Matrix,
        runs: &[DeltaRun],
    ) -> Result<Matrix> {
        let DeltaShape { key_heads, value_heads, key_dim, value_dim } = *shape;
        let registers = KEY_DIMS.into_iter().find(|registers| *registers >= key_dim);
        let fits = qkv.cols() == shape.qkv_width()
            && (gates.rows(), gates.cols()) == (qkv.rows(), 2 * value_heads)
            && states.cols() == value_dim
            && value_heads.is_multiple_of(key_heads.max(1));
        let inside = |run: &DeltaRun| {
            run.first + run.tokens <= qkv.rows() && (run.state + 1) * shape.state_rows() <= states.rows()
        };
        let Some(registers) = registers.filter(|_| fits && runs.iter().all(inside)) else {
            let sizes = [qkv.rows(), qkv.cols(), gates.rows(), gates.cols(), states.rows(), states.cols()];
            return Err(Error::shape("delta_rule", format!("{shape:?}, {} runs in {sizes:?}", runs.len())));
        };
        let out = self.unfilled(qkv.rows(), shape.value_width())?;
        let parts = value_dim.div_ceil(WORKGROUP) * value_heads;
        let params = Params {
            sequences: 0,
            first: 0,
            tokens: 0,
            apart: 0,
            first_state: 0,
            begins: 0,
            heads: value_heads as u32,
            key_heads: key_heads as u32,
            value_dim: value_dim as u32,
            q_stride: qkv.stride() as u32,
            g_stride: gates.stride() as u32,
            s_stride: states.stride() as u32,
            o_stride: out.stride() as u32,
            key_dim: key_dim as u32,
            unused: [0; 2],
        };
        let kernel = kernel(registers, registers == key_dim);
        let of_token = 4 * shape.state_rows() * value_dim;
        let mut remaining = runs;
        while let Some(&run) = remaining.first() {
            let (together, rest) = remaining.split_at(alike(remaining));
            remaining = rest;
            let count = together.len();
            let most = (self.work_per_dispatch() / (of_token * count).max(1)).clamp(1, TURNS / (2 * registers + 1));
            let apart = together.get(1).map_or(0, |next| next.first - run.first);
            for skip in (0..run.tokens).step_by(most) {
                let tokens = most.min(run.tokens - skip);
                let params = Params {
                    sequences: count as u32,
                    first: (run.first + skip) as u32,
                    tokens: tokens as u32,
                    apart: apart as u32,
                    first_state: run.state as u32,
                    begins: (run.begins && skip == 0).into(),
                    ..params
                };
                let bindings = [qkv.into(), gates.into(), states.into(), (&out).into()];
                let work = (of_token * count * tokens) as u64;
                self.dispatch(&kernel, &params, &bindings, folded_rows(parts, count), work)?;
            }
        }
        Ok(out)
    }
}
