//! What a file or a directory is when it is not what was expected, and what to do with it: only for messages.

use std::{fs, path::Path};

use serde_json::Value;

use super::contents::contents;
use crate::error::shortened;

/// What to do with weights that only PyTorch reads.
const SAVE_AGAIN: &str =
    "load it in transformers and save it with model.save_pretrained(DIR), which writes safetensors";

/// The first few of some names.
pub fn list<T: AsRef<str>>(names: &[T]) -> String {
    let shown: Vec<&str> = names.iter().take(4).map(AsRef::as_ref).collect();
    let more = names.len() - shown.len();
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

/// What the name of a file says it is, after `before`; empty if it says nothing.
pub fn named(path: &Path, before: &str) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let what =
        match path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_lowercase().as_str() {
            "bin" | "pt" | "pth" | "ckpt" => format!("a PyTorch file; {SAVE_AGAIN}"),
            "h5" => format!("a TensorFlow file; {SAVE_AGAIN}"),
            "msgpack" => format!("a Flax file; {SAVE_AGAIN}"),
            "gguf" => "a model for llama.cpp; give that file itself".to_owned(),
            "ggml" => "a model for an old llama.cpp; give the checkpoint that it was made of".to_owned(),
            "onnx" => "an ONNX graph; give the checkpoint that it was made of".to_owned(),
            "zip" | "gz" | "tgz" | "tar" | "xz" | "zst" | "bz2" | "7z" => "an archive; unpack it".to_owned(),
            "json" if name.ends_with(".index.json") => {
                "the index of a sharded checkpoint; give its directory".to_owned()
            }
            _ => return String::new(),
        };
    format!("{before}{what}")
}

/// What the beginning of a file says it is, and what to do; `None` if it may be anything.
pub fn content(bytes: &[u8]) -> Option<String> {
    const ARCHIVES: [(&[u8], &str); 7] = [
        (b"\x1f\x8b", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"Rar!", "rar"),
        (b"\x04\x22\x4d\x18", "lz4"),
    ];
    if bytes.is_empty() {
        return Some("empty; download it again".into());
    }
    if bytes.starts_with(b"version https://git-lfs") {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]);
        let size = text
            .lines()
            .find_map(|line| line.strip_prefix("size "))
            .map_or(String::new(), |size| format!(" of {} bytes", size.trim()));
        return Some(format!("a Git LFS pointer to a file{size}, not that file; fetch it with `git lfs pull`"));
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return Some(format!(
            "a zip archive, as torch.save writes them; unpack it, or if it is a PyTorch file, {SAVE_AGAIN}"
        ));
    }
    if bytes.starts_with(b"\x80\x02") || bytes.starts_with(b"\x80\x04") {
        return Some(format!("a Python pickle, as old versions of torch.save write them; {SAVE_AGAIN}"));
    }
    if let Some((_, name)) = ARCHIVES.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(format!("compressed with {name}; unpack it"));
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some("a tar archive; unpack it".into());
    }
    if bytes.starts_with(b"GGUF") {
        return Some("a GGUF file for llama.cpp; give that file itself, by the ending .gguf".into());
    }
    if bytes.starts_with(b"\x89HDF") {
        return Some(format!("an HDF5 file, as TensorFlow writes them; {SAVE_AGAIN}"));
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Some("text in UTF-16; save it as UTF-8".into());
    }
    text(bytes)
}

/// What a text is that stands in the place of another file.
fn text(bytes: &[u8]) -> Option<String> {
    let beginning = String::from_utf8_lossy(&bytes[..bytes.len().min(256)]);
    let beginning = beginning.trim_start_matches('\u{feff}').trim_start();
    let lower = beginning.to_lowercase();
    if ["<!doctype", "<html", "<?xml", "<head", "<body"].iter().any(|tag| lower.starts_with(tag)) {
        return Some(
            "a web page (HTML), not the file that it is about; download the file itself, from .../resolve/... instead \
             of .../blob/..."
                .into(),
        );
    }
    None
}

/// What a file is that should have been another, after `before`; empty if that is unknown.
pub fn mistaken(bytes: &[u8], before: &str) -> String {
    let found = content(bytes).or_else(|| (!bytes.trim_ascii_start().starts_with(b"{")).then(|| answer(bytes))?);
    found.map_or(String::new(), |found| format!("{before}{found}"))
}

