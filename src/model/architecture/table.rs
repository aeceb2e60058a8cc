//! Every row.

use super::{
    Architecture,
    rows::{
        GPT_NEOX, GPT2, GPTJ, GRANITE, LLAMA, MINISTRAL, MISTRAL, OPT, PHI, PHI3, QWEN2, QWEN3, SMOLLM3, STARCODER2,
    },
    rows_alibi::{BLOOM, FALCON_7B, FALCON_NEW, FALCON_NEW_SHARED, FALCON_SEQUENTIAL, MPT},
    rows_gemma::{GEMMA, GEMMA2, GEMMA3},
    rows_mixtures::{MIXTRAL, QWEN2_MOE, QWEN3_MOE},
    rows_norms::{COHERE, GPT_NEO, OLMO, OLMO2, STABLELM, STABLELM_PARALLEL},
};

/// Every row.
pub const ARCHITECTURES: &[Architecture] = &[
    LLAMA,
    MISTRAL,
    MINISTRAL,
    QWEN2,
    QWEN3,
    SMOLLM3,
    GRANITE,
    STARCODER2,
    PHI,
    PHI3,
    OPT,
    GPT2,
    GPTJ,
    GPT_NEOX,
    GEMMA,
    GEMMA2,
    GEMMA3,
    OLMO,
    OLMO2,
    STABLELM,
    STABLELM_PARALLEL,
    COHERE,
    GPT_NEO,
    FALCON_7B,
    FALCON_NEW,
    FALCON_NEW_SHARED,
    FALCON_SEQUENTIAL,
    BLOOM,
    MPT,
    QWEN2_MOE,
    QWEN3_MOE,
    MIXTRAL,
];
