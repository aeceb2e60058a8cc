//! The two ends of a model: embedding tokens, and turning the last residual into logits, a slice of the vocabulary at a time.

use super::{
    architecture::Position,
    batch::Batch,
    config::Config,
    host::{HostEnds, HostMatrix},
    layer::NormWeights,
};
use crate::{
    error::Result,
    gpu::{Gpu, Matrix},
};

/// A table that may be larger than one buffer, in runs of rows.
struct Table {
    parts: Vec<(usize, Matrix)>,
}

impl Table {
    fn upload(gpu: &Gpu, matrix: &HostMatrix) -> Result<Self> {
        let rows = gpu.rows_per_binding(matrix.cols.next_multiple_of(4) * matrix.element.size());
        let parts = (0..matrix.rows).step_by(rows).map(|first| {
            let last = matrix.rows.min(first + rows);
            Ok((first, gpu.upload_bytes(&matrix.row_bytes(first..last)?, last - first, matrix.cols, matrix.element)?))
        });
        Ok(Self { parts: parts.collect::<Result<_>>()? })
    }
}

/// Embeddings, final norm and head on the GPU.
pub struct Ends {
    embedding: Table,
    positions: Option<(Table, usize)>,
    final_norm: Option<NormWeights>,
    head: Option<Table>,
    head_bias: Option<Vec<f32>>,
    fused: bool,
    width: usize,
}

impl Ends {
    /// Uploads the ends in their stored types; a tied head is not uploaded twice.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn upload(gpu: &Gpu, config: &Config, ends: &HostEnds) -> Result<Self> {
        let offset = match config.architecture.position {
            Position::Learned { offset, .. } => offset,
            Position::Rope { .. } => 0,
        };
        Ok(Self {
            embedding: Table::upload(gpu, &ends.embedding)?,
            positions: ends.positions.as_ref().map(|table| Ok::<_, crate::Error>((Table::upload(gpu, table)?, offset))).transpose()?,
            final_norm: ends.final_norm.as_ref().map(|norm| NormWeights::upload(gpu, norm)).transpose()?,
            head: if config.tie_word_embeddings { None } else { Some(Table::upload(gpu, &ends.head)?) },
            head_bias: ends.head_bias.clone(),
            fused: ends.fused,
            width: ends.embedding.cols,
        })
    }

    /// The residual before the first layer, `[tokens, width]`. `positions` are those of the tokens in their sequences.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn embed(&self, gpu: &Gpu, batch: &Batch) -> Result<Matrix> {
        let x = gpu.unfilled(batch.tokens, self.width)?;
        for (first, table) in &self.embedding.parts {
            gpu.embed(&batch.ids, *first, table, &x, false)?;
        }
        if let Some((positions, offset)) = &self.positions {
            // Position p is row p + offset.
            for (first, table) in &positions.parts {
                gpu.embed_positions(&batch.positions, *first, *offset, table, &x)?;
            }
        }
        Ok(x)
    }

    /// The final norm, and the logits of each slice of the vocabulary in turn: `each(first entry, [tokens, entries])`.
    ///
    /// # Errors
    /// Those of `each`; [`crate::Error::OutOfMemory`].
    pub fn logits(&self, gpu: &Gpu, config: &Config, x: &Matrix, mut each: impl FnMut(usize, &Matrix) -> Result<()>) -> Result<()> {
        let norm = self.final_norm.as_ref();
        let kind = if self.fused { crate::ops::Norm::Rms } else { config.architecture.norm };
        let parameters = (norm.map(|norm| &norm.weight), norm.and_then(|norm| norm.bias.as_ref()));
        let input = gpu.norm(kind, x, parameters.0, parameters.1, config.hidden_size, config.norm_eps)?;
        // Slices of the vocabulary such that their logits fit a binding, in steps that views can start at.
        let entries = (gpu.max_binding_size() / (4 * x.rows().max(1) as u64)) as usize / 64 * 64;
        let entries = entries.clamp(64, SLICE);
        for (first, table) in &self.head.as_ref().unwrap_or(&self.embedding).parts {
            for start in (0..table.rows()).step_by(entries) {
                let slice = table.view(start..table.rows().min(start + entries))?;
                let begin = first + start;
                let bias = match &self.head_bias {
                    Some(bias) => Some(gpu.upload(&bias[begin..begin + slice.rows()], 1, slice.rows())?),
                    None => None,
                };
                let logits = gpu.unfilled(x.rows(), slice.rows())?;
                gpu.linear(&input, &slice, bias.as_ref(), &logits, 0, false)?;
                each(begin, &logits)?;
            }
        }
        Ok(())
    }
}

/// The most vocabulary entries of one slice.
const SLICE: usize = 8192;
