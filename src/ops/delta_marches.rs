//! The passes over tokens that the gradient of the gated delta rule is made of, each with one half of what goes through
//! the states: forward the states themselves, backward their gradients.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::{
    DeltaRun, DeltaShape, WORKGROUP,
    delta_rule::{KEY_DIMS, alike},
    folded_rows, shader,
    turns::TURNS,
};
use crate::{
    error::Result,
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ColumnsParams {
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
    w_stride: u32,
    s_stride: u32,
    key_dim: u32,
    unused: [u32; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RowsParams {
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
    w_stride: u32,
    s_stride: u32,
    key_dim: u32,
    d_stride: u32,
    member: u32,
    column: u32,
    columns: u32,
    unused: [u32; 3],
}

fn columns(registers: usize, exact: bool, backward: bool) -> Kernel {
    let constants = vec![("KEY_DIM", registers as u32), ("EXACT", exact.into()), ("BACKWARD", backward.into())];
    let source = shader!("shared/grid", "delta_rule_backward_columns");
    Kernel { name: "delta_rule_backward_columns", source, constants }
}

fn rows(registers: usize, exact: bool, backward: bool) -> Kernel {
    let constants = vec![("VALUES", registers as u32), ("EXACT", exact.into()), ("BACKWARD", backward.into())];
    let source = shader!("shared/grid", "delta_rule_backward_rows");
    Kernel { name: "delta_rule_backward_rows", source, constants }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    let of = |registers, exact| {
        [false, true].map(|backward| [columns(registers, exact, backward), rows(registers, exact, backward)])
    };
    let all = KEY_DIMS.into_iter().flat_map(|registers| [of(registers, false), of(registers, true)]);
    all.flatten().flatten().collect()
}

/// Registers for this many values: as few as there are of a size, and all of the largest for more.
pub(super) fn registers(values: usize) -> usize {
    KEY_DIMS.into_iter().find(|registers| *registers >= values).unwrap_or(KEY_DIMS[KEY_DIMS.len() - 1])
}

/// Some tokens of sequences that are equally long, as a dispatch takes them.
struct Tokens {
    sequences: usize,
    first: usize,
    count: usize,
    apart: usize,
    first_state: usize,
    /// Whether what goes through the states begins here.
    begins: bool,
}

/// What all passes have.
pub(super) struct Marches<'a> {
    pub gpu: &'a Gpu,
    pub shape: DeltaShape,
    pub qkv: &'a Matrix,
    /// As `delta_rule_backward_columns.wgsl` has it.
    pub work: &'a Matrix,
    pub states: &'a Matrix,
    pub runs: &'a [DeltaRun],
}

impl Marches<'_> {
    /// Of columns of states: forward what is corrected of the values, backward the gradients of the values.
    pub fn columns(&self, backward: bool) -> Result<()> {
        let DeltaShape { key_heads, value_heads, key_dim, value_dim } = self.shape;
        let registers = registers(key_dim);
        let kernel = columns(registers, registers == key_dim, backward);
        self.each(backward, registers, |tokens, work| {
            let params = ColumnsParams {
                sequences: tokens.sequences as u32,
                first: tokens.first as u32,
                tokens: tokens.count as u32,
                apart: tokens.apart as u32,
                first_state: tokens.first_state as u32,
                begins: tokens.begins.into(),
                heads: value_heads as u32,
                key_heads: key_heads as u32,
                value_dim: value_dim as u32,
                q_stride: self.qkv.stride() as u32,
                w_stride: self.work.stride() as u32,
                s_stride: self.states.stride() as u32,
                key_dim: key_dim as u32,
                unused: [0; 3],
            };
            let bindings = [self.qkv.into(), self.work.into(), self.states.into()];
            let parts = value_dim.div_ceil(WORKGROUP) * value_heads;
            self.gpu.dispatch(&kernel, &params, &bindings, folded_rows(parts, tokens.sequences), work)
        })
    }

    /// Of rows of states, those of one head of all that share a key, and `values` of its values: adds to the
    /// gradients of queries and keys in `dqkv`.
    pub fn rows(&self, backward: bool, (member, values): (usize, Range<usize>), dqkv: &Matrix) -> Result<()> {
        let DeltaShape { key_heads, value_heads, key_dim, value_dim } = self.shape;
        let registers = registers(values.len());
        let kernel = rows(registers, registers == values.len(), backward);
        self.each(backward, registers, |tokens, work| {
            let params = RowsParams {
                sequences: tokens.sequences as u32,
                first: tokens.first as u32,
                tokens: tokens.count as u32,
                apart: tokens.apart as u32,
                first_state: tokens.first_state as u32,
                begins: tokens.begins.into(),
                heads: value_heads as u32,
                key_heads: key_heads as u32,
                value_dim: value_dim as u32,
                q_stride: self.qkv.stride() as u32,
                w_stride: self.work.stride() as u32,
                s_stride: self.states.stride() as u32,
                key_dim: key_dim as u32,
                d_stride: dqkv.stride() as u32,
                member: member as u32,
                column: values.start as u32,
                columns: values.len() as u32,
                unused: [0; 3],
            };
            let bindings = [self.qkv.into(), self.work.into(), self.states.into(), dqkv.into()];
            let parts = key_dim.div_ceil(WORKGROUP) * key_heads;
            self.gpu.dispatch(&kernel, &params, &bindings, folded_rows(parts, tokens.sequences), work)
        })
    }

    /// Hands over the tokens of all runs, a dispatch at a time, in the order of a pass, with the work that each is.
    fn each(&self, backward: bool, registers: usize, run: impl Fn(Tokens, u64) -> Result<()>) -> Result<()> {
        let of_token = 4 * self.shape.state_rows() * self.shape.value_dim;
        let mut remaining = self.runs;
        while let Some(&one) = remaining.first() {
            let (together, rest) = remaining.split_at(alike(remaining));
            remaining = rest;
            let (sequences, apart) = (together.len(), together.get(1).map_or(0, |next| next.first - one.first));
            let room = self.gpu.work_per_dispatch() / (of_token * sequences).max(1);
            let most = room.clamp(1, TURNS / (2 * registers + 1));
            for skip in (0..one.tokens).step_by(most) {
                let count = most.min(one.tokens - skip);
                let place = if backward { one.tokens - skip - count } else { skip };
                let (first, first_state, begins) = (one.first + place, one.state, skip == 0);
                let work = (of_token * sequences * count) as u64;
                run(Tokens { sequences, first, count, apart, first_state, begins }, work)?;
            }
        }
        Ok(())
    }
}
