//! The kernels of attention's gradient, a block of queries at a time.

use bytemuck::{Pod, Zeroable};

use super::{
    AttentionShape, Sequence,
    product::{CANDIDATES, ProductConfig, product_shader},
    shader,
    turns::TURNS,
};
use crate::{
    error::Result,
    gpu::{Gpu, Kernel, Matrix},
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    first: u32,
    query: u32,
    queries: u32,
    rows: u32,
    key: u32,
    keys: u32,
    stride4: u32,
    head: u32,
    heads: u32,
    group: u32,
    head_dim: u32,
    window: u32,
    left_stride: u32,
    left_column: u32,
    right_stride: u32,
    right_column: u32,
    out_stride: u32,
    out_column: u32,
    half: u32,
    scale: f32,
    softcap: f32,
    alibi_heads: u32,
    alibi_factor: f32,
    alibi_in_bf16: u32,
}

/// Bytes of two numbers of each query and key of a block, where so few are possible.
const SCRATCH: usize = 32 << 20;
/// What a block of queries is a multiple of, where it has as many.
const ROWS: usize = 64;

/// How the work on a sequence is divided.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Division {
    /// Key-value heads at a time.
    kv_heads: usize,
    /// Queries at a time.
    queries: usize,
}

impl Division {
    /// For a sequence of this length, where so many multiply-adds may be in a dispatch.
    fn new(shape: &AttentionShape, tokens: usize, work: usize) -> Self {
        let seen = |queries: usize| shape.window.map_or(tokens, |window| tokens.min(window + queries));
        // A turn for each query of the block and head of the group.
        let most = tokens.min(TURNS / shape.group().max(1)).max(4);
        let fitting = |kv_heads: usize| {
            let of_query = |queries| kv_heads * shape.group() * seen(queries).next_multiple_of(4);
            let fits = |queries: usize| {
                8 * queries * of_query(queries) <= SCRATCH && queries * of_query(queries) * shape.head_dim <= work
            };
            let step = if most < ROWS { 4 } else { ROWS };
            (0..=most.next_multiple_of(step)).rev().step_by(step).find(|&queries| fits(queries)).unwrap_or(0)
        };
        let halves = std::iter::successors(Some(shape.k.heads.max(1)), |heads| (*heads > 1).then(|| heads.div_ceil(2)));
        let found = halves.map(|kv_heads| Self { kv_heads, queries: fitting(kv_heads) }).find(|one| one.queries > 0);
        found.unwrap_or(Self { kv_heads: 1, queries: 4 })
    }

    /// Rows and columns of the shares.
    fn shares(&self, shape: &AttentionShape, tokens: usize) -> [usize; 2] {
        let seen = shape.window.map_or(tokens, |window| tokens.min(window + self.queries));
        let rows = self.queries.min(tokens).next_multiple_of(4);
        [2 * self.kv_heads.min(shape.k.heads) * shape.group() * rows, seen.next_multiple_of(4)]
    }
}

/// Bytes on the GPU that the gradient of attention takes in a sequence of this length beside what it is given and its
/// result.
pub fn attention_backward_bytes(shape: &AttentionShape, tokens: usize) -> u64 {
    let [rows, columns] = Division::new(shape, tokens, usize::MAX).shares(shape, tokens);
    4 * rows as u64 * columns as u64
}

/// A matrix, the columns of its first head that is worked on, and whether there is one for each query head.
type Heads<'a> = (&'a Matrix, usize);

fn products(config: &ProductConfig, aligned: bool) -> Kernel {
    let source = product_shader!(config, "shared/attention_backward", "attention_backward_products");
    let [x, y, steps] = config.constants();
    Kernel { name: "attention_backward_products", source, constants: vec![x, y, steps, ("ALIGNED", aligned.into())] }
}

fn shares() -> Kernel {
    let source = shader!(
        "shared/attention_backward",
        "shared/tanh",
        "shared/scores",
        "shared/reduce",
        "attention_backward_shares"
    );
    Kernel { name: "attention_backward_shares", source, constants: vec![("LANES", super::WORKGROUP as u32)] }
}

