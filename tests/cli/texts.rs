//! Tokenizers, texts and numbers at the edge of sense.

use super::*;

#[test]
fn a_tokenizer_that_cuts_and_fills_does_neither_here() {
    let scene = Scene::new(LLAMA);
    let (model, text) = (scene.path("model"), scene.put("text.txt", scene.paragraphs(1, 300).join("")));
    let evaluate = || program(args!["eval", model, "--text", text, "--seqlen", "50", "--json"]).json();
    scene.tokenizer(json!({}));
    let plain = evaluate();
    assert_eq!(plain["sequences"], 6);
    scene.tokenizer(json!({
        "truncation": { "direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0 },
        "padding": { "strategy": { "Fixed": 512 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "w0" }
    }));
    let cut = evaluate();
    assert_eq!((&cut["sequences"], &cut["perplexity"]), (&plain["sequences"], &plain["perplexity"]));
}

#[test]
fn a_tokenizer_that_contradicts_itself_is_a_bad_file_and_no_panic() {
    let scene = Scene::new(LLAMA);
    let (model, text) = (scene.path("model"), scene.put("text.txt", "w1 w2 w3"));
    let bpe = |vocab: Value, merges: Value, prefix: Value| json!({ "model": { "type": "BPE", "vocab": vocab, "merges": merges, "continuing_subword_prefix": prefix } });
    for changes in [
        bpe(json!({ "a": 0, "b": 1 }), json!(["a b"]), json!(null)),
        bpe(json!({ "a": 0, "é": 1 }), json!(["a é"]), json!("#####")),
        json!({ "normalizer": { "type": "Precompiled", "precompiled_charsmap": "/////zE=" } }),
        json!({ "pre_tokenizer": { "type": "FixedLength", "length": 0 } }),
        json!({ "post_processor": {
            "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [], "special_tokens": {}
        } }),
        json!({ "model": { "type": "WordLevel", "vocab": {}, "unk_token": "w0" } }),
        json!({ "model": { "type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 7 } }),
    ] {
        scene.tokenizer(changes);
        scene.refused(args!["eval", model, "--text", text], 3, "");
        scene.refused(args!["generate", model, "--prompt", "w1"], 3, "");
    }
}

#[test]
fn a_text_of_blank_lines_is_drawn_from_in_no_time() {
    let scene = Scene::new(LLAMA);
    scene.tokenizer(json!({}));
    let text = scene.put("text.txt", format!("{}{}", "\n\n".repeat(300_000), scene.paragraphs(30, 20).join("\n\n")));
    let started = Instant::now();
    let said = program(args![
        "run",
        scene.path("model"),
        "-o",
        scene.path("out"),
        "--calibration",
        text,
        "--cal-nsamples",
        "4",
        "--cal-max-seqlen",
        "16"
    ]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn a_text_shorter_than_a_sequence_is_planned_as_what_it_is() {
    let scene = Scene::new(LLAMA);
    scene.tokenizer(json!({}));
    let [few, many] =
        [("few.txt", 3), ("many.txt", 300)].map(|(name, count)| scene.put(name, scene.paragraphs(count, 8).join("\n")));
    let (model, out) = (scene.path("model"), scene.path("out"));
    let run = |text: &PathBuf, flags: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(args!["run", model, "-o", out, "--calibration", text, "--cal-max-seqlen", "100", "--json"]);
        said(command.args(flags)).json()
    };
    let of = |report: &Value, name: &str| {
        let phases = report["memory"].as_array().expect("phases");
        phases.iter().find(|phase| phase["phase"] == name).expect("one")["gpu_bytes"].as_u64().expect("bytes")
    };
    let bytes = |report: &Value| of(report, "slice");
    let (planned, more) = (run(&few, &["--dry-run"]), run(&many, &["--dry-run"]));
    assert!(2 * bytes(&planned) < bytes(&more), "{planned} {more}");
    assert!(of(&planned, "perplexity") < of(&more, "perplexity"), "{planned} {more}");
    let found = run(&few, &[]);
    assert_eq!((&found["calibration"]["sequences"], bytes(&found)), (&json!(1), bytes(&planned)), "{found}");
    let most = found["memory"].as_array().expect("phases").iter().filter_map(|phase| phase["gpu_bytes"].as_u64()).max();
    assert!(found["peak_gpu_bytes"].as_u64() <= most, "{found}");
}

#[test]
fn absurd_numbers_of_positions_are_refused_before_memory_is_taken() {
    let scene = Scene::new(LLAMA);
    scene.tokenizer(json!({}));
    let path = scene.path("model/config.json");
    let config = fs::read_to_string(&path).expect("a config");
    fs::write(&path, config.replace("\"max_position_embeddings\": 128", "\"max_position_embeddings\": 268435456"))
        .expect("a file");
    let out = scene.path("out");
    scene.refused(
        args!["run", scene.path("model"), "-o", out, "--cal-max-seqlen", "268435456", "--cal-nsamples", "1"],
        5,
        "lower",
    );
    scene.refused(args!["generate", scene.path("model"), "--prompt", "", "--max-new-tokens", "268435455"], 5, "lower");
}

#[test]
fn texts_in_json_and_archives_are_measured_as_the_text_in_them() {
    let scene = Scene::new(LLAMA);
    scene.tokenizer(json!({}));
    let (model, paragraphs) = (scene.path("model"), scene.paragraphs(20, 30));
    let rows: String = paragraphs.iter().map(|text| json!({ "text": text, "url": "x" }).to_string() + "\n").collect();
    let mut archive = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut archive, rows.as_bytes()).expect("memory");
    let archive = archive.finish().expect("memory");
    let perplexity = |path: &Path| {
        program(args!["eval", model, "--text", path, "--seqlen", "40", "--json"]).json()["perplexity"].clone()
    };
    let expected = perplexity(&scene.put("text.txt", paragraphs.join("\n\n")));
    assert!(expected.as_f64().is_some_and(|perplexity| perplexity > 1.0));
    let rows = rows.as_bytes();
    for (name, bytes) in [
        ("rows.ndjson", rows),
        ("rows.JSONL", rows),
        ("c4.json", rows),
        ("c4.json.gz", &*archive),
        ("unnamed", &*archive),
    ] {
        assert_eq!(perplexity(&scene.put(name, bytes)), expected, "{name}");
    }
}

/// A template that writes a conversation in words of the tokenizer, and a tokenizer that begins other texts with a
/// word.
fn words_of_conversations(scene: &Scene) {
    scene.tokenizer(json!({
        "post_processor": {
            "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "w3", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [], "special_tokens": { "w3": { "id": "w3", "ids": [3], "tokens": ["w3"] } }
        }
    }));
    let template = "{% for m in messages %}w1 {{ 'w4' if m.role == 'system' else 'w5' }} {{ m.content }} w2 \
         {% endfor %}{{ 'w6' if add_generation_prompt }}";
    scene.put("model/tokenizer_config.json", json!({ "chat_template": template }).to_string());
}

#[test]
fn conversations_are_measured_as_the_tokens_of_the_chat_template() {
    let scene = Scene::new(LLAMA);
    words_of_conversations(&scene);
    let (model, paragraphs) = (scene.path("model"), scene.paragraphs(12, 20));
    let rows: String = paragraphs
        .iter()
        .map(|text| json!({ "messages": [{ "role": "user", "content": text }] }).to_string() + "\n")
        .collect();
    let ids: Vec<u32> = paragraphs
        .iter()
        .flat_map(|text| {
            format!("w1 w5 {text} w2").split(' ').map(|word| word[1..].parse().expect("a number")).collect::<Vec<u32>>()
        })
        .collect();
    let windows: Vec<&[u32]> = ids.chunks_exact(32).collect();
    let (chats, tokens) =
        (scene.put("chats.jsonl", &rows), scene.put("tokens.json", json!({ "input_ids": windows }).to_string()));
    let of_chats = program(args!["eval", model, "--text", chats, "--seqlen", "32", "--json"]).json();
    let of_tokens = program(args!["eval", model, "--tokens", tokens, "--json"]).json();
    assert_eq!((&of_chats["perplexity"], &of_chats["tokens"]), (&of_tokens["perplexity"], &of_tokens["tokens"]));

    let report = program(args![
        "run",
        model,
        "-o",
        scene.path("out"),
        "--calibration",
        chats,
        "--cal-nsamples",
        "4",
        "--cal-max-seqlen",
        "16",
        "--json"
    ]);
    assert_eq!(report.json()["calibration"]["tokens"], 64);
    fs::remove_file(scene.path("model/tokenizer_config.json")).expect("a file");
    scene.refused(args!["eval", model, "--text", chats], 3, "no chat template (in chat_template.jinja");
}

#[test]
fn a_prompt_with_chat_is_answered_as_the_template_has_it() {
    let scene = Scene::new(LLAMA);
    let model = scene.path("model");
    let options = ["--temperature", "0", "--max-new-tokens", "12"].map(OsStr::new);
    let generated = |arguments: &[&OsStr]| {
        let said = program(&[arguments, &options].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
        said.out
    };
    let written = "w1 w4 w9 w2 w1 w5 w7 w8 w2 w6";
    scene.tokenizer(json!({}));
    scene.refused(
        args!["generate", model, "--chat", "--prompt", "w7"],
        3,
        "without --chat, the prompt is continued as it stands",
    );
    let expected = generated(args!["generate", model, "--prompt", written]);
    words_of_conversations(&scene);
    let answer = generated(args!["generate", model, "--chat", "--system", "w9", "--prompt", "w7 w8"]);
    assert!(answer.trim().len() > 10, "{answer:?} proves nothing");
    assert_eq!(format!("{written}{answer}"), expected);
    assert_ne!(generated(args!["generate", model, "--chat", "--prompt", "w7 w8"]), answer, "the system message counts");
    let said = program(args!["generate", model, "--system", "w9", "--prompt", "w7"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    scene.put(
        "model/tokenizer_config.json",
        json!({ "chat_template": "{{ raise_exception('no ' + messages[0].role) }}" }).to_string(),
    );
    scene.refused(args!["generate", model, "--chat", "--prompt", "w7"], 3, "does not take this conversation: no user");
}

#[cfg(target_os = "linux")]
#[test]
fn a_pipe_is_read_where_once_is_enough_and_refused_where_it_is_not() {
    let scene = Scene::new(LLAMA);
    scene.tokenizer(json!({}));
    let (model, text, out) = (scene.path("model"), scene.paragraphs(4, 30).join("\n\n"), scene.path("out"));
    let file = scene.put("text.txt", &text);
    let expected =
        program(args!["eval", model, "--text", file, "--seqlen", "40", "--json"]).json()["perplexity"].clone();
    let piped = |arguments: &[&OsStr]| {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a process");
        let mut stdin = child.stdin.take().expect("a pipe");
        // A program that refuses to read closes the pipe.
        let _ = std::io::Write::write_all(&mut stdin, text.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("a process");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, said, _) = piped(args!["eval", model, "--text", "/dev/stdin", "--seqlen", "40", "--json"]);
    assert_eq!((code, &serde_json::from_str::<Value>(&said).expect("JSON")["perplexity"]), (Some(0), &expected));
    for (flag, other) in [("--calibration", "--eval"), ("--eval", "--calibration")] {
        let (code, _, err) = piped(args!["run", model, "-o", out, flag, "/dev/stdin", other, file]);
        assert!(
            code == Some(3) && err.contains("/dev/stdin: a pipe or a device, which can be read only once"),
            "{flag}: {code:?} {err}"
        );
    }
    assert!(!out.exists());
    scene.refused(
        args!["eval", model, "--text", "/dev/zero"],
        3,
        "/dev/zero: a device, which may have no end; give a file or a pipe",
    );
}

#[cfg(target_os = "linux")]
#[test]
fn paths_that_are_not_utf8_work() {
    use std::os::unix::ffi::OsStrExt;
    let scene = Scene::new(LLAMA);
    let odd = |name: &[u8]| scene.directory.path().join(OsStr::from_bytes(name));
    let (model, out) = (odd(b"mod\xffel"), odd(b"o\xfeut"));
    fs::rename(scene.path("model"), &model).expect("a new name");
    let tokens = odd(b"t\xff.json");
    fs::write(&tokens, json!({ "input_ids": [[5, 6, 7, 8], [9, 10, 11]] }).to_string()).expect("a file");
    let report = program(args!["run", model, "-o", out, "--calibration", tokens, "--eval", tokens, "--json"]).json();
    let evaluated = program(args!["eval", out, "--tokens", tokens, "--json"]).json();
    assert_eq!(evaluated["perplexity"], report["perplexity"]["sliced"]);
}
