//! What is calibrated on, and what of it is kept for evaluation.

use std::{
    cell::{Cell, RefCell},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    examples::{Examples, LossOn},
    inputs::{Tokenizers, check_tokens},
    own_writing::{OWN_LENGTH, interleaved, own_tokens, passage_lengths, passages},
    paths::as_shown,
};
use crate::{
    data::{Lessons, Text, Tokens, sha256},
    error::{Error, Result},
    generate::{Samples, sample_sequences},
    gpu::Gpu,
    model::Model,
    progress::Progress,
    stream::Extent,
};

/// What to calibrate on. The fields have the names of the flags.
#[derive(Debug, Clone, Serialize)]
pub struct CalibrationRequest {
    /// `self` samples from the model; or a file of text or token ids.
    #[serde(serialize_with = "as_shown")]
    pub calibration: PathBuf,
    /// How many sequences; as many as are drawn, or all rows of a token file, if `None`.
    pub cal_nsamples: Option<usize>,
    /// How many are drawn where that does not say, of a text or of what the model writes.
    #[serde(skip)]
    pub drawn_nsamples: usize,
    /// The most where that does not say: what the method asks for.
    #[serde(skip)]
    pub usual_nsamples: Option<usize>,
    /// Sequences that the model writes itself, beside those of a file; what the method asks for if `None`.
    pub self_samples: Option<usize>,
    /// Tokens of a sequence, at most the model's own maximum.
    pub cal_max_seqlen: usize,
    /// Sequences at a time; by size if `None`.
    pub cal_batch_size: Option<usize>,
    /// The flags that say how many sequences, and how long they are, for messages.
    #[serde(skip)]
    pub flags: [&'static str; 2],
}

impl Default for CalibrationRequest {
    fn default() -> Self {
        Self {
            calibration: "self".into(),
            cal_nsamples: None,
            drawn_nsamples: 128,
            usual_nsamples: None,
            self_samples: None,
            cal_max_seqlen: 2048,
            cal_batch_size: None,
            flags: ["--cal-nsamples", "--cal-max-seqlen"],
        }
    }
}

/// Sequences to calibrate on, and others of the same kind to evaluate on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequences {
    pub calibration: Vec<Vec<u32>>,
    pub held_out: Vec<Vec<u32>>,
    /// Which tokens of each of the former are to be learned; all if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Vec<Vec<bool>>>,
    /// How many of the former the model has written itself, beside those of a file.
    pub own: usize,
}

impl Sequences {
    /// What tells them from others.
    pub fn hashes(&self) -> Vec<String> {
        let counted = self.counted.iter().map(|rows| {
            let row = |row: &Vec<bool>| row.iter().map(|&counted| u32::from(counted)).collect();
            sha256(&rows.iter().map(row).collect::<Vec<Vec<u32>>>())
        });
        [&self.calibration, &self.held_out].map(|rows| sha256(rows)).into_iter().chain(counted).collect()
    }

    /// Checks that a model can take them; `source` is for messages.
    ///
    /// # Errors
    /// [`Error::BadTokens`].
    pub fn check(&self, model: &Model, source: &str) -> Result<()> {
        [&self.calibration, &self.held_out].into_iter().try_for_each(|rows| check_tokens(model, rows, source))
    }
}

/// At most this many held-out sequences are evaluated on.
const HELD_OUT: usize = 64;
/// Windows of a held-out end that is too short for the usual ones.
const SHORT_WINDOW: usize = 64;

impl CalibrationRequest {
    /// The file, unless the model writes its own calibration text.
    pub fn file(&self) -> Option<&Path> {
        (self.calibration.as_os_str() != "self").then_some(self.calibration.as_path())
    }

    /// What is calibrated on, for messages.
    pub fn source(&self) -> String {
        self.calibration.display().to_string()
    }

    /// How many sequences are drawn, from whatever is not a token file.
    fn nsamples(&self) -> usize {
        self.cal_nsamples.or(self.usual_nsamples).unwrap_or(self.drawn_nsamples)
    }

    /// How many of the rows of a token file are calibrated on.
    fn used_rows(&self, rows: usize) -> Result<usize> {
        match self.cal_nsamples {
            Some(count) if count > rows => {
                Err(Error::Usage(format!("{} {count}, but {} has {rows} rows", self.flags[0], self.source())))
            }
            Some(count) => Ok(count),
            None => Ok(self.usual_nsamples.map_or(rows, |usual| usual.min(rows))),
        }
    }
}

