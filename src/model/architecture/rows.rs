//! The rows of the table.

use super::{
    Architecture, AttentionSpec, BASE, Bias, Block, BlockKind, EndsSpec, Fields, Multipliers, NormSpec, Position,
    QkNorm, QkSpan, Role, RopeLayers, RotaryPart, Space, Stems, Weight, Window, Wiring,
};
use crate::{
    model::{
        defaults,
        forms::{Forms, Gguf, GgufBiases, GgufHead, GgufOwn, GgufQkNorm, GgufWindows, OtherWidths, RemoteCode},
    },
    ops::{Activation, Norm},
};

use Bias::{Always, Field, Never};
use Role::{Down, Gate, Key, Output, Query, Up, Value};
use Space::{Heads, Hidden, Residual};

pub(super) const fn rope(part: RotaryPart) -> Position {
    Position::Rope { interleaved: false, part, theta: 10000.0, layers: RopeLayers::All }
}

pub(super) const fn attention(norm: &'static str, weights: &'static [Weight]) -> Block {
    Block { kind: BlockKind::Attention, norm: Some(norm), norm_after: None, weights }
}

pub(super) const fn mlp(norm: &'static str, weights: &'static [Weight]) -> Block {
    Block { kind: BlockKind::Mlp { gated: false }, norm: Some(norm), norm_after: None, weights }
}

pub(super) const fn gated_mlp(norm: &'static str, weights: &'static [Weight]) -> Block {
    Block { kind: BlockKind::Mlp { gated: true }, norm: Some(norm), norm_after: None, weights }
}

/// q, k, v and the output under the names that most models use.
pub(super) const fn heads(output: &'static str, qkv: Bias, bias: Bias) -> [Weight; 4] {
    [
        Weight::linear("self_attn.q_proj", &[Query], Residual, Heads, qkv),
        Weight::linear("self_attn.k_proj", &[Key], Residual, Heads, qkv),
        Weight::linear("self_attn.v_proj", &[Value], Residual, Heads, qkv),
        Weight::linear(output, &[Output], Heads, Residual, bias),
    ]
}

pub(super) const fn plain(up: &'static str, down: &'static str, bias: Bias) -> [Weight; 2] {
    [Weight::linear(up, &[Up], Residual, Hidden, bias), Weight::linear(down, &[Down], Hidden, Residual, bias)]
}

pub(super) const fn gated(bias: Bias) -> [Weight; 3] {
    [
        Weight::linear("mlp.gate_proj", &[Gate], Residual, Hidden, bias),
        Weight::linear("mlp.up_proj", &[Up], Residual, Hidden, bias),
        Weight::linear("mlp.down_proj", &[Down], Hidden, Residual, bias),
    ]
}

/// The two blocks of most models, whose attention and gated MLP may have biases.
pub(super) const fn gated_blocks(heads: &'static [Weight], mlp: &'static [Weight]) -> [Block; 2] {
    [attention("input_layernorm", heads), gated_mlp("post_attention_layernorm", mlp)]
}

pub(super) const ATTENTION_BIAS: Bias = Field("attention_bias", false);
pub(super) const FIELD_HEADS: &[Weight] = &heads("self_attn.o_proj", ATTENTION_BIAS, ATTENTION_BIAS);
pub(super) const FIELD_BLOCKS: &[Block] = &gated_blocks(FIELD_HEADS, &gated(Field("mlp_bias", false)));
pub(super) const GATED: &[Weight] = &gated(Never);
pub(super) const GROUPED: Fields = Fields { num_key_value_heads: Some("num_key_value_heads"), ..BASE.fields };
pub(super) const EXPLICIT: AttentionSpec = AttentionSpec { explicit_head_dim: true, ..BASE.attention };

pub(super) const LAYER_NORM: NormSpec = NormSpec { kind: Norm::Layer, ..BASE.norm };
/// Of each head by itself, with weights that all share.
pub(super) const QK_NORM: QkNorm = QkNorm {
    q: "self_attn.q_norm",
    k: "self_attn.k_norm",
    norm: Norm::Rms,
    span: QkSpan::Shared,
    bias: false,
    field: None,
};

