//! `slicegpt-gpu eval`

use std::path::PathBuf;

use serde_json::json;

use super::{
    arguments::{DeviceArgs, ForceArgs, MACHINE},
    print::{print, print_json},
    progress::Bars,
};
use crate::{
    data::read_token_file,
    error::{Error, Result},
    eval::{EvalMemory, perplexity_within},
    progress::Progress,
    run::{
        SCHEMA_VERSION, Tokenizers, check_tokens, evaluation_rows,
        memory::{host_available, parse_bytes},
        open_model, writes_beside,
    },
};

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["text", "tokens"])))]
pub struct Args {
    /// The model: a .safetensors file with its config.json beside it, or a directory
    model: PathBuf,
    /// Text to evaluate on: plain text; JSON or JSON lines of strings or of objects with text, content, messages,
    /// conversations (by the model's chat template), instruction and output, or prompt and completion; also compressed,
    /// as .gz or .zst
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Token ids to evaluate on, {"input_ids": [[...], ...]} or a row on each line: each row is one window
    #[arg(long, value_name = "TOKENS.json")]
    tokens: Option<PathBuf>,
    /// Tokens of a window of text, at most the model's own maximum
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    seqlen: u32,
    /// The most memory to take on the GPU, such as 3GiB [default: no limit but its own; what the host has free where
    /// the GPU shares that]
    #[arg(long, help_heading = MACHINE, value_name = "SIZE", value_parser = parse_bytes)]
    max_gpu_memory: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    force: ForceArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    pub fn execute(&self) -> Result<()> {
        let (progress, device) = (Bars::log(), self.device.request());
        let model = open_model(&self.model, &progress)?;
        let tokenizers = Tokenizers::new(&model, &progress);
        let file = self.text.as_ref().or(self.tokens.as_ref()).unwrap_or(&self.model);
        let mut writes = writes_beside(&model, self.force.force);
        writes.reads(file);
        device.plan_trace(&mut writes, &progress)?;
        let rows = match &self.tokens {
            Some(tokens) => read_token_file(tokens, &progress)?,
            None => evaluation_rows(file, &model, &tokenizers, self.seqlen as usize)?,
        };
        check_tokens(&model, &rows, &file.display().to_string())?;
        let mut gpu = device.open(&progress)?;
        let most = self.max_gpu_memory.or_else(|| host_available().filter(|_| gpu.adapter().shares_host_memory()));
        let (mut memory, planned) = EvalMemory::fit(model.config(), &rows, model.store.element_size(), most)?;
        gpu.set_planned_memory(Some(planned));
        device.limit(&mut gpu, most);
        let result = loop {
            match (perplexity_within(&gpu, &model, &rows, &memory, "perplexity", &progress), memory.halved()) {
                (Err(error @ Error::OutOfMemory(_)), Some(smaller)) => {
                    progress.end();
                    progress.note(&format!("{error}; trying again with less at a time"));
                    memory = smaller;
                }
                (result, _) => break result?,
            }
        };
        let seconds = progress.seconds();
        let shown = if self.json {
            print_json(&json!({
                "schema_version": SCHEMA_VERSION,
                "model": self.model.display().to_string(),
                "text": file.display().to_string(),
                "perplexity": result.perplexity,
                "sequences": result.sequences,
                "tokens": result.tokens,
                "parameters": model.config().parameters(),
                "adapter": gpu.adapter(),
                "precision": gpu.precision(),
                "seconds": seconds,
                "peak_gpu_bytes": gpu.memory().peak,
                "warnings": progress.warnings(),
            }))
        } else {
            print(&format!(
                "perplexity {:.4} on {} ({} sequences, {} tokens)\n",
                result.perplexity,
                file.display(),
                result.sequences,
                result.tokens
            ))
        };
        shown.and(device.close(&gpu, &progress))
    }
}