/// How many tokens there will be, or a few more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extents {
    /// All of it.
    pub calibration: Extent,
    /// What a file has of it.
    pub file: Extent,
    /// Of the held-out sequences, where these are evaluated on.
    pub held_out: Option<Extent>,
}

/// What a model is calibrated on: its file is read once, when it is first needed.
pub struct Calibration<'a> {
    pub request: &'a CalibrationRequest,
    model: &'a Model,
    tokenizers: Tokenizers<'a>,
    seed: u64,
    /// Tokens of a window of held-out text; `None` where something else is evaluated on.
    window: Option<usize>,
    mixes: bool,
    /// How questions and answers are learned, one by one; they are text like any other if `None`.
    examples: Option<LossOn>,
    found: RefCell<Option<Found>>,
    extents: Cell<Option<Extents>>,
}

/// What a file holds.
enum Found {
    Tokens(Tokens),
    Examples(Examples),
}

impl<'a> Calibration<'a> {
    /// Of a model; `window` is how many tokens of held-out text are evaluated on at a time, where they are. `mixes`
    /// says whether the model writes as much itself as a file has, `examples` how questions and answers are learned.
    pub fn new(
        request: &'a CalibrationRequest,
        model: &'a Model,
        tokenizers: Tokenizers<'a>,
        seed: u64,
        window: Option<usize>,
        mixes: bool,
        examples: Option<LossOn>,
    ) -> Self {
        let window = window.map(|window| window.min(model.config().max_position_embeddings));
        let (found, extents) = (RefCell::default(), Cell::default());
        Self { request, model, tokenizers, seed, window, mixes, examples, found, extents }
    }

    /// Tokens of a drawn sequence.
    fn seqlen(&self) -> usize {
        self.request.cal_max_seqlen.min(self.model.config().max_position_embeddings)
    }

    /// How many sequences the model writes itself beside those of a file, and their length.
    fn beside(&self, file: Extent) -> (usize, usize) {
        let length = file.longest.min(OWN_LENGTH).min(self.model.config().max_position_embeddings);
        let count = match self.request.self_samples {
            Some(count) => count,
            None if self.mixes => own_tokens(file.tokens, self.model.config().widest_write()) / length.max(1),
            None => 0,
        };
        if length < 2 { (0, 0) } else { (count, length) }
    }

    /// Mixes in what the model writes itself where it goes on from passages of the sequences, drawn at random: text of
    /// the same kind, and of what the model makes of it.
    fn mixed(&self, file: Sequences, gpu: &Gpu, together: Option<usize>, progress: &dyn Progress) -> Result<Sequences> {
        let (count, length) = self.beside(Extent::of(&file.calibration));
        if count == 0 {
            return Ok(file);
        }
        // Other ones than those of a calibration that the model writes whole.
        let seed = self.seed.wrapping_add(1);
        let starts = passages(&file.calibration, passage_lengths(count, length), seed);
        let together = together.or(self.request.cal_batch_size);
        let own = sample_sequences(gpu, self.model, Samples { starts, length, seed }, together, progress)?;
        let all = own.iter().map(|row| vec![true; row.len()]).collect();
        let counted = file.counted.map(|counted| interleaved(counted, all));
        Ok(Sequences { own: own.len(), calibration: interleaved(file.calibration, own), counted, ..file })
    }

    /// How many sequences the model writes itself, those held out included, and their length.
    ///
    /// # Errors
    /// As [`Calibration::extents`].
    pub fn sampling(&self) -> Result<Option<(usize, usize)>> {
        if self.request.file().is_some() {
            let (count, length) = self.beside(self.extents()?.file);
            return Ok((count > 0).then_some((count, length)));
        }
        Ok(Some(self.whole_sampling()))
    }

    fn whole_sampling(&self) -> (usize, usize) {
        let count = self.request.nsamples();
        let held_out = if self.window.is_some() { (count / 8).clamp(1, HELD_OUT) } else { 0 };
        (count + held_out, self.seqlen())
    }

    /// How much there will be to calibrate and to evaluate on.
    ///
    /// # Errors
    /// [`Error::Usage`] if a token file has fewer rows than are asked for; as [`Tokenizers::read`].
    pub fn extents(&self) -> Result<Extents> {
        if self.extents.get().is_none() {
            self.extents.set(Some(self.find_extents()?));
        }
        self.extents.get().ok_or_else(|| Error::internal("extents that were found are gone"))
    }

