//! Does a conversation become the text and the tokens that transformers makes of it?

mod support;

use std::{fs, path::Path, time::Instant};

use serde_json::{Map, Value, json};
use slicegpt_gpu::{
    data::{BuiltTokenizer, Chat, ChatTemplate, SERIALIZED_CLASS, TokenizerFiles, Tokens, encode},
    error::Result,
    progress::Silent,
};
use support::fixture;
use tempfile::TempDir;

fn read(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture("chat").join(name)).expect("a fixture")).expect("JSON")
}

/// A directory with these files and the fixtures' tokenizer.
fn model(files: &[(&str, &str)]) -> TempDir {
    let directory = TempDir::new().expect("a directory");
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    fs::copy(fixture("chat/tokenizer.json"), directory.path().join("tokenizer.json")).expect("a copy");
    directory
}

/// A directory whose tokenizer has this template, and the special tokens of the fixtures.
fn with_template(template: &str) -> TempDir {
    model(&[(
        "tokenizer_config.json",
        &json!({ "chat_template": template, "bos_token": "<s>", "eos_token": { "content": "</s>" } }).to_string(),
    )])
}

fn built(directory: &Path) -> BuiltTokenizer {
    TokenizerFiles::read(directory).and_then(|files| files.build(SERIALIZED_CLASS)).expect("a tokenizer")
}

fn find(directory: &Path) -> Result<ChatTemplate> {
    ChatTemplate::find(directory, &built(directory))
}

fn read_rows(path: &Path) -> Result<Tokens> {
    Tokens::read(path, &|| find(path.parent().expect("a directory")), &Silent)
}

fn chat(row: &Value) -> Chat {
    let objects = |value: &Value| {
        value
            .as_array()
            .map(|list| list.iter().filter_map(|entry| entry.as_object().cloned()).collect())
            .unwrap_or_default()
    };
    Chat {
        messages: objects(&row["messages"]),
        tools: row.get("tools").cloned(),
        documents: row.get("documents").cloned(),
        variables: row.get("chat_template_kwargs").and_then(Value::as_object).cloned().unwrap_or_default(),
    }
}

fn messages(content: &str) -> Chat {
    Chat::of_prompt(content, None)
}

#[test]
fn conversations_are_rendered_and_tokenised_as_transformers_does() {
    let fixtures = read("rendered.json");
    let tokenizer = built(&fixture("chat")).tokenizer;
    let mut rendered = 0;
    for case in fixtures["rendered"].as_array().expect("cases") {
        let (name, conversation, prompt) =
            (case[0].as_str().expect("a name"), case[1].as_str().expect("a name"), case[2] == true);
        let directory = with_template(fixtures["templates"][name].as_str().expect("a template"));
        let template = find(directory.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let text = template.render(&chat(&fixtures["conversations"][conversation]), prompt);
        let what = format!("template {name:?}, conversation {conversation:?}, generation prompt {prompt}");
        match (text, case[3].as_str()) {
            (Ok(text), Some(expected)) => {
                assert_eq!(text, expected, "{what}");
                let ids = encode(&tokenizer, &text, false).expect("tokens");
                assert_eq!(json!(ids), case[4], "{what}");
                rendered += 1;
            }
            (Err(_), None) => {}
            (text, expected) => panic!("{what}: {text:?}, but transformers gives {expected:?}"),
        }
    }
    assert!(rendered > 250, "only {rendered} were compared");
}

#[test]
fn templates_and_special_tokens_are_found_where_transformers_finds_them() {
    for (index, case) in read("found.json").as_array().expect("cases").iter().enumerate() {
        let files: Vec<(&str, &str)> = case["files"]
            .as_object()
            .expect("files")
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str().expect("text")))
            .collect();
        let directory = model(&files);
        let text = find(directory.path())
            .map_err(|error| error.to_string())
            .and_then(|template| template.render(&chat(&case["row"]), false));
        assert_eq!(text.as_ref().ok().map(String::as_str), case["text"].as_str(), "case {index}: {text:?}");
    }
}

#[test]
fn where_a_tokenizer_has_no_template_that_of_the_processor_counts() {
    let directory =
        model(&[("chat_template.json", &json!({ "chat_template": "old {{ messages[0].content }}" }).to_string())]);
    let text = find(directory.path()).expect("a template").render(&messages("x"), false);
    assert_eq!(text.as_deref(), Ok("old x"));
}

