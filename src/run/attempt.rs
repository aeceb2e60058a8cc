//! What is tried again, and how, when the device is lost or memory runs out.

use super::memory::Pieces;
use crate::error::Error;

/// How the work is tried, after what went wrong before.
#[derive(Debug, Clone, Default)]
pub struct Attempt {
    /// How often the device was lost.
    pub lost: usize,
    /// How often memory ran out.
    pub short: usize,
    /// The residual stays off the GPU.
    pub spare_gpu: bool,
    /// What is different this time.
    pub change: &'static str,
}

/// Memory that runs out is answered by smaller pieces up to this many times.
const SQUEEZES: usize = 3;

impl Attempt {
    /// What to try after an error, and with which pieces; `None` if that would not help.
    pub fn after(&self, error: &Error, pieces: &mut Option<Pieces>) -> Option<Self> {
        match error {
            Error::DeviceLost(_) if self.lost == 0 => Some(Self {
                lost: 1,
                change: "on the same device opened again, in shorter pieces of work",
                ..self.clone()
            }),
            Error::OutOfMemory(_) if self.short < SQUEEZES => {
                // None if it is the plan that finds no room.
                let whole = (*pieces)?;
                let halved = whole.halved();
                if halved.is_none() && self.spare_gpu {
                    return None;
                }
                *pieces = Some(halved.unwrap_or(whole));
                Some(Self {
                    short: self.short + 1,
                    spare_gpu: true,
                    change: "with fewer tokens at a time and the residual off the GPU",
                    ..self.clone()
                })
            }
            _ => None,
        }
    }
}
