//! Does a smaller vocabulary encode what is left of it as before, and everything else in some way?

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use slicegpt_gpu::data::{VocabularyCut, Wanted, encode, ids_in, renumber_ids};
use support::Random;
use tokenizers::Tokenizer;

/// The tokenizers that are tried, and whether each can write every text.
fn tokenizers() -> Vec<(String, String, bool)> {
    let demo = std::fs::read_to_string("assets/demo/tokenizer.json").expect("a file");
    let mut found = vec![("demo".to_owned(), demo, true)];
    let cases = std::fs::read_to_string(support::fixture("tokenizers/cases.json")).expect("a file");
    let cases: Value = serde_json::from_str(&cases).expect("cases");
    for (name, file) in cases["files"].as_object().expect("files") {
        if file["model"]["vocab"].is_object() {
            found.push((name.clone(), file.to_string(), true));
        }
    }
    assert!(found.len() >= 5, "the fixtures have lost their tokenizers");
    found.push(("unigram with bytes".into(), unigram(true).to_string(), true));
    found.push(("unigram without bytes".into(), unigram(false).to_string(), false));
    found
}

/// A Unigram model of some words and letters, with an unusual order of scores.
fn unigram(falls_back: bool) -> Value {
    let mut pieces = vec![json!(["<unk>", 0.0]), json!(["<s>", 0.0]), json!(["</s>", 0.0])];
    if falls_back {
        pieces.extend((0..256).map(|byte| json!([format!("<0x{byte:02X}>"), -20.0])));
    }
    for (number, word) in WORDS.iter().enumerate() {
        pieces.push(json!([format!("▁{word}"), -3.0 - 0.37 * number as f64]));
        pieces.push(json!([&word[..word.len().div_ceil(2)], -5.5 - 0.21 * number as f64]));
    }
    pieces.push(json!(["▁", -4.0]));
    for (number, letter) in ('a'..='z').chain("ABTW.,é".chars()).enumerate() {
        if !pieces.iter().any(|piece| piece[0] == json!(letter.to_string())) {
            pieces.push(json!([letter.to_string(), -9.0 - 0.1 * number as f64]));
        }
    }
    let special = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true
        })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(1, "<s>"), special(2, "</s>")],
        "normalizer": null,
        "pre_tokenizer": { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } }
        },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" },
            { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 }
        ] },
        "model": { "type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": falls_back }
    })
}

const WORDS: [&str; 24] = [
    "once", "upon", "a", "time", "there", "was", "the", "little", "girl", "who", "liked", "to", "play", "with", "her",
    "red", "ball", "and", "they", "were", "happy", "together", "every", "day",
];

fn text(random: &mut Random, words: usize) -> String {
    let odd = ["Ünïcode", "10 000", "→", "\n\n", "W.", "😀", "été", "x_y(z)", "Ball,", "\t"];
    let word = |random: &mut Random| match random.below(6) {
        0 => odd[random.below(odd.len() as u32) as usize],
        _ => WORDS[random.below(WORDS.len() as u32) as usize],
    };
    (0..words).map(|_| word(random)).collect::<Vec<_>>().join(" ")
}

fn cut(file: &str) -> (Tokenizer, VocabularyCut) {
    let tokenizer: Tokenizer = file.parse().expect("a tokenizer");
    let special = tokenizer.get_added_tokens_decoder().into_keys().collect::<Vec<_>>();
    (tokenizer, VocabularyCut::new(file, special).expect("it can be cut"))
}

