//! Rows of token ids, and lines that stray among rows.

use super::*;

#[test]
fn token_rows_are_read_in_each_form_and_what_says_the_same_is_no_hindrance() {
    let scene = Scene::new();
    let expected = Ok(vec![vec![1, 2, 3], vec![4, 5]]);
    for (name, text) in [
        ("tokens.json", "{\"input_ids\": [[1, 2, 3], [4, 5]]}"),
        ("tokens.json", "\u{feff}{\"input_ids\":\r\n[[1, 2, 3],\r\n[4, 5]]}\r\n"),
        ("tokens.json", "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [4, 5]}\n"),
        ("tokens.jsonl", "{\"input_ids\": [[1, 2, 3], [4, 5]]}"),
        ("tokens.txt", "{\"input_ids\": [[1, 2, 3]]}\n{\"input_ids\": [[4, 5]]}"),
        ("tokens.json", "[{\"input_ids\": [1, 2, 3]}, {\"input_ids\": [4, 5]}]"),
        (
            "tokens.json",
            "{\"input_ids\": [[1, 2, 3], [4, 5]], \"attention_mask\": [[1, 1, 1], [1, 1]], \
             \"position_ids\": [[0, 1, 2], [0, 1]], \"labels\": [[-100, 2, 3], [4, 5]], \"text\": [\"x\", \"y\"], \
             \"source\": \"here\", \"seed\": 1}",
        ),
        (
            "tokens.json",
            "{\"input_ids\": [[1, 2, 3, 0], [4, 5, 0, 0]], \"attention_mask\": [[1, 1, 1, 0], [true, true, false, false]], \
             \"labels\": [[1, 2, 3, -100], [4, 5, -100, -100]], \"position_ids\": [[0, 1, 2, 1], [0, 1, 1, 1]]}",
        ),
        (
            "tokens.ndjson",
            "{\"input_ids\": [1, 2, 3, 9], \"attention_mask\": [1, 1, 1, 0]}\n{\"input_ids\": [4, 5], \"attention_mask\": null}",
        ),
    ] {
        assert_eq!(scene.rows(name, text), expected, "{name}: {text}");
        let tokens = read(&scene.put(name, text), &Silent);
        assert!(matches!(tokens, Ok(Tokens::Rows(rows)) if Ok(&rows) == expected.as_ref()), "{name}: {text}");
    }
    let notes = Notes::default();
    let padded = scene.put("padded.json", "{\"input_ids\": [[1, 0, 0]], \"attention_mask\": [[1, 0, 0]]}");
    assert_eq!(read_token_file(&padded, &notes).expect("rows"), [[1]]);
    assert!(notes.0.lock().expect("notes")[0].contains("2 tokens of padding, by attention_mask, are left out"));
}

