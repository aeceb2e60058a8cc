//! THE TABLE: one typed row for each `model_type`.
//!
//! A row is a list of blocks and says, for each weight, which space it reads and which it writes. That alone tells how
//! to fuse, rotate and slice it: what reads the residual stream gets W·Q, what writes it gets Qᵀ·W, everything else
//! stays. There is no `if model_type ==` anywhere.
//!
//! Rows start from [`BASE`], which is no model: what a row forgets is refused or left out, never taken from another
//! row.

mod base;
mod block;
mod delta_net;
mod forms;
mod gguf;
mod mixture;
mod remote_code;
mod role;
mod rows;
mod rows_alibi;
mod rows_delta;
mod rows_gemma;
mod rows_gpt;
mod rows_mixtures;
mod rows_norms;
mod table;

use super::defaults::Defaults;
use crate::ops::Norm;

pub use base::{BASE, REFUSED, REFUSED_TOGETHER};
pub use block::{Bias, Block, BlockKind, Layout, Order, Space, Weight};
pub use delta_net::DeltaNets;
pub use forms::Forms;
pub use gguf::{Gguf, GgufAlibi, GgufBiases, GgufHead, GgufOwn, GgufQkNorm, GgufWindows, OtherWidths};
pub use mixture::{Fused, Mixture, MixtureLayers, Normalised, Shared, Together};
pub use remote_code::RemoteCode;
pub use role::Role;
pub use table::ARCHITECTURES;

/// How the blocks of a layer are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// Each block reads what the one before it has written.
    Sequential,
    /// All read the input of the layer and add to it.
    Parallel,
    /// Parallel when this config field says so; `bool` if it does not speak.
    Field(&'static str, bool),
}

/// Which part of each head rotary embeddings rotate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RotaryPart {
    /// All of it, whatever the config says.
    Whole,
    /// The share that the config gives, or this one.
    Share(f64),
    /// So many coordinates as this field says, or this number.
    Count(&'static str, usize),
}

/// YaRN, with the ramp of its paper.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    /// Positions that the model was trained on before.
    pub original: usize,
    /// Whether the ends of the ramp are whole numbers.
    pub truncate: bool,
}

/// Which layers know positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayers {
    All,
    /// Those with a 1 in the `list`; without one, all but every n-th, n by `interval` or its default.
    Listed {
        list: &'static str,
        interval: (&'static str, usize),
    },
}

/// Where the model knows positions from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Position {
    /// From nothing but the bias of its attention, [`Alibi`].
    None,
    /// A learned table: its name, and the row of position 0.
    Learned { name: &'static str, offset: usize },
    /// Rotary embeddings.
    Rope {
        /// Whether stored heads have the coordinates that turn together side by side, instead of half of what turns
        /// apart.
        interleaved: bool,
        part: RotaryPart,
        /// The base of the frequencies where the config does not give it.
        theta: f64,
        layers: RopeLayers,
    },
}

/// Which layers look no further back than `sliding_window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    None,
    /// All of them, whatever `layer_types` says.
    All,
    /// Those that `layer_types` names, all of them without it.
    Listed,
    /// The same, but the class of this name gives all of them the window: with such a list, transformers takes another,
    /// for a mistral its ministral.
    ListedForAnother,
    /// When `use_sliding_window` is true: those that `layer_types` names, or otherwise from `max_window_layers` on.
    FromLayer,
    /// All of them when `use_sliding_window` is true.
    Used,
    /// When `use_sliding_window` is true: those that `layer_types` names, or otherwise those without rotary embeddings.
    WithoutRope,
    /// Those that `layer_types` names, or otherwise all but every n-th, n by the field or its default.
    Pattern {
        field: Option<&'static str>,
        interval: usize,
    },
    /// Those that are "local" in this list of pairs, of names and of how often these are repeated, or in the list of
    /// all layers, `each`, which counts more; the size is in `size`.
    Repeated {
        list: &'static str,
        each: &'static str,
        size: (&'static str, usize),
    },
}

