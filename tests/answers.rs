//! Are the tokens that are learned of questions and answers those that transformers marks as answers?

mod support;

use std::fs;

use serde_json::{Value, json};
use slicegpt_gpu::{
    data::{BuiltTokenizer, ChatTemplate, Encoded, Example, Lessons, SERIALIZED_CLASS, TokenizerFiles},
    error::Result,
    progress::Silent,
};
use support::fixture;

fn cases() -> Value {
    serde_json::from_slice(&fs::read(fixture("answers/cases.json")).expect("a fixture")).expect("JSON")
}

fn tokenizer() -> BuiltTokenizer {
    TokenizerFiles::read(&fixture("answers")).and_then(|files| files.build(SERIALIZED_CLASS)).expect("a tokenizer")
}

/// What a file with one row holds, where the model has this template.
fn read(row: &Value, template: &str, marked: bool) -> Result<Lessons> {
    let at = tempfile::tempdir().expect("a directory");
    fs::write(at.path().join("chat_template.jinja"), template).expect("a template");
    fs::write(at.path().join("row.jsonl"), format!("{row}\n")).expect("a row");
    let find = || ChatTemplate::find(at.path(), &tokenizer());
    Lessons::read(&at.path().join("row.jsonl"), &find, marked, &Silent)
}

fn example(row: &Value, template: &str) -> Example {
    match read(row, template, true).unwrap_or_else(|error| panic!("{row}: {error}")) {
        Lessons::Examples(mut examples) if examples.len() == 1 => examples.remove(0),
        _ => panic!("{row}: no example"),
    }
}

/// Its tokens and their marks, as the fixtures have them.
fn marked(row: &Value, template: &str) -> [Value; 2] {
    let built = tokenizer();
    let Encoded { ids, answer } = example(row, template).encode(&built.tokenizer, built.role("eos")).expect("tokens");
    [json!(ids), json!(answer.into_iter().map(u32::from).collect::<Vec<_>>())]
}

#[test]
fn in_conversations_answers_are_what_generation_blocks_of_the_template_hold() {
    let cases = cases();
    let all = cases["conversations"].as_array().expect("conversations");
    for case in all {
        let template = cases["templates"][case[0].as_str().expect("a name")].as_str().expect("a template");
        let [ids, marks] = marked(&json!({ "messages": case[1] }), template);
        assert_eq!((&ids, &marks), (&case[2], &case[3]), "{} {}", case[0], case[1]);
    }
    assert!(all.len() > 12, "only {} were compared", all.len());
}

#[test]
fn in_records_answers_are_what_the_question_by_itself_does_not_begin_with() {
    for case in cases()["records"].as_array().expect("records") {
        let [ids, marks] = marked(&case[0], "");
        assert_eq!((&ids, &marks), (&case[1], &case[2]), "{}", case[0]);
    }
}

#[test]
fn a_template_that_does_not_show_where_an_answer_begins_is_refused_with_a_way_out() {
    // What the system says stands before whatever is asked last.
    let moving = "{% for m in messages %}{% if m.role == 'user' %}{% if loop.last or loop.index0 == \
                  messages | length - 2 %}[{{ messages[0].content }}]{% endif %}Q {{ m.content }}{% elif m.role == \
                  'assistant' %}A {{ m.content }}{% endif %}{% endfor %}";
    let say = |role: &str, content: &str| json!({ "role": role, "content": content });
    let mut messages = vec![say("system", "kind"), say("user", "one"), say("assistant", "two")];
    assert!(read(&json!({ "messages": messages }), moving, true).is_ok());
    messages.extend([say("user", "three"), say("assistant", "four")]);
    assert!(read(&json!({ "messages": messages }), moving, false).is_ok());
    let error = read(&json!({ "messages": messages }), moving, true).err().expect("an error").to_string();
    assert!(error.contains("message 2") && error.contains("--loss-on all"), "{error}");
}

#[test]
fn texts_and_token_ids_are_no_examples() {
    for row in [json!({ "text": "a" }), json!("a"), json!({ "input_ids": [1, 2] })] {
        assert!(matches!(read(&row, "", true), Ok(Lessons::Tokens(_))), "{row}");
    }
}
