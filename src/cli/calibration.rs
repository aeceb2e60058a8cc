//! What `run` calibrates on, and what of it is kept for evaluation.

use std::path::PathBuf;

use super::{
    input::{Tokenizers, check_tokens},
    progress::Bars,
};
use crate::{
    data::{Text, Tokens},
    error::{Error, Result},
    generate::{Samples, sample_sequences},
    gpu::Gpu,
    model::Model,
    slice::Options,
    stream::Extent,
};

#[derive(Debug, clap::Args)]
pub struct CalibrationArgs {
    /// What to calibrate on: `self` samples from the model; or a file: plain text; JSON or JSON lines of strings or of
    /// objects with text, content, messages, conversations (by the model's chat template), instruction and output, or
    /// prompt and completion; token ids {"input_ids": [[...], ...]}. Also compressed, as .gz or .zst
    #[arg(long, default_value = "self", value_name = "self|FILE")]
    pub calibration: PathBuf,
    /// Calibration sequences; of a token file the first N rows [default: 128, all rows of a token file]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cal_nsamples: Option<u32>,
    /// Tokens of a calibration sequence, at most the model's own maximum
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub cal_max_seqlen: u32,
    /// Sequences at a time [default: what makes about 2048 tokens; when sampling, what fits]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cal_batch_size: Option<u32>,
}

/// Sequences to calibrate on, and others of the same kind to evaluate on.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Sequences {
    pub calibration: Vec<Vec<u32>>,
    pub held_out: Vec<Vec<u32>>,
}

/// At most this many held-out sequences are evaluated on.
const HELD_OUT: usize = 64;
/// Windows of a held-out end that is too short for the usual ones.
const SHORT_WINDOW: usize = 64;

impl CalibrationArgs {
    /// Whether the model writes its own calibration text.
    pub fn samples_itself(&self) -> bool {
        self.calibration.as_os_str() == "self"
    }

    /// How many sequences are drawn, from whatever is not a token file.
    pub fn nsamples(&self) -> usize {
        self.cal_nsamples.unwrap_or(128) as usize
    }

    /// Tokens of a drawn sequence.
    pub fn seqlen(&self, model: &Model) -> usize {
        (self.cal_max_seqlen as usize).min(model.config().max_position_embeddings)
    }

    /// What is calibrated on, for messages.
    pub fn source(&self) -> String {
        self.calibration.display().to_string()
    }

    fn read(&self, tokenizers: &Tokenizers) -> Result<Tokens> {
        tokenizers.read(&self.calibration).map_err(|error| match error {
            Error::Read { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
                Error::bad_file(&path, "no such file to calibrate on (`self` samples from the model)")
            }
            other => other,
        })
    }

    /// How many of the rows of a token file are calibrated on.
    fn used_rows(&self, rows: usize) -> Result<usize> {
        match self.cal_nsamples {
            Some(count) if count as usize > rows => {
                Err(Error::Usage(format!("--cal-nsamples {count}, but {} has {rows} rows", self.source())))
            }
            count => Ok(count.map_or(rows, |count| count as usize)),
        }
    }

    /// How many calibration tokens there will be, and held-out ones if these are evaluated on in windows of this
    /// length: as many, or fewer.
    pub fn extent(
        &self,
        model: &Model,
        window: Option<usize>,
        tokenizers: &Tokenizers,
    ) -> Result<(Extent, Option<Extent>)> {
        let of = |rows: &[Vec<u32>]| Extent {
            tokens: rows.iter().map(Vec::len).sum(),
            longest: rows.iter().map(Vec::len).max().unwrap_or(0),
        };
        if !self.samples_itself()
            && let Tokens::Rows(rows) = self.read(tokenizers)?
        {
            check_tokens(model, &rows, &self.source())?;
            let (used, rest) = rows.split_at(self.used_rows(rows.len())?);
            return Ok((of(used), window.filter(|_| !rest.is_empty()).map(|_| of(&rest[..rest.len().min(HELD_OUT)]))));
        }
        let longest = self.seqlen(model);
        let window = if self.samples_itself() { window.map(|_| longest) } else { window };
        Ok((
            Extent { tokens: self.nsamples() * longest, longest },
            window.map(|window| Extent { tokens: HELD_OUT * window, longest: window }),
        ))
    }

