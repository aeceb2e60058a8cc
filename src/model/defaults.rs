//! What the config classes of transformers take where config.json leaves a field out.

/// The sizes and ids of one class; what depends on other fields is in [`super::architecture::Fields`].
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
}

pub const LLAMA: Defaults = Defaults {
    hidden_size: 4096,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    intermediate_size: 11008,
    vocab_size: 32000,
    max_position_embeddings: 2048,
    bos_token_id: Some(1),
    eos_token_id: Some(2),
};

pub const MISTRAL: Defaults = Defaults { intermediate_size: 14336, max_position_embeddings: 131_072, ..LLAMA };

/// Of Qwen2 and Qwen3.
pub const QWEN: Defaults = Defaults {
    intermediate_size: 22016,
    vocab_size: 151_936,
    max_position_embeddings: 32768,
    bos_token_id: None,
    eos_token_id: None,
    ..LLAMA
};

pub const QWEN2_MOE: Defaults = Defaults { num_attention_heads: 16, intermediate_size: 5632, ..QWEN3_MOE };

pub const QWEN3_MOE: Defaults = Defaults { hidden_size: 2048, num_hidden_layers: 24, intermediate_size: 6144, ..QWEN };

pub const QWEN3_5: Defaults =
    Defaults { num_attention_heads: 16, intermediate_size: 12288, vocab_size: 248_320, ..QWEN };

pub const OLMOE: Defaults = Defaults {
    hidden_size: 2048,
    num_hidden_layers: 16,
    num_attention_heads: 16,
    intermediate_size: 2048,
    vocab_size: 50304,
    max_position_embeddings: 4096,
    bos_token_id: None,
    eos_token_id: Some(50279),
};

pub const PHI3: Defaults = Defaults {
    hidden_size: 3072,
    intermediate_size: 8192,
    vocab_size: 32064,
    max_position_embeddings: 4096,
    eos_token_id: Some(32000),
    ..LLAMA
};

pub const PHI: Defaults =
    Defaults { hidden_size: 2048, num_hidden_layers: 24, intermediate_size: 8192, vocab_size: 51200, ..LLAMA };

pub const SMOLLM3: Defaults = Defaults {
    hidden_size: 2048,
    num_hidden_layers: 36,
    num_attention_heads: 16,
    vocab_size: 128_256,
    max_position_embeddings: 32768,
    bos_token_id: Some(128_000),
    eos_token_id: Some(128_001),
    ..LLAMA
};

pub const STARCODER2: Defaults = Defaults {
    hidden_size: 3072,
    num_hidden_layers: 30,
    num_attention_heads: 24,
    intermediate_size: 12288,
    vocab_size: 49152,
    max_position_embeddings: 4096,
    bos_token_id: Some(50256),
    eos_token_id: Some(50256),
};

pub const GPTJ: Defaults = Defaults {
    hidden_size: 4096,
    num_hidden_layers: 28,
    num_attention_heads: 16,
    intermediate_size: 16384,
    vocab_size: 50400,
    max_position_embeddings: 2048,
    bos_token_id: Some(50256),
    eos_token_id: Some(50256),
};

pub const OPT: Defaults = Defaults {
    hidden_size: 768,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    intermediate_size: 3072,
    vocab_size: 50272,
    max_position_embeddings: 2048,
    bos_token_id: Some(2),
    eos_token_id: Some(2),
};

pub const GPT2: Defaults = Defaults {
    vocab_size: 50257,
    max_position_embeddings: 1024,
    bos_token_id: Some(50256),
    eos_token_id: Some(50256),
    ..OPT
};

pub const GPT_NEOX: Defaults = Defaults {
    hidden_size: 6144,
    num_hidden_layers: 44,
    num_attention_heads: 64,
    intermediate_size: 24576,
    vocab_size: 50432,
    max_position_embeddings: 2048,
    bos_token_id: Some(0),
    eos_token_id: Some(2),
};

pub const GEMMA: Defaults = Defaults {
    hidden_size: 3072,
    num_hidden_layers: 28,
    num_attention_heads: 16,
    intermediate_size: 24576,
    vocab_size: 256_000,
    max_position_embeddings: 8192,
    bos_token_id: Some(2),
    eos_token_id: Some(1),
};

pub const GEMMA2: Defaults =
    Defaults { hidden_size: 2304, num_hidden_layers: 26, num_attention_heads: 8, intermediate_size: 9216, ..GEMMA };

pub const GEMMA3: Defaults = Defaults { vocab_size: 262_208, max_position_embeddings: 131_072, ..GEMMA2 };

/// Of OLMo and OLMo 2.
pub const OLMO: Defaults = Defaults { vocab_size: 50304, bos_token_id: None, eos_token_id: Some(50279), ..LLAMA };

pub const STABLELM: Defaults = Defaults {
    hidden_size: 2560,
    intermediate_size: 6912,
    vocab_size: 50304,
    max_position_embeddings: 4096,
    bos_token_id: Some(0),
    eos_token_id: Some(0),
    ..LLAMA
};

pub const COHERE: Defaults = Defaults {
    hidden_size: 8192,
    num_hidden_layers: 40,
    num_attention_heads: 64,
    intermediate_size: 22528,
    vocab_size: 256_000,
    max_position_embeddings: 8192,
    bos_token_id: Some(5),
    eos_token_id: Some(255_001),
};

pub const GPT_NEO: Defaults = Defaults {
    hidden_size: 2048,
    num_hidden_layers: 24,
    num_attention_heads: 16,
    intermediate_size: 8192,
    max_position_embeddings: 2048,
    ..GPT2
};

pub const FALCON: Defaults = Defaults {
    hidden_size: 4544,
    num_hidden_layers: 32,
    num_attention_heads: 71,
    intermediate_size: 18176,
    vocab_size: 65024,
    max_position_embeddings: 2048,
    bos_token_id: Some(11),
    eos_token_id: Some(11),
};

/// Its class has no length; what models of it were trained with.
pub const BLOOM: Defaults = Defaults {
    hidden_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 8,
    intermediate_size: 256,
    vocab_size: 250_880,
    max_position_embeddings: 2048,
    bos_token_id: Some(1),
    eos_token_id: Some(2),
};

pub const MPT: Defaults = Defaults {
    hidden_size: 2048,
    num_hidden_layers: 24,
    num_attention_heads: 16,
    intermediate_size: 8192,
    vocab_size: 50368,
    max_position_embeddings: 2048,
    bos_token_id: None,
    eos_token_id: None,
};

pub const GPT_OSS: Defaults = Defaults {
    hidden_size: 2880,
    num_hidden_layers: 36,
    num_attention_heads: 64,
    intermediate_size: 2880,
    vocab_size: 201_088,
    max_position_embeddings: 131_072,
    bos_token_id: None,
    eos_token_id: None,
};
