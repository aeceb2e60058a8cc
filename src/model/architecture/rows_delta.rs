//! Rows with gated delta nets beside attention.

use super::{
    Architecture, AttentionSpec, BASE,
    Bias::Never,
    Block, BlockKind, DeltaNets, Fields, NormSpec, Order, Position, Role, RopeLayers, RotaryPart, Space, Weight,
    rows::{ATTENTION_BIAS, EXPLICIT, GATED, GROUPED, QK_NORM, gated_blocks, gated_mlp},
};
use crate::model::{
    defaults,
    forms::{Forms, Gguf, GgufOwn, GgufQkNorm, RemoteCode},
};

use Role::{Beta, Decay, Key, Mixed, Output, OutputGate, Query, Value};
use Space::{Heads, Residual};

const GATED_HEADS: &[Weight] = &[
    Weight {
        order: Order::Paired,
        ..Weight::linear("self_attn.q_proj", &[Query, OutputGate], Residual, Heads, ATTENTION_BIAS)
    },
    Weight::linear("self_attn.k_proj", &[Key], Residual, Heads, ATTENTION_BIAS),
    Weight::linear("self_attn.v_proj", &[Value], Residual, Heads, ATTENTION_BIAS),
    Weight::linear("self_attn.o_proj", &[Output], Heads, Residual, ATTENTION_BIAS),
];

const DELTA_HEADS: &[Weight] = &[
    Weight::linear("linear_attn.in_proj_qkv", &[Mixed], Residual, Heads, Never),
    Weight::linear("linear_attn.in_proj_z", &[OutputGate], Residual, Heads, Never),
    Weight::linear("linear_attn.in_proj_b", &[Beta], Residual, Heads, Never),
    Weight::linear("linear_attn.in_proj_a", &[Decay], Residual, Heads, Never),
    Weight::linear("linear_attn.out_proj", &[Output], Heads, Residual, Never),
];

const DELTA_NET: Block =
    Block { kind: BlockKind::DeltaNet, norm: Some("input_layernorm"), norm_after: None, weights: DELTA_HEADS };

pub(super) const QWEN3_5: Architecture = Architecture {
    model_type: "qwen3_5_text",
    fields: Fields { default_key_value_heads: Some(4), ..GROUPED },
    defaults: defaults::QWEN3_5,
    norm: NormSpec { offset: 1.0, ..BASE.norm },
    attention: AttentionSpec {
        position: Position::Rope {
            interleaved: false,
            part: RotaryPart::Share(0.25),
            theta: 10000.0,
            layers: RopeLayers::All,
        },
        qk_norm: Some(QK_NORM),
        head_dim: Some(256),
        ..EXPLICIT
    },
    blocks: &gated_blocks(GATED_HEADS, GATED),
    delta_net: Some(DeltaNets {
        blocks: &[DELTA_NET, gated_mlp("post_attention_layernorm", GATED)],
        interval: ("full_attention_interval", 4),
        key_heads: ("linear_num_key_heads", 16),
        value_heads: ("linear_num_value_heads", 32),
        key_dim: ("linear_key_head_dim", 128),
        value_dim: ("linear_value_head_dim", 128),
        taps: ("linear_conv_kernel_dim", 4),
        convolution: "linear_attn.conv1d",
        rate: "linear_attn.A_log",
        decay_bias: "linear_attn.dt_bias",
        norm: "linear_attn.norm",
    }),
    required: &[("hidden_act", "\"silu\"", "the convolution of its gated delta nets is known with silu alone")],
    forms: Forms { stock: true, gguf: Some(Gguf::of("qwen35")), code: Some(RemoteCode::QWEN3_5_TEXT), ..BASE.forms },
    gguf_own: GgufOwn { qk_norm: GgufQkNorm::Allowed, norms: ["attn_norm", "post_attention_norm"], ..BASE.gguf_own },
    ..BASE
};
