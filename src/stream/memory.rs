//! How much of everything is in memory at a time.

use std::ops::Range;

use super::store::Placement;
use crate::{
    gpu::Gpu,
    model::{BatchSize, HostMatrix, PART_BYTES, parts},
};

/// How much of everything is in memory at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct MemoryPlan {
    pub batch: BatchSize,
    pub placement: Placement,
    /// The most bytes of a run of rows of an embedding, in f32.
    pub part_bytes: u64,
    /// Whether what a method runs the dense model for again and again is kept in host memory.
    pub keeps_dense: bool,
}

/// Some sequences, as far as memory goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub tokens: usize,
    /// Tokens of the longest sequence.
    pub longest: usize,
}

impl Extent {
    /// Of these sequences.
    pub fn of(rows: &[Vec<u32>]) -> Self {
        Self { tokens: rows.iter().map(Vec::len).sum(), longest: rows.iter().map(Vec::len).max().unwrap_or(0) }
    }
}

/// The most bytes that something takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peak {
    pub gpu: u64,
    /// The most bytes that go to the GPU at once.
    pub upload: u64,
    /// Beside what the process takes without any work.
    pub host: u64,
    pub disk: u64,
}

impl Peak {
    /// The most of two things that come one after the other.
    pub fn max(self, other: Self) -> Self {
        Self {
            gpu: self.gpu.max(other.gpu),
            upload: self.upload.max(other.upload),
            host: self.host.max(other.host),
            disk: self.disk.max(other.disk),
        }
    }
}

impl MemoryPlan {
    /// For a machine with room for everything.
    pub fn unlimited(rows_per_batch: Option<usize>) -> Self {
        let batch = BatchSize { rows: rows_per_batch, ..BatchSize::default() };
        Self { batch, placement: Placement::Gpu, part_bytes: PART_BYTES, keeps_dense: true }
    }

    /// Runs of rows of a table that are worked on together, in f32.
    pub fn parts(&self, gpu: &Gpu, table: &HostMatrix) -> impl Iterator<Item = Range<usize>> + use<> {
        parts(gpu, table, 4, self.part_bytes)
    }

    /// Tokens of the largest batch.
    pub fn batch_tokens(&self, extent: &Extent) -> u64 {
        let tokens = match self.batch.rows {
            Some(rows) => rows.saturating_mul(extent.longest),
            None => self.batch.tokens.max(extent.longest),
        };
        tokens.min(extent.tokens) as u64
    }
}
