//! Does the program do what it says, and when it cannot: the right exit code, a message that helps, and nothing left behind?

mod support;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};
use slicegpt_gpu::checkpoint::{Checkpoint, Dtype};
use support::fixture;
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
        let paragraph = |random: &mut Random| (0..words).map(|_| format!("w{}", 10 + random.below(known))).collect::<Vec<_>>().join(" ");
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

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
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

const LLAMA: &str = "llama_gqa_tied";

#[test]
fn models_that_cannot_be_read_are_refused() {
    let scene = Scene::new(LLAMA);
    let (model, out) = (scene.path("model"), scene.path("out"));
    let tokens = scene.tokens("tokens.json", 2, 8);
    let each = |path: &Path, message: &str| {
        scene.refused(args!["run", path, "-o", out, "--calibration", tokens], 3, message);
        scene.refused(args!["run", path, "-o", out, "--dry-run"], 3, message);
        scene.refused(args!["eval", path, "--tokens", tokens], 3, message);
        scene.refused(args!["generate", path, "--prompt", "x"], 3, message);
        scene.refused(args!["logits", path, "--tokens", tokens, "-o", scene.path("logits.safetensors")], 3, message);
    };
    each(&scene.path("missing"), "missing: no such model");
    each(&scene.path("missing.safetensors"), "no such model");
    let notes = scene.put("notes.txt", "hello");
    each(&notes, "notes.txt: expected a .safetensors file or a directory with one");
    let garbage = scene.put("garbage.safetensors", "this is not a safetensors file at all");
    each(&garbage, "garbage.safetensors: not a valid safetensors file");
    each(scene.directory.path(), "has neither model.safetensors nor model.safetensors.index.json");
    let config = fs::read_to_string(model.join("config.json")).expect("a config");
    fs::write(model.join("config.json"), config.replace("\"llama\"", "\"mamba\"")).expect("a file");
    each(&model, "unknown model_type \"mamba\" in");
    fs::write(model.join("config.json"), config.replace("131", "132")).expect("a file");
    each(&model, "tensor model.embed_tokens.weight in");
    fs::write(model.join("config.json"), "{").expect("a file");
    each(&model, "config.json: EOF");
    fs::remove_file(model.join("config.json")).expect("no config");
    each(&model.join("model.safetensors"), "config.json");
}

/// Where the data of a tensor lies in a safetensors file.
fn place(bytes: &[u8], name: &str) -> usize {
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let fields: Value = serde_json::from_slice(&bytes[8..8 + header]).expect("a header");
    8 + header + fields[name]["data_offsets"][0].as_u64().expect("an offset") as usize
}

#[test]
fn a_nan_in_the_last_layer_stops_the_run_without_a_trace() {
    let scene = Scene::new(LLAMA);
    let path = scene.path("model/model.safetensors");
    let mut bytes = fs::read(&path).expect("weights");
    let start = place(&bytes, "model.layers.1.mlp.down_proj.weight") + 4 * 7;
    bytes[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).expect("a file");
    let tokens = scene.tokens("tokens.json", 2, 8);
    let message = "tensor model.layers.1.mlp.down_proj.weight in";
    scene.refused(args!["run", scene.path("model"), "-o", scene.path("a/b/out"), "--calibration", tokens], 3, message);
    scene.refused(args!["eval", scene.path("model"), "--tokens", tokens], 3, "value 7 is NaN or infinite; the checkpoint is damaged");
}

