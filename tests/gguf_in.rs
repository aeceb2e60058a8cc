//! Does a GGUF file become the model that it was made of?

#[path = "support/gguf_families.rs"]
mod gguf_families;
mod support;

use std::{collections::BTreeMap, path::Path};

use gguf_families::{FAMILIES, Family};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use slicegpt_gpu::{
    Error,
    checkpoint::{Dtype, Encoding, FileTarget, GgufFile, GgufTensor, GgufType, GgufValue},
    data::{BuiltTokenizer, TokenizerFiles, chat_templates, encode},
    model::{Config, GgufExport, GgufTokenizer, Model, Names, Scaling, Vocabulary, architecture::GgufHead},
    progress::Silent,
};
use support::{fixture, relative_error};

/// The bytes that tests/fixtures/make_gguf.py takes.
fn pseudo_random(count: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..count).map(next).collect()
}

#[test]
fn blocks_of_every_type_are_widened_as_the_gguf_package_does_to_the_last_bit() {
    let text = std::fs::read_to_string(fixture("gguf").join("dequantised.json")).expect("the fixture");
    let expected: BTreeMap<String, String> = serde_json::from_str(&text).expect("hashes");
    let known: Vec<Encoding> = (0..64).filter_map(Encoding::of).collect();
    let mut names: Vec<&str> = known.iter().map(|encoding| encoding.name).collect();
    names.sort_unstable();
    assert!(names.iter().eq(expected.keys()), "{names:?} are known, {:?} in the fixture", expected.keys());
    for encoding in known {
        let values = encoding.widen(&pseudo_random(64 * encoding.bytes));
        assert_eq!(values.len(), 64 * encoding.block, "{}", encoding.name);
        let bits = |value: &f32| if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() };
        let bytes: Vec<u8> = values.iter().flat_map(|value| bits(value).to_le_bytes()).collect();
        let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, expected[encoding.name], "{}", encoding.name);
    }
}

fn export(model: &Model, kind: GgufType, path: &Path) -> Result<Vec<String>, Error> {
    let export = GgufExport::plan(model, "a name", kind, Vocabulary::None)?;
    export.write(FileTarget::new(path, true).expect("a name"), &Silent).expect("a file");
    Ok(export.notes)
}

