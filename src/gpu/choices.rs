//! What was measured to be fastest on this adapter, remembered on disk.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::{AdapterDescription, faults::lock};

/// Names of choices by what they are for; and how much work went into each kind before it was worth choosing.
#[derive(Debug, Default)]
pub(super) struct Choices {
    file: Option<PathBuf>,
    at_once: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    chosen: BTreeMap<String, String>,
    /// Choices that are not written.
    for_now: BTreeMap<String, String>,
    work: BTreeMap<String, u64>,
}

impl Choices {
    /// Those of earlier runs on this adapter with this driver. A file that cannot be read or understood counts as none:
    /// it only costs time.
    pub fn load(adapter: &AdapterDescription, directory: Option<PathBuf>, at_once: bool) -> Self {
        let file = directory.or_else(default_directory).map(|directory| directory.join(file_name(adapter)));
        let text = file.as_ref().and_then(|file| fs::read(file).ok()).unwrap_or_default();
        let chosen = serde_json::from_slice(&text).unwrap_or_default();
        Self { file, at_once, state: Mutex::new(State { chosen, ..State::default() }) }
    }

    /// Whether anything is measured at all.
    pub fn enabled(&self) -> bool {
        self.file.is_some()
    }

    pub fn get(&self, key: &str) -> Option<String> {
        let state = lock(&self.state);
        state.for_now.get(key).or_else(|| state.chosen.get(key)).cloned()
    }

    pub fn all(&self) -> Vec<(String, String)> {
        let state = lock(&self.state);
        state.for_now.iter().chain(&state.chosen).map(|(key, choice)| (key.clone(), choice.clone())).collect()
    }

    pub fn set(&self, key: &str, choice: String) {
        let mut state = lock(&self.state);
        state.chosen.insert(key.to_owned(), choice);
        if let Some(file) = &self.file {
            // Another run may have chosen meanwhile; losing that, or not being able to write, only costs time.
            let _ = write(file, &state.chosen);
        }
    }

    pub fn set_for_now(&self, key: &str, choice: String) {
        lock(&self.state).for_now.insert(key.to_owned(), choice);
    }

    /// Adds to the work of a kind and returns all of it so far, without end if there is no reason to wait.
    pub fn work(&self, key: &str, work: u64) -> u64 {
        if self.at_once {
            return u64::MAX;
        }
        let mut state = lock(&self.state);
        if let Some(sum) = state.work.get_mut(key) {
            *sum += work;
            return *sum;
        }
        state.work.insert(key.to_owned(), work);
        work
    }
}

fn write(file: &Path, chosen: &BTreeMap<String, String>) -> std::io::Result<()> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    let part = file.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&part, serde_json::to_vec_pretty(chosen)?)?;
    fs::rename(part, file)
}

/// `SLICEGPT_GPU_CACHE`, or where this platform keeps caches. None, and nothing is measured, if the variable is `off`.
fn default_directory() -> Option<PathBuf> {
    match std::env::var_os("SLICEGPT_GPU_CACHE") {
        Some(value) if value == "off" => return None,
        Some(value) if !value.is_empty() => return Some(value.into()),
        _ => {}
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        variable("HOME").map(|home| home.join("Library/Caches"))
    } else {
        variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")))
    };
    base.map(|base| base.join("slicegpt-gpu"))
}

/// A file for each adapter, driver and version of the kernels.
fn file_name(adapter: &AdapterDescription) -> String {
    let name = format!("{}-{}-{}-{}", adapter.name, adapter.backend, adapter.driver, env!("CARGO_PKG_VERSION"));
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    format!("{plain}.json")
}
