//! THE TABLE: one typed row for each `model_type`.
//!
//! A row says, for each weight, which space it reads and which it writes. That alone tells how to fuse, rotate and slice it:
//! what reads the residual stream gets W·Q, what writes it gets Qᵀ·W, everything else stays. There is no `if model_type ==` anywhere.

use super::defaults::{self, Defaults};
use crate::ops::{Norm, Pairing};

/// A space that signals live in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// The residual stream, hidden_size wide: what slicing makes narrower.
    Residual,
    /// Queries, keys, values or the attention's result.
    Heads,
    /// Between the two linear layers of the MLP.
    Hidden,
}

/// What a weight of a layer is for; from it follow its size and where its result goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Query,
    Key,
    Value,
    /// Query, key and value one behind the other.
    Qkv,
    /// Query, key and value of head 0, then of head 1, …
    QkvPerHead,
    Output,
    Gate,
    Up,
    /// Gate and up one behind the other.
    GateUp,
    Down,
}

impl Role {
    /// Whether the weight belongs to the attention half of the layer.
    pub fn is_attention(self) -> bool {
        matches!(self, Self::Query | Self::Key | Self::Value | Self::Qkv | Self::QkvPerHead | Self::Output)
    }
}

/// How a linear weight is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[out, in]`.
    Linear,
    /// `[in, out]`, GPT-2's.
    Conv1d,
}

/// When a weight has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    Never,
    Always,
    /// When this config field says so; `bool` if it does not speak.
    Field(&'static str, bool),
}

/// A linear weight of a decoder layer.
#[derive(Debug, Clone, Copy)]
pub struct Weight {
    /// Name within the layer, without `.weight`.
    pub name: &'static str,
    pub role: Role,
    pub reads: Space,
    pub writes: Space,
    pub layout: Layout,
    pub bias: Bias,
}

impl Weight {
    const fn linear(name: &'static str, role: Role, reads: Space, writes: Space, bias: Bias) -> Self {
        Self { name, role, reads, writes, layout: Layout::Linear, bias }
    }

    const fn conv1d(name: &'static str, role: Role, reads: Space, writes: Space) -> Self {
        Self { name, role, reads, writes, layout: Layout::Conv1d, bias: Bias::Always }
    }
}

/// How the two halves of a layer are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// The MLP reads what the attention block has written.
    Sequential,
    /// Both read the input of the layer and add to it.
    Parallel,
    /// Parallel when this config field says so; `bool` if it does not speak.
    Field(&'static str, bool),
}

/// Where the model knows positions from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Position {
    /// A learned table: its name, and the row of position 0.
    Learned { name: &'static str, offset: usize },
    /// Rotary embeddings, over a part of each head where the config may say which; this part if it does not. Over whole heads if `None`, whatever
    /// the config says.
    Rope { pairing: Pairing, partial: Option<f64> },
}

/// Which layers look no further back than `sliding_window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    None,
    All,
    /// Those that `layer_types` names, or from `max_window_layers` on, when `use_sliding_window` is true.
    Some,
}

/// Normalisation of queries and keys by head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QkNorm {
    pub q: &'static str,
    pub k: &'static str,
    pub norm: Norm,
    /// The config field that switches it on; always on if `None`.
    pub field: Option<&'static str>,
}

