//! What the subcommands read: models, and files of text or tokens.

use std::path::Path;

use tokenizers::Tokenizer;

use super::progress::Bars;
use crate::{
    checkpoint::Writes,
    data::{self, Tokens, load_tokenizer},
    error::Result,
    model::Model,
};

/// Opens a model, and says what is unusual about its files and tensors.
pub fn open_model(path: &Path, progress: &Bars) -> Result<Model> {
    let model = Model::open(path)?;
    model.store.notes().for_each(|note| progress.warn(note));
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

/// What an invocation that reads this model may write.
pub fn writes_beside(model: &Model, force: bool) -> Writes {
    let mut writes = Writes::new(force);
    writes.reads_model(model.directory(), model.store.checkpoint.files());
    writes
}

/// Checks that a model can take these tokens; `source` is for messages.
pub fn check_tokens(model: &Model, rows: &[Vec<u32>], source: &str) -> Result<()> {
    data::check(rows, model.config().vocab_size, model.config().position_limit(), source)
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

/// The sequences of a file to evaluate on: rows of a token file as they stand, windows of a text.
pub fn evaluation_rows(path: &Path, model: &Model, tokenizers: &Tokenizers, seqlen: usize) -> Result<Vec<Vec<u32>>> {
    let rows = match Tokens::read(path)? {
        Tokens::Rows(rows) => rows,
        Tokens::Text(text) => text.windows(tokenizers.get()?, seqlen.min(model.config().max_position_embeddings))?,
    };
    check_tokens(model, &rows, &path.display().to_string())?;
    Ok(rows)
}
