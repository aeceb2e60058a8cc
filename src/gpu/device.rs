//! The device: opened with all that the adapter can do, and what can go wrong on it.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use wgpu::BufferUsages;

use super::{
    adapter::{AdapterDescription, choose, describe, enumerate},
    choices::Choices,
    element::ROW_ALIGNMENT,
    faults::{lock, out_of_memory},
    pending::{PARAMS_BYTES, Pending},
    pool::Pool,
    precision::{self, MATRIX_FEATURES, MatrixUnits, Precision},
};
use crate::error::{Error, Result};

/// How to choose and limit the device.
#[derive(Debug, Clone, Default)]
pub struct GpuOptions {
    /// Index in [`adapters`](super::adapters), or a part of an adapter's name; the best adapter if `None`.
    pub adapter: Option<String>,
    /// An upper bound on the bytes that one binding may span, below the adapter's own.
    pub max_binding_size: Option<u64>,
    /// Ask for no more than the limits that every adapter has (WebGPU's downlevel defaults), whatever this one can do:
    /// for testing that nothing depends on more. So does the environment variable `SLICEGPT_GPU_LIMITS=downlevel`.
    pub downlevel_limits: bool,
    /// What linear layers are computed in.
    pub precision: Precision,
    /// A ceiling on the bytes that the device may hold; none but the adapter's own if `None`.
    pub max_memory: Option<u64>,
    /// Hand work over in pieces a quarter as long as usual, for a device that was lost for working too long at once.
    /// Changes no result.
    pub short_submits: bool,
    /// Where choices of kernels are remembered, instead of `SLICEGPT_GPU_CACHE` or the platform's cache directory.
    pub cache: Option<PathBuf>,
    /// Measure kernels at their first use, however little they have to do.
    pub measure_at_once: bool,
}

/// What distinguishes compiled kernels: name, source, constants.
pub(super) type PipelineKey = (&'static str, *const u8, Vec<(&'static str, u32)>);

/// The device, its queue and its compiled kernels. Ops are methods on it, spread over `ops/*.rs`.
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    /// Bound where a kernel can do without a matrix.
    pub(super) nothing: wgpu::Buffer,
    /// The `Params` of the dispatches under way.
    pub(super) params: wgpu::Buffer,
    adapter: AdapterDescription,
    pub(super) pipelines: Mutex<HashMap<PipelineKey, wgpu::ComputePipeline>>,
    choices: Choices,
    pub(super) pending: Mutex<Pending>,
    pub(super) pool: Arc<Pool>,
    pub(super) max_memory: Option<u64>,
    pub(super) planned_memory: Option<u64>,
    pub(super) short_submits: bool,
    unpacks_f16: bool,
    /// What linear layers run on, where the precision asks for it.
    matrix_units: Option<MatrixUnits>,
    /// Nanoseconds of a tick of the GPU's clock, where it has one.
    pub(super) timestamp_period: Option<f32>,
    pub(super) faults: Arc<Mutex<Option<Error>>>,
    /// Dispatches until the device is lost on purpose.
    pub(super) until_lost: AtomicU64,
}

