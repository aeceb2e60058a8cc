//! How much memory the parts of a tokenizer.json ask for: a file of a few hundred bytes can ask for more than there is.

use serde::Deserialize;
use serde_json::Value;

/// More than any tokenizer needs: those of sentencepiece models come to a few dozen, decompositions of Unicode to a few
/// hundred.
const MOST: f64 = 1024.0;

/// Refuses a tokenizer.json whose parts can make each byte of a text, or each token, more than [`MOST`] of them, or
/// whose table of characters is said to be longer than it is.
///
/// # Errors
/// The reason.
pub fn check_growth(text: &str) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Parts {
        normalizer: Option<Value>,
        pre_tokenizer: Option<Value>,
        post_processor: Option<Value>,
        decoder: Option<Value>,
    }
    // What is wrong with a file that does not parse is said where it is read.
    let Ok(parts) = serde_json::from_str::<Parts>(text) else { return Ok(()) };
    for (name, part) in [
        ("normalizer", parts.normalizer),
        ("pre_tokenizer", parts.pre_tokenizer),
        ("post_processor", parts.post_processor),
        ("decoder", parts.decoder),
    ] {
        if part.as_ref().is_some_and(lies) {
            return Err(format!("{name}: precompiled_charsmap is cut short: its table is longer than all of it"));
        }
        let times = part.as_ref().map_or(1.0, growth);
        if times > MOST {
            return Err(format!(
                "{name}: one part after the other can make a text {times:.0} times as long, more than {MOST} times"
            ));
        }
    }
    Ok(())
}

/// How many times as long a text, or a row of tokens, becomes at most.
fn growth(part: &Value) -> f64 {
    let length = |name: &str| part[name].as_str().map_or(0, str::len) as f64;
    match part["type"].as_str().unwrap_or_default() {
        "Sequence" => {
            let lists = ["normalizers", "pretokenizers", "processors", "decoders"];
            lists.iter().filter_map(|list| part[*list].as_array()).flatten().map(growth).product()
        }
        // An expression may match between any two bytes.
        "Replace" => match part["pattern"]["String"].as_str() {
            Some(pattern) if !pattern.is_empty() => (length("content") / pattern.len() as f64).max(1.0),
            _ => 1.0 + length("content"),
        },
        "Prepend" => 1.0 + length("prepend"),
        "Metaspace" => 4.0,
        "ByteLevel" | "Lowercase" => 2.0,
        "BertNormalizer" | "NFD" | "NFC" => 4.0,
        // The longest compatibility decomposition makes 33 bytes of 3.
        "NFKD" | "NFKC" => 11.0,
        "TemplateProcessing" => {
            let texts = |list: &str| {
                let pieces = part[list].as_array().into_iter().flatten();
                pieces.filter(|piece| piece.get("Sequence").is_some()).count() as f64
            };
            texts("single").max(texts("pair") / 2.0).max(1.0)
        }
        _ => 1.0,
    }
}

/// Whether a table of characters, here or in parts of this part, says of itself that it is longer than what is there:
/// the crate that reads it takes memory for what is said.
fn lies(part: &Value) -> bool {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if let Some(parts) = part["normalizers"].as_array() {
        return parts.iter().any(lies);
    }
    // In base64, and the length, of four bytes, first.
    let Some(text) = part["precompiled_charsmap"].as_str().map(str::as_bytes) else { return false };
    let bits = text.iter().take(6).map(|digit| DIGITS.iter().position(|known| known == digit));
    let Some(bits) = bits.collect::<Option<Vec<usize>>>() else { return false };
    let number = bits.iter().fold(0, |number, bits| number << 6 | *bits as u64);
    let length = u32::try_from(number >> 4).map_or(u32::MAX, u32::swap_bytes);
    u64::from(length) > (text.len() / 4 * 3) as u64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_that_double_a_text_again_and_again_are_refused_and_usual_ones_are_not() {
        let replace = |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
        let sequence = |list: &str, part: &Value, count: usize| json!({ "type": "Sequence", list: vec![part; count] });
        let twice =
            json!({ "type": "TemplateProcessing", "single": [{ "Sequence": {} }, { "Sequence": {} }], "pair": [] });
        let expression = json!({ "type": "Replace", "pattern": { "Regex": "" }, "content": "aaa" });
        for (name, list, part, most) in [
            ("normalizer", "normalizers", replace("a", "aa"), 10),
            ("normalizer", "normalizers", expression, 5),
            ("normalizer", "normalizers", json!({ "type": "NFKD" }), 2),
            ("normalizer", "normalizers", replace("aa", "a"), 1000),
            ("normalizer", "normalizers", json!({ "type": "StripAccents" }), 1000),
            ("pre_tokenizer", "pretokenizers", json!({ "type": "ByteLevel" }), 10),
            ("decoder", "decoders", replace("▁", " "), 1000),
            ("decoder", "decoders", replace(" ", "  "), 10),
            ("post_processor", "processors", twice, 10),
        ] {
            let check = |count| check_growth(&json!({ name: sequence(list, &part, count) }).to_string());
            assert_eq!(check(most), Ok(()), "{most} of {part}");
            if most < 1000 {
                let refused = check(most + 1).expect_err("too long");
                assert!(refused.starts_with(&format!("{name}: one part after the other")), "{refused}");
            }
        }
        assert_eq!(check_growth("no JSON"), Ok(()));
    }

    #[test]
    fn tables_of_characters_are_as_long_as_they_say() {
        // Said to be of 4, 5, 10 and many bytes; nine are there. What is no base64 is refused where it is read.
        for (table, good) in [
            ("BAAAAAAAAAAA", true),
            ("BQAAAAAAAAAA", true),
            ("CgAAAAAAAAAA", false),
            ("aaaaaaaaaaaa", false),
            ("?", true),
        ] {
            let part = json!({ "type": "Precompiled", "precompiled_charsmap": table });
            let nested = json!({ "type": "Sequence", "normalizers": [{ "type": "NFC" }, part] });
            for normalizer in [part.clone(), nested] {
                let found = check_growth(&json!({ "normalizer": normalizer }).to_string());
                assert_eq!(found.is_ok(), good, "{table}: {found:?}");
            }
        }
    }
}
