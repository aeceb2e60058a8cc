//! What a GGUF file holds of a tokenizer and its chat templates. The values are those of AutoTokenizer and of
//! llama.cpp's converter for the same files: see `special_tokens` in tests/interop/gguf.py.

use super::{
    gguf_reader::{Value as Stored, read},
    *,
};

/// A llama with a vocabulary of 320, and vocab.json and merges.txt for 301 of it.
fn scene() -> Scene {
    let scene = Scene::with_vocabulary(320);
    let shared = &read_json(&fixture("tokenizers/cases.json"))["files"];
    scene.put("model/vocab.json", shared["vocab"].to_string());
    scene.put("model/merges.txt", shared["merges"].as_str().expect("lines"));
    scene
}

/// What the metadata of the exported file has about the tokenizer, its lists left out.
fn exported(scene: &Scene, more: &[&OsStr]) -> (Map<String, Value>, String) {
    let (model, file) = (scene.path("model"), scene.path("x.gguf"));
    let said = program(&[args!["export", model, "--format", "gguf", "--force", "-o", file], more].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    let metadata = read(&file).metadata.into_iter();
    let simple = metadata.filter_map(|(key, value)| {
        let value = match value {
            Stored::Number(number) => json!(number as u64),
            Stored::Bool(flag) => json!(flag),
            Stored::Text(text) => json!(text),
            Stored::List(list) if key == "tokenizer.chat_templates" => {
                let text = |value: &Stored| if let Stored::Text(text) = value { json!(text) } else { json!(null) };
                list.iter().map(text).collect::<Vec<_>>().into()
            }
            Stored::List(_) => return None,
        };
        Some((key.strip_prefix("tokenizer.")?.to_owned(), value))
    });
    (simple.collect(), said.err)
}

fn added(names: &[&str]) -> Value {
    let token = |content: &&str| {
        json!({
            "content": content, "lstrip": false, "rstrip": false, "single_word": false, "normalized": false, "special": true
        })
    };
    let tokens = names.iter().enumerate().map(|(at, name)| ((301 + at).to_string(), token(name)));
    tokens.collect::<Map<_, _>>().into()
}

#[test]
fn vocab_json_and_merges_txt_make_a_vocabulary_with_all_that_begins_and_ends_texts() {
    let scene = scene();
    let mut config = read_json(&scene.path("model/config.json"));
    (config["bos_token_id"], config["eos_token_id"]) = (json!(null), json!(302));
    scene.put("model/config.json", config.to_string());
    scene.put("model/generation_config.json", json!({ "eos_token_id": [302, 0, 304] }).to_string());
    let settings = json!({
        "tokenizer_class": "GPT2Tokenizer", "bos_token": "<|start|>", "eos_token": "<|end|>", "pad_token": "<|pad|>",
        "add_bos_token": true, "added_tokens_decoder": added(&["<|start|>", "<|end|>", "<|pad|>", "<|turn|>"])
    });
    scene.put("model/tokenizer_config.json", settings.to_string());
    let expected = json!({
        "ggml.model": "gpt2", "ggml.pre": "gpt-2", "ggml.bos_token_id": 301, "ggml.eos_token_id": 302, "ggml.eot_token_id": 0,
        "ggml.eom_token_id": 304, "ggml.unknown_token_id": 0, "ggml.padding_token_id": 303, "ggml.add_bos_token": true,
        "ggml.add_eos_token": false
    });
    assert_eq!(json!(exported(&scene, args![]).0), expected);
    // What the model has no row for is no token of the file, with a word.
    scene.put("model/generation_config.json", json!({ "eos_token_id": [302, 0, 303, 304, 999] }).to_string());
    let (metadata, said) = exported(&scene, args![]);
    assert_eq!((&metadata["ggml.eot_token_id"], &metadata["ggml.eom_token_id"]), (&json!(0), &json!(303)));
    assert!(said.contains("names 999 as EOS token") && said.contains("1 more tokens end texts"), "{said}");
}

#[test]
fn chat_templates_of_every_place_are_written_under_their_names() {
    let scene = scene();
    let settings = |template: Value| {
        scene.put(
            "model/tokenizer_config.json",
            json!({ "tokenizer_class": "GPT2Tokenizer", "chat_template": template }).to_string(),
        )
    };
    let templates = || {
        let mut metadata = exported(&scene, args![]).0;
        metadata.retain(|name, _| name.starts_with("chat_template"));
        json!(metadata)
    };
    settings(json!(null));
    assert_eq!(templates(), json!({}));
    scene.put("model/chat_template.json", json!({ "chat_template": "P" }).to_string());
    assert_eq!(templates(), json!({ "chat_template": "P" }));
    settings(json!("S"));
    assert_eq!(templates(), json!({ "chat_template": "S" }));
    settings(json!([{ "name": "tool use", "template": "T" }, { "name": "default", "template": "D" }]));
    assert_eq!(
        templates(),
        json!({ "chat_template": "D", "chat_template.tool_use": "T", "chat_templates": ["tool_use"] })
    );
    scene.put("model/chat_template.jinja", "J\n");
    assert_eq!(templates(), json!({ "chat_template": "J\n" }));
    fs::create_dir(scene.path("model/additional_chat_templates")).expect("a directory");
    scene.put("model/additional_chat_templates/rag.jinja", "R");
    assert_eq!(templates(), json!({ "chat_template": "J\n", "chat_template.rag": "R", "chat_templates": ["rag"] }));
    let (model, file) = (scene.path("model"), scene.path("y.gguf"));
    fs::remove_dir_all(scene.path("model/additional_chat_templates")).expect("a directory");
    fs::remove_file(scene.path("model/chat_template.jinja")).expect("a file");
    for wrong in [json!(7), json!([{ "name": "default" }]), json!(["D"])] {
        settings(wrong);
        scene.refused(args!["export", model, "--format", "gguf", "-o", file], 3, "chat_template: expected a text");
    }
}
