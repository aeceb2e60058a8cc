//! Which rows of the table the files of llama.cpp's architectures are read as: those that are written so.

use std::path::Path;

use crate::{
    checkpoint::{GgufEntry, GgufHeader},
    error::{Error, Result, shortened},
    model::{
        architecture::{ARCHITECTURES, Architecture, Bias, BlockKind, Role, Weight},
        forms::{Gguf, OtherWidths},
    },
};

use super::{
    keys::Keys,
    names::{norms, stem},
    vocabulary::STRIPPING,
};

/// How files of one of llama.cpp's architectures become a checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// The row that they are read as; several for one architecture differ in their biases or their norms.
    pub row: &'static Architecture,
    pub form: Gguf,
    /// Whether what each layer has for sizes may be a list.
    pub by_layer: bool,
}

/// In the order in which they are tried.
fn sources() -> impl Iterator<Item = Source> {
    ARCHITECTURES.iter().flat_map(|row| {
        let other = |form: Gguf| match form.other_widths {
            OtherWidths::As(other) => Some(*other),
            OtherWidths::Alike | OtherWidths::Never => None,
        };
        let forms = [row.forms.gguf, row.forms.gguf.and_then(other)];
        forms.into_iter().flatten().flat_map(move |form| {
            let source = move |(architecture, by_layer)| Source { architecture, row, form, by_layer };
            [Some((form.architecture, false)), form.by_layer.map(|name| (name, true))].into_iter().flatten().map(source)
        })
    })
}

impl Source {
    /// Whether special tokens take the spaces after them, as they do in these models, whether or not in llama.cpp,
    /// which goes by the name.
    pub fn strips_after_special(&self, name: Option<&str>) -> bool {
        let name = name.unwrap_or_default().to_ascii_lowercase();
        self.architecture == "phi3" || STRIPPING.iter().any(|part| name.contains(part))
    }

    /// How a file is read, and the values of the fields that say which of the row's weights have a bias.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`]; [`Error::BadFile`] if no row has the biases of the file.
    pub fn of(header: &GgufHeader, keys: &Keys, path: &Path) -> Result<(Self, Vec<(&'static str, bool)>)> {
        let name = keys.architecture();
        if !sources().any(|source| source.architecture == name) {
            let mut known: Vec<_> = Vec::new();
            sources().for_each(|source| match source.architecture {
                one if known.contains(&one) => {}
                one => known.push(one),
            });
            return Err(Error::UnknownArchitecture {
                model_type: shortened(name),
                path: path.into(),
                known: known.join(", "),
            });
        }
        // Some architectures are mixtures in some files.
        let mixture = holder(header, Role::Router, "weight").is_some();
        let heads = [keys.sizes("attention.head_count")?, keys.sizes("attention.head_count_kv")?];
        for source in sources().filter(|source| source.architecture == name) {
            let row = source.row;
            let fits = row.mixture.is_some() == mixture
                && (row.when.is_empty() || (has_norms(header, row) && has_heads(row, &heads)));
            if let Some(biases) = biases(header, row).filter(|_| fits) {
                return Ok((source, biases));
            }
        }
        if mixture {
            return Err(Error::bad_file(
                path,
                format!("a mixture of experts, which models of the architecture {name} are not here"),
            ));
        }
        let there = Role::ALL.into_iter().filter(|role| *role != Role::Mixed && has_bias(header, *role));
        let there: Vec<_> = there.map(stem).collect();
        let list = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        Err(Error::bad_file(
            path,
            format!("no model of the architecture {name} has biases like these in its layers: {list}"),
        ))
    }
}

impl Architecture {
    /// The `model_type` as which GGUF files of its models are read, if they can be.
    pub fn read_from_gguf_as(&self) -> Option<&'static str> {
        let form = self.forms.gguf?;
        let alike = |source: &Source| {
            source.architecture == form.architecture && source.row.mixture.is_some() == self.mixture.is_some()
        };
        sources().find(alike).map(|source| source.row.model_type)
    }
}

/// Whether the first layer has those of the norms before blocks that the row has, and no others: what tells rows of one
/// architecture apart.
fn has_norms(header: &GgufHeader, row: &Architecture) -> bool {
    let mut own: Vec<(&str, &str)> = Vec::new();
    for before in row.blocks.iter().filter_map(|block| norms(row, block)[0]) {
        if own.iter().all(|(ours, _)| *ours != before.0) {
            own.push(before);
        }
    }
    let there = |theirs: &str| header.tensors.contains_key(&format!("blk.0.{theirs}.weight"));
    ["attn_norm", "attn_norm_2", "ffn_norm"]
        .into_iter()
        .all(|theirs| own.iter().any(|(_, own)| *own == theirs) == there(theirs))
}

/// Whether the row can have these numbers of heads and of keys.
fn has_heads(row: &Architecture, [heads, kv_heads]: &[Vec<u64>; 2]) -> bool {
    let shared = row.fields.multi_query.is_some() && kv_heads == &[1];
    row.fields.num_key_value_heads.is_some() || shared || kv_heads.is_empty() || heads == kv_heads
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
