//! What a tokenizer does with a text before its merges, and what llama.cpp calls that.

use serde_json::{Value, json};

use super::tokenizer_json::File;

/// The two families of merges that llama.cpp knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pieces {
    /// Bytes, as letters of an alphabet of their own, merged within words.
    Bytes {
        /// Characters are composed first (NFC).
        composed: bool,
    },
    /// Characters, with "▁" for a space and tokens for the bytes of those that are unknown, merged across the whole
    /// text.
    Sentence {
        /// A space is put before the text.
        prefix: bool,
    },
}

/// The steps of a section that is one step or a sequence of them.
pub fn steps<'a>(section: &'a Value, list: &str) -> Vec<&'a Value> {
    match section.get(list).and_then(Value::as_array) {
        Some(steps) => steps.iter().flat_map(|step| self::steps(step, list)).collect(),
        None if section.is_null() => Vec::new(),
        None => vec![section],
    }
}

fn is(step: &Value, kind: &str) -> bool {
    step.get("type").is_some_and(|name| name == kind)
}

fn flag(step: &Value, name: &str, default: bool) -> bool {
    step.get(name).and_then(Value::as_bool).unwrap_or(default)
}

impl Pieces {
    /// What the file has; what is odd about it if that is something else.
    pub fn of(file: &File) -> Result<Self, String> {
        let normalizers = steps(&file.normalizer, "normalizers");
        let cutters = steps(&file.pre_tokenizer, "pretokenizers");
        let odd = |step: &&Value| {
            format!("prepares text by {}", step.get("type").and_then(Value::as_str).unwrap_or("an unnamed step"))
        };
        if cutters.iter().any(|step| is(step, "ByteLevel")) {
            return match normalizers.iter().find(|step| !is(step, "NFC")) {
                Some(step) => Err(odd(step)),
                None => Ok(Self::Bytes { composed: !normalizers.is_empty() }),
            };
        }
        if !file.model.byte_fallback {
            return Err("merges characters without tokens for the bytes of unknown ones".into());
        }
        let mut marked = false;
        let mut prefix = false;
        for step in normalizers {
            if is(step, "Prepend") && step.get("prepend").is_some_and(|text| text == "▁") {
                prefix = true;
            } else if is(step, "Replace")
                && step.get("pattern").and_then(|pattern| pattern.get("String")).is_some_and(|text| text == " ")
                && step.get("content").is_some_and(|text| text == "▁")
            {
                marked = true;
            } else {
                return Err(odd(&step));
            }
        }
        for step in cutters {
            if !is(step, "Metaspace") || step.get("replacement").is_none_or(|text| text != "▁") {
                return Err(odd(&step));
            }
            let scheme = step.get("prepend_scheme").and_then(Value::as_str);
            prefix |= scheme.map_or_else(|| flag(step, "add_prefix_space", true), |scheme| scheme != "never");
            marked = true;
        }
        if marked { Ok(Self::Sentence { prefix }) } else { Err("keeps spaces as they are between characters".into()) }
    }
}

/// Expressions that cut words, as tokenizer.json has them, whether tokens may be taken whole without merges, and the
/// name.
const WORDS: &[(&str, bool, &str)] = &[
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        true,
        "llama-bpe",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        false,
        "smaug-bpe",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        false,
        "qwen2",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        false,
        "qwen35",
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        true,
        "tekken",
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        false,
        "gpt-4o",
    ),
    (r" ?[^(\s|[.,!?…。，、।۔،])]+", false, "bloom"),
];

/// llama.cpp's name for how a tokenizer of bytes cuts text into words; `None` if it is none of those that are known
/// here.
pub fn pre_tokenizer(file: &File) -> Option<&'static str> {
    let cutters = steps(&file.pre_tokenizer, "pretokenizers");
    if is_falcon(&cutters) && !file.model.ignore_merges {
        return Some("falcon");
    }
    let (bytes, before) = cutters.split_last().filter(|(last, _)| is(last, "ByteLevel"))?;
    if flag(bytes, "add_prefix_space", true) {
        return None;
    }
    let (own_words, whole) = (flag(bytes, "use_regex", true), file.model.ignore_merges);
    match before {
        [] if own_words && !whole => Some("gpt-2"),
        [digits] if own_words && !whole && is(digits, "Digits") && flag(digits, "individual_digits", false) => {
            Some("smollm")
        }
        [split] if !own_words && is(split, "Split") => {
            // The expressions leave nothing between two matches that could be removed.
            let kept = if flag(split, "invert", false) { "Removed" } else { "Isolated" };
            let isolated = split.get("behavior").is_some_and(|behavior| behavior == kept);
            let words = split.get("pattern")?.get("Regex")?.as_str()?;
            WORDS
                .iter()
                .find(|(known, known_whole, _)| isolated && *known == words && *known_whole == whole)
                .map(|(_, _, name)| *name)
        }
        _ => None,
    }
}