    /// How many sequences are sampled, those held out included.
    pub fn sampled(&self, held_out: bool) -> usize {
        let count = self.nsamples();
        count + if held_out { (count / 8).clamp(1, HELD_OUT) } else { 0 }
    }

    /// The sequences, if sampled `together` at a time; those held out only where nothing else is evaluated on.
    #[expect(clippy::too_many_arguments, reason = "what sampling and reading need")]
    pub fn sequences(
        &self,
        gpu: &Gpu,
        model: &Model,
        tokenizers: &Tokenizers,
        options: &Options,
        window: Option<usize>,
        together: Option<usize>,
        progress: &Bars,
    ) -> Result<Sequences> {
        let count = self.nsamples();
        let mut sequences = if self.samples_itself() {
            let samples = Samples {
                start: tokenizers.start_token()?,
                count: self.sampled(window.is_some()),
                length: self.seqlen(model),
                seed: options.seed,
            };
            let together = together.or(options.rows_per_batch);
            let mut calibration = sample_sequences(gpu, model, samples, together, progress)?;
            let held_out = calibration.split_off(count);
            Sequences { calibration, held_out }
        } else {
            match self.read(tokenizers)? {
                Tokens::Rows(mut calibration) => {
                    let mut held_out = calibration.split_off(self.used_rows(calibration.len())?);
                    held_out.retain(|row| row.len() > 1);
                    Sequences { calibration, held_out }
                }
                Tokens::Text(text) => self.of_text(&text, model, tokenizers, options.seed, window, progress)?,
            }
        };
        sequences.held_out.truncate(if window.is_some() { HELD_OUT } else { 0 });
        check_tokens(model, &sequences.calibration, &self.source())?;
        check_tokens(model, &sequences.held_out, &self.source())?;
        let (tokens, width) = (sequences.calibration.iter().map(Vec::len).sum::<usize>(), model.config().hidden_size);
        if tokens < width {
            progress
                .warn(&format!("{tokens} calibration tokens cannot tell {width} directions apart; the kept energies will look better than they are"));
        }
        if sequences.held_out.is_empty() && window.is_some() {
            progress.warn(&format!("nothing of {} is left to measure perplexity on: give --eval FILE", self.source()));
        }
        progress.end();
        Ok(sequences)
    }

    fn of_text(
        &self,
        text: &Text,
        model: &Model,
        tokenizers: &Tokenizers,
        seed: u64,
        window: Option<usize>,
        progress: &Bars,
    ) -> Result<Sequences> {
        let tokenizer = tokenizers.get()?;
        let (beginning, tail) = text.split_tail();
        let calibration = beginning.sequences(tokenizer, self.nsamples(), self.seqlen(model), seed)?;
        if calibration.len() < self.nsamples() {
            progress.warn(&format!(
                "{} is shorter than one sequence of {} tokens; all of it makes one",
                self.source(),
                self.seqlen(model)
            ));
        }
        let held_out = match (tail, window) {
            (Some(tail), Some(window)) => tail.windows(tokenizer, window).or_else(|_| {
                let short = SHORT_WINDOW.min(window);
                let windows = tail.windows(tokenizer, short);
                if windows.is_ok() && short < window {
                    progress.warn(&format!(
                        "the held-out end of {} is short: perplexity is measured in windows of {short} tokens",
                        self.source()
                    ));
                }
                windows
            }),
            _ => Ok(Vec::new()),
        };
        Ok(Sequences { calibration, held_out: held_out.unwrap_or_default() })
    }
}
