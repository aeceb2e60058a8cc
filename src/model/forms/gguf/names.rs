//! What llama.cpp calls tensors and metadata: the same words when a file is written and when one is read.

use crate::model::architecture::{Architecture, Block, Multipliers, Role, Wiring};

pub const EMBEDDING: &str = "token_embd";
pub const EMBEDDING_NORM: &str = "token_embd_norm";
pub const POSITIONS: &str = "position_embd.weight";
pub const FINAL_NORM: &str = "output_norm";
pub const HEAD: &str = "output";
/// What divides each frequency.
pub const FREQUENCY_FACTORS: &str = "rope_freqs.weight";
/// The same of texts up to the original length, and of longer ones.
pub const LONG_FACTORS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];
/// The norms of queries and of keys.
pub const HEAD_NORMS: [&str; 2] = ["attn_q_norm", "attn_k_norm"];
/// The logits of heads that stand for no key.
pub const SINKS: &str = "attn_sinks.weight";

/// A key, and the config field that a row has for it.
type Multiplier = (&'static str, fn(&Multipliers) -> Option<&'static str>);

/// The factors of the signals.
pub const MULTIPLIERS: [Multiplier; 4] = [
    ("embedding_scale", |names| names.embedding),
    ("residual_scale", |names| names.residual),
    ("attention.scale", |names| names.attention),
    // Logits are divided by the one and multiplied by the other, there as here.
    ("logit_scale", |names| names.logits.or(names.logit_scale.map(|(name, _)| name))),
];

/// The part of a tensor's name that says which weight it is.
pub fn stem(role: Role) -> &'static str {
    match role {
        Role::Query => "attn_q",
        Role::Key => "attn_k",
        Role::Value => "attn_v",
        Role::Output => "attn_output",
        Role::Gate => "ffn_gate",
        Role::Up => "ffn_up",
        Role::Down => "ffn_down",
        Role::Router => "ffn_gate_inp",
        Role::OutputGate => "attn_gate",
        Role::Mixed => "attn_qkv",
        Role::Beta => "ssm_beta",
        Role::Decay => "ssm_alpha",
    }
}

/// That of a tensor that holds weights one after the other.
pub fn stem_of_fused(roles: &[Role]) -> &'static str {
    match roles {
        [one] => stem(*one),
        [Role::Query, ..] => "attn_qkv",
        _ => stem(Role::Up),
    }
}

/// The norms of a block, before it and of its result: their names here and there.
pub fn norms(row: &Architecture, block: &Block) -> [Option<(&'static str, &'static str)>; 2] {
    let [attention, mlp] = row.gguf_own.norms;
    let [before, after] = match block.kind.looks_back() {
        true => [attention, "post_attention_norm"],
        false => [mlp, "post_ffw_norm"],
    };
    [block.norm.map(|norm| (norm, before)), block.norm_after.map(|norm| (norm, after))]
}

/// Whether the file says of the row's wiring, which its tensors may say as well.
pub fn has_parallel_flag(row: &Architecture) -> bool {
    matches!(row.wiring, Wiring::Field(..)) || row.when.iter().any(|(name, ..)| *name == "use_parallel_residual")
}
