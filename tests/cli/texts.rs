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
    let said =
        program(args!["run", scene.path("model"), "-o", scene.path("out"), "--calibration", text, "--cal-nsamples", "4", "--cal-max-seqlen", "16"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn absurd_numbers_of_positions_are_refused_before_memory_is_taken() {
    let scene = Scene::new(LLAMA);
    scene.tokenizer(json!({}));
    let path = scene.path("model/config.json");
    let config = fs::read_to_string(&path).expect("a config");
    fs::write(&path, config.replace("\"max_position_embeddings\": 128", "\"max_position_embeddings\": 268435456")).expect("a file");
    let out = scene.path("out");
    scene.refused(args!["run", scene.path("model"), "-o", out, "--cal-max-seqlen", "268435456", "--cal-nsamples", "1"], 5, "lower");
    scene.refused(args!["generate", scene.path("model"), "--prompt", "", "--max-new-tokens", "268435455"], 5, "lower");
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
