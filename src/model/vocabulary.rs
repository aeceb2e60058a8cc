//! A model seen with some of its tokens: rows of the embedding and the head that stay, under new numbers. The logits of
//! these tokens are what they were.

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    config::Config,
    decoder::{Model, Narrowing, Whole},
    stored_vocabulary::StoredVocabulary,
    weights::WeightStore,
};
use crate::error::{Error, Result};

impl Model {
    /// This model with fewer tokens; `fields` are those of its config.json, with their new numbers.
    ///
    /// # Errors
    /// As [`Config::from_fields`]; [`Error::BadTensor`].
    pub fn narrowed(self, narrowing: Narrowing, fields: Map<String, Value>) -> Result<Self> {
        let parameters = self.config().parameters();
        let config = Config::from_fields(fields, &narrowing.directory.path().join("config.json"))?;
        // Its tensors are called and stored as they were.
        let (part_of, quantization) = (self.config().part_of, self.config().quantization.clone());
        let config = Config { part_of, quantization, ..config };
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

    /// What to call it in messages: a directory, or a GGUF file, whose directory is made for the time being.
    pub fn shown(&self) -> &Path {
        self.store.checkpoint.shown()
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
