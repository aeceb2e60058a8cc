//! A checkpoint as one file for llama.cpp and what is built on it.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{
    inputs::{build_tokenizer, stop_tokens},
    log::Log,
};
use crate::{
    checkpoint::{FileTarget, GgufTensor, GgufType},
    data::{TokenizerFiles, chat_templates},
    error::Result,
    model::{GgufExport, GgufTokenizer, Model, Vocabulary},
    progress::Progress,
};

/// How to export a model.
#[derive(Debug, Clone, Default)]
pub struct ExportRequest {
    /// Of matrices; norms and biases are f32 always.
    pub kind: GgufType,
    /// llama.cpp's name for how the tokenizer cuts text into words; found out from tokenizer.json if `None`.
    pub tokenizer_pre: Option<String>,
    /// Whether the vocabulary is left out.
    pub no_tokenizer: bool,
}

/// What a file holds.
#[derive(Debug, Clone, Serialize)]
pub struct Exported {
    pub output: String,
    pub tensors: usize,
    pub tensor_bytes: u64,
    /// Of the whole file.
    pub bytes: u64,
}

/// The name of the exported file of a model that is written to `output`.
pub fn exported_beside(output: &Path, kind: GgufType) -> PathBuf {
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!("{name}-{kind}.gguf"))
}

/// Writes a model as GGUF, which is called `name` in it.
///
/// # Errors
/// As [`GgufExport::plan`] and [`GgufExport::write`]; those of the tokenizer's files.
pub fn export(model: &Model, name: &str, request: &ExportRequest, target: FileTarget, log: &Log) -> Result<Exported> {
    let output = target.path().display().to_string();
    let tokenizer = if request.no_tokenizer { None } else { tokenizer(model, log)? };
    let pre = request.tokenizer_pre.as_deref();
    let vocabulary = tokenizer.as_ref().map_or(Vocabulary::None, |tokenizer| Vocabulary::Tokenizer { pre, tokenizer });
    let export = GgufExport::plan(model, name, request.kind, vocabulary)?;
    export.notes.iter().for_each(|note| log.note(note));
    let bytes = export.write(target, log)?;
    log.end();
    let tensor_bytes = export.tensors().map(GgufTensor::byte_len).sum();
    Ok(Exported { output, tensors: export.tensors().count(), tensor_bytes, bytes })
}

/// The tokenizer of a model, for a GGUF file; `None` if it has none.
fn tokenizer(model: &Model, log: &Log) -> Result<Option<GgufTokenizer>> {
    let directory = model.directory();
    let files = TokenizerFiles::read(directory)?;
    if files.is_empty() {
        log.note("no tokenizer beside the model: the file has no vocabulary, takes token ids and gives them");
        return Ok(None);
    }
    let built = build_tokenizer(model, &files, log)?;
    let stops = stop_tokens(model, &model.generation_config()?, &built);
    stops.notes.iter().for_each(|note| log.note(note));
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
