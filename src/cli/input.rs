//! What the subcommands read: models, and files of text or tokens.

use std::path::Path;

use tokenizers::Tokenizer;

use super::progress::Bars;
use crate::{
    data::{self, Tokens, load_tokenizer},
    error::{Error, Result},
    model::Model,
};

/// Opens a model, and says which of its tensors are not understood.
pub fn open_model(path: &Path, progress: &Bars) -> Result<Model> {
    let model = Model::open(path)?;
    let unexpected = model.store.unexpected();
    if let Some(first) = unexpected.first() {
        progress.warn(&format!(
            "{} tensors of {} are not part of its architecture and are left out, {first:?} first",
            unexpected.len(),
            path.display()
        ));
    }
    Ok(model)
}

/// Checks that a model can take these tokens; `source` is for messages.
pub fn check_tokens(model: &Model, rows: &[Vec<u32>], source: &str) -> Result<()> {
    data::check(rows, model.config().vocab_size, model.config().learned_positions(), source)
}

/// The tokenizer of a model, read when it is first needed.
pub struct Tokenizers<'a> {
    directory: &'a Path,
    loaded: std::cell::OnceCell<Tokenizer>,
}

impl<'a> Tokenizers<'a> {
    /// Of the model in this directory.
    pub fn new(directory: &'a Path) -> Self {
        Self { directory, loaded: std::cell::OnceCell::new() }
    }

    pub fn get(&self) -> Result<&Tokenizer> {
        if self.loaded.get().is_none() {
            let _ = self.loaded.set(load_tokenizer(self.directory)?);
        }
        Ok(self.loaded.get_or_init(|| unreachable!("set above")))
    }
}

/// Refuses what can be read only once: a run reads its inputs to plan, to work, and to tell whether it is resumed with the same.
pub fn check_readable_again(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() && !found.is_dir() => {
            Err(Error::bad_file(path, "a pipe or a device, which can be read only once, and a run reads it more often; write it to a file first"))
        }
        _ => Ok(()),
    }
}

/// The sequences of a file to evaluate on: rows of a token file as they stand, windows of a text.
pub fn evaluation_rows(path: &Path, model: &Model, tokenizers: &Tokenizers, seqlen: usize, progress: &Bars) -> Result<Vec<Vec<u32>>> {
    let rows = match Tokens::read(path, model.directory(), progress)? {
        Tokens::Rows(rows) => rows,
        Tokens::Text(text) => text.windows(tokenizers.get()?, seqlen.min(model.config().max_position_embeddings))?,
    };
    check_tokens(model, &rows, &path.display().to_string())?;
    Ok(rows)
}
