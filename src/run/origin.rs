//! What the output's model card says of the original: its name, and what its own card says of terms and languages.
//!
//! Of that card only the YAML at its beginning is read, of that only four keys, and of YAML only what these are written
//! in: text, quoted or not, and lists of it. Anything else is left out; a card is never a reason to stop.

use std::{fs::File, io::Read, path::Path};

use super::paths::{name_of, repository_of};

/// A card's beginning is not longer.
const MOST_BYTES: u64 = 64 << 10;
/// Texts and lists are not longer.
const MOST_CHARS: usize = 256;
const MOST_LANGUAGES: usize = 128;

/// What is known of the original.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    pub name: String,
    /// What it is called on the Hub, or by its directory.
    pub repository: String,
    pub license: Option<String>,
    pub license_name: Option<String>,
    pub license_link: Option<String>,
    pub languages: Vec<String>,
}

impl Origin {
    /// Of the model at a path, whose files are in `directory`.
    pub fn of(path: &Path, directory: &Path) -> Self {
        let card = directory.join("README.md");
        let mut bytes = Vec::new();
        // What is no file might never end.
        if card.is_file() {
            let _ = File::open(&card).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes));
        }
        let name = name_of(path);
        Self { repository: repository_of(path).unwrap_or_else(|| name.clone()), name, ..Self::in_card(&bytes) }
    }

    /// What a card says.
    fn in_card(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
        let Some((matter, _)) = text.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---")) else {
            return Self::default();
        };
        let one = |key| values(matter, key).into_iter().next();
        let license = one("license").filter(|value| is_name(value));
        let terms = |key| one(key).filter(|_| license.is_some());
        let mut languages = values(matter, "language");
        languages.retain(|language| is_name(language));
        languages.truncate(MOST_LANGUAGES);
        Self {
            license_name: terms("license_name"),
            license_link: terms("license_link"),
            license,
            languages,
            ..Self::default()
        }
    }
}

/// Whether this can be the name of a licence or a language.
fn is_name(value: &str) -> bool {
    value.len() <= 64 && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c))
}

/// The texts that a top-level key has; none if it has anything else, or is there twice.
fn values(matter: &str, key: &str) -> Vec<String> {
    let mut lines = matter.lines();
    let of_key = |line: &str| line.strip_prefix(key).and_then(|rest| rest.strip_prefix(':')).map(str::to_owned);
    let Some(here) = lines.by_ref().find_map(of_key) else { return Vec::new() };
    let items: Vec<String> = lines
        .clone()
        .map_while(|line| line.trim_start().strip_prefix("- ").map(|item| item.trim().to_owned()))
        .collect();
    if lines.any(|line| of_key(line).is_some()) {
        return Vec::new();
    }
    let here = here.trim();
    let listed = here.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let texts: Option<Vec<String>> = match listed {
        Some(list) => list.split(',').map(|item| scalar(item.trim())).collect(),
        None if here.is_empty() => items.iter().map(|item| scalar(item)).collect(),
        None => scalar(here).map(|text| vec![text]),
    };
    texts.unwrap_or_default()
}

/// A text, in quotes or without.
fn scalar(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|first| "\"'".contains(*first));
    let found = match quote {
        Some(quote) => {
            let (inner, rest) = text[1..].split_once(quote)?;
            let rest = rest.trim_start();
            (rest.is_empty() || rest.starts_with('#')).then_some(inner)?
        }
        None => text.split(" #").next().unwrap_or_default().trim_end(),
    };
    let plain = quote.is_some() || !found.starts_with(|c| "&*!|>{}[]%@`#,?:".contains(c)) && !found.contains(": ");
    let sound = !found.is_empty()
        && found.chars().count() <= MOST_CHARS
        && !found.contains(|c: char| c.is_control() || c == '\\' || c == char::REPLACEMENT_CHARACTER);
    (plain && sound).then(|| found.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(matter: &str) -> Origin {
        Origin::in_card(format!("---\n{matter}\n---\n# A model\nlicense: mit\n").as_bytes())
    }

    #[test]
    fn terms_and_languages_are_read_however_they_are_written() {
        for matter in [
            "license: other\nlicense_name: \"own: 1.0\"\nlicense_link: LICENSE\nlanguage:\n- en\n- \"no\"\ntags:\n- x",
            "# said\nlanguage: [en, 'no']\nlicense: 'other' # not free\nlicense_name: 'own: 1.0'\nlicense_link: \
             LICENSE # here",
            "license: other\r\nlicense_link: LICENSE\r\nlicense_name: 'own: 1.0'\r\nlanguage:\r\n  - en\r\n  - no\r\n",
        ] {
            let found = card(matter);
            let terms = [&found.license, &found.license_name, &found.license_link].map(|text| text.as_deref());
            assert_eq!(terms, [Some("other"), Some("own: 1.0"), Some("LICENSE")], "{matter}");
            assert_eq!(found.languages, ["en", "no"], "{matter}");
        }
        assert_eq!(card("language: de").languages, ["de"]);
    }

    #[test]
    fn a_card_that_is_damaged_or_hostile_says_nothing() {
        let long = format!("license: {}", "x".repeat(1000));
        let deep = format!("license: {}", "[".repeat(10_000));
        for matter in [
            "",
            "license:",
            "license: &a mit",
            "license: *a",
            "license: !!python/object:os.system mit",
            "license: |\n  mit",
            "license: {a: b}",
            "license: \"mit",
            "license: mit\nlicense: other",
            "license: a b",
            "license: \u{0}mit",
            " license: mit",
            "license_name: own",
            "language:\n- [en]\n- {a: b}",
            &long,
            &deep,
        ] {
            assert_eq!(card(matter), Origin::default(), "{matter}");
        }
        for bytes in
            [&b"\xff\xfe\0\x01"[..], b"---\nlicense: mit", b"license: mit\n---\n", b"---\nlicense: \xff\n---\n", b""]
        {
            assert_eq!(Origin::in_card(bytes), Origin::default(), "{bytes:?}");
        }
    }
}