#[test]
fn a_model_without_a_template_is_told_where_one_belongs() {
    let error = find(model(&[]).path()).err().expect("no template").to_string();
    for place in [
        "no chat template",
        "chat_template.jinja",
        "additional_chat_templates",
        "tokenizer_config.json",
        "chat_template.json",
    ] {
        assert!(error.contains(place), "{error}");
    }
}

#[test]
fn hostile_templates_come_to_an_end_and_say_so() {
    let deep = format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000));
    for (template, reason) in [
        ("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "too long"),
        ("{% for a in range(100000) %}{{ 'x' * 100000 }}{% endfor %}", "too long"),
        ("{{ 'x' * 100000000000 }}", ""),
        ("{% set ns = namespace(x='x') %}{% for a in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", ""),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ range(10000000000)|list }}", ""),
        ("{% include 'tokenizer.json' %}", ""),
        ("{% import '/etc/passwd' as x %}", ""),
        ("{{ ''.__class__.__mro__ }}", ""),
        ("{{ messages|tojson(indent=1000000000) }}", "indent"),
        ("{{ '%1000000000d' | format(1) }}", ""),
        ("{{ messages[0].content.replace('', 'y' * 1000000) * 1000000 }}", ""),
        ("{{ raise_exception('no such role') }}", "no such role"),
        (deep.as_str(), ""),
        (format!("{{{{ {deep} }}}}").as_str(), ""),
    ] {
        let begin = Instant::now();
        let directory = with_template(template);
        let result = find(directory.path())
            .map_err(|error| error.to_string())
            .and_then(|found| found.render(&messages("x"), false));
        let shown: String = template.chars().take(80).collect();
        match result {
            // Brackets outside of a tag are text.
            Ok(text) => assert_eq!(text, template, "{shown}"),
            Err(error) => assert!(error.contains(reason) && !error.is_empty(), "{shown}: {error}"),
        }
        assert!(begin.elapsed().as_secs() < 20, "{shown}: {:?}", begin.elapsed());
    }
}

#[test]
fn templates_know_the_day() {
    let directory = with_template("{{ strftime_now('%Y-%m-%d') }}");
    let text = find(directory.path()).expect("a template").render(&messages("x"), false).expect("a day");
    let parts: Vec<u32> = text.split('-').map(|part| part.parse().expect("a number")).collect();
    assert!(
        parts.len() == 3 && parts[0] >= 2025 && (1..=12).contains(&parts[1]) && (1..=31).contains(&parts[2]),
        "{text}"
    );
}

/// The ids of all windows of one token of a file of rows.
fn tokens(directory: &Path, rows: &[Value]) -> Vec<u32> {
    let path = directory.join("rows.jsonl");
    fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).expect("a file");
    let Tokens::Text(text) = read_rows(&path).unwrap_or_else(|error| panic!("{error}")) else { panic!("no token ids") };
    text.windows(&built(directory).tokenizer, 1).expect("windows").concat()
}

#[test]
fn rows_of_messages_are_the_tokens_of_each_conversation_with_none_added() {
    let fixtures = read("rendered.json");
    let directory = with_template(fixtures["templates"]["headers-tools"].as_str().expect("a template"));
    let names = ["answered", "calls", "variables"];
    let rows: Vec<Value> = names.iter().map(|name| fixtures["conversations"][*name].clone()).collect();
    let expected: Vec<u32> = names
        .iter()
        .flat_map(|name| {
            let case = |case: &&Value| case[0] == "headers-tools" && case[1] == *name && case[2] == false;
            fixtures["rendered"].as_array().expect("cases").iter().find(case).expect("a case")[4]
                .as_array()
                .expect("ids")
                .clone()
        })
        .map(|id| id.as_u64().expect("an id") as u32)
        .collect();
    assert_eq!(tokens(directory.path(), &rows), expected);
}

