//! What the table says of llama.cpp: how it takes models of a row, which both writing a GGUF file and reading one
//! follow.

use super::role::Role;
use crate::ops::Activation;

/// How llama.cpp takes models of a row.
#[derive(Debug, Clone, Copy)]
pub struct Gguf {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// That of models whose layers differ in their heads or in the width of their MLPs, if there is one.
    pub by_layer: Option<&'static str>,
    /// Whether it turns neighbouring coordinates of a head together, where the model has those half a head apart.
    pub interleaved: bool,
    /// Whether it reads a factor for each frequency from the file.
    pub frequency_factors: bool,
    /// Whether it reads two for each, of short and of long texts.
    pub long_factors: bool,
    /// Whether weights that the checkpoint has in one tensor are in one there.
    pub fused: bool,
    pub biases: GgufBiases,
    pub other_widths: OtherWidths,
}

impl Gguf {
    /// An architecture like `llama`, without biases and with coordinates as the model has them.
    pub const fn of(architecture: &'static str) -> Self {
        Self {
            architecture,
            by_layer: None,
            interleaved: false,
            frequency_factors: false,
            long_factors: false,
            fused: false,
            biases: GgufBiases::Of(&[]),
            other_widths: OtherWidths::Alike,
        }
    }
}

/// Which weights have a bias there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufBiases {
    /// These may, others do not.
    Of(&'static [Role]),
    /// All of them must: those that a model lacks are written as zeros.
    All,
}

/// What becomes of models whose queries together are not as wide as the residual stream.
#[derive(Debug, Clone, Copy)]
pub enum OtherWidths {
    /// They are as others.
    Alike,
    /// They are taken for these.
    As(&'static Gguf),
    /// There are none: both are one number.
    Never,
}

/// What llama.cpp computes for its architecture of a row beyond what it does for llama.
#[derive(Debug, Clone, Copy)]
pub struct GgufOwn {
    /// In the MLPs.
    pub activation: Activation,
    pub windows: GgufWindows,
    /// The last of this many layers, again and again, does not know positions; `None` where all do.
    pub nope_interval: Option<usize>,
    /// Whether it reads soft-caps of scores and logits from the file.
    pub softcaps: bool,
    pub head: GgufHead,
    /// What it calls the norm before the attention and that before the MLP; one that is before both has the first name.
    pub norms: [&'static str; 2],
    pub qk_norm: GgufQkNorm,
    pub alibi: GgufAlibi,
    /// Whether it reads from the file at what size queries, keys and values are clipped.
    pub clip: bool,
}

/// Which layers have a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufWindows {
    /// None, and no file says of any.
    Unknown,
    /// None, although files say what it is, 0 where there is none.
    Ignored,
    /// All but the last of this many layers, again and again.
    Interval(usize),
}

/// Where the head comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufHead {
    /// The embedding, where the file has no other.
    Optional,
    /// The embedding.
    Embedding,
    /// A tensor of its own, although that may be the embedding once more.
    Required,
}

/// Whether queries and keys may go through norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufQkNorm {
    Never,
    Allowed,
    /// If there are as many keys as queries.
    OfAsManyKeys,
    /// In models with this many layers, which have them; others have none.
    FromLayers(usize),
}

/// Whether attention has linear biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufAlibi {
    Never,
    Always,
    /// If the file gives the exponent of the smallest slope.
    Stated,
}