fn sums(config: &ProductConfig, aligned: bool, by_keys: bool) -> Kernel {
    let source = product_shader!(config, "shared/attention_backward", "attention_backward_sums");
    let [x, y, steps] = config.constants();
    let constants = vec![x, y, steps, ("ALIGNED", aligned.into()), ("BY_KEYS", by_keys.into())];
    Kernel { name: "attention_backward_sums", source, constants }
}

/// Every kernel of this family.
pub(super) fn kernels() -> Vec<Kernel> {
    let of = |config: &ProductConfig, aligned| {
        [products(config, aligned), sums(config, aligned, false), sums(config, aligned, true)]
    };
    let all = CANDIDATES.iter().flat_map(|config| [false, true].map(|aligned| of(config, aligned)));
    all.flatten().chain([shares()]).collect()
}

/// A block of queries of some heads, with the keys that they see.
struct Block<'a> {
    gpu: &'a Gpu,
    params: Params,
    shares: &'a Matrix,
    aligned: bool,
}

impl Gpu {
    /// Adds the gradients of a sequence's keys and values to `dqkv`, and puts those of its queries there.
    pub(super) fn attention_backward_of(
        &self,
        shape: &AttentionShape,
        [qkv, d, dqkv]: [&Matrix; 3],
        sequence: &Sequence,
    ) -> Result<()> {
        let AttentionShape { head_dim, q, k, v, scale, window, softcap, alibi } = *shape;
        let tokens = sequence.tokens;
        // A turn takes four keys at most, or with workgroup memory one, and another to bring it there.
        let seen = window.unwrap_or(tokens).min(tokens);
        self.check_rows("the gradient of attention over", seen, self.most_rows(1, 2))?;
        let division = Division::new(shape, tokens, self.work_per_dispatch());
        let aligned = [head_dim, q.column, k.column, v.column].iter().all(|place| place.is_multiple_of(4));
        let [rows, columns] = division.shares(shape, tokens);
        // All blocks in one place: memory of one size is used again in the next sequence.
        let shares = self.unfilled(rows, columns)?;
        for first in (0..tokens).step_by(division.queries) {
            let end = tokens.min(first + division.queries);
            let oldest = window.map_or(0, |window| (first + 1).saturating_sub(window));
            let (rows, keys) = ((end - first).next_multiple_of(4), end - oldest);
            for kv_head in (0..k.heads).step_by(division.kv_heads) {
                let heads = division.kv_heads.min(k.heads - kv_head) * shape.group();
                let params = Params {
                    first: sequence.first as u32,
                    query: (sequence.first + first) as u32,
                    queries: (end - first) as u32,
                    rows: rows as u32,
                    key: (sequence.first + oldest) as u32,
                    keys: keys as u32,
                    stride4: (shares.stride() / 4) as u32,
                    head: (kv_head * shape.group()) as u32,
                    heads: heads as u32,
                    group: shape.group() as u32,
                    head_dim: head_dim as u32,
                    window: window.unwrap_or(0) as u32,
                    scale,
                    softcap: softcap.unwrap_or(0.0),
                    alibi_heads: alibi.map_or(0, |alibi| alibi.power_of_two()),
                    alibi_factor: alibi.map_or(0.0, |alibi| alibi.factor),
                    alibi_in_bf16: alibi.is_some_and(|alibi| alibi.in_bf16).into(),
                    ..Params::zeroed()
                };
                let block = Block { gpu: self, params, shares: &shares, aligned };
                let of_query = |column| column + kv_head * shape.group() * head_dim;
                let of_key = |column| column + kv_head * head_dim;
                let [query, key, value] = [of_query(q.column), of_key(k.column), of_key(v.column)];
                block.products(0, (qkv, query), (qkv, key))?;
                block.products(1, (d, of_query(0)), (qkv, value))?;
                block.shares()?;
                block.sums(1, false, (qkv, key), (dqkv, query))?;
                block.sums(1, true, (qkv, query), (dqkv, key))?;
                block.sums(0, true, (d, of_query(0)), (dqkv, value))?;
            }
        }
        Ok(())
    }
}

