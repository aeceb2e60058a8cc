//! What a run needs to resume where it was stopped, and whether that would still be the same run.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{calibration::Sequences, memory::Pieces};
use crate::{
    checkpoint::{OutputDirectory, Written, hex},
    error::{Error, Result},
    eval::Perplexity,
    stream::exact,
};

/// The version of this form: other ones are refused.
const FORMAT: u32 = 1;

/// Everything that is done and durable; `S` is the method's part of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State<S> {
    format: u32,
    /// What the result depends on, by name, and the adapter once it is known.
    identity: Map<String, Value>,
    pub adapter: Option<String>,
    /// [`Sequences::hashes`] of the sequences, which lie in a file of their own.
    tokens: Option<Vec<String>>,
    /// Text by text.
    pub before: Vec<Before>,
    /// What the sums over the signals are cut into: other pieces would round otherwise.
    pub pieces: Option<Pieces>,
    #[serde(rename = "slicing")]
    pub layers: Option<S>,
    /// The tensors that are finished.
    #[serde(default, skip_serializing_if = "Written::is_empty")]
    pub written: Written,
    pub seconds: Map<String, Value>,
    pub warnings: Vec<String>,
}

/// [`Perplexity`] that comes back to the last bit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Before {
    #[serde(with = "exact")]
    perplexity: f64,
    sequences: usize,
    tokens: usize,
}

impl From<Perplexity> for Before {
    fn from(Perplexity { perplexity, sequences, tokens }: Perplexity) -> Self {
        Self { perplexity, sequences, tokens }
    }
}

impl From<Before> for Perplexity {
    fn from(Before { perplexity, sequences, tokens }: Before) -> Self {
        Self { perplexity, sequences, tokens }
    }
}

impl<S: Serialize + DeserializeOwned> State<S> {
    /// Nothing is done.
    pub fn new(identity: Map<String, Value>) -> Self {
        Self {
            format: FORMAT,
            identity,
            adapter: None,
            tokens: None,
            before: Vec::new(),
            pieces: None,
            layers: None,
            written: Written::new(),
            seconds: Map::new(),
            warnings: Vec::new(),
        }
    }

    /// What an earlier run has committed, if it was the same as this one.
    ///
    /// # Errors
    /// [`Error::BadFile`] if it cannot be understood; [`Error::Usage`] that names the first thing that differs.
    pub fn parse(bytes: &[u8], path: &Path, identity: &Map<String, Value>) -> Result<Self> {
        let bad = |reason: String| Error::bad_file(path, format!("{reason}; --force starts over"));
        let (hash, text) = bytes.split_at_checked(HASH + 1).ok_or_else(|| bad("too short".into()))?;
        if hash != hashed(text).as_bytes() {
            return Err(bad("not what was written there".into()));
        }
        #[derive(Deserialize)]
        struct Which {
            format: u32,
            #[serde(default)]
            identity: Map<String, Value>,
        }
        // Another method has a part that cannot be understood here.
        let Which { format, identity: before } =
            serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        if format != FORMAT {
            return Err(Error::Usage(format!(
                "cannot resume: {} was written by another version of this program; --force starts over",
                path.display()
            )));
        }
        let mut names = before.keys().chain(identity.keys());
        match names.find(|name| before.get(*name) != identity.get(*name)) {
            Some(name) => Err(differs(name, before.get(name), identity.get(name))),
            None => serde_json::from_slice(text).map_err(|error| bad(error.to_string())),
        }
    }

    /// Checks that the work continues with the kernels that it began with, or records them.
    ///
    /// # Errors
    /// [`Error::Usage`] if they are others.
    pub fn check_adapter(&mut self, adapter: String) -> Result<()> {
        match &self.adapter {
            Some(before) if *before != adapter => {
                Err(differs("the GPU", Some(&Value::from(before.as_str())), Some(&Value::from(adapter))))
            }
            _ => {
                self.adapter = Some(adapter);
                Ok(())
            }
        }
    }

    /// Keeps the sequences.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn keep_sequences(&mut self, sequences: &Sequences, directory: &OutputDirectory) -> Result<()> {
        let text = serde_json::to_vec(sequences).map_err(Error::internal)?;
        directory.write_beside(OutputDirectory::TOKENS, &text)?;
        self.tokens = Some(sequences.hashes());
        Ok(())
    }

    /// The sequences that were kept; `None` if there are none yet.
    ///
    /// # Errors
    /// [`Error::BadFile`] if they are not what was kept.
    pub fn sequences(&self, directory: &OutputDirectory) -> Result<Option<Sequences>> {
        let Some(expected) = &self.tokens else { return Ok(None) };
        let path = directory.beside(OutputDirectory::TOKENS);
        let text = std::fs::read(&path).map_err(Error::kept(&path, Error::read(&path)))?;
        let bad = |reason: String| Error::bad_file(&path, format!("{reason}; --force starts over"));
        let sequences: Sequences = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        if *expected != sequences.hashes() {
            return Err(bad("not the tokens of the unfinished run".into()));
        }
        Ok(Some(sequences))
    }

    /// Makes all of this what `--resume` continues from.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn commit(&self, directory: &OutputDirectory) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(Error::internal)?;
        directory.commit(&[hashed(&text).as_bytes(), &text].concat())
    }
}

/// Letters of a hash.
const HASH: usize = 64;

/// The first line of a state: sha256 of the rest.
fn hashed(text: &[u8]) -> String {
    format!("{}\n", hex(Sha256::digest(text)))
}

fn differs(name: &str, before: Option<&Value>, now: Option<&Value>) -> Error {
    let shown = |value: Option<&Value>| match value {
        None => "absent".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    Error::Usage(format!("cannot resume: {name} was {}, and is {} now; --force starts over", shown(before), shown(now)))
}

/// Larger files are distinguished by their size, their time and their beginning.
const WHOLE: u64 = 64 << 20;
const BEGINNING: u64 = 1 << 20;

/// What tells a file from another one in its place.
///
/// # Errors
/// [`Error::Read`].
pub fn fingerprint(path: &PathBuf) -> Result<String> {
    let read = || {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let (len, large) = (metadata.len(), metadata.len() > WHOLE);
        let mut hasher = Sha256::new();
        let mut rest = file.take(if large { BEGINNING } else { len });
        let mut piece = vec![0; 1 << 20];
        loop {
            match rest.read(&mut piece)? {
                0 => break,
                count => hasher.update(&piece[..count]),
            }
        }
        let hash = hex(hasher.finalize());
        let time = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .map_or(0, |time| time.as_nanos());
        Ok(if large {
            format!("{len} bytes of time {time} that begin with sha256 {hash}")
        } else {
            format!("sha256 {hash}")
        })
    };
    read().map_err(Error::read(path))
}
