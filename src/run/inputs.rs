//! What is read: models, and files of text or tokens.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use crate::{
    checkpoint::{GgufSplit, Writes},
    data::{self, BuiltTokenizer, ChatTemplate, Lessons, TokenizerFiles, Tokens},
    error::{Error, Result, shortened},
    hub,
    model::{GenerationConfig, Model, StopTokens, is_gguf},
    progress::Progress,
};

/// Where the model is that a command line names: a path, or the name of a repository on the Hugging Face Hub, which is
/// downloaded if it has to be.
///
/// # Errors
/// As [`hub::find`].
pub fn find_model(model: &Path, progress: &dyn Progress) -> Result<PathBuf> {
    hub::find(model, &hub::Settings::from_environment(), progress)
}

/// Opens a model, and says what is unusual about its files and tensors.
///
/// # Errors
/// As [`Model::open`].
pub fn open_model(path: &Path, progress: &dyn Progress) -> Result<Model> {
    let model = Model::open(path)?;
    model.store.notes().for_each(|note| progress.note(note));
    let unexpected = model.store.unexpected();
    if let Some(first) = unexpected.first() {
        progress.note(&format!(
            "{} tensors of {} are not part of its architecture and are left out, {:?} first",
            unexpected.len(),
            path.display(),
            shortened(first)
        ));
    }
    Ok(model)
}

/// What an invocation that reads this model may write.
pub fn writes_beside(model: &Model, force: bool) -> Writes {
    let mut writes = Writes::new(force);
    writes.reads_model(model.store.checkpoint.directory(), model.store.checkpoint.files());
    writes
}

/// Protects another model, which is read as well, by the path that names it: its directory, or a file.
pub fn protect_model(writes: &mut Writes, path: &Path) {
    writes.reads(path);
    let above = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match path.is_dir() {
        true => writes.reads_model(path, std::iter::empty()),
        // Whoever opens it reads the rest of its files.
        false if is_gguf(path) => GgufSplit::paths(path).iter().flatten().for_each(|path| writes.reads(path)),
        false => writes.reads_model(above, std::iter::once(path)),
    }
}

/// Checks that a model can take these tokens; `source` is for messages.
///
/// # Errors
/// [`Error::BadTokens`].
pub fn check_tokens(model: &Model, rows: &[Vec<u32>], source: &str) -> Result<()> {
    data::check(rows, model.config().vocab_size, model.config().position_limit(), source)
}

/// Builds the tokenizer of a model as transformers does, and says what is odd about it.
///
/// # Errors
/// [`Error::BadFile`], [`Error::Read`].
pub fn open_tokenizer(model: &Model, progress: &dyn Progress) -> Result<BuiltTokenizer> {
    build_tokenizer(model, &TokenizerFiles::read(model.directory())?, progress)
}

/// Builds the tokenizer of a model from its files.
///
/// # Errors
/// [`Error::BadFile`].
pub fn build_tokenizer(model: &Model, files: &TokenizerFiles, progress: &dyn Progress) -> Result<BuiltTokenizer> {
    let class = model.config().tokenizer_class(files.named_class(), files.of_bytes());
    let built = files.build(&class)?;
    built.notes.iter().for_each(|note| progress.note(note));
    Ok(built)
}

/// The tokenizer of a model, read when it is first needed.
pub struct Tokenizers<'a> {
    model: &'a Model,
    progress: &'a dyn Progress,
    loaded: std::cell::OnceCell<BuiltTokenizer>,
}

