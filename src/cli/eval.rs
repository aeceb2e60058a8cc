//! `slicegpt-gpu eval`

use std::path::PathBuf;

use serde_json::json;

use super::{
    arguments::{DeviceArgs, ForceArgs, MACHINE},
    print::{print, print_json},
    progress::Bars,
};
use crate::{
    error::{Error, Result},
    run::{
        AgreementReport, Evaluated, Evaluation, MeasuredOn, SCHEMA_VERSION, find_model, memory::parse_bytes,
        open_model, writes_beside,
    },
};

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["text", "tokens"])))]
pub struct Args {
    /// The model: a directory, a .safetensors file with its config.json beside it, a
    /// .gguf file, or a name on the Hugging Face Hub such as org/name
    model: PathBuf,
    /// Text to evaluate on: plain text; JSON or JSON lines of strings or of objects with text, content, messages,
    /// conversations (by the model's chat template), instruction and output, or prompt and completion; also compressed,
    /// as .gz or .zst
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Token ids to evaluate on, {"input_ids": [[...], ...]} or a row on each line: each row is one window
    #[arg(long, value_name = "TOKENS.json")]
    tokens: Option<PathBuf>,
    /// Compare the predictions with those of this model, such as the one that it was made of: KL divergence, how often
    /// both find the same token likeliest, bits per byte
    #[arg(long, value_name = "DENSE")]
    against: Option<PathBuf>,
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
        let model = open_model(&find_model(&self.model, &progress)?, &progress)?;
        let dense =
            self.against.as_ref().map(|path| open_model(&find_model(path, &progress)?, &progress)).transpose()?;
        let on = match (&self.text, &self.tokens) {
            (Some(text), _) => MeasuredOn::Text(text, self.seqlen as usize),
            (None, Some(tokens)) => MeasuredOn::Tokens(tokens),
            (None, None) => return Err(Error::Usage("nothing to measure on: give --text or --tokens".into())),
        };
        let file = on.file();
        let mut writes = writes_beside(&model, self.force.force);
        writes.reads(file);
        if let Some(dense) = &dense {
            writes.reads_model(dense.directory(), dense.store.checkpoint.files());
        }
        device.plan_trace(&mut writes, &progress)?;
        let evaluation = Evaluation::read(&model, dense.as_ref(), on, &progress)?;
        let mut gpu = device.open(&progress)?;
        let result = evaluation.measure(&mut gpu, &device, self.max_gpu_memory)?;
        let shown = if self.json {
            let mut fields = json!({
                "schema_version": SCHEMA_VERSION,
                "model": self.model.display().to_string(),
                "text": file.display().to_string(),
                "perplexity": result.perplexity,
                "sequences": result.sequences,
                "tokens": result.tokens,
                "parameters": model.config().parameters(),
                "adapter": gpu.adapter(),
                "precision": gpu.precision(),
                "seconds": progress.seconds(),
                "peak_gpu_bytes": gpu.memory().peak,
                "warnings": progress.warnings(),
            });
            if let (Some(path), Some((dense, found))) = (&self.against, &result.against) {
                fields["against"] = json!({
                    "model": path.display().to_string(),
                    "perplexity": dense,
                    "kl": found.kl,
                    "top_1": found.top_1,
                    "bits_per_byte": found.bits_per_byte.map(|[before, after]| json!({ "against": before, "model": after })),
                });
            }
            print_json(&fields)
        } else {
            print(&self.said(&result, &file.display().to_string()))
        };
        shown.and(device.close(&gpu, &progress))
    }

    /// What people read.
    fn said(&self, result: &Evaluated, file: &str) -> String {
        let Evaluated { perplexity, sequences, tokens, .. } = result;
        let mut text = format!("perplexity {perplexity:.4} on {file} ({sequences} sequences, {tokens} tokens)\n");
        if let (Some(path), Some((dense, found))) = (&self.against, &result.against) {
            let AgreementReport { kl, top_1, bits_per_byte } = found;
            let share = 100.0 * top_1;
            text += &format!(
                "against {}, of perplexity {dense:.4}: KL divergence {kl:.4}, same top token {share:.2} %\n",
                path.display()
            );
            if let Some([before, after]) = bits_per_byte {
                text += &format!("bits per byte {after:.4}, against {before:.4}\n");
            }
        }
        text
    }
}