/// What the config calls things.
#[derive(Debug, Clone, Copy)]
pub struct Fields {
    pub hidden_size: &'static str,
    pub num_hidden_layers: &'static str,
    pub num_attention_heads: &'static str,
    pub num_key_value_heads: Option<&'static str>,
    /// Where the config does not mention it; num_attention_heads if `None`, and where it is null.
    pub default_key_value_heads: Option<usize>,
    pub intermediate_size: &'static str,
    /// intermediate_size / hidden_size where the config does not give it; the default of the class if `None`.
    pub intermediate_factor: Option<usize>,
    pub max_position_embeddings: &'static str,
    /// Name, and the value where the config does not give it.
    pub norm_eps: (Option<&'static str>, f64),
    pub activation: (&'static str, &'static str),
    /// The base of rotary frequencies and the part of each head that turns, where they stand beside the section that is about them.
    pub rotary: (&'static str, &'static str),
}

/// How llama.cpp takes models of a row.
#[derive(Debug, Clone, Copy)]
pub struct Gguf {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// Whether it turns neighbouring coordinates of a head together, where the checkpoint has those half a head apart.
    pub interleaved: bool,
    /// Whether it reads a factor for each frequency from the file.
    pub frequency_factors: bool,
    /// The weights that may have a bias.
    pub biases: &'static [Role],
}

/// One row: everything that distinguishes a `model_type`.
#[derive(Debug, Clone, Copy)]
pub struct Architecture {
    pub model_type: &'static str,
    pub fields: Fields,
    pub defaults: Defaults,
    pub norm: Norm,
    /// The config field that says whether norms have parameters; they do if `None`.
    pub norm_affine: Option<&'static str>,
    pub blocks: Blocks,
    pub gated: bool,
    pub position: Position,
    /// The rotary scalings that transformers computes for it.
    pub rope_types: &'static [&'static str],
    pub window: Window,
    /// The window where the config does not mention it; `null` means none.
    pub default_window: Option<usize>,
    pub qk_norm: Option<QkNorm>,
    pub tied_head: bool,
    /// head_dim where the config does not give it: hidden_size / num_attention_heads if `None`.
    pub head_dim: Option<usize>,
    /// Whether `head_dim` of the config counts.
    pub explicit_head_dim: bool,
    /// Whether transformers refuses a hidden_size that num_attention_heads does not divide, though head_dim is explicit.
    pub width_by_heads: bool,
    /// Before every name but the head's; some checkpoints leave it out.
    pub prefix: &'static str,
    pub embedding: &'static str,
    pub layers: &'static str,
    pub attention_norm: &'static str,
    /// The norm that the MLP reads, where it is not the attention's.
    pub mlp_norm: Option<&'static str>,
    pub final_norm: &'static str,
    pub head: &'static str,
    /// Another name that the head may have.
    pub head_alias: Option<&'static str>,
    pub head_bias: bool,
    pub layer: &'static [Weight],
    /// Fields that must have this value (as JSON), with the reason.
    pub required: &'static [(&'static str, &'static str, &'static str)],
    /// How to write it as GGUF, where we can.
    pub gguf: Option<Gguf>,
}

use Bias::{Always, Field, Never};
use Role::{Down, Gate, GateUp, Key, Output, Qkv, QkvPerHead, Query, Up, Value};
use Space::{Heads, Hidden, Residual};

const ROPE: Position = Position::Rope { pairing: Pairing::HalfSplit, partial: None };

const FIELDS: Fields = Fields {
    hidden_size: "hidden_size",
    num_hidden_layers: "num_hidden_layers",
    num_attention_heads: "num_attention_heads",
    num_key_value_heads: Some("num_key_value_heads"),
    default_key_value_heads: None,
    intermediate_size: "intermediate_size",
    intermediate_factor: None,
    max_position_embeddings: "max_position_embeddings",
    norm_eps: (Some("rms_norm_eps"), 1e-6),
    activation: ("hidden_act", "silu"),
    rotary: ("rope_theta", "partial_rotary_factor"),
};

const ROPE_TYPES: &[&str] = &["default", "linear", "dynamic", "llama3", "yarn"];

/// q, k, v, o, gate, up, down under the names that most models use, with the biases of each.
const fn gated_layer(qkv: Bias, output: Bias, mlp: Bias) -> [Weight; 7] {
    [
        Weight::linear("self_attn.q_proj", Query, Residual, Heads, qkv),
        Weight::linear("self_attn.k_proj", Key, Residual, Heads, qkv),
        Weight::linear("self_attn.v_proj", Value, Residual, Heads, qkv),
        Weight::linear("self_attn.o_proj", Output, Heads, Residual, output),
        Weight::linear("mlp.gate_proj", Gate, Residual, Hidden, mlp),
        Weight::linear("mlp.up_proj", Up, Residual, Hidden, mlp),
        Weight::linear("mlp.down_proj", Down, Hidden, Residual, mlp),
    ]
}

const LLAMA_LAYER: &[Weight] = &gated_layer(Field("attention_bias", false), Field("attention_bias", false), Field("mlp_bias", false));

const LLAMA: Architecture = Architecture {
    model_type: "llama",
    fields: FIELDS,
    defaults: defaults::LLAMA,
    norm: Norm::Rms,
    norm_affine: None,
    blocks: Blocks::Sequential,
    gated: true,
    position: ROPE,
    rope_types: ROPE_TYPES,
    window: Window::None,
    default_window: None,
    qk_norm: None,
    tied_head: false,
    head_dim: None,
    explicit_head_dim: true,
    width_by_heads: true,
    prefix: "model.",
    embedding: "embed_tokens",
    layers: "layers",
    attention_norm: "input_layernorm",
    mlp_norm: Some("post_attention_layernorm"),
    final_norm: "norm",
    head: "lm_head",
    head_alias: None,
    head_bias: false,
    layer: LLAMA_LAYER,
    required: &[],
    gguf: Some(Gguf { architecture: "llama", interleaved: true, frequency_factors: true, biases: &[Query, Key, Value, Output, Gate, Up, Down] }),
};

