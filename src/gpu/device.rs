//! The adapter, the device and its queue: choosing, allocating, submitting, reading back, and what can go wrong there.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_intrusive::channel::shared::oneshot_channel;
use wgpu::{Backends, BufferUsages, DeviceType, ErrorFilter, PollType, SubmissionIndex};

use super::kernel::PipelineKey;
use crate::error::{Error, Result};

/// What to do where there is no adapter.
pub const NO_ADAPTER: &str = "no GPU adapter found: install your GPU's Vulkan driver, or a software one (Debian, Ubuntu: apt-get install \
    mesa-vulkan-drivers libvulkan1; Fedora: dnf install mesa-vulkan-drivers vulkan-loader; Arch: pacman -S vulkan-swrast vulkan-icd-loader)";

/// How to choose and limit the device.
#[derive(Debug, Clone, Default)]
pub struct GpuOptions {
    /// Index in [`adapters`], or a part of an adapter's name; the best adapter if `None`.
    pub adapter: Option<String>,
    /// An upper bound on the bytes that one binding may span, below the adapter's own.
    pub max_binding_size: Option<u64>,
    /// Ask for no more than the limits that every adapter has (WebGPU's downlevel defaults), whatever this one can do: for testing that nothing
    /// depends on more. So does the environment variable `SLICEGPT_GPU_LIMITS=downlevel`.
    pub downlevel_limits: bool,
}

/// What `devices` prints of an adapter.
#[derive(Debug, Clone, serde::Serialize)]
pub struct AdapterDescription {
    pub index: usize,
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub device_type: &'static str,
    pub backend: String,
    pub driver: String,
    pub max_storage_buffer_binding_size: u64,
    pub max_buffer_size: u64,
    pub max_compute_workgroup_storage_size: u32,
    pub max_compute_invocations_per_workgroup: u32,
    pub max_compute_workgroups_per_dimension: u32,
    pub max_storage_buffers_per_shader_stage: u32,
    /// Optional features that faster kernels could use. None is required.
    pub features: Vec<&'static str>,
    /// True for a software rasteriser: right, but slow.
    pub software: bool,
    /// Whether this is the one used when `--device` is not given.
    pub default: bool,
}

/// The device, its queue and its compiled kernels. Ops are methods on it, spread over `ops/*.rs`.
pub struct Gpu {
    pub(super) device: wgpu::Device,
    queue: wgpu::Queue,
    /// Bound where a kernel can do without a matrix.
    pub(super) nothing: wgpu::Buffer,
    adapter: AdapterDescription,
    pub(super) pipelines: Mutex<HashMap<PipelineKey, wgpu::ComputePipeline>>,
    pending: Mutex<Pending>,
    faults: Arc<Mutex<Option<Error>>>,
}

#[derive(Default)]
struct Pending {
    encoder: Option<wgpu::CommandEncoder>,
    dispatches: u32,
    work: u64,
    in_flight: Option<SubmissionIndex>,
    written: usize,
}

/// Work is handed to the GPU in pieces of about this many multiply-adds, so that no submission holds a display driver for long.
const WORK_PER_SUBMIT: u64 = 4 << 30;
const DISPATCHES_PER_SUBMIT: u32 = 64;
/// Staging memory is given back at a submission: force one after so many bytes of uploads.
const WRITES_PER_SUBMIT: usize = 256 << 20;

/// Every adapter that wgpu sees, best first: discrete, integrated, virtual, other, software.
/// `WGPU_BACKEND` and `WGPU_ADAPTER_NAME` are honoured.
pub fn adapters() -> Vec<AdapterDescription> {
    enumerate().iter().enumerate().map(|(index, adapter)| describe(adapter, adapter.limits(), index)).collect()
}

fn enumerate() -> Vec<wgpu::Adapter> {
    let backends = Backends::from_env().unwrap_or(Backends::PRIMARY);
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() });
    let mut adapters = pollster::block_on(instance.enumerate_adapters(backends));
    adapters.retain(|adapter| adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS));
    if let Ok(wanted) = std::env::var("WGPU_ADAPTER_NAME") {
        adapters.retain(|adapter| adapter.get_info().name.to_lowercase().contains(&wanted.to_lowercase()));
    }
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    adapters
}

