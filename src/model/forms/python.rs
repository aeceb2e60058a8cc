//! The Python files by which transformers loads a sliced checkpoint with `trust_remote_code=True`.

use serde_json::{Value, json};

use crate::model::Config;

/// What a sliced checkpoint of one `model_type` carries for transformers.
#[derive(Debug, Clone, Copy)]
pub struct RemoteCode {
    model_type: &'static str,
    /// In the names of its classes.
    class: &'static str,
    /// Names and contents.
    pub files: [(&'static str, &'static str); 3],
}

macro_rules! remote_code {
    ($model_type:literal, $class:literal) => {
        RemoteCode {
            model_type: $model_type,
            class: $class,
            files: [
                remote_code!(file concat!("configuration_sliced_", $model_type, ".py")),
                remote_code!(file concat!("modeling_sliced_", $model_type, ".py")),
                remote_code!(file "modeling_sliced_common.py"),
            ],
        }
    };
    (file $name:expr) => {
        ($name, include_str!(concat!("../../../assets/transformers/", $name)))
    };
}

impl RemoteCode {
    pub const LLAMA: Self = remote_code!("llama", "Llama");
    pub const MISTRAL: Self = remote_code!("mistral", "Mistral");
    pub const QWEN2: Self = remote_code!("qwen2", "Qwen2");
    pub const QWEN3: Self = remote_code!("qwen3", "Qwen3");
    pub const SMOLLM3: Self = remote_code!("smollm3", "SmolLM3");
    pub const GRANITE: Self = remote_code!("granite", "Granite");
    pub const STARCODER2: Self = remote_code!("starcoder2", "Starcoder2");
    pub const PHI: Self = remote_code!("phi", "Phi");
    pub const PHI3: Self = remote_code!("phi3", "Phi3");
    pub const OPT: Self = remote_code!("opt", "OPT");
    pub const GPT2: Self = remote_code!("gpt2", "GPT2");
    pub const GPTJ: Self = remote_code!("gptj", "GPTJ");
    pub const GPT_NEOX: Self = remote_code!("gpt_neox", "GPTNeoX");
}

impl RemoteCode {
    /// The fields of config.json that name its classes.
    pub fn fields(&self) -> [(&'static str, Value); 2] {
        let Self { model_type, class, .. } = self;
        let causal = format!("Sliced{class}ForCausalLM");
        let auto_map = json!({
            "AutoConfig": format!("configuration_sliced_{model_type}.Sliced{class}Config"),
            "AutoModelForCausalLM": format!("modeling_sliced_{model_type}.{causal}"),
        });
        [("architectures", json!([causal])), ("auto_map", auto_map)]
    }
}

impl Config {
    /// The Python files that belong beside this config, with their contents; none beside one that transformers knows.
    pub fn python_files(&self) -> &'static [(&'static str, &'static str)] {
        match &self.architecture.forms.code {
            Some(code) if self.fused() => &code.files,
            _ => &[],
        }
    }
}