/// A text that is no file of a model: what servers answer where there is none, or none for this user.
fn answer(bytes: &[u8]) -> Option<String> {
    let beginning = &bytes[..bytes.len().min(64)];
    let readable = beginning.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    let text = String::from_utf8_lossy(&beginning[..beginning.len().min(40)]);
    let line = text.trim_start().lines().next().filter(|_| readable)?;
    Some(format!(
        "a text that begins with {line:?}; if a server said so, check the name and the access rights, and download the \
         file again"
    ))
}

/// Why the bytes of a file are not those of a whole safetensors file, where that is known.
pub fn tensors(bytes: &[u8]) -> Option<String> {
    if let Some(found) = content(bytes) {
        return Some(format!("it is {found}"));
    }
    if let Some(found) = answer(bytes) {
        return Some(format!("it is {found}"));
    }
    let Some(header) = bytes.first_chunk() else {
        return Some(format!("it has {} bytes, fewer than any such file; download it again", bytes.len()));
    };
    let header = u64::from_le_bytes(*header);
    let rest = (bytes.len() - 8) as u64;
    if header > rest {
        // A length that no header has says nothing about how much is missing.
        return (header < 100_000_000)
            .then(|| format!("at least {} bytes of its header are missing; download it again", header - rest));
    }
    let fields: Value = serde_json::from_slice(&bytes[8..8 + header as usize]).ok()?;
    let ends = fields.as_object()?.values().filter_map(|field| field.get("data_offsets")?.get(1)?.as_u64());
    let (expected, found) = (ends.max()?, rest - header);
    match expected.checked_sub(found) {
        Some(0) => fields.as_object()?.iter().find_map(|(name, field)| ill_sized(name, field)),
        Some(missing) => {
            Some(format!("{missing} bytes at its end are missing: an unfinished download or copy; fetch it again"))
        }
        None => Some(format!("{} bytes more than its header tells of; fetch it again", found - expected)),
    }
}

/// A tensor whose shape and type take another number of bytes than it has.
fn ill_sized(name: &str, field: &Value) -> Option<String> {
    let dtype = field.get("dtype")?.as_str()?;
    // Most names end in the number of bits.
    let bits = match dtype {
        "BOOL" => 8,
        narrow if narrow.starts_with("F8") => 8,
        other => other.trim_start_matches(|c: char| c.is_ascii_alphabetic()).parse::<u64>().ok()?,
    };
    let shape: Vec<u64> = field.get("shape")?.as_array()?.iter().map(Value::as_u64).collect::<Option<_>>()?;
    let values = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
    let offset = |at: usize| field.get("data_offsets")?.get(at)?.as_u64();
    let has = offset(1)?.checked_sub(offset(0)?)?;
    let takes = values.and_then(|values| values.checked_mul(bits)).map(|bits| bits.div_ceil(8));
    (takes != Some(has)).then(|| {
        let (name, shape) = (shortened(name), shortened(&format!("{shape:?}")));
        format!("its header gives {name} {has} bytes, which {shape} of {dtype} does not take; fetch it again")
    })
}

