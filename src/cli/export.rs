//! `slicegpt-gpu export`

use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::json;

use super::{arguments::ForceArgs, print::print_json, progress::Bars};
use crate::{
    checkpoint::{GgufTensor, GgufType},
    data::{TokenizerFiles, chat_templates},
    error::Result,
    model::{GgufExport, GgufTokenizer, Model, Vocabulary},
    progress::Progress,
    run::{Log, SCHEMA_VERSION, beside, build_tokenizer, find_model, name_of, open_model, stop_tokens, writes_beside},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: an ordinary checkpoint, such as `run --basis shared` writes; a directory, a .safetensors file with its
    /// config.json beside it, a .gguf file, or a name on the Hugging Face Hub
    model: PathBuf,
    /// What to write
    #[arg(long, value_enum)]
    format: Format,
    /// Type of the written matrices; norms and biases are f32 always
    #[arg(long = "type", value_enum, default_value = "f16", value_name = "TYPE")]
    kind: Kind,
    /// The file to write [default: MODEL-TYPE.gguf beside the model]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// llama.cpp's name for how the tokenizer cuts text into words [default: found out from tokenizer.json]
    #[arg(long, value_name = "NAME")]
    tokenizer_pre: Option<String>,
    /// Leave the vocabulary out: the file takes token ids and gives them
    #[arg(long, conflicts_with = "tokenizer_pre")]
    no_tokenizer: bool,
    #[command(flatten)]
    force: ForceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// One file, for llama.cpp and what is built on it
    Gguf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    F16,
    #[value(name = "q8_0")]
    Q8_0,
    F32,
}

impl From<Kind> for GgufType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::F16 => Self::F16,
            Kind::Q8_0 => Self::Q8_0,
            Kind::F32 => Self::F32,
        }
    }
}

impl Args {
    pub fn execute(&self) -> Result<()> {
        let progress = Bars::log();
        let Format::Gguf = self.format;
        let path = find_model(&self.model, &progress)?;
        let model = open_model(&path, &progress)?;
        let output = self.output.clone().unwrap_or_else(|| {
            let kind = self.kind.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
            beside(&path, &format!("-{kind}.gguf"))
        });
        let target = writes_beside(&model, self.force.force).file("--output", &output)?;
        let tokenizer = if self.no_tokenizer { None } else { tokenizer(&model, &progress)? };
        let pre = self.tokenizer_pre.as_deref();
        let vocabulary =
            tokenizer.as_ref().map_or(Vocabulary::None, |tokenizer| Vocabulary::Tokenizer { pre, tokenizer });
        let export = GgufExport::plan(&model, &name_of(&path), self.kind.into(), vocabulary)?;
        export.notes.iter().for_each(|note| progress.note(note));
        let bytes = export.write(target, &progress)?;
        progress.end();
        if self.json {
            print_json(&json!({
                "schema_version": SCHEMA_VERSION,
                "model": self.model.display().to_string(),
                "output": output.display().to_string(),
                "tensors": export.tensors().count(),
                "tensor_bytes": export.tensors().map(GgufTensor::byte_len).sum::<u64>(),
                "bytes": bytes,
                "warnings": progress.warnings(),
                "seconds": progress.seconds(),
            }))
        } else {
            progress.say(&format!("{}: {} tensors, {bytes} bytes", output.display(), export.tensors().count()));
            Ok(())
        }
    }
}

/// The tokenizer of a model, for a GGUF file; `None` if it has none.
fn tokenizer(model: &Model, progress: &Log) -> Result<Option<GgufTokenizer>> {
    let directory = model.directory();
    let files = TokenizerFiles::read(directory)?;
    if files.is_empty() {
        progress.note("no tokenizer beside the model: the file has no vocabulary, takes token ids and gives them");
        return Ok(None);
    }
    let built = build_tokenizer(model, &files, progress)?;
    let stops = stop_tokens(model, &model.generation_config()?, &built);
    stops.notes.iter().for_each(|note| progress.note(note));
    let (json, path) = (files.json(&built)?, files.source());
    // llama.cpp's converter asks the tokenizer first, then the configs.
    let own = |role: &str| built.role(role).filter(|&id| (id as usize) < model.config().vocab_size);
    let mut eos = stops.eos;
    if let Some(first) = own("eos") {
        eos.retain(|&id| id != first);
        eos.insert(0, first);
    }
    let chat_templates = chat_templates(directory)?;
    let bos = own("bos").or(stops.bos);
    Ok(Some(GgufTokenizer { json, path, roles: built.roles, bos, eos, chat_templates }))
}
