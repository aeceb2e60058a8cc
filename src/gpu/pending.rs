//! What is recorded for the GPU and not submitted yet.

use wgpu::SubmissionIndex;

use super::timestamps::{DISPATCHES_PER_SUBMIT, Timestamps};

/// Recorded work that has not been submitted, and how much of it there is.
#[derive(Default)]
pub(super) struct Pending {
    pub encoder: Option<wgpu::CommandEncoder>,
    pub dispatches: u32,
    pub work: u64,
    /// Bytes of uploads since the last submission, and of those in the submission before.
    pub written: u64,
    pub written_in_flight: u64,
    pub in_flight: Option<SubmissionIndex>,
    /// The `Params` of the dispatches recorded.
    pub params: Vec<u8>,
    pub timestamps: Option<Timestamps>,
}

/// What every adapter can begin a uniform binding at.
pub(super) const PARAMS_ALIGNMENT: usize = 256;
/// Room for the `Params` of one submission.
pub(super) const PARAMS_BYTES: u64 = DISPATCHES_PER_SUBMIT as u64 * PARAMS_ALIGNMENT as u64;
