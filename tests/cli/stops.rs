//! Where generation begins and ends, and what generation_config.json asks of it.

use super::*;

/// The words that a rollout adds to "w3 w1 w4".
fn rollout(scene: &Scene, more: &[&OsStr]) -> (Vec<String>, String) {
    let model = scene.path("model");
    let arguments = args!["generate", model, "--prompt", "w3 w1 w4", "--max-new-tokens", "12"];
    let said = program(&[arguments, more].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    (said.out.split_whitespace().skip(3).map(str::to_owned).collect(), said.err)
}

fn change_config(scene: &Scene, changes: Value) {
    let path = scene.path("model/config.json");
    let mut config = read_json(&path);
    for (name, value) in changes.as_object().expect("an object") {
        config[name] = value.clone();
    }
    fs::write(path, config.to_string()).expect("a file");
}

#[test]
fn generation_stops_at_every_token_that_any_file_says_ends_a_text() {
    let scene = Scene::new(LLAMA);
    scene.tokenizer(json!({}));
    change_config(&scene, json!({ "eos_token_id": null, "bos_token_id": null }));
    // Drawn with the default seed, as a greedy rollout of a random model soon repeats itself.
    let drawn = args!["--temperature", "1.5", "--top-p", "1"];
    let (free, _) = rollout(&scene, drawn);
    assert_eq!(free.len(), 12);
    // A word that comes late, and what comes before it for the first time.
    let last =
        free.iter().rev().find(|word| free.iter().position(|other| other == *word) > Some(1)).expect("two words");
    let until = free.iter().position(|word| word == last).expect("it is there");
    let id: u64 = last[1..].parse().expect("a number");
    let mut unused = (0..131u64).filter(|id| !free.contains(&format!("w{id}")));
    let (one, other) = (unused.next().expect("a word"), unused.next().expect("a word"));
    let generation = |fields: Value| scene.put("model/generation_config.json", fields.to_string());
    let stopped = |what: &str| assert_eq!(rollout(&scene, drawn).0, free[..until], "{what}");
    change_config(&scene, json!({ "eos_token_id": [id] }));
    stopped("config.json");
    generation(json!({ "eos_token_id": one }));
    stopped("config.json, where generation_config.json names another");
    change_config(&scene, json!({ "eos_token_id": one }));
    generation(json!({ "eos_token_id": [other, id] }));
    stopped("a list in generation_config.json");
    generation(json!({}));
    scene.put("model/tokenizer_config.json", json!({ "eos_token": { "content": last } }).to_string());
    stopped("tokenizer_config.json");
    scene.put("model/tokenizer_config.json", "{}");
    scene.put("model/special_tokens_map.json", json!({ "eos_token": last }).to_string());
    stopped("special_tokens_map.json");
    fs::remove_file(scene.path("model/special_tokens_map.json")).expect("a file");
    assert_eq!(rollout(&scene, drawn).0, free, "where none of them does");
}

#[test]
fn ids_outside_of_the_vocabulary_are_ignored_with_a_word_and_what_is_no_id_is_refused() {
    let scene = Scene::new(LLAMA);
    scene.tokenizer(json!({}));
    let model = scene.path("model");
    scene.put("model/generation_config.json", json!({ "eos_token_id": [-1, 4_000_000] }).to_string());
    let (_, warned) = rollout(&scene, args![]);
    for id in ["-1", "4000000"] {
        assert!(
            warned.contains(&format!(
                "generation_config.json names {id} as EOS token, outside of the vocabulary of 131: ignored"
            )),
            "{warned}"
        );
    }
    for (fields, message) in [
        (json!({ "eos_token_id": "2" }), "eos_token_id: expected a token id or a list of them, found \"2\""),
        (json!({ "bos_token_id": [1.5] }), "bos_token_id: expected token ids"),
        (json!({ "temperature": "hot" }), "temperature: expected a number of at least 0"),
        (json!({ "top_p": 2 }), "top_p: expected a number from 0 to 1"),
        (json!({ "do_sample": "yes" }), "do_sample: expected true or false"),
        (json!({ "max_new_tokens": -3 }), "max_new_tokens: expected a whole number"),
        (json!([]), "generation_config.json"),
    ] {
        scene.put("model/generation_config.json", fields.to_string());
        scene.refused(args!["generate", model, "--prompt", "w1"], 3, message);
    }
}

#[test]
fn generation_config_gives_the_defaults_of_options_and_what_is_not_applied_is_said() {
    let scene = Scene::new(LLAMA);
    scene.tokenizer(json!({}));
    change_config(&scene, json!({ "eos_token_id": null }));
    let generation = |fields: Value| scene.put("model/generation_config.json", fields.to_string());
    let with = |arguments: &[&OsStr]| {
        let said = program(&[args!["generate", scene.path("model"), "--prompt", "w3 w1 w4"], arguments].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
        (said.out.split_whitespace().skip(3).map(str::to_owned).collect::<Vec<_>>(), said.err)
    };
    let greedy = with(args!["--temperature", "0", "--max-new-tokens", "9"]).0;
    let drawn = with(args!["--temperature", "1.5", "--top-p", "0.5", "--max-new-tokens", "9"]).0;
    assert_ne!(greedy, drawn);
    generation(json!({ "do_sample": false, "temperature": 1.5, "max_new_tokens": 9, "top_k": 50, "min_p": 0.1 }));
    let (words, warned) = with(args![]);
    assert_eq!(words, greedy);
    assert!(
        !warned.contains("not applied"),
        "what only changes draws says nothing about the likeliest token: {warned}"
    );
    assert_eq!(with(args!["--temperature", "1.5", "--top-p", "0.5"]).0, drawn, "an option counts more");
    generation(json!({ "do_sample": true, "temperature": 1.5, "top_p": 0.5, "max_new_tokens": 9 }));
    let (words, warned) = with(args![]);
    assert!(words == drawn && !warned.contains("not applied"), "{words:?}: {warned}");
    generation(json!({
        "_from_model_config": true, "transformers_version": "5.0.0", "use_cache": true, "pad_token_id": 0, "num_beams": 1, "top_k": 0,
        "repetition_penalty": 1.0, "suppress_tokens": [], "forced_eos_token_id": null, "num_return_sequences": 1, "length_penalty": 2.0
    }));
    let warned = with(args![]).1;
    assert!(!warned.contains("not applied"), "nothing of this changes the text: {warned}");
    generation(
        json!({ "top_k": 20, "repetition_penalty": 1.05, "suppress_tokens": [5], "max_length": 40, "a_field_to_come": 7 }),
    );
    let warned = with(args![]).1;
    for field in ["top_k 20", "repetition_penalty 1.05", "suppress_tokens [5]", "max_length 40", "a_field_to_come 7"] {
        assert!(warned.contains(field) && warned.contains("not applied"), "{field}: {warned}");
    }
}

#[test]
fn calibration_on_itself_starts_with_the_first_token_that_any_file_names() {
    let scene = Scene::new(LLAMA);
    let model = scene.path("model");
    let started = |out: &str| {
        let out = scene.path(out);
        let arguments = args!["run", model, "-o", out, "--cal-nsamples", "2", "--cal-max-seqlen", "8"];
        assert_eq!(program(arguments).code, Some(0));
        read_json(&out.join("slicegpt.json")).to_string()
    };
    let begins = |out: &str, id: u64| {
        let record = started(out);
        assert!(record.contains(&format!("\"input_ids\":[{id},")), "{out}: expected {id} first: {record}");
    };
    // No file names a BOS token: an EOS token takes its place.
    change_config(&scene, json!({ "bos_token_id": null, "eos_token_id": 9 }));
    begins("eos", 9);
    scene.tokenizer(json!({}));
    scene.put("model/tokenizer_config.json", json!({ "bos_token": "w11" }).to_string());
    begins("tokenizer", 11);
    change_config(&scene, json!({ "bos_token_id": 12 }));
    begins("config", 12);
    scene.put("model/generation_config.json", json!({ "bos_token_id": [400, 13] }).to_string());
    begins("generation", 13);
    for name in ["generation_config.json", "tokenizer_config.json"] {
        fs::remove_file(model.join(name)).expect("a file");
    }
    change_config(&scene, json!({ "bos_token_id": null, "eos_token_id": null }));
    scene.refused(args!["run", model, "-o", scene.path("none")], 3, "names a BOS or EOS token");
}
