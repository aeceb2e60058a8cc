//! Attention of one layer, with what tells queries and keys their positions, and with a cache of keys and values.

use super::{
    delta_weights::LayerCache,
    layer::{BlockWeights, LayerContext},
};
use crate::{
    error::{Error, Result},
    gpu::Matrix,
    ops::{AttentionShape, Gate, HeadSpan, RowCopy},
};

impl LayerContext<'_> {
    /// The norms of queries and keys, and what tells them their positions, in place.
    pub(super) fn place_in_place(&self, block: &BlockWeights, qkv: &Matrix) -> Result<()> {
        let (gpu, config, spec) = (self.gpu, self.config, self.spec());
        let shape = spec.attention_shape();
        if let (Some(norms), Some(qk)) = (&block.head_norms, config.qk_norm()) {
            for (span, norm) in [shape.q, shape.k].into_iter().zip(norms) {
                gpu.head_norm(
                    qk.norm,
                    qkv,
                    norm.span(span, spec.head_dim),
                    &norm.weight,
                    norm.bias.as_ref(),
                    config.head_norm_eps,
                )?;
            }
        }
        if let Some((span, table)) = self.turned() {
            gpu.rope(qkv, span, spec.head_dim, self.positions, table)?;
        }
        Ok(())
    }

    /// The heads that rotary embeddings turn, and their angles, where the layer has any.
    pub(super) fn turned(&self) -> Option<(HeadSpan, &Matrix)> {
        let spec = self.spec();
        let table = spec.rope.and_then(|table| self.rope_tables.get(table))?;
        // Keys follow the queries.
        Some((HeadSpan { column: 0, heads: spec.heads + spec.kv_heads }, table))
    }

    /// What the attention's output projection reads, `[tokens, heads · head_dim]`.
    pub(super) fn attention(&self, block: &BlockWeights, input: &Matrix) -> Result<Matrix> {
        let (gpu, spec) = (self.gpu, self.spec());
        let shape = spec.attention_shape();
        let qkv = self.projected(block, input, 0)?;
        self.place_in_place(block, &qkv)?;
        let out = self.attended(&shape, &qkv, block.sinks.as_deref().unwrap_or_default())?;
        if spec.output_gate {
            gpu.gate_in_place(Gate::Sigmoid, &out, &qkv, spec.gate_column())?;
        }
        Ok(out)
    }

    fn attended(&self, shape: &AttentionShape, qkv: &Matrix, sinks: &[f32]) -> Result<Matrix> {
        let (gpu, spec) = (self.gpu, self.spec());
        let cache = match self.cache {
            None => return gpu.attention_with_sinks(shape, sinks, qkv, qkv, self.sequences),
            Some(LayerCache::Keys(cache)) => cache,
            Some(LayerCache::Delta { .. }) => return Err(Error::shape("attention", "the cache of another layer")),
        };
        let rows: Vec<(usize, usize)> = self.sequences.iter().flat_map(|sequence| sequence.cache_rows()).collect();
        let copy = RowCopy { from_column: shape.k.column, cols: spec.kv_width(), to_column: 0 };
        gpu.copy_rows(qkv, cache, &rows, copy)?;
        let cached = |column| HeadSpan { column, heads: spec.kv_heads };
        let shape = AttentionShape { k: cached(0), v: cached(spec.kv_width() / 2), ..*shape };
        gpu.attention_with_sinks(&shape, sinks, qkv, cache, self.sequences)
    }
}
