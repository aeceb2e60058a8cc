//! The two ends of a model: embedding tokens, and turning the last residual into logits, a slice of the vocabulary at a
//! time.

use std::ops::Range;

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
    ops::{Bound, Norm, SampleOptions},
};

/// The most bytes of a table in work at a time, where there is room.
pub const PART_BYTES: u64 = 128 << 20;

/// Runs of rows of a table, of about `bytes` each with elements of `element_size`, and never more than a binding holds.
pub fn parts(
    gpu: &Gpu,
    table: &HostMatrix,
    element_size: usize,
    bytes: u64,
) -> impl Iterator<Item = Range<usize>> + use<> {
    let row = table.cols.next_multiple_of(4) * element_size;
    let planned = (bytes / row as u64).max(1) as usize;
    let (rows, step) = (table.rows, planned.min(gpu.rows_per_binding(row)));
    (0..rows).step_by(step).map(move |first| first..rows.min(first + step))
}

/// Puts the rows of a table onto the GPU in its stored type, in parts of up to about `bytes`: `each(first row, part)`.
///
/// # Errors
/// Those of `each`; [`crate::Error::OutOfMemory`], [`crate::Error::BadTensor`], [`crate::Error::Read`].
pub fn each_part(
    gpu: &Gpu,
    table: &HostMatrix,
    bytes: u64,
    mut each: impl FnMut(usize, &Matrix) -> Result<()>,
) -> Result<()> {
    for rows in parts(gpu, table, table.element.size(), bytes) {
        each(rows.start, &table.upload(gpu, rows)?)?;
    }
    Ok(())
}

/// A table that may be larger than one buffer, in runs of rows.
struct Table {
    parts: Vec<(usize, Matrix)>,
}

impl Table {
    fn upload(gpu: &Gpu, matrix: &HostMatrix) -> Result<Self> {
        let parts =
            parts(gpu, matrix, matrix.element.size(), u64::MAX).map(|rows| Ok((rows.start, matrix.upload(gpu, rows)?)));
        Ok(Self { parts: parts.collect::<Result<_>>()? })
    }
}

/// What turns the last residual into logits, but for the table itself.
pub struct Readout {
    pub(super) final_norm: Option<NormWeights>,
    head_bias: Option<Vec<f32>>,
    softcap: Option<f32>,
    fused: bool,
}

impl Readout {
    /// Uploads the final norm.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn upload(gpu: &Gpu, ends: &HostEnds) -> Result<Self> {
        Ok(Self {
            final_norm: ends.final_norm.as_ref().map(|norm| NormWeights::upload(gpu, norm)).transpose()?,
            head_bias: ends.head_bias.clone(),
            softcap: ends.logit_softcap,
            fused: ends.fused,
        })
    }

    /// With another final norm, if there is one.
    pub fn with_norm(self, norm: Option<NormWeights>) -> Self {
        Self { final_norm: norm.or(self.final_norm), ..self }
    }

    /// What the head reads, `[tokens, width]`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn norm(&self, gpu: &Gpu, config: &Config, x: &Matrix) -> Result<Matrix> {
        let norm = self.final_norm.as_ref();
        let kind = self.norm_kind(config);
        let parameters = (norm.map(|norm| &norm.weight), norm.and_then(|norm| norm.bias.as_ref()));
        gpu.norm(kind, x, parameters.0, parameters.1, config.hidden_size, config.norm_eps)
    }

    /// Of the final norm; once fused, a layer norm is the RMS norm of a residual whose mean is already zero.
    pub(super) fn norm_kind(&self, config: &Config) -> Norm {
        if self.fused { Norm::Rms } else { config.architecture.norm.kind }
    }

    /// The c in c·tanh(logit / c), where logits go through that.
    pub fn softcap(&self) -> Option<f32> {
        self.softcap
    }

    /// The biases of some rows of the head, if it has any.
    pub fn bias(&self, rows: Range<usize>) -> Option<&[f32]> {
        self.head_bias.as_ref().map(|bias| &bias[rows])
    }

    /// The logits of each slice of the rows from `first` on of the head, `table`, in turn: `each(first entry, [tokens,
    /// entries])`.
    ///
    /// # Errors
    /// Those of `each`; [`crate::Error::OutOfMemory`].
    pub fn logits(
        &self,
        gpu: &Gpu,
        input: &Matrix,
        first: usize,
        table: &Matrix,
        mut each: impl FnMut(usize, &Matrix) -> Result<()>,
    ) -> Result<()> {
        let bias = self.bias(first..first + table.rows());
        logit_slices(gpu, [(input, table, bias)], [self.softcap], |start, [logits]| each(first + start, logits))
    }
}

/// A next token for each token of a batch, drawn from what the model predicts, a slice of the vocabulary after the
/// other.
pub struct Draw {
    options: SampleOptions,
    best: Matrix,
    ids: Matrix,
}

