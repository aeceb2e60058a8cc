//! Questions and answers as sequences to learn: each by itself, with a mark at the tokens that count.

use std::{fmt, path::Path, str::FromStr};

use serde::Serialize;

use super::inputs::Tokenizers;
use crate::{
    data::{Encoded, Example},
    error::{Error, Result},
};

/// Which tokens of a question and its answer are learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossOn {
    Answer,
    All,
}

impl FromStr for LossOn {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "answer" => Ok(Self::Answer),
            "all" => Ok(Self::All),
            _ => Err("expected answer or all".into()),
        }
    }
}

impl fmt::Display for LossOn {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Self::Answer => "answer",
            Self::All => "all",
        })
    }
}

/// Sequences, each of one example.
pub struct Examples {
    pub rows: Vec<Vec<u32>>,
    /// Which tokens of each count where they are predicted; all if `None`.
    pub counted: Option<Vec<Vec<bool>>>,
    /// What a user should know of them.
    pub notes: Vec<String>,
}

impl Examples {
    /// Tokenises examples, each up to `longest` tokens; those of which nothing is left to learn are left out. `source`
    /// is for messages.
    ///
    /// # Errors
    /// [`Error::BadTokens`] if nothing is left of any; [`Error::BadFile`] if one cannot be tokenised; as
    /// [`Tokenizers::get`].
    pub fn encode(
        examples: Vec<Example>,
        tokenizers: &Tokenizers,
        longest: usize,
        on: LossOn,
        source: &Path,
    ) -> Result<Self> {
        let (tokenizer, all) = (tokenizers.get()?, examples.len());
        let rendered = examples.iter().all(|example| example.rendered);
        let end = if rendered { None } else { tokenizers.end_token()? };
        let (mut rows, mut counted) = (Vec::new(), Vec::new());
        let (mut cut, mut lost) = (0, 0);
        for (number, example) in examples.iter().enumerate() {
            let encoded = example.encode(tokenizer, end).map_err(|reason| {
                Error::bad_file(source, format!("record {}: cannot be tokenised: {reason}", number + 1))
            })?;
            let Encoded { mut ids, mut answer } = encoded;
            cut += usize::from(ids.len() > longest);
            ids.truncate(longest);
            answer.truncate(longest);
            // The first token is never predicted.
            let learned = match on {
                LossOn::Answer => answer.iter().skip(1).any(|of_answer| *of_answer),
                LossOn::All => ids.len() > 1,
            };
            if learned {
                rows.push(ids);
                counted.push(answer);
            } else {
                lost += 1;
            }
        }
        if rows.is_empty() {
            return Err(Error::BadTokens(format!(
                "{}: no token of an answer is left in {all} records of up to {longest} tokens; raise --seqlen, or give \
                 records with answers",
                source.display()
            )));
        }
        let mut notes = Vec::new();
        let mut note = |count: usize, what: &str| {
            if count > 0 {
                notes.push(format!("{}: {count} of {all} records {what}", source.display()));
            }
        };
        note(
            cut,
            &format!("are longer than {longest} tokens, and what comes after is left out; --seqlen says how long"),
        );
        note(lost, "have nothing of an answer within that, and are left out");
        note(if rendered || end.is_some() { 0 } else { all }, "end without a token that says so: no file names one");
        Ok(Self { rows, counted: (on == LossOn::Answer).then_some(counted), notes })
    }
}
