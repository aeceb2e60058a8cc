//! What a finished run notes about its output, `slicegpt.json` beside it: how it was made, and a few of its logits, so
//! that anybody can find out later whether the files still compute them.
//!
//! # How much may logits differ?
//! Another adapter sums the same products in another order. A sum of K terms in f32 (unit roundoff u = 2⁻²⁴) then moves
//! by about √K·u of its size; the moves of the P products that a token passes one after the other are independent, so
//! the logits move by about √(K·P)·u of the largest of them. Sixteen times that is allowed, for norms and softmax,
//! which make some of it larger. Where one of the two computed with factors rounded to f16, each factor moves by 2⁻¹¹
//! and the mean of many moves by less: √P·2⁻¹¹, sixteen times. A flipped byte may do less than that to the logits, so
//! the files are held against their sha256 as well.

use std::{collections::BTreeMap, fs::File, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    checkpoint::{OutputDirectory, RECORD, contents, sha256},
    error::{Error, Result},
    eval::{EvalMemory, logits_within},
    gpu::{Gpu, Precision},
    model::{Config, Model},
    progress::{Progress, Silent},
};

/// The version of [`RunRecord`]'s form.
const SCHEMA_VERSION: u32 = 1;

/// Its name beside the model.
pub const FILE: &str = RECORD;

/// The most tokens that logits are recorded for, and the most logits of each.
const TOKENS: usize = 32;
const ENTRIES: usize = 64;

/// How an output was made, and what it computed then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    pub schema_version: u32,
    pub tool_version: String,
    /// The method and its options.
    pub method: Value,
    /// sha256 of the calibration tokens.
    pub calibration_sha256: String,
    /// sha256 of each file of tensors, and of code that comes with them, by its name.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// The names of all files of the output, which distinguish it from what others have put there.
    #[serde(default)]
    pub output: Vec<String>,
    pub record: Record,
}

/// Some logits of a few tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// One sequence.
    pub input_ids: Vec<u32>,
    /// The positions in it that something is recorded for.
    pub positions: Vec<usize>,
    /// The tokens of the vocabulary whose logits are recorded.
    pub entries: Vec<u32>,
    /// For each position, the logit of each entry.
    pub logits: Vec<Vec<f32>>,
    /// For each position, the token with the largest logit.
    pub argmax: Vec<u32>,
    /// For each position, ln Σ exp(logit) over the whole vocabulary.
    pub logsumexp: Vec<f64>,
    /// What linear layers were computed in.
    #[serde(default)]
    pub precision: Precision,
}

/// How well a model agrees with its record.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Agreement {
    /// Logits that were compared.
    pub logits: usize,
    /// The largest difference, relative to the largest logit of the record.
    pub largest_difference: f64,
    /// The largest that rounding explains.
    pub tolerance: f64,
}

impl Agreement {
    /// Whether rounding explains every difference.
    pub fn holds(&self) -> bool {
        self.largest_difference <= self.tolerance
    }
}

/// sha256 of each file of tensors and of code.
fn sha256_of_files(model: &Model) -> Result<BTreeMap<String, String>> {
    let mut files = model.store.checkpoint.sha256()?;
    for (name, _) in model.config().python_files() {
        let path = model.directory().join(name);
        let found = File::open(&path).and_then(|mut file| sha256(&mut file)).map_err(Error::read(&path))?;
        files.insert((*name).into(), found);
    }
    Ok(files)
}

impl RunRecord {
    /// What to note about a finished model; `ids` are some tokens, of which the first few are taken.
    ///
    /// # Errors
    /// [`Error::BadTokens`] if there are none; whatever reading the files or computing the logits reports.
    pub fn of(
        gpu: &Gpu,
        model: &Model,
        ids: &[u32],
        memory: &EvalMemory,
        method: Value,
        calibration_sha256: &str,
    ) -> Result<Self> {
        Ok(Self {
            schema_version: SCHEMA_VERSION,
            tool_version: env!("CARGO_PKG_VERSION").into(),
            method,
            calibration_sha256: calibration_sha256.into(),
            files: sha256_of_files(model)?,
            output: Vec::new(),
            record: Record::of(gpu, model, ids, memory)?,
        })
    }