/// What q·k is multiplied by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// 1 / sqrt(head_dim), or as scale_attn_weights and scale_attn_by_inverse_layer_idx say.
    HeadDim {
        fields: bool,
    },
    One,
    /// 1 / sqrt of this field, or of this number.
    InverseSqrt(&'static str, f64),
    /// This field, or 1 / sqrt(head_dim).
    Field(&'static str),
}

/// When keys that are further back count less, in proportion to their distance: attention with linear biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alibi {
    Never,
    /// Added to the scaled scores.
    Always,
    /// When this config field is true, instead of rotary embeddings: added to the scores before they are scaled, in
    /// bf16.
    Field(&'static str),
}

/// What the norms of queries and keys share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkSpan {
    /// All heads have the same weights.
    Shared,
    /// Each head has its own, all of them in one tensor `[heads, head_dim]`.
    PerHead,
    /// Each head has its own, in a tensor each: `NAME.norms.HEAD`.
    PerHeadTensors,
    /// One norm over all heads, side by side.
    Whole,
}

/// Normalisation of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QkNorm {
    pub q: &'static str,
    pub k: &'static str,
    pub norm: Norm,
    pub span: QkSpan,
    /// Whether they have a bias.
    pub bias: bool,
    /// The config field that switches it on; always on if `None`.
    pub field: Option<&'static str>,
}

