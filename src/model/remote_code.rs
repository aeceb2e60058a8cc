//! The Python files by which transformers loads a sliced checkpoint with `trust_remote_code=True`.

use serde_json::{Value, json};

use super::{architecture::Architecture, config::Config};

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
        ($name, include_str!(concat!("../../assets/transformers/", $name)))
    };
}

const REMOTE_CODE: &[RemoteCode] = &[
    remote_code!("llama", "Llama"),
    remote_code!("mistral", "Mistral"),
    remote_code!("qwen2", "Qwen2"),
    remote_code!("qwen3", "Qwen3"),
    remote_code!("phi", "Phi"),
    remote_code!("phi3", "Phi3"),
    remote_code!("opt", "OPT"),
    remote_code!("gpt2", "GPT2"),
    remote_code!("gpt_neox", "GPTNeoX"),
];

impl Architecture {
    /// The Python code for its sliced checkpoints.
    pub fn remote_code(&self) -> Option<&'static RemoteCode> {
        REMOTE_CODE.iter().find(|code| code.model_type == self.model_type)
    }
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
        match self.architecture.remote_code() {
            Some(code) if self.fused() => &code.files,
            _ => &[],
        }
    }
}