    /// Writes it into an output, of which everything else is there.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Write`].
    pub fn write(mut self, directory: &OutputDirectory) -> Result<()> {
        self.output = directory.files_with_record()?;
        let text = serde_json::to_string(&self).map_err(Error::internal)?;
        directory.write(FILE, format!("{text}\n").as_bytes())
    }

    /// Reads the record beside a model and checks that it can be one of this model; `None` if there is none, or only
    /// the list of files that is written beside random weights.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::BadFile`] if it is damaged, or speaks of another model.
    pub fn load(directory: &Path, config: &Config) -> Result<Option<Self>> {
        let path = directory.join(FILE);
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let bad = |reason: String| Error::bad_file(&path, reason);
        let text = contents(&path)?;
        let fields: Map<String, Value> = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        if fields.keys().eq(["tool_version", "output"]) {
            return Ok(None);
        }
        let this: Self = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        if this.schema_version != SCHEMA_VERSION {
            return Err(bad(format!("schema_version {}, where {SCHEMA_VERSION} is known", this.schema_version)));
        }
        this.record.check_form(config).map_err(|reason| bad(format!("record: {reason}")))?;
        Ok(Some(this))
    }

    /// Holds the files of a model against their sha256.
    ///
    /// # Errors
    /// [`Error::BadFile`] that names the first file that has changed; [`Error::Read`].
    pub fn check_files(&self, model: &Model) -> Result<()> {
        if self.files.is_empty() {
            return Ok(());
        }
        for (name, found) in sha256_of_files(model)? {
            let path = model.directory().join(&name);
            match self.files.get(&name) {
                Some(recorded) if *recorded == found => {}
                Some(_) => {
                    return Err(Error::bad_file(
                        &path,
                        format!("has changed since it was written: its sha256 is not the one in {FILE}"),
                    ));
                }
                // From before code was recorded.
                None if name.ends_with(".py") => {}
                None => return Err(Error::bad_file(&path, format!("is not one of the files that {FILE} speaks of"))),
            }
        }
        Ok(())
    }
}

impl Record {
    /// The logits of a model for the first of some tokens.
    ///
    /// # Errors
    /// [`Error::BadTokens`] if there are none; whatever the model or the GPU reports.
    pub fn of(gpu: &Gpu, model: &Model, ids: &[u32], memory: &EvalMemory) -> Result<Self> {
        let count = ids.len().min(TOKENS).min(model.config().max_position_embeddings);
        let vocab = model.config().vocab_size;
        let entries = vocab.min(ENTRIES);
        let mut this = Self {
            input_ids: ids[..count].to_vec(),
            positions: (0..count).collect(),
            entries: (0..entries).map(|entry| (entry * vocab / entries) as u32).collect(),
            logits: Vec::new(),
            argmax: Vec::new(),
            logsumexp: Vec::new(),
            precision: gpu.precision(),
        };
        let all = this.all_logits(gpu, model, memory, &Silent)?;
        for row in this.positions.iter().map(|&position| &all[position * vocab..(position + 1) * vocab]) {
            this.logits.push(this.entries.iter().map(|&entry| row[entry as usize]).collect());
            this.argmax.push(largest(row));
            this.logsumexp.push(logsumexp(row));
        }
        if !this.logsumexp.iter().all(|value| value.is_finite()) {
            return Err(Error::Numerical("logits of the output are NaN or infinite".into()));
        }
        Ok(this)
    }

