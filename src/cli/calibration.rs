//! What to calibrate on, on the command line.

use std::path::PathBuf;

use super::arguments::TEXTS;
use crate::run::CalibrationRequest;

#[derive(Debug, clap::Args)]
pub struct CalibrationArgs {
    /// What to calibrate on: `self` samples from the model; or a file: plain text; JSON or JSON lines of strings or of
    /// objects with text, content, messages, conversations (by the model's chat template), instruction and output, or
    /// prompt and completion; token ids {"input_ids": [[...], ...]}. Also compressed, as .gz or .zst
    #[arg(long, default_value = "self", value_name = "self|FILE")]
    calibration: PathBuf,
    /// Calibration sequences; of a token file the first N rows [default: 128, all rows of a token file]
    #[arg(long, help_heading = TEXTS, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cal_nsamples: Option<u32>,
    /// Sequences of up to 512 tokens that the model writes itself, going on from passages of a file, beside those of
    /// the file [default: none; compress: as many tokens as the file has, twice as many if those are few, up to 65536]
    #[arg(long, help_heading = TEXTS, value_name = "N")]
    self_samples: Option<u32>,
    /// Tokens of a calibration sequence, at most the model's own maximum
    #[arg(long, help_heading = TEXTS, default_value_t = 2048, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(2..))]
    cal_max_seqlen: u32,
    /// Sequences at a time [default: what makes about 2048 tokens; when sampling, what fits]
    #[arg(long, help_heading = TEXTS, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cal_batch_size: Option<u32>,
}

/// Arguments that say what to calibrate on.
pub trait Calibrates {
    fn request(&self) -> CalibrationRequest;
}

impl Calibrates for CalibrationArgs {
    fn request(&self) -> CalibrationRequest {
        CalibrationRequest {
            calibration: self.calibration.clone(),
            cal_nsamples: self.cal_nsamples.map(|count| count as usize),
            self_samples: self.self_samples.map(|count| count as usize),
            cal_max_seqlen: self.cal_max_seqlen as usize,
            cal_batch_size: self.cal_batch_size.map(|count| count as usize),
            ..CalibrationRequest::default()
        }
    }
}