impl<'a> Tokenizers<'a> {
    /// Of this model.
    pub fn new(model: &'a Model, progress: &'a dyn Progress) -> Self {
        Self { model, progress, loaded: std::cell::OnceCell::new() }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// As [`open_tokenizer`].
    pub fn get(&self) -> Result<&Tokenizer> {
        Ok(&self.built()?.tokenizer)
    }

    fn built(&self) -> Result<&BuiltTokenizer> {
        if self.loaded.get().is_none() {
            let _ = self.loaded.set(open_tokenizer(self.model, self.progress)?);
        }
        self.loaded.get().ok_or_else(|| Error::internal("a tokenizer that was read is gone"))
    }

    /// Reads a file of text or token ids; conversations by the model's chat template.
    ///
    /// # Errors
    /// [`Error::BadFile`], [`Error::Read`], [`Error::BadTokens`] for what is no text or tokens; as [`open_tokenizer`].
    pub fn read(&self, path: &Path) -> Result<Tokens> {
        self.renumbered(Tokens::read(path, &|| self.template(), self.progress)?, path)
    }

    /// Reads a file likewise, but leaves rows with questions and answers by themselves; `marked` asks where the answers
    /// of conversations are.
    ///
    /// # Errors
    /// As [`Tokenizers::read`], and [`Lessons::read`].
    pub fn lessons(&self, path: &Path, marked: bool) -> Result<Lessons> {
        match Lessons::read(path, &|| self.template(), marked, self.progress)? {
            Lessons::Tokens(tokens) => Ok(Lessons::Tokens(self.renumbered(tokens, path)?)),
            examples => Ok(examples),
        }
    }

    fn template(&self) -> Result<ChatTemplate> {
        ChatTemplate::find_for(self.model.shown(), self.model.directory(), self.built()?)
    }

    fn renumbered(&self, tokens: Tokens, path: &Path) -> Result<Tokens> {
        match tokens {
            Tokens::Rows(rows) => Ok(Tokens::Rows(self.model.renumbered(rows, &path.display().to_string())?)),
            text => Ok(text),
        }
    }

    /// The token that ends a text; `None` if nothing names one.
    ///
    /// # Errors
    /// As [`open_tokenizer`].
    pub fn end_token(&self) -> Result<Option<u32>> {
        let stops = stop_tokens(self.model, &self.model.generation_config()?, self.built()?);
        stops.notes.iter().for_each(|note| self.progress.note(note));
        Ok(stops.eos.first().copied())
    }

    /// Bytes of the text that the predicted tokens of some sequences stand for, all but the first of each; `None`
    /// without a tokenizer.
    pub fn predicted_bytes(&self, rows: &[Vec<u32>]) -> Option<usize> {
        let tokenizer = self.get().ok()?;
        let text = |ids: &[u32]| tokenizer.decode(ids, false).ok().map(|text| text.len());
        rows.iter().map(|row| Some(text(row)?.saturating_sub(text(row.get(..1)?)?))).sum()
    }

    /// Sequences written with the tokens of another tokenizer; those that come to less than two are left out.
    ///
    /// # Errors
    /// As [`Tokenizers::get`]; [`Error::BadTokens`] if a sequence is no text for either.
    pub fn translated(&self, rows: &[Vec<u32>], to: &Self) -> Result<Vec<Vec<u32>>> {
        let (from, to) = (self.get()?, to.get()?);
        let translated =
            |row: &Vec<u32>| data::fenced(|| Ok(to.encode(from.decode(row, false)?, false)?.get_ids().to_vec()));
        let rows = rows.iter().map(translated).collect::<std::result::Result<Vec<_>, _>>().map_err(Error::BadTokens)?;
        Ok(rows.into_iter().filter(|row| row.len() > 1).collect())
    }

    /// The token that sampling starts from. The tokenizer is only asked where the configs name no BOS token.
    ///
    /// # Errors
    /// [`Error::BadTokens`] if nothing names one; as [`open_tokenizer`].
    pub fn start_token(&self) -> Result<u32> {
        let generation = self.model.generation_config()?;
        let mut stops = StopTokens::new(self.model.config(), &generation, None, None);
        if stops.bos.is_none() && TokenizerFiles::read(self.model.directory())?.any() {
            stops = stop_tokens(self.model, &generation, self.built()?);
        }
        stops.notes.iter().for_each(|note| self.progress.note(note));
        stops.start.ok_or_else(|| {
            Error::BadTokens(
                "neither generation_config.json nor config.json nor the tokenizer names a BOS or EOS token within the \
                 vocabulary to start sampling from; give --calibration FILE"
                    .into(),
            )
        })
    }
}

/// Where texts of a model begin and end, by all the files that say so.
pub fn stop_tokens(model: &Model, generation: &GenerationConfig, tokenizer: &BuiltTokenizer) -> StopTokens {
    StopTokens::new(model.config(), generation, tokenizer.role("bos"), tokenizer.role("eos"))
}

/// Refuses what can be read only once: a run reads its inputs to plan, to work, and to tell whether it is resumed with
/// the same.
///
/// # Errors
/// [`Error::BadFile`].
pub fn check_readable_again(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() && !found.is_dir() => Err(Error::bad_file(
            path,
            "a pipe or a device, which can be read only once, and a run reads it more often; write it to a file first",
        )),
        _ => Ok(()),
    }
}

/// The sequences of a file to evaluate on: rows of a token file as they stand, windows of a text.
///
/// # Errors
/// As [`Tokenizers::read`]; [`Error::BadTokens`] if the model cannot take them.
pub fn evaluation_rows(path: &Path, model: &Model, tokenizers: &Tokenizers, seqlen: usize) -> Result<Vec<Vec<u32>>> {
    let rows = match tokenizers.read(path)? {
        Tokens::Rows(rows) => rows,
        Tokens::Text(text) => text.windows(tokenizers.get()?, seqlen.min(model.config().max_position_embeddings))?,
    };
    check_tokens(model, &rows, &path.display().to_string())?;
    Ok(rows)
}