#[test]
fn tokens_and_texts_that_the_model_cannot_take_are_refused() {
    let scene = Scene::new("opt_relu");
    let (model, out) = (scene.path("model"), scene.path("out"));
    for (text, message) in [
        ("{\"input_ids\": [[1, 2], []]}", "row 1 of input_ids is empty"),
        ("{\"input_ids\": []}", "input_ids has no rows"),
        ("not json", "expected {\"input_ids\": [[token ids], ...]}"),
        ("", "expected {\"input_ids\": [[token ids], ...]}"),
        ("[[1, 2]]", "expected {\"input_ids\": [[token ids], ...]}"),
        ("{\"input_ids\": [1, 2]}", "expected {\"input_ids\": [[token ids], ...]}"),
        ("{\"input_ids\": [[1, -2]]}", "expected {\"input_ids\": [[token ids], ...]}"),
        ("{\"input_ids\": [[1, 4294967296]]}", "expected {\"input_ids\": [[token ids], ...]}"),
        ("{\"input_ids\": [[1, 2], [3, 77, 4]]}", "token 1 of row 1 is 77, outside of the vocabulary of 77"),
    ] {
        let tokens = scene.put("tokens.json", text);
        scene.refused(args!["eval", model, "--tokens", tokens], 3, message);
        scene.refused(args!["logits", model, "--tokens", tokens, "-o", scene.path("logits.safetensors")], 3, message);
    }
    let tokens = scene.path("tokens.json");
    scene.refused(args!["run", model, "-o", out, "--calibration", tokens], 3, "outside of the vocabulary of 77");
    scene.refused(args!["run", model, "-o", out, "--eval", tokens, "--calibration", scene.tokens("good.json", 2, 5)], 3, "outside of the vocabulary");
    let long = scene.tokens("long.json", 1, 38);
    scene.refused(args!["eval", model, "--tokens", long], 3, "row 0 has 38 tokens, the model has positions for 37");
    let short = scene.put("short.json", "{\"input_ids\": [[1, 2], [3]]}");
    scene.refused(args!["eval", model, "--tokens", short], 3, "row 1 has fewer than two tokens: nothing to predict");
    scene.refused(args!["eval", model, "--tokens", scene.path("absent.json")], 3, "absent.json");

    for (name, text, message) in [
        ("empty.txt", b"".as_slice(), "empty.txt: holds no text"),
        ("blank.txt", b" \n\n \n\n", "blank.txt: holds no text"),
        ("empty.jsonl", b"\n", "empty.jsonl: holds no text"),
        ("bad.jsonl", b"{\"text\": \"w1\"}\n{\"body\": \"w2\"}\n", "bad.jsonl: line 2: expected a JSON string or an object with \"text\""),
        ("latin.txt", b"caf\xe9", "latin.txt: not UTF-8 text"),
        ("fine.txt", b"w1 w2 w3", "no tokenizer.json beside the model: give token ids in a .json file instead of text"),
    ] {
        let text = scene.put(name, text);
        scene.refused(args!["eval", model, "--text", text], 3, message);
    }
    scene.refused(args!["run", model, "-o", out, "--calibration", scene.path("empty.txt")], 3, "empty.txt: holds no text");
    scene.refused(args!["run", model, "-o", out, "--calibration", scene.path("fine.txt")], 3, "no tokenizer.json beside the model");
    scene.refused(args!["generate", model, "--prompt", "w1"], 3, "no tokenizer.json beside the model");
    scene.put("model/tokenizer.json", "{\"version\": \"1.0\"}");
    scene.refused(args!["eval", model, "--text", scene.path("fine.txt")], 3, "tokenizer.json");
    scene.tokenizer(json!({}));
    scene.refused(args!["eval", model, "--text", scene.path("fine.txt")], 3, "fine.txt has 3 tokens, fewer than one window of 37");
}

#[test]
fn without_an_adapter_nothing_is_done() {
    let scene = Scene::new(LLAMA);
    let tokens = scene.tokens("tokens.json", 2, 8);
    scene.tokenizer(json!({}));
    let (model, out, file) = (scene.path("model"), scene.path("out"), scene.path("logits.safetensors"));
    let commands: [&[&OsStr]; 5] = [
        args!["run", model, "-o", out, "--calibration", tokens],
        args!["eval", model, "--tokens", tokens],
        args!["generate", model, "--prompt", "w5"],
        args!["logits", model, "--tokens", tokens, "-o", file],
        args!["devices"],
    ];
    for arguments in commands {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent").env("WGPU_BACKEND", "vulkan");
        scene.refused_with(&mut command, 4, "no GPU adapter found: install your GPU's Vulkan driver");
    }
}

#[test]
fn an_unknown_device_is_refused_with_the_known_ones() {
    let scene = Scene::new(LLAMA);
    let tokens = scene.tokens("tokens.json", 2, 8);
    let devices = program(&["devices", "--json"]).json();
    let name = devices[0]["name"].as_str().expect("a name");
    for wanted in ["no such card", "99", "-1"] {
        let device = format!("--device={wanted}");
        scene.refused(
            args!["run", scene.path("model"), "-o", scene.path("out"), "--calibration", tokens, device],
            4,
            &format!("no adapter {wanted}; there are: 0 ({name})"),
        );
    }
}

#[test]
fn devices_are_told_as_json() {
    let devices = program(&["devices", "--json"]).json();
    let devices = devices.as_array().expect("an array");
    for (index, device) in devices.iter().enumerate() {
        assert_eq!(device["index"], json!(index));
        assert_eq!(device["default"], json!(index == 0));
        assert!(device["max_storage_buffer_binding_size"].as_u64().is_some_and(|bytes| bytes >= 128 << 20), "{device}");
        for text in ["name", "device_type", "backend", "driver"] {
            assert!(device[text].as_str().is_some_and(|text| !text.is_empty()), "{text}: {device}");
        }
    }
    let table = program(&["devices"]);
    assert!(table.out.contains(devices[0]["name"].as_str().expect("a name")) && table.out.contains("(default)"), "{table:?}");
}

