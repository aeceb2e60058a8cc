//! Companions: what goes along to an output beside the weights, what does not, and what says so.

use super::*;

/// A run on a few tokens, whose output is named after `out`.
fn run(scene: &Scene, out: &str, more: &[&OsStr]) -> Said {
    let tokens = scene.tokens("tokens.json", 2, 30);
    let (model, out) = (scene.path("model"), scene.path(out));
    let arguments = args!["run", model, "-o", out, "--calibration", tokens, "--eval", tokens, "--json"];
    program(&[arguments, more].concat())
}

fn listed(report: &Value) -> Vec<String> {
    let files = report["files"].as_array().expect("a list").iter();
    let mut files: Vec<String> = files.map(|name| name.as_str().expect("a name").to_owned()).collect();
    files.sort();
    files
}

/// All files below a directory, by their names relative to it.
fn files(directory: &Path) -> Vec<String> {
    let all = contents(directory).into_iter().filter(|(path, _)| path.is_file());
    all.map(|(path, _)| path.strip_prefix(directory).expect("within").to_string_lossy().replace('\\', "/")).collect()
}

const ALONG: &[&str] = &[
    "LICENSE",
    "License-MIT.md",
    "licence.txt",
    "NOTICE",
    "MODEL_LICENSE",
    "MODEL_LICENSE.docx",
    "Tongyi Qianwen LICENSE AGREEMENT",
    "ThirdPartyNotices.md",
    "Gemma_Terms.txt",
    "ACCEPTABLE_USE_POLICY.md",
    "Notice.txt",
    "USE_POLICY.md",
    "COPYING",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tekken.json",
    "x.tiktoken",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/rag.jinja",
    "additional_chat_templates/tool_use.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenization_own.py",
    "own_helpers.py",
    "deeper.py",
    "own-names.txt",
];
const LEFT: &[&str] = &[
    "README.md",
    "pytorch_model.bin",
    "LICENSE.safetensors",
    "model.safetensors.index.json.bak",
    "training_args.bin",
    "modeling_own.py",
    "unlicensed.txt",
    "check_license.py",
    "additional_chat_templates/notes.txt",
    "tokenizer.json.orig",
];

#[test]
fn all_that_makes_the_tokenizer_and_templates_work_goes_along_with_the_terms_of_use() {
    let scene = Scene::new(LLAMA);
    fs::create_dir(scene.path("model/additional_chat_templates")).expect("a directory");
    for name in ALONG.iter().chain(LEFT) {
        scene
            .put(&format!("model/{name}"), if name.ends_with(".json") { "{}".to_owned() } else { format!("{name}\n") });
    }
    scene.put(
        "model/tokenization_own.py",
        "from .own_helpers import x\nfrom transformers import y\n    from . import deeper\n",
    );
    scene.tokenizer(json!({}));
    let settings = json!({
        "auto_map": { "AutoTokenizer": ["tokenization_own.OwnTokenizer", null] }, "vocab_file": "own-names.txt",
        "tokenizer_class": "OwnTokenizer", "extra_file": "/etc/hostname", "other_file": "../tokens.json"
    });
    scene.put("model/tokenizer_config.json", settings.to_string());
    let dry = run(&scene, "out", args!["--dry-run"]).json();
    let report = run(&scene, "out", args![]).json();
    let written = files(&scene.path("out"));
    assert_eq!(listed(&report), written);
    assert_eq!(listed(&dry), written, "a dry run lists the same files");
    let own = ["tokenizer.json", "tokenizer_config.json"];
    for name in ALONG.iter().chain(&own) {
        let (from, to) = (scene.path("model").join(name), scene.path("out").join(name));
        assert_eq!(fs::read(&to).ok(), fs::read(&from).ok(), "{name}");
    }
    for name in LEFT.iter().filter(|name| **name != "README.md") {
        assert!(!scene.path("out").join(name).exists(), "{name} went along");
    }
    let card = fs::read_to_string(scene.path("out/README.md")).expect("a card");
    assert!(card.contains("sliced") && card.contains("card is not copied"), "{card}");
}

#[test]
fn what_cannot_go_along_is_said() {
    let scene = Scene::new(LLAMA);
    scene.tokenizer(json!({}));
    let settings = json!({
        "auto_map": { "AutoTokenizer": ["elsewhere/repository--tokenization_far.Far", "tokenization_gone.Gone"] },
        "vocab_file": "gone.txt"
    });
    scene.put("model/tokenizer_config.json", settings.to_string());
    fs::create_dir(scene.path("model/LICENSES")).expect("a directory");
    let report = run(&scene, "out", args!["--dry-run"]).json();
    let warnings = report["warnings"].to_string();
    for part in ["elsewhere/repository", "tokenization_gone.py", "gone.txt", "LICENSES is a directory"] {
        assert!(warnings.contains(part), "{part}: {warnings}");
    }
    scene.put("model/tokenizer_config.json", "{}");
    fs::remove_dir(scene.path("model/LICENSES")).expect("a directory");
    assert_eq!(run(&scene, "out", args!["--dry-run"]).json()["warnings"].to_string().matches("go along").count(), 0);
}

