//! The rows of mixtures of experts.

use super::{
    Architecture, AttentionSpec, BASE, Bias, Block, BlockKind, Fields, Fused, Mixture, MixtureLayers, Normalised,
    Position, QkNorm, QkSpan, Role, RopeLayers, RotaryPart, Shared, Space, Together, Weight, Window, Yarn,
    rows::{EXPLICIT, FIELD_HEADS, GATED, GROUPED, QK_NORM, attention, gated_blocks, heads},
};
use crate::model::{
    defaults,
    forms::{Forms, Gguf, GgufBiases, GgufHead, GgufOwn, GgufQkNorm, GgufWindows, OtherWidths, RemoteCode},
};

use Bias::{Always, Field, Never};
use Role::{Down, Gate, Key, Query, Router, Up, Value};
use Space::{Experts, Hidden, Residual};

/// The block of a mixture, which reads the norm that the MLP of other layers reads.
const fn mixture(router: &'static [Weight]) -> Block {
    Block { kind: BlockKind::Mixture, norm: Some("post_attention_layernorm"), norm_after: None, weights: router }
}

const fn router(name: &'static str, bias: Bias) -> Weight {
    Weight::linear(name, &[Router], Residual, Experts, bias)
}

const fn expert(gate: &'static str, up: &'static str, down: &'static str, bias: Bias) -> [Weight; 3] {
    [
        Weight::linear(gate, &[Gate], Residual, Hidden, bias),
        Weight::linear(up, &[Up], Residual, Hidden, bias),
        Weight::linear(down, &[Down], Hidden, Residual, bias),
    ]
}

const FUSED: Fused = Fused { router: "mlp.gate", gate_up: "mlp.experts.gate_up_proj", down: "mlp.experts.down_proj" };

const QWEN2_HEADS: &[Weight] = &heads("self_attn.o_proj", Field("qkv_bias", true), Never);

pub(super) const QWEN2_MOE: Architecture = Architecture {
    model_type: "qwen2_moe",
    fields: Fields { default_key_value_heads: Some(16), ..GROUPED },
    defaults: defaults::QWEN2_MOE,
    attention: EXPLICIT,
    blocks: &gated_blocks(QWEN2_HEADS, GATED),
    mixture: Some(Mixture {
        blocks: &[attention("input_layernorm", QWEN2_HEADS), mixture(&[router("mlp.gate", Never)])],
        layers: MixtureLayers::Every { step: "decoder_sparse_step", dense: "mlp_only_layers" },
        count: (["num_experts", "num_experts"], 60),
        chosen: ("num_experts_per_tok", 4),
        intermediate_size: ("moe_intermediate_size", 1408),
        normalised: Normalised::Field("norm_topk_prob", false),
        experts: "mlp.experts",
        weights: &expert("gate_proj", "up_proj", "down_proj", Never),
        shared: Some(Shared {
            intermediate_size: ("shared_expert_intermediate_size", 5632),
            weights: &expert(
                "mlp.shared_expert.gate_proj",
                "mlp.shared_expert.up_proj",
                "mlp.shared_expert.down_proj",
                Never,
            ),
            gate: &router("mlp.shared_expert_gate", Never),
        }),
        gguf_normalises: false,
        fused: Some(FUSED),
        together: None,
        swiglu: None,
    }),
    required: &[("use_sliding_window", "false", "which layers have it depends on more than is implemented")],
    handles: &["num_experts"],
    forms: Forms {
        stock: true,
        gguf: Some(Gguf {
            biases: GgufBiases::Of(&[Query, Key, Value]),
            other_widths: OtherWidths::Never,
            ..Gguf::of("qwen2moe")
        }),
        code: Some(RemoteCode::QWEN2_MOE),
        ..BASE.forms
    },
    gguf_own: GgufOwn { head: GgufHead::Required, ..BASE.gguf_own },
    ..BASE
};

pub(super) const QWEN3_MOE: Architecture = Architecture {
    model_type: "qwen3_moe",
    fields: Fields { default_key_value_heads: Some(4), ..GROUPED },
    defaults: defaults::QWEN3_MOE,
    attention: AttentionSpec { window: Window::Used, default_window: Some(4096), qk_norm: Some(QK_NORM), ..EXPLICIT },
    blocks: &gated_blocks(FIELD_HEADS, GATED),
    mixture: Some(Mixture {
        blocks: &[attention("input_layernorm", FIELD_HEADS), mixture(&[router("mlp.gate", Never)])],
        layers: MixtureLayers::Every { step: "decoder_sparse_step", dense: "mlp_only_layers" },
        count: (["num_local_experts", "num_experts"], 128),
        chosen: ("num_experts_per_tok", 8),
        intermediate_size: ("moe_intermediate_size", 768),
        normalised: Normalised::Field("norm_topk_prob", false),
        experts: "mlp.experts",
        weights: &expert("gate_proj", "up_proj", "down_proj", Never),
        shared: None,
        gguf_normalises: true,
        fused: Some(FUSED),
        together: None,
        swiglu: None,
    }),
    handles: &["num_experts", "num_local_experts"],
    forms: Forms { stock: true, gguf: Some(Gguf::of("qwen3moe")), code: Some(RemoteCode::QWEN3_MOE), ..BASE.forms },
    gguf_own: GgufOwn { qk_norm: GgufQkNorm::Allowed, ..BASE.gguf_own },
    ..BASE
};

