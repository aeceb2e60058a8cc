//! How much memory a run will take, told before it is taken.

use serde::Serialize;

use std::ops::Range;

use super::{plan::Plan, residual::Placement};
use crate::{
    gpu::Gpu,
    model::{BatchSize, Config, HostMatrix},
};

/// Bytes that a phase needs at its peak, about.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryEstimate {
    pub phase: &'static str,
    pub gpu_bytes: u64,
    pub host_bytes: u64,
}

/// The most bytes of an embedding in work at a time, where a binding holds no more.
const EMBEDDING_PART: u64 = 128 << 20;
/// Tokens in work at a time.
const BATCH_TOKENS: u64 = 2048;

/// Estimates for slicing with so many calibration tokens, and for measuring perplexity. `stored_bytes` is the size of a stored weight (2 or 4).
pub fn memory(config: &Config, plan: &Plan, tokens: usize, stored_bytes: u64) -> Vec<MemoryEstimate> {
    let d = config.hidden_size as u64;
    let heads = (config.num_attention_heads * config.head_dim) as u64;
    let inner = config.intermediate_size as u64 * if config.architecture.gated { 3 } else { 2 };
    let activations = 4 * BATCH_TOKENS * (4 * d + config.qkv_width() as u64 + heads + inner);
    let ends = config.vocab_size as u64 * d;
    let layer = (config.parameters().saturating_sub(ends * if config.tie_word_embeddings { 1 } else { 2 })) / config.num_hidden_layers as u64;
    let tokens = tokens as u64;
    vec![
        MemoryEstimate {
            phase: "slice",
            // One layer in f32 and one of its weights rotated (or a part of the embedding and its rotation), the residual of every token, two
            // rotations and a covariance.
            gpu_bytes: (4 * layer * 3 / 2).max(2 * (4 * ends).min(EMBEDDING_PART)) + 4 * d * tokens + activations + 5 * 4 * d * d,
            // The layer, fused; the covariance, its copy, eigenvectors and the solver's work space in f64.
            host_bytes: 2 * 4 * layer + 8 * 8 * d * d,
        },
        MemoryEstimate {
            phase: "perplexity",
            gpu_bytes: stored_bytes * (layer + 2 * ends) + (1 << 30).min(4 * d * tokens.max(BATCH_TOKENS)) + activations,
            host_bytes: plan.tensors.iter().map(|tensor| tensor.byte_len()).max().unwrap_or_default(),
        },
    ]
}

/// How much of everything is in memory at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    pub batch: BatchSize,
    pub placement: Placement,
    /// The most bytes of a run of rows of an embedding.
    pub part_bytes: u64,
}

impl MemoryPlan {
    /// For a GPU with room for everything.
    pub fn unlimited(options: &super::plan::Options) -> Self {
        Self { batch: BatchSize { rows: options.rows_per_batch, ..BatchSize::default() }, placement: Placement::Gpu, part_bytes: EMBEDDING_PART }
    }

    /// Runs of rows of a table that are worked on together, in f32.
    pub fn parts(&self, gpu: &Gpu, table: &HostMatrix) -> impl Iterator<Item = Range<usize>> + use<> {
        let row_bytes = table.cols.next_multiple_of(4) * 4;
        let planned = (self.part_bytes as usize / row_bytes).max(1);
        let (rows, step) = (table.rows, planned.min(gpu.rows_per_binding(row_bytes)));
        (0..rows).step_by(step).map(move |first| first..rows.min(first + step))
    }
}
