//! A smaller vocabulary: which tokens stay, and the tokenizer.json that is left.
//!
//! What a text of tokens that stay is encoded to does not change, and every text that could be encoded still can:
//! special and added tokens stay, the alphabet stays, and with a token everything that it is merged from
//! ([`merges`](self::merges)), or the scores by which a Unigram model finds it. New ids follow the order of the old
//! ones.

mod merges;
mod rewrite;

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use merges::Merges;
pub use rewrite::{ids_in, renumber_ids};

/// A tokenizer.json whose vocabulary can be made smaller. Errors are reasons, for whoever knows the file's name.
pub struct VocabularyCut {
    file: Map<String, Value>,
    /// The text of each token of the model part, by id.
    texts: HashMap<u32, String>,
    kind: Kind,
    /// What stays whatever is asked for.
    always: BTreeSet<u32>,
}

enum Kind {
    Bpe(Merges),
    /// The score of each piece.
    Unigram(Vec<f64>),
}

/// How many tokens, or which.
#[derive(Debug, Clone, Copy)]
pub enum Wanted {
    /// Up to this many.
    Most(usize),
    /// All that were counted.
    Counted,
}

impl VocabularyCut {
    /// Reads a tokenizer.json; `special` are the tokens that anything else names.
    ///
    /// # Errors
    /// The reason why it cannot be cut.
    pub fn new(text: &str, special: impl IntoIterator<Item = u32>) -> Result<Self, String> {
        let file: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let model = file.get("model").ok_or("it has no model")?;
        let mut always: BTreeSet<u32> = special.into_iter().collect();
        let (kind, texts) = match model.get("vocab") {
            Some(Value::Object(vocab)) if model.get("merges").is_some_and(Value::is_array) => {
                let number = |(text, id): (&String, &Value)| Some((text.clone(), u32::try_from(id.as_u64()?).ok()?));
                let ids =
                    vocab.iter().map(number).collect::<Option<HashMap<_, _>>>().ok_or("its ids are no numbers")?;
                always.extend(model.get("unk_token").and_then(Value::as_str).and_then(|unk| ids.get(unk)));
                let texts = ids.iter().map(|(text, id)| (*id, text.clone())).collect();
                (Kind::Bpe(Merges::new(model, ids)?), texts)
            }
            Some(Value::Array(vocab)) => {
                let piece = |piece: &Value| Some((piece.get(0)?.as_str()?.to_owned(), piece.get(1)?.as_f64()?));
                let pieces = vocab.iter().map(piece).collect::<Option<Vec<_>>>();
                let pieces = pieces.ok_or("its vocabulary is no list of pieces with scores")?;
                always.extend(model.get("unk_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok()));
                let texts = pieces.iter().zip(0..).map(|((text, _), id)| (id, text.clone())).collect();
                (Kind::Unigram(pieces.into_iter().map(|(_, score)| score).collect()), texts)
            }
            _ => {
                let kind = model.get("type").and_then(Value::as_str).unwrap_or("other");
                return Err(format!("a {kind} vocabulary cannot be cut, only BPE and Unigram"));
            }
        };
        let mut cut = Self { file, texts, kind, always };
        rewrite::named(&cut.file, &mut cut.always);
        cut.keep_alphabet();
        Ok(cut)
    }

    /// Keeps what any text can be written in, and the score that those of unknown characters are counted from.
    fn keep_alphabet(&mut self) {
        let model = self.file.get("model");
        let of_bytes = rewrite::is_byte_level(&self.file);
        let falls_back = model.and_then(|model| model.get("byte_fallback")).is_some_and(|value| value == true);
        let in_alphabet = |text: &str| {
            let mut chars = text.chars();
            let one = chars.next().filter(|_| chars.next().is_none());
            // Bytes are one character each; where there are tokens for bytes, only common characters need their own.
            let common = |char: char| of_bytes || !falls_back || char.is_ascii() || char == '▁';
            one.is_some_and(common) || (falls_back && is_byte(text))
        };
        self.always.extend(self.texts.iter().filter(|(_, text)| in_alphabet(text)).map(|(id, _)| *id));
        if let Kind::Unigram(scores) = &self.kind {
            let lowest = (0..scores.len()).min_by(|a, b| scores[*a].total_cmp(&scores[*b]));
            self.always.extend(lowest.map(|id| id as u32));
        }
        let closed: BTreeSet<u32> = self.always.iter().flat_map(|id| self.parts(*id)).collect();
        self.always.extend(closed);
    }

    /// The text of a token of the model part.
    pub fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(&id).map(String::as_str)
    }

    /// How many tokens stay at least.
    pub fn least(&self) -> usize {
        self.always.len()
    }

    /// What must stay for a token to be found, itself included.
    fn parts(&self, id: u32) -> Vec<u32> {
        match (&self.kind, self.texts.get(&id)) {
            (Kind::Bpe(merges), Some(text)) => merges.parts(id, text),
            _ => vec![id],
        }
    }

    /// The tokens that stay, ascending; `counts` says how often each occurs in the texts that matter. Of those that
    /// occur as often, the ones that were merged first, or score highest, come first.
    pub fn kept(&self, counts: &[u64], wanted: Wanted) -> Vec<u32> {
        let count = |id: u32| counts.get(id as usize).copied().unwrap_or(0);
        let mut order: Vec<u32> = self.texts.keys().copied().collect();
        order.sort_by(|&a, &b| {
            let natural = match &self.kind {
                Kind::Bpe(_) => a.cmp(&b),
                Kind::Unigram(scores) => scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b)),
            };
            count(b).cmp(&count(a)).then(natural)
        });
        let mut kept = self.always.clone();
        for id in order {
            let more: BTreeSet<u32> = self.parts(id).into_iter().filter(|part| !kept.contains(part)).collect();
            let fits = match wanted {
                Wanted::Most(most) => kept.len() + more.len() <= most,
                Wanted::Counted => count(id) > 0,
            };
            if fits {
                kept.extend(more);
            }
        }
        kept.into_iter().collect()
    }

    /// The tokenizer.json with these tokens, which get the numbers of their places.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn rewritten(&self, kept: &[u32]) -> Result<String, String> {
        rewrite::rewritten(&self.file, kept)
    }
}

/// Whether a token stands for one byte: `<0x0A>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.chars().all(|digit| digit.is_ascii_hexdigit()))
}
