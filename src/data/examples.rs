//! Questions and answers: where in a text the answers are, and which of its tokens they come to.

use std::ops::Range;

use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use super::{
    chat::{Chat, ChatTemplate},
    tokenizer::encode,
};

/// A text with questions and answers, by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    pub text: String,
    /// Where the answers are in it, in bytes, one after the other.
    pub answers: Vec<Range<usize>>,
    /// Whether it has its special tokens written out, as chat templates do.
    pub rendered: bool,
}

/// The tokens of an example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    pub ids: Vec<u32>,
    /// Which of them belong to an answer.
    pub answer: Vec<bool>,
}

impl Example {
    /// A text in which nothing is asked.
    pub(super) fn text(text: String) -> Self {
        Self { text, answers: Vec::new(), rendered: false }
    }

    /// One question and its answer, which are one text.
    pub(super) fn answered(mut text: String, answer: &str) -> Self {
        let start = text.len();
        text.push_str(answer);
        let answer = start..text.len();
        Self { text, answers: Vec::from([answer]), rendered: false }
    }

    /// All tokens, and which of them are an answer's: those after the ones with which the text up to the answer begins
    /// as well, tokenised by itself. A token that stands for the end of a question and the beginning of its answer is
    /// the answer's; one that stands for the end of an answer and more is not. `end` is put after the answer, and
    /// belongs to it, unless the text has its special tokens written out.
    ///
    /// # Errors
    /// The reason why it cannot be tokenised.
    pub fn encode(&self, tokenizer: &Tokenizer, end: Option<u32>) -> Result<Encoded, String> {
        let tokens = |text: &str| encode(tokenizer, text, !self.rendered);
        let mut ids = tokens(&self.text)?;
        let up_to = |at: usize| match at {
            at if at == self.text.len() => Ok(ids.len()),
            at => Ok::<_, String>(common(&tokens(&self.text[..at])?, &ids)),
        };
        let spans = self.answers.iter().map(|answer| Ok(up_to(answer.start)?..up_to(answer.end)?));
        let spans: Vec<Range<usize>> = spans.collect::<Result<_, String>>()?;
        let mut answer: Vec<bool> = (0..ids.len()).map(|at| spans.iter().any(|span| span.contains(&at))).collect();
        if let Some(end) = end.filter(|end| !self.rendered && ids.last() != Some(end)) {
            ids.push(end);
            answer.push(true);
        }
        Ok(Encoded { ids, answer })
    }
}

/// How many values two lists begin with alike.
fn common<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// How many bytes two texts begin with alike, and whole characters of the second.
fn common_start(a: &str, b: &str) -> usize {
    b.floor_char_boundary(common(a.as_bytes(), b.as_bytes()))
}

/// Where a conversation's answers are in its rendered text: each message of the assistant, with what the template puts
/// after it to end it, but not with what it puts before it to make a model answer.
///
/// Templates may write a message otherwise where others follow it (without its reasoning, say). So an answer begins
/// where the conversation before it, rendered with what makes a model answer, stops being the same; and it ends with
/// the conversation up to it or, where that is written otherwise, after its own text and whatever comes after that in
/// both.
///
/// # Errors
/// The reason why this cannot be told.
pub(super) fn answers(template: &ChatTemplate, chat: &Chat, text: &str) -> Result<Vec<Range<usize>>, String> {
    let first = |count: usize| Chat { messages: chat.messages[..count].to_vec(), ..chat.clone() };
    let is_answer = |message: &Map<String, Value>| message.get("role").is_some_and(|role| role == "assistant");
    let mut found: Vec<Range<usize>> = Vec::new();
    for (index, _) in chat.messages.iter().enumerate().filter(|(_, message)| is_answer(message)) {
        let unclear = |what: &str| {
            format!(
                "message {index}: the chat template does not show where this answer {what}, as it writes the \
                 conversation otherwise without what follows; --loss-on all trains on whole conversations, and a \
                 conversation that ends with its only answer is always clear"
            )
        };
        let start = if index == 0 {
            content(template, chat, text, 0)?.start
        } else {
            let start = common_start(&template.render(&first(index), true)?, text);
            // What comes before must be the same up to the end of the message before.
            if start < content(template, chat, text, index - 1)?.end {
                return Err(unclear("begins"));
            }
            start
        };
        let whole = template.render(&first(index + 1), false)?;
        let end = if text.starts_with(&whole) {
            whole.len()
        } else {
            let own = content(template, chat, text, index)?.end;
            let after = content(template, &first(index + 1), &whole, index)?.end;
            own + common_start(&whole[after..], &text[own..])
        };
        if end < start || found.last().is_some_and(|before| start < before.end) {
            return Err(unclear("ends"));
        }
        found.push(start..end);
    }
    Ok(found)
}

/// Where the content of a message is in the text of its conversation: what becomes another text with another content.
fn content(template: &ChatTemplate, chat: &Chat, text: &str, index: usize) -> Result<Range<usize>, String> {
    let own = chat.messages[index].get("content").and_then(Value::as_str).unwrap_or_default().trim();
    // Neither its first nor its last character.
    let other = ["0", "1", "2"].into_iter().find(|other| !own.starts_with(other) && !own.ends_with(other));
    let mut changed = chat.clone();
    changed.messages[index].insert("content".into(), other.unwrap_or_default().into());
    let changed = template.render(&changed, false)?;
    let start = common_start(&changed, text);
    let rest = text.len().min(changed.len()) - start;
    let same = text.bytes().rev().zip(changed.bytes().rev()).take(rest).take_while(|(a, b)| a == b).count();
    Ok(start..text.ceil_char_boundary(text.len() - same))
}