    fn find_extents(&self) -> Result<Extents> {
        let Some(file) = self.request.file() else {
            return Ok(self.drawn(self.window.map(|_| self.seqlen())));
        };
        let found = self.read(file)?;
        let of_rows = |rows: &[Vec<u32>], used: usize| {
            let (used, rest) = rows.split_at(used);
            let held_out = self.window.filter(|_| !rest.is_empty());
            let calibration = Extent::of(used);
            Extents {
                calibration,
                file: calibration,
                held_out: held_out.map(|_| Extent::of(&rest[..rest.len().min(HELD_OUT)])),
            }
        };
        let extents = match &found {
            Found::Tokens(Tokens::Rows(rows)) => {
                check_tokens(self.model, rows, &self.request.source())?;
                of_rows(rows, self.request.used_rows(rows.len())?)
            }
            Found::Tokens(Tokens::Text(text)) => self.of_text_extents(text)?,
            Found::Examples(examples) => of_rows(&examples.rows, self.used_examples(examples)?),
        };
        self.found.replace(Some(found));
        let (count, length) = self.beside(extents.file);
        let calibration = Extent { tokens: extents.file.tokens + count * length, ..extents.file };
        Ok(Extents { calibration, ..extents })
    }

    fn drawn(&self, window: Option<usize>) -> Extents {
        let longest = self.seqlen();
        let calibration = Extent { tokens: self.request.nsamples() * longest, longest };
        Extents {
            calibration,
            file: calibration,
            held_out: window.map(|window| Extent { tokens: HELD_OUT * window, longest: window }),
        }
    }

    /// Of a text: what is drawn of it, or all of it where that is less.
    fn of_text_extents(&self, text: &Text) -> Result<Extents> {
        let drawn = self.drawn(self.window);
        // Splitting copies it, and the end is a tenth of it.
        if text.surely_has(10 * drawn.calibration.tokens.max(drawn.held_out.map_or(0, |held_out| held_out.tokens))) {
            return Ok(drawn);
        }
        let (tokenizer, (beginning, tail)) = (self.tokenizers.get()?, text.split_tail());
        let of = |text: &Text, drawn: Extent, fewer_than: usize| -> Result<Extent> {
            let tokens = text.shorter_than(tokenizer, fewer_than)?;
            Ok(tokens.map_or(drawn, |tokens| Extent { tokens, longest: drawn.longest.min(tokens) }))
        };
        let calibration = of(&beginning, drawn.calibration, self.seqlen())?;
        let held_out = tail.zip(drawn.held_out).map(|(tail, drawn)| of(&tail, drawn, drawn.tokens)).transpose()?;
        Ok(Extents { calibration, file: calibration, held_out })
    }

    /// Frees what was read, where it is not needed any more.
    pub fn release(&self) {
        self.found.take();
    }

    /// As [`Tokenizers::predicted_bytes`].
    pub fn predicted_bytes(&self, rows: &[Vec<u32>]) -> Option<usize> {
        self.tokenizers.predicted_bytes(rows)
    }

    /// As [`Tokenizers::translated`].
    ///
    /// # Errors
    /// Likewise.
    pub fn translated(&self, rows: &[Vec<u32>], to: &Tokenizers) -> Result<Vec<Vec<u32>>> {
        self.tokenizers.translated(rows, to)
    }

    fn read(&self, file: &Path) -> Result<Found> {
        if let Some(found) = self.found.take() {
            return Ok(found);
        }
        let lessons = match self.examples {
            Some(on) => self.tokenizers.lessons(file, on == LossOn::Answer),
            None => self.tokenizers.read(file).map(Lessons::Tokens),
        };
        let lessons = lessons.map_err(|error| match error {
            Error::Read { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
                Error::bad_file(&path, "no such file to calibrate on (`self` samples from the model)")
            }
            other => other,
        })?;
        Ok(match (lessons, self.examples) {
            (Lessons::Examples(examples), Some(on)) => {
                Found::Examples(Examples::encode(examples, &self.tokenizers, self.seqlen(), on, file)?)
            }
            (Lessons::Examples(_), None) => return Err(Error::internal("examples that were not asked for")),
            (Lessons::Tokens(tokens), _) => Found::Tokens(tokens),
        })
    }