    /// Computes the logits again and compares.
    ///
    /// # Errors
    /// Whatever the model or the GPU reports.
    pub fn compare(&self, gpu: &Gpu, model: &Model, progress: &dyn Progress) -> Result<Agreement> {
        let vocab = model.config().vocab_size;
        let all = self.all_logits(gpu, model, &EvalMemory::default(), progress)?;
        let scale = self.logits.iter().flatten().fold(0.0f64, |most, logit| most.max(f64::from(logit.abs())));
        let mut worst = 0.0f64;
        // NaN is the worst of all.
        let mut note =
            |difference: f64| worst = if difference.is_nan() { f64::INFINITY } else { worst.max(difference) };
        for (at, &position) in self.positions.iter().enumerate() {
            let row = &all[position * vocab..(position + 1) * vocab];
            self.entries
                .iter()
                .zip(&self.logits[at])
                .for_each(|(&entry, &logit)| note(f64::from((row[entry as usize] - logit).abs())));
            note((logsumexp(row) - self.logsumexp[at]).abs());
            // Both moved by so much, the largest may be another one.
            note(f64::from(row[largest(row) as usize] - row[self.argmax[at] as usize]) / 2.0);
        }
        Ok(Agreement {
            logits: self.positions.len() * self.entries.len(),
            largest_difference: worst / scale.max(f64::MIN_POSITIVE),
            tolerance: tolerance(model.config(), self.precision, gpu.precision()),
        })
    }

    /// `[tokens · vocab_size]`.
    fn all_logits(&self, gpu: &Gpu, model: &Model, memory: &EvalMemory, progress: &dyn Progress) -> Result<Vec<f32>> {
        if self.input_ids.is_empty() {
            return Err(Error::BadTokens("no tokens to note logits for".into()));
        }
        let mut all = Vec::new();
        logits_within(gpu, model, std::slice::from_ref(&self.input_ids), memory, progress, |_, values| {
            all = values;
            Ok(())
        })?;
        Ok(all)
    }

    /// Whether this can be about a model: numbers within bounds, lists of the right length.
    fn check_form(&self, config: &Config) -> std::result::Result<(), String> {
        let known = |id: &u32| (*id as usize) < config.vocab_size;
        let count = self.positions.len();
        if self.input_ids.is_empty()
            || self.input_ids.len() > TOKENS.min(config.max_position_embeddings)
            || !self.input_ids.iter().all(known)
        {
            return Err(format!("input_ids: expected 1 to {TOKENS} tokens of a vocabulary of {}", config.vocab_size));
        }
        if count == 0 || count > TOKENS || !self.positions.iter().all(|&position| position < self.input_ids.len()) {
            return Err(format!("positions: expected positions below {}", self.input_ids.len()));
        }
        if self.entries.is_empty() || self.entries.len() > ENTRIES || !self.entries.iter().all(known) {
            return Err(format!("entries: expected 1 to {ENTRIES} tokens of a vocabulary of {}", config.vocab_size));
        }
        if self.logits.len() != count || self.logits.iter().any(|row| row.len() != self.entries.len()) {
            return Err(format!("logits: expected {count} rows of {}", self.entries.len()));
        }
        if self.argmax.len() != count || !self.argmax.iter().all(known) {
            return Err(format!("argmax: expected {count} tokens of a vocabulary of {}", config.vocab_size));
        }
        if self.logsumexp.len() != count || !self.logsumexp.iter().all(|value| value.is_finite()) {
            return Err(format!("logsumexp: expected {count} numbers"));
        }
        if !self.logits.iter().flatten().all(|logit| logit.is_finite()) {
            return Err("logits: expected numbers that f32 holds".into());
        }
        Ok(())
    }
}

/// How far rounding can move logits, relative to the largest of them: see the top of this file.
fn tolerance(config: &Config, one: Precision, other: Precision) -> f64 {
    let inner = config.layers.iter().map(|layer| layer.intermediate_size.max(layer.heads_width())).max();
    let terms = config.hidden_size.max(inner.unwrap_or(0)) as f64;
    // Queries and keys to attention, output, up, down: and the head.
    let products = (4 * config.layers.len() + 1) as f64;
    let rounding =
        if one == Precision::F32 && other == Precision::F32 { terms.sqrt() * 2f64.powi(-24) } else { 2f64.powi(-11) };
    16.0 * products.sqrt() * rounding
}

/// The token with the largest logit, the first of several.
fn largest(logits: &[f32]) -> u32 {
    let best = logits
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (id, &logit)| if logit > best.1 { (id, logit) } else { best });
    best.0 as u32
}

fn logsumexp(logits: &[f32]) -> f64 {
    let most = logits.iter().fold(f64::NEG_INFINITY, |most, &logit| most.max(f64::from(logit)));
    most + logits.iter().map(|&logit| (f64::from(logit) - most).exp()).sum::<f64>().ln()
}
