//! tokenizer.json of each kind, and the settings beside it.

use std::{cell::Cell, fs};

use serde_json::{Value, json};
use slicegpt_gpu::{
    Error,
    data::{TokenizerFiles, encode},
};

use super::{cases, mutate::Json, support::fixture};

/// Texts that touch what tokenizers do: words, spaces, digits, other alphabets, special tokens, and what is in none.
const TEXTS: [&str; 3] =
    ["", "Hello  world, 123!\n ", "<s>ひら \u{1f642}\u{301}<|endoftext|>\u{0}aaaaaaaaaaaaaaaaaaaaaaaa"];

/// Tokenizers with every part that there is, as texts.
fn originals() -> Vec<String> {
    let text = fs::read_to_string(fixture("tokenizers/cases.json")).expect("a file");
    let cases: Value = serde_json::from_str(&text).expect("JSON");
    let mut all: Vec<Value> =
        ["bytes", "bos", "digits", "split", "sentence"].iter().map(|name| cases["files"][*name].clone()).collect();
    let words = json!({ "<unk>": 0, "hello": 1, "world": 2, "##s": 3, "h": 4, ",": 5, "12": 6, "a": 7, "▁": 8 });
    let pieces = json!([["<unk>", 0.0], ["▁", -1.0], ["a", -2.0], ["hello", -3.5], ["aa", -2.5], ["<0x0A>", -9.0]]);
    let models = [
        json!({ "type": "WordLevel", "vocab": words, "unk_token": "<unk>" }),
        json!({ "type": "WordPiece", "vocab": words, "unk_token": "<unk>", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100 }),
        json!({ "type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": false }),
        json!({ "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": { "<unk>": 0, "a": 1, "aa": 2, "aaaa": 3, "<0x0A>": 4, "▁": 5 }, "merges": [["a", "a"], "aa aa"] }),
    ];
    let normalizers = [
        json!({ "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": true }),
        json!({ "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" }, { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
            { "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": "▁" }, { "type": "NFKC" },
            { "type": "Strip", "strip_left": true, "strip_right": true }, { "type": "StripAccents" },
            { "type": "Lowercase" }, { "type": "ByteLevel" }, { "type": "Nmt" }
        ] }),
        json!({ "type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAAA" }),
        json!({ "type": "NFD" }),
    ];
    let pre_tokenizers = [
        json!({ "type": "BertPreTokenizer" }),
        json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Whitespace" }, { "type": "WhitespaceSplit" }, { "type": "Digits", "individual_digits": true },
            { "type": "Punctuation", "behavior": "Isolated" }, { "type": "UnicodeScripts" },
            { "type": "CharDelimiterSplit", "delimiter": "x" }, { "type": "FixedLength", "length": 5 }
        ] }),
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true }),
        json!({ "type": "Split", "pattern": { "Regex": "\\p{L}+|\\s+(?!\\S)" }, "behavior": "MergedWithPrevious",
            "invert": false }),
    ];
    let processors = [
        json!({ "type": "BertProcessing", "sep": ["a", 7], "cls": ["h", 4] }),
        json!({ "type": "RobertaProcessing", "sep": ["a", 7], "cls": ["h", 4], "trim_offsets": true,
            "add_prefix_space": true }),
        json!({ "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [0], "tokens": ["<s>"] } } }),
        json!({ "type": "Sequence", "processors": [{ "type": "ByteLevel", "add_prefix_space": true,
            "trim_offsets": false, "use_regex": true }] }),
    ];
    let decoders = [
        json!({ "type": "WordPiece", "prefix": "##", "cleanup": true }),
        json!({ "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" },
            { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 }
        ] }),
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true }),
        json!({ "type": "BPEDecoder", "suffix": "</w>" }),
    ];
    for (at, model) in models.into_iter().enumerate() {
        all.push(json!({
            "version": "1.0",
            "truncation": { "direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0 },
            "padding": { "strategy": { "Fixed": 16 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                "pad_type_id": 0, "pad_token": "<pad>" },
            "added_tokens": [{ "id": 0, "content": "<unk>", "single_word": false, "lstrip": true, "rstrip": true,
                "normalized": false, "special": true }, { "id": 9, "content": "<s>", "single_word": true,
                "lstrip": false, "rstrip": false, "normalized": true, "special": false }],
            "normalizer": normalizers[at], "pre_tokenizer": pre_tokenizers[at], "post_processor": processors[at],
            "decoder": decoders[at], "model": model
        }));
    }
    all.into_iter().map(|tokenizer| tokenizer.as_str().map_or_else(|| tokenizer.to_string(), str::to_owned)).collect()
}

/// Settings with every field that is read.
fn settings() -> Value {
    json!({
        "added_tokens_decoder": { "0": { "content": "<unk>", "lstrip": false, "normalized": false, "rstrip": false,
            "single_word": false, "special": true }, "77": { "content": "<|x|>", "special": true } },
        "add_bos_token": true, "add_eos_token": false, "add_prefix_space": false, "bos_token": "<s>",
        "eos_token": { "content": "</s>", "lstrip": false }, "unk_token": null, "legacy": true,
        "additional_special_tokens": ["<|a|>", { "content": "<|b|>" }], "extra_special_tokens": { "image_token": "<i>" },
        "split_special_tokens": false, "clean_up_tokenization_spaces": true, "tokenizer_class": "LlamaTokenizer",
        "model_max_length": 1e30, "fast_tokenizer_files": ["tokenizer.4.0.0.json", "tokenizer.json"]
    })
}

#[test]
fn tokenizer_json() {
    let texts = originals();
    let originals: Vec<Json> = texts.iter().map(|text| Json::new(text.as_str())).collect();
    let settings = Json::new(settings().to_string());
    let directory = tempfile::tempdir().expect("a directory");
    let (path, beside) = (directory.path().join("tokenizer.json"), directory.path().join("tokenizer_config.json"));
    let class = Cell::new("");
    cases(
        "tokenizer.json",
        1_000,
        |random| {
            let which = random.below(originals.len() as u32) as usize;
            class.set(
                ["TokenizersBackend", "GPT2Tokenizer", "Qwen2Tokenizer", "LlamaTokenizer"][random.below(4) as usize],
            );
            let _ = fs::remove_file(&beside);
            let mut size = 0;
            let text = match random.below(4) {
                0 => {
                    let changed = settings.changed(random);
                    fs::write(&beside, &changed).expect("a file");
                    size += changed.len();
                    texts[which].clone().into_bytes()
                }
                _ => originals[which].changed(random),
            };
            fs::write(&path, &text).expect("a file");
            size + text.len()
        },
        |_| {
            let files = TokenizerFiles::read(directory.path())?;
            let built = files.build(class.get())?;
            for text in TEXTS {
                let refused = |reason| Error::BadFile { path: path.clone(), reason };
                let ids = encode(&built.tokenizer, text, true).map_err(refused)?;
                let decoded = slicegpt_gpu::data::fenced(|| built.tokenizer.decode(&ids, false));
                decoded.map_err(refused)?;
            }
            Ok(())
        },
    );
}