impl Block<'_> {
    /// Multiply-adds of a product.
    fn work(&self) -> usize {
        let Params { queries, keys, heads, head_dim, .. } = self.params;
        queries as usize * keys as usize * heads as usize * head_dim as usize
    }

    fn half(&self, half: u32) -> u32 {
        half * self.params.heads * self.params.rows
    }

    /// Of rows of queries with rows of keys, into one half of the shares.
    fn products(&self, half: u32, left: Heads, right: Heads) -> Result<()> {
        let Params { queries, keys, heads, head_dim, .. } = self.params;
        let params = Params {
            left_stride: left.0.stride() as u32,
            left_column: left.1 as u32,
            right_stride: right.0.stride() as u32,
            right_column: right.1 as u32,
            half: self.half(half),
            ..self.params
        };
        self.fastest("products of attention", [queries, keys, head_dim], self.shares, |config, shares| {
            let grid =
                [keys.div_ceil(config.tile_columns() as u32), queries.div_ceil(config.tile_rows() as u32), heads];
            let bindings = [left.0.into(), right.0.into(), shares.into()];
            self.gpu.dispatch(&products(config, self.aligned), &params, &bindings, grid, self.work() as u64)
        })
    }

    fn shares(&self) -> Result<()> {
        let Params { rows, heads, keys, .. } = self.params;
        let work = u64::from(rows) * u64::from(heads) * u64::from(keys);
        self.gpu.dispatch(&shares(), &self.params, &[self.shares.into()], [rows, heads, 1], work)
    }

    fn sums(&self, half: u32, by_keys: bool, right: Heads, out: Heads) -> Result<()> {
        let Params { queries, keys, heads, head_dim, group, .. } = self.params;
        let params = Params {
            right_stride: right.0.stride() as u32,
            right_column: right.1 as u32,
            out_stride: out.0.stride() as u32,
            out_column: out.1 as u32,
            half: self.half(half),
            ..self.params
        };
        let (what, sizes, heads) = match by_keys {
            true => ("sums of attention by keys", [keys, head_dim, queries * group], heads / group),
            false => ("sums of attention by queries", [queries, head_dim, keys], heads),
        };
        self.fastest(what, sizes, out.0, |config, out| {
            let tiles = [head_dim.div_ceil(config.tile_columns() as u32), sizes[0].div_ceil(config.tile_rows() as u32)];
            let bindings = [self.shares.into(), right.0.into(), out.into()];
            let kernel = sums(config, self.aligned, by_keys);
            self.gpu.dispatch(&kernel, &params, &bindings, [tiles[0], tiles[1], heads], self.work() as u64)
        })
    }

    /// Runs a product of a head's `[m, n]` results and `k` steps into `out` in the fastest configuration that is known.
    fn fastest(
        &self,
        what: &str,
        [m, n, k]: [u32; 3],
        out: &Matrix,
        run: impl Fn(&ProductConfig, &Matrix) -> Result<()>,
    ) -> Result<()> {
        let sizes = [m, n, k * self.params.heads].map(|size| size as usize);
        // Measured where nothing is added up.
        let config =
            self.gpu.product_config(what, sizes, |config| run(config, &self.gpu.unfilled(out.rows(), out.cols())?))?;
        run(&config, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::HeadSpan;

    fn shape(heads: usize, kv_heads: usize, window: Option<usize>) -> AttentionShape {
        let span = |heads| HeadSpan { column: 0, heads };
        AttentionShape {
            head_dim: 64,
            q: span(heads),
            k: span(kv_heads),
            v: span(kv_heads),
            window,
            ..Default::default()
        }
    }

    #[test]
    fn blocks_of_queries_fit_into_memory_and_into_a_dispatch() {
        for (shape, tokens, work, kv_heads, queries) in [
            (shape(4, 4, None), 256, usize::MAX, 4, 256),
            (shape(4, 4, None), 7, usize::MAX, 4, 8),
            (shape(32, 8, None), 512, usize::MAX, 8, 256),
            (shape(32, 8, None), 8192, usize::MAX, 2, 64),
            (shape(128, 1, None), 2048, usize::MAX, 1, 4),
            (shape(32, 8, Some(100)), 8192, usize::MAX, 8, 256),
            (shape(32, 8, None), 512, 1 << 20, 1, 4),
        ] {
            let division = Division::new(&shape, tokens, work);
            assert_eq!(division, Division { kv_heads, queries }, "{shape:?} {tokens}");
            let [rows, columns] = division.shares(&shape, tokens);
            assert!(4 * rows * columns <= SCRATCH, "{shape:?} {tokens}");
        }
    }
}
