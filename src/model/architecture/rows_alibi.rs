//! Rows whose attention may have linear biases in place of positions: falcon, bloom, mpt.

use super::{
    Alibi, Architecture, AttentionSpec, BASE,
    Bias::{Always, Field, Never},
    Block, EndsSpec, Fields, NormSpec, Order, Position, Role, Scale, Space, Stems, Weight, Wiring,
    rows::{GGUF_GELU, LAYER_NORM, attention, biased_gguf, mlp, plain},
    rows_gpt::GPT2_NAMES,
};
use crate::model::{
    architecture::Bias,
    defaults,
    forms::{Forms, Gguf, GgufAlibi, GgufOwn, OtherWidths, RemoteCode},
};

use Role::{Key, Output, Query, Value};
use Space::{Heads, Residual};

const TIED: EndsSpec = EndsSpec { tied_head: true, ..BASE.ends };

const fn falcon_heads(bias: Bias) -> [Weight; 2] {
    [
        Weight {
            order: Order::Grouped,
            ..Weight::linear("self_attention.query_key_value", &[Query, Key, Value], Residual, Heads, bias)
        },
        Weight::linear("self_attention.dense", &[Output], Heads, Residual, bias),
    ]
}

const FALCON_BIAS: Bias = Field("bias", false);
const FALCON_HEADS: &[Weight] = &falcon_heads(FALCON_BIAS);
const FALCON_MLP: &[Weight] = &plain("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", FALCON_BIAS);

const FALCON_GGUF: Gguf = Gguf { fused: true, other_widths: OtherWidths::Never, ..Gguf::of("falcon") };

/// One norm before both blocks, and one key and value for all heads unless `multi_query` says otherwise.
pub(super) const FALCON_7B: Architecture = Architecture {
    model_type: "falcon",
    when: &[("new_decoder_architecture", "false", "false"), ("parallel_attn", "true", "true")],
    fields: Fields {
        former_hidden_size: Some("n_embed"),
        multi_query: Some(("multi_query", true)),
        intermediate_size: "ffn_hidden_size",
        intermediate_factor: Some(4),
        norm_eps: (Some("layer_norm_epsilon"), 1e-5),
        activation: ("activation", "gelu"),
        ..BASE.fields
    },
    defaults: defaults::FALCON,
    names: Stems { embedding: "word_embeddings", ..GPT2_NAMES },
    norm: LAYER_NORM,
    attention: AttentionSpec { alibi: Alibi::Field("alibi"), ..BASE.attention },
    ends: TIED,
    wiring: Wiring::Parallel,
    blocks: &[attention("input_layernorm", FALCON_HEADS), mlp("input_layernorm", FALCON_MLP)],
    required: &[("num_ln_in_parallel_attn", "1", "the second norm belongs to new_decoder_architecture")],
    handles: &["alibi", "parallel_attn"],
    forms: Forms { gguf: Some(FALCON_GGUF), code: Some(RemoteCode::FALCON), ..BASE.forms },
    gguf_own: GGUF_GELU,
    ..BASE
};

/// Falcon 40B and 180B, and Falcon 11B: groups of heads, and a norm before each block.
pub(super) const FALCON_NEW: Architecture = Architecture {
    when: &[("new_decoder_architecture", "true", "false"), ("num_ln_in_parallel_attn", "2", "2")],
    fields: Fields { num_key_value_heads: Some("num_kv_heads"), multi_query: None, ..FALCON_7B.fields },
    blocks: &[attention("ln_attn", FALCON_HEADS), mlp("ln_mlp", FALCON_MLP)],
    required: &[("parallel_attn", "true", "blocks one after the other have no norms in new_decoder_architecture")],
    gguf_own: GgufOwn { norms: ["attn_norm_2", "attn_norm"], ..GGUF_GELU },
    ..FALCON_7B
};

/// The same with one norm before both blocks.
pub(super) const FALCON_NEW_SHARED: Architecture = Architecture {
    when: &[("new_decoder_architecture", "true", "false"), ("num_ln_in_parallel_attn", "1", "2")],
    blocks: FALCON_7B.blocks,
    gguf_own: FALCON_7B.gguf_own,
    ..FALCON_NEW
};