pub(super) const OLMOE: Architecture = Architecture {
    model_type: "olmoe",
    fields: Fields { norm_eps: (Some("rms_norm_eps"), 1e-5), ..GROUPED },
    defaults: defaults::OLMOE,
    attention: AttentionSpec { qk_norm: Some(QkNorm { span: QkSpan::Whole, ..QK_NORM }), ..BASE.attention },
    blocks: &gated_blocks(FIELD_HEADS, GATED),
    mixture: Some(Mixture {
        blocks: &[attention("input_layernorm", FIELD_HEADS), mixture(&[router("mlp.gate", Never)])],
        layers: MixtureLayers::All,
        count: (["num_local_experts", "num_experts"], 64),
        chosen: ("num_experts_per_tok", 8),
        intermediate_size: ("intermediate_size", 2048),
        normalised: Normalised::Field("norm_topk_prob", false),
        experts: "mlp.experts",
        weights: &expert("gate_proj", "up_proj", "down_proj", Never),
        shared: None,
        gguf_normalises: false,
        fused: Some(FUSED),
        together: None,
        swiglu: None,
    }),
    handles: &["num_experts", "num_local_experts"],
    forms: Forms {
        stock: true,
        gguf: Some(Gguf { other_widths: OtherWidths::Never, ..Gguf::of("olmoe") }),
        code: Some(RemoteCode::OLMOE),
        ..BASE.forms
    },
    gguf_own: GgufOwn { head: GgufHead::Required, qk_norm: GgufQkNorm::OfAsManyKeys, ..BASE.gguf_own },
    ..BASE
};

const MIXTRAL_HEADS: &[Weight] = &heads("self_attn.o_proj", Never, Never);

pub(super) const MIXTRAL: Architecture = Architecture {
    model_type: "mixtral",
    fields: Fields { default_key_value_heads: Some(8), norm_eps: (Some("rms_norm_eps"), 1e-5), ..GROUPED },
    defaults: defaults::MISTRAL,
    attention: AttentionSpec {
        position: Position::Rope {
            interleaved: false,
            part: RotaryPart::Whole,
            theta: 1_000_000.0,
            layers: RopeLayers::All,
        },
        window: Window::All,
        zero_head_dim: true,
        ..EXPLICIT
    },
    mixture: Some(Mixture {
        blocks: &[attention("input_layernorm", MIXTRAL_HEADS), mixture(&[router("block_sparse_moe.gate", Never)])],
        layers: MixtureLayers::All,
        count: (["num_experts", "num_local_experts"], 8),
        chosen: ("num_experts_per_tok", 2),
        intermediate_size: ("intermediate_size", 14336),
        normalised: Normalised::Always,
        experts: "block_sparse_moe.experts",
        weights: &expert("w1", "w3", "w2", Never),
        shared: None,
        gguf_normalises: true,
        fused: Some(FUSED),
        together: None,
        swiglu: None,
    }),
    blocks: &gated_blocks(MIXTRAL_HEADS, GATED),
    handles: &["num_experts", "num_local_experts"],
    forms: Forms {
        stock: true,
        gguf: Some(Gguf { interleaved: true, frequency_factors: true, ..Gguf::of("llama") }),
        code: Some(RemoteCode::MIXTRAL),
        ..BASE.forms
    },
    ..BASE
};

const GPT_OSS_BIAS: Bias = Field("attention_bias", true);
const GPT_OSS_HEADS: &[Weight] = &heads("self_attn.o_proj", GPT_OSS_BIAS, GPT_OSS_BIAS);

pub(super) const GPT_OSS: Architecture = Architecture {
    model_type: "gpt_oss",
    fields: Fields { default_key_value_heads: Some(8), norm_eps: (Some("rms_norm_eps"), 1e-5), ..GROUPED },
    defaults: defaults::GPT_OSS,
    attention: AttentionSpec {
        position: Position::Rope {
            interleaved: false,
            part: RotaryPart::Whole,
            theta: 150_000.0,
            layers: RopeLayers::All,
        },
        default_scaling: Some(Yarn { factor: 32.0, original: 4096, truncate: false }),
        window: Window::Pattern { field: None, interval: 2 },
        default_window: Some(128),
        sinks: Some("self_attn.sinks"),
        head_dim: Some(64),
        ..EXPLICIT
    },
    blocks: &gated_blocks(GPT_OSS_HEADS, GATED),
    mixture: Some(Mixture {
        blocks: &[attention("input_layernorm", GPT_OSS_HEADS), mixture(&[router("mlp.router", Always)])],
        layers: MixtureLayers::All,
        count: (["num_experts", "num_local_experts"], 128),
        chosen: ("num_experts_per_tok", 4),
        intermediate_size: ("intermediate_size", 2880),
        // A softmax over the logits of those alone.
        normalised: Normalised::Always,
        experts: "mlp.experts",
        weights: &expert("gate_proj", "up_proj", "down_proj", Always),
        shared: None,
        gguf_normalises: true,
        fused: None,
        together: Some(Together { gate_up: "mlp.experts.gate_up_proj", down: "mlp.experts.down_proj" }),
        swiglu: Some([("swiglu_alpha", 1.702), ("swiglu_limit", 7.0)]),
    }),
    required: &[("quantization_config.quant_method", "\"mxfp4\"", "of quantised ones, those in MXFP4 are read")],
    handles: &["num_experts", "num_local_experts", "quantization_config"],
    forms: Forms {
        stock: true,
        gguf: Some(Gguf { biases: GgufBiases::All, ..Gguf::of("gpt-oss") }),
        code: Some(RemoteCode::GPT_OSS),
        ..BASE.forms
    },
    gguf_own: GgufOwn {
        windows: GgufWindows::Interval(2),
        head: GgufHead::Required,
        norms: ["attn_norm", "post_attention_norm"],
        ..BASE.gguf_own
    },
    ..BASE
};
