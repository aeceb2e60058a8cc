//! The adapters of this machine: finding, describing and choosing them.

use wgpu::{Backends, DeviceType};

use crate::error::{Error, Result};

/// What to do where there is no adapter.
const NO_ADAPTER: &str = "no GPU adapter found: install your GPU's Vulkan driver, or a software one (Debian, Ubuntu: \
     apt-get install \
    mesa-vulkan-drivers libvulkan1; Fedora: dnf install mesa-vulkan-drivers vulkan-loader; Arch: pacman -S \
    vulkan-swrast vulkan-icd-loader)";

/// What `devices` prints of an adapter.
#[derive(Debug, Clone, serde::Serialize)]
pub struct AdapterDescription {
    pub index: usize,
    pub name: String,
    /// Who made it or its driver: a name, or the number that drivers give.
    pub vendor: String,
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

impl AdapterDescription {
    /// Whether its memory is the host's.
    pub fn shares_host_memory(&self) -> bool {
        self.software || self.device_type == "integrated"
    }
}

/// Every adapter that wgpu sees, best first: discrete, integrated, virtual, other, software.
/// `WGPU_BACKEND` and `WGPU_ADAPTER_NAME` are honoured.
pub fn adapters() -> Vec<AdapterDescription> {
    enumerate().iter().enumerate().map(|(index, adapter)| describe(adapter, adapter.limits(), index)).collect()
}

/// Why [`adapters`] finds none: there is none, or what the environment asks for matches none of those that there are.
pub fn no_adapter() -> Error {
    let asked: Vec<String> = [BACKEND, NAME]
        .into_iter()
        .filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok().filter(|value| !value.is_empty())?)))
        .collect();
    let there = on(Backends::PRIMARY);
    if asked.is_empty() || there.is_empty() {
        return Error::NoAdapter(NO_ADAPTER.into());
    }
    let there: Vec<String> = there
        .iter()
        .map(|adapter| adapter.get_info())
        .map(|info| format!("{} ({})", info.name, info.backend))
        .collect();
    Error::NoAdapter(format!(
        "no adapter matches {}; without that there are: {}. {BACKEND} takes vulkan, metal or dx12, {NAME} a part of a \
         name",
        asked.join(" and "),
        there.join(", ")
    ))
}

const BACKEND: &str = "WGPU_BACKEND";
const NAME: &str = "WGPU_ADAPTER_NAME";

pub(super) fn enumerate() -> Vec<wgpu::Adapter> {
    // An empty variable asks for nothing.
    let backends = std::env::var(BACKEND).ok().filter(|value| !value.is_empty()).and_then(|_| Backends::from_env());
    let mut adapters = on(backends.unwrap_or(Backends::PRIMARY));
    if let Ok(wanted) = std::env::var(NAME) {
        adapters.retain(|adapter| adapter.get_info().name.to_lowercase().contains(&wanted.to_lowercase()));
    }
    adapters
}

/// The adapters on some backends, best first.
fn on(backends: Backends) -> Vec<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let mut adapters = pollster::block_on(instance.enumerate_adapters(backends));
    adapters
        .retain(|adapter| adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS));
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    adapters
}

pub(super) fn describe(adapter: &wgpu::Adapter, limits: wgpu::Limits, index: usize) -> AdapterDescription {
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
        vendor: vendor(info.vendor),
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
        features: optional
            .into_iter()
            .filter(|(feature, _)| available.contains(*feature))
            .map(|(_, name)| name)
            .collect(),
        software: info.device_type == DeviceType::Cpu,
        default: index == 0,
    }
}

fn vendor(number: u32) -> String {
    let known = match number {
        0x1002 => "AMD",
        0x1010 => "Imagination",
        0x106b => "Apple",
        0x10de => "NVIDIA",
        0x13b5 => "ARM",
        0x1414 => "Microsoft",
        0x14e4 => "Broadcom",
        0x1ae0 => "Google",
        0x5143 => "Qualcomm",
        0x8086 => "Intel",
        0x10005 => "Mesa",
        _ => return format!("{number:#06x}"),
    };
    known.into()
}

pub(super) fn choose(adapters: Vec<wgpu::Adapter>, wanted: Option<&str>) -> Result<(usize, wgpu::Adapter)> {
    let names: Vec<String> =
        adapters.iter().enumerate().map(|(index, adapter)| format!("{index} ({})", adapter.get_info().name)).collect();
    if names.is_empty() {
        return Err(no_adapter());
    }
    let index = match wanted {
        None => Some(0),
        Some(wanted) => match wanted.parse::<usize>() {
            Ok(index) => Some(index),
            Err(_) if wanted.is_empty() => None,
            Err(_) => adapters
                .iter()
                .position(|adapter| adapter.get_info().name.to_lowercase().contains(&wanted.to_lowercase())),
        },
    };
    index.and_then(|index| adapters.into_iter().nth(index).map(|adapter| (index, adapter))).ok_or_else(|| {
        Error::NoAdapter(format!("no adapter {}; there are: {}", wanted.unwrap_or("0"), names.join(", ")))
    })
}