#[test]
fn an_existing_output_is_refused_without_force() {
    let scene = Scene::new(LLAMA);
    let tokens = scene.tokens("tokens.json", 2, 8);
    let (model, out) = (scene.path("model"), scene.path("out"));
    fs::create_dir(&out).expect("a directory");
    scene.put("out/precious", "precious");
    scene.refused(args!["run", model, "-o", out, "--calibration", tokens], 2, "out already exists; give another --output, or --force to replace it");
    let file = scene.put("file", "precious");
    scene.refused(args!["run", model, "-o", file, "--calibration", tokens], 2, "file already exists");
    scene.refused(args!["run", model, "-o", file, "--calibration", tokens, "--force"], 2, "file is not a directory, and will not be replaced");
    for (nameless, message) in [(".", "is not a name for an output directory"), ("..", "holds the input"), ("/", "holds the input")] {
        let mut command = Command::new(PROGRAM);
        command.current_dir(&out).args(args!["run", model, "-o", nameless, "--calibration", tokens, "--force"]);
        scene.refused_with(&mut command, 2, message);
    }
}

#[test]
fn inputs_are_never_overwritten() {
    let scene = Scene::new(LLAMA);
    fs::create_dir(scene.path("texts")).expect("a directory");
    let (model, tokens) = (scene.path("model"), scene.tokens("texts/tokens.json", 2, 8));
    let file = model.join("model.safetensors");
    let message = "which would be overwritten; give another directory";
    for output in [model.clone(), scene.directory.path().to_owned(), scene.path("model/"), scene.path("texts/../model"), file.clone()] {
        for input in [&model, &file] {
            scene.refused(args!["run", input, "-o", output, "--calibration", tokens, "--force"], 2, message);
            scene.refused(args!["run", input, "-o", output, "--calibration", tokens], 2, message);
            scene.refused(args!["run", input, "-o", output, "--calibration", tokens, "--force", "--dry-run"], 2, message);
        }
    }
    scene.refused(args!["run", model, "-o", scene.path("texts"), "--calibration", tokens, "--force"], 2, "holds the input");
    scene.refused(args!["run", model, "-o", scene.path("texts"), "--eval", tokens, "--force"], 2, "holds the input");
    #[cfg(unix)]
    {
        fs::create_dir_all(scene.path("blobs")).expect("a directory");
        fs::rename(&file, scene.path("blobs/0123")).expect("a move");
        std::os::unix::fs::symlink(scene.path("blobs/0123"), &file).expect("a link");
        std::os::unix::fs::symlink(&model, scene.path("alias")).expect("a link");
        scene.refused(args!["run", model, "-o", scene.path("blobs"), "--calibration", tokens, "--force"], 2, message);
        scene.refused(args!["run", model, "-o", scene.path("alias"), "--calibration", tokens, "--force"], 2, message);
    }
    for output in [file, model.join("config.json"), tokens.clone(), scene.path("texts/../model/model.safetensors")] {
        scene.refused(args!["logits", model, "--tokens", tokens, "-o", output], 2, "which would be overwritten");
    }
    scene.refused(args!["logits", model, "--tokens", tokens, "-o", model], 2, "is a directory; give the name of a file");
}

#[test]
fn flags_that_make_no_sense_are_usage_errors() {
    let scene = Scene::new(LLAMA);
    let (model, out) = (scene.path("model"), scene.path("out"));
    for sparsity in ["1", "-0.1", "nan", "inf", "1e9", "-inf"] {
        let flag = format!("--sparsity={sparsity}");
        scene.refused(args!["run", model, "-o", out, flag], 2, "expected 0 <= sparsity < 1");
        scene.refused(args!["run", model, flag], 2, "expected 0 <= sparsity < 1");
    }
    scene.refused(args!["run", model, "-o", out, "--sparsity", "-0.1"], 2, "expected 0 <= sparsity < 1");
    scene.refused(args!["run", model, "-o", out, "--sparsity", "0.9"], 2, "leaves nothing of hidden_size 24; lower either");
    scene.refused(args!["run", model, "-o", out, "--round-interval", "0"], 2, "an interval of at least 1");
    for flag in [
        "--sparsity=x",
        "--cal-nsamples=0",
        "--cal-max-seqlen=1",
        "--cal-batch-size=0",
        "--seed=-1",
        "--final-orientation=up",
        "--dtype=i8",
        "--what",
    ] {
        let said = program(args!["run", model, "-o", out, flag]);
        assert!(said.code == Some(2) && said.err.contains(flag.split('=').next().unwrap_or_default()), "{flag}: {said:?}");
    }
    for flag in ["--temperature=-1", "--temperature=nan", "--temperature=inf", "--top-p=0", "--top-p=1.5", "--top-p=nan"] {
        scene.refused(args!["generate", model, "--prompt", "x", flag], 2, "expected --temperature of at least 0 and --top-p in 0 < p <= 1");
    }
    assert_eq!(program(args!["eval", model]).code, Some(2));
    let tokens = scene.tokens("tokens.json", 3, 8);
    scene.refused(args!["run", model, "-o", out, "--calibration", tokens, "--cal-nsamples", "4"], 2, "--cal-nsamples 4, but");
    scene.refused(args!["run", model, "-o", out, "--calibration", tokens, "--cal-nsamples", "4", "--dry-run"], 2, "tokens.json has 3 rows");
    assert!(!out.exists());
}