const MISTRAL: Architecture = Architecture {
    model_type: "mistral",
    defaults: defaults::MISTRAL,
    width_by_heads: false,
    fields: Fields { default_key_value_heads: Some(8), ..FIELDS },
    window: Window::All,
    default_window: Some(4096),
    layer: &gated_layer(Never, Never, Never),
    ..LLAMA
};

const QWEN2: Architecture = Architecture {
    model_type: "qwen2",
    defaults: defaults::QWEN,
    width_by_heads: false,
    fields: Fields { default_key_value_heads: Some(32), ..FIELDS },
    window: Window::Some,
    default_window: Some(4096),
    layer: &gated_layer(Always, Never, Never),
    gguf: Some(Gguf { architecture: "qwen2", interleaved: false, frequency_factors: false, biases: &[Query, Key, Value] }),
    ..LLAMA
};

const QWEN3: Architecture = Architecture {
    model_type: "qwen3",
    defaults: defaults::QWEN,
    width_by_heads: false,
    fields: Fields { default_key_value_heads: Some(32), ..FIELDS },
    window: Window::Some,
    default_window: Some(4096),
    qk_norm: Some(QkNorm { q: "self_attn.q_norm", k: "self_attn.k_norm", norm: Norm::Rms, field: None }),
    head_dim: Some(128),
    layer: &gated_layer(Field("attention_bias", false), Field("attention_bias", false), Never),
    gguf: Some(Gguf { architecture: "qwen3", interleaved: false, frequency_factors: false, biases: &[] }),
    ..LLAMA
};

const PHI3: Architecture = Architecture {
    model_type: "phi3",
    defaults: defaults::PHI3,
    width_by_heads: false,
    position: Position::Rope { pairing: Pairing::HalfSplit, partial: Some(1.0) },
    rope_types: &["default"],
    fields: Fields { norm_eps: (Some("rms_norm_eps"), 1e-5), ..FIELDS },
    window: Window::All,
    layer: &[
        Weight::linear("self_attn.qkv_proj", Qkv, Residual, Heads, Never),
        Weight::linear("self_attn.o_proj", Output, Heads, Residual, Never),
        Weight::linear("mlp.gate_up_proj", GateUp, Residual, Hidden, Never),
        Weight::linear("mlp.down_proj", Down, Hidden, Residual, Never),
    ],
    gguf: None,
    ..LLAMA
};

const PHI: Architecture = Architecture {
    model_type: "phi",
    defaults: defaults::PHI,
    width_by_heads: false,
    fields: Fields { norm_eps: (Some("layer_norm_eps"), 1e-5), activation: ("hidden_act", "gelu_new"), ..FIELDS },
    norm: Norm::Layer,
    blocks: Blocks::Parallel,
    gated: false,
    position: Position::Rope { pairing: Pairing::HalfSplit, partial: Some(0.5) },
    qk_norm: Some(QkNorm { q: "self_attn.q_layernorm", k: "self_attn.k_layernorm", norm: Norm::Layer, field: Some("qk_layernorm") }),
    mlp_norm: None,
    final_norm: "final_layernorm",
    head_bias: true,
    layer: &[
        Weight::linear("self_attn.q_proj", Query, Residual, Heads, Always),
        Weight::linear("self_attn.k_proj", Key, Residual, Heads, Always),
        Weight::linear("self_attn.v_proj", Value, Residual, Heads, Always),
        Weight::linear("self_attn.dense", Output, Heads, Residual, Always),
        Weight::linear("mlp.fc1", Up, Residual, Hidden, Always),
        Weight::linear("mlp.fc2", Down, Hidden, Residual, Always),
    ],
    gguf: None,
    ..LLAMA
};

const OPT_BIAS: Bias = Field("enable_bias", true);

