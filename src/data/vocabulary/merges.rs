//! What a token is merged from.
//!
//! BPE merges the pair of least rank, the leftmost first, and never undoes a merge. What happens within the span of a
//! token of the result does not depend on what stands around it: its own text, encoded alone, goes through the same
//! merges. So where each token that stays keeps those, the least of the ranks that are left is that of the whole
//! vocabulary, at every step, and a text of such tokens is encoded as before.

use std::collections::HashMap;

use serde_json::Value;

/// The merges of a BPE model.
pub struct Merges {
    ids: HashMap<String, u32>,
    /// Of a pair of tokens, its rank and what becomes of it.
    ranks: HashMap<(u32, u32), (usize, u32)>,
}

impl Merges {
    /// Those of the `model` part of a tokenizer.json.
    ///
    /// # Errors
    /// The reason why it cannot be cut.
    pub fn new(model: &Value, ids: HashMap<String, u32>) -> Result<Self, String> {
        for name in ["continuing_subword_prefix", "end_of_word_suffix"] {
            if model.get(name).and_then(Value::as_str).is_some_and(|affix| !affix.is_empty()) {
                return Err(format!("a vocabulary with {name} cannot be cut"));
            }
        }
        let mut ranks = HashMap::new();
        for (rank, merge) in model.get("merges").and_then(Value::as_array).into_iter().flatten().enumerate() {
            let (left, right) = pair(merge).ok_or_else(|| format!("merge {rank} is no pair of tokens: {merge}"))?;
            let id = |text: &str| ids.get(text).copied();
            if let (Some(one), Some(other), Some(both)) = (id(left), id(right), id(&format!("{left}{right}"))) {
                // Of a pair that is listed twice, the tokenizers crate takes the last.
                ranks.insert((one, other), (rank, both));
            }
        }
        Ok(Self { ids, ranks })
    }

    /// The characters and the tokens that `text` goes through until it is the token `id`, itself included; the token
    /// alone where merges never make it.
    pub fn parts(&self, id: u32, text: &str) -> Vec<u32> {
        let mut buffer = [0; 4];
        let symbols = text.chars().map(|char| self.ids.get(&*char.encode_utf8(&mut buffer)).copied());
        let Some(mut symbols) = symbols.collect::<Option<Vec<u32>>>() else { return vec![id] };
        let mut parts = symbols.clone();
        loop {
            let pairs = symbols.windows(2).enumerate();
            let merges = pairs.filter_map(|(at, pair)| self.ranks.get(&(pair[0], pair[1])).map(|merge| (merge, at)));
            let Some(((_, both), at)) = merges.min_by_key(|((rank, _), at)| (*rank, *at)) else { break };
            symbols.splice(at..at + 2, [*both]);
            parts.push(*both);
        }
        if symbols == [id] { parts } else { vec![id] }
    }
}

/// The two tokens of a merge: a list of them, or a text with a space between.
pub fn pair(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' '),
        Value::Array(pair) if pair.len() == 2 => Some((pair[0].as_str()?, pair[1].as_str()?)),
        _ => None,
    }
}