/// What the config calls things.
#[derive(Debug, Clone, Copy)]
pub struct Fields {
    pub hidden_size: &'static str,
    /// Another name for it, which counts more where it is there.
    pub former_hidden_size: Option<&'static str>,
    pub num_hidden_layers: &'static str,
    pub num_attention_heads: &'static str,
    pub num_key_value_heads: Option<&'static str>,
    /// Where the config does not mention it; num_attention_heads if `None`, and where it is null.
    pub default_key_value_heads: Option<usize>,
    /// The field by which all heads share one key and one value, and what counts where it is not there.
    pub multi_query: Option<(&'static str, bool)>,
    pub intermediate_size: &'static str,
    /// intermediate_size / hidden_size where the config does not give it; the default of the class if `None`.
    pub intermediate_factor: Option<usize>,
    pub max_position_embeddings: &'static str,
    /// Name, and the value where the config does not give it.
    pub norm_eps: (Option<&'static str>, f64),
    pub activation: (&'static str, &'static str),
    /// What an activation of this name is taken for.
    pub activation_meant: Option<(&'static str, &'static str)>,
    /// The base of rotary frequencies and the part of each head that turns, where they stand beside the section that is
    /// about them.
    pub rotary: (&'static str, &'static str),
}

/// What the checkpoint calls its tensors, without `.weight`.
#[derive(Debug, Clone, Copy)]
pub struct Stems {
    /// Before every name but the head's; some checkpoints leave it out.
    pub prefix: &'static str,
    pub embedding: &'static str,
    /// The norm of the embedded tokens.
    pub embedding_norm: Option<&'static str>,
    pub layers: &'static str,
    pub final_norm: &'static str,
    pub head: &'static str,
    /// Another name that the head may have.
    pub head_alias: Option<&'static str>,
}

/// The norms of the residual stream.
#[derive(Debug, Clone, Copy)]
pub struct NormSpec {
    pub kind: Norm,
    pub affine: Affine,
    /// Whether layer norms have a bias.
    pub bias: bool,
    /// What is added to stored weights.
    pub offset: f32,
}

/// Whether norms have parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affine {
    Always,
    Never,
    /// When this config field is true, or not there.
    Field(&'static str),
}

/// What the attention of every layer has in common.
#[derive(Debug, Clone, Copy)]
pub struct AttentionSpec {
    pub position: Position,
    /// The rotary scalings that transformers computes for it.
    pub rope_types: &'static [&'static str],
    /// Those that mean LongRoPE.
    pub longrope: &'static [&'static str],
    /// The scaling where the config has no section that is about it.
    pub default_scaling: Option<Yarn>,
    pub window: Window,
    pub scale: Scale,
    pub alibi: Alibi,
    /// The field of the c in c·tanh(score / c), and its default.
    pub softcap: Option<(&'static str, Option<f64>)>,
    /// The field of the size beyond which queries, keys and values are clipped.
    pub clip: Option<&'static str>,
    /// The field of the base of rotary frequencies in layers with a window, and its default; that of the others if
    /// `None`.
    pub local_theta: Option<(&'static str, f64)>,
    /// The window where the config does not mention it; `null` means none.
    pub default_window: Option<usize>,
    pub qk_norm: Option<QkNorm>,
    /// The tensor of a layer with a logit for each query head, which counts in the softmax of its scores and stands for
    /// no key.
    pub sinks: Option<&'static str>,
    /// head_dim where the config does not give it: hidden_size / num_attention_heads if `None`.
    pub head_dim: Option<usize>,
    /// Whether `head_dim` of the config counts.
    pub explicit_head_dim: bool,
    /// Whether a `head_dim` of 0 counts as none.
    pub zero_head_dim: bool,
}

/// Config fields by which a model multiplies its signals; 1 where the config does not give them.
#[derive(Debug, Clone, Copy)]
pub struct Multipliers {
    /// Of the embedded tokens.
    pub embedding: Option<&'static str>,
    /// Whether embedded tokens are multiplied by sqrt(hidden_size).
    pub sqrt_width: bool,
    /// Of what each block adds to the residual stream.
    pub residual: Option<&'static str>,
    /// Of q·k, instead of 1 / sqrt(head_dim).
    pub attention: Option<&'static str>,
    /// What logits are divided by.
    pub logits: Option<&'static str>,
    /// What logits are multiplied by, and its default.
    pub logit_scale: Option<(&'static str, f64)>,
    /// The field of the c in c·tanh(logit / c), and its default.
    pub logit_softcap: Option<(&'static str, Option<f64>)>,
}

/// The two ends of a model.
#[derive(Debug, Clone, Copy)]
pub struct EndsSpec {
    /// Whether the head is the embedding where the config does not say.
    pub tied_head: bool,
    pub head_bias: bool,
}

/// One row: everything that distinguishes a `model_type`.
#[derive(Debug, Clone, Copy)]
pub struct Architecture {
    pub model_type: &'static str,
    /// Where a `model_type` has several rows: fields with the value (as JSON) that they have in this one, and the one
    /// that counts where they are null or not there.
    pub when: &'static [(&'static str, &'static str, &'static str)],
    pub fields: Fields,
    pub defaults: Defaults,
    pub names: Stems,
    pub norm: NormSpec,
    pub attention: AttentionSpec,
    pub multipliers: Multipliers,
    pub ends: EndsSpec,
    pub wiring: Wiring,
    /// Of a layer that is no mixture, and has no gated delta net.
    pub blocks: &'static [Block],
    pub mixture: Option<Mixture>,
    pub delta_net: Option<DeltaNets>,
    /// Fields that must have this value (as JSON), with the reason.
    pub required: &'static [(&'static str, &'static str, &'static str)],
    /// Fields of [`REFUSED`] that this row handles.
    pub handles: &'static [&'static str],
    pub forms: Forms,
    /// Of [`Forms::gguf`].
    pub gguf_own: GgufOwn,
}

impl Architecture {
    /// The stored weights of a layer of [`Architecture::blocks`], block by block.
    pub fn weights(&self) -> impl Iterator<Item = &'static Weight> + use<> {
        self.blocks.iter().flat_map(|block| block.weights)
    }

    /// Whether results of blocks go through a norm.
    pub fn has_norms_after(&self) -> bool {
        self.blocks.iter().any(|block| block.norm_after.is_some())
    }

    /// Whether what reads a stored head has the coordinates that turn together side by side.
    pub fn interleaved(&self) -> bool {
        matches!(self.attention.position, Position::Rope { interleaved: true, .. })
    }
}
