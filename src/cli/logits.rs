//! `slicegpt-gpu logits`

use std::{fs, path::PathBuf};

use super::{
    DeviceArgs,
    input::{check_tokens, open_model},
    progress::Bars,
};
use crate::{
    checkpoint::{Dtype, TensorFile, TensorPlan},
    data::read_token_file,
    error::{Error, Result},
    eval,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: a .safetensors file with its config.json beside it, or a directory
    model: PathBuf,
    /// Token ids, {"input_ids": [[...], ...]} or a row on each line
    #[arg(long, value_name = "TOKENS.json")]
    tokens: PathBuf,
    /// The file to write: a f32 tensor `logits.I` [tokens, vocab_size] for row I
    #[arg(short, long, value_name = "FILE.safetensors")]
    output: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    pub fn execute(&self) -> Result<()> {
        let progress = Bars::new();
        let model = open_model(&self.model, &progress)?;
        let inputs = model.store.checkpoint.files().chain([self.tokens.as_path()]);
        if let Ok(existing) = fs::canonicalize(&self.output) {
            if existing.is_dir() {
                return Err(Error::Usage(format!("--output {} is a directory; give the name of a file", self.output.display())));
            }
            if let Some(lost) =
                inputs.chain([&*model.directory().join("config.json")]).find(|path| fs::canonicalize(path).is_ok_and(|path| path == existing))
            {
                return Err(Error::Usage(format!("--output {} is the input {}, which would be overwritten", self.output.display(), lost.display())));
            }
        }
        let rows = read_token_file(&self.tokens, &progress)?;
        check_tokens(&model, &rows, &self.tokens.display().to_string())?;
        let gpu = self.device.open(&progress)?;
        let vocab = model.config().vocab_size;
        let name = |row: usize| format!("logits.{row}");
        let plan = rows.iter().enumerate().map(|(row, ids)| TensorPlan { name: name(row), shape: vec![ids.len(), vocab], dtype: Dtype::F32 });
        let mut file = TensorFile::create(self.output.clone(), plan.collect())?;
        eval::logits(&gpu, &model, &rows, &progress, |row, values| file.write(&name(row), bytemuck::cast_slice(&values)))?;
        file.finish()?;
        progress.end();
        self.device.close(&gpu, &progress)
    }
}