/// A file of a checkpoint that a distributed run has saved.
pub fn distributed_shard(directory: &Path) -> Option<String> {
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    names(directory).into_iter().find(|name| {
        let parts: Vec<&str> = name.strip_suffix(".safetensors").unwrap_or_default().split('-').collect();
        matches!(parts.as_slice(), ["shard", a, "model", b, "of", c] if digits(a) && digits(b) && digits(c))
    })
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Which shard of how many a file is by its name.
pub fn shard_of(name: &str) -> Option<(usize, usize)> {
    let (rest, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (_, number) = rest.rsplit_once('-')?;
    Some((number.parse().ok()?, count.parse().ok()?)).filter(|(_, count)| *count > 1)
}

/// What a directory without weights of its own holds instead, and what to do; begins with a separator.
pub fn directory(directory: &Path) -> String {
    let names = names(directory);
    let has = |name: &str| names.iter().any(|found| found == name);
    let ending = |ends: &[&str]| -> Vec<&String> {
        names.iter().filter(|name| ends.iter().any(|end| name.to_lowercase().ends_with(end))).collect()
    };
    if names.is_empty() {
        return ": it is empty".into();
    }
    if has("adapter_config.json") {
        return format!(": it is {}", adapter(directory));
    }
    if has("model_index.json") {
        return ": it is a diffusers pipeline, which makes images, not text".into();
    }
    if has("modules.json") || has("config_sentence_transformers.json") {
        return ": it is a sentence-transformers model, which makes embeddings, not text".into();
    }
    let safetensors = ending(&[".safetensors"]);
    if let Some((_, count)) = safetensors.iter().find_map(|name| shard_of(name)) {
        let found = safetensors.iter().filter(|name| shard_of(name).is_some()).count();
        return format!(
            ": it has {found} of {count} shards ({}), but not the index that tells which tensor is where; download \
             it, too",
            list(&safetensors)
        );
    }
    // What transformers loads where there is nothing else, whatever lies beside it.
    let pickled: Vec<&String> = names.iter().filter(|name| name.starts_with("pytorch_model")).collect();
    if let Some(first) = pickled.first() {
        return format!(": it has {}{}", list(&pickled), named(Path::new(first), ", "));
    }
    if has("params.json") && names.iter().any(|name| name.starts_with("consolidated")) {
        return ": it is in Meta's own format (params.json); download the files for transformers instead, or convert it \
                with the script convert_llama_weights_to_hf that comes with transformers"
            .into();
    }
    if has("consolidated.safetensors") {
        return ": its consolidated.safetensors has tensor names of another program's; download the files that \
             transformers loads"
            .into();
    }
    if !safetensors.is_empty() {
        return format!(
            ": it has {}, which transformers does not load of its own accord; give the file itself, or rename it",
            list(&safetensors)
        );
    }
    let unfinished = ending(&[".incomplete", ".part", ".crdownload", ".aria2", ".tmp"]);
    if !unfinished.is_empty() {
        return format!(": a download is not finished ({}); finish it", list(&unfinished));
    }
    let mut weights = ending(&[".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx"]);
    let of_training = |name: &&String| TRAINING.iter().any(|begin| name.starts_with(begin));
    if !weights.is_empty() && weights.iter().all(&of_training) {
        return format!(": it has {}, the state of a training, but no weights of a model", list(&weights));
    }
    weights.retain(|name| !of_training(name));
    if let Some(first) = weights.first() {
        return format!(": it has only {}{}", list(&weights), named(Path::new(first), ", "));
    }
    let below = models_below(directory, &names);
    if !below.is_empty() {
        return format!(": the models lie in directories below it: {}; give one of them", list(&below));
    }
    format!(": it has only {}", list(&names))
}

/// How files begin that training leaves beside the weights.
const TRAINING: &[&str] = &["training_args", "optimizer", "scheduler", "rng_state", "scaler", "trainer_state"];

/// A model that a directory is not itself, but an addition to.
pub fn adapter(directory: &Path) -> String {
    let config = contents(&directory.join("adapter_config.json"))
        .ok()
        .and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let kind = config.as_ref().and_then(|config| config.get("peft_type")?.as_str()).unwrap_or("LORA");
    let kind = if kind == "LORA" { "a LoRA".to_owned() } else { format!("a PEFT {kind}") };
    let base = config
        .as_ref()
        .and_then(|config| config.get("base_model_name_or_path")?.as_str())
        .map_or(String::new(), |base| format!(" of {base}"));
    format!(
        "{kind} adapter (adapter_config.json){base}, not a whole model; merge it first, with PEFT: \
         AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload().save_pretrained(OUT)"
    )
}

/// Directories below this one that look like models, also those of a Hugging Face cache.
fn models_below(directory: &Path, names: &[String]) -> Vec<String> {
    let looks = |path: &Path| {
        path.join("config.json").exists() || !self::names(path).iter().all(|name| !name.ends_with(".safetensors"))
    };
    let mut found = Vec::new();
    for name in names.iter().filter(|name| directory.join(name).is_dir()) {
        let path = directory.join(name);
        if looks(&path) {
            found.push(name.clone());
        } else if name == "snapshots" {
            found.extend(self::names(&path).into_iter().map(|hash| format!("snapshots/{hash}")));
        }
    }
    found
}