fn describe(adapter: &wgpu::Adapter, limits: wgpu::Limits, index: usize) -> AdapterDescription {
    let (info, available) = (adapter.get_info(), adapter.features());
    let optional = [
        (wgpu::Features::SHADER_F16, "shader-f16"),
        (wgpu::Features::SUBGROUP, "subgroup"),
        (wgpu::Features::TIMESTAMP_QUERY, "timestamp-query"),
        (wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, "cooperative-matrix"),
    ];
    AdapterDescription {
        index,
        name: info.name,
        device_type: match info.device_type {
            DeviceType::DiscreteGpu => "discrete",
            DeviceType::IntegratedGpu => "integrated",
            DeviceType::VirtualGpu => "virtual",
            DeviceType::Cpu => "cpu",
            DeviceType::Other => "other",
        },
        backend: info.backend.to_string(),
        driver: [info.driver, info.driver_info].join(" ").trim().to_owned(),
        max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
        max_buffer_size: limits.max_buffer_size,
        max_compute_workgroup_storage_size: limits.max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup: limits.max_compute_invocations_per_workgroup,
        max_compute_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
        max_storage_buffers_per_shader_stage: limits.max_storage_buffers_per_shader_stage,
        features: optional.into_iter().filter(|(feature, _)| available.contains(*feature)).map(|(_, name)| name).collect(),
        software: info.device_type == DeviceType::Cpu,
        default: index == 0,
    }
}

fn choose(adapters: Vec<wgpu::Adapter>, wanted: Option<&str>) -> Result<(usize, wgpu::Adapter)> {
    let names: Vec<String> = adapters.iter().enumerate().map(|(index, adapter)| format!("{index} ({})", adapter.get_info().name)).collect();
    if names.is_empty() {
        return Err(Error::NoAdapter(NO_ADAPTER.into()));
    }
    let index = match wanted {
        None => Some(0),
        Some(wanted) => match wanted.parse::<usize>() {
            Ok(index) => Some(index),
            Err(_) if wanted.is_empty() => None,
            Err(_) => adapters.iter().position(|adapter| adapter.get_info().name.to_lowercase().contains(&wanted.to_lowercase())),
        },
    };
    index
        .and_then(|index| adapters.into_iter().nth(index).map(|adapter| (index, adapter)))
        .ok_or_else(|| Error::NoAdapter(format!("no adapter {}; there are: {}", wanted.unwrap_or("0"), names.join(", "))))
}

impl Gpu {
    /// Opens the adapter that `options` names, with all the limits it has and no optional feature.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if there is none, or none of that name.
    pub fn new(options: &GpuOptions) -> Result<Self> {
        let (index, adapter) = choose(enumerate(), options.adapter.as_deref())?;
        let downlevel = options.downlevel_limits || std::env::var("SLICEGPT_GPU_LIMITS").is_ok_and(|value| value == "downlevel");
        let mut limits = if downlevel { wgpu::Limits::downlevel_defaults() } else { adapter.limits() };
        if let Some(bytes) = options.max_binding_size {
            limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(bytes);
        }
        let description = describe(&adapter, limits.clone(), index);
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("slicegpt-gpu"),
            required_limits: limits,
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
        let nothing = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("nothing"),
            size: 16,
            usage: BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        Ok(Self { device, queue, nothing, adapter: description, pipelines: Mutex::default(), pending: Mutex::default(), faults })
    }

    /// The adapter in use, with the limits in force.
    pub fn adapter(&self) -> &AdapterDescription {
        &self.adapter
    }

    /// The most bytes that one binding may span.
    pub fn max_binding_size(&self) -> u64 {
        self.adapter.max_storage_buffer_binding_size.min(self.adapter.max_buffer_size)
    }

    /// How many rows of `row_bytes` one binding can span: a multiple of 64, so that views can start there.
    pub fn rows_per_binding(&self, row_bytes: usize) -> usize {
        let rows = (self.max_binding_size() / row_bytes.max(1) as u64) as usize;
        (rows / super::matrix::ROW_ALIGNMENT * super::matrix::ROW_ALIGNMENT).max(super::matrix::ROW_ALIGNMENT)
    }