/// Everything that logits depend on beside the tensors.
fn assert_same(name: &str, ours: &Config, theirs: &Config) {
    let sizes = |config: &Config| {
        let layers = config.layers.iter();
        layers
            .map(|l| {
                (l.heads, l.kv_heads, l.head_dim, l.intermediate_size, l.attention_scale, l.rope, l.alibi, l.clip_qkv)
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(sizes(ours), sizes(theirs), "{name}");
    let numbers = |config: &Config| {
        [config.norm_eps, config.head_norm_eps, config.embedding_scale, config.logit_scale].map(f32::to_bits)
    };
    assert_eq!(numbers(ours), numbers(theirs), "{name}");
    let deltas = |config: &Config| config.layers.iter().map(|layer| layer.delta).collect::<Vec<_>>();
    assert_eq!(deltas(ours), deltas(theirs), "{name}");
    assert_eq!((ours.activation, ours.parallel), (theirs.activation, theirs.parallel), "{name}");
    // llama.cpp may want a head of its own, and then the embedding is written twice.
    let own_head = ours.architecture.gguf_own.head == GgufHead::Required;
    assert!(ours.tie_word_embeddings == theirs.tie_word_embeddings || own_head, "{name}");
    for (one, other) in ours.ropes.iter().zip(&theirs.ropes) {
        let wide = |rope: &slicegpt_gpu::model::Rope| rope.inverse_frequencies.clone();
        let error = relative_error(&wide(one), &wide(other));
        assert!(error < 1e-6, "{name}: frequencies differ by {error:.1e}");
        assert!((one.attention_factor - other.attention_factor).abs() < 1e-6, "{name}");
        assert_eq!(one.long, other.long, "{name}");
    }
}

fn assert_same_tensors(name: &str, ours: &Model, theirs: &Model) {
    let (ours_list, mut theirs_list) = (ours.config().tensors(), theirs.config().tensors());
    if ours.config().tie_word_embeddings && !theirs.config().tie_word_embeddings {
        let same = |model: &Model| model.store.ends().and_then(|ends| ends.head.to_f32()).expect("a head");
        assert_eq!(same(ours), same(theirs), "{name}");
        theirs_list.retain(|spec| spec.name != Names::of(theirs.config()).head());
    }
    // Biases that llama.cpp loads and the model lacks.
    let demanded = ["starcoder2_no_bias", "gpt_neox_no_attention_bias"].contains(&name);
    theirs_list.retain(|spec| {
        let added = demanded && spec.name.ends_with(".bias") && !ours_list.contains(spec);
        let zeros = || theirs.store.whole(spec).and_then(|matrix| matrix.to_f32()).expect("values");
        assert!(!added || zeros().iter().all(|value| *value == 0.0), "{name}: {}", spec.name);
        !added
    });
    assert_eq!(ours_list, theirs_list, "{name}");
    for spec in ours_list {
        let read = |model: &Model| model.store.whole(&spec).and_then(|matrix| matrix.to_f32()).expect("values");
        // One is added to the weights of some norms there, and taken off again; and logarithms are undone and taken.
        let rounding = if ours.config().architecture.norm.offset == 0.0 { 0.0 } else { f32::EPSILON };
        let same = |(one, other): (&f32, &f32)| (one - other).abs() <= rounding * one.abs().max(1.0);
        assert!(read(ours).iter().zip(&read(theirs)).all(same), "{name}: {}", spec.name);
    }
    // And by the weights that they hold, which are read some rows or columns at a time.
    for layer in 0..ours.config().layers.len() {
        let read = |model: &Model| {
            let layer = model.store.layer(layer).expect("a layer");
            let bias = |bias: &Vec<f32>| !demanded || bias.iter().any(|value| *value != 0.0);
            layer
                .linears()
                .map(|linear| (linear.matrix.to_f32().expect("values"), linear.bias.clone().filter(bias)))
                .collect::<Vec<_>>()
        };
        assert!(read(ours) == read(theirs), "{name}: layer {layer}");
    }
}

/// What has no form there.
const REFUSED: &str = "llama_gelu llama_gelu_pytorch_tanh qwen3_bias qwen2_moe_dense_between gemma_untied gemma2_no_caps \
    gemma2_final_cap gemma2_layer_types gemma3_pattern gemma3_local_theta gemma3_multimodal olmo2_tied ministral_listed \
    smollm3_interval_2 smollm3_listed gpt2_gelu gpt2_relu gpt2_inverse_layer gpt2_unscaled starcoder2_head_dim \
    starcoder2_window gpt_neox_odd_rotary phi_qk_layernorm \
    stablelm_qk_sequential falcon_alibi_parallel falcon_multi_head falcon_new falcon_rw olmo_untied cohere_qk_norm \
    cohere_untied olmoe_normalised_tied olmoe_plain mpt_clip qwen3_moe_dense_between qwen3_moe_every_second \
    qwen3_moe_plain_tied qwen3_moe_top_1 qwen3_moe_top_all qwen3_moe_window qwen35_bf16 qwen35_interval \
    qwen35_multimodal qwen35_tied qwen35_wide gpt_oss_plain gpt_oss_mxfp4 gpt_oss_no_sinks gpt_oss_tied_yarn";
/// Of which none has.
const FAMILIES_WITHOUT: &str = "opt gptj gpt_neo";

#[test]
fn what_export_writes_is_read_as_the_same_model() {
    let refused: Vec<&str> = REFUSED.split_whitespace().collect();
    let directory = tempfile::tempdir().expect("a directory");
    let mut families = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(fixture("parity")).expect("fixtures") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let original = Model::open(&path).expect("a model");
        let family = original.config().architecture.model_type;
        let file = directory.path().join("x.gguf");
        let exported = export(&original, GgufType::F32, &file);
        if refused.contains(&name.as_str()) || FAMILIES_WITHOUT.split(' ').any(|without| without == family) {
            let error = exported.expect_err(&name).to_string();
            assert!(error.contains("cannot be exported as gguf"), "{name}: {error}");
            continue;
        }
        exported.unwrap_or_else(|error| panic!("{name}: {error}"));
        let read = Model::open(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_same(&name, original.config(), read.config());
        assert!(
            read.config().raw["pad_token_id"].is_null(),
            "{name}: that of the class may be outside of the vocabulary"
        );
        assert_same_tensors(&name, &original, &read);
        families.insert(family);
    }
    // All that are written, but for those whose fixtures have no form there.
    let rows = slicegpt_gpu::model::architecture::ARCHITECTURES.iter().filter(|row| row.forms.gguf.is_some());
    let written: std::collections::BTreeSet<_> =
        rows.map(|row| row.model_type).filter(|name| !["olmoe", "gpt_oss"].contains(name)).collect();
    assert_eq!(families, written);
}

/// A small model as a file with more metadata under the name of its architecture.
fn with_metadata(more: &[(&str, GgufValue)], directory: &Path) -> Result<Model, Error> {
    let family = FAMILIES.iter().find(|family| family.fixture == "gpt_neox_parallel").expect("the family");
    let (_kept, model) = family.model();
    let path = directory.join("x.gguf");
    let mut metadata = family.metadata(&model);
    for (name, value) in more {
        let key = format!("{}.{name}", family.architecture);
        metadata.retain(|(other, _)| *other != key);
        metadata.push((key, value.clone()));
    }
    write_file(&metadata, &family.tensors(&model), &path);
    Model::open(&path)
}

#[test]
fn a_factor_of_rotary_frequencies_counts_as_it_does_in_llama_cpp() {
    let directory = tempfile::tempdir().expect("a directory");
    let (text, number) = (|text: &str| GgufValue::Text(text.into()), GgufValue::F32);
    let by = |factor: f64| Scaling::Linear { factor };
    for (more, expected) in [
        (vec![("rope.scaling.type", text("linear")), ("rope.scaling.factor", number(4.0))], by(4.0)),
        // Without a type, it is that.
        (vec![("rope.scaling.factor", number(4.0))], by(4.0)),
        (vec![("rope.scale_linear", number(2.0))], by(2.0)),
        (vec![("rope.scaling.factor", number(4.0)), ("rope.scale_linear", number(2.0))], by(4.0)),
        (vec![("rope.scaling.type", text("none")), ("rope.scaling.factor", number(4.0))], Scaling::None),
        (vec![("rope.scaling.type", text("none")), ("rope.scale_linear", number(4.0))], Scaling::None),
        (vec![("rope.scaling.type", text("linear")), ("rope.scaling.factor", number(0.0))], Scaling::None),
        (vec![("rope.scaling.type", text("linear"))], Scaling::None),
    ] {
        let read = with_metadata(&more, directory.path()).unwrap_or_else(|error| panic!("{more:?}: {error}"));
        assert_eq!(read.config().ropes[0].scaling, expected, "{more:?}");
    }
}

#[test]
fn metadata_of_no_model_are_refused_in_a_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let refused =
        |more: &[(&str, GgufValue)]| with_metadata(more, directory.path()).err().expect("refused").to_string();
    let message = refused(&[("block_count", GgufValue::U32(0))]);
    assert!(message.contains("block_count: expected 1 to 4096, found 0"), "{message}");
    let path = directory.path().join("long.gguf");
    write_file(&[("general.architecture".into(), GgufValue::Text("a".repeat(100_000)))], &Tensors::new(), &path);
    let message = Model::open(&path).err().expect("refused").to_string();
    assert!(message.contains("aaaa") && message.len() < 1000, "{} bytes", message.len());
}

#[test]
fn a_section_beside_frequencies_counts_if_they_follow_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.gguf");
    let original = Model::open(&fixture("parity").join("llama_rope_yarn_betas")).expect("a model");
    export(&original, GgufType::F32, &path).expect("a file");
    assert_eq!(Model::open(&path).expect("a model").config().ropes, original.config().ropes);
    let (from, to): (&[u8], &[u8]) = (b"\"beta_fast\":", b"\"beta_fasx\":");
    let mut changed = std::fs::read(&path).expect("the file");
    let at = changed.windows(from.len()).position(|window| window == from).expect("the section");
    changed[at..at + to.len()].copy_from_slice(to);
    std::fs::write(&path, changed).expect("a file");
    let message = Model::open(&path).err().expect("refused").to_string();
    assert!(message.contains("rope"), "{message}");
}

/// The tensors of a file, with their shapes.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The file that llama.cpp's converter makes of it.
fn write(family: &Family, model: &Model, path: &Path) {
    write_tensors(family, model, &family.tensors(model), path);
}

fn write_tensors(family: &Family, model: &Model, tensors: &Tensors, path: &Path) {
    write_file(&family.metadata(model), tensors, path);
}

fn write_file(metadata: &[(String, GgufValue)], tensors: &Tensors, path: &Path) {
    let tensor = |(name, (shape, _)): (&String, &(Vec<usize>, Vec<f32>))| GgufTensor {
        name: name.clone(),
        shape: shape.clone(),
        kind: GgufType::F32,
    };
    let list = tensors.iter().map(tensor).collect();
    let target = FileTarget::new(path, true).expect("a name");
    let mut file = GgufFile::create(target, metadata, list).expect("a file");
    for (name, (_, values)) in tensors {
        file.write(name, values).expect("values");
    }
    file.finish().expect("a file");
}

#[test]
fn experts_of_one_tensor_that_are_missing_or_of_another_shape_are_refused_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let family = FAMILIES.iter().find(|family| family.fixture == "gpt_oss_plain").expect("the family");
    let (_kept, model) = family.model();
    let path = directory.path().join("x.gguf");
    // What is changed, and a part of the reason.
    type Case<'a> = (&'a str, fn(&mut Tensors, &str), &'a str);
    let gone = |tensors: &mut Tensors, name: &str| drop(tensors.remove(name));
    let fewer = |tensors: &mut Tensors, name: &str| {
        let (shape, values) = tensors.get_mut(name).expect("the tensor");
        shape[0] -= 1;
        values.truncate(shape.iter().product());
    };
    let cases: [Case; 7] = [
        ("blk.1.ffn_up_exps.weight", gone, "missing; the metadata implies [5, 10, 24]"),
        ("blk.1.ffn_up_exps.bias", gone, "missing; the metadata implies [5, 10]"),
        ("blk.0.ffn_down_exps.bias", gone, "missing; the metadata implies [5, 24]"),
        ("blk.0.attn_sinks.weight", gone, "missing; the metadata implies [4]"),
        ("blk.0.ffn_gate_exps.weight", fewer, "expected shape [5, 10, 24], found [4, 10, 24]"),
        ("blk.1.ffn_down_exps.bias", fewer, "expected shape [5, 24], found [4, 24]"),
        ("blk.1.attn_sinks.weight", fewer, "expected shape [4], found [3]"),
    ];
    for (name, change, reason) in cases {
        let mut tensors = family.tensors(&model);
        change(&mut tensors, name);
        write_tensors(family, &model, &tensors, &path);
        match Model::open(&path).map(drop).expect_err(name) {
            Error::BadTensor { name: found, reason: said, .. } => {
                assert!(found == name && said.contains(reason), "{name}: {found}: {said}");
            }
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn models_of_other_families_are_read_with_what_is_fused_turned_or_transposed_put_back() {
    let directory = tempfile::tempdir().expect("a directory");
    for family in FAMILIES {
        let (_kept, original) = family.model();
        let path = directory.path().join("x.gguf");
        write(family, &original, &path);
        let read = Model::open(&path).unwrap_or_else(|error| panic!("{}: {error}", family.fixture));
        assert_same(family.fixture, original.config(), read.config());
        assert_same_tensors(family.fixture, &original, &read);
        let windows = |model: &Model| model.config().layers.iter().map(|layer| layer.window).collect::<Vec<_>>();
        assert_eq!(windows(&original), windows(&read), "{}", family.fixture);
    }
}

#[test]
fn quantised_matrices_are_written_in_f16_by_default_and_floats_in_their_own_type() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.gguf");
    let original = Model::open(&fixture("parity").join("qwen3_untied")).expect("a model");
    for (kind, matrices, name) in [
        (GgufType::Q8_0, Dtype::F16, "float16"),
        (GgufType::F16, Dtype::F16, "float16"),
        (GgufType::F32, Dtype::F32, "float32"),
    ] {
        export(&original, kind, &path).expect("a file");
        let read = Model::open(&path).expect("a model");
        for (tensor, dtype) in read.store.types() {
            assert_eq!(dtype, if tensor.contains("norm") { Dtype::F32 } else { matrices }, "{tensor}");
        }
        assert_eq!(read.config().raw["torch_dtype"], json!(name));
        // What is quantised is read in f32, with nothing rounded.
        let tensor = read.store.checkpoint.tensor("model.layers.0.self_attn.q_proj.weight").expect("a tensor");
        assert_eq!(tensor.dtype, if kind == GgufType::F16 { Dtype::F16 } else { Dtype::F32 });
    }
}

/// A model of these rows with this tokenizer, as a GGUF file that is read again.
fn through_gguf(tokenizer: &Value, roles: &[(&str, u32)], templates: &[(&str, &str)], directory: &Path) -> Model {
    let original = Model::open(&fixture("parity").join("llama_gqa_tied")).expect("a model");
    let named = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    let tokenizer = GgufTokenizer {
        json: tokenizer.to_string(),
        path: "tokenizer.json".into(),
        roles: roles.iter().map(|(role, id)| ((*role).to_owned(), *id)).collect(),
        bos: Some(1),
        eos: vec![2],
        chat_templates: templates.iter().map(named).collect(),
    };
    let vocabulary = Vocabulary::Tokenizer { pre: None, tokenizer: &tokenizer };
    let export = GgufExport::plan(&original, "a name", GgufType::F32, vocabulary).expect("a plan");
    let path = directory.join("x.gguf");
    export.write(FileTarget::new(&path, true).expect("a name"), &Silent).expect("a file");
    Model::open(&path).expect("the file")
}

fn built(model: &Model) -> BuiltTokenizer {
    let files = TokenizerFiles::read(model.directory()).expect("files");
    let class = model.config().tokenizer_class(files.named_class(), files.of_bytes());
    files.build(&class).expect("a tokenizer")
}

const TEXTS: &[&str] = &[
    "abc ab  a bca 12345 1",
    " ab\n\nab\tcab",
    "a'll b'S ab's",
    "aé ß 中 🙂 ab",
    "",
    " ",
    "ab<|x|>ab <s>ab",
    "a\u{301}b",
];

/// Tokens of bytes by the letters that stand for them, and merges.
fn of_bytes(pre_tokenizer: Value, normalizer: Value, whole: bool) -> Value {
    let merges = ["a b", "ab c", "Ġ ab", "Ġ a", "1 2", "12 3", "' s", "' l", "'l l"];
    let mut tokens = vec!["<unk>".to_owned(), "<s>".into(), "</s>".into(), "<|x|>".into()];
    // 131 rows are fewer than there are bytes: those that the texts have.
    let letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'ĠĊĉÃ©ŁäaŃ¸ðŁĻĤÂ ß".chars();
    for letter in
        letters.filter(|letter| *letter != ' ').map(String::from).chain(merges.map(|merge| merge.replace(' ', "")))
    {
        if !tokens.contains(&letter) {
            tokens.push(letter);
        }
    }
    let vocab: serde_json::Map<String, Value> =
        tokens.into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
        "post_processor": null,
        "added_tokens": added(&[(1, "<s>", true), (2, "</s>", true), (3, "<|x|>", false)]),
        "model": { "type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": whole }
    })
}

