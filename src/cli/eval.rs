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
    eval::{EvalMemory, Perplexity, agreement, check_vocabularies, perplexity_within},
    model::Model,
    progress::Progress,
    run::{
        AgreementReport, PerplexityReport, SCHEMA_VERSION, Tokenizers, check_tokens, evaluation_rows, find_model,
        memory::{host_available, parse_bytes},
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
        let tokenizers = Tokenizers::new(&model, &progress);
        let file = self.text.as_ref().or(self.tokens.as_ref()).unwrap_or(&self.model);
        let mut writes = writes_beside(&model, self.force.force);
        writes.reads(file);
        let mut seqlen = self.seqlen as usize;
        if let Some(dense) = &dense {
            check_vocabularies(model.config(), dense.config())?;
            writes.reads_model(dense.directory(), dense.store.checkpoint.files());
            seqlen = seqlen.min(dense.config().max_position_embeddings);
        }
        device.plan_trace(&mut writes, &progress)?;
        let rows = match &self.tokens {
            Some(tokens) => read_token_file(tokens, &progress)?,
            None => evaluation_rows(file, &model, &tokenizers, seqlen)?,
        };
        for model in std::iter::once(&model).chain(&dense) {
            check_tokens(model, &rows, &file.display().to_string())?;
        }
        let mut gpu = device.open(&progress)?;
        let most = self.max_gpu_memory.or_else(|| host_available().filter(|_| gpu.adapter().shares_host_memory()));
        let (mut memory, planned) = fit(&model, dense.as_ref(), &rows, most)?;
        gpu.set_planned_memory(Some(planned));
        device.limit(&mut gpu, most);
        let result = loop {
            let measured = match &dense {
                None => perplexity_within(&gpu, &model, &rows, &memory, "perplexity", &progress).map(Measured::from),
                Some(dense) => agreement(&gpu, &model, dense, &rows, &memory, "agreement", &progress).map(|found| {
                    let text = file.display().to_string();
                    Measured::from(PerplexityReport::compared(&found, &text, tokenizers.predicted_bytes(&rows)))
                }),
            };
            match (measured, memory.halved()) {
                (Err(error @ Error::OutOfMemory(_)), Some(smaller)) => {
                    progress.end();
                    progress.note(&format!("{error}; trying again with less at a time"));
                    memory = smaller;
                }
                (result, _) => break result?,
            }
        };
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
    fn said(&self, result: &Measured, file: &str) -> String {
        let Measured { perplexity, sequences, tokens, .. } = result;
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

/// What was measured of the model, and against another.
struct Measured {
    perplexity: f64,
    sequences: usize,
    tokens: usize,
    /// The other's perplexity, and how the predictions agree.
    against: Option<(f64, AgreementReport)>,
}

impl From<Perplexity> for Measured {
    fn from(Perplexity { perplexity, sequences, tokens }: Perplexity) -> Self {
        Self { perplexity, sequences, tokens, against: None }
    }
}

impl From<PerplexityReport> for Measured {
    fn from(found: PerplexityReport) -> Self {
        let PerplexityReport { original, sliced, sequences, tokens, agreement, .. } = found;
        Self { perplexity: sliced, sequences, tokens, against: agreement.map(|agreement| (original, agreement)) }
    }
}

/// How to keep within the memory, and what that takes: of two models, either gets half of it.
fn fit(model: &Model, dense: Option<&Model>, rows: &[Vec<u32>], most: Option<u64>) -> Result<(EvalMemory, u64)> {
    let of = |model: &Model, most| EvalMemory::fit(model.config(), rows, model.store.element_size(), most);
    let Some(dense) = dense else { return of(model, most) };
    let half = most.map(|most| most / 2);
    let ((own, taken), (other, beside)) = (of(model, half)?, of(dense, half)?);
    let smaller = EvalMemory {
        batch_tokens: own.batch_tokens.min(other.batch_tokens),
        residual_bytes: own.residual_bytes.min(other.residual_bytes),
        part_bytes: own.part_bytes.min(other.part_bytes),
    };
    Ok((smaller, taken + beside))
}