/// The program under a limit on the size of files, whose violation fails writes as a full disk does.
#[cfg(target_os = "linux")]
fn with_small_files(arguments: &[&OsStr]) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg("trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"").arg(PROGRAM).args(arguments).env("MESA_SHADER_CACHE_DISABLE", "true");
    command
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing_behind() {
    let scene = Scene::new(LLAMA);
    let tokens = scene.tokens("tokens.json", 2, 30);
    let (model, out, file) = (scene.path("model"), scene.path("a/out"), scene.path("logits.safetensors"));
    scene.refused_with(&mut with_small_files(args!["run", model, "-o", out, "--calibration", tokens]), 7, "cannot write");
    scene.refused_with(&mut with_small_files(args!["logits", model, "--tokens", tokens, "-o", file]), 7, "logits.safetensors: ");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_or_closed_terminal_is_no_panic() {
    let scene = Scene::new(LLAMA);
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let lost = said_into(Command::new(PROGRAM).args(["devices", "--json"]), full().into(), Stdio::piped());
    assert!(lost.0 == Some(7) && lost.1.contains("cannot write standard output"), "{lost:?}");
    let mute = said_into(Command::new(PROGRAM).args(args!["run", scene.path("missing")]), Stdio::piped(), full().into());
    assert_eq!(mute.0, Some(3));
    let warned = said_into(Command::new(PROGRAM).args(args!["run", scene.path("model"), "--dry-run"]), Stdio::piped(), full().into());
    assert_eq!(warned.0, Some(0), "a warning that nobody can read");
}

#[cfg(target_os = "linux")]
fn said_into(command: &mut Command, out: Stdio, err: Stdio) -> (Option<i32>, String) {
    let output = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().and_then(|child| child.wait_with_output()).expect("a process");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[cfg(unix)]
#[test]
fn an_output_that_cannot_be_made_is_a_disk_error() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new(LLAMA);
    let tokens = scene.tokens("tokens.json", 2, 8);
    let below = scene.put("file", "precious").join("out");
    scene.refused(args!["run", scene.path("model"), "-o", below, "--calibration", tokens], 7, "cannot write");
    let parent = scene.path("locked");
    fs::create_dir(&parent).expect("a directory");
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o555)).expect("permissions");
    // Root may write anywhere.
    if fs::write(parent.join("probe"), "").is_err() {
        scene.refused(args!["run", scene.path("model"), "-o", parent.join("out"), "--calibration", tokens], 7, "cannot write");
    }
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o755)).expect("permissions");
}

