//! Texts: reading, cutting into windows for evaluation, drawing sequences for calibration.

use std::path::{Path, PathBuf};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use tokenizers::Tokenizer;

use super::{tokenizer::encode, tokens::read_token_file};
use crate::error::{Error, Result};

/// What a file given for calibration or evaluation holds.
pub enum Tokens {
    /// Sequences, used as they stand.
    Rows(Vec<Vec<u32>>),
    /// Text, to be tokenised.
    Text(Text),
}

impl Tokens {
    /// Reads `.json` as a token file, `.jsonl` as one text a line (a string, or an object with `text`), joined by blank lines, and anything else
    /// as text.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::BadFile`].
    pub fn read(path: &Path) -> Result<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Ok(Self::Rows(read_token_file(path)?)),
            Some("jsonl") => Ok(Self::Text(Text::read(path, |text, path| Ok(jsonl_rows(&text, path)?.join("\n\n")))?)),
            _ => Ok(Self::Text(Text::read(path, |text, _| Ok(text))?)),
        }
    }
}

/// A text, whole.
pub struct Text {
    path: PathBuf,
    text: String,
}

/// The share of a calibration text, at its end, that is kept for evaluation.
const HELD_OUT: f64 = 0.1;

impl Text {
    fn read(path: &Path, convert: impl Fn(String, &Path) -> Result<String>) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::read(path))?;
        let text = String::from_utf8(bytes).map_err(|error| Error::bad_file(path, format!("not UTF-8 text: {error}")))?;
        let text = convert(text, path)?;
        if text.trim().is_empty() {
            return Err(Error::bad_file(path, "holds no text"));
        }
        Ok(Self { path: path.into(), text })
    }

    /// The beginning, for calibration, and about the last tenth, which calibration never sees. Cut between lines, or between words.
    pub fn split_tail(&self) -> (Self, Option<Self>) {
        let target = self.text.floor_char_boundary(((1.0 - HELD_OUT) * self.text.len() as f64) as usize);
        let cut = self.text[..target].rfind('\n').filter(|&cut| 2 * cut > target).or_else(|| self.text[..target].rfind(char::is_whitespace));
        let part = |text: &str| Self { path: self.path.clone(), text: text.to_owned() };
        let Some(cut) = cut.map(|cut| self.text.ceil_char_boundary(cut + 1)) else { return (part(&self.text), None) };
        let (beginning, tail) = self.text.split_at(cut);
        if beginning.trim().is_empty() || tail.trim().is_empty() { (part(&self.text), None) } else { (part(beginning), Some(part(tail))) }
    }

    fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        encode(tokenizer, text).map_err(|reason| Error::bad_file(&self.path, format!("cannot be tokenised: {reason}")))
    }

    /// Windows of `seqlen` tokens one behind the other, for perplexity: the text tokenised once, the tail dropped.
    ///
    /// # Errors
    /// [`Error::BadTokens`] if the text has fewer tokens than one window.
    pub fn windows(&self, tokenizer: &Tokenizer, seqlen: usize) -> Result<Vec<Vec<u32>>> {
        let ids = self.encode(tokenizer, &self.text)?;
        if ids.len() < seqlen {
            let path = self.path.display();
            return Err(Error::BadTokens(format!(
                "{path} has {} tokens, fewer than one window of {seqlen}; give a shorter one (eval --seqlen, run --ppl-eval-seqlen) or more text",
                ids.len()
            )));
        }
        Ok(ids.chunks_exact(seqlen).map(<[u32]>::to_vec).collect())
    }

    /// `count` sequences of `seqlen` tokens, each from the beginning of a random line on (of a random word, where there are few lines). A text
    /// that is shorter than one sequence is one sequence.
    ///
    /// # Errors
    /// [`Error::BadTokens`] if the text has no tokens.
    pub fn sequences(&self, tokenizer: &Tokenizer, count: usize, seqlen: usize, seed: u64) -> Result<Vec<Vec<u32>>> {
        let mut starts = self.starts(|before| before == '\n');
        if starts.len() < 2 * count {
            starts = self.starts(char::is_whitespace);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut sequences = Vec::new();
        while sequences.len() < count {
            let drawn = ((u128::from(rng.next_u64()) * starts.len() as u128) >> 64) as usize;
            let mut ids = self.tokens_from(tokenizer, starts[drawn], seqlen)?;
            if ids.len() < seqlen && drawn > 0 {
                // Too near the end to fill a sequence, and so is whatever comes behind: not drawn again.
                starts.truncate(drawn);
                continue;
            }
            if ids.len() < 2 {
                return Err(Error::BadTokens(format!("{} has no text to calibrate on", self.path.display())));
            }
            if ids.len() < seqlen {
                return Ok(vec![ids]);
            }
            ids.truncate(seqlen);
            sequences.push(ids);
        }
        Ok(sequences)
    }

    /// Where text begins: at the very start, and wherever something visible follows a separator.
    fn starts(&self, separates: impl Fn(char) -> bool) -> Vec<usize> {
        let mut before = None;
        let mut starts = Vec::new();
        for (offset, char) in self.text.char_indices() {
            if !char.is_whitespace() && before.is_none_or(&separates) {
                starts.push(offset);
            }
            before = Some(char);
        }
        if starts.is_empty() { vec![0] } else { starts }
    }

    /// At least `seqlen` tokens from an offset on, if there are so many.
    fn tokens_from(&self, tokenizer: &Tokenizer, start: usize, seqlen: usize) -> Result<Vec<u32>> {
        // A token is rarely longer than eight bytes; where it is, twice as much text is tried.
        let mut wanted = 8 * seqlen;
        loop {
            let end = self.text.floor_char_boundary((start + wanted).min(self.text.len()));
            let ids = self.encode(tokenizer, &self.text[start..end])?;
            if ids.len() > seqlen || end == self.text.len() {
                return Ok(ids);
            }
            wanted *= 2;
        }
    }
}

fn jsonl_rows(text: &str, path: &Path) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Line {
        Plain(String),
        Object { text: String },
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| match serde_json::from_str(line) {
            Ok(Line::Plain(text) | Line::Object { text }) => Ok(text),
            Err(_) => Err(Error::bad_file(path, format!("line {}: expected a JSON string or an object with \"text\"", number + 1))),
        })
        .collect()
}