#[test]
fn token_files_whose_other_fields_change_their_meaning_are_refused_by_field() {
    let scene = Scene::new();
    let expected = "expected {\"input_ids\": [[token ids], ...]}";
    for (fields, reason) in [
        ("\"attention_mask\": [[0, 1, 1], [1, 1]]", "attention_mask of token 0 of row 0 is 0"),
        ("\"attention_mask\": [[1, 0, 1], [1, 1]]", "attention_mask of token 1 of row 0 is 0"),
        ("\"attention_mask\": [[1, 1, 1], [0, 0]]", "row 1 of input_ids is nothing but padding"),
        ("\"attention_mask\": [[1, 1, 2], [1, 1]]", "attention_mask of token 2 of row 0 is 2"),
        ("\"attention_mask\": [[1, 1], [1, 1]]", "attention_mask: row 0 has 2 values, but that of input_ids 3 tokens"),
        ("\"attention_mask\": [[1, 1, 1]]", "attention_mask: 1 rows, but input_ids has 2"),
        ("\"attention_mask\": [[1, 1, 1], [1, 0.5]]", "attention_mask: row 1 holds 0.5"),
        ("\"attention_mask\": [1, 1]", "attention_mask: row 0 is 1, no row of numbers"),
        ("\"labels\": [[1, -100, 3], [4, 5]]", "labels of token 1 of row 0 is -100"),
        ("\"labels\": [[2, 3, 9], [4, 5]]", "labels of token 1 of row 0 is 3"),
        ("\"position_ids\": [[0, 1, 0], [0, 1]]", "position_ids of token 2 of row 0 is 0"),
        ("\"token_type_ids\": [[0, 0, 0], [0, 0]]", "token_type_ids are not known"),
        (
            "\"vocab_size\": 100",
            "the field \"vocab_size\" beside input_ids is not known and may change what they mean; remove it",
        ),
        ("\"tokenizer\": \"gpt2\"", "the field \"tokenizer\""),
        ("\"past_key_values\": []", "the field \"past_key_values\""),
    ] {
        let error =
            scene.rows("tokens.json", &format!("{{\"input_ids\": [[1, 2, 3], [4, 5]], {fields}}}")).expect_err(fields);
        assert!(error.contains(reason), "{fields}: {error}");
    }
    for (text, reason) in [
        ("{\"input_ids\": [[1, -2]]}", "token 1 of row 0 is -2"),
        ("{\"input_ids\": [[1], [1, 4294967296]]}", "token 1 of row 1 is 4294967296"),
        ("{\"input_ids\": [[18446744073709551616]]}", "token 0 of row 0 is 1.8446744073709552e+19"),
        ("{\"input_ids\": [[1.0]]}", "token 0 of row 0 is 1.0"),
        ("{\"input_ids\": [[\"1\"]]}", "token 0 of row 0 is a string"),
        ("{\"input_ids\": [[[1]]]}", "token 0 of row 0 is an array of numbers"),
        ("{\"input_ids\": [[1], 2]}", "input_ids is an array"),
        ("{\"input_ids\": [1, 2]}", "input_ids is an array of numbers"),
        ("{\"input_ids\": \"1 2\"}", "input_ids is a string"),
        ("{\"input_ids\": [[1]], \"input_ids\": [[2]]}", "the key \"input_ids\" is there twice"),
        ("{\"tokens\": [[1]]}", "no object with input_ids"),
        ("{\"input_ids\": [1]}\n{\"input_ids\": [1, -1]}", "token 1 of row 0 is -1"),
        ("[[1, 2]]", "no object with input_ids"),
        ("", "the file is empty"),
        ("word", "looks like JSON and is none"),
    ] {
        let error = scene.rows("tokens.json", text).expect_err(text);
        assert!(error.contains(expected) && error.contains(reason), "{text}: {error}");
    }
    assert!(scene.rows("tokens.txt", "words").expect_err("words").contains("this is no JSON"));
    assert!(scene.rows("tokens.json", "{\"input_ids\": []}").expect_err("none").contains("input_ids has no rows"));
    assert!(
        scene
            .rows("tokens.json", "{\"input_ids\": [[1], []]}")
            .expect_err("empty")
            .contains("row 1 of input_ids is empty")
    );
    assert!(
        scene
            .rows("tokens.jsonl", "{\"input_ids\": [1]}\n{\"input_ids\": [-1]}")
            .expect_err("below 0")
            .contains("line 2: ")
    );
}

#[test]
fn rows_with_floats_that_only_python_writes_are_rows() {
    let scene = Scene::new();
    let rows = "{\"text\": \"one\", \"score\": NaN}\n{\"text\": \"two\", \"score\": [-Infinity, 1e400, -1e400, 2e3]}\n";
    for name in ["rows.txt", "rows.jsonl"] {
        assert_eq!(scene.text(name, rows), "one\n\ntwo", "{name}");
    }
    // Without a byte-order mark, in an alphabet whose letters have no zero byte.
    let utf16: Vec<u8> = "привет мир, это текст".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(scene.refusal("cyrillic.txt", utf16).contains("UTF-16 without a byte-order mark"));
}

#[test]
fn a_stray_line_among_rows_is_refused_by_its_number_whatever_the_file_is_called() {
    let (scene, row) = (Scene::new(), "{\"text\": \"one\"}\n");
    for name in ["rows.txt", "rows", "rows.jsonl"] {
        for (text, line) in [(format!("{row}stray\n{row}"), 2), (format!("{row}\n{row}[broken"), 4)] {
            let error = scene.refusal(name, text);
            assert!(error.contains(&format!("line {line} is no JSON")) && error.contains("mend or remove"), "{error}");
        }
        let error = scene.refusal(name, "[1]\n[2]\n");
        assert!(error.contains("line 1: ") && error.contains("an array of numbers; if such lines are"), "{error}");
    }
}