/// Whether runs of punctuation are cut off before the words of bytes, and threes of digits after them.
fn is_falcon(cutters: &[&Value]) -> bool {
    let [punctuation, bytes, digits, threes] = cutters else { return false };
    let behaves = |step: &Value, how: &str| step.get("behavior").is_some_and(|behavior| behavior == how);
    let regex = threes.get("pattern").and_then(|pattern| pattern.get("Regex"));
    is(punctuation, "Punctuation")
        && behaves(punctuation, "Contiguous")
        && is(bytes, "ByteLevel")
        && !flag(bytes, "add_prefix_space", true)
        && flag(bytes, "use_regex", true)
        && is(digits, "Digits")
        && !flag(digits, "individual_digits", false)
        && is(threes, "Split")
        && behaves(threes, "Isolated")
        && !flag(threes, "invert", false)
        && regex.is_some_and(|regex| regex == "[0-9][0-9][0-9]")
}

/// How a tokenizer of bytes cuts text into words, as tokenizer.json has it.
pub struct Cutter {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    /// Whether tokens may be taken whole without merges.
    pub whole: bool,
}

/// Other names of what [`pre_tokenizer`] finds: llama.cpp has one for each model that it knew it by.
const SAME: &[(&str, &[&str])] = &[
    ("gpt-2", &["phi-2", "olmo", "mpt", "jais", "trillion", "granite-docling"]),
    ("smollm", &["starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"]),
    ("llama-bpe", &["llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"]),
    ("smaug-bpe", &["dbrx", "chatglm-bpe"]),
    ("qwen2", &["stablelm2", "hunyuan", "deepseek-r1-qwen", "megrez"]),
];

/// Several expressions, one after the other, of names that are read alone.
const CHAINS: &[(&str, &[&str])] = &[
    (
        "default",
        &[
            r"[\p{P}\$\+<=>\^~\|]+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
            r"\p{N}+",
            "[0-9][0-9][0-9]",
        ],
    ),
    (
        "falcon",
        &[
            r"[\p{P}\$\+<=>\^~\|`]+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
            "[0-9][0-9][0-9]",
        ],
    ),
];

/// What the words of this name of llama.cpp's are: the inverse of [`pre_tokenizer`], and more; `None` for a name that
/// is not known here.
pub fn cutter(name: &str) -> Option<Cutter> {
    let name = first_name(name);
    let bytes = |own_words: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": own_words });
    let split = |words: &str| json!({ "type": "Split", "pattern": { "Regex": words }, "behavior": "Isolated", "invert": false });
    let sequence = |steps: Vec<Value>| json!({ "type": "Sequence", "pretokenizers": steps });
    let known = WORDS.iter().find(|(.., known)| *known == name);
    let chain = CHAINS.iter().find(|(known, _)| *known == name);
    let pre_tokenizer = match (name, known, chain) {
        ("gpt-2", ..) => bytes(true),
        ("smollm", ..) => sequence(vec![json!({ "type": "Digits", "individual_digits": true }), bytes(true)]),
        (_, Some((words, ..)), _) => sequence(vec![split(words), bytes(false)]),
        (_, _, Some((_, words))) => sequence(words.iter().map(|words| split(words)).chain([bytes(false)]).collect()),
        _ => return None,
    };
    // llama.cpp takes characters as they come; the models were made with composed ones.
    let normalizer = if ["qwen2", "qwen35"].contains(&name) { json!({ "type": "NFC" }) } else { Value::Null };
    Some(Cutter { normalizer, pre_tokenizer, whole: known.is_some_and(|(_, whole, _)| *whole) })
}

/// The name under which [`pre_tokenizer`] knows it.
fn first_name(name: &str) -> &str {
    SAME.iter().find(|(_, others)| others.contains(&name)).map_or(name, |(first, _)| first)
}

/// Whether llama.cpp puts a token before texts where the file does not say.
pub fn begins_texts(name: &str) -> bool {
    matches!(first_name(name), "llama-bpe" | "tekken")
}