    pub(super) fn create_buffer(&self, label: &str, size: u64) -> Result<wgpu::Buffer> {
        self.check()?;
        if size > self.adapter.max_buffer_size {
            return Err(Error::OutOfMemory(format!(
                "a matrix of {size} bytes exceeds the largest buffer of {} ({} bytes); lower --cal-batch-size or --cal-max-seqlen",
                self.adapter.name, self.adapter.max_buffer_size
            )));
        }
        let scope = self.device.push_error_scope(ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        match pollster::block_on(scope.pop()) {
            Some(_) => Err(out_of_memory(&format!("{size} bytes"))),
            None => Ok(buffer),
        }
    }

    /// Writes into a buffer that no pending work uses.
    pub(super) fn write(&self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        // Copies are in units of 4 bytes; the strides of matrices make sure of that.
        self.queue.write_buffer(buffer, offset, bytes);
        let mut pending = lock(&self.pending);
        pending.written += bytes.len();
        if pending.written > WRITES_PER_SUBMIT {
            self.submit(&mut pending)?;
        }
        Ok(())
    }

    /// Lets `encode` record into the command buffer under way; `work` is its cost in multiply-adds.
    pub(super) fn record(&self, work: u64, encode: impl FnOnce(&mut wgpu::CommandEncoder)) -> Result<()> {
        let mut pending = lock(&self.pending);
        encode(pending.encoder.get_or_insert_with(|| self.device.create_command_encoder(&Default::default())));
        pending.dispatches += 1;
        pending.work += work;
        if pending.work >= WORK_PER_SUBMIT || pending.dispatches >= DISPATCHES_PER_SUBMIT {
            self.submit(&mut pending)?;
        }
        Ok(())
    }

    /// Submits what is pending and waits for the submission before: so the GPU is always busy, and memory is freed one submission behind.
    fn submit(&self, pending: &mut Pending) -> Result<()> {
        let commands = pending.encoder.take().map(wgpu::CommandEncoder::finish);
        let submitted = self.queue.submit(commands);
        let before = pending.in_flight.replace(submitted);
        (pending.dispatches, pending.work, pending.written) = (0, 0, 0);
        if let Some(submission_index) = before {
            self.wait(Some(submission_index))?;
        }
        self.check()
    }

    fn wait(&self, submission_index: Option<SubmissionIndex>) -> Result<()> {
        self.check()?;
        self.device.poll(PollType::Wait { submission_index, timeout: None }).map_err(|error| Error::Gpu(error.to_string()))?;
        Ok(())
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
        self.check()
    }

    /// Reads `size` bytes of `buffer`, waiting for all work before.
    pub(super) fn read(&self, buffer: &wgpu::Buffer, offset: u64, size: u64) -> Result<Vec<u8>> {
        if size == 0 {
            return Ok(Vec::new());
        }
        let scope = self.device.push_error_scope(ErrorFilter::OutOfMemory);
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size,
            usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        if pollster::block_on(scope.pop()).is_some() {
            return Err(out_of_memory(&format!("reading {size} bytes back")));
        }
        self.record(0, |encoder| encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, size))?;
        self.submit(&mut lock(&self.pending))?;
        let (sender, receiver) = oneshot_channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = sender.send(result);
        });
        self.wait(None)?;
        self.check()?;
        match pollster::block_on(receiver.receive()) {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(Error::Gpu(error.to_string())),
            None => return Err(Error::Gpu("a readback was dropped".into())),
        }
        let bytes = staging.get_mapped_range(..).map_err(|error| Error::Gpu(error.to_string()))?.to_vec();
        Ok(bytes)
    }

    /// Reports the first thing that went wrong on the device, once.
    fn check(&self) -> Result<()> {
        match lock(&self.faults).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

fn out_of_memory(what: &str) -> Error {
    Error::OutOfMemory(format!("the GPU has too little memory for {what}; lower --cal-batch-size or --cal-max-seqlen, or choose another --device"))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
