//! Rows that differ from llama's in their norms: where these are, what they have for parameters, or what they span.

use super::{
    Affine, Architecture, AttentionSpec, BASE,
    Bias::{Always, Field, Never},
    Block, BlockKind, EndsSpec, Fields, Multipliers, NormSpec, Position, QkNorm, QkSpan, Role, RopeLayers, RotaryPart,
    Scale, Space, Weight, Window, Wiring,
    rows::{
        EXPLICIT, FIELD_HEADS, GATED, GROUPED, LAYER_NORM, QK_NORM, attention, gated_blocks, gated_mlp, heads, mlp,
        plain, rope,
    },
    rows_gpt::GPT2_NAMES,
};
use crate::{
    model::{
        defaults,
        forms::{Forms, Gguf, GgufBiases, GgufHead, GgufOwn, GgufQkNorm, OtherWidths, RemoteCode},
    },
    ops::Norm,
};

use Role::{Key, Output, Query, Value};
use Space::{Heads, Residual};

pub(super) const OLMO: Architecture = Architecture {
    model_type: "olmo",
    fields: Fields { norm_eps: (None, 1e-5), ..GROUPED },
    defaults: defaults::OLMO,
    norm: NormSpec { affine: Affine::Never, ..LAYER_NORM },
    attention: AttentionSpec { clip: Some("clip_qkv"), ..EXPLICIT },
    blocks: &gated_blocks(FIELD_HEADS, GATED),
    handles: &["clip_qkv"],
    forms: Forms {
        gguf: Some(Gguf { interleaved: true, other_widths: OtherWidths::Never, ..Gguf::of("olmo") }),
        code: Some(RemoteCode::OLMO),
        ..BASE.forms
    },
    gguf_own: GgufOwn { clip: true, ..BASE.gguf_own },
    ..BASE
};

const OLMO2_BLOCKS: &[Block] = &[
    Block {
        kind: BlockKind::Attention,
        norm: None,
        norm_after: Some("post_attention_layernorm"),
        weights: FIELD_HEADS,
    },
    Block {
        kind: BlockKind::Mlp { gated: true },
        norm: None,
        norm_after: Some("post_feedforward_layernorm"),
        weights: GATED,
    },
];

pub(super) const OLMO2: Architecture = Architecture {
    model_type: "olmo2",
    fields: Fields { norm_eps: (Some("rms_norm_eps"), 1e-5), ..GROUPED },
    defaults: defaults::OLMO,
    attention: AttentionSpec { qk_norm: Some(QkNorm { span: QkSpan::Whole, ..QK_NORM }), ..EXPLICIT },
    blocks: OLMO2_BLOCKS,
    forms: Forms {
        gguf: Some(Gguf { other_widths: OtherWidths::Never, ..Gguf::of("olmo2") }),
        code: Some(RemoteCode::OLMO2),
        ..BASE.forms
    },
    gguf_own: GgufOwn { head: GgufHead::Required, qk_norm: GgufQkNorm::Allowed, ..BASE.gguf_own },
    ..BASE
};

const STABLELM_HEADS: &[Weight] = &heads("self_attn.o_proj", Field("use_qkv_bias", false), Never);

pub(super) const STABLELM: Architecture = Architecture {
    model_type: "stablelm",
    when: &[("use_parallel_residual", "false", "false")],
    fields: Fields { default_key_value_heads: Some(32), norm_eps: (Some("layer_norm_eps"), 1e-5), ..GROUPED },
    defaults: defaults::STABLELM,
    norm: LAYER_NORM,
    attention: AttentionSpec {
        position: rope(RotaryPart::Share(0.25)),
        qk_norm: Some(QkNorm {
            q: "self_attn.q_layernorm",
            k: "self_attn.k_layernorm",
            norm: Norm::Layer,
            span: QkSpan::PerHeadTensors,
            field: Some("qk_layernorm"),
            ..QK_NORM
        }),
        ..BASE.attention
    },
    blocks: &gated_blocks(STABLELM_HEADS, GATED),
    forms: Forms {
        gguf: Some(Gguf {
            biases: GgufBiases::Of(&[Query, Key, Value]),
            other_widths: OtherWidths::Never,
            ..Gguf::of("stablelm")
        }),
        code: Some(RemoteCode::STABLELM),
        ..BASE.forms
    },
    gguf_own: GgufOwn { head: GgufHead::Required, qk_norm: GgufQkNorm::Allowed, ..BASE.gguf_own },
    ..BASE
};

