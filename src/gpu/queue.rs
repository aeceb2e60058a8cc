//! The queue: work is recorded, submitted in pieces, and read back.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use futures_intrusive::channel::shared::{OneshotReceiver, oneshot_channel};
use wgpu::{BufferUsages, PollType, SubmissionIndex};

use super::{
    device::Gpu,
    faults::{lock, out_of_memory},
    pending::{PARAMS_ALIGNMENT, Pending},
    pool::{Pooled, Use},
    timestamps::DISPATCHES_PER_SUBMIT,
};
use crate::error::{Error, Result};

/// Work is handed to the GPU in pieces of about this many multiply-adds, so that no submission holds a display driver
/// for long.
const WORK_PER_SUBMIT: u64 = 4 << 30;
/// Staging memory is given back at a submission: force one after this many bytes of uploads.
const WRITES_PER_SUBMIT: u64 = 256 << 20;
/// Uploads of up to this many bytes are recorded among the dispatches: the tables of an attention, of rows to copy.
const SMALL: usize = 64 << 10;
/// Values on their way from the GPU.
pub(super) struct Mapping {
    staging: Pooled,
    size: u64,
    submitted: SubmissionIndex,
    receiver: OneshotReceiver<std::result::Result<(), wgpu::BufferAsyncError>>,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.staging.unmap();
    }
}

impl Gpu {
    /// The most multiply-adds of one dispatch: about 100 ms of a small integrated GPU, far from the 2 s after which
    /// display drivers reset.
    pub fn work_per_dispatch(&self) -> usize {
        (WORK_PER_SUBMIT / self.haste()) as usize
    }

    fn haste(&self) -> u64 {
        if self.short_submits { 4 } else { 1 }
    }

    /// Writes into a buffer that no work recorded and not yet submitted uses, or one that held something else before.
    pub(super) fn write(&self, buffer: &Pooled, offset: u64, bytes: &[u8]) -> Result<()> {
        self.make_room(bytes.len() as u64)?;
        let mut pending = lock(&self.pending);
        // Uploads overtake the work that is not submitted, which may still use what was in the buffer before. Copies
        // are in units of 4 bytes; the strides of matrices make sure of that.
        match &mut pending.encoder {
            Some(encoder) if buffer.recycled && bytes.len() <= SMALL => {
                self.write_in_turn(encoder, buffer, offset, bytes)
            }
            Some(_) if buffer.recycled => {
                self.submit(&mut pending)?;
                self.queue.write_buffer(buffer, offset, bytes);
            }
            _ => self.queue.write_buffer(buffer, offset, bytes),
        }
        pending.written += bytes.len() as u64;
        self.pool.count(bytes.len() as u64);
        let most = [self.max_memory, self.planned_memory]
            .into_iter()
            .flatten()
            .fold(WRITES_PER_SUBMIT, |most, bytes| most.min(bytes / 16));
        if pending.written > most {
            self.submit(&mut pending)?;
        }
        Ok(())
    }