#[test]
fn sharegpt_and_bare_lists_and_prompts_of_messages_are_the_same_conversations() {
    let directory = with_template("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}");
    let message = |role: &str, content: &str| json!({ "role": role, "content": content });
    let list = [message("system", "s"), message("user", "u"), message("assistant", "a")];
    let expected = tokens(directory.path(), &[json!({ "messages": list })]);
    let said = |from: &str, value: &str| json!({ "from": from, "value": value });
    for row in [
        json!({ "conversations": [said("system", "s"), said("human", "u"), said("gpt", "a")], "id": 7 }),
        json!({ "conversations": list }),
        json!(list),
        json!({ "prompt": list[..2], "completion": list[2..] }),
        json!({ "messages": list, "text": "passed over", "source": "somewhere" }),
    ] {
        assert_eq!(tokens(directory.path(), std::slice::from_ref(&row)), expected, "{row}");
    }
}

#[test]
fn calibration_on_conversations_begins_and_ends_between_them() {
    let directory = with_template("{% for m in messages %}<s>{{ m.content }}\n{% endfor %}");
    let rows: Vec<Value> = (0..40)
        .map(|index| json!({ "messages": [{ "role": "user", "content": format!("{}\nsecond line", index % 10) }] }))
        .collect();
    let path = directory.path().join("rows.ndjson");
    fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).expect("a file");
    let tokenizer = built(directory.path()).tokenizer;
    let start = encode(&tokenizer, "<s>", false).expect("a token")[0];
    let Tokens::Text(text) = read_rows(&path).expect("rows") else { panic!("no token ids") };
    let (beginning, tail) = text.split_tail();
    let starts = |windows: Vec<Vec<u32>>| windows.concat().iter().filter(|&&id| id == start).count();
    let (kept, held_out) = (
        beginning.windows(&tokenizer, 1).expect("tokens"),
        tail.expect("a tail").windows(&tokenizer, 1).expect("tokens"),
    );
    assert_eq!(held_out[0], [start]);
    assert_eq!((starts(kept), starts(held_out)), (36, 4));
    let sequences = beginning.sequences(&tokenizer, 10, 20, 1).expect("sequences");
    assert!(sequences.iter().all(|sequence| sequence[0] == start && sequence[1..].contains(&start)), "{sequences:?}");
}

#[test]
fn conversations_that_no_template_takes_are_refused_with_the_row() {
    let directory = with_template(
        "{% for m in messages %}{{ raise_exception('only users') if m.role != 'user' }}{{ m.content }}{% endfor %}",
    );
    let path = directory.path().join("rows.jsonl");
    let user = json!({ "role": "user", "content": "x" });
    let odd = |changes: Value| {
        let mut row = Map::from_iter([("messages".to_owned(), json!([user]))]);
        row.extend(changes.as_object().cloned().expect("fields"));
        Value::from(row)
    };
    for (row, reason) in [
        (odd(json!({ "messages": [{ "role": "judge", "content": "x" }] })), "only users"),
        (odd(json!({ "messages": [] })), "a conversation without messages"),
        (odd(json!({ "messages": "x" })), "\"messages\" is a string, expected a list of messages"),
        (odd(json!({ "messages": ["x"] })), "message 0 is a string, expected an object"),
        (
            odd(json!({ "messages": [{ "content": "x" }] })),
            "message 0: expected \"role\" and \"content\", or \"from\" and \"value\"; found \"content\"",
        ),
        (odd(json!({ "messages": [{ "role": 1, "content": "x" }] })), "message 0: \"role\" is 1, expected a string"),
        (odd(json!({ "messages": [{ "from": "alien", "value": "x" }] })), "\"from\" is \"alien\", expected human, gpt"),
        (odd(json!({ "system": "Be brief." })), "the field \"system\" is not read and may change what the row means"),
        (odd(json!({ "chat_template_kwargs": [] })), "\"chat_template_kwargs\" is an array, expected an object"),
        (odd(json!({ "chat_template_kwargs": { "continue_final_message": true } })), "has \"continue_final_message\""),
        (odd(json!({ "chat_template_kwargs": { "chat_template": "x" } })), "has \"chat_template\""),
        (odd(json!({ "chat_template_kwargs": { "messages": [user] } })), "has \"messages\", which is no variable"),
        (odd(json!({ "chat_template_kwargs": { "tools": [user] } })), "has \"tools\""),
        (odd(json!({ "chat_template_kwargs": { "add_generation_prompt": true } })), "has \"add_generation_prompt\""),
        (user.clone(), "a message outside of a conversation"),
        (json!({ "text": "x" }), "a row with \"text\" where the first (line 1) has \"messages\""),
    ] {
        fs::write(&path, format!("{}\n\n{row}", odd(json!({ "system": "" })))).expect("a file");
        let error = read_rows(&path).err().unwrap_or_else(|| panic!("{row} is taken")).to_string();
        assert!(error.contains("rows.jsonl: line 3: ") && error.contains(reason), "{row}: {error}");
    }
}