impl Draw {
    /// For `tokens` tokens, the first of which is number `first` of all that are drawn for by this seed.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn new(gpu: &Gpu, seed: u32, first: usize, tokens: usize) -> Result<Self> {
        let (best, ids) = gpu.sample_state(tokens)?;
        Ok(Self { options: SampleOptions { seed, step: 0, first_row: first, temperature: 1.0 }, best, ids })
    }

    /// Accumulates the logits of the entries from `first` on.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if they are of another number of tokens.
    pub fn add(&self, gpu: &Gpu, first: usize, logits: &Matrix) -> Result<()> {
        gpu.sample(logits, first, &self.options, &self.best, &self.ids)
    }

    /// What was drawn, once all of the vocabulary is in.
    ///
    /// # Errors
    /// Whatever the readback reports.
    pub fn ids(&self, gpu: &Gpu) -> Result<Vec<u32>> {
        gpu.download_u32(&self.ids)
    }
}

/// What a model's head gets `[tokens, width]`, rows of it, and a bias for each of these or none.
pub type HeadPart<'a> = (&'a Matrix, &'a Matrix, Option<&'a [f32]>);

/// The logits of N models for each slice of the same rows of their heads, with the soft-caps that they have:
/// `each(first row of the slice, [tokens, entries] of each model)`.
///
/// # Errors
/// Those of `each`; [`crate::Error::OutOfMemory`].
pub fn logit_slices<const N: usize>(
    gpu: &Gpu,
    models: [HeadPart; N],
    softcaps: [Option<f32>; N],
    mut each: impl FnMut(usize, [&Matrix; N]) -> Result<()>,
) -> Result<()> {
    let tokens = models.iter().map(|(input, ..)| input.rows()).max().unwrap_or(0);
    let rows = models.iter().map(|(_, table, _)| table.rows()).max().unwrap_or(0);
    let entries = logit_entries(gpu.max_binding_size(), tokens);
    for start in (0..rows).step_by(entries) {
        let mut logits = Vec::with_capacity(N);
        for ((input, table, bias), softcap) in models.into_iter().zip(softcaps) {
            let slice = table.view(start..table.rows().min(start + entries))?;
            let bias = bias.map(|bias| gpu.upload(&bias[start..start + slice.rows()], 1, slice.rows())).transpose()?;
            let of = gpu.unfilled(input.rows(), slice.rows())?;
            gpu.linear_layer(input, &slice, bias.as_ref(), &of, 0, false)?;
            if let Some(limit) = softcap {
                gpu.bound_in_place(Bound::SoftCap, &of, limit)?;
            }
            logits.push(of);
        }
        each(start, std::array::from_fn(|model| &logits[model]))?;
    }
    Ok(())
}

/// The most vocabulary entries of one slice.
pub const LOGIT_SLICE: usize = 8192;

/// Entries of a slice of the vocabulary, such that the logits of `tokens` tokens fit a binding, in steps that views can
/// start at.
pub fn logit_entries(max_binding_size: u64, tokens: usize) -> usize {
    ((max_binding_size / (4 * tokens.max(1) as u64)) as usize / 64 * 64).clamp(64, LOGIT_SLICE)
}

/// Embeddings, final norm and head on the GPU.
pub struct Ends {
    embedding: Table,
    positions: Option<(Table, usize)>,
    head: Option<Table>,
    readout: Readout,
    width: usize,
}

impl Ends {
    /// Uploads the ends in their stored types; a tied head is not uploaded twice.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn upload(gpu: &Gpu, config: &Config, ends: &HostEnds) -> Result<Self> {
        let offset = match config.architecture.attention.position {
            Position::Learned { offset, .. } => offset,
            Position::Rope { .. } | Position::None => 0,
        };
        // A tied head is the embedding, unless one of them has a factor or a norm of its own.
        let shared = config.tie_word_embeddings && ends.embedding.is(&ends.head);
        Ok(Self {
            embedding: Table::upload(gpu, &ends.embedding)?,
            positions: ends
                .positions
                .as_ref()
                .map(|table| Ok::<_, crate::Error>((Table::upload(gpu, table)?, offset)))
                .transpose()?,
            head: if shared { None } else { Some(Table::upload(gpu, &ends.head)?) },
            readout: Readout::upload(gpu, ends)?,
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
    pub fn logits(
        &self,
        gpu: &Gpu,
        config: &Config,
        x: &Matrix,
        mut each: impl FnMut(usize, &Matrix) -> Result<()>,
    ) -> Result<()> {
        let input = self.readout.norm(gpu, config, x)?;
        let parts = &self.head.as_ref().unwrap_or(&self.embedding).parts;
        parts.iter().try_for_each(|(first, table)| self.readout.logits(gpu, &input, *first, table, &mut each))
    }
}
