//! The kernels of attention's gradient, a block of queries at a time.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::{
    AttentionShape, Sequence,
    product::{CANDIDATES, ProductConfig, product_shader},
    shader,
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

fn products(config: &ProductConfig, aligned: bool) -> Kernel {
    let source =
        product_shader!(config, "shared/attention_backward", "shared/right_rows", "attention_backward_products");
    let [x, y, steps] = config.constants();
    Kernel { name: "attention_backward_products", source, constants: vec![x, y, steps, ("ALIGNED", aligned.into())] }
}

fn shares(sinks: bool) -> Kernel {
    let source = shader!(
        "shared/attention_backward",
        "shared/tanh",
        "shared/scores",
        "shared/reduce",
        "attention_backward_shares"
    );
    let constants = vec![("LANES", super::WORKGROUP as u32), ("SINKS", sinks.into())];
    Kernel { name: "attention_backward_shares", source, constants }
}

fn sums(config: &ProductConfig, aligned: bool, by_keys: bool) -> Kernel {
    let source = product_shader!(config, "shared/attention_backward", "shared/right_rows", "attention_backward_sums");
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
    all.flatten().chain([shares(false), shares(true)]).collect()
}

/// A block of queries of some heads, with the keys that they see.
pub(super) struct Block<'a> {
    gpu: &'a Gpu,
    params: Params,
    shares: &'a Matrix,
    aligned: bool,
}

impl<'a> Block<'a> {
    /// These queries of a sequence and these key-value heads; `shares` has room for them.
    pub fn new(
        gpu: &'a Gpu,
        shape: &AttentionShape,
        sequence: &Sequence,
        (queries, kv_heads): (Range<usize>, Range<usize>),
        shares: &'a Matrix,
    ) -> Self {
        let AttentionShape { head_dim, q, k, v, scale, window, softcap, alibi } = *shape;
        let oldest = window.map_or(0, |window| (queries.start + 1).saturating_sub(window));
        let params = Params {
            first: sequence.first as u32,
            query: (sequence.first + queries.start) as u32,
            queries: queries.len() as u32,
            rows: queries.len().next_multiple_of(4) as u32,
            key: (sequence.first + oldest) as u32,
            keys: (queries.end - oldest) as u32,
            stride4: (shares.stride() / 4) as u32,
            head: (kv_heads.start * shape.group()) as u32,
            heads: (kv_heads.len() * shape.group()) as u32,
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
        let aligned = [head_dim, q.column, k.column, v.column].iter().all(|place| place.is_multiple_of(4));
        Self { gpu, params, shares, aligned }
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

    /// Of rows of queries with rows of keys, into one half of the shares: a matrix, and where its first head begins.
    pub fn products(&self, half: u32, left: (&Matrix, usize), right: (&Matrix, usize)) -> Result<()> {
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

    /// Of the keys, in place of the products, beside a logit of each query head where there are any.
    pub fn shares(&self, sinks: Option<&Matrix>) -> Result<()> {
        let Params { rows, heads, keys, .. } = self.params;
        let work = u64::from(rows) * u64::from(heads) * u64::from(keys);
        let bindings = [self.shares.into(), sinks.into()];
        self.gpu.dispatch(&shares(sinks.is_some()), &self.params, &bindings, [rows, heads, 1], work)
    }

    /// Of rows of keys for each query, or of queries for each key, by one half of the shares.
    pub fn sums(&self, half: u32, by_keys: bool, right: (&Matrix, usize), out: (&Matrix, usize)) -> Result<()> {
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