    /// How many of the examples of a file are learned: those asked for, or all but a tenth where this is evaluated on.
    fn used_examples(&self, examples: &Examples) -> Result<usize> {
        let count = examples.rows.len();
        match (self.request.used_rows(count)?, self.window) {
            (used, Some(_)) if used == count && self.request.cal_nsamples.is_none() => Ok(count - count / 10),
            (used, _) => Ok(used),
        }
    }

    /// The sequences, if sampled `together` at a time; those held out only where nothing else is evaluated on.
    ///
    /// # Errors
    /// As [`Calibration::extents`]; [`Error::BadTokens`]; whatever sampling reports.
    pub fn sequences(&self, gpu: &Gpu, together: Option<usize>, progress: &dyn Progress) -> Result<Sequences> {
        let source = self.request.source();
        let mut sequences = match self.request.file() {
            None => self.sampled(gpu, together, progress)?,
            Some(file) => match self.read(file)? {
                Found::Tokens(Tokens::Rows(mut calibration)) => {
                    let mut held_out = calibration.split_off(self.request.used_rows(calibration.len())?);
                    held_out.retain(|row| row.len() > 1);
                    Sequences { calibration, held_out, counted: None, own: 0 }
                }
                Found::Tokens(Tokens::Text(text)) => self.of_text(&text, progress)?,
                Found::Examples(examples) => {
                    let used = self.used_examples(&examples)?;
                    examples.notes.iter().for_each(|note| progress.note(note));
                    let Examples { rows: mut calibration, mut counted, .. } = examples;
                    let held_out = calibration.split_off(used);
                    counted.iter_mut().for_each(|counted| counted.truncate(used));
                    Sequences { calibration, held_out, counted, own: 0 }
                }
            },
        };
        if self.request.file().is_some() {
            sequences = self.mixed(sequences, gpu, together, progress)?;
        }
        sequences.held_out.truncate(if self.window.is_some() { HELD_OUT } else { 0 });
        sequences.check(self.model, &source)?;
        let (tokens, width) = (Extent::of(&sequences.calibration).tokens, self.model.config().hidden_size);
        if tokens < width {
            progress.note(&format!(
                "{tokens} calibration tokens cannot tell {width} directions apart; the kept energies will look better \
                 than they are"
            ));
        }
        if sequences.held_out.is_empty() && self.window.is_some() {
            progress.note(&format!("nothing of {source} is left to measure perplexity on: give --eval FILE"));
        }
        progress.end();
        Ok(sequences)
    }

    fn sampled(&self, gpu: &Gpu, together: Option<usize>, progress: &dyn Progress) -> Result<Sequences> {
        let (count, length) = self.whole_sampling();
        let starts = vec![vec![self.tokenizers.start_token()?]; count];
        let samples = Samples { starts, length, seed: self.seed };
        let together = together.or(self.request.cal_batch_size);
        let mut calibration = sample_sequences(gpu, self.model, samples, together, progress)?;
        let held_out = calibration.split_off(self.request.nsamples());
        Ok(Sequences { calibration, held_out, counted: None, own: 0 })
    }

    fn of_text(&self, text: &Text, progress: &dyn Progress) -> Result<Sequences> {
        let (tokenizer, source) = (self.tokenizers.get()?, self.request.source());
        let (count, seqlen) = (self.request.nsamples(), self.seqlen());
        let (beginning, tail) = text.split_tail();
        let calibration = beginning.sequences(tokenizer, count, seqlen, self.seed)?;
        if calibration.len() < count {
            progress.note(&format!("{source} is shorter than one sequence of {seqlen} tokens; all of it makes one"));
        }
        let held_out = match (tail, self.window) {
            (Some(tail), Some(window)) => tail.windows(tokenizer, window).or_else(|_| {
                let short = SHORT_WINDOW.min(window);
                let windows = tail.windows(tokenizer, short);
                if windows.is_ok() && short < window {
                    progress.note(&format!(
                        "the held-out end of {source} is short: perplexity is measured in windows of {short} tokens"
                    ));
                }
                windows
            }),
            _ => Ok(Vec::new()),
        };
        Ok(Sequences { calibration, held_out: held_out.unwrap_or_default(), counted: None, own: 0 })
    }
}
