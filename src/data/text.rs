//! Texts: reading, cutting into windows for evaluation, drawing sequences for calibration.

use std::path::{Path, PathBuf};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use tokenizers::Tokenizer;

use super::tokens::read_token_file;
use crate::error::{Error, Result};

/// What a file given for calibration or evaluation holds.
pub enum Tokens {
    /// Sequences, used as they stand.
    Rows(Vec<Vec<u32>>),
    /// Text, to be tokenised.
    Text(Text),
}

impl Tokens {
    /// Reads `.json` as a token file, `.jsonl` as one text a line (a string, or an object with `text`), anything else as text whose paragraphs
    /// are separated by blank lines.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::BadFile`].
    pub fn read(path: &Path) -> Result<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Ok(Self::Rows(read_token_file(path)?)),
            Some("jsonl") => Ok(Self::Text(Text::read(path, jsonl_rows)?)),
            _ => Ok(Self::Text(Text::read(path, |text, _| Ok(text.split("\n\n").map(str::to_owned).collect()))?)),
        }
    }
}

/// The tokenizer beside a model.
///
/// # Errors
/// [`Error::BadFile`] if there is none, or it cannot be read.
pub fn load_tokenizer(directory: &Path) -> Result<Tokenizer> {
    let path = directory.join("tokenizer.json");
    if !path.exists() {
        return Err(Error::bad_file(&path, "no tokenizer.json beside the model: give token ids in a .json file instead of text"));
    }
    Tokenizer::from_file(&path).map_err(|error| Error::bad_file(&path, error.to_string()))
}

/// A text in rows (paragraphs, documents), which are joined by blank lines.
pub struct Text {
    path: PathBuf,
    rows: Vec<String>,
}

const SEPARATOR: &str = "\n\n";
/// The share of a calibration text, at its end, that is kept for evaluation.
const HELD_OUT: f64 = 0.1;

impl Text {
    fn read(path: &Path, split: impl Fn(&str, &Path) -> Result<Vec<String>>) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::read(path))?;
        let text = String::from_utf8(bytes).map_err(|error| Error::bad_file(path, format!("not UTF-8 text: {error}")))?;
        let rows = split(&text, path)?;
        if rows.iter().all(|row| row.trim().is_empty()) {
            return Err(Error::bad_file(path, "holds no text"));
        }
        Ok(Self { path: path.into(), rows })
    }

    /// The beginning, for calibration, and the last tenth, which calibration never sees.
    pub fn split_tail(&self) -> (Self, Option<Self>) {
        let total: usize = self.rows.iter().map(String::len).sum();
        let mut seen = 0;
        let cut = self.rows.iter().position(|row| {
            seen += row.len();
            seen as f64 > (1.0 - HELD_OUT) * total as f64
        });
        let part = |rows: &[String]| Self { path: self.path.clone(), rows: rows.to_vec() };
        match cut.filter(|&cut| cut > 0 && self.rows[cut..].iter().any(|row| !row.trim().is_empty())) {
            Some(cut) => (part(&self.rows[..cut]), Some(part(&self.rows[cut..]))),
            None => (part(&self.rows), None),
        }
    }

    fn encode(&self, tokenizer: &Tokenizer, text: String) -> Result<Vec<u32>> {
        let encoding = tokenizer.encode(text, true).map_err(|error| Error::bad_file(&self.path, format!("cannot be tokenised: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Windows of `seqlen` tokens one behind the other, for perplexity: all rows joined by blank lines, tokenised once, the tail dropped.
    ///
    /// # Errors
    /// [`Error::BadTokens`] if the text has fewer tokens than one window.
    pub fn windows(&self, tokenizer: &Tokenizer, seqlen: usize) -> Result<Vec<Vec<u32>>> {
        let ids = self.encode(tokenizer, self.rows.join(SEPARATOR))?;
        if ids.len() < seqlen {
            let path = self.path.display();
            return Err(Error::BadTokens(format!(
                "{path} has {} tokens, fewer than one window of {seqlen}; give a shorter window or more text",
                ids.len()
            )));
        }
        Ok(ids.chunks_exact(seqlen).map(<[u32]>::to_vec).collect())
    }

    /// `count` sequences of `seqlen` tokens, each from the beginning of a random row on. A text of fewer tokens gives shorter sequences.
    ///
    /// # Errors
    /// [`Error::BadTokens`] if the text has no tokens.
    pub fn sequences(&self, tokenizer: &Tokenizer, count: usize, seqlen: usize, seed: u64) -> Result<Vec<Vec<u32>>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut sequences = Vec::new();
        // Rows too near the end to fill a sequence are found out once, and not drawn again.
        let mut last = self.rows.len();
        while sequences.len() < count {
            let start = ((u128::from(rng.next_u64()) * last as u128) >> 64) as usize;
            if self.rows[start].trim().is_empty() && last > 1 && self.rows[..last].iter().any(|row| !row.trim().is_empty()) {
                continue;
            }
            let mut ids = self.tokens_from(tokenizer, start, seqlen)?;
            if ids.len() < seqlen && start > 0 {
                last = start;
                continue;
            }
            if ids.len() < 2 {
                return Err(Error::BadTokens(format!("{} has no text to calibrate on", self.path.display())));
            }
            ids.truncate(seqlen);
            sequences.push(ids);
        }
        Ok(sequences)
    }

    /// At least `seqlen` tokens from a row on, if there are so many.
    fn tokens_from(&self, tokenizer: &Tokenizer, start: usize, seqlen: usize) -> Result<Vec<u32>> {
        // A token is rarely longer than eight characters; where it is, twice as much text is tried.
        let mut wanted = 8 * seqlen;
        loop {
            let mut text = String::new();
            for row in &self.rows[start..] {
                if !text.is_empty() {
                    text.push_str(SEPARATOR);
                }
                text.push_str(row);
                if text.len() >= wanted {
                    break;
                }
            }
            let complete = text.len() < wanted;
            let ids = self.encode(tokenizer, text)?;
            if ids.len() >= seqlen || complete {
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
