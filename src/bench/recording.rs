//! All that one call measured, with what makes it comparable: written as JSON, and read again without trust.

use std::{collections::BTreeMap, io::Read, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    ratios::{Ratio, ratios},
    row::{Peaks, Row},
};
use crate::{
    error::{Error, Result},
    gpu::AdapterDescription,
};

/// Of the JSON. Names of workloads never change their meaning within one.
pub const SCHEMA_VERSION: u32 = 1;

/// The wgpu that this was built with.
pub const WGPU_VERSION: &str = "30.0.1";

/// Files beyond this are no recordings.
const LARGEST_FILE: u64 = 16 << 20;
/// Longer series, lists and texts are no recordings either.
const LONGEST: usize = 4096;

/// Everything measured by one call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    pub schema_version: u32,
    pub tool: Tool,
    pub machine: Machine,
    /// Whether `--quick` was given, and the filters.
    pub quick: bool,
    pub filters: Vec<String>,
    pub adapters: Vec<AdapterRun>,
}

/// What measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    pub version: String,
    /// `unknown` where the build was not given it: `make` does.
    pub git_hash: String,
    pub wgpu_version: String,
    /// `release` or `debug`.
    pub profile: String,
}

impl Tool {
    /// This program.
    pub fn this() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            git_hash: option_env!("SLICEGPT_GPU_GIT_HASH").filter(|hash| !hash.is_empty()).unwrap_or("unknown").into(),
            wgpu_version: WGPU_VERSION.into(),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.into(),
        }
    }
}

/// What was measured on, beside the adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub os: String,
    pub arch: String,
    pub cpu: Option<String>,
    /// Cores that this program may use.
    pub cores: usize,
    pub ram_bytes: Option<u64>,
}

/// The adapter of some rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    pub name: String,
    pub vendor: String,
    pub device_type: String,
    pub backend: String,
    pub driver: String,
    /// It computes on the CPU: not a GPU's figures.
    pub software: bool,
    pub limits: BTreeMap<String, u64>,
    pub features: Vec<String>,
}

impl From<&AdapterDescription> for Adapter {
    fn from(adapter: &AdapterDescription) -> Self {
        let limits = [
            ("max_storage_buffer_binding_size", adapter.max_storage_buffer_binding_size),
            ("max_buffer_size", adapter.max_buffer_size),
            ("max_compute_workgroup_storage_size", adapter.max_compute_workgroup_storage_size.into()),
            ("max_compute_invocations_per_workgroup", adapter.max_compute_invocations_per_workgroup.into()),
            ("max_compute_workgroups_per_dimension", adapter.max_compute_workgroups_per_dimension.into()),
            ("max_storage_buffers_per_shader_stage", adapter.max_storage_buffers_per_shader_stage.into()),
        ];
        Self {
            name: adapter.name.clone(),
            vendor: adapter.vendor.clone(),
            device_type: adapter.device_type.into(),
            backend: adapter.backend.clone(),
            driver: adapter.driver.clone(),
            software: adapter.software,
            limits: limits.into_iter().map(|(name, limit)| (name.into(), limit)).collect(),
            features: adapter.features.iter().map(|&feature| feature.into()).collect(),
        }
    }
}

/// The rows of one adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterRun {
    pub adapter: Adapter,
    /// Which configuration each kernel ran in, where it has several.
    pub configurations: BTreeMap<String, String>,
    pub rows: Vec<Row>,
    /// What follows from several rows; worked out again when a file is read.
    #[serde(skip_deserializing)]
    pub ratios: Vec<Ratio>,
}

impl AdapterRun {
    /// Works out what follows from the samples.
    pub fn derive(&mut self) {
        let peaks = Peaks::of(&self.rows);
        self.rows.iter_mut().for_each(|row| row.derive(peaks));
        self.ratios = ratios(&self.rows);
    }
}

