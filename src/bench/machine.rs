//! What this machine is, as far as its operating system says.

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::recording::Machine;

impl Machine {
    /// This machine. What cannot be found out is left open.
    pub fn this() -> Self {
        let what = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(what);
        let cpu = system.cpus().first().map(|cpu| cpu.brand().split_whitespace().collect::<Vec<_>>().join(" "));
        Self {
            os: System::long_os_version().unwrap_or_else(|| std::env::consts::OS.into()),
            arch: std::env::consts::ARCH.into(),
            cpu: cpu.filter(|name| !name.is_empty()),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            ram_bytes: Some(system.total_memory()).filter(|&bytes| bytes > 0),
        }
    }
}
