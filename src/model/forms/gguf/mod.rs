//! A dense checkpoint as a GGUF file: the names, the order of rows, the metadata and the vocabulary that llama.cpp
//! expects; and a GGUF file as a model. What is written here (`metadata`, `tensors`, `vocabulary`, `pieces`) has its
//! inverse beside it (`read_metadata`, `read_tensors`, `read_vocabulary`); both go by the rows of the table and by
//! `names`.

mod delta;
mod frequencies;
mod keys;
mod metadata;
mod names;
mod pieces;
mod read;
mod read_metadata;
mod read_rotary;
mod read_tensors;
mod read_vocabulary;
mod source;
mod target;
mod tensors;
mod tokenizer_json;
mod vocabulary;

use metadata::Metadata;
pub use read::{is_gguf, open as open_gguf};
use tensors::Entry;
pub use vocabulary::{GgufTokenizer, Vocabulary};

use super::Gguf;
use crate::{
    checkpoint::{FileTarget, GgufFile, GgufTensor, GgufType, GgufValue},
    error::{Error, Result},
    model::{Config, Model},
    progress::Progress,
};

/// A checkpoint that can be written as GGUF, and how.
pub struct GgufExport<'a> {
    model: &'a Model,
    target: Gguf,
    entries: Vec<Entry>,
    metadata: Metadata,
    /// What the user should know about the file.
    pub notes: Vec<String>,
}

impl<'a> GgufExport<'a> {
    /// Whether models of this config can be written so, with matrices in `kind`.
    ///
    /// # Errors
    /// [`Error::Usage`] for those that llama.cpp cannot compute, with the reason, and for MXFP4 without experts.
    pub fn check(config: &Config, kind: GgufType) -> Result<()> {
        target::target(config)?;
        match kind {
            GgufType::Mxfp4 if !config.is_mixture() => Err(Error::Usage(
                "mxfp4 is a type of experts, of which this model has none; take f16, q8_0 or f32".into(),
            )),
            _ => Ok(()),
        }
    }

    /// Plans the file: matrices in `kind`, everything else in f32; `name` is what the model is called in it.
    ///
    /// # Errors
    /// As [`GgufExport::check`]; [`Error::BadFile`] for a tokenizer.json that is damaged or that GGUF has no form for;
    /// [`Error::Read`].
    pub fn plan(model: &'a Model, name: &str, kind: GgufType, vocabulary: Vocabulary) -> Result<Self> {
        Self::check(model.config(), kind)?;
        let target = target::target(model.config())?;
        let mut notes = Vec::new();
        let entries = tensors::entries(model.config(), target, kind);
        let (vocabulary, name) = vocabulary::vocabulary(model.config(), name, vocabulary, &mut notes)?;
        let mut metadata = metadata::metadata(model.config(), target, &name, kind, &mut notes);
        metadata.extend(vocabulary);
        let narrow = entries.iter().filter(|entry| entry.is_too_narrow(kind)).count();
        if narrow > 0 {
            notes.push(format!(
                "{narrow} tensors stay in f16: their rows are no multiple of 32 values, which {kind} needs"
            ));
        }
        Ok(Self { model, target, entries, metadata, notes })
    }

    /// What the file begins with.
    pub fn metadata(&self) -> &[(String, GgufValue)] {
        &self.metadata
    }

    /// The tensors of the file, in order.
    pub fn tensors(&self) -> impl Iterator<Item = &GgufTensor> {
        self.entries.iter().map(|entry| &entry.tensor)
    }

    /// Writes the file, a few rows at a time; returns how many bytes it has.
    ///
    /// # Errors
    /// [`Error::BadTensor`] if a value is NaN or infinite; [`Error::Usage`] if one is too large for the type;
    /// [`Error::Read`], [`Error::Write`]; whatever `progress` returns.
    pub fn write(&self, target: FileTarget, progress: &dyn Progress) -> Result<u64> {
        progress.begin("writing tensors", self.entries.len() as u64);
        let mut file = GgufFile::create(target, &self.metadata, self.tensors().cloned().collect())?;
        let mut layer = None;
        for entry in &self.entries {
            let number = entry.layer();
            if layer.as_ref().map(|(number, _)| *number) != number {
                layer = number.map(|number| Ok::<_, Error>((number, self.model.store.layer(number)?))).transpose()?;
            }
            let weights = layer.as_ref().map(|(_, weights)| weights);
            entry.each_rows(&self.model.store, self.target, weights, |rows| file.write(&entry.tensor.name, rows))?;
            progress.advance(1)?;
        }
        file.finish()
    }
}