#[test]
fn templates_see_what_python_sees() {
    for (template, expected) in [
        ("{% if tools is iterable and tools | length > 0 %}tools{% endif %}{{ messages[0].content }}", "hello"),
        ("{% set all = (tools or []) + [{'name': 'x'}] %}{{ all | tojson }}", "[{\"name\": \"x\"}]"),
        ("{{ ([1] + [2]) is sequence }}{{ 'ab' is iterable }}{{ none is iterable }}", "TrueTrueFalse"),
    ] {
        let directory = with_template(template);
        let text = find(directory.path()).expect("a template").render(&messages("hello"), false);
        assert_eq!(text.as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn tokens_that_only_some_models_have_are_known_to_templates() {
    let config = json!({
        "chat_template": "{{ image_token }}{{ boi_token }}{{ messages[0].content }}",
        "image_token": "<s>", "extra_special_tokens": { "boi_token": "</s>" }, "model_max_length": 1
    });
    let text = config.to_string().replace("\"model_max_length\":1", "\"model_max_length\":Infinity");
    assert!(text.contains("Infinity"));
    let directory = model(&[("tokenizer_config.json", &text)]);
    let text = find(directory.path()).expect("a template").render(&messages("hello"), false);
    assert_eq!(text.as_deref(), Ok("<s></s>hello"));
}

#[test]
fn of_templates_with_one_name_the_last_counts_and_a_pointer_is_none() {
    let directory = model(&[
        ("chat_template.jinja", "first"),
        ("additional_chat_templates/default.jinja", "last\r\n{{ messages[0].content }}"),
    ]);
    let templates = slicegpt_gpu::data::chat_templates(directory.path()).expect("templates");
    assert_eq!(templates, [("default".to_owned(), "last\n{{ messages[0].content }}".to_owned())]);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    let directory = model(&[("chat_template.jinja", pointer)]);
    let error = find(directory.path()).err().expect("no template").to_string();
    assert!(error.contains("chat_template.jinja") && error.contains("a Git LFS pointer"), "{error}");
}

#[test]
fn fields_that_say_what_is_trained_on_are_refused() {
    let directory = with_template("{% for m in messages %}{{ m.content }}{% endfor %}");
    for (row, reason) in [
        (r#"{"messages": [{"role": "user", "content": "a", "weight": 0}]}"#, "message 0: \"weight\""),
        (r#"{"messages": [{"role": "user", "content": "a"}], "tools": "[]"}"#, "\"tools\" is a string"),
        (r#"{"messages": [{"role": "user", "content": "a"}], "chat_template": "x"}"#, "\"chat_template\""),
    ] {
        let path = directory.path().join("rows.jsonl");
        fs::write(&path, row).expect("a file");
        let error = read_rows(&path).err().expect("a refusal").to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn floats_that_are_no_numbers_are_what_python_has() {
    let directory = with_template("{{ tools | tojson }} {{ messages[0].content.a }} {{ messages[0].content.b }}");
    let template = find(directory.path()).expect("a template");
    // As such literals are read from JSON.
    let tagged = |literal: &str| json!({ "__float__": literal });
    let content = json!({ "a": tagged("-Infinity"), "b": tagged("NaN") });
    let message = Map::from_iter([("role".to_owned(), json!("user")), ("content".to_owned(), content)]);
    let tools = Some(json!([{ "maximum": tagged("Infinity"), "list": [tagged("NaN"), 1.5] }]));
    let chat = Chat { messages: vec![message], tools, ..Chat::default() };
    // json.dumps and str of Python.
    assert_eq!(
        template.render(&chat, false).expect("a text"),
        "[{\"maximum\": Infinity, \"list\": [NaN, 1.5]}] -inf nan"
    );
}
