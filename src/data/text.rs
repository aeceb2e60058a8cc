//! Texts: reading, cutting into windows for evaluation, drawing sequences for calibration.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use tokenizers::Tokenizer;

use super::{
    chat::ChatTemplate,
    examples::Example,
    file::read_text,
    json::Values,
    json_lines::{Questions, Rows, read_rows},
    tokenizer::encode,
};
use crate::{
    error::{Error, Result},
    progress::Progress,
};

/// What a file given for calibration or evaluation holds.
pub enum Tokens {
    /// Sequences, used as they stand.
    Rows(Vec<Vec<u32>>),
    /// Text, to be tokenised.
    Text(Text),
}

/// What a file given to learn from holds.
pub enum Lessons {
    /// Questions and answers.
    Examples(Vec<Example>),
    /// Anything else.
    Tokens(Tokens),
}

impl Lessons {
    /// Reads a file as [`Tokens::read`] does, but for rows with questions and answers, which stay by themselves;
    /// `marked` asks where the answers of conversations are.
    ///
    /// # Errors
    /// As [`Tokens::read`]; [`Error::BadFile`] if the chat template does not show where answers are.
    pub fn read(
        path: &Path,
        template: &dyn Fn() -> Result<ChatTemplate>,
        marked: bool,
        progress: &dyn Progress,
    ) -> Result<Self> {
        match rows(path, template, if marked { Questions::Marked } else { Questions::Apart }, progress)? {
            Rows::Examples(examples) => Ok(Self::Examples(examples)),
            other => Tokens::of(other, path).map(Self::Tokens),
        }
    }
}

/// The rows of a file; a text of no rows is one.
fn rows(
    path: &Path,
    template: &dyn Fn() -> Result<ChatTemplate>,
    questions: Questions,
    progress: &dyn Progress,
) -> Result<Rows> {
    let text = read_text(path)?;
    match Values::find(&text, path)? {
        None => Ok(Rows::Texts(vec![text])),
        Some(values) => read_rows(values, path, template, questions, progress),
    }
}

impl Tokens {
    /// Reads a file: token ids, texts or conversations in JSON, or plain text; what it is, its content decides. Texts
    /// are joined by blank lines; conversations follow one another as the chat template writes them, which is only
    /// asked for where there are such.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::BadFile`].
    pub fn read(path: &Path, template: &dyn Fn() -> Result<ChatTemplate>, progress: &dyn Progress) -> Result<Self> {
        Self::of(rows(path, template, Questions::Joined, progress)?, path)
    }

    fn of(rows: Rows, path: &Path) -> Result<Self> {
        let whole = |text: String| Text { path: path.into(), text, chats: None };
        let text = match rows {
            Rows::Tokens(rows) => return Ok(Self::Rows(rows)),
            Rows::Texts(mut texts) if texts.len() == 1 => whole(texts.remove(0)),
            Rows::Texts(texts) => whole(texts.join("\n\n")),
            Rows::Chats(chats) => {
                let mut end = 0;
                let start = |chat: &String| {
                    end += chat.len();
                    end - chat.len()
                };
                let starts = chats.iter().map(start).collect();
                Text { chats: Some(starts), ..whole(chats.concat()) }
            }
            Rows::Examples(examples) => {
                whole(examples.into_iter().map(|example| example.text).collect::<Vec<_>>().join("\n\n"))
            }
        };
        if text.text.trim().is_empty() {
            return Err(Error::bad_file(path, "holds no text"));
        }
        Ok(Self::Text(text))
    }
}

/// A text, whole.
pub struct Text {
    path: PathBuf,
    text: String,
    /// Where conversations begin, if it is made of such: each is tokenised by itself, and has its special tokens
    /// written out.
    chats: Option<Vec<usize>>,
}

/// On average, tokens have fewer bytes than this.
const LONGEST: usize = 16;
/// The share of a calibration text, at its end, that is kept for evaluation.
const HELD_OUT: f64 = 0.1;

impl Text {
    /// The beginning, for calibration, and about the last tenth, which calibration never sees. Cut between
    /// conversations, lines, or words.
    pub fn split_tail(&self) -> (Self, Option<Self>) {
        let target = self.text.floor_char_boundary(((1.0 - HELD_OUT) * self.text.len() as f64) as usize);
        let between_chats =
            self.chats.iter().flatten().copied().rfind(|&start| start <= target).filter(|&start| 2 * start > target);
        let after = |separates: fn(char) -> bool| {
            self.text[..target].rfind(separates).map(|at| self.text.ceil_char_boundary(at + 1))
        };
        let cut = between_chats
            .or_else(|| after(|char| char == '\n').filter(|&cut| 2 * cut > target + 2))
            .or_else(|| after(char::is_whitespace));
        let part = |range: Range<usize>| Self {
            path: self.path.clone(),
            text: self.text[range.clone()].to_owned(),
            chats: self.chats.as_ref().map(|chats| {
                chats.iter().filter(|start| range.contains(start)).map(|start| start - range.start).collect()
            }),
        };
        let whole = 0..self.text.len();
        let blank = |range: Range<usize>| self.text[range].trim().is_empty();
        match cut {
            Some(cut) if !blank(0..cut) && !blank(cut..whole.end) => (part(0..cut), Some(part(cut..whole.end))),
            _ => (part(whole), None),
        }
    }

