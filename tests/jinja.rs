//! Are single constructs of chat templates what Jinja makes of them, or refused, but never something else?

mod support;

use std::fs;

use serde_json::{Value, json};
use slicegpt_gpu::data::{Chat, ChatTemplate, SERIALIZED_CLASS, TokenizerFiles};
use support::fixture;

/// The text that a template makes of the conversation of tests/fixtures/make_jinja_cases.py.
fn render(template: &str) -> Result<String, String> {
    let directory = tempfile::tempdir().expect("a directory");
    fs::copy(fixture("chat/tokenizer.json"), directory.path().join("tokenizer.json")).expect("a copy");
    let settings = json!({ "chat_template": template }).to_string();
    fs::write(directory.path().join("tokenizer_config.json"), settings).expect("a file");
    let chat = json!([
        { "role": "user", "content": "Hello <b> & 'you' \"there\"" },
        { "role": "assistant", "content": " \u{1c} Tabs\tand\nlines \
             \u{1f}", "n": 3, "x": 1.5, "none": [null, true, { "k": "v's" }] },
    ]);
    let messages = chat.as_array().expect("messages").iter().filter_map(Value::as_object).cloned().collect();
    let built = TokenizerFiles::read(directory.path()).and_then(|files| files.build(SERIALIZED_CLASS));
    let found =
        ChatTemplate::find(directory.path(), &built.expect("a tokenizer")).map_err(|error| error.to_string())?;
    found.render(&Chat { messages, ..Chat::default() }, false)
}

/// Constructs that print what no template means to print, or ask Python itself: known to differ.
const OTHERWISE: &[&str] =
    &["{{ cycler }}", "{{ namespace(a=1) }}", "{{ [undefined_name] }}", "{{ [1.0, 1e20] | string }}", "{{ 1.real }}"];

/// What is refused, though Jinja renders it: each by the name of what is not known.
const REFUSED: &[&str] = &[
    "\\N in a string",
    "half of a surrogate pair",
    "plain object",
    "has no method named",
    "is not known, only of 0 to 9",
    "only the digits from 0 to 9 are known",
    "in format spec",
    "invalid format spec",
    "% operator on unsupported types",
    "is unknown",
    "attr finds what Python knows",
    "too many arguments",
    "pprint is not implemented",
    "the further arguments of a macro, are not implemented",
];

#[test]
fn constructs_are_what_jinja_makes_of_them_or_refused_by_name() {
    let text = fs::read_to_string(fixture("chat/jinja.json")).expect("the fixture");
    let cases: Vec<(String, Option<String>)> = serde_json::from_str(&text).expect("cases");
    let mut wrong = Vec::new();
    for (template, expected) in cases.iter().filter(|(template, _)| !OTHERWISE.contains(&template.as_str())) {
        match (render(template), expected) {
            (Ok(text), Some(expected)) if text == *expected => {}
            (Err(_), None) => {}
            (Err(error), Some(_)) if REFUSED.iter().any(|name| error.contains(name)) => {}
            (Err(error), Some(_)) => wrong.push(format!("{template:?} is refused: {error}")),
            (Ok(text), expected) => wrong.push(format!("{template:?}: {text:?}, but Jinja gives {expected:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