fn added(tokens: &[(u32, &str, bool)]) -> Value {
    let token = |(id, content, special): &(u32, &str, bool)| json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special });
    tokens.iter().map(token).collect()
}

fn assert_same_tokens(name: &str, tokenizer: &Value, read: &BuiltTokenizer) {
    let reference: tokenizers::Tokenizer = tokenizer.to_string().parse().expect("a tokenizer");
    for text in TEXTS {
        let ours = encode(&read.tokenizer, text, true).expect("ids");
        assert_eq!(ours, encode(&reference, text, true).expect("ids"), "{name}: {text:?}");
        let decoded = |tokenizer: &tokenizers::Tokenizer| tokenizer.decode(&ours, true).expect("a text");
        assert_eq!(decoded(&read.tokenizer), decoded(&reference), "{name}: {text:?}");
    }
}

#[test]
fn tokenizers_of_bytes_are_read_by_the_name_of_how_they_cut_words() {
    let directory = tempfile::tempdir().expect("a directory");
    let plain = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true });
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let end = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let start = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|";
    let split_by = |words: &str, behavior: &str, invert: bool| {
        let split = json!({ "type": "Split", "pattern": { "Regex": words }, "behavior": behavior, "invert": invert });
        json!({ "type": "Sequence", "pretokenizers": [split, bytes] })
    };
    let split = |numbers: &str| split_by(&format!("{start}{numbers}{end}"), "Isolated", false);
    let (upper, lower) = (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]");
    let ending = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
    let contracted = format!(
        r"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{ending}|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{ending}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    let marked = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let falcon = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Punctuation", "behavior": "Contiguous" },
        plain,
        { "type": "Digits", "individual_digits": false },
        { "type": "Split", "pattern": { "Regex": "[0-9][0-9][0-9]" }, "behavior": "Isolated", "invert": false },
    ] });
    let digits =
        json!({ "type": "Sequence", "pretokenizers": [{ "type": "Digits", "individual_digits": true }, plain] });
    for (name, cutter, normalizer, whole) in [
        ("gpt-2", plain.clone(), Value::Null, false),
        ("smollm", digits, Value::Null, false),
        ("llama-bpe", split(r"\p{N}{1,3}"), Value::Null, true),
        ("smaug-bpe", split(r"\p{N}{1,3}"), Value::Null, false),
        ("qwen2", split(r"\p{N}"), json!({ "type": "NFC" }), false),
        ("qwen35", split_by(marked, "Isolated", false), json!({ "type": "NFC" }), false),
        ("bloom", split_by(r" ?[^(\s|[.,!?…。，、।۔،])]+", "Isolated", false), Value::Null, false),
        ("gpt-4o", split_by(&contracted, "Removed", true), Value::Null, false),
        ("falcon", falcon, Value::Null, false),
    ] {
        let mut tokenizer = of_bytes(cutter, normalizer, whole);
        let read = through_gguf(&tokenizer, &[], &[], directory.path());
        assert_same_tokens(name, &tokenizer, &built(&read));
        // With a token before every text.
        tokenizer["post_processor"] = json!({ "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } } });
        let read = built(&through_gguf(&tokenizer, &[("pad", 2)], &[], directory.path()));
        assert_same_tokens(name, &tokenizer, &read);
        let roles: Vec<_> = ["bos", "eos", "pad"].iter().map(|role| read.role(role)).collect();
        assert_eq!(roles, [Some(1), Some(2), Some(2)], "{name}");
    }
}

#[test]
fn special_tokens_take_the_spaces_after_them_by_the_name_of_the_model() {
    let original = Model::open(&fixture("parity").join("llama_gqa_tied")).expect("a model");
    let plain = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true });
    // What it is called, whether tokens strip, whether those that llama.cpp wants are there, what the file calls it.
    for (name, strips, able, expected) in [
        ("small", true, true, "small (phi-3)"),
        ("My-Phi-3", true, true, "My-Phi-3"),
        ("small", true, false, "small"),
        ("small", false, true, "small"),
        ("Phi3-phi-3", false, true, "phi 3-phi 3"),
        ("phi-3", true, false, "phi 3"),
    ] {
        let mut tokenizer = of_bytes(plain.clone(), Value::Null, false);
        tokenizer["added_tokens"][1]["rstrip"] = strips.into();
        let text = tokenizer.to_string();
        let json = if able { text.replace("<|x|>", "<|endoftext|>") } else { text };
        let tokenizer = GgufTokenizer { json, path: "tokenizer.json".into(), eos: vec![2], ..GgufTokenizer::default() };
        let vocabulary = Vocabulary::Tokenizer { pre: None, tokenizer: &tokenizer };
        let export = GgufExport::plan(&original, name, GgufType::F32, vocabulary).expect("a plan");
        let found = export.metadata().iter().find(|(key, _)| key == "general.name").map(|(_, value)| value.clone());
        assert_eq!(found, Some(GgufValue::Text(expected.into())), "{name} {strips} {able}");
        let told = export.notes.iter().any(|note| note.contains("spaces after them"));
        assert_eq!(told, strips && !able, "{name}: {:?}", export.notes);
    }
}

#[test]
fn chat_templates_come_under_their_names() {
    let directory = tempfile::tempdir().expect("a directory");
    let plain = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true });
    let tokenizer = of_bytes(plain, Value::Null, false);
    for templates in [&[][..], &[("default", "D {{ messages }}")], &[("default", "D"), ("rag", "R"), ("tool_use", "T")]]
    {
        let read = through_gguf(&tokenizer, &[], templates, directory.path());
        let found = chat_templates(read.directory()).expect("templates");
        let found: Vec<_> = found.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        assert_eq!(found, templates);
    }
}
