//! The sizes that all layers of a model have in common, as its config.json gives them, each checked.

use serde_json::Value;

use super::{
    architecture::{Architecture, Fields},
    fields::{MAX_LAYERS, MAX_POSITIONS, MAX_WIDTH, Reader},
};
use crate::{
    error::{Error, Result},
    json::is_falsy,
    ops::MAX_HEAD_DIM,
};

/// The sizes that all layers have in common before any is pruned.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub hidden_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// The field `max_position_embeddings`, or its default.
    pub positions: usize,
    /// Whether the field gives no usable number. Where no angle depends on it, transformers takes 0 and less, too.
    pub positions_unstated: bool,
}

impl Sizes {
    /// Reads and checks them.
    ///
    /// # Errors
    /// [`Error::BadFile`], [`Error::UnsupportedField`].
    pub fn read(reader: &Reader, architecture: &Architecture) -> Result<Self> {
        let (fields, defaults) = (&architecture.fields, &architecture.defaults);
        let hidden_size =
            reader.size_or(reader.name("hidden_size", fields.hidden_size), MAX_WIDTH, defaults.hidden_size)?;
        if let Some(width) = reader.get("word_embed_proj_dim").filter(|&width| *width != hidden_size) {
            return Err(reader.unsupported(
                "word_embed_proj_dim",
                width,
                "a projection between the embedding and the first layer is not implemented",
            ));
        }
        let heads = reader.name("num_attention_heads", fields.num_attention_heads);
        let heads = reader.size_or(heads, MAX_WIDTH, defaults.num_attention_heads)?;
        let layers = reader.name("num_hidden_layers", fields.num_hidden_layers);
        let layers = reader.size_or(layers, MAX_LAYERS, defaults.num_hidden_layers)?;
        let kv_heads = kv_heads(reader, fields, heads)?;
        let head_dim = head_dim(reader, architecture, hidden_size, heads)?;
        let name = positions_name(reader, fields);
        let positions_unstated = reader.get(name).and_then(Value::as_i64).is_some_and(|most| most <= 0);
        let usual = defaults.max_position_embeddings;
        let positions = if positions_unstated { usual } else { reader.size_or(name, MAX_POSITIONS, usual)? };
        Ok(Self { hidden_size, layers, heads, kv_heads, head_dim, positions, positions_unstated })
    }
}

/// What the file calls the number of positions.
pub fn positions_name<'a>(reader: &Reader, fields: &'a Fields) -> &'a str {
    reader.name("max_position_embeddings", fields.max_position_embeddings)
}

/// Key-value heads, which query heads share in groups of one size.
fn kv_heads(reader: &Reader, fields: &Fields, heads: usize) -> Result<usize> {
    let kv_heads = match fields.num_key_value_heads {
        Some(name) if reader.fields.get(name).is_some_and(Value::is_null) => heads,
        Some(name) => reader.size_or(name, MAX_WIDTH, fields.default_key_value_heads.unwrap_or(heads))?,
        None => heads,
    };
    let kv_heads = match fields.multi_query {
        Some((name, default)) if reader.flag(name, default)? => 1,
        _ => kv_heads,
    };
    if !heads.is_multiple_of(kv_heads) {
        let reason = format!("{heads} attention heads cannot share {kv_heads} key-value heads");
        return Err(Error::bad_file(reader.path, reason));
    }
    Ok(kv_heads)
}

/// Coordinates of a head: the field where the class reads one, else those of the row, else an equal share of the width.
fn head_dim(reader: &Reader, architecture: &Architecture, hidden_size: usize, heads: usize) -> Result<usize> {
    let (fields, attention) = (&architecture.fields, &architecture.attention);
    let none = |value: &Value| attention.zero_head_dim && is_falsy(value);
    let explicit = reader.get("head_dim").filter(|value| attention.explicit_head_dim && !none(value));
    let head_dim = match (explicit, attention.head_dim) {
        (Some(_), _) => reader.size("head_dim", MAX_WIDTH)?,
        (None, Some(head_dim)) => head_dim,
        (None, None) if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        (None, None) => {
            let reason = format!("{heads} attention heads do not divide {} {hidden_size}", fields.hidden_size);
            return Err(Error::bad_file(reader.path, reason));
        }
    };
    if head_dim > MAX_HEAD_DIM {
        let reason = format!("attention heads of more than {MAX_HEAD_DIM} are not implemented");
        return Err(reader.unsupported("head_dim", &head_dim.into(), &reason));
    }
    if heads * head_dim > MAX_WIDTH as usize {
        return Err(Error::bad_file(reader.path, format!("{heads} heads of {head_dim} are absurd")));
    }
    Ok(head_dim)
}
