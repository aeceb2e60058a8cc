//! The kernels of attention's gradient, a block of 32 queries or keys at a time.

use bytemuck::{Pod, Zeroable};

use super::{AttentionShape, Sequence, shader};
use crate::{
    error::Result,
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    first: u32,
    end: u32,
    first_block: u32,
    head_dim: u32,
    group: u32,
    window: u32,
    stride: u32,
    q_column: u32,
    k_column: u32,
    v_column: u32,
    d_stride: u32,
    statistics_stride2: u32,
    scale: f32,
    softcap: f32,
    alibi_heads: u32,
    alibi_factor: f32,
    alibi_in_bf16: u32,
    /// Which query head of each group, where one kernel takes them one after the other.
    part: u32,
    unused: [u32; 2],
}

/// Queries, or keys, of a workgroup.
const ROWS: usize = 32;

/// A kernel.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Statistics,
    Queries,
    Keys,
}

/// The kernels that work out the shares of keys again.
macro_rules! with_shares {
    ($file:literal) => {
        shader!("shared/attention_backward", "shared/tanh", "shared/scores", "shared/attention_shares", $file)
    };
}

fn kernel(part: Part, aligned: bool) -> Kernel {
    let (name, source, sides) = match part {
        Part::Statistics => (
            "attention_statistics",
            shader!("shared/attention_backward", "shared/tanh", "shared/scores", "attention_statistics"),
            1,
        ),
        Part::Queries => ("attention_backward_queries", with_shares!("attention_backward_queries"), 2),
        Part::Keys => ("attention_backward_keys", with_shares!("attention_backward_keys"), 2),
    };
    Kernel { name, source, constants: vec![("SIDES", sides), ("ALIGNED", aligned.into())] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    let parts = [Part::Statistics, Part::Queries, Part::Keys];
    parts.into_iter().flat_map(|part| [kernel(part, false), kernel(part, true)]).collect()
}

impl Gpu {
    /// Dispatches a kernel for all blocks of all sequences, in runs that do not hold the GPU for long.
    pub(super) fn each_block(
        &self,
        shape: &AttentionShape,
        part: Part,
        bindings: [&Matrix; 4],
        [statistics, d]: [&Matrix; 2],
        sequences: &[Sequence],
    ) -> Result<()> {
        let AttentionShape { head_dim, q, k, v, scale, window, softcap, alibi } = *shape;
        let aligned = [head_dim, q.column, k.column, v.column].iter().all(|place| place.is_multiple_of(4));
        // Keys of a group add up over its heads, in a dispatch for each: a workgroup for all of them would take more turns
        // of its loops, on long sequences, than Mesa's software driver takes before it ends them.
        let (heads, products, turns) = match part {
            Part::Statistics => (q.heads, 1, 1),
            Part::Queries => (q.heads, 3, 1),
            Part::Keys => (k.heads, 4, shape.group()),
        };
        for (sequence, turn) in sequences.iter().flat_map(|sequence| (0..turns).map(move |turn| (sequence, turn))) {
            let blocks = sequence.tokens.div_ceil(ROWS);
            let seen = window.unwrap_or(sequence.tokens).min(sequence.tokens);
            // Products, and results of a block.
            let taken = head_dim.div_ceil(8) * 9 + head_dim.div_ceil(ROWS) * (ROWS + 5) + 8;
            self.check_rows("the gradient of attention over", seen, self.most_rows(ROWS, taken))?;
            let cost = products * ROWS * seen * heads * head_dim;
            let run = (self.work_per_dispatch() / cost.max(1)).clamp(1, 65535);
            for first_block in (0..blocks).step_by(run) {
                let count = run.min(blocks - first_block);
                let params = Params {
                    first: sequence.first as u32,
                    end: (sequence.first + sequence.tokens) as u32,
                    first_block: first_block as u32,
                    head_dim: head_dim as u32,
                    group: shape.group() as u32,
                    window: window.unwrap_or(0) as u32,
                    stride: bindings[0].stride() as u32,
                    q_column: q.column as u32,
                    k_column: k.column as u32,
                    v_column: v.column as u32,
                    d_stride: d.stride() as u32,
                    statistics_stride2: (statistics.stride() / 2) as u32,
                    scale,
                    softcap: softcap.unwrap_or(0.0),
                    alibi_heads: alibi.map_or(0, |alibi| alibi.power_of_two()),
                    alibi_factor: alibi.map_or(0.0, |alibi| alibi.factor),
                    alibi_in_bf16: alibi.is_some_and(|alibi| alibi.in_bf16).into(),
                    part: turn as u32,
                    unused: [0; 2],
                };
                let grid = [heads as u32, count as u32, 1];
                self.dispatch(&kernel(part, aligned), &params, &bindings.map(Into::into), grid, (count * cost) as u64)?;
            }
        }
        Ok(())
    }
}
