//! Which of transformers' classes reads the tokenizer beside a model: some build it anew from its vocabulary and
//! merges, whatever else tokenizer.json says, so ids depend on the class.

use serde_json::Value;

use super::Config;

/// The class that reads tokenizer.json as it stands.
const SERIALIZED: &str = "TokenizersBackend";

/// The class that transformers has for a `model_type`, and whether it counts although tokenizer_config.json names
/// another: checkpoints of these types are known to name wrong ones. LLaMA has none.
const CLASSES: &[(&str, &str, bool)] = &[
    ("mistral", SERIALIZED, false),
    ("granite", SERIALIZED, false),
    ("qwen2", "Qwen2Tokenizer", true),
    ("qwen3", "Qwen2Tokenizer", false),
    ("qwen2_moe", "Qwen2Tokenizer", false),
    ("qwen3_moe", "Qwen2Tokenizer", false),
    ("qwen3_5", "Qwen3_5Tokenizer", true),
    ("qwen3_5_text", "Qwen3_5Tokenizer", false),
    ("olmoe", "GPTNeoXTokenizer", false),
    ("mixtral", SERIALIZED, false),
    ("phi", "GPT2Tokenizer", false),
    ("phi3", SERIALIZED, true),
    ("opt", "GPT2Tokenizer", false),
    ("gpt2", "GPT2Tokenizer", false),
    ("gptj", "GPT2Tokenizer", false),
    ("gpt_neox", "GPTNeoXTokenizer", false),
    ("starcoder2", "GPT2Tokenizer", false),
    ("gpt_neo", "GPT2Tokenizer", false),
    ("mpt", "GPTNeoXTokenizer", false),
    ("olmo", "GPTNeoXTokenizer", false),
    ("olmo2", SERIALIZED, false),
    ("stablelm", SERIALIZED, false),
];

/// Other names of the class that reads tokenizer.json as it stands.
const ALIASES: &[&str] = &["PreTrainedTokenizer", "PythonBackend", "BloomTokenizer", "MistralCommonBackend"];

/// The older and the newer name of a class as one.
fn canonical(class: &str) -> &str {
    let class = class.strip_suffix("Fast").unwrap_or(class);
    if ALIASES.contains(&class) { SERIALIZED } else { class }
}

impl Config {
    /// The class by which transformers reads the tokenizer: `named` is what tokenizer_config.json says, and
    /// `of_bytes` whether tokenizer.json is of the byte-level kind.
    pub fn tokenizer_class(&self, named: Option<&str>, of_bytes: bool) -> String {
        // That of what wraps it counts before its own.
        let wrapper = self.part_of.map(|part| part.model_type);
        let mut types = wrapper.into_iter().chain([self.architecture.model_type]);
        // A sliced model has a `model_type` of its own, for which nothing is registered.
        let row = types.find_map(|model_type| CLASSES.iter().find(|(of, ..)| *of == model_type));
        let row = row.filter(|_| !self.fused());
        let named = named.or(self.raw.get("tokenizer_class").and_then(Value::as_str)).map(canonical);
        let class = match (named, row) {
            (None, None) => SERIALIZED,
            (Some(named), None) => named,
            (Some(named), Some((_, class, false))) if *class != SERIALIZED => named,
            (_, Some((_, class, _))) => class,
        };
        // Many name the class of sentencepiece models although their tokens are of bytes.
        let misnamed = class == "LlamaTokenizer" && of_bytes;
        if misnamed { SERIALIZED } else { class }.to_owned()
    }
}