const LLAMA_CPP: Gguf = Gguf {
    by_layer: Some("deci"),
    interleaved: true,
    frequency_factors: true,
    biases: GgufBiases::Of(&[Query, Key, Value, Output, Gate, Up, Down]),
    ..Gguf::of("llama")
};
/// What llama.cpp computes where its gelu, by tanh, is in the MLPs.
pub(super) const GGUF_GELU: GgufOwn = GgufOwn { activation: Activation::GeluTanh, ..BASE.gguf_own };
/// What has a bias wherever there can be one, and queries as wide as the residual stream.
pub(super) const fn biased_gguf(architecture: &'static str) -> Gguf {
    Gguf { biases: GgufBiases::All, other_widths: OtherWidths::Never, ..Gguf::of(architecture) }
}

pub(super) const LLAMA: Architecture = Architecture {
    model_type: "llama",
    fields: GROUPED,
    attention: EXPLICIT,
    blocks: FIELD_BLOCKS,
    forms: Forms { stock: true, width_by_heads: true, gguf: Some(LLAMA_CPP), code: Some(RemoteCode::LLAMA) },
    ..BASE
};

pub(super) const MISTRAL: Architecture = Architecture {
    model_type: "mistral",
    fields: Fields { default_key_value_heads: Some(8), ..GROUPED },
    defaults: defaults::MISTRAL,
    attention: AttentionSpec {
        window: Window::ListedForAnother,
        default_window: Some(4096),
        zero_head_dim: true,
        ..EXPLICIT
    },
    blocks: &gated_blocks(&heads("self_attn.o_proj", Never, Never), GATED),
    forms: Forms { stock: true, gguf: LLAMA.forms.gguf, code: Some(RemoteCode::MISTRAL), ..BASE.forms },
    ..BASE
};

/// Mistral by a name of its own, as which transformers takes it where layers differ in their windows.
pub(super) const MINISTRAL: Architecture = Architecture {
    model_type: "ministral",
    attention: AttentionSpec { window: Window::Listed, ..MISTRAL.attention },
    forms: Forms { stock: true, gguf: None, code: Some(RemoteCode::MINISTRAL), ..BASE.forms },
    ..MISTRAL
};

pub(super) const QWEN2: Architecture = Architecture {
    model_type: "qwen2",
    fields: Fields { default_key_value_heads: Some(32), ..GROUPED },
    defaults: defaults::QWEN,
    attention: AttentionSpec { window: Window::FromLayer, default_window: Some(4096), ..EXPLICIT },
    blocks: &gated_blocks(&heads("self_attn.o_proj", Always, Never), GATED),
    forms: Forms {
        stock: true,
        gguf: Some(Gguf {
            biases: GgufBiases::Of(&[Query, Key, Value]),
            other_widths: OtherWidths::As(&LLAMA_CPP),
            ..Gguf::of("qwen2")
        }),
        code: Some(RemoteCode::QWEN2),
        ..BASE.forms
    },
    ..BASE
};

pub(super) const QWEN3: Architecture = Architecture {
    model_type: "qwen3",
    fields: QWEN2.fields,
    defaults: defaults::QWEN,
    attention: AttentionSpec { qk_norm: Some(QK_NORM), head_dim: Some(128), ..QWEN2.attention },
    blocks: &gated_blocks(FIELD_HEADS, GATED),
    forms: Forms { stock: true, gguf: Some(Gguf::of("qwen3")), code: Some(RemoteCode::QWEN3), ..BASE.forms },
    gguf_own: GgufOwn { qk_norm: GgufQkNorm::Allowed, ..BASE.gguf_own },
    ..BASE
};

pub(super) const SMOLLM3: Architecture = Architecture {
    model_type: "smollm3",
    fields: Fields { default_key_value_heads: Some(4), ..GROUPED },
    defaults: defaults::SMOLLM3,
    attention: AttentionSpec {
        position: Position::Rope {
            interleaved: false,
            part: RotaryPart::Whole,
            theta: 2_000_000.0,
            layers: RopeLayers::Listed { list: "no_rope_layers", interval: ("no_rope_layer_interval", 4) },
        },
        window: Window::WithoutRope,
        ..EXPLICIT
    },
    ends: EndsSpec { tied_head: true, ..BASE.ends },
    blocks: FIELD_BLOCKS,
    handles: &["no_rope_layers"],
    forms: Forms {
        stock: true,
        gguf: Some(Gguf { interleaved: true, ..Gguf::of("smollm3") }),
        code: Some(RemoteCode::SMOLLM3),
        ..BASE.forms
    },
    gguf_own: GgufOwn { nope_interval: Some(4), ..BASE.gguf_own },
    ..BASE
};