#[cfg(unix)]
#[test]
fn files_that_are_links_go_along_as_what_they_link_to() {
    use std::os::unix::fs::symlink;
    let scene = Scene::new(LLAMA);
    scene.tokenizer(json!({}));
    let blob = scene.path("blob");
    fs::rename(scene.path("model/tokenizer.json"), &blob).expect("a new name");
    symlink(&blob, scene.path("model/tokenizer.json")).expect("a link");
    symlink(scene.path("nothing"), scene.path("model/LICENSE")).expect("a link");
    let report = run(&scene, "out", args![]).json();
    let copy = scene.path("out/tokenizer.json");
    assert!(copy.symlink_metadata().expect("a file").is_file() && fs::read(copy).ok() == fs::read(blob).ok());
    assert!(
        report["warnings"].to_string().contains("LICENSE does not go along to the output: a link to nothing"),
        "{report}"
    );
}

#[test]
fn a_sliced_output_names_the_class_that_the_model_type_of_its_original_chose() {
    // Without, transformers would read tokenizer.json as it stands, and could not read vocab.json and merges.txt.
    let scene = Scene::new("gpt2_tied");
    scene.put("model/vocab.json", "{}");
    scene.put("model/merges.txt", "#version: 0.2\n");
    let report = run(&scene, "out", args![]).json();
    assert_eq!(listed(&report), files(&scene.path("out")));
    assert_eq!(read_json(&scene.path("out/tokenizer_config.json")), json!({ "tokenizer_class": "GPT2Tokenizer" }));
    let settings = json!({ "model_max_length": 8, "tokenizer_class": "GPT2Tokenizer" });
    scene.put("model/tokenizer_config.json", settings.to_string());
    run(&scene, "named", args![]).json();
    let kept = fs::read_to_string(scene.path("named/tokenizer_config.json")).expect("a file");
    assert_eq!(kept, settings.to_string(), "byte for byte, where it says the same already");
}

#[test]
fn vocabularies_of_other_programs_are_refused_by_name_with_the_command_that_converts_them() {
    let scene = Scene::new(LLAMA);
    let (model, text) = (scene.path("model"), scene.put("text.txt", "w1 w2 w3"));
    for name in ["tokenizer.model", "spiece.model", "tekken.json", "qwen.tiktoken", "vocab.txt"] {
        let path = scene.put(&format!("model/{name}"), "x");
        for part in [format!("only {name}, which is not read"), "save_pretrained(".to_owned()] {
            scene.refused(args!["eval", model, "--text", text], 3, &part);
            scene.refused(args!["generate", model, "--prompt", "w1"], 3, &part);
            scene.refused(args!["export", model, "--format", "gguf"], 3, &part);
        }
        fs::remove_file(path).expect("a file");
    }
    let vocab = scene.put("model/vocab.json", "{}");
    scene.refused(args!["eval", model, "--text", text], 3, "not the merges.txt that belongs to it");
    scene.put("model/merges.txt", "");
    scene.refused(args!["eval", model, "--text", text], 3, "save_pretrained(");
    fs::remove_file(vocab).expect("a file");
    scene.put("model/tokenizer_config.json", json!({ "auto_map": { "AutoTokenizer": ["own.Own", null] } }).to_string());
    scene.refused(args!["eval", model, "--text", text], 3, "only a tokenizer in Python");
    scene.put("model/tokenizer_config.json", json!({ "fix_mistral_regex": true }).to_string());
    scene.refused(args!["eval", model, "--text", text], 3, "fix_mistral_regex is not implemented");
}

#[test]
fn settings_of_a_tokenizer_that_are_of_no_known_kind_are_refused() {
    let scene = Scene::new(LLAMA);
    scene.tokenizer(json!({}));
    let (model, text) = (scene.path("model"), scene.put("text.txt", "w1 w2 w3"));
    for (settings, message) in [
        (json!({ "add_bos_token": "yes" }), "add_bos_token: expected true or false, found \"yes\""),
        (json!({ "split_special_tokens": 1 }), "split_special_tokens: expected true or false"),
        (json!({ "tokenizer_class": 7 }), "tokenizer_class: expected a text"),
        (json!({ "added_tokens_decoder": [] }), "added_tokens_decoder: expected an object"),
        (json!({ "added_tokens_decoder": { "x": "y" } }), "added_tokens_decoder: \"x\" is not an id with a token"),
        (json!({ "extra_special_tokens": "<a>" }), "extra_special_tokens: expected a list or an object"),
        (json!({ "extra_special_tokens": [7] }), "extra_special_tokens: expected a token, found 7"),
        (json!({ "bos_token": 7 }), "bos_token: expected a token, found 7"),
    ] {
        scene.put("model/tokenizer_config.json", settings.to_string());
        scene.refused(args!["eval", model, "--text", text], 3, message);
    }
    scene.put("model/tokenizer_config.json", "{}");
    scene.put("model/added_tokens.json", json!({ "<a>": "7" }).to_string());
    scene.refused(args!["eval", model, "--text", text], 3, "\"<a>\": expected an id, found \"7\"");
    scene.put("model/added_tokens.json", "[]");
    scene.refused(args!["eval", model, "--text", text], 3, "added_tokens.json");
}