impl Gpu {
    /// Opens the adapter that `options` names, with all the limits it has, and timestamps where it has them.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if there is none, or none of that name; [`Error::Usage`] if it has not what the precision
    /// needs.
    pub fn new(options: &GpuOptions) -> Result<Self> {
        let (index, adapter) = choose(enumerate(), options.adapter.as_deref())?;
        let downlevel =
            options.downlevel_limits || std::env::var("SLICEGPT_GPU_LIMITS").is_ok_and(|value| value == "downlevel");
        let mut limits = if downlevel { wgpu::Limits::downlevel_defaults() } else { adapter.limits() };
        if let Some(bytes) = options.max_binding_size {
            limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(bytes);
        }
        let description = describe(&adapter, limits.clone(), index);
        let timestamps = wgpu::Features::TIMESTAMP_QUERY;
        let available = if downlevel { wgpu::Features::empty() } else { adapter.features() };
        let (matrix_units, needed) = match options.precision {
            Precision::F32 => (None, wgpu::Features::empty()),
            Precision::F16Matrix => (Some(MatrixUnits::of(&adapter, available)?), MATRIX_FEATURES),
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("slicegpt-gpu"),
            required_limits: limits,
            required_features: available & timestamps | needed,
            experimental_features: if matrix_units.is_some() { precision::experimental() } else { Default::default() },
            ..Default::default()
        }))
        .map_err(|error| Error::NoAdapter(format!("{} refused to open a device: {error}", description.name)))?;
        let faults = Arc::new(Mutex::new(None));
        let sink = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            lock(&sink).get_or_insert_with(|| match error {
                wgpu::Error::OutOfMemory { .. } => out_of_memory("an operation on the GPU"),
                other => Error::Gpu(other.to_string()),
            });
        }));
        let sink = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                *lock(&sink) = Some(Error::DeviceLost(message));
            }
        });
        let buffer = |label, size, usage| {
            device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
        };
        Ok(Self {
            nothing: buffer("nothing", 16, BufferUsages::STORAGE),
            params: buffer("params", PARAMS_BYTES, BufferUsages::UNIFORM | BufferUsages::COPY_DST),
            choices: Choices::load(&description, options.cache.clone(), options.measure_at_once),
            adapter: description,
            pipelines: Mutex::default(),
            pending: Mutex::default(),
            pool: Arc::default(),
            max_memory: options.max_memory,
            planned_memory: None,
            short_submits: options.short_submits,
            unpacks_f16: !downlevel && precision::unpacks_f16(&adapter),
            matrix_units,
            timestamp_period: device.features().contains(timestamps).then(|| queue.get_timestamp_period()),
            faults,
            until_lost: AtomicU64::new(u64::MAX),
            device,
            queue,
        })
    }

    /// Holds the device to another ceiling than it was opened with.
    pub fn set_max_memory(&mut self, bytes: Option<u64>) {
        self.max_memory = bytes;
    }

    /// Keeps no buffers for use again beyond what the work was planned to take.
    pub fn set_planned_memory(&mut self, bytes: Option<u64>) {
        self.planned_memory = bytes;
    }

    /// Loses the device after `dispatches` more dispatches, as a driver that resets does: for tests of what happens
    /// then.
    #[doc(hidden)]
    pub fn lose_after(&self, dispatches: u64) {
        self.until_lost.store(dispatches, Ordering::Relaxed);
    }

    pub(super) fn count_dispatch(&self) {
        if self.until_lost.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.device.destroy();
            *lock(&self.faults) = Some(Error::DeviceLost("on purpose, for a test".into()));
        }
    }

    /// The adapter in use, with the limits in force.
    pub fn adapter(&self) -> &AdapterDescription {
        &self.adapter
    }

    /// Whether shaders may unpack f16 here.
    pub fn unpacks_f16(&self) -> bool {
        self.unpacks_f16
    }

    /// What linear layers are computed in.
    pub fn precision(&self) -> Precision {
        if self.matrix_units.is_some() { Precision::F16Matrix } else { Precision::F32 }
    }

    /// The matrix units that linear layers run on; none in f32.
    pub fn matrix_units(&self) -> Option<MatrixUnits> {
        self.matrix_units
    }

    /// Whether what is fastest may be measured here, and remembered.
    pub fn chooses(&self) -> bool {
        self.choices.enabled()
    }

    /// What was chosen for `key`, in this run or an earlier one.
    pub fn choice(&self, key: &str) -> Option<String> {
        self.choices.get(key)
    }

    /// Everything that was chosen, by key.
    pub fn choices(&self) -> Vec<(String, String)> {
        self.choices.all()
    }

    /// Remembers a choice, on disk where there is a cache directory.
    pub fn choose(&self, key: &str, choice: String) {
        self.choices.set(key, choice);
    }

    /// A choice of this device object alone.
    pub fn choose_for_now(&self, key: &str, choice: String) {
        self.choices.set_for_now(key, choice);
    }

    /// Adds to the work (multiply-adds) done under `key`, and says whether that is enough to measure what would be
    /// fastest.
    pub fn is_worth_measuring(&self, key: &str, work: u64, enough: u64) -> bool {
        self.choices.work(key, work) >= enough
    }

    /// The most bytes that one binding may span. Below 4 GiB everywhere: sizes of bindings are 32-bit numbers in
    /// translated shaders.
    pub fn max_binding_size(&self) -> u64 {
        self.adapter.max_storage_buffer_binding_size.min(self.adapter.max_buffer_size).min((1 << 32) - 256)
    }

    /// How many rows of `row_bytes` one binding can span: a multiple of 64, so that views can start there.
    pub fn rows_per_binding(&self, row_bytes: usize) -> usize {
        let rows = (self.max_binding_size() / row_bytes.max(1) as u64) as usize;
        (rows / ROW_ALIGNMENT * ROW_ALIGNMENT).max(ROW_ALIGNMENT)
    }
}
