//! A decoder as a whole: opened from what a person names, and taken up to the GPU a part at a time.

use std::path::Path;

use tempfile::TempDir;

use super::{
    config::Config,
    ends::Ends,
    fields,
    forms::{is_gguf, open_gguf},
    layer::LayerWeights,
    rope::Rope,
    weights::WeightStore,
};
use crate::{
    checkpoint::{Checkpoint, adapter},
    error::{Error, Result},
    gpu::{Gpu, Matrix},
};

/// A checkpoint with its config, dense or sliced: weights stay in the mapped file until a layer is asked for.
pub struct Model {
    pub store: WeightStore,
    /// Where only some of its tokens are seen.
    pub(super) whole: Option<Whole>,
}

impl Model {
    /// Opens a `.safetensors` file with its config.json beside it, a directory, or a GGUF file, also one of
    /// several that a model is split into.
    ///
    /// # Errors
    /// Whatever is wrong with either: see [`Checkpoint::open`], [`Config::load`] and [`WeightStore::new`].
    pub fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            let one_word = path.components().count() == 1;
            let hub = if one_word { "; one on the Hugging Face Hub is called ORGANISATION/NAME" } else { "" };
            return Err(Error::bad_file(path, format!("no such model{hub}")));
        }
        if is_gguf(path) {
            let (config, checkpoint) = open_gguf(path)?;
            return Ok(Self { store: WeightStore::new(config, checkpoint)?, whole: None });
        }
        let named = fields::read(&path.join("config.json"))
            .ok()
            .and_then(|raw| Some(raw.get("transformers_weights")?.as_str()?.to_owned()));
        let checkpoint = Checkpoint::open_named(path, named.as_deref());
        let directory = checkpoint.as_ref().map_or(path, Checkpoint::directory).to_owned();
        let merged = directory.join("adapter_config.json").exists().then(|| {
            let what = format!("beside the model, it has what transformers would add to it: {}", adapter(&directory));
            Error::bad_file(&directory, what)
        });
        // All that is wrong, at once: whoever has to download one file again should know of the other.
        let (checkpoint, config) = match (checkpoint, Self::read_config(&directory)) {
            (Ok(checkpoint), Ok(config)) if merged.is_none() => (checkpoint, config),
            (checkpoint, config) => {
                // Without weights that can be read, what lies beside them says what is there instead.
                let config = config.err().filter(|_| checkpoint.is_ok() || directory.join("config.json").exists());
                let merged = merged.filter(|_| checkpoint.is_ok());
                let wrong = [checkpoint.err(), merged, config].into_iter().flatten().collect();
                return Err(Error::all(wrong).unwrap_or_else(|| Error::internal("a model without a reason")));
            }
        };
        Ok(Self { store: WeightStore::new(config, checkpoint)?, whole: None })
    }

    fn read_config(directory: &Path) -> Result<Config> {
        let config = directory.join("config.json");
        if !config.exists() {
            let found = if directory.join("params.json").exists() {
                "; params.json is of another program's format"
            } else {
                ""
            };
            return Err(Error::bad_file(
                &config,
                format!("missing: expected the config.json of the model beside its weights{found}"),
            ));
        }
        Config::load(&config)
    }

    pub fn config(&self) -> &Config {
        &self.store.config
    }

    /// Uploads the weights of one layer in their stored types.
    ///
    /// # Errors
    /// [`Error::BadTensor`], [`Error::OutOfMemory`].
    pub fn layer(&self, gpu: &Gpu, layer: usize) -> Result<LayerWeights> {
        LayerWeights::upload(gpu, &self.store.layer(layer)?)
    }

    /// Uploads embeddings, final norm and head.
    ///
    /// # Errors
    /// [`Error::BadTensor`], [`Error::OutOfMemory`].
    pub fn ends(&self, gpu: &Gpu) -> Result<Ends> {
        Ends::upload(gpu, self.config(), &self.store.ends()?)
    }

    /// The tables of rotary angles for sequences of up to `positions` tokens; none for learned positions.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn rope_tables(&self, gpu: &Gpu, positions: usize) -> Result<Vec<Matrix>> {
        let positions = positions.max(1);
        if let Some(most) = self.config().position_limit().filter(|&most| positions > most) {
            return Err(Error::BadTokens(format!(
                "a sequence of {positions} tokens: dynamic rotary scaling beyond the {most} of max_position_embeddings \
                 is not implemented"
            )));
        }
        let table = |rope: &Rope| {
            let pairs = rope.inverse_frequencies.len();
            // Before the host computes a table that no adapter could hold.
            let rows = rope.rows(positions);
            let bytes = 8 * rows as u64 * pairs as u64;
            if bytes > gpu.max_binding_size() {
                return Err(Error::OutOfMemory(format!(
                    "the rotary angles of {positions} positions take {bytes} bytes, more than one binding of {}; \
                     lower the number of tokens",
                    gpu.adapter().name
                )));
            }
            gpu.upload(&rope.table(positions), rows, 2 * pairs)
        };
        self.config().ropes.iter().map(table).collect()
    }
}

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
    pub narrowing: Narrowing,
    pub parameters: u64,
}