/// Falcon RW: one block after the other.
pub(super) const FALCON_SEQUENTIAL: Architecture = Architecture {
    when: &[("new_decoder_architecture", "false", "false"), ("parallel_attn", "false", "true")],
    wiring: Wiring::Sequential,
    blocks: &[attention("input_layernorm", FALCON_HEADS), mlp("post_attention_layernorm", FALCON_MLP)],
    required: &[],
    forms: Forms { gguf: None, ..FALCON_7B.forms },
    ..FALCON_7B
};

const BLOOM_BLOCKS: &[Block] = &[
    attention("input_layernorm", &falcon_heads(Always)),
    mlp("post_attention_layernorm", &plain("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", Always)),
];

pub(super) const BLOOM: Architecture = Architecture {
    model_type: "bloom",
    fields: Fields {
        former_hidden_size: Some("n_embed"),
        num_hidden_layers: "n_layer",
        num_attention_heads: "n_head",
        // The class has no field for it, and no other size.
        intermediate_size: "",
        intermediate_factor: Some(4),
        max_position_embeddings: "seq_length",
        norm_eps: (Some("layer_norm_epsilon"), 1e-5),
        activation: ("", "gelu_pytorch_tanh"),
        ..BASE.fields
    },
    defaults: defaults::BLOOM,
    names: Stems { embedding: "word_embeddings", embedding_norm: Some("word_embeddings_layernorm"), ..GPT2_NAMES },
    norm: LAYER_NORM,
    attention: AttentionSpec { position: Position::None, alibi: Alibi::Always, ..BASE.attention },
    ends: TIED,
    blocks: BLOOM_BLOCKS,
    forms: Forms {
        gguf: Some(Gguf { fused: true, ..biased_gguf("bloom") }),
        code: Some(RemoteCode::BLOOM),
        ..BASE.forms
    },
    gguf_own: GgufOwn { alibi: GgufAlibi::Always, ..GGUF_GELU },
    ..BASE
};

const MPT_HEADS: &[Weight] = &[
    Weight::linear("attn.Wqkv", &[Query, Key, Value], Residual, Heads, Never),
    Weight::linear("attn.out_proj", &[Output], Heads, Residual, Never),
];

pub(super) const MPT: Architecture = Architecture {
    model_type: "mpt",
    fields: Fields {
        hidden_size: "d_model",
        num_hidden_layers: "n_layers",
        num_attention_heads: "n_heads",
        intermediate_size: "",
        intermediate_factor: Some(4),
        max_position_embeddings: "max_seq_len",
        norm_eps: (Some("layer_norm_epsilon"), 1e-5),
        activation: ("", "gelu"),
        ..BASE.fields
    },
    defaults: defaults::MPT,
    names: Stems { layers: "blocks", final_norm: "norm_f", ..GPT2_NAMES },
    norm: NormSpec { bias: false, ..LAYER_NORM },
    attention: AttentionSpec {
        position: Position::None,
        alibi: Alibi::Always,
        clip: Some("attn_config.clip_qkv"),
        scale: Scale::Field("attn_config.softmax_scale"),
        ..BASE.attention
    },
    ends: TIED,
    blocks: &[attention("norm_1", MPT_HEADS), mlp("norm_2", &plain("ffn.up_proj", "ffn.down_proj", Never))],
    required: &[
        ("expansion_ratio", "4", "transformers computes with 4"),
        ("no_bias", "true", "transformers computes without biases"),
        ("attn_config.attn_type", "\"multihead_attention\"", "transformers gives each head its own key and value"),
        ("attn_config.alibi", "true", "transformers always computes with it"),
        ("attn_config.alibi_bias_max", "8", "transformers computes with 8"),
        ("attn_config.qk_ln", "false", "transformers computes without norms of queries and keys"),
        ("attn_config.prefix_lm", "false", "transformers computes a causal model"),
    ],
    forms: Forms {
        gguf: Some(Gguf { fused: true, other_widths: OtherWidths::Never, ..Gguf::of("mpt") }),
        code: Some(RemoteCode::MPT),
        ..BASE.forms
    },
    gguf_own: GgufOwn { alibi: GgufAlibi::Stated, clip: true, ..GGUF_GELU },
    ..BASE
};
