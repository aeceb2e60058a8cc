//! How well a model predicts a text, and how its predictions agree with those of another.

use std::path::Path;

use super::{
    device::DeviceRequest,
    inputs::{Tokenizers, check_tokens, evaluation_rows},
    log::Log,
    memory::host_available,
    outcome::{AgreementReport, PerplexityReport},
};
use crate::{
    data::read_token_file,
    error::{Error, Result},
    eval::{EvalMemory, Perplexity, agreement, check_vocabularies, perplexity_within},
    gpu::Gpu,
    model::Model,
    progress::Progress,
};

/// What models are measured on.
#[derive(Debug, Clone, Copy)]
pub enum MeasuredOn<'a> {
    /// A file of text, cut into windows of up to this many tokens.
    Text(&'a Path, usize),
    /// A file of token ids, of which each row is a window.
    Tokens(&'a Path),
}

impl<'a> MeasuredOn<'a> {
    /// The file.
    pub fn file(self) -> &'a Path {
        match self {
            Self::Text(path, _) | Self::Tokens(path) => path,
        }
    }
}

/// A model, the one that it is compared with, if any, and the windows that they are measured on.
pub struct Evaluation<'a> {
    model: &'a Model,
    dense: Option<&'a Model>,
    tokenizers: Tokenizers<'a>,
    rows: Vec<Vec<u32>>,
    file: String,
    log: &'a Log,
}

/// What was measured of a model.
#[derive(Debug, Clone)]
pub struct Evaluated {
    pub perplexity: f64,
    pub sequences: usize,
    /// Tokens that were predicted.
    pub tokens: usize,
    /// The other model's perplexity, and how the predictions agree.
    pub against: Option<(f64, AgreementReport)>,
}

impl<'a> Evaluation<'a> {
    /// Reads what the models are measured on.
    ///
    /// # Errors
    /// [`Error::Usage`] if the vocabularies differ; [`Error::BadTokens`] if one cannot take the tokens; as
    /// [`read_token_file`] and [`evaluation_rows`].
    pub fn read(model: &'a Model, dense: Option<&'a Model>, on: MeasuredOn, log: &'a Log) -> Result<Self> {
        let tokenizers = Tokenizers::new(model, log);
        let mut longest = usize::MAX;
        if let Some(dense) = dense {
            check_vocabularies(model.config(), dense.config())?;
            longest = dense.config().max_position_embeddings;
        }
        let rows = match on {
            MeasuredOn::Tokens(path) => read_token_file(path, log)?,
            MeasuredOn::Text(path, seqlen) => evaluation_rows(path, model, &tokenizers, seqlen.min(longest))?,
        };
        let file = on.file().display().to_string();
        for model in std::iter::once(model).chain(dense) {
            check_tokens(model, &rows, &file)?;
        }
        Ok(Self { model, dense, tokenizers, rows, file, log })
    }

    /// Measures within `most` bytes of the GPU's memory, or what the host has free where the GPU shares that; with
    /// less and less at a time where the GPU has no room after all.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; as [`perplexity_within`] and [`agreement`].
    pub fn measure(&self, gpu: &mut Gpu, device: &DeviceRequest, most: Option<u64>) -> Result<Evaluated> {
        let most = most.or_else(|| host_available().filter(|_| gpu.adapter().shares_host_memory()));
        let (mut memory, planned) = self.fit(most)?;
        gpu.set_planned_memory(Some(planned));
        device.limit(gpu, most);
        loop {
            match (self.measure_within(gpu, &memory), memory.halved()) {
                (Err(error @ Error::OutOfMemory(_)), Some(smaller)) => {
                    self.log.end();
                    self.log.note(&format!("{error}; trying again with less at a time"));
                    memory = smaller;
                }
                (result, _) => return result,
            }
        }
    }

    fn measure_within(&self, gpu: &Gpu, memory: &EvalMemory) -> Result<Evaluated> {
        let Some(dense) = self.dense else {
            let found = perplexity_within(gpu, self.model, &self.rows, memory, "perplexity", self.log)?;
            let Perplexity { perplexity, sequences, tokens } = found;
            return Ok(Evaluated { perplexity, sequences, tokens, against: None });
        };
        let found = agreement(gpu, self.model, dense, &self.rows, memory, "agreement", self.log)?;
        let bytes = self.tokenizers.predicted_bytes(&self.rows);
        let PerplexityReport { original, sliced, sequences, tokens, agreement, .. } =
            PerplexityReport::compared(&found, &self.file, bytes);
        let against = agreement.map(|agreement| (original, agreement));
        Ok(Evaluated { perplexity: sliced, sequences, tokens, against })
    }

    /// How to keep within the memory, and what that takes: of two models, either gets half of it.
    fn fit(&self, most: Option<u64>) -> Result<(EvalMemory, u64)> {
        let of = |model: &Model, most| EvalMemory::fit(model.config(), &self.rows, model.store.element_size(), most);
        let Some(dense) = self.dense else { return of(self.model, most) };
        let half = most.map(|most| most / 2);
        let ((own, taken), (other, beside)) = (of(self.model, half)?, of(dense, half)?);
        let smaller = EvalMemory {
            batch_tokens: own.batch_tokens.min(other.batch_tokens),
            residual_bytes: own.residual_bytes.min(other.residual_bytes),
            part_bytes: own.part_bytes.min(other.part_bytes),
        };
        Ok((smaller, taken + beside))
    }
}