#[test]
fn texts_of_tokens_that_stay_are_encoded_as_before_and_all_others_too_in_some_way() {
    let mut random = Random::new(20261125);
    for (name, file, whole) in tokenizers() {
        let (before, cut) = cut(&file);
        let size = before.get_vocab_size(true);
        let (mut as_before, mut otherwise) = (0, 0);
        for round in 0..12 {
            let sample = text(&mut random, 1 + 2 * round);
            let mut counts = vec![0; size];
            encode(&before, &sample, true).expect("ids").iter().for_each(|id| counts[*id as usize] += 1);
            let wanted = match round % 3 {
                0 => Wanted::Counted,
                _ => Wanted::Most(cut.least() + random.below((size - cut.least()) as u32) as usize),
            };
            let kept = cut.kept(&counts, wanted);
            if let Wanted::Most(most) = wanted {
                assert!(kept.len() <= most && kept.len() >= cut.least(), "{name}: {} of {most}", kept.len());
            }
            assert!(kept.is_sorted() && kept.len() < size, "{name}: {} of {size} stay", kept.len());
            let after: Tokenizer = cut.rewritten(&kept).expect("a file").parse().expect("a tokenizer");
            assert_eq!(after.get_vocab_size(true), kept.len(), "{name}");
            let place = |id: &u32| kept.binary_search(id).ok().map(|place| place as u32);
            let samples = (0..40).map(|_| text(&mut random, 3)).chain([sample.clone()]).collect::<Vec<_>>();
            for text in samples {
                let ids = encode(&before, &text, true).expect("ids");
                let found = encode(&after, &text, true).expect("ids");
                match ids.iter().map(place).collect::<Option<Vec<u32>>>() {
                    Some(expected) => {
                        assert_eq!(found, expected, "{name}, round {round}: {text:?}");
                        as_before += 1;
                    }
                    None => {
                        let counted = text == sample && matches!(wanted, Wanted::Counted);
                        assert!(!counted, "{name}: what was counted does not stay");
                        otherwise += 1;
                    }
                }
                if whole {
                    let read = |tokenizer: &Tokenizer, ids: &[u32]| tokenizer.decode(ids, true).expect("a text");
                    assert_eq!(read(&after, &found), read(&before, &ids), "{name}, round {round}: {text:?}");
                }
            }
        }
        println!("{name}: {as_before} texts as before, {otherwise} otherwise");
        assert!(as_before > 12, "{name}: only {as_before} texts as before, which proves little");
        assert!(otherwise > 12, "{name}: only {otherwise} texts otherwise, which proves little");
    }
}

#[test]
fn the_most_used_tokens_stay_and_what_they_are_merged_from() {
    for (name, file, _) in tokenizers() {
        let (tokenizer, cut) = cut(&file);
        let vocabulary = tokenizer.get_vocab(false);
        // The last tokens by their own order would go first, if they were not used.
        let mut ids: Vec<u32> = vocabulary.values().copied().collect();
        ids.sort();
        let used = &ids[ids.len() - 3..];
        let mut counts = vec![0; tokenizer.get_vocab_size(true)];
        used.iter().for_each(|id| counts[*id as usize] = 1);
        let by_count = cut.kept(&counts, Wanted::Counted);
        assert!(used.iter().all(|id| by_count.contains(id)), "{name}");
        let most = cut.kept(&counts, Wanted::Most(by_count.len()));
        assert!(used.iter().all(|id| most.contains(id)), "{name}: {used:?} in {most:?}");
        // Nothing is counted: special tokens and the alphabet.
        assert_eq!(cut.kept(&[], Wanted::Counted).len(), cut.least(), "{name}");
        assert_eq!(cut.kept(&[], Wanted::Most(usize::MAX)).len(), tokenizer.get_vocab_size(true), "{name}: all stay");
    }
}

