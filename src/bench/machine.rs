//! What this machine is, as far as its operating system says without being asked much.

use std::process::Command;

use super::recording::Machine;

impl Machine {
    /// This machine. What cannot be found out is left open.
    pub fn this() -> Self {
        Self {
            os: os().unwrap_or_else(|| std::env::consts::OS.into()),
            arch: std::env::consts::ARCH.into(),
            cpu: cpu().map(|name| name.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|name| !name.is_empty()),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            ram_bytes: ram(),
        }
    }
}

/// The value of the first line `key<separator>value` of a file.
fn field(path: &str, key: &str, separator: char) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(separator));
    pairs.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().trim_matches('"').to_owned())
}

/// What a program prints.
fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn os() -> Option<String> {
    match std::env::consts::OS {
        "linux" => field("/etc/os-release", "PRETTY_NAME", '=').map(|name| format!("Linux, {name}")),
        "macos" => printed("sw_vers", &["-productVersion"]).map(|version| format!("macOS {version}")),
        "windows" => printed("cmd", &["/C", "ver"]),
        _ => None,
    }
}

fn cpu() -> Option<String> {
    match std::env::consts::OS {
        "linux" => field("/proc/cpuinfo", "model name", ':'),
        "macos" => printed("sysctl", &["-n", "machdep.cpu.brand_string"]),
        "windows" => std::env::var("PROCESSOR_IDENTIFIER").ok(),
        _ => None,
    }
}

fn ram() -> Option<u64> {
    match std::env::consts::OS {
        "linux" => field("/proc/meminfo", "MemTotal", ':')?.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024),
        "macos" => printed("sysctl", &["-n", "hw.memsize"])?.parse().ok(),
        _ => None,
    }
}
