//! Rows with positions of their own or parallel blocks, from before there was llama: OPT and the GPTs.

use super::{
    Affine, Architecture, AttentionSpec, BASE, Bias, EndsSpec, Fields, NormSpec, Order, Position, Role, RopeLayers,
    RotaryPart, Scale, Space, Stems, Weight, Wiring,
    rows::{GGUF_GELU, LAYER_NORM, attention, biased_gguf, heads, mlp, plain, rope},
};
use crate::model::{
    defaults,
    forms::{Forms, Gguf, GgufHead, GgufOwn, RemoteCode},
};

use Bias::{Always, Field, Never};
use Role::{Down, Key, Output, Query, Up, Value};
use Space::{Heads, Hidden, Residual};

const ENABLE_BIAS: Bias = Field("enable_bias", true);

pub(super) const OPT: Architecture = Architecture {
    model_type: "opt",
    fields: Fields {
        intermediate_size: "ffn_dim",
        norm_eps: (None, 1e-5),
        activation: ("activation_function", "relu"),
        ..BASE.fields
    },
    defaults: defaults::OPT,
    names: Stems { prefix: "model.decoder.", final_norm: "final_layer_norm", ..BASE.names },
    norm: NormSpec { affine: Affine::Field("layer_norm_elementwise_affine"), ..LAYER_NORM },
    attention: AttentionSpec { position: Position::Learned { name: "embed_positions", offset: 2 }, ..BASE.attention },
    ends: EndsSpec { tied_head: true, ..BASE.ends },
    blocks: &[
        attention("self_attn_layer_norm", &heads("self_attn.out_proj", ENABLE_BIAS, ENABLE_BIAS)),
        mlp("final_layer_norm", &plain("fc1", "fc2", ENABLE_BIAS)),
    ],
    required: &[
        ("do_layer_norm_before", "true", "norms after the blocks (as in OPT-350m) cannot be fused into the weights"),
        ("_remove_final_layer_norm", "false", "a model without its final norm has nothing to fuse into the head"),
    ],
    forms: Forms { code: Some(RemoteCode::OPT), ..BASE.forms },
    ..BASE
};

pub(super) const GPT2_FIELDS: Fields = Fields {
    hidden_size: "n_embd",
    num_hidden_layers: "n_layer",
    num_attention_heads: "n_head",
    intermediate_size: "n_inner",
    intermediate_factor: Some(4),
    max_position_embeddings: "n_positions",
    norm_eps: (Some("layer_norm_epsilon"), 1e-5),
    activation: ("activation_function", "gelu_new"),
    ..BASE.fields
};

pub(super) const GPT2_NAMES: Stems =
    Stems { prefix: "transformer.", embedding: "wte", layers: "h", final_norm: "ln_f", ..BASE.names };

pub(super) const GPT2: Architecture = Architecture {
    model_type: "gpt2",
    fields: GPT2_FIELDS,
    defaults: defaults::GPT2,
    names: GPT2_NAMES,
    norm: LAYER_NORM,
    attention: AttentionSpec {
        position: Position::Learned { name: "wpe", offset: 0 },
        scale: Scale::HeadDim { fields: true },
        ..BASE.attention
    },
    ends: EndsSpec { tied_head: true, ..BASE.ends },
    blocks: &[
        attention(
            "ln_1",
            &[
                Weight::conv1d("attn.c_attn", &[Query, Key, Value], Residual, Heads),
                Weight::conv1d("attn.c_proj", &[Output], Heads, Residual),
            ],
        ),
        mlp(
            "ln_2",
            &[
                Weight::conv1d("mlp.c_fc", &[Up], Residual, Hidden),
                Weight::conv1d("mlp.c_proj", &[Down], Hidden, Residual),
            ],
        ),
    ],
    required: &[("add_cross_attention", "false", "there is no encoder to attend to")],
    forms: Forms {
        gguf: Some(Gguf { fused: true, ..biased_gguf("gpt2") }),
        code: Some(RemoteCode::GPT2),
        ..BASE.forms
    },
    gguf_own: GGUF_GELU,
    ..BASE
};

const GPTJ_HEADS: &[Weight] = &[
    Weight::linear("attn.q_proj", &[Query], Residual, Heads, Never),
    Weight::linear("attn.k_proj", &[Key], Residual, Heads, Never),
    Weight::linear("attn.v_proj", &[Value], Residual, Heads, Never),
    Weight::linear("attn.out_proj", &[Output], Heads, Residual, Never),
];

pub(super) const GPTJ: Architecture = Architecture {
    model_type: "gptj",
    fields: GPT2_FIELDS,
    defaults: defaults::GPTJ,
    names: GPT2_NAMES,
    norm: LAYER_NORM,
    attention: AttentionSpec {
        position: Position::Rope {
            interleaved: true,
            part: RotaryPart::Count("rotary_dim", 64),
            theta: 10000.0,
            layers: RopeLayers::All,
        },
        ..BASE.attention
    },
    ends: EndsSpec { head_bias: true, ..BASE.ends },
    wiring: Wiring::Parallel,
    blocks: &[attention("ln_1", GPTJ_HEADS), mlp("ln_1", &plain("mlp.fc_in", "mlp.fc_out", Always))],
    forms: Forms { code: Some(RemoteCode::GPTJ), ..BASE.forms },
    ..BASE
};

pub(super) const GPT_NEOX: Architecture = Architecture {
    model_type: "gpt_neox",
    fields: Fields {
        norm_eps: (Some("layer_norm_eps"), 1e-5),
        activation: ("hidden_act", "gelu"),
        rotary: ("rotary_emb_base", "rotary_pct"),
        ..BASE.fields
    },
    defaults: defaults::GPT_NEOX,
    names: Stems {
        prefix: "gpt_neox.",
        embedding: "embed_in",
        final_norm: "final_layer_norm",
        head: "embed_out",
        head_alias: Some("lm_head"),
        ..BASE.names
    },
    norm: LAYER_NORM,
    attention: AttentionSpec { position: rope(RotaryPart::Share(0.25)), ..BASE.attention },
    wiring: Wiring::Field("use_parallel_residual", true),
    blocks: &[
        attention(
            "input_layernorm",
            &[
                Weight {
                    order: Order::Grouped,
                    ..Weight::linear("attention.query_key_value", &[Query, Key, Value], Residual, Heads, NEOX_BIAS)
                },
                Weight::linear("attention.dense", &[Output], Heads, Residual, NEOX_BIAS),
            ],
        ),
        mlp("post_attention_layernorm", &plain("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", Always)),
    ],
    forms: Forms {
        gguf: Some(Gguf { fused: true, ..biased_gguf("gptneox") }),
        code: Some(RemoteCode::GPT_NEOX),
        ..BASE.forms
    },
    gguf_own: GgufOwn { head: GgufHead::Required, ..GGUF_GELU },
    ..BASE
};

const NEOX_BIAS: Bias = Field("attention_bias", true);
