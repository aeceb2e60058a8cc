//! Gemma: norms whose stored weights are one less than what they multiply by, and embeddings times the root of the
//! width.

use super::{
    Architecture, AttentionSpec, BASE, Block, BlockKind, EndsSpec, Fields, Multipliers, NormSpec, Position, RopeLayers,
    RotaryPart, Scale, Weight, Window,
    rows::{ATTENTION_BIAS, EXPLICIT, FIELD_HEADS, GATED, GGUF_GELU, GROUPED, QK_NORM, gated_blocks, heads},
};
use crate::model::{
    defaults,
    forms::{Forms, Gguf, GgufHead, GgufOwn, GgufQkNorm, GgufWindows, RemoteCode},
};

const NORM: NormSpec = NormSpec { offset: 1.0, ..BASE.norm };
const MULTIPLIERS: Multipliers = Multipliers { sqrt_width: true, ..BASE.multipliers };
const ENDS: EndsSpec = EndsSpec { tied_head: true, ..BASE.ends };

pub(super) const GEMMA: Architecture = Architecture {
    model_type: "gemma",
    fields: Fields {
        default_key_value_heads: Some(16),
        activation: ("hidden_act", "gelu_pytorch_tanh"),
        activation_meant: Some(("gelu", "gelu_pytorch_tanh")),
        ..GROUPED
    },
    defaults: defaults::GEMMA,
    norm: NORM,
    attention: AttentionSpec { head_dim: Some(256), ..EXPLICIT },
    multipliers: MULTIPLIERS,
    ends: ENDS,
    blocks: &gated_blocks(FIELD_HEADS, GATED),
    forms: Forms { stock: true, gguf: Some(Gguf::of("gemma")), code: Some(RemoteCode::GEMMA), ..BASE.forms },
    gguf_own: GGUF_OWN,
    ..BASE
};

const GGUF_OWN: GgufOwn = GgufOwn { head: GgufHead::Embedding, ..GGUF_GELU };

const HEADS: &[Weight] = &heads("self_attn.o_proj", ATTENTION_BIAS, ATTENTION_BIAS);
const BLOCKS: &[Block] = &[
    Block {
        kind: BlockKind::Attention,
        norm: Some("input_layernorm"),
        norm_after: Some("post_attention_layernorm"),
        weights: HEADS,
    },
    Block {
        kind: BlockKind::Mlp { gated: true },
        norm: Some("pre_feedforward_layernorm"),
        norm_after: Some("post_feedforward_layernorm"),
        weights: GATED,
    },
];

pub(super) const GEMMA2: Architecture = Architecture {
    model_type: "gemma2",
    fields: Fields {
        default_key_value_heads: Some(4),
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
        ..GROUPED
    },
    defaults: defaults::GEMMA2,
    norm: NORM,
    attention: AttentionSpec {
        head_dim: Some(256),
        window: Window::Pattern { field: None, interval: 2 },
        default_window: Some(4096),
        scale: Scale::InverseSqrt("query_pre_attn_scalar", 256.0),
        softcap: Some(("attn_logit_softcapping", Some(50.0))),
        ..EXPLICIT
    },
    multipliers: Multipliers { logit_softcap: Some(("final_logit_softcapping", Some(30.0))), ..MULTIPLIERS },
    ends: ENDS,
    blocks: BLOCKS,
    handles: &["attn_logit_softcapping", "final_logit_softcapping"],
    forms: Forms { width_by_heads: true, gguf: Some(Gguf::of("gemma2")), code: Some(RemoteCode::GEMMA2), ..BASE.forms },
    gguf_own: GgufOwn { windows: GgufWindows::Interval(2), softcaps: true, ..GGUF_OWN },
    ..BASE
};

pub(super) const GEMMA3: Architecture = Architecture {
    model_type: "gemma3_text",
    fields: GEMMA2.fields,
    defaults: defaults::GEMMA3,
    norm: NORM,
    attention: AttentionSpec {
        position: Position::Rope {
            interleaved: false,
            part: RotaryPart::Whole,
            theta: 1_000_000.0,
            layers: RopeLayers::All,
        },
        window: Window::Pattern { field: Some("sliding_window_pattern"), interval: 6 },
        qk_norm: Some(QK_NORM),
        // transformers' class has a field for it and computes without: refused where it is set.
        softcap: None,
        local_theta: Some(("rope_local_base_freq", 10000.0)),
        ..GEMMA2.attention
    },
    multipliers: Multipliers { logit_softcap: Some(("final_logit_softcapping", None)), ..MULTIPLIERS },
    ends: ENDS,
    blocks: BLOCKS,
    handles: &["final_logit_softcapping"],
    forms: Forms {
        width_by_heads: true,
        gguf: Some(Gguf::of("gemma3")),
        code: Some(RemoteCode::GEMMA3_TEXT),
        ..BASE.forms
    },
    gguf_own: GgufOwn { windows: GgufWindows::Interval(6), softcaps: true, qk_norm: GgufQkNorm::Allowed, ..GGUF_OWN },
    ..BASE
};