pub(super) const GRANITE: Architecture = Architecture {
    model_type: "granite",
    fields: GROUPED,
    attention: EXPLICIT,
    multipliers: Multipliers {
        embedding: Some("embedding_multiplier"),
        residual: Some("residual_multiplier"),
        attention: Some("attention_multiplier"),
        logits: Some("logits_scaling"),
        ..BASE.multipliers
    },
    blocks: FIELD_BLOCKS,
    handles: &["embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"],
    forms: Forms {
        stock: true,
        gguf: Some(Gguf { by_layer: None, architecture: "granite", ..LLAMA_CPP }),
        code: Some(RemoteCode::GRANITE),
        ..BASE.forms
    },
    ..BASE
};

const USE_BIAS: Bias = Field("use_bias", true);

pub(super) const STARCODER2: Architecture = Architecture {
    model_type: "starcoder2",
    fields: Fields {
        default_key_value_heads: Some(2),
        norm_eps: (Some("norm_epsilon"), 1e-5),
        activation: ("hidden_act", "gelu_pytorch_tanh"),
        ..GROUPED
    },
    defaults: defaults::STARCODER2,
    norm: LAYER_NORM,
    attention: AttentionSpec { window: Window::All, zero_head_dim: true, ..EXPLICIT },
    ends: EndsSpec { tied_head: true, ..BASE.ends },
    blocks: &[
        attention("input_layernorm", &heads("self_attn.o_proj", USE_BIAS, USE_BIAS)),
        mlp("post_attention_layernorm", &plain("mlp.c_fc", "mlp.c_proj", USE_BIAS)),
    ],
    forms: Forms {
        stock: true,
        gguf: Some(biased_gguf("starcoder2")),
        code: Some(RemoteCode::STARCODER2),
        ..BASE.forms
    },
    gguf_own: GGUF_GELU,
    ..BASE
};

pub(super) const PHI3: Architecture = Architecture {
    model_type: "phi3",
    fields: Fields { norm_eps: (Some("rms_norm_eps"), 1e-5), ..GROUPED },
    defaults: defaults::PHI3,
    attention: AttentionSpec {
        position: rope(RotaryPart::Share(1.0)),
        rope_types: &["default"],
        longrope: &["longrope", "su", "yarn"],
        window: Window::All,
        ..EXPLICIT
    },
    blocks: &gated_blocks(
        &[
            Weight::linear("self_attn.qkv_proj", &[Query, Key, Value], Residual, Heads, Never),
            Weight::linear("self_attn.o_proj", &[Output], Heads, Residual, Never),
        ],
        &[
            Weight::linear("mlp.gate_up_proj", &[Gate, Up], Residual, Hidden, Never),
            Weight::linear("mlp.down_proj", &[Down], Hidden, Residual, Never),
        ],
    ),
    forms: Forms {
        stock: true,
        gguf: Some(Gguf {
            long_factors: true,
            fused: true,
            other_widths: OtherWidths::As(&LLAMA_CPP),
            ..Gguf::of("phi3")
        }),
        code: Some(RemoteCode::PHI3),
        ..BASE.forms
    },
    gguf_own: GgufOwn { windows: GgufWindows::Ignored, ..BASE.gguf_own },
    ..BASE
};

pub(super) const PHI: Architecture = Architecture {
    model_type: "phi",
    fields: Fields { norm_eps: (Some("layer_norm_eps"), 1e-5), activation: ("hidden_act", "gelu_new"), ..GROUPED },
    defaults: defaults::PHI,
    names: Stems { final_norm: "final_layernorm", ..BASE.names },
    norm: LAYER_NORM,
    attention: AttentionSpec {
        position: rope(RotaryPart::Share(0.5)),
        qk_norm: Some(QkNorm {
            q: "self_attn.q_layernorm",
            k: "self_attn.k_layernorm",
            norm: Norm::Layer,
            bias: true,
            field: Some("qk_layernorm"),
            ..QK_NORM
        }),
        ..EXPLICIT
    },
    ends: EndsSpec { head_bias: true, ..BASE.ends },
    wiring: Wiring::Parallel,
    blocks: &[
        attention("input_layernorm", &heads("self_attn.dense", Always, Always)),
        mlp("input_layernorm", &plain("mlp.fc1", "mlp.fc2", Always)),
    ],
    forms: Forms { stock: true, gguf: Some(biased_gguf("phi2")), code: Some(RemoteCode::PHI), ..BASE.forms },
    gguf_own: GgufOwn { head: GgufHead::Required, ..GGUF_GELU },
    ..BASE
};
