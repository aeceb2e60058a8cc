//! `slicegpt-gpu logits`

use std::path::PathBuf;

use super::{
    arguments::{DeviceArgs, ForceArgs},
    progress::Bars,
};
use crate::{
    checkpoint::{Dtype, TensorFile, TensorPlan},
    data::read_token_file,
    error::Result,
    eval,
    progress::Progress,
    run::{check_tokens, find_model, open_model, writes_beside},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: a directory, a .safetensors file with its config.json beside it, a
    /// .gguf file, or a name on the Hugging Face Hub such as org/name
    model: PathBuf,
    /// Token ids, {"input_ids": [[...], ...]} or a row on each line
    #[arg(long, value_name = "TOKENS.json")]
    tokens: PathBuf,
    /// The file to write: a f32 tensor `logits.I` [tokens, vocab_size] for row I
    #[arg(short, long, value_name = "FILE.safetensors")]
    output: PathBuf,
    #[command(flatten)]
    force: ForceArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    pub fn execute(&self) -> Result<()> {
        let (progress, device) = (Bars::log(), self.device.request());
        let model = open_model(&find_model(&self.model, &progress)?, &progress)?;
        let mut writes = writes_beside(&model, self.force.force);
        writes.reads(&self.tokens);
        let output = writes.file("--output", &self.output)?;
        device.plan_trace(&mut writes, &progress)?;
        let rows = read_token_file(&self.tokens, &progress)?;
        check_tokens(&model, &rows, &self.tokens.display().to_string())?;
        let gpu = device.open(&progress)?;
        let vocab = model.config().vocab_size;
        let name = |row: usize| format!("logits.{row}");
        let plan = rows.iter().enumerate().map(|(row, ids)| TensorPlan {
            name: name(row),
            shape: vec![ids.len(), vocab],
            dtype: Dtype::F32,
        });
        let mut file = TensorFile::create(output, plan.collect())?;
        eval::logits(&gpu, &model, &rows, &progress, |row, values| {
            file.write(&name(row), bytemuck::cast_slice(&values))
        })?;
        file.finish()?;
        progress.end();
        device.close(&gpu, &progress)
    }
}