#[cfg(unix)]
#[test]
fn interrupting_stops_soon_and_leaves_nothing_behind() {
    let scene = Scene::new(LLAMA);
    for signal in ["-INT", "-TERM"] {
        let before = scene.contents();
        let mut child = Command::new(PROGRAM)
            .args(args!["run", scene.path("model"), "-o", scene.path("out"), "--cal-nsamples", "3000", "--cal-max-seqlen", "128"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process");
        let started = Instant::now();
        while !names(scene.directory.path()).iter().any(|name| name.ends_with(".tmp")) {
            assert!(child.try_wait().expect("a state").is_none() && started.elapsed() < Duration::from_secs(60), "no temporary directory appeared");
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(300));
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill").success());
        let output = child.wait_with_output().expect("an end");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{err}");
        assert!(err.contains("error: interrupted; nothing was written"), "{err}");
        assert!(scene.contents() == before, "{:?}", names(scene.directory.path()));
    }
}

#[test]
fn a_run_on_text_writes_a_whole_model_and_measures_on_the_held_out_end() {
    let scene = Scene::new(LLAMA);
    scene.tokenizer(json!({}));
    scene.put("model/generation_config.json", "{ \"dummy\":   true }\n");
    scene.put("model/README.md", "the original's");
    scene.put("model/training_args.bin", "not for the output");
    let rows = scene.paragraphs(19, 150);
    let text = scene.put("text.txt", rows.join("\n\n"));
    let (model, out) = (scene.path("model"), scene.path("out"));
    let before = scene.contents();
    let report = program(args!["run", model, "-o", out, "--calibration", text, "--cal-nsamples", "6", "--cal-max-seqlen", "64", "--json"]).json();

    assert_eq!(names(&out), ["README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]);
    for name in ["tokenizer.json", "generation_config.json"] {
        assert!(fs::read(out.join(name)).expect("a copy") == fs::read(model.join(name)).expect("the original"), "{name}");
    }
    assert!(contents(&model).iter().all(|file| before.contains(file)), "the input is as it was");
    assert!(names(scene.directory.path()).iter().all(|name| !name.contains("tmp") && !name.contains("old")));

    let (original, config) = (read_json(&model.join("config.json")), read_json(&out.join("config.json")));
    for (name, value) in original.as_object().expect("an object") {
        let expected = if name == "model_type" { json!("sliced_llama") } else { value.clone() };
        assert_eq!(config[name], expected, "{name}");
    }
    assert_eq!(config["slicing"]["method"], "slicegpt");
    assert_eq!(config["slicing"]["norm_width"], 24);
    assert_eq!(config["slicing"]["sparsity"], 0.25);
    let widths = |output| json!({ "attention_input": 16, "mlp_input": 16, "output": output });
    assert_eq!(config["slicing"]["layers"], json!([widths(16), widths(24)]));
    assert_eq!(config["slicing"]["calibration_sha256"], report["calibration"]["sha256"]);

    assert_eq!(report["schema_version"], 1);
    assert_eq!((&report["hidden_size"], &report["sliced_width"]), (&json!(24), &json!(16)));
    assert_eq!((&report["calibration"]["sequences"], &report["calibration"]["tokens"]), (&json!(6), &json!(6 * 64)));
    assert_eq!((&report["perplexity"]["sequences"], &report["perplexity"]["tokens"]), (&json!(2), &json!(2 * 127)));
    let checkpoint = Checkpoint::open(&out).expect("the output");
    let parameters: usize = checkpoint.names().filter_map(|name| checkpoint.tensor(name)).map(|tensor| tensor.shape.iter().product::<usize>()).sum();
    assert_eq!(report["sliced_parameters"], json!(parameters));
    let dense = Checkpoint::open(&model).expect("the input");
    let parameters: usize = dense.names().filter_map(|name| dense.tensor(name)).map(|tensor| tensor.shape.iter().product::<usize>()).sum();
    assert_eq!(report["original_parameters"], json!(parameters));
    assert_eq!(report["layers"].as_array().map(Vec::len), Some(2));
    assert!(report["layers"][0]["kept_energy"][0].as_f64().is_some_and(|kept| (0.5..=1.0).contains(&kept)), "{report}");
    assert!(report["largest_eigen_residual"].as_f64().is_some_and(|residual| residual < 1e-10), "{report}");
    assert!(report["largest_orthogonality_error"].as_f64().is_some_and(|error| error < 1e-10), "{report}");
    for phase in ["perplexity before", "slice", "perplexity after"] {
        assert!(report["seconds"][phase].as_f64().is_some_and(|seconds| seconds > 0.0), "{phase}: {report}");
    }
    let listed: Vec<&str> = report["files"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert!(names(&out).iter().all(|name| listed.contains(&name.as_str())) && listed.len() == names(&out).len(), "{listed:?}");
    assert!(fs::read_to_string(out.join("README.md")).expect("a model card").starts_with("# model, sliced"));

    // The last tenth of 19 equal paragraphs: those from which on more than 17.1 have been seen.
    let tail = scene.put("tail.txt", rows[17..].join("\n\n"));
    for (path, field) in [(&model, "original"), (&out, "sliced")] {
        let evaluated = program(args!["eval", path, "--text", tail, "--json"]).json();
        let (found, reported) = (&evaluated["perplexity"], &report["perplexity"][field]);
        assert!(
            (found.as_f64().expect("a number") / reported.as_f64().expect("a number") - 1.0).abs() < 1e-9,
            "{field}: {found}, reported {reported}"
        );
    }

    scene.refused(args!["run", out, "-o", scene.path("again"), "--calibration", text], 2, "this model is sliced already; slice the original");

    // jsonl of the same rows is the same text.
    let lines: String = rows
        .iter()
        .enumerate()
        .map(|(row, text)| if row % 2 == 0 { format!("{}\n", json!(text)) } else { format!("{}\n", json!({ "text": text })) })
        .collect();
    let lines = scene.put("text.jsonl", lines);
    let again =
        program(args!["run", model, "-o", out, "--calibration", lines, "--cal-nsamples", "6", "--cal-max-seqlen", "64", "--json", "--force"]).json();
    assert_eq!(again["calibration"]["sha256"], report["calibration"]["sha256"]);
    assert_eq!(again["perplexity"]["sliced"], report["perplexity"]["sliced"]);
}

#[test]
fn force_replaces_the_output_whole() {
    let scene = Scene::new("phi_half_rotary");
    let (model, out, tokens) = (scene.path("model"), scene.path("out"), scene.tokens("tokens.json", 4, 12));
    fs::create_dir(&out).expect("a directory");
    scene.put("out/stale", "stale");
    let said = program(args!["run", model, "-o", out, "--calibration", tokens, "--cal-nsamples", "3", "--force"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(names(&out), ["README.md", "config.json", "model.safetensors"]);
    assert_eq!(names(scene.directory.path()), ["model", "out", "tokens.json"]);
    for word in ["parameters", "perplexity", "kept energy", "largest eigen-residual", "written", "layer 0"] {
        assert!(said.out.contains(word), "{word}: {said:?}");
    }
}

#[test]
fn the_default_output_lies_beside_the_model_and_self_calibration_needs_no_text() {
    let scene = Scene::new(LLAMA);
    let flags = ["--cal-nsamples", "4", "--cal-max-seqlen", "16", "--json"];
    let report = said(Command::new(PROGRAM).arg("run").arg(scene.path("model")).args(flags)).json();
    assert_eq!(names(scene.directory.path()), ["model", "model-sliced-25"]);
    assert_eq!((&report["calibration"]["sequences"], &report["calibration"]["tokens"]), (&json!(4), &json!(64)));
    assert!(report["perplexity"]["sliced"].as_f64().is_some_and(|perplexity| perplexity > 1.0), "{report}");
    let said = said(
        Command::new(PROGRAM)
            .current_dir(scene.path("model"))
            .args(["run", "model.safetensors", "--sparsity", "0.3", "--round-interval", "1"])
            .args(flags),
    );
    assert_eq!(said.json()["sliced_width"], 16);
    assert!(scene.path("model/model-sliced-30/config.json").exists(), "{said:?}");
}

#[test]
fn the_same_seed_writes_the_same_bytes() {
    let scene = Scene::new("opt_relu");
    let run = |out: &str, seed: &str, orientation: &str| {
        let flags = ["--cal-nsamples", "3", "--cal-max-seqlen", "12", "--seed", seed, "--final-orientation", orientation];
        let said = said(Command::new(PROGRAM).arg("run").arg(scene.path("model")).arg("-o").arg(scene.path(out)).args(flags));
        assert_eq!(said.code, Some(0), "{said:?}");
        contents(&scene.path(out)).into_iter().map(|(path, bytes)| (path.file_name().unwrap_or_default().to_owned(), bytes)).collect::<Vec<_>>()
    };
    let first = run("a", "7", "random");
    assert!(first == run("b", "7", "random"), "two runs with one seed differ");
    assert!(first != run("c", "8", "random"), "another seed changes nothing");
}

#[test]
fn every_kind_of_checkpoint_runs_and_reads_back() {
    for (name, flag, dtype) in [
        ("llama_sharded", None, Dtype::F32),
        ("llama_f16", None, Dtype::F16),
        ("llama_bf16", None, Dtype::BF16),
        ("llama_f16", Some("f32"), Dtype::F32),
        ("gpt2_hub_names", Some("f16"), Dtype::F16),
        ("opt_plain_layer_norm", Some("bf16"), Dtype::BF16),
        ("gpt_neox_parallel", None, Dtype::F32),
        ("qwen3_tied", None, Dtype::F32),
    ] {
        let scene = Scene::new(name);
        let (out, tokens, eval) = (scene.path("out"), scene.tokens("tokens.json", 3, 10), scene.tokens("eval.json", 2, 9));
        let mut command = Command::new(PROGRAM);
        command.args(args!["run", scene.path("model"), "-o", out, "--calibration", tokens, "--eval", eval, "--json"]);
        if let Some(flag) = flag {
            command.args(["--dtype", flag]);
        }
        let report = said(&mut command).json();
        let checkpoint = Checkpoint::open(&out).expect("the output");
        for tensor in checkpoint.names().filter_map(|name| checkpoint.tensor(name)) {
            assert_eq!(tensor.dtype, dtype, "{name}");
        }
        assert_eq!(report["sliced_bytes"], json!(checkpoint.byte_len()), "{name}");
        let stored = read_json(&out.join("config.json"))["dtype"].clone();
        let expected = match dtype {
            Dtype::F16 => "float16",
            Dtype::BF16 => "bfloat16",
            _ => "float32",
        };
        assert!(stored.is_null() || stored == expected, "{name}: {stored}");
        // Under another extension, too: --tokens says what it is.
        let renamed = scene.path("eval.ids");
        fs::rename(&eval, &renamed).expect("a new name");
        let evaluated = program(args!["eval", out, "--tokens", renamed, "--json"]).json();
        let (found, reported) = (&evaluated["perplexity"], &report["perplexity"]["sliced"]);
        assert!(
            (found.as_f64().expect("a number") / reported.as_f64().expect("a number") - 1.0).abs() < 1e-9,
            "{name}: {found}, reported {reported}"
        );
        assert_eq!(evaluated["parameters"], report["sliced_parameters"], "{name}");
    }
}

#[test]
fn a_dry_run_writes_nothing_and_warns_of_growth() {
    let scene = Scene::new(LLAMA);
    let before = scene.contents();
    let dry = |flags: &[&str]| said(Command::new(PROGRAM).arg("run").arg(scene.path("model")).arg("--dry-run").args(flags));
    let said = dry(&["--sparsity", "0.1"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("warning: the result is larger than the original: "), "{said:?}");
    assert!(said.out.contains("would write") && said.out.contains("model-sliced-10: model.safetensors, config.json, README.md"), "{said:?}");
    let report = dry(&["--sparsity", "0.1", "--json"]).json();
    assert!(report["percent_removed"].as_f64().is_some_and(|percent| percent < 0.0), "{report}");
    assert!(report["warnings"][0].as_str().is_some_and(|warning| warning.contains("larger than the original")), "{report}");
    assert_eq!((&report["dry_run"], &report["perplexity"], &report["calibration"]), (&json!(true), &Value::Null, &Value::Null));
    assert!(report["memory"][0]["gpu_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{report}");
    let said = dry(&["--sparsity", "0.6"]);
    assert!(!said.err.contains("larger") && said.code == Some(0), "{said:?}");
    assert!(scene.contents() == before);
}

#[test]
fn logits_are_written_under_the_right_names_and_shapes() {
    let path = fixture("parity/opt_relu");
    let scene = Scene::new("opt_relu");
    let output = scene.path("logits.safetensors");
    let said = program(args!["logits", path, "--tokens", path.join("tokens.json"), "-o", output]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{said:?}");
    assert_eq!(names(scene.directory.path()), ["logits.safetensors", "model"]);
    let checkpoint = Checkpoint::open(&output).expect("logits");
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["logits.0", "logits.1", "logits.2"]);
    for (row, ids) in support::tokens(&path.join("tokens.json")).iter().enumerate() {
        let tensor = checkpoint.tensor(&format!("logits.{row}")).expect("a row");
        assert_eq!((tensor.shape, tensor.dtype), ([ids.len(), 77].as_slice(), Dtype::F32));
        let expected = support::tensor(&path.join("logits.safetensors"), &format!("logits.{row}"));
        assert!(support::relative_error(&support::tensor(&output, &format!("logits.{row}")), &expected) < 1e-5, "row {row}");
    }
}

#[test]
fn generation_at_temperature_zero_is_the_greedy_rollout() {
    let scene = Scene::new("llama_mha_untied");
    scene.tokenizer(json!({}));
    let model = scene.path("model");
    let generate = |flags: &[&str]| {
        let said = said(Command::new(PROGRAM).arg("generate").arg(&model).args(["--prompt", "w5 w17 w30", "--max-new-tokens", "9"]).args(flags));
        assert_eq!(said.code, Some(0), "{said:?}");
        said.out
    };
    let text = generate(&["--temperature", "0"]);
    assert!(text.starts_with("w5 w17 w30 w") && text.ends_with('\n'), "{text:?}");
    assert_eq!(text, generate(&["--temperature", "0", "--seed", "1"]));
    assert_eq!(generate(&["--temperature", "1.5"]), generate(&["--temperature", "1.5", "--seed", "42"]));
    let ids: Vec<u32> = text.split_whitespace().map(|word| word[1..].parse().expect("a word of the tokenizer")).collect();
    let tokens = scene.put("tokens.json", json!({ "input_ids": [ids] }).to_string());
    let output = scene.path("logits.safetensors");
    assert_eq!(program(args!["logits", model, "--tokens", tokens, "-o", output]).code, Some(0));
    let logits = support::tensor(&output, "logits.0");
    let vocabulary = scene.vocabulary() as usize;
    let likeliest = |position: usize| {
        let row = &logits[position * vocabulary..][..vocabulary];
        (0..vocabulary).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("a token") as u32
    };
    for position in 2..ids.len() - 1 {
        assert_eq!(ids[position + 1], likeliest(position), "position {position} of {ids:?}");
    }
    let eos = read_json(&model.join("config.json"))["eos_token_id"].as_u64().expect("an id") as u32;
    assert!(ids.len() == 12 || likeliest(ids.len() - 1) == eos, "{ids:?} stops early");
}

#[test]
fn a_tokenizer_that_cuts_and_fills_does_neither_here() {
    let scene = Scene::new(LLAMA);
    let (model, text) = (scene.path("model"), scene.put("text.txt", scene.paragraphs(1, 300).join("")));
    let evaluate = || program(args!["eval", model, "--text", text, "--seqlen", "50", "--json"]).json();
    scene.tokenizer(json!({}));
    let plain = evaluate();
    assert_eq!(plain["sequences"], 6);
    scene.tokenizer(json!({
        "truncation": { "direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0 },
        "padding": { "strategy": { "Fixed": 512 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "w0" }
    }));
    let cut = evaluate();
    assert_eq!((&cut["sequences"], &cut["perplexity"]), (&plain["sequences"], &plain["perplexity"]));
}

#[test]
fn a_tokenizer_that_contradicts_itself_is_a_bad_file_and_no_panic() {
    let scene = Scene::new(LLAMA);
    let (model, text) = (scene.path("model"), scene.put("text.txt", "w1 w2 w3"));
    let bpe = |vocab: Value, merges: Value, prefix: Value| json!({ "model": { "type": "BPE", "vocab": vocab, "merges": merges, "continuing_subword_prefix": prefix } });
    for changes in [
        bpe(json!({ "a": 0, "b": 1 }), json!(["a b"]), json!(null)),
        bpe(json!({ "a": 0, "é": 1 }), json!(["a é"]), json!("#####")),
        json!({ "normalizer": { "type": "Precompiled", "precompiled_charsmap": "/////zE=" } }),
        json!({ "pre_tokenizer": { "type": "FixedLength", "length": 0 } }),
        json!({ "post_processor": {
            "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [], "special_tokens": {}
        } }),
        json!({ "model": { "type": "WordLevel", "vocab": {}, "unk_token": "w0" } }),
        json!({ "model": { "type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 7 } }),
    ] {
        scene.tokenizer(changes);
        scene.refused(args!["eval", model, "--text", text], 3, "");
        scene.refused(args!["generate", model, "--prompt", "w1"], 3, "");
    }
}

#[test]
fn a_text_of_blank_lines_is_drawn_from_in_no_time() {
    let scene = Scene::new(LLAMA);
    scene.tokenizer(json!({}));
    let text = scene.put("text.txt", format!("{}{}", "\n\n".repeat(300_000), scene.paragraphs(30, 20).join("\n\n")));
    let started = Instant::now();
    let said =
        program(args!["run", scene.path("model"), "-o", scene.path("out"), "--calibration", text, "--cal-nsamples", "4", "--cal-max-seqlen", "16"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn absurd_numbers_of_positions_are_refused_before_memory_is_taken() {
    let scene = Scene::new(LLAMA);
    scene.tokenizer(json!({}));
    let path = scene.path("model/config.json");
    let config = fs::read_to_string(&path).expect("a config");
    fs::write(&path, config.replace("\"max_position_embeddings\": 128", "\"max_position_embeddings\": 268435456")).expect("a file");
    let out = scene.path("out");
    scene.refused(args!["run", scene.path("model"), "-o", out, "--cal-max-seqlen", "268435456", "--cal-nsamples", "1"], 5, "lower");
    scene.refused(args!["generate", scene.path("model"), "--prompt", "", "--max-new-tokens", "268435455"], 5, "lower");
}

#[cfg(target_os = "linux")]
#[test]
fn paths_that_are_not_utf8_work() {
    use std::os::unix::ffi::OsStrExt;
    let scene = Scene::new(LLAMA);
    let odd = |name: &[u8]| scene.directory.path().join(OsStr::from_bytes(name));
    let (model, out) = (odd(b"mod\xffel"), odd(b"o\xfeut"));
    fs::rename(scene.path("model"), &model).expect("a new name");
    let tokens = odd(b"t\xff.json");
    fs::write(&tokens, json!({ "input_ids": [[5, 6, 7, 8], [9, 10, 11]] }).to_string()).expect("a file");
    let report = program(args!["run", model, "-o", out, "--calibration", tokens, "--eval", tokens, "--json"]).json();
    let evaluated = program(args!["eval", out, "--tokens", tokens, "--json"]).json();
    assert_eq!(evaluated["perplexity"], report["perplexity"]["sliced"]);
}
