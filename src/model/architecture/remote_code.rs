//! The Python files of one `model_type`, and the classes in them.

use serde_json::{Value, json};

/// Names and contents of the files that belong beside a checkpoint.
type Files = &'static [(&'static str, &'static str)];

/// What sliced and pruned checkpoints of one `model_type` carry for transformers.
#[derive(Debug, Clone, Copy)]
pub struct RemoteCode {
    model_type: &'static str,
    /// In the names of its classes.
    class: &'static str,
    /// None where the width of no model can be cut.
    pub(in crate::model) sliced: Files,
    /// Where layers differ in size.
    pub(in crate::model) pruned: Files,
}

macro_rules! remote_code {
    ($model_type:literal, $class:literal) => {
        RemoteCode {
            model_type: $model_type,
            class: $class,
            sliced: remote_code!(files "sliced", $model_type),
            pruned: remote_code!(files "pruned", $model_type),
        }
    };
    (pruned $model_type:literal, $class:literal) => {
        RemoteCode {
            model_type: $model_type,
            class: $class,
            sliced: &[],
            pruned: remote_code!(files "pruned", $model_type),
        }
    };
    (files $kind:literal, $model_type:literal) => {
        &[
            remote_code!(file concat!("configuration_", $kind, "_", $model_type, ".py")),
            remote_code!(file concat!("modeling_", $kind, "_", $model_type, ".py")),
            remote_code!(file concat!("modeling_", $kind, "_common.py")),
        ]
    };
    (file $name:expr) => {
        ($name, include_str!(concat!("../../../assets/transformers/", $name)))
    };
}

impl RemoteCode {
    pub const LLAMA: Self = remote_code!("llama", "Llama");
    pub const MISTRAL: Self = remote_code!("mistral", "Mistral");
    pub const MINISTRAL: Self = remote_code!("ministral", "Ministral");
    pub const QWEN2: Self = remote_code!("qwen2", "Qwen2");
    pub const QWEN3: Self = remote_code!("qwen3", "Qwen3");
    pub const QWEN3_5_TEXT: Self = remote_code!("qwen3_5_text", "Qwen3_5Text");
    pub const QWEN2_MOE: Self = remote_code!(pruned "qwen2_moe", "Qwen2Moe");
    pub const QWEN3_MOE: Self = remote_code!(pruned "qwen3_moe", "Qwen3Moe");
    pub const MIXTRAL: Self = remote_code!(pruned "mixtral", "Mixtral");
    pub const OLMOE: Self = remote_code!(pruned "olmoe", "Olmoe");
    pub const GPT_OSS: Self = remote_code!(pruned "gpt_oss", "GptOss");
    pub const SMOLLM3: Self = remote_code!("smollm3", "SmolLM3");
    pub const GRANITE: Self = remote_code!("granite", "Granite");
    pub const STARCODER2: Self = remote_code!("starcoder2", "Starcoder2");
    pub const PHI: Self = remote_code!("phi", "Phi");
    pub const PHI3: Self = remote_code!("phi3", "Phi3");
    pub const OPT: Self = remote_code!("opt", "OPT");
    pub const GPT2: Self = remote_code!("gpt2", "GPT2");
    pub const GPTJ: Self = remote_code!("gptj", "GPTJ");
    pub const GPT_NEO: Self = remote_code!("gpt_neo", "GPTNeo");
    pub const GPT_NEOX: Self = remote_code!("gpt_neox", "GPTNeoX");
    pub const GEMMA: Self = remote_code!("gemma", "Gemma");
    pub const GEMMA2: Self = remote_code!(pruned "gemma2", "Gemma2");
    pub const GEMMA3_TEXT: Self = remote_code!(pruned "gemma3_text", "Gemma3Text");
    pub const OLMO: Self = remote_code!("olmo", "Olmo");
    pub const OLMO2: Self = remote_code!(pruned "olmo2", "Olmo2");
    pub const STABLELM: Self = remote_code!("stablelm", "StableLm");
    pub const COHERE: Self = remote_code!("cohere", "Cohere");
    pub const FALCON: Self = remote_code!("falcon", "Falcon");
    pub const BLOOM: Self = remote_code!(pruned "bloom", "Bloom");
    pub const MPT: Self = remote_code!("mpt", "Mpt");
}

impl RemoteCode {
    /// The fields of config.json that name the classes of a sliced model, or of a `pruned` one.
    pub fn fields(&self, pruned: bool) -> [(&'static str, Value); 2] {
        let Self { model_type, class, .. } = self;
        let (kind, prefix) = if pruned { ("pruned", "Pruned") } else { ("sliced", "Sliced") };
        let causal = format!("{prefix}{class}ForCausalLM");
        let auto_map = json!({
            "AutoConfig": format!("configuration_{kind}_{model_type}.{prefix}{class}Config"),
            "AutoModelForCausalLM": format!("modeling_{kind}_{model_type}.{causal}"),
        });
        [("architectures", json!([causal])), ("auto_map", auto_map)]
    }
}
