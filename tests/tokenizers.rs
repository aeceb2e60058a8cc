//! Do tokenizers in every arrangement of files give the ids, special tokens and chat templates that AutoTokenizer of
//! transformers gives? Its answers lie in tests/fixtures/tokenizers, with the script that wrote them.

mod support;

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use slicegpt_gpu::{
    data::{BuiltTokenizer, TokenizerFiles, chat_templates, encode},
    error::Result,
    model::Config,
};
use tempfile::TempDir;

#[derive(Deserialize)]
struct Fixture {
    texts: Vec<String>,
    files: BTreeMap<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    files: BTreeMap<String, Value>,
    error: Option<String>,
    class: Option<String>,
    #[serde(default)]
    ids: Vec<Vec<u32>>,
    #[serde(default)]
    special: BTreeMap<String, Option<u32>>,
    #[serde(default)]
    templates: BTreeMap<String, String>,
}

fn fixture() -> Fixture {
    let text = fs::read_to_string(support::fixture("tokenizers/cases.json")).expect("a file");
    serde_json::from_str(&text).expect("cases")
}

impl Case {
    /// The files of the case, in a directory.
    fn written(&self, shared: &BTreeMap<String, Value>) -> TempDir {
        let directory = TempDir::new().expect("a directory");
        for (name, content) in &self.files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            let content = content.as_str().and_then(|name| shared.get(name)).unwrap_or(content);
            let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
            fs::write(path, text).expect("a file");
        }
        directory
    }
}

/// A config of this `model_type` that is whole, with the fields of a case.
fn config(case: &Case) -> Config {
    let mut fields: Map<String, Value> = serde_json::from_value(json!({
        "hidden_size": 8, "n_embd": 8, "num_attention_heads": 2, "n_head": 2, "num_key_value_heads": 2,
        "num_hidden_layers": 1, "n_layer": 1,
        "intermediate_size": 16, "ffn_dim": 16, "max_position_embeddings": 64, "n_positions": 64, "partial_rotary_factor": 1.0
    }))
    .expect("an object");
    fields.extend(case.files["config.json"].as_object().expect("an object").clone());
    Config::from_fields(fields, Path::new("config.json")).expect("a config")
}

/// The class and the tokenizer that are found for a directory.
fn opened(config: &Config, directory: &Path) -> (String, Result<BuiltTokenizer>) {
    let files = TokenizerFiles::read(directory);
    let class = files.as_ref().map(|files| config.tokenizer_class(files.named_class(), files.of_bytes()));
    (
        class.unwrap_or_default(),
        files.and_then(|files| files.build(&config.tokenizer_class(files.named_class(), files.of_bytes()))),
    )
}

#[test]
fn ids_and_special_tokens_are_those_of_transformers() {
    let Fixture { texts, files, cases } = fixture();
    assert!(cases.len() > 60);
    let mut wrong = Vec::new();
    for case in &cases {
        let directory = case.written(&files);
        let (class, built) = opened(&config(case), directory.path());
        let name = &case.name;
        match (built, &case.error) {
            (Err(_), Some(_)) => {}
            (Ok(_), Some(error)) => wrong.push(format!("{name}: built a {class}, where transformers says {error}")),
            (Err(error), None) => wrong.push(format!("{name}: {error}")),
            (Ok(built), None) => {
                if Some(&class) != case.class.as_ref() {
                    wrong.push(format!("{name}: a {class} for a {:?}", case.class));
                }
                for (text, expected) in texts.iter().zip(&case.ids) {
                    let ids = encode(&built.tokenizer, text, true).expect("ids");
                    if ids != *expected {
                        wrong.push(format!("{name}: {text:?} became {ids:?} instead of {expected:?}"));
                    }
                }
                for (role, id) in &case.special {
                    if built.role(role) != *id {
                        wrong.push(format!("{name}: {role} is {:?} instead of {id:?}", built.role(role)));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn chat_templates_are_those_of_transformers_and_of_older_processors() {
    let Fixture { files, cases, .. } = fixture();
    let mut found = 0;
    for case in cases.iter().filter(|case| case.error.is_none()) {
        let directory = case.written(&files);
        let templates: BTreeMap<_, _> = chat_templates(directory.path()).expect("templates").into_iter().collect();
        // AutoTokenizer leaves this file to AutoProcessor.
        if case.name == "template of a processor" {
            assert_eq!(templates, BTreeMap::from([("default".to_owned(), "P".to_owned())]));
            continue;
        }
        assert_eq!(templates, case.templates, "{}", case.name);
        found += templates.len();
    }
    assert!(found >= 7, "{found} templates prove nothing");
}

#[cfg(unix)]
#[test]
fn a_tokenizer_that_is_a_link_to_nothing_is_said_to_be_one() {
    let directory = TempDir::new().expect("a directory");
    std::os::unix::fs::symlink("../blobs/0123", directory.path().join("tokenizer.json")).expect("a link");
    let files = TokenizerFiles::read(directory.path()).expect("files");
    let error = files.build("GPT2Tokenizer").err().expect("nothing to build from").to_string();
    assert!(error.contains("tokenizer.json: a link to ../blobs/0123, which is not there; mend the link"), "{error}");
    let config = directory.path().join("config.json");
    std::os::unix::fs::symlink("gone", &config).expect("a link");
    let error = Config::load(&config).expect_err("nothing to read");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains("it is a link to gone, which is not there"), "{error}: {cause}");
}

#[test]
fn a_class_that_builds_nothing_of_vocabulary_and_merges_is_answered_with_a_command_that_does() {
    let directory = TempDir::new().expect("a directory");
    for (name, text) in [("vocab.json", r#"{"a": 0}"#), ("merges.txt", "#version: 0.2\n")] {
        std::fs::write(directory.path().join(name), text).expect("a file");
    }
    let files = TokenizerFiles::read(directory.path()).expect("files");
    let error = files.build("TokenizersBackend").err().expect("nothing to build from").to_string();
    let path = directory.path().display();
    let command = format!("GPT2Tokenizer as T; T.from_pretrained('{path}').save_pretrained('{path}')\"` writes it");
    assert!(error.contains(&command), "{error}");
}

#[test]
fn a_tokenizer_that_would_make_texts_without_end_is_refused_before_any_is_read() {
    let directory = TempDir::new().expect("a directory");
    let double = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aa" });
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "normalizer": { "type": "Sequence", "normalizers": vec![double; 60] },
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": { "a": 0 }, "unk_token": "a" }
    });
    fs::write(directory.path().join("tokenizer.json"), tokenizer.to_string()).expect("a file");
    let files = TokenizerFiles::read(directory.path()).expect("files");
    let error = files.build("TokenizersBackend").err().expect("a text of 2^60 letters").to_string();
    assert!(error.contains("tokenizer.json: normalizer: one part after the other can make a text"), "{error}");
}
