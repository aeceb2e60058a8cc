//! Checkpoints of random weights in the shape of a real model: what a run costs depends on shapes alone, so this
//! measures it without a download.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use rand_distr::{Distribution, StandardNormal};
use serde_json::{Value, json};

use crate::{
    checkpoint::{Dtype, OutputDirectory, RECORD, SHARD_BYTES, TensorPlan, TensorWriter},
    error::{Error, Result},
    model::{Config, element_type},
    progress::Progress,
};

/// The standard deviation that transformers initialises these models with: signals stay far from the limits of f16 in
/// all of them.
const DEVIATION: f32 = 0.02;
/// Values in memory at a time.
const PIECE: usize = 1 << 20;

/// The random tokens beside the weights.
#[derive(Debug, Clone, Copy)]
pub struct TokenRows {
    pub rows: usize,
    /// Tokens of a row.
    pub len: usize,
}

/// Writes `config.json`, the weights in `dtype`, a token file `tokens.json` and the list of these files into
/// `directory`, a piece at a time: memory does not grow with the model. Matrices and biases are normal with a deviation
/// of 0.02, the weights of norms are 1; the same seed gives the same files.
///
/// # Errors
/// [`Error::Usage`] if `dtype` is not f16, bf16 or f32; [`Error::Write`], [`Error::Interrupted`].
pub fn write(
    directory: &OutputDirectory,
    config: &Config,
    dtype: Dtype,
    tokens: TokenRows,
    seed: u64,
    progress: &dyn Progress,
) -> Result<()> {
    let Some(element) = element_type(dtype) else {
        return Err(Error::Usage(format!("weights of type {dtype:?} cannot be written")));
    };
    let mut fields = config.raw.clone();
    fields.insert("torch_dtype".into(), element.name().into());
    directory.write("config.json", format!("{:#}\n", Value::Object(fields)).as_bytes())?;

    let specs = config.tensors();
    let plan: Vec<TensorPlan> =
        specs.iter().map(|spec| TensorPlan { name: spec.name.clone(), shape: spec.shape.clone(), dtype }).collect();
    let mut writer = TensorWriter::new(directory, &plan, SHARD_BYTES)?;
    progress.begin("write", specs.iter().map(|spec| spec.parameters().div_ceil(PIECE as u64)).sum());
    for (index, spec) in specs.iter().enumerate() {
        let mut random = generator(seed, index as u64);
        let is_norm = spec.shape.len() == 1 && spec.name.ends_with(".weight");
        let mut missing = spec.parameters() as usize;
        while missing > 0 {
            let count = missing.min(PIECE);
            let values: Vec<f32> = match is_norm {
                true => vec![1.0; count],
                false => {
                    (&StandardNormal).sample_iter(&mut random).map(|value: f32| DEVIATION * value).take(count).collect()
                }
            };
            writer.write(&spec.name, &element.encode(&values))?;
            missing -= count;
            progress.advance(1)?;
        }
    }
    writer.finish()?;

    let mut random = generator(seed, specs.len() as u64);
    let rows: Vec<Vec<u64>> = (0..tokens.rows)
        .map(|_| (0..tokens.len).map(|_| random.next_u64() % config.vocab_size as u64).collect())
        .collect();
    directory.write("tokens.json", json!({ "input_ids": rows }).to_string().as_bytes())?;
    let record = json!({ "tool_version": env!("CARGO_PKG_VERSION"), "output": directory.files_with_record()? });
    directory.write(RECORD, format!("{record}\n").as_bytes())
}

/// Each tensor has a stream of its own, so that no tensor depends on those before it.
fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    random
}
