//! Buffers that are used again: an op's result costs neither an allocation nor a clearing, and what the device holds is
//! known to the byte.

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{Arc, Mutex},
};

use super::faults::lock;

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    /// Bound to kernels.
    Storage,
    /// Mapped by the CPU.
    Readback,
}

/// How much memory the device holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryUse {
    /// Bytes of all buffers, those kept for use again and those of uploads under way included.
    pub held: u64,
    /// The most that was ever held.
    pub peak: u64,
}

/// A free buffer is given up once this many others were asked for and it was not.
const PATIENCE: u64 = 1024;

/// The buffers that nobody uses at the moment, and the account of all of them.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By use and size; each with the time it was given back, in requests.
    free: BTreeMap<(Use, u64), Vec<(u64, wgpu::Buffer)>>,
    requests: u64,
    memory: MemoryUse,
}

impl State {
    fn add(&mut self, bytes: u64) {
        self.memory.held += bytes;
        self.memory.peak = self.memory.peak.max(self.memory.held);
    }
}

impl Pool {
    pub fn memory(&self) -> MemoryUse {
        lock(&self.0).memory
    }

    pub fn reset_peak(&self) {
        let mut state = lock(&self.0);
        state.memory.peak = state.memory.held;
    }

    /// Counts memory that is not a buffer of the pool: what uploads take until they are submitted.
    pub fn count(&self, bytes: u64) {
        lock(&self.0).add(bytes);
    }

    pub fn discount(&self, bytes: u64) {
        lock(&self.0).memory.held -= bytes;
    }

    /// A free buffer of at least `size` bytes, and not much more.
    pub fn take(self: &Arc<Self>, usage: Use, size: u64) -> Option<Pooled> {
        let mut state = lock(&self.0);
        state.requests += 1;
        let ((_, size), buffers) =
            state.free.range_mut((usage, size)..=(usage, size + size / 4)).find(|(_, buffers)| !buffers.is_empty())?;
        let (size, (_, buffer)) = (*size, buffers.pop()?);
        Some(Pooled { buffer, size, usage, recycled: true, pool: self.clone() })
    }

    /// Takes a new buffer into account.
    pub fn adopt(self: &Arc<Self>, buffer: wgpu::Buffer, usage: Use) -> Pooled {
        let size = buffer.size();
        let mut state = lock(&self.0);
        state.add(size);
        let oldest = state.requests.saturating_sub(PATIENCE);
        state.give_up(|time| time < oldest);
        Pooled { buffer, size, usage, recycled: false, pool: self.clone() }
    }

    /// Gives up free buffers, the longest unused first, until that makes up for `bytes`; says whether there were any.
    pub fn give_up_oldest(&self, bytes: u64) -> bool {
        if bytes == 0 {
            return false;
        }
        let mut state = lock(&self.0);
        let mut times: Vec<(u64, u64)> =
            state.free.iter().flat_map(|((_, size), buffers)| buffers.iter().map(|(time, _)| (*time, *size))).collect();
        times.sort_unstable();
        let (mut sum, mut last) = (0, None);
        for (time, size) in times {
            if sum >= bytes {
                break;
            }
            (sum, last) = (sum + size, Some(time));
        }
        last.inspect(|&last| state.give_up(|time| time <= last)).is_some()
    }

    /// Gives up all free buffers.
    pub fn trim(&self) {
        lock(&self.0).give_up(|_| true);
    }
}

impl State {
    fn give_up(&mut self, stale: impl Fn(u64) -> bool) {
        let mut bytes = 0;
        for ((_, size), buffers) in &mut self.free {
            let before = buffers.len();
            buffers.retain(|(time, _)| !stale(*time));
            bytes += size * (before - buffers.len()) as u64;
        }
        self.free.retain(|_, buffers| !buffers.is_empty());
        self.memory.held -= bytes;
    }
}

/// A buffer that goes back to the pool when it is dropped. Work recorded before may still use it: whatever uses it next
/// is recorded later.
#[derive(Debug)]
pub(super) struct Pooled {
    buffer: wgpu::Buffer,
    size: u64,
    usage: Use,
    /// Whether it held something else before.
    pub recycled: bool,
    pool: Arc<Pool>,
}

impl Deref for Pooled {
    type Target = wgpu::Buffer;

    fn deref(&self) -> &wgpu::Buffer {
        &self.buffer
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let mut state = lock(&self.pool.0);
        let time = state.requests;
        state.free.entry((self.usage, self.size)).or_default().push((time, self.buffer.clone()));
    }
}

/// The size to allocate for `size` bytes, so that buffers of nearly the same size are interchangeable.
pub(super) fn rounded(size: u64) -> u64 {
    match size {
        0..0x10000 => size.max(1).next_multiple_of(0x100),
        0x10000..0x100000 => size.next_multiple_of(0x1000),
        _ => size.next_multiple_of(0x10000),
    }
}