    /// Records an upload among the other work, which therefore need not be submitted before.
    fn write_in_turn(&self, encoder: &mut wgpu::CommandEncoder, buffer: &Pooled, offset: u64, bytes: &[u8]) {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("upload"),
            size: bytes.len() as u64,
            usage: BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        });
        if let Ok(mut mapped) = staging.get_mapped_range_mut(..) {
            mapped.slice(..).copy_from_slice(bytes);
        }
        staging.unmap();
        encoder.copy_buffer_to_buffer(&staging, 0, buffer, offset, bytes.len() as u64);
    }

    /// Lets `encode` record into the command buffer under way.
    pub(super) fn record(&self, encode: impl FnOnce(&mut wgpu::CommandEncoder)) {
        let mut pending = lock(&self.pending);
        encode(pending.encoder.get_or_insert_with(|| self.device.create_command_encoder(&Default::default())));
    }

    /// Records a compute pass of one dispatch whose cost is `work` multiply-adds. `encode` is given the place of its
    /// `Params`.
    pub(super) fn record_pass(
        &self,
        name: &'static str,
        params: &[u8],
        work: u64,
        encode: impl FnOnce(&mut wgpu::ComputePass, wgpu::BufferBinding),
    ) -> Result<()> {
        self.count_dispatch();
        self.check()?;
        let mut pending = lock(&self.pending);
        let offset = pending.params.len();
        pending.params.extend_from_slice(params);
        pending.params.resize((offset + params.len()).next_multiple_of(PARAMS_ALIGNMENT), 0);
        let place = wgpu::BufferBinding {
            buffer: &self.params,
            offset: offset as u64,
            size: wgpu::BufferSize::new(params.len().next_multiple_of(16) as u64),
        };
        let Pending { encoder, timestamps, .. } = &mut *pending;
        let encoder = encoder.get_or_insert_with(|| self.device.create_command_encoder(&Default::default()));
        let timestamp_writes = timestamps.as_mut().map(|timestamps| timestamps.next(&self.device, name, work));
        encode(
            &mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(name), timestamp_writes }),
            place,
        );
        pending.dispatches += 1;
        pending.work += work;
        if pending.work >= WORK_PER_SUBMIT / self.haste() || pending.dispatches >= DISPATCHES_PER_SUBMIT {
            self.submit(&mut pending)?;
        }
        Ok(())
    }

    /// Submits what is pending and waits for the submission before: so the GPU is always busy, and memory is freed one
    /// submission later.
    fn submit(&self, pending: &mut Pending) -> Result<SubmissionIndex> {
        self.check()?;
        if !pending.params.is_empty() {
            self.queue.write_buffer(&self.params, 0, &pending.params);
        }
        if let (Some(timestamps), Some(encoder)) = (&mut pending.timestamps, &mut pending.encoder) {
            timestamps.resolve(&self.device, encoder);
        }
        let submitted = self.queue.submit(pending.encoder.take().map(wgpu::CommandEncoder::finish));
        let before = pending.in_flight.replace(submitted.clone());
        let written = std::mem::replace(&mut pending.written_in_flight, pending.written);
        (pending.dispatches, pending.work, pending.written) = (0, 0, 0);
        pending.params.clear();
        if let Some(submission_index) = before {
            self.wait(Some(submission_index))?;
        }
        self.pool.discount(written);
        if let Some(timestamps) = pending.timestamps.as_mut().filter(|timestamps| timestamps.is_full()) {
            timestamps.collect(|| self.wait(None))?;
        }
        self.check()?;
        Ok(submitted)
    }

    pub(super) fn wait(&self, submission_index: Option<SubmissionIndex>) -> Result<()> {
        self.check()?;
        // wgpu panics if it is in a wait that the driver tells of the device's loss.
        match catch_unwind(AssertUnwindSafe(|| self.device.poll(PollType::Wait { submission_index, timeout: None }))) {
            Ok(polled) => polled.map(drop).map_err(|error| Error::Gpu(error.to_string())),
            Err(_) => self.check().and(Err(Error::DeviceLost("while it was waited for".into()))),
        }
    }

    /// Waits until everything recorded so far is done.
    ///
    /// # Errors
    /// Whatever went wrong on the device meanwhile.
    pub fn finish(&self) -> Result<()> {
        let mut pending = lock(&self.pending);
        self.submit(&mut pending)?;
        pending.in_flight = None;
        self.wait(None)?;
        self.pool.discount(std::mem::take(&mut pending.written_in_flight));
        self.check()
    }

    /// Begins to read `size` bytes of `buffer`, as they are after all work before.
    pub(super) fn map(&self, buffer: &wgpu::Buffer, offset: u64, size: u64) -> Result<Mapping> {
        let staging = self.acquire(Use::Readback, size)?;
        self.record(|encoder| encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, size));
        let submitted = self.submit(&mut lock(&self.pending))?;
        let (sender, receiver) = oneshot_channel();
        staging.map_async(wgpu::MapMode::Read, ..size, move |result| {
            let _ = sender.send(result);
        });
        Ok(Mapping { staging, size, submitted, receiver })
    }

    /// Waits for a readback and hands its bytes over.
    pub(super) fn mapped<T>(&self, mapping: Mapping, read: impl FnOnce(&[u8]) -> T) -> Result<T> {
        self.wait(Some(mapping.submitted.clone()))?;
        self.check()?;
        match pollster::block_on(mapping.receiver.receive()) {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(Error::Gpu(error.to_string())),
            None => return Err(Error::Gpu("a readback was dropped".into())),
        }
        let bytes = mapping.staging.get_mapped_range(..mapping.size).map_err(|error| Error::Gpu(error.to_string()))?;
        Ok(read(&bytes))
    }

    /// A buffer of the pool, or a new one.
    pub(super) fn acquire(&self, usage: Use, size: u64) -> Result<Pooled> {
        self.check()?;
        let size = super::pool::rounded(size);
        if size > self.adapter().max_buffer_size {
            return Err(Error::OutOfMemory(format!(
                "a matrix of {size} bytes exceeds the largest buffer of {} ({} bytes); shorten the sequences, or \
                 choose another --device",
                self.adapter().name,
                self.adapter().max_buffer_size
            )));
        }
        if let Some(buffer) = self.pool.take(usage, size) {
            return Ok(buffer);
        }
        self.make_room(size)?;
        let buffer = match self.create_buffer(usage, size) {
            Some(buffer) => buffer,
            None => {
                self.pool.trim();
                self.finish()?;
                self.create_buffer(usage, size).ok_or_else(|| out_of_memory(&format!("{size} bytes")))?
            }
        };
        Ok(self.pool.adopt(buffer, usage))
    }

    /// Gives up buffers that are free if `bytes` more would exceed what the work was planned to take, or the ceiling;
    /// waits for all work and uploads under way, too, if they would exceed the ceiling.
    fn make_room(&self, bytes: u64) -> Result<()> {
        let beyond =
            |limit: Option<u64>| limit.map_or(0, |most| (self.pool.memory().held + bytes).saturating_sub(most));
        let over = || beyond(self.max_memory) > 0;
        if over() {
            self.pool.trim();
            self.finish()?;
        } else if self.pool.give_up_oldest(beyond(self.planned_memory)) {
            self.submit(&mut lock(&self.pending))?;
        }
        if over() {
            return Err(Error::OutOfMemory(format!(
                "the work needs more GPU memory than it may take: {} bytes are in use and {bytes} more were asked \
                 for; raise the ceiling \
                 (--max-gpu-memory), or shorten the sequences",
                self.pool.memory().held
            )));
        }
        Ok(())
    }

    /// A new buffer; `None` if the device has no memory for it.
    fn create_buffer(&self, usage: Use, size: u64) -> Option<wgpu::Buffer> {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("pool"),
            size,
            usage: match usage {
                Use::Storage => BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
                Use::Readback => BufferUsages::MAP_READ | BufferUsages::COPY_DST,
            },
            mapped_at_creation: false,
        });
        pollster::block_on(scope.pop()).is_none().then_some(buffer)
    }

    /// Reports the first thing that went wrong on the device, once.
    pub(super) fn check(&self) -> Result<()> {
        match lock(&self.faults).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// What the device holds at the moment, and the most it held.
    pub fn memory(&self) -> super::MemoryUse {
        self.pool.memory()
    }

    /// Forgets the peak of [`Gpu::memory`], for the account of a phase.
    pub fn reset_peak(&self) {
        self.pool.reset_peak();
    }

    pub(super) fn storage(&self, size: u64) -> Result<Arc<Pooled>> {
        self.acquire(Use::Storage, size).map(Arc::new)
    }
}