    /// Whether it is so long that it may be taken to have more tokens than these before any tokenizer was asked.
    pub fn surely_has(&self, tokens: usize) -> bool {
        self.text.len() / LONGEST > tokens
    }

    /// How many tokens all of it has, if they are fewer than `most`.
    ///
    /// # Errors
    /// [`Error::BadFile`] if it cannot be tokenised.
    pub fn shorter_than(&self, tokenizer: &Tokenizer, most: usize) -> Result<Option<usize>> {
        if self.surely_has(most) {
            return Ok(None);
        }
        Ok(Some(self.encoded(tokenizer)?.len()).filter(|tokens| *tokens < most))
    }

    /// All of it, as one sequence.
    ///
    /// # Errors
    /// [`Error::BadFile`] if it cannot be tokenised.
    pub fn encoded(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        self.encode(tokenizer, 0..self.text.len())
    }

    fn encode(&self, tokenizer: &Tokenizer, range: Range<usize>) -> Result<Vec<u32>> {
        let ends = self.chats.iter().flatten().copied().filter(|start| range.contains(start)).chain([range.end]);
        let mut begin = range.start;
        let mut ids = Vec::new();
        for end in ends {
            let text = &self.text[std::mem::replace(&mut begin, end)..end];
            let part = encode(tokenizer, text, self.chats.is_none());
            ids.append(
                &mut part.map_err(|reason| Error::bad_file(&self.path, format!("cannot be tokenised: {reason}")))?,
            );
        }
        Ok(ids)
    }

    /// Windows of `seqlen` tokens one after the other, for perplexity: the text tokenised once, the tail dropped.
    ///
    /// # Errors
    /// [`Error::BadTokens`] if the text has fewer tokens than one window.
    pub fn windows(&self, tokenizer: &Tokenizer, seqlen: usize) -> Result<Vec<Vec<u32>>> {
        let ids = self.encoded(tokenizer)?;
        if ids.len() < seqlen {
            let path = self.path.display();
            return Err(Error::BadTokens(format!(
                "{path} has {} tokens, fewer than one window of {seqlen}; give a shorter one (eval --seqlen, run \
                 --ppl-eval-seqlen) or more text",
                ids.len()
            )));
        }
        Ok(ids.chunks_exact(seqlen).map(<[u32]>::to_vec).collect())
    }

    /// `count` sequences of `seqlen` tokens, each from the beginning of a random conversation or line on, or of a
    /// random word where there are few. A text that is shorter than one sequence is one sequence.
    ///
    /// # Errors
    /// [`Error::BadTokens`] if the text has no tokens.
    pub fn sequences(&self, tokenizer: &Tokenizer, count: usize, seqlen: usize, seed: u64) -> Result<Vec<Vec<u32>>> {
        let mut starts = self.chats.clone().unwrap_or_default();
        if starts.len() < 2 * count {
            starts = self.starts(|before| before == '\n');
        }
        if starts.len() < 2 * count {
            starts = self.starts(char::is_whitespace);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut sequences = Vec::new();
        while sequences.len() < count {
            let drawn = ((u128::from(rng.next_u64()) * starts.len() as u128) >> 64) as usize;
            let mut ids = self.tokens_from(tokenizer, starts[drawn], seqlen)?;
            if ids.len() < seqlen && drawn > 0 {
                // Too near the end to fill a sequence, and so is whatever comes after: not drawn again.
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

    /// At least `seqlen` tokens from an offset on, if there are as many.
    fn tokens_from(&self, tokenizer: &Tokenizer, start: usize, seqlen: usize) -> Result<Vec<u32>> {
        // A token is rarely longer than eight bytes; where it is, twice as much text is tried.
        let mut wanted = 8 * seqlen;
        loop {
            let end = self.text.floor_char_boundary((start + wanted).min(self.text.len()));
            let ids = self.encode(tokenizer, start..end)?;
            if ids.len() > seqlen || end == self.text.len() {
                return Ok(ids);
            }
            wanted *= 2;
        }
    }
}
