//! `slicegpt-gpu export`

use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::json;

use super::{arguments::ForceArgs, print::print_json, progress::Bars};
use crate::{
    checkpoint::GgufType,
    error::Result,
    progress::Progress,
    run::{ExportRequest, SCHEMA_VERSION, beside, export, find_model, name_of, open_model, writes_beside},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: an ordinary checkpoint, such as `run --basis shared` writes; a directory, a .safetensors file with
    /// its config.json beside it, a .gguf file, or a name on the Hugging Face Hub
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
    /// Experts in blocks of 32 floats of four bits, which hold those of gpt-oss as they are; other matrices in f16
    #[value(name = "mxfp4")]
    Mxfp4,
}

impl From<Kind> for GgufType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::F16 => Self::F16,
            Kind::Q8_0 => Self::Q8_0,
            Kind::F32 => Self::F32,
            Kind::Mxfp4 => Self::Mxfp4,
        }
    }
}

/// `gguf`, or `gguf:` and a type.
pub fn parse_export(text: &str) -> std::result::Result<GgufType, String> {
    let kind = match text.split_once(':') {
        None if text == "gguf" => return Ok(GgufType::default()),
        Some(("gguf", kind)) => Kind::from_str(kind, false).ok(),
        _ => None,
    };
    kind.map(GgufType::from).ok_or_else(|| "expected gguf, gguf:f16, gguf:q8_0, gguf:f32 or gguf:mxfp4".into())
}

impl Args {
    pub fn execute(&self) -> Result<()> {
        let log = Bars::log();
        let Format::Gguf = self.format;
        let path = find_model(&self.model, &log)?;
        let model = open_model(&path, &log)?;
        let output =
            self.output.clone().unwrap_or_else(|| beside(&path, &format!("-{}.gguf", GgufType::from(self.kind))));
        let target = writes_beside(&model, self.force.force).file("--output", &output)?;
        let (tokenizer_pre, no_tokenizer) = (self.tokenizer_pre.clone(), self.no_tokenizer);
        let request = ExportRequest { kind: self.kind.into(), tokenizer_pre, no_tokenizer };
        let exported = export(&model, &name_of(&path), &request, target, &log)?;
        if self.json {
            print_json(&json!({
                "schema_version": SCHEMA_VERSION,
                "model": self.model.display().to_string(),
                "output": exported.output,
                "tensors": exported.tensors,
                "tensor_bytes": exported.tensor_bytes,
                "bytes": exported.bytes,
                "warnings": log.warnings(),
                "seconds": log.seconds(),
            }))
        } else {
            log.say(&format!("{}: {} tensors, {} bytes", exported.output, exported.tensors, exported.bytes));
            Ok(())
        }
    }
}