const OPT: Architecture = Architecture {
    model_type: "opt",
    defaults: defaults::OPT,
    fields: Fields {
        num_key_value_heads: None,
        intermediate_size: "ffn_dim",
        norm_eps: (None, 1e-5),
        activation: ("activation_function", "relu"),
        ..FIELDS
    },
    norm: Norm::Layer,
    norm_affine: Some("layer_norm_elementwise_affine"),
    gated: false,
    position: Position::Learned { name: "embed_positions", offset: 2 },
    tied_head: true,
    explicit_head_dim: false,
    prefix: "model.decoder.",
    attention_norm: "self_attn_layer_norm",
    mlp_norm: Some("final_layer_norm"),
    final_norm: "final_layer_norm",
    layer: &[
        Weight::linear("self_attn.q_proj", Query, Residual, Heads, OPT_BIAS),
        Weight::linear("self_attn.k_proj", Key, Residual, Heads, OPT_BIAS),
        Weight::linear("self_attn.v_proj", Value, Residual, Heads, OPT_BIAS),
        Weight::linear("self_attn.out_proj", Output, Heads, Residual, OPT_BIAS),
        Weight::linear("fc1", Up, Residual, Hidden, OPT_BIAS),
        Weight::linear("fc2", Down, Hidden, Residual, OPT_BIAS),
    ],
    required: &[
        ("do_layer_norm_before", "true", "norms after the blocks (as in OPT-350m) cannot be fused into the weights"),
        ("_remove_final_layer_norm", "false", "a model without its final norm has nothing to fuse into the head"),
    ],
    gguf: None,
    ..LLAMA
};

const GPT2: Architecture = Architecture {
    model_type: "gpt2",
    defaults: defaults::GPT2,
    fields: Fields {
        hidden_size: "n_embd",
        num_hidden_layers: "n_layer",
        num_attention_heads: "n_head",
        num_key_value_heads: None,
        default_key_value_heads: None,
        intermediate_size: "n_inner",
        intermediate_factor: Some(4),
        max_position_embeddings: "n_positions",
        norm_eps: (Some("layer_norm_epsilon"), 1e-5),
        activation: ("activation_function", "gelu_new"),
        ..FIELDS
    },
    norm: Norm::Layer,
    gated: false,
    position: Position::Learned { name: "wpe", offset: 0 },
    tied_head: true,
    explicit_head_dim: false,
    prefix: "transformer.",
    embedding: "wte",
    layers: "h",
    attention_norm: "ln_1",
    mlp_norm: Some("ln_2"),
    final_norm: "ln_f",
    layer: &[
        Weight::conv1d("attn.c_attn", Qkv, Residual, Heads),
        Weight::conv1d("attn.c_proj", Output, Heads, Residual),
        Weight::conv1d("mlp.c_fc", Up, Residual, Hidden),
        Weight::conv1d("mlp.c_proj", Down, Hidden, Residual),
    ],
    required: &[("add_cross_attention", "false", "there is no encoder to attend to")],
    gguf: None,
    ..LLAMA
};

const GPT_NEOX: Architecture = Architecture {
    model_type: "gpt_neox",
    defaults: defaults::GPT_NEOX,
    fields: Fields {
        num_key_value_heads: None,
        norm_eps: (Some("layer_norm_eps"), 1e-5),
        activation: ("hidden_act", "gelu"),
        rotary: ("rotary_emb_base", "rotary_pct"),
        ..FIELDS
    },
    norm: Norm::Layer,
    blocks: Blocks::Field("use_parallel_residual", true),
    gated: false,
    position: Position::Rope { pairing: Pairing::HalfSplit, partial: Some(0.25) },
    explicit_head_dim: false,
    prefix: "gpt_neox.",
    embedding: "embed_in",
    final_norm: "final_layer_norm",
    head: "embed_out",
    head_alias: Some("lm_head"),
    layer: &[
        Weight::linear("attention.query_key_value", QkvPerHead, Residual, Heads, Field("attention_bias", true)),
        Weight::linear("attention.dense", Output, Heads, Residual, Field("attention_bias", true)),
        Weight::linear("mlp.dense_h_to_4h", Up, Residual, Hidden, Always),
        Weight::linear("mlp.dense_4h_to_h", Down, Hidden, Residual, Always),
    ],
    gguf: None,
    ..LLAMA
};

/// Every row.
pub const ARCHITECTURES: &[Architecture] = &[LLAMA, MISTRAL, QWEN2, QWEN3, PHI, PHI3, OPT, GPT2, GPT_NEOX];

/// Config fields that change the maths of some model in a way that no row handles: any other value than one that switches them off (null, false,
/// zero, nothing in it, no number) or the neutral ones (as JSON) is refused.
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
    ("per_layer_config", &[]),
    ("configuration_files", &[]),
];