impl Recording {
    /// Reads a recording, and works out anew what follows from its samples.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::BadFile`] if it is not a recording of this schema, or holds what cannot have been
    /// measured.
    pub fn read(path: &Path) -> Result<Self> {
        let mut text = Vec::new();
        let file = std::fs::File::open(path).map_err(Error::read(path))?;
        file.take(LARGEST_FILE + 1).read_to_end(&mut text).map_err(Error::read(path))?;
        let bad = |reason: String| Error::bad_file(path, reason);
        if text.len() as u64 > LARGEST_FILE {
            return Err(bad(format!("more than {LARGEST_FILE} bytes; not a recording of `slicegpt-gpu bench`")));
        }
        #[derive(Deserialize)]
        struct Version {
            schema_version: u32,
        }
        let Version { schema_version } = serde_json::from_slice(&text)
            .map_err(|error| bad(format!("not a recording of `slicegpt-gpu bench --json`: {error}")))?;
        if schema_version != SCHEMA_VERSION {
            return Err(bad(format!("schema_version: expected {SCHEMA_VERSION}, found {schema_version}")));
        }
        let mut recording: Self = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        recording.plausible().map_err(bad)?;
        recording.adapters.iter_mut().for_each(AdapterRun::derive);
        Ok(recording)
    }

    /// What cannot have been measured, if anything.
    fn plausible(&self) -> std::result::Result<(), String> {
        let (tool, machine) = (&self.tool, &self.machine);
        let mut texts =
            vec![&tool.version, &tool.git_hash, &tool.wgpu_version, &tool.profile, &machine.os, &machine.arch];
        texts.extend(machine.cpu.iter().chain(&self.filters));
        if self.adapters.is_empty() || self.adapters.len() > LONGEST {
            return Err(format!("adapters: expected 1 to {LONGEST}, found {}", self.adapters.len()));
        }
        for AdapterRun { adapter, configurations, rows, .. } in &self.adapters {
            texts.extend([&adapter.name, &adapter.vendor, &adapter.device_type, &adapter.backend, &adapter.driver]);
            texts.extend(
                adapter
                    .features
                    .iter()
                    .chain(adapter.limits.keys())
                    .chain(configurations.keys())
                    .chain(configurations.values()),
            );
            if rows.len() > LONGEST {
                return Err(format!("{} rows of one adapter", rows.len()));
            }
            for (index, row) in rows.iter().enumerate() {
                texts.extend(
                    [&row.name, &row.what]
                        .into_iter()
                        .chain(&row.problem)
                        .chain(&row.configuration)
                        .chain(row.sizes.keys()),
                );
                texts.extend(row.check.iter().map(|check| &check.what));
                if rows[..index].iter().any(|before| before.name == row.name) {
                    return Err(format!("two rows {:?} of one adapter", row.name));
                }
                plausible_row(row).map_err(|reason| format!("row {:?}: {reason}", row.name))?;
            }
        }
        match texts.into_iter().find(|text| text.len() > LONGEST || text.chars().any(char::is_control)) {
            Some(text) => Err(format!("a text that cannot be shown: {:?}…", text.chars().take(40).collect::<String>())),
            None => Ok(()),
        }
    }
}

fn plausible_row(row: &Row) -> std::result::Result<(), String> {
    if row.samples.len() > LONGEST {
        return Err(format!("{} samples", row.samples.len()));
    }
    // Between less than a tick of any clock and more than anyone waits.
    if let Some(sample) = row.samples.iter().find(|seconds| !(1e-12..1e9).contains(*seconds)) {
        return Err(format!("a sample of {sample} seconds"));
    }
    let amounts = [row.work.flops, row.work.bytes, row.work.items];
    if let Some(amount) = amounts.iter().find(|amount| !(0.0..1e30).contains(*amount)) {
        return Err(format!("an amount of work of {amount}"));
    }
    let check = row.check.as_ref();
    match check.map(|check| (check.tolerance, check.error.unwrap_or(0.0))) {
        Some((tolerance, error)) if !(0.0..1.0).contains(&tolerance) || error.is_nan() || error < 0.0 => {
            Err(format!("a check with error {error} and tolerance {tolerance}"))
        }
        _ => Ok(()),
    }
}
