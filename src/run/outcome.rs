//! What came of a run.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{export::Exported, memory::RunPlan, speed::SpeedReport};
use crate::{eval::Perplexity, gpu::AdapterDescription, model::Agreement};

/// What came of a run, so far or in the end. What a dry run cannot know is `None`; `S` is the method's part.
#[derive(Debug, Clone)]
pub struct Outcome<S> {
    /// Whether this is only what would come of it.
    pub dry_run: bool,
    /// False if it was asked to stop before the end, and can be resumed.
    pub finished: bool,
    /// Layers that were gone through, those of earlier passes included.
    pub layers_done: usize,
    pub adapter: Option<AdapterDescription>,
    /// How it keeps within the memory there is.
    pub plan: Option<RunPlan>,
    pub calibration: Option<CalibrationReport>,
    pub perplexity: Option<PerplexityReport>,
    /// On further texts.
    pub perplexity_elsewhere: Vec<PerplexityReport>,
    /// How fast the model was and is, where that was measured.
    pub speed: Option<SpeedReport>,
    /// What the method has found.
    pub found: Option<S>,
    /// The file that was made of the result, too.
    pub exported: Option<Exported>,
    /// Wall-clock seconds of each phase, in order.
    pub seconds: Map<String, Value>,
    /// Seconds that each phase will take, about, in a dry run.
    pub estimated_seconds: Map<String, Value>,
    /// The most bytes that the GPU's buffers took, and that this process held where the system tells.
    pub peak_gpu_bytes: Option<u64>,
    pub peak_host_bytes: Option<u64>,
    pub warnings: Vec<String>,
}

impl<S> Default for Outcome<S> {
    /// Of a run that has not begun.
    fn default() -> Self {
        Self {
            dry_run: false,
            finished: false,
            layers_done: 0,
            adapter: None,
            plan: None,
            calibration: None,
            perplexity: None,
            perplexity_elsewhere: Vec::new(),
            speed: None,
            found: None,
            exported: None,
            seconds: Map::new(),
            estimated_seconds: Map::new(),
            peak_gpu_bytes: None,
            peak_host_bytes: None,
            warnings: Vec::new(),
        }
    }
}

/// Perplexity before and after.
#[derive(Debug, Clone, Serialize)]
pub struct PerplexityReport {
    pub original: f64,
    pub sliced: f64,
    /// What it was measured on.
    pub text: String,
    pub sequences: usize,
    pub tokens: usize,
    /// How the predictions agree, where that was measured.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<AgreementReport>,
}

/// How the predictions of the result agree with the original's.
#[derive(Debug, Clone, Serialize)]
pub struct AgreementReport {
    /// Mean KL divergence, in nats.
    pub kl: f64,
    /// The share of tokens of which both say the same.
    pub top_1: f64,
    /// Bits that either model takes for a byte of the text, where its tokenizer tells how many those are; the original
    /// with all its tokens, also where the rest is compared with what is left of them.
    pub bits_per_byte: Option<[f64; 2]>,
}

impl PerplexityReport {
    /// Of the same sequences, before and after.
    pub fn new(original: &Perplexity, sliced: &Perplexity, text: &str) -> Self {
        let (sequences, tokens) = (original.sequences, original.tokens);
        let (text, agreement) = (text.into(), None);
        Self { original: original.perplexity, sliced: sliced.perplexity, text, sequences, tokens, agreement }
    }

    /// Of predictions that were compared; the text has `bytes` bytes for its predicted tokens, where that is known.
    pub fn compared(found: &Agreement, text: &str, bytes: Option<usize>) -> Self {
        let Agreement { kl, top_1, sequences, tokens, .. } = *found;
        let bits = |loss: f64| loss * tokens as f64 / std::f64::consts::LN_2;
        let bits_per_byte = bytes
            .filter(|&bytes| bytes > 0)
            .map(|bytes| [found.dense_loss, found.loss].map(|loss| bits(loss) / bytes as f64));
        Self {
            original: found.dense_perplexity,
            sliced: found.perplexity,
            text: text.into(),
            sequences,
            tokens,
            agreement: Some(AgreementReport { kl, top_1, bits_per_byte }),
        }
    }

    /// The same where the original that predictions were compared with has lost tokens: with all of them, it takes
    /// `bits` for a byte.
    #[must_use]
    pub fn from_whole(mut self, bits: Option<f64>) -> Self {
        if let Some(agreement) = &mut self.agreement {
            agreement.bits_per_byte = agreement.bits_per_byte.zip(bits).map(|([_, after], before)| [before, after]);
        }
        self
    }
}

/// What a text is called that is the end of `calibration`, on which nothing was calibrated.
pub(super) fn held_out_end(calibration: &str) -> String {
    format!("{HELD_OUT_END}({calibration})")
}

/// The calibration that a text of this name is the held-out end of, if it is of any.
pub(super) fn held_out_of(text: &str) -> Option<&str> {
    text.strip_prefix(HELD_OUT_END)?.strip_prefix('(')?.strip_suffix(')')
}

const HELD_OUT_END: &str = "the held-out end of the calibration ";

/// What the model was calibrated on.
#[derive(Debug, Clone, Serialize)]
pub struct CalibrationReport {
    pub source: String,
    pub sequences: usize,
    pub tokens: usize,
    /// How many of the sequences the model has written itself, beside those of the source.
    pub own_sequences: usize,
    /// How many of the tokens are answers, where these alone are learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_tokens: Option<usize>,
    pub sha256: String,
}
