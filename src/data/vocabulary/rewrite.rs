//! Files with fewer tokens, under their new numbers.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::merges::pair;

/// Lists of ids in generation_config.json, of which those go whose tokens go.
const LISTS: &[&str] = &["suppress_tokens", "begin_suppress_tokens"];
/// Lists of sequences of ids, which go whole.
const SEQUENCES: &[&str] = &["bad_words_ids"];
/// Fields whose ids cannot go.
const FIXED: &[&str] = &["force_words_ids", "forced_decoder_ids", "sequence_bias"];

/// Whether texts become bytes before anything is merged.
pub fn is_byte_level(file: &Map<String, Value>) -> bool {
    fn names(value: &Value) -> bool {
        match value {
            Value::Object(fields) => {
                fields.get("type").is_some_and(|kind| kind == "ByteLevel") || fields.values().any(names)
            }
            Value::Array(items) => items.iter().any(names),
            _ => false,
        }
    }
    ["pre_tokenizer", "normalizer"].iter().filter_map(|part| file.get(*part)).any(names)
}

/// Collects the ids of added tokens, and of those that a post-processor puts around texts.
pub fn named(file: &Map<String, Value>, ids: &mut BTreeSet<u32>) {
    let number = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let added = file.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    ids.extend(added.filter_map(|token| token.get("id").and_then(number)));
    let mut processor = file.get("post_processor").cloned().unwrap_or_default();
    around(&mut processor, &mut |id| {
        ids.extend(number(id));
        Ok(())
    })
    // Nothing above is an error.
    .unwrap_or_default();
}

/// Calls `each` for every id in a post-processor.
fn around(value: &mut Value, each: &mut dyn FnMut(&mut Value) -> Result<(), String>) -> Result<(), String> {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("ids", Value::Array(ids)) => ids.iter_mut().try_for_each(&mut *each)?,
                    ("sep" | "cls", Value::Array(token)) if token.len() == 2 && token[1].is_u64() => {
                        each(&mut token[1])?;
                    }
                    (_, value) => around(value, each)?,
                }
            }
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| around(item, each)),
        _ => Ok(()),
    }
}

/// A tokenizer.json with the tokens of these ids alone, ascending.
///
/// # Errors
/// The reason why there is none.
pub fn rewritten(file: &Map<String, Value>, kept: &[u32]) -> Result<String, String> {
    let places: HashMap<u64, usize> = kept.iter().enumerate().map(|(place, id)| (u64::from(*id), place)).collect();
    let place = |id: &Value| id.as_u64().and_then(|id| places.get(&id).copied());
    let renumber = |id: &mut Value| {
        *id = place(id).ok_or_else(|| format!("it names the token {id}, which does not stay"))?.into();
        Ok(())
    };
    let mut file = file.clone();
    let model = file.get_mut("model").and_then(Value::as_object_mut).ok_or("it has no model")?;
    let mut texts = HashSet::new();
    match model.get_mut("vocab") {
        Some(Value::Object(vocab)) => {
            vocab.retain(|_, id| place(id).is_some());
            vocab.values_mut().try_for_each(&renumber)?;
            texts.extend(vocab.keys().cloned());
        }
        Some(Value::Array(vocab)) => {
            let mut id = 0;
            vocab.retain(|_| {
                id += 1;
                places.contains_key(&(id - 1))
            });
        }
        _ => return Err("it has no vocabulary".into()),
    }
    if let Some(Value::Array(merges)) = model.get_mut("merges") {
        merges.retain(|merge| {
            pair(merge).is_some_and(|(left, right)| {
                texts.contains(left) && texts.contains(right) && texts.contains(&format!("{left}{right}"))
            })
        });
    }
    if let Some(unk) = model.get_mut("unk_id").filter(|unk| !unk.is_null()) {
        renumber(unk)?;
    }
    for token in file.get_mut("added_tokens").and_then(Value::as_array_mut).into_iter().flatten() {
        token.get_mut("id").map_or(Ok(()), &renumber)?;
    }
    if let Some(processor) = file.get_mut("post_processor") {
        around(processor, &mut |id| renumber(id))?;
    }
    // How training filled its texts, with a token that may not be there any more.
    file.insert("padding".into(), Value::Null);
    serde_json::to_string(&file).map_err(|error| error.to_string())
}

/// Gives the ids in a config.json or generation_config.json, `bos_token_id` and the like, their new numbers: `ids` are
/// those that stay, ascending. Numbers beyond the `whole` vocabulary name no token, and stay.
///
/// # Errors
/// The reason why there is none: a field names a token that does not stay.
pub fn renumber_ids(fields: &mut Map<String, Value>, ids: &[u32], whole: usize) -> Result<(), String> {
    let place = |id: &Value| match id.as_u64().filter(|&id| id < whole as u64) {
        Some(id) => u32::try_from(id).ok().and_then(|id| ids.binary_search(&id).ok()).map(|place| json!(place)),
        None => Some(id.clone()),
    };
    for (name, value) in fields.iter_mut().filter(|(_, value)| !value.is_null()) {
        let gone = || format!("{name} names a token that does not stay");
        match value {
            Value::Array(list) if LISTS.contains(&name.as_str()) => *list = list.iter().filter_map(place).collect(),
            Value::Array(list) if SEQUENCES.contains(&name.as_str()) => {
                let whole = |sequence: &Value| sequence.as_array()?.iter().map(place).collect::<Option<Vec<_>>>();
                *list = list.iter().filter_map(whole).map(Value::from).collect();
            }
            Value::Array(ids) if name.ends_with("_token_id") => {
                *ids = ids.iter().map(place).collect::<Option<_>>().ok_or_else(gone)?;
            }
            id if name.ends_with("_token_id") => *id = place(id).ok_or_else(gone)?,
            value if FIXED.contains(&name.as_str()) && *value != json!([]) && *value != json!({}) => {
                return Err(format!("{name} is not given the new numbers of its tokens; take it out"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The ids that such a file names.
pub fn ids_in(fields: &Map<String, Value>) -> impl Iterator<Item = u32> {
    let named = fields.iter().filter(|(name, _)| name.ends_with("_token_id"));
    let ids = named.flat_map(|(_, value)| value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice));
    ids.filter_map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()))
}
