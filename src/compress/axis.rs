//! What can be cut, and how much of it all.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::model::{Config, Resize};

/// What can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// Coordinates of the residual stream.
    Width,
    /// Channels of the MLPs.
    Mlp,
    /// Query heads, as many of each group that shares a key and a value.
    Heads,
    /// Key-value heads with their queries.
    KvHeads,
    /// Whole layers.
    Layers,
    /// Whole experts of each mixture.
    Experts,
}

impl Axis {
    pub const ALL: [Self; 6] = [Self::Width, Self::Mlp, Self::Heads, Self::KvHeads, Self::Layers, Self::Experts];

    /// The share of it that sizes have lost.
    pub fn depth(self, config: &Config, sizes: &Resize) -> f64 {
        let whole = Resize::whole(config);
        let (left, all) = match self {
            Self::Width => (sizes.width.unwrap_or(config.hidden_size), config.hidden_size),
            Self::Mlp => (sizes.intermediate_size, whole.intermediate_size),
            Self::Heads => (sizes.heads / sizes.kv_heads, whole.heads / whole.kv_heads),
            Self::KvHeads => (sizes.kv_heads, whole.kv_heads),
            Self::Layers => (sizes.layers.len(), whole.layers.len()),
            Self::Experts => (sizes.experts.unwrap_or(1), whole.experts.unwrap_or(1)),
        };
        1.0 - left as f64 / all as f64
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Width => "width",
            Self::Mlp => "mlp",
            Self::Heads => "heads",
            Self::KvHeads => "kv-heads",
            Self::Layers => "layers",
            Self::Experts => "experts",
        })
    }
}

impl FromStr for Axis {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Self::ALL.into_iter().find(|axis| axis.to_string() == text).ok_or_else(|| {
            format!(
                "expected some of width, mlp, heads, kv-heads, layers and experts, separated by commas, found {text:?}"
            )
        })
    }
}

/// How small the result is to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Goal {
    /// This share of the stored parameters is to be removed, 0 < p < 1.
    Parameters(f64),
    /// The tensors are to take at most this many bytes.
    Bytes(u64),
}
