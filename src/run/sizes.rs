//! What is said of the sizes of a model before and after, and how one is loaded that was made smaller.

use serde::Serialize;

use crate::model::{Config, Kept, LayerSpec};

fn experts(layer: &LayerSpec) -> usize {
    layer.experts.map_or(0, |experts| experts.count)
}

/// The sizes of a model; where layers differ, heads and channels are the mean, rounded down.
#[derive(Debug, Clone, Serialize)]
pub struct Sizes {
    pub parameters: u64,
    pub bytes: u64,
    pub hidden_size: usize,
    pub layers: usize,
    pub query_heads: usize,
    pub key_value_heads: usize,
    pub intermediate_size: usize,
    /// Of all layers together, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<usize>,
    /// Bytes of keys and values that a token leaves in a cache of 16-bit numbers.
    pub cache_bytes_per_token: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
}

impl Sizes {
    pub(super) fn of(config: &Config, bytes: u64, parameters: u64, hidden_size: usize) -> Self {
        let mean = |of: fn(&LayerSpec) -> usize| config.layers.iter().map(of).sum::<usize>() / config.layers.len();
        Self {
            parameters,
            bytes,
            hidden_size,
            layers: config.layers.len(),
            query_heads: mean(|layer| layer.heads),
            key_value_heads: mean(|layer| layer.kv_heads),
            intermediate_size: mean(|layer| layer.intermediate_size),
            experts: config.is_mixture().then(|| config.layers.iter().map(experts).sum()),
            cache_bytes_per_token: config.layers.iter().map(|layer| 2 * layer.kv_width()).sum(),
            vocabulary: config.vocab_size,
        }
    }
}

/// What left a layer, by numbers in the original.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Removed {
    pub layer: usize,
    /// Whether the whole layer left.
    pub whole: bool,
    pub query_heads: Vec<usize>,
    pub key_value_heads: Vec<usize>,
    pub mlp_channels: Vec<usize>,
    /// None of a layer that is no mixture.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<usize>,
}

impl Removed {
    /// What a layer of sizes `spec` has lost where this much of it is kept.
    pub(super) fn of(spec: &LayerSpec, kept: &Kept) -> Self {
        let missing =
            |all: usize, kept: &[usize]| (0..all).filter(|number| kept.binary_search(number).is_err()).collect();
        Self {
            layer: kept.layer,
            whole: false,
            query_heads: missing(spec.heads, &kept.query_heads),
            key_value_heads: missing(spec.kv_heads, &kept.key_value_heads),
            mlp_channels: missing(spec.intermediate_size, &kept.mlp_channels),
            experts: missing(experts(spec), &kept.experts),
        }
    }
}

/// How the result is loaded: the end of its model card.
pub(super) fn loading(by_layer: bool) -> &'static str {
    if by_layer { BY_LAYER } else { ORDINARY }
}

/// How the result is loaded.
const ORDINARY: &str = "

This is an ordinary checkpoint of its model type, only smaller. In transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(\".\")
tokenizer = AutoTokenizer.from_pretrained(\".\")
```

`slicegpt-gpu export . --format gguf` makes a file for llama.cpp of it, where that knows the architecture. In this \
program:
";

/// How one is loaded whose layers differ.
const BY_LAYER: &str = "

Its layers differ in size, which the classes in transformers have no form for: the Python files beside this one have it.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(\".\", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(\".\")
```

`slicegpt-gpu export . --format gguf` makes a file for llama.cpp of it, if the original is a llama or a mistral. In \
this \
program:
";
