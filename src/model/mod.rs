//! Transformers as data: the architecture table, configs, weights, and the forward pass of one layer.

pub mod architecture;
mod batch;
mod config;
mod ends;
mod generation;
mod gguf;
mod host;
mod layer;
mod remote_code;
mod rope;
mod shapes;
mod slicing;
mod stock;
mod tokenizer_class;
mod weights;

use std::path::Path;

pub use batch::{BATCH_TOKENS, Batch, BatchSize, plan_batches, row_bytes, signal_bytes, staging_bytes};
pub use config::{Config, SLICED_PREFIX};
pub use ends::{Ends, PART_BYTES, Readout, logit_entries, parts};
pub use generation::{GenerationConfig, StopTokens};
pub use gguf::{GgufExport, GgufTokenizer, Vocabulary};
pub use host::{HostEnds, HostLayer, HostLinear, HostMatrix, HostNorm};
pub use layer::{Half, LayerContext, LayerWeights, Linear, NormWeights, halves};
pub use remote_code::RemoteCode;
pub use rope::{Rope, Scaling};
pub use shapes::{SHAPES, Shape};
pub use slicing::{LayerWidths, Slicing};
pub use stock::without_mean;
pub use weights::{Names, TensorSpec, WeightStore};

use crate::{
    checkpoint::Checkpoint,
    error::{Error, Result},
    gpu::{Gpu, Matrix},
};

/// A checkpoint with its config, dense or sliced: weights stay in the mapped file until a layer is asked for.
pub struct Model {
    pub store: WeightStore,
}

impl Model {
    /// Opens a `.safetensors` file with its config.json beside it, or a directory.
    ///
    /// # Errors
    /// Whatever is wrong with either: see [`Checkpoint::open`], [`Config::load`] and [`WeightStore::new`].
    pub fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::bad_file(path, "no such model"));
        }
        let checkpoint = Checkpoint::open(path)?;
        let config = Config::load(&checkpoint.directory().join("config.json"))?;
        Ok(Self { store: WeightStore::new(config, checkpoint)? })
    }

    pub fn config(&self) -> &Config {
        &self.store.config
    }

    /// Where config.json and the tokenizer lie.
    pub fn directory(&self) -> &Path {
        self.store.checkpoint.directory()
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

    /// The table of rotary angles for sequences of up to `positions` tokens; `None` for learned positions.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn rope_table(&self, gpu: &Gpu, positions: usize) -> Result<Option<Matrix>> {
        let Some(rope) = &self.config().rope else {
            return Ok(None);
        };
        let positions = positions.max(1);
        // Told before the host works out a table that no adapter could hold.
        let bytes = 8 * positions as u64 * rope.inverse_frequencies.len() as u64;
        if bytes > gpu.max_binding_size() {
            return Err(Error::OutOfMemory(format!(
                "the rotary angles of {positions} positions take {bytes} bytes, more than one binding of {}; lower the number of tokens",
                gpu.adapter().name
            )));
        }
        Ok(Some(gpu.upload(&rope.table(positions), positions, 2 * rope.inverse_frequencies.len())?))
    }
}
