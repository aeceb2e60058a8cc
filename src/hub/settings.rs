//! What the environment says about the Hub, by the names that huggingface_hub has for it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where the Hub is, who asks, and where its files are kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `HF_ENDPOINT`.
    pub endpoint: String,
    /// `HF_HUB_CACHE`, or `hub` in `HF_HOME`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, or what logging in has left in `HF_HOME`.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: only the cache counts.
    pub offline: bool,
    /// How long to wait before a request is made again; longer each time.
    pub patience: Duration,
    /// How long a transfer may bring nothing before it counts as broken.
    pub stall: Duration,
}

impl Settings {
    /// Those of this process.
    pub fn from_environment() -> Self {
        let text = |name: &str| env::var(name).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let path = |name: &str| env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let on = |name: &str| {
            text(name).is_some_and(|text| ["1", "true", "yes", "on"].contains(&text.to_lowercase().as_str()))
        };
        let home = path("HF_HOME").unwrap_or_else(|| {
            let user = || path("HOME").or_else(|| path("USERPROFILE")).unwrap_or_else(|| ".".into()).join(".cache");
            path("XDG_CACHE_HOME").unwrap_or_else(user).join("huggingface")
        });
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub"));
        let left = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let kept = || stored(&left).filter(|_| !on("HF_HUB_DISABLE_IMPLICIT_TOKEN"));
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache,
            token: text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(kept),
            offline: on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE"),
            patience: Duration::from_secs(1),
            stall: Duration::from_secs(60),
        }
    }
}

/// The token in a file.
fn stored(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}
