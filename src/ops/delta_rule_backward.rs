//! The gradient of the gated delta rule.
//!
//! With G the gradient of the state S after a token, the whole of it: `G ← a (G − k·dvᵀ) + q·dᵀ` from the last token to
//! the first, where `dv = b·Gᵀ·k`. That knows nothing of S, and so four passes over the tokens, each with S or G alone,
//! make all gradients; neither are the states of all tokens kept, nor is what was forgotten worked out again from what
//! is left of it. Columns of S and G give what has a value each, their rows what has a key each.

use bytemuck::{Pod, Zeroable};

use super::{
    DeltaRun, DeltaShape, MAX_KEY_DIM, RowCopy, WORKGROUP,
    delta_marches::{Marches, registers},
    folded, shader,
    turns::TURNS,
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tokens: u32,
    first: u32,
    last: u32,
    heads: u32,
    value_dim: u32,
    v_column: u32,
    q_stride: u32,
    w_stride: u32,
    o_stride: u32,
    g_stride: u32,
    unused: [u32; 2],
}

fn gates(step: u32) -> Kernel {
    let source = shader!("shared/grid", "shared/reduce", "delta_rule_backward_gates");
    let constants = vec![("STEP", step), ("LANES", WORKGROUP as u32)];
    Kernel { name: "delta_rule_backward_gates", source, constants }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    vec![gates(0), gates(1)]
}

/// The gradients of what the gated delta rule was given.
#[derive(Debug, Clone)]
pub struct DeltaGradients {
    /// Of queries, keys and values, in their places.
    pub qkv: Matrix,
    /// Of the logarithms of the gates, in the places of these.
    pub log_gates: Matrix,
}

impl Gpu {
    /// The gradients of what [`Gpu::delta_rule`] was given of whole sequences, from its result `out` and the gradient
    /// `d` of that, both `[tokens, value_heads · value_dim]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if heads or runs lie outside of the matrices, or a run does not begin its sequence;
    /// [`Error::OutOfMemory`].
    pub fn delta_rule_backward(
        &self,
        shape: &DeltaShape,
        (qkv, gates): (&Matrix, &Matrix),
        (out, d): (&Matrix, &Matrix),
        runs: &[DeltaRun],
    ) -> Result<DeltaGradients> {
        check(shape, [qkv, gates, out, d], runs)?;
        let DeltaShape { key_heads, value_heads, value_dim, .. } = *shape;
        let (tokens, width) = (qkv.rows(), shape.value_width());
        let first = 2 * value_heads;
        // Tokens of no run have no gradient.
        let work = self.zeros(tokens, shape.work_width())?;
        let all: Vec<(usize, usize)> = (0..tokens).map(|row| (row, row)).collect();
        self.copy_rows(gates, &work, &all, RowCopy::whole(first))?;
        self.copy_rows(d, &work, &all, RowCopy { from_column: 0, cols: width, to_column: first + 2 * width })?;
        let states = runs.iter().map(|run| run.state + 1).max().unwrap_or(0);
        let states = &self.unfilled(states * shape.state_rows(), value_dim)?;
        let marches = Marches { gpu: self, shape: *shape, qkv, work: &work, states, runs };
        marches.columns(false)?;
        marches.columns(true)?;
        let dqkv = self.zeros(tokens, qkv.cols())?;
        let values = registers(value_dim);
        for backward in [false, true] {
            for member in 0..value_heads / key_heads {
                for column in (0..value_dim).step_by(values) {
                    let part = column..value_dim.min(column + values);
                    marches.rows(backward, (member, part), &dqkv)?;
                }
            }
        }
        let to_column = qkv.cols() - width;
        self.copy_rows(&work, &dqkv, &all, RowCopy { from_column: first + width, cols: width, to_column })?;
        let log_gates = self.gates_backward(shape, [qkv, &work, out], runs)?;
        Ok(DeltaGradients { qkv: dqkv, log_gates })
    }

    fn gates_backward(&self, shape: &DeltaShape, [qkv, work, out]: [&Matrix; 3], runs: &[DeltaRun]) -> Result<Matrix> {
        let (tokens, heads) = (qkv.rows(), shape.value_heads);
        let dgates = self.unfilled(tokens, 2 * heads)?;
        let params = Params {
            tokens: tokens as u32,
            first: 0,
            last: 0,
            heads: heads as u32,
            value_dim: shape.value_dim as u32,
            v_column: (qkv.cols() - shape.value_width()) as u32,
            q_stride: qkv.stride() as u32,
            w_stride: work.stride() as u32,
            o_stride: out.stride() as u32,
            g_stride: dgates.stride() as u32,
            unused: [0; 2],
        };
        let bindings = [qkv.into(), work.into(), out.into(), (&dgates).into()];
        let products = 3 * tokens * shape.value_width();
        self.dispatch(&gates(0), &params, &bindings, folded(tokens * heads), products as u64)?;
        for run in runs {
            for skip in (0..run.tokens).step_by(TURNS) {
                let count = TURNS.min(run.tokens - skip);
                let first = run.first + run.tokens - skip - count;
                let last = u32::from(skip == 0);
                let params = Params { tokens: count as u32, first: first as u32, last, ..params };
                let work = (count * heads) as u64;
                self.dispatch(&gates(1), &params, &bindings, folded(heads.div_ceil(WORKGROUP)), work)?;
            }
        }
        Ok(dgates)
    }
}

fn check(shape: &DeltaShape, [qkv, gates, out, d]: [&Matrix; 4], runs: &[DeltaRun]) -> Result<()> {
    let DeltaShape { key_heads, value_heads, key_dim, .. } = *shape;
    let tokens = qkv.rows();
    let fits = qkv.cols() == shape.qkv_width()
        && (gates.rows(), gates.cols()) == (tokens, 2 * value_heads)
        && [out, d].iter().all(|of| (of.rows(), of.cols()) == (tokens, shape.value_width()))
        && key_heads > 0
        && value_heads.is_multiple_of(key_heads)
        && key_dim <= MAX_KEY_DIM;
    let whole = |run: &DeltaRun| run.begins && run.first + run.tokens <= tokens;
    if fits && runs.iter().all(whole) {
        return Ok(());
    }
    let sizes = [qkv, gates, out, d].map(|of| (of.rows(), of.cols()));
    Err(Error::shape("delta_rule_backward", format!("{shape:?}, {} runs in {sizes:?}", runs.len())))
}
