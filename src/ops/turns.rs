//! How long loops may be: Mesa's software driver (llvmpipe) ends those of a thread after 65535 turns, all of its loops
//! counted together, and a kernel that has more of them would silently leave out the rest of its work.

use crate::{
    error::{Error, Result},
    gpu::Gpu,
};

/// Turns of all loops of a thread.
const MOST: usize = 65_535;

/// Turns of a thread's loops in a dispatch of work that can be divided further: half of what any driver allows, since
/// compilers count their own way, and tokens that come one after the other take their time even where a GPU has little
/// to do.
pub(super) const TURNS: usize = 1 << 15;

impl Gpu {
    /// The most rows, of which `rows` at a time take `turns`, that a kernel can go through; `None` if any number.
    pub(super) fn most_rows(&self, rows: usize, turns: usize) -> Option<usize> {
        self.adapter().name.contains("llvmpipe").then(|| MOST / turns.max(1) * rows)
    }

    /// Refuses more of them; `what` names them.
    pub(super) fn check_rows(&self, what: &str, count: usize, most: Option<usize>) -> Result<()> {
        match most.filter(|&most| count > most) {
            None => Ok(()),
            Some(most) => Err(Error::Usage(format!(
                "{what} {count} tokens at once: on {} that can be no more than {most}, as its driver ends longer loops; \
                 give shorter sequences, or use a GPU",
                self.adapter().name
            ))),
        }
    }
}
