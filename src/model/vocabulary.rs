//! A model seen with some of its tokens: rows of the embedding and the head that stay, under new numbers. The logits of
//! these tokens are what they were.

use std::path::Path;

use serde_json::{Map, Value};
use tempfile::TempDir;

use super::{Model, config::Config, storage::Rows, tensors::Names, weights::WeightStore};
use crate::error::{Error, Result};

/// The tokens that stay, and what is made of the others.
#[derive(Debug)]
pub struct Narrowing {
    /// The tokens that stay, by the ids that they had, ascending: their new ids are their places.
    pub kept: Vec<u32>,
    /// For each id of the whole vocabulary, the new ids that its text is written with; none where it has no text.
    pub written_as: Vec<Vec<u32>>,
    /// Where config.json and the tokenizer of these tokens lie, as long as the model is there.
    pub directory: TempDir,
}

/// What a narrowed model remembers of the whole one.
pub(super) struct Whole {
    narrowing: Narrowing,
    parameters: u64,
}

impl Model {
    /// This model with fewer tokens; `fields` are those of its config.json, with their new numbers.
    ///
    /// # Errors
    /// As [`Config::from_fields`]; [`Error::BadTensor`].
    pub fn narrowed(self, narrowing: Narrowing, fields: Map<String, Value>) -> Result<Self> {
        let parameters = self.config().parameters();
        let config = Config::from_fields(fields, &narrowing.directory.path().join("config.json"))?;
        let rows = narrowing.kept.iter().map(|&id| id as usize).take_while(|&id| id < self.config().vocab_size);
        let vocabulary = Some(StoredVocabulary { rows: rows.collect(), whole: self.config().vocab_size });
        let store = WeightStore { config, vocabulary, ..self.store };
        // All shapes fit, and so they do now.
        store.ends()?;
        Ok(Self { store, whole: Some(Whole { narrowing, parameters }) })
    }

    /// How many parameters the checkpoint has, those of tokens included that are left out.
    pub fn stored_parameters(&self) -> u64 {
        self.whole.as_ref().map_or_else(|| self.config().parameters(), |whole| whole.parameters)
    }

    /// How many tokens there are in all, where some are left out.
    pub fn whole_vocabulary(&self) -> Option<usize> {
        self.store.vocabulary.as_ref().map(|vocabulary| vocabulary.whole)
    }

    /// Where config.json and the tokenizer lie; of a narrowed model, those that were made for it.
    pub fn directory(&self) -> &Path {
        match &self.whole {
            Some(whole) => whole.narrowing.directory.path(),
            None => self.store.checkpoint.directory(),
        }
    }

    /// Rows of token ids of the whole vocabulary, written with the tokens that there are; `source` is for messages.
    ///
    /// # Errors
    /// [`Error::BadTokens`] for ids that no text belongs to.
    pub fn renumbered(&self, rows: Vec<Vec<u32>>, source: &str) -> Result<Vec<Vec<u32>>> {
        let Some(Whole { narrowing, .. }) = &self.whole else { return Ok(rows) };
        let written = |id: &u32| {
            let ids = narrowing.written_as.get(*id as usize).filter(|ids| !ids.is_empty());
            ids.ok_or_else(|| {
                Error::BadTokens(format!(
                    "{source}: the token {id} is not in the vocabulary that is left, nor has it a text"
                ))
            })
        };
        let row = |row: &Vec<u32>| {
            let mut ids = Vec::with_capacity(row.len());
            for id in row {
                ids.extend(written(id)?);
            }
            // As long as it was: more may be more than there are positions for.
            ids.truncate(row.len());
            Ok(ids)
        };
        rows.iter().map(row).collect()
    }
}

/// Which rows of the embedding and the head there are.
#[derive(Debug)]
pub struct StoredVocabulary {
    rows: Vec<usize>,
    /// Rows in the files.
    whole: usize,
}

impl WeightStore {
    /// The stored shape of a tensor of this shape, and which rows of it are meant.
    pub(super) fn stored_shape(&self, name: &str, shape: &[usize]) -> (Vec<usize>, Rows) {
        let names = Names::of(&self.config);
        let of_tokens = || [names.embedding(), names.head(), names.head_bias()].iter().any(|of| of == name);
        match &self.vocabulary {
            Some(StoredVocabulary { rows, whole }) if of_tokens() => {
                ([&[*whole], &shape[1..]].concat(), Rows::Listed(rows.clone()))
            }
            _ => (shape.to_vec(), Rows::Run(0..if shape.len() == 2 { shape[0] } else { 1 })),
        }
    }
}
