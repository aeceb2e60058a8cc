//! Timestamps around dispatches: written on the GPU, read a few hundred submissions at a time.

use wgpu::{BufferUsages, ComputePassTimestampWrites, QuerySet};

use crate::error::{Error, Result};

/// Dispatches of one submission.
pub(super) const DISPATCHES_PER_SUBMIT: u32 = 64;

/// When a dispatch ran, on the GPU's own clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub kernel: &'static str,
    /// Nanoseconds since an arbitrary moment.
    pub start_ns: u64,
    pub end_ns: u64,
    /// Multiply-adds.
    pub work: u64,
}

/// Timestamps of the submission being recorded, and of those whose values were not read yet.
pub(super) struct Timestamps {
    /// Nanoseconds of a tick.
    period: f64,
    current: Option<(QuerySet, Vec<(&'static str, u64)>)>,
    resolved: Vec<(wgpu::Buffer, Vec<(&'static str, u64)>)>,
    pub spans: Vec<Span>,
}

/// Read once this many submissions have been resolved.
const SUBMISSIONS: usize = 256;

impl Timestamps {
    pub fn new(period: f32) -> Self {
        Self { period: f64::from(period), current: None, resolved: Vec::new(), spans: Vec::new() }
    }

    /// Where the next pass writes its beginning and end.
    pub fn next(&mut self, device: &wgpu::Device, kernel: &'static str, work: u64) -> ComputePassTimestampWrites<'_> {
        let (query_set, names) = self.current.get_or_insert_with(|| {
            let descriptor = wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: 2 * DISPATCHES_PER_SUBMIT,
            };
            (device.create_query_set(&descriptor), Vec::new())
        });
        let begin = 2 * names.len() as u32;
        names.push((kernel, work));
        ComputePassTimestampWrites {
            query_set,
            beginning_of_pass_write_index: Some(begin),
            end_of_pass_write_index: Some(begin + 1),
        }
    }

    /// Ends the list of the submission being recorded.
    pub fn resolve(&mut self, device: &wgpu::Device, encoder: &mut wgpu::CommandEncoder) {
        let Some((queries, names)) = self.current.take() else { return };
        let buffer = |usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: 16 * names.len() as u64,
                usage,
                mapped_at_creation: false,
            })
        };
        let (ticks, readback) = (
            buffer(BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC),
            buffer(BufferUsages::MAP_READ | BufferUsages::COPY_DST),
        );
        encoder.resolve_query_set(&queries, 0..2 * names.len() as u32, &ticks, 0);
        encoder.copy_buffer_to_buffer(&ticks, 0, &readback, 0, 16 * names.len() as u64);
        self.resolved.push((readback, names));
    }

    pub fn is_full(&self) -> bool {
        self.resolved.len() >= SUBMISSIONS
    }

    /// Reads the timestamps of all submissions, which must be done; `wait` waits for the device.
    pub fn collect(&mut self, wait: impl FnOnce() -> Result<()>) -> Result<()> {
        for (readback, _) in &self.resolved {
            readback.map_async(wgpu::MapMode::Read, .., |_| ());
        }
        wait()?;
        for (readback, names) in self.resolved.drain(..) {
            let ticks = readback.get_mapped_range(..).map_err(|error| Error::Gpu(error.to_string()))?;
            let times: Vec<u64> = bytemuck::pod_collect_to_vec::<u8, u64>(&ticks)
                .into_iter()
                .map(|tick| (tick as f64 * self.period) as u64)
                .collect();
            let spans = names.iter().zip(times.chunks_exact(2));
            self.spans.extend(spans.map(|(&(kernel, work), time)| Span {
                kernel,
                start_ns: time[0],
                end_ns: time[1],
                work,
            }));
        }
        Ok(())
    }
}
