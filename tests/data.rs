//! Are texts cut into the sequences that are promised, and token ids hashed as documented?

use std::fs;

use serde_json::json;
use slicegpt_gpu::{
    data::{SERIALIZED_CLASS, Text, TokenizerFiles, Tokens, held_back, sha256},
    progress::Silent,
};
use tempfile::TempDir;
use tokenizers::Tokenizer;

const WORDS: u32 = 1000;

/// The text "w0 w1 w2 …", ten words a line, and a tokenizer that gives word i the id i.
fn numbered_words() -> (TempDir, Tokenizer, Text) {
    let directory = TempDir::new().expect("a directory");
    let vocab: serde_json::Map<_, _> = (0..WORDS).map(|id| (format!("w{id}"), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": { "type": "WhitespaceSplit" },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "w0" }
    });
    fs::write(directory.path().join("tokenizer.json"), tokenizer.to_string()).expect("a tokenizer");
    let text: String = (0..WORDS).map(|id| format!("w{id}{}", if id % 10 == 9 { "\n" } else { " " })).collect();
    let path = directory.path().join("text.txt");
    fs::write(&path, text).expect("a text");
    let files = TokenizerFiles::read(directory.path()).expect("files");
    let tokenizer = files.build(SERIALIZED_CLASS).expect("a tokenizer").tokenizer;
    let no_chats = || unreachable!("a .txt has no conversations");
    match Tokens::read(&path, &no_chats, &Silent).expect("a text") {
        Tokens::Text(text) => (directory, tokenizer, text),
        Tokens::Rows(_) => panic!("a .txt is text"),
    }
}

#[test]
fn windows_follow_one_another_and_drop_the_tail() {
    let (_directory, tokenizer, text) = numbered_words();
    let windows = text.windows(&tokenizer, 64).expect("windows");
    assert_eq!(windows.len(), 15);
    assert_eq!(windows.concat(), (0..960).collect::<Vec<u32>>());
    assert!(text.windows(&tokenizer, 1001).is_err());
}

#[test]
fn calibration_never_sees_the_held_out_end() {
    let (_directory, tokenizer, text) = numbered_words();
    let (beginning, tail) = text.split_tail();
    let (beginning, tail) = (
        beginning.windows(&tokenizer, 1).expect("words").concat(),
        tail.expect("a tail").windows(&tokenizer, 1).expect("words").concat(),
    );
    assert_eq!([&*beginning, &*tail].concat(), (0..WORDS).collect::<Vec<u32>>(), "the two parts are the text");
    assert!((80..=120).contains(&tail.len()), "{} of {WORDS} words are held out", tail.len());
}

#[test]
fn sequences_are_runs_of_the_text_from_random_lines_on() {
    let (_directory, tokenizer, text) = numbered_words();
    let sequences = text.sequences(&tokenizer, 20, 48, 7).expect("sequences");
    assert_eq!(sequences.len(), 20);
    for sequence in &sequences {
        assert!(sequence.len() == 48 && sequence[0] % 10 == 0, "{sequence:?}");
        assert!(sequence.windows(2).all(|pair| pair[1] == pair[0] + 1), "{sequence:?}");
    }
    let different: std::collections::BTreeSet<u32> = sequences.iter().map(|sequence| sequence[0]).collect();
    assert!(different.len() > 10, "only {} places", different.len());
    assert_eq!(text.sequences(&tokenizer, 20, 48, 7).expect("sequences"), sequences, "the same seed");
    assert_ne!(text.sequences(&tokenizer, 20, 48, 8).expect("sequences"), sequences, "another seed");
    assert_eq!(
        text.sequences(&tokenizer, 20, 5000, 7).expect("a sequence"),
        [(0..WORDS).collect::<Vec<u32>>()],
        "a short text is one sequence"
    );
}

#[test]
fn a_text_that_ends_within_a_character_ends_with_what_stands_for_none() {
    // The bytes of "aé", by the names that byte-level vocabularies give them.
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true },
        "model": { "type": "BPE", "vocab": { "a": 0, "\u{c3}": 1, "\u{a9}": 2 }, "merges": [] }
    });
    let tokenizer: Tokenizer = tokenizer.to_string().parse().expect("a tokenizer");
    for (ids, written, rest) in [
        (&[0, 1][..], 1, "\u{fffd}"),
        (&[0, 1, 2], 1, "é"),
        (&[0, 2, 2], 1, "\u{fffd}\u{fffd}"),
        (&[0, 1, 2], 3, ""),
        (&[], 0, ""),
    ] {
        assert_eq!(held_back(&tokenizer, ids, written), rest, "{ids:?}");
    }
}

#[test]
fn hashes_are_of_lengths_and_ids_in_little_endian() {
    // Worked out by another program.
    assert_eq!(sha256(&[vec![1, 2], vec![3]]), "da72f95aa502d5fd17aaa9ed8898384c02a1ceabe69fdc069832b625bf7e26bc");
    assert_ne!(sha256(&[vec![1], vec![2, 3]]), sha256(&[vec![1, 2], vec![3]]));
}
