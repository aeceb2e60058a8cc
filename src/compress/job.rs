//! What a compression is of.

use super::{plan::Options, ranking::Ranking};
use crate::{
    checkpoint::OutputDirectory,
    model::{Config, Model},
    progress::Progress,
    stream::MemoryPlan,
};

/// What to compress, and how.
pub struct Job<'a> {
    pub model: &'a Model,
    /// The calibration sequences, at least two.
    pub rows: &'a [Vec<u32>],
    pub options: &'a Options,
    /// What heads and channels leave by, if not by what costs the fit least.
    pub ranking: Option<&'a [Ranking]>,
    pub memory: MemoryPlan,
    /// Where the tensors go, and, beside them, what is needed to resume.
    pub directory: &'a OutputDirectory,
    pub progress: &'a dyn Progress,
}

impl Job<'_> {
    pub(super) fn config(&self) -> &Config {
        self.model.config()
    }
}
