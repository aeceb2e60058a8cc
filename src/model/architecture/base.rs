//! What rows start from, and the fields that they refuse unless they say otherwise.

use super::{
    Affine, Alibi, Architecture, AttentionSpec, EndsSpec, Fields, Multipliers, NormSpec, Position, RopeLayers,
    RotaryPart, Scale, Stems, Window, Wiring,
};
use crate::{
    model::{
        defaults,
        forms::{Forms, GgufAlibi, GgufHead, GgufOwn, GgufQkNorm, GgufWindows},
    },
    ops::{Activation, Norm},
};

/// No model: RMS norms with weights, whole rotary heads, no windows, no biases, no form but the checkpoint itself.
pub const BASE: Architecture = Architecture {
    model_type: "",
    when: &[],
    fields: Fields {
        hidden_size: "hidden_size",
        num_hidden_layers: "num_hidden_layers",
        num_attention_heads: "num_attention_heads",
        num_key_value_heads: None,
        default_key_value_heads: None,
        multi_query: None,
        intermediate_size: "intermediate_size",
        intermediate_factor: None,
        max_position_embeddings: "max_position_embeddings",
        norm_eps: (Some("rms_norm_eps"), 1e-6),
        activation: ("hidden_act", "silu"),
        activation_meant: None,
        rotary: ("rope_theta", "partial_rotary_factor"),
    },
    defaults: defaults::LLAMA,
    names: Stems {
        prefix: "model.",
        embedding: "embed_tokens",
        embedding_norm: None,
        layers: "layers",
        final_norm: "norm",
        head: "lm_head",
        head_alias: None,
    },
    norm: NormSpec { kind: Norm::Rms, affine: Affine::Always, bias: true, offset: 0.0 },
    attention: AttentionSpec {
        position: Position::Rope {
            interleaved: false,
            part: RotaryPart::Whole,
            theta: 10000.0,
            layers: RopeLayers::All,
        },
        rope_types: &["default", "linear", "dynamic", "llama3", "yarn"],
        longrope: &[],
        default_scaling: None,
        window: Window::None,
        scale: Scale::HeadDim { fields: false },
        alibi: Alibi::Never,
        softcap: None,
        clip: None,
        local_theta: None,
        default_window: None,
        qk_norm: None,
        sinks: None,
        head_dim: None,
        explicit_head_dim: false,
        zero_head_dim: false,
    },
    multipliers: Multipliers {
        embedding: None,
        sqrt_width: false,
        residual: None,
        attention: None,
        logits: None,
        logit_scale: None,
        logit_softcap: None,
    },
    ends: EndsSpec { tied_head: false, head_bias: false },
    wiring: Wiring::Sequential,
    blocks: &[],
    mixture: None,
    delta_net: None,
    required: &[],
    handles: &[],
    forms: Forms { stock: false, width_by_heads: false, gguf: None, code: None },
    gguf_own: GgufOwn {
        activation: Activation::Silu,
        windows: GgufWindows::Unknown,
        nope_interval: None,
        softcaps: false,
        head: GgufHead::Optional,
        norms: ["attn_norm", "ffn_norm"],
        qk_norm: GgufQkNorm::Never,
        alibi: GgufAlibi::Never,
        clip: false,
    },
};

/// Config fields that change the maths of some model: any other value than one that switches them off (null, false,
/// zero, nothing in it, no number) or the neutral ones (as JSON) is refused, but by rows that handle the field.
pub const REFUSED: &[(&str, &[&str])] = &[
    ("attn_logit_softcapping", &[]),
    ("final_logit_softcapping", &[]),
    ("logit_scale", &["1", "1.0"]),
    ("logits_scaling", &["1", "1.0"]),
    ("residual_multiplier", &["1", "1.0"]),
    ("embedding_multiplier", &["1", "1.0"]),
    ("attention_multiplier", &[]),
    ("scale_embedding", &[]),
    ("num_local_experts", &[]),
    ("num_experts", &[]),
    ("clip_qkv", &[]),
    ("alibi", &[]),
    ("no_rope_layers", &[]),
    ("attention_chunk_size", &[]),
    ("quantization_config", &[]),
    ("is_encoder_decoder", &[]),
    ("use_qk_norm", &[]),
    ("parallel_attn", &[]),
    ("kv_lora_rank", &[]),
    ("attention_sink", &[]),
    ("use_bidirectional_attention", &[]),
    ("apply_residual_connection_post_layernorm", &[]),
    ("per_layer_config", &[]),
    ("configuration_files", &[]),
];

/// Fields that change the maths of some model unless another has this value (as JSON), or is not there; and why.
pub const REFUSED_TOGETHER: &[(&str, (&str, &str), &str)] =
    &[("slow_but_exact", ("pretraining_tp", "1"), "with a pretraining_tp above 1, transformers leaves biases out")];