pub(super) const STABLELM_PARALLEL: Architecture = Architecture {
    when: &[("use_parallel_residual", "true", "false")],
    wiring: Wiring::Parallel,
    blocks: &[attention("input_layernorm", STABLELM_HEADS), gated_mlp("input_layernorm", GATED)],
    ..STABLELM
};

pub(super) const COHERE: Architecture = Architecture {
    model_type: "cohere",
    fields: Fields { norm_eps: (Some("layer_norm_eps"), 1e-5), ..GROUPED },
    defaults: defaults::COHERE,
    norm: NormSpec { bias: false, ..LAYER_NORM },
    attention: AttentionSpec {
        position: Position::Rope {
            interleaved: true,
            part: RotaryPart::Whole,
            theta: 500_000.0,
            layers: RopeLayers::All,
        },
        qk_norm: Some(QkNorm { norm: Norm::Layer, span: QkSpan::PerHead, field: Some("use_qk_norm"), ..QK_NORM }),
        ..EXPLICIT
    },
    multipliers: Multipliers { logit_scale: Some(("logit_scale", 0.0625)), ..BASE.multipliers },
    ends: EndsSpec { tied_head: true, ..BASE.ends },
    wiring: Wiring::Parallel,
    blocks: &[attention("input_layernorm", FIELD_HEADS), gated_mlp("input_layernorm", GATED)],
    handles: &["logit_scale", "use_qk_norm"],
    forms: Forms {
        stock: true,
        gguf: Some(Gguf { interleaved: true, other_widths: OtherWidths::Never, ..Gguf::of("command-r") }),
        code: Some(RemoteCode::COHERE),
        ..BASE.forms
    },
    gguf_own: GgufOwn { head: GgufHead::Embedding, qk_norm: GgufQkNorm::FromLayers(64), ..BASE.gguf_own },
    ..BASE
};

const GPT_NEO_HEADS: &[Weight] = &[
    Weight::linear("attn.attention.q_proj", &[Query], Residual, Heads, Never),
    Weight::linear("attn.attention.k_proj", &[Key], Residual, Heads, Never),
    Weight::linear("attn.attention.v_proj", &[Value], Residual, Heads, Never),
    Weight::linear("attn.attention.out_proj", &[Output], Heads, Residual, Always),
];

pub(super) const GPT_NEO: Architecture = Architecture {
    model_type: "gpt_neo",
    fields: Fields {
        num_hidden_layers: "num_layers",
        num_attention_heads: "num_heads",
        intermediate_factor: Some(4),
        norm_eps: (Some("layer_norm_epsilon"), 1e-5),
        activation: ("activation_function", "gelu_new"),
        ..BASE.fields
    },
    defaults: defaults::GPT_NEO,
    names: GPT2_NAMES,
    norm: LAYER_NORM,
    attention: AttentionSpec {
        position: Position::Learned { name: "wpe", offset: 0 },
        window: Window::Repeated { list: "attention_types", each: "attention_layers", size: ("window_size", 256) },
        scale: Scale::One,
        ..BASE.attention
    },
    ends: EndsSpec { tied_head: true, ..BASE.ends },
    blocks: &[attention("ln_1", GPT_NEO_HEADS), mlp("ln_2", &plain("mlp.c_fc", "mlp.c_proj", Always))],
    forms: Forms { code: Some(RemoteCode::GPT_NEO), ..BASE.forms },
    ..BASE
};
