//! Does the program do what it says, and when it cannot: the right exit code, a message that helps, and nothing left
//! behind?

mod against;
mod bases;
mod cards;
mod companions;
mod compressing;
mod devices;
mod export;
mod export_tokenizers;
mod files;
mod gguf;
#[path = "../support/gguf_reader.rs"]
mod gguf_reader;
#[path = "../support/gguf_split.rs"]
mod gguf_split;
mod help;
mod memory;
mod mixtures;
mod pruning;
mod recovering;
mod refusals;
mod requests;
mod resume;
mod runs;
mod snapshots;
mod stops;
#[path = "../support/mod.rs"]
mod support;
mod texts;
mod verify;
mod vocabulary;
mod writes;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

#[cfg(unix)]
use rustix::process::Signal;
use serde_json::{Map, Value, json};
use slicegpt_gpu::checkpoint::{Checkpoint, Dtype};
use support::{fixture, names};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_slicegpt-gpu");

/// What one run of the program said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn said(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().expect("a process");
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn program<S: AsRef<OsStr>>(arguments: &[S]) -> Said {
    said(Command::new(PROGRAM).args(arguments))
}

/// A temporary directory with a model and whatever else a run is given.
struct Scene {
    directory: TempDir,
}

impl Scene {
    /// A copy of a fixture as `model`, without its tokens and logits.
    fn new(name: &str) -> Self {
        let scene = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        fs::create_dir(scene.path("model")).expect("a directory");
        for entry in fs::read_dir(fixture("parity").join(name)).expect("a fixture") {
            let from = entry.expect("an entry").path();
            let file = from.file_name().unwrap_or_default();
            if file != "tokens.json" && file != "logits.safetensors" {
                fs::copy(&from, scene.path("model").join(file)).expect("a copy");
            }
        }
        scene
    }

    /// The same of a llama with this many tokens, of other weights.
    fn with_vocabulary(size: u32) -> Self {
        use slicegpt_gpu::{
            checkpoint::{Dtype, OutputDirectory},
            model::Config,
            progress::Silent,
            synthetic::{TokenRows, write},
        };
        let scene = Self::new(LLAMA);
        let model = scene.path("model");
        let mut fields = read_json(&model.join("config.json"));
        fields["vocab_size"] = json!(size);
        let config = Config::from_fields(fields.as_object().expect("fields").clone(), &model).expect("a config");
        fs::remove_dir_all(&model).expect("another model");
        let directory = OutputDirectory::create(&model, false).expect("a directory");
        write(&directory, &config, Dtype::F32, TokenRows { rows: 1, len: 1 }, 0, &Silent).expect("a model");
        directory.finish().expect("a model");
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("a file");
        path
    }

    fn vocabulary(&self) -> u32 {
        read_json(&self.path("model/config.json"))["vocab_size"].as_u64().expect("vocab_size") as u32
    }

    /// A token file of random rows.
    fn tokens(&self, name: &str, rows: usize, length: usize) -> PathBuf {
        let vocabulary = self.vocabulary();
        let mut random = Random(rows as u64 * 1000 + length as u64);
        let rows: Vec<Vec<u32>> = (0..rows).map(|_| (0..length).map(|_| random.below(vocabulary)).collect()).collect();
        self.put(name, json!({ "input_ids": rows }).to_string())
    }

    /// A tokenizer beside the model: one token for each of the words w0, w1, …
    fn tokenizer(&self, changes: Value) {
        let vocab: Map<String, Value> = (0..self.vocabulary()).map(|id| (format!("w{id}"), json!(id))).collect();
        let mut tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "w0" }
        });
        for (name, value) in changes.as_object().expect("an object") {
            tokenizer[name] = value.clone();
        }
        self.put("model/tokenizer.json", tokenizer.to_string());
    }

    /// Paragraphs of random words of that tokenizer, all equally long.
    fn paragraphs(&self, count: usize, words: usize) -> Vec<String> {
        let mut random = Random(count as u64);
        let known = self.vocabulary().min(100) - 10;
        let paragraph = |random: &mut Random| {
            (0..words).map(|_| format!("w{}", 10 + random.below(known))).collect::<Vec<_>>().join(" ")
        };
        (0..count).map(|_| paragraph(&mut random)).collect()
    }

    /// All files below, with their contents.
    fn contents(&self) -> Vec<(PathBuf, Vec<u8>)> {
        contents(self.directory.path())
    }

    /// Runs the program, which must fail so and leave everything as it was.
    fn refused(&self, arguments: &[&OsStr], code: i32, message: &str) {
        self.refused_with(Command::new(PROGRAM).args(arguments), code, message);
    }

    fn refused_with(&self, command: &mut Command, code: i32, message: &str) {
        let before = self.contents();
        let said = said(command);
        assert_eq!(said.code, Some(code), "{command:?}: {said:?}");
        // What stands before are warnings, ours and those of graphics libraries.
        let last = said.err.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && last.contains(message), "{command:?}: expected {message:?}: {said:?}");
        assert!(!said.err.contains("panicked"), "{said:?}");
        let after = self.contents();
        let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
        assert_eq!(names(&after), names(&before), "{command:?}");
        assert!(after == before, "{command:?} changed a file");
    }
}

fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.push((path.clone(), Vec::new()));
            all.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).unwrap_or_default();
            all.push((path, bytes));
        }
    }
    all.sort();
    all
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

/// A small generator (splitmix64): tests need no better.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((((z ^ (z >> 31)) >> 32) * u64::from(limit)) >> 32) as u32
    }
}

/// Arguments of mixed kinds.
macro_rules! args {
    ($($argument:expr),* $(,)?) => { &[$(AsRef::<OsStr>::as_ref(&$argument)),*] };
}
pub(crate) use args;

/// Sends a signal, without a program to do so.
#[cfg(unix)]
fn signal(child: &std::process::Child, signal: Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).expect("a process");
}

const LLAMA: &str = "llama_gqa_tied";