#[test]
fn merges_are_those_of_tokens_that_stay_with_the_ways_that_lead_to_them() {
    // "abc" is made of "ab" and "c", although "bc" is there, too, and "a" + "bc" is listed as a merge.
    let file = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": null, "model": {
            "type": "BPE", "unk_token": null, "byte_fallback": false,
            "vocab": { "a": 0, "b": 1, "c": 2, "bc": 3, "ab": 4, "abc": 5, "abca": 6, "never": 7, "cc": 8 },
            "merges": [["a", "b"], ["b", "c"], "ab c", ["a", "bc"], ["abc", "a"], ["c", "c"]]
        }
    });
    let cut = VocabularyCut::new(&file.to_string(), []).expect("it can be cut");
    let mut counts = vec![0; 9];
    counts[6] = 1;
    counts[7] = 2;
    let kept = cut.kept(&counts, Wanted::Counted);
    assert_eq!(
        kept,
        [0, 1, 2, 4, 5, 6, 7],
        "the letters, ab, abc and abca; a token that merges never make stands alone"
    );
    let file: Value = serde_json::from_str(&cut.rewritten(&kept).expect("a file")).expect("JSON");
    assert_eq!(file["model"]["merges"], json!([["a", "b"], "ab c", ["abc", "a"]]));
    assert_eq!(file["model"]["vocab"], json!({ "a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "abca": 5, "never": 6 }));
}

#[test]
fn vocabularies_that_cannot_be_cut_are_refused_by_name() {
    let model = |model: Value| json!({ "model": model, "added_tokens": [] }).to_string();
    for (file, reason) in [
        (model(json!({ "type": "WordPiece", "vocab": { "a": 0 } })), "a WordPiece vocabulary cannot be cut"),
        (
            model(json!({ "type": "BPE", "vocab": { "a": 0 }, "merges": [], "end_of_word_suffix": "</w>" })),
            "a vocabulary with end_of_word_suffix cannot be cut",
        ),
        (model(json!({ "type": "BPE", "vocab": { "a": -1 }, "merges": [] })), "its ids are no numbers"),
        (model(json!({ "type": "BPE", "vocab": { "a": 0 }, "merges": ["a"] })), "merge 0 is no pair of tokens"),
        (model(json!({ "type": "Unigram", "vocab": ["a"] })), "no list of pieces with scores"),
        (json!({}).to_string(), "it has no model"),
        ("{".to_owned(), "EOF"),
    ] {
        match VocabularyCut::new(&file, []) {
            Err(found) => assert!(found.contains(reason), "{found}"),
            Ok(_) => panic!("{reason}: cut"),
        }
    }
}

#[test]
fn ids_in_configs_get_their_new_numbers() {
    let fields = |value: Value| value.as_object().expect("an object").clone();
    let kept = [0, 2, 5, 9];
    for (before, after) in [
        (
            json!({ "bos_token_id": 2, "eos_token_id": [5, 9], "hidden_size": 5 }),
            json!({ "bos_token_id": 1, "eos_token_id": [2, 3], "hidden_size": 5 }),
        ),
        // What names no token stays what it is.
        (json!({ "pad_token_id": -1, "image_token_id": 12 }), json!({ "pad_token_id": -1, "image_token_id": 12 })),
        (json!({ "pad_token_id": null }), json!({ "pad_token_id": null })),
        (json!({ "suppress_tokens": [1, 2, 9] }), json!({ "suppress_tokens": [1, 3] })),
        (json!({ "bad_words_ids": [[1, 2], [2, 5]] }), json!({ "bad_words_ids": [[1, 2]] })),
        (json!({ "sequence_bias": {}, "force_words_ids": [] }), json!({ "sequence_bias": {}, "force_words_ids": [] })),
    ] {
        let mut found = fields(before.clone());
        renumber_ids(&mut found, &kept, 10).expect("numbers");
        assert_eq!(Value::from(found), after, "{before}");
    }
    for (before, reason) in [
        (json!({ "eos_token_id": [2, 3] }), "eos_token_id names a token that does not stay"),
        (json!({ "pad_token_id": 1 }), "pad_token_id names a token that does not stay"),
        (json!({ "sequence_bias": { "(1,)": 2.0 } }), "sequence_bias is not given the new numbers"),
    ] {
        let found = renumber_ids(&mut fields(before), &kept, 10).expect_err("refused");
        assert!(found.contains(reason), "{found}");
    }
    let named: BTreeSet<u32> =
        ids_in(&fields(json!({ "bos_token_id": 2, "eos_token_id": [5, 9], "pad_token_id": -1, "n": 3 }))).collect();
    assert_eq!(named, BTreeSet::from([2, 5, 9]));
}

#[test]
fn the_lowest_score_stays_from_which_that_of_unknown_characters_is_counted() {
    // "éa" and "b" come to −60, "é" and "ab" to −63. An unknown character counts 10 below the lowest score: without
    // "é", and with it the lowest, an unknown one and "ab" would come to −45.
    let mut pieces = vec![json!(["<unk>", 0.0])];
    pieces.extend((0..256).map(|byte| json!([format!("<0x{byte:02X}>"), -20.0])));
    for (piece, score) in [("a", -10.0), ("b", -30.0), ("ab", -5.0), ("éa", -30.0), ("é", -58.0)] {
        pieces.push(json!([piece, score]));
    }
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": { "type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": true }
    });
    let (before, cut) = cut(&file.to_string());
    let id = |text: &str| before.token_to_id(text).expect("a piece");
    assert_eq!(encode(&before, "éab", false).expect("ids"), [id("éa"), id("b")]);
    let mut counts = vec![0; before.get_vocab_size(true)];
    ["éa", "b", "ab"].iter().for_each(|text| counts[id(text) as usize] = 1);
    let after: Tokenizer =
        cut.rewritten(&cut.kept(&counts, Wanted::Counted)).expect("a file").parse().expect("a tokenizer");
    let found = encode(&after, "éab", false).expect("ids");
    let texts: Vec<_> = found.iter().map(|id| after.id_to_token(*id).expect("a piece")).collect();
    assert_eq!(texts, ["éa", "b"]);
}
