//! Causal attention.

use bytemuck::{Pod, Zeroable};

use super::{
    AttentionShape, Sequence,
    attention_shape::{FEW, Grid, MANY, MAX_HEAD_DIM, MAX_NARROW, ONE},
    shader,
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    group: u32,
    group_part: u32,
    q_stride: u32,
    q_column: u32,
    kv_stride: u32,
    k_column: u32,
    v_column: u32,
    out_stride: u32,
    scale: f32,
    window: u32,
    blocks: u32,
    kv_heads: u32,
    softcap: f32,
    alibi_heads: u32,
    alibi_factor: f32,
    alibi_in_bf16: u32,
    sinks: u32,
    unused: [u32; 3],
}

fn kernel(queries: usize, head_dim: usize, aligned: bool) -> Kernel {
    let (name, source) = match queries {
        ONE => (
            "attention_wide",
            shader!("shared/attention", "shared/tanh", "shared/scores", "shared/queries_1", "attention_wide"),
        ),
        FEW => (
            "attention_wide",
            shader!("shared/attention", "shared/tanh", "shared/scores", "shared/queries_4", "attention_wide"),
        ),
        _ => (
            "attention",
            shader!("shared/attention", "shared/tanh", "shared/scores", "shared/attention_block", "attention"),
        ),
    };
    Kernel { name, source, constants: vec![("HEAD_DIM", head_dim as u32), ("ALIGNED", aligned.into())] }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    let families = [(MANY, MAX_NARROW), (FEW, MAX_HEAD_DIM), (ONE, MAX_HEAD_DIM)];
    let heads = families.into_iter().flat_map(|(queries, most)| (1..=most).map(move |head_dim| (queries, head_dim)));
    let aligned = heads
        .clone()
        .filter(|(_, head_dim)| head_dim.is_multiple_of(4))
        .map(|(queries, head_dim)| kernel(queries, head_dim, true));
    heads.map(|(queries, head_dim)| kernel(queries, head_dim, false)).chain(aligned).collect()
}

impl Gpu {
    /// Causal attention with grouped queries: `out[t, h] = Σ_j softmax_j(s(scale · q[t, h]·k[j, h / group])) · v[j, h /
    /// group]`, s the soft-cap and the linear bias of `shape`.
    ///
    /// `q` is `[tokens, *]`, `kv` holds keys and values `[rows, *]` (it may be `q`: the output of one projection),
    /// `sequences` says which tokens belong together. The result is `[tokens, heads · head_dim]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if heads or sequences lie outside of the matrices.
    pub fn attention(&self, shape: &AttentionShape, q: &Matrix, kv: &Matrix, sequences: &[Sequence]) -> Result<Matrix> {
        self.attention_with_sinks(shape, &[], q, kv, sequences)
    }

    /// [`Gpu::attention`] with a logit of each query head, none or all, that counts in the softmax beside those of keys
    /// and has no value: `out[t, h] = Σ_j exp(s_j) · v[j, h / group] / (exp(sinks[h]) + Σ_j exp(s_j))`.
    ///
    /// # Errors
    /// As [`Gpu::attention`]; [`Error::Shape`] for another number of sinks.
    pub fn attention_with_sinks(
        &self,
        shape: &AttentionShape,
        sinks: &[f32],
        q: &Matrix,
        kv: &Matrix,
        sequences: &[Sequence],
    ) -> Result<Matrix> {
        let AttentionShape { head_dim, q: queries, k, v, .. } = *shape;
        let outside = |block: &&Sequence| {
            block.first + block.tokens > q.rows() || block.kv_row + block.position + block.tokens > kv.rows()
        };
        if queries.end(head_dim) > q.cols()
            || k.end(head_dim).max(v.end(head_dim)) > kv.cols()
            || !queries.heads.is_multiple_of(k.heads.max(1))
            || ![0, queries.heads].contains(&sinks.len())
        {
            let reason = format!("{shape:?} with {} sinks in rows of {} and {}", sinks.len(), q.cols(), kv.cols());
            return Err(Error::shape("attention", reason));
        }
        if let Some(block) = sequences.iter().find(outside) {
            return Err(Error::shape("attention", format!("{block:?} in {} queries and {} keys", q.rows(), kv.rows())));
        }
        let Grid { queries: most, group_part, tokens: per_block } =
            shape.grid(sequences.iter().all(|block| block.tokens == 1));
        let [keys, turns] = shape.turns(most);
        let seen = |block: &Sequence| {
            let all = block.position + block.tokens;
            shape.window.map_or(all, |window| all.min(window + most))
        };
        let longest = sequences.iter().map(seen).max().unwrap_or(0);
        self.check_rows("attention over", longest, self.most_rows(keys, turns))?;
        let pieces: Vec<Sequence> = sequences.iter().flat_map(|block| block.pieces(per_block)).collect();
        let out = self.unfilled(q.rows(), queries.heads * head_dim)?;
        let params = Params {
            group: shape.group() as u32,
            group_part: group_part as u32,
            q_stride: q.stride() as u32,
            q_column: queries.column as u32,
            kv_stride: kv.stride() as u32,
            k_column: k.column as u32,
            v_column: v.column as u32,
            out_stride: out.stride() as u32,
            scale: shape.scale,
            window: shape.window.unwrap_or(0) as u32,
            blocks: 0,
            kv_heads: k.heads as u32,
            softcap: shape.softcap.unwrap_or(0.0),
            alibi_heads: shape.alibi.map_or(0, |alibi| alibi.power_of_two()),
            alibi_factor: shape.alibi.map_or(0.0, |alibi| alibi.factor),
            alibi_in_bf16: shape.alibi.is_some_and(|alibi| alibi.in_bf16).into(),
            sinks: sinks.len() as u32,
            unused: [0; 3],
        };
        let aligned = [head_dim, queries.column, k.column, v.column].iter().all(|place| place.is_multiple_of(4));
        let kernel = kernel(most, head_dim, aligned);
        let heads = k.heads * shape.group().div_ceil(group_part);
        let cost = |piece: &Sequence| 2 * piece.tokens * (piece.position + piece.tokens) * queries.heads * head_dim;
        let mut remaining = pieces.as_slice();
        while !remaining.is_empty() {
            let mut work = 0;
            let short = remaining.iter().take_while(|piece| {
                work += cost(piece);
                work <= self.work_per_dispatch()
            });
            let (run, rest) = remaining.split_at(short.count().max(1));
            remaining = rest;
            let mut words: Vec<u32> =
                run.iter().flat_map(|p| [p.first, p.tokens, p.kv_row, p.position].map(|value| value as u32)).collect();
            // After the blocks: the fewest bindings that an adapter may have are all taken.
            words.extend(sinks.iter().map(|sink| sink.to_bits()));
            words.resize(words.len().next_multiple_of(4), 0);
            let table = self.upload_u32(&words)?;
            let folds = run.len().div_ceil(65535);
            let grid = [heads as u32, run.len().div_ceil(folds) as u32, folds as u32];
            let params = Params { blocks: run.len() as u32, ..params };
            let bindings = [q.into(), kv.into(), (&table).into(), (&out).into()];
            self.dispatch(&kernel, &params, &bindings, grid, run.iter().map(cost).sum::<usize>() as u64)?;
        }
        Ok(out)
    }
}
