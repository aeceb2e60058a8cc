//! Which rows of the table the files of llama.cpp's architectures are read as.

use std::path::Path;

use crate::{
    checkpoint::{GgufEntry, GgufHeader},
    error::{Error, Result},
    model::architecture::{ARCHITECTURES, Architecture, Bias, BlockKind, Role, Weight},
};

use super::{keys::Keys, metadata::stem};

/// How files of one of llama.cpp's architectures become a checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// The row that they are read as; several for one architecture differ in their biases.
    pub model_type: &'static str,
    /// Whether neighbouring coordinates of a head turn together there, where the row has those half a head apart.
    pub interleaved: bool,
    /// Whether what each layer has for sizes may be a list.
    pub by_layer: bool,
}

const fn source(architecture: &'static str, model_type: &'static str, interleaved: bool) -> Source {
    Source { architecture, model_type, interleaved, by_layer: false }
}

/// In the order in which they are tried.
const SOURCES: &[Source] = &[
    source("llama", "llama", true),
    source("llama", "mixtral", true),
    // llama.cpp has no bias for the output there: what has none for it, but has some, was a qwen2.
    source("llama", "qwen2", true),
    Source { by_layer: true, ..source("deci", "llama", true) },
    Source { by_layer: true, ..source("deci", "qwen2", true) },
    source("qwen2", "qwen2", false),
    source("qwen3", "qwen3", false),
    source("qwen2moe", "qwen2_moe", false),
    source("qwen3moe", "qwen3_moe", false),
    source("smollm3", "smollm3", true),
    source("granite", "granite", true),
    source("starcoder2", "starcoder2", false),
    source("phi2", "phi", false),
    source("phi3", "phi3", false),
    source("gemma", "gemma", false),
    source("gemma2", "gemma2", false),
    source("gemma3", "gemma3_text", false),
    source("olmo2", "olmo2", false),
    source("gpt2", "gpt2", false),
    source("gptneox", "gpt_neox", false),
];

impl Source {
    /// The row.
    pub fn row(&self) -> Option<&'static Architecture> {
        ARCHITECTURES.iter().find(|row| row.model_type == self.model_type)
    }

    /// Whether special tokens take the spaces after them, as llama.cpp has it for these models alone.
    pub fn strips_after_special(&self) -> bool {
        self.architecture == "phi3"
    }

    /// How a file is read, and the values of the fields that say which of the row's weights have a bias.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`]; [`Error::BadFile`] if no row has the biases of the file.
    pub fn of(header: &GgufHeader, keys: &Keys, path: &Path) -> Result<(Self, Vec<(&'static str, bool)>)> {
        let name = keys.architecture();
        let mut sources = SOURCES.iter().filter(|source| source.architecture == name).peekable();
        if sources.peek().is_none() {
            let mut known: Vec<_> = SOURCES.iter().map(|source| source.architecture).collect();
            known.dedup();
            return Err(Error::UnknownArchitecture {
                model_type: name.into(),
                path: path.into(),
                known: known.join(", "),
            });
        }
        // Some architectures are mixtures in some files.
        let mixture = holder(header, Role::Router, "weight").is_some();
        let found = sources.find_map(|source| {
            let row = source.row().filter(|row| row.mixture.is_some() == mixture)?;
            Some((*source, biases(header, row)?))
        });
        found.ok_or_else(|| {
            if mixture {
                return Error::bad_file(
                    path,
                    format!("a mixture of experts, which models of the architecture {name} are not here"),
                );
            }
            let there = Role::ALL.into_iter().filter(|role| *role != Role::Mixed && has_bias(header, *role));
            let there = there.map(stem);
            let there: Vec<_> = there.collect();
            let list = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            Error::bad_file(
                path,
                format!("no model of the architecture {name} has biases like these in its layers: {list}"),
            )
        })
    }
}

impl Architecture {
    /// The `model_type` as which GGUF files of its models are read, if they can be.
    pub fn read_from_gguf_as(&self) -> Option<&'static str> {
        let own = |source: &&Source| source.model_type == self.model_type;
        let alike = |source: &&Source| self.forms.gguf.is_some_and(|form| form.architecture == source.architecture);
        let found = SOURCES.iter().find(own).or_else(|| SOURCES.iter().find(alike));
        found.map(|source| source.model_type)
    }
}

/// The tensor of the first layer that holds a weight for this role.
fn holder(header: &GgufHeader, role: Role, end: &str) -> Option<GgufEntry> {
    let entry = |stem: &str| header.tensors.get(&format!("blk.0.{stem}.{end}")).cloned();
    entry(stem(role)).or_else(|| match role {
        Role::Query | Role::Key | Role::Value => entry("attn_qkv"),
        Role::Gate => entry(stem(Role::Up)),
        _ => None,
    })
}

fn has_bias(header: &GgufHeader, role: Role) -> bool {
    holder(header, role, "bias").is_some()
}

/// The values of the row's fields by which its weights have the biases of the file; `None` if they cannot have them.
fn biases(header: &GgufHeader, row: &Architecture) -> Option<Vec<(&'static str, bool)>> {
    let mut fields: Vec<(&'static str, bool)> = Vec::new();
    let held = |weight: &Weight| weight.holds.iter().map(|role| has_bias(header, *role)).collect::<Vec<_>>();
    for weight in row.weights() {
        let there = held(weight);
        let biased = *there.first()?;
        if there.iter().any(|other| *other != biased) {
            return None;
        }
        match weight.bias {
            Bias::Never if biased => return None,
            Bias::Always if !biased => return None,
            Bias::Never | Bias::Always => {}
            Bias::Field(name, _) => match fields.iter().find(|(known, _)| *known == name) {
                Some((_, known)) if *known != biased => return None,
                Some(_) => {}
                None => fields.push((name, biased)),
            },
        }
    }
    Some(fields)
}

/// Whether the MLP of a row has a gate.
pub fn is_gated(row: &Architecture) -> bool {
    row.blocks.iter().any(|block| block.kind == BlockKind::Mlp { gated: true })
}
