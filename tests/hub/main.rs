//! Is a model found on the Hub, and put into the cache as huggingface_hub would, whatever the server does? A local
//! server answers as the Hub does: with redirects, ranges, errors, and transfers that break.

#[path = "../support/mod.rs"]
mod support;
mod transfers;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use slicegpt_gpu::{
    Error,
    hub::{Settings, find},
    progress::{Progress, Silent},
};
use support::names;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a server does otherwise than the Hub at its best.
#[derive(Default)]
struct Mood {
    /// Answers, each given once, to requests whose address has this in it: status and headers.
    answers: Vec<(&'static str, u16, &'static str)>,
    /// After how many bytes transfers of weights break.
    breaks_after: Option<usize>,
    /// Whether it sends the wrong bytes.
    lies: bool,
    /// Whether it knows no ranges.
    no_ranges: bool,
    /// Whether connections that break stay open, and nothing comes any more.
    stalls: bool,
    /// Whether it sends the beginning, whichever part it is asked for.
    begins_anew: bool,
    /// How many bytes more it sends than there are.
    more: usize,
}

/// A request that came: address, and the headers that matter.
#[derive(Debug, Clone, PartialEq)]
struct Came {
    host: String,
    path: String,
    token: Option<String>,
    range: Option<String>,
}

struct Server {
    port: u16,
    came: Arc<Mutex<Vec<Came>>>,
    mood: Arc<Mutex<Mood>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// One with these files in the repository `org/name`.
    fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let files: BTreeMap<String, Vec<u8>> =
            files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        let (came, mood) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Mood::default())));
        let (seen, moods) = (Arc::clone(&came), Arc::clone(&mood));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away in between is none of the server's business.
                let _ = answer(stream, &files, port, &seen, &moods);
            }
        });
        Self { port, came, mood }
    }

    fn settings(&self, cache: &Path) -> Settings {
        Settings {
            endpoint: format!("http://127.0.0.1:{}", self.port),
            cache: cache.to_owned(),
            token: Some("secret".into()),
            offline: false,
            patience: Duration::from_millis(1),
            stall: Duration::from_secs(30),
        }
    }

    fn came(&self) -> Vec<Came> {
        std::mem::take(&mut *locked(&self.came))
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Files over this size are large, and come from another server.
const LARGE: usize = 1000;

fn listing(files: &BTreeMap<String, Vec<u8>>) -> Value {
    let file = |(name, bytes): (&String, &Vec<u8>)| {
        let mut listed = json!({ "rfilename": name, "size": bytes.len(), "blobId": hash(bytes)[..40] });
        if bytes.len() > LARGE {
            listed["lfs"] = json!({ "sha256": hash(bytes), "size": bytes.len(), "pointerSize": 130 });
        }
        listed
    };
    json!({ "sha": COMMIT, "siblings": files.iter().map(file).collect::<Vec<_>>() })
}

fn answer(
    mut stream: TcpStream,
    files: &BTreeMap<String, Vec<u8>>,
    port: u16,
    seen: &Mutex<Vec<Came>>,
    mood: &Mutex<Mood>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let header = |name: &str| headers.get(name).cloned();
    let (host, range) = (header("host").unwrap_or_default(), header("range"));
    let token = header("authorization");
    locked(seen).push(Came { host, path: path.clone(), token, range: range.clone() });
    let mut mood = locked(mood);
    let mut say = |status: u16, more: &str, body: &[u8]| {
        let length =
            if more.contains("content-length") { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let head = format!("HTTP/1.1 {status} X\r\n{more}{length}connection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body))
    };
    if let Some(at) = mood.answers.iter().position(|(part, ..)| path.contains(part)) {
        let (_, status, more) = mood.answers.remove(at);
        return say(status, more, b"");
    }
    if path.starts_with("/api/models/org/name/revision/") {
        return say(200, "", listing(files).to_string().as_bytes());
    }
    if let Some(name) = path.strip_prefix(&format!("/org/name/resolve/{COMMIT}/")) {
        let Some(bytes) = files.get(name) else { return say(404, "x-error-code: EntryNotFound\r\n", b"") };
        return match bytes.len() > LARGE {
            // By another name of the same machine.
            true => say(302, &format!("location: http://localhost:{port}/cdn/{name}\r\n"), b""),
            false => say(200, "", bytes),
        };
    }
    let Some(bytes) = path.strip_prefix("/cdn/").and_then(|name| files.get(name)) else {
        return say(404, "x-error-code: RepoNotFound\r\n", b"");
    };
    let mut bytes = if mood.lies { vec![0; bytes.len()] } else { bytes.clone() };
    bytes.resize(bytes.len() + mood.more, 0);
    let from = range
        .filter(|_| !mood.no_ranges)
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let status = if from.is_some() { 206 } else { 200 };
    let from = from.map(|from| if mood.begins_anew { 0 } else { from });
    let rest = &bytes[from.unwrap_or(0).min(bytes.len())..];
    if from.is_some_and(|from| from >= bytes.len()) {
        return say(416, "", b"");
    }
    let sent = mood.breaks_after.map_or(rest.len(), |most| most.min(rest.len()));
    let more = format!(
        "content-length: {}\r\ncontent-range: bytes {}-{}/{}\r\n",
        rest.len(),
        from.unwrap_or(0),
        bytes.len() - 1,
        bytes.len()
    );
    say(status, &more, &rest[..sent])?;
    if mood.stalls && sent < rest.len() {
        thread::spawn(move || {
            thread::sleep(STALL);
            drop(stream);
        });
    }
    Ok(())
}

/// How long connections stay open that bring nothing.
const STALL: Duration = Duration::from_secs(60);

fn weights(seed: u8) -> Vec<u8> {
    (0..20_000u32).map(|at| (at.wrapping_mul(31) >> 3) as u8 ^ seed).collect()
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{ }".to_vec()),
        ("LICENSE", b"terms".to_vec()),
        ("model.safetensors", weights(0)),
        ("pytorch_model.bin", weights(1)),
        ("onnx/model.onnx", weights(2)),
        ("picture.png", b"png".to_vec()),
        ("additional_chat_templates/rag.jinja", b"rag".to_vec()),
    ]
}

fn refused(name: &str, settings: &Settings) -> String {
    let error = find(Path::new(name), settings, &Silent).expect_err("refused");
    assert_eq!(error.exit_code(), 3, "{error}");
    error.to_string()
}

#[test]
fn what_counts_is_downloaded_once_into_the_cache_of_huggingface_hub() {
    let server = Server::new(&files());
    let cache = tempfile::tempdir().expect("a directory");
    let settings = server.settings(cache.path());
    let found = find(Path::new("org/name"), &settings, &Silent).expect("a model");
    let repository = cache.path().join("models--org--name");
    assert_eq!(found, repository.join("snapshots").join(COMMIT));
    assert_eq!(
        names(&found),
        ["LICENSE", "additional_chat_templates", "config.json", "model.safetensors", "tokenizer.json"]
    );
    assert!(fs::read(found.join("model.safetensors")).expect("weights") == weights(0));
    assert_eq!(fs::read_to_string(repository.join("refs/main")).expect("a commit"), COMMIT);
    assert!(names(&repository.join("blobs")).contains(&hash(&weights(0))), "{:?}", names(&repository.join("blobs")));
    #[cfg(unix)]
    {
        let link = fs::read_link(found.join("model.safetensors")).expect("a link");
        assert_eq!(link, PathBuf::from(format!("../../blobs/{}", hash(&weights(0)))));
        let link = fs::read_link(found.join("additional_chat_templates/rag.jinja")).expect("a link");
        assert!(link.starts_with("../../../blobs"), "{link:?}");
    }
    let came = server.came();
    let token = |came: &Came| came.token.as_deref() == Some("Bearer secret");
    for request in &came {
        assert_eq!(token(request), request.host.starts_with("127.0.0.1"), "the token goes nowhere else: {request:?}");
    }
    assert!(came.iter().any(|request| request.host.starts_with("localhost")), "{came:?}");
    // Once more: what is there is there.
    assert_eq!(find(Path::new("org/name"), &settings, &Silent).expect("a model"), found);
    let came = server.came();
    assert_eq!(came.len(), 1, "{came:?}");
    // A commit never changes, and needs no question.
    assert_eq!(find(Path::new(&format!("org/name@{COMMIT}")), &settings, &Silent).expect("a model"), found);
    assert_eq!(server.came(), []);
    // A file that was lost comes again, and it alone.
    fs::remove_file(found.join("tokenizer.json")).expect("a link");
    fs::remove_file(repository.join("blobs").join(&hash(b"{ }")[..40])).expect("a blob");
    find(Path::new("org/name"), &settings, &Silent).expect("a model");
    let paths: Vec<String> = server.came().into_iter().map(|came| came.path).collect();
    assert!(paths.len() == 2 && paths[1].ends_with("/tokenizer.json"), "{paths:?}");
}

#[test]
fn weights_that_config_json_names_come_in_place_of_the_usual_ones() {
    let config = json!({ "transformers_weights": "other.safetensors" }).to_string().into_bytes();
    let index = json!({ "weight_map": { "a": "part.safetensors" } }).to_string().into_bytes();
    let of = |named: &str| json!({ "transformers_weights": named }).to_string().into_bytes();
    for (files, wanted) in [
        (
            vec![("model.safetensors", weights(0)), ("other.safetensors", weights(1)), ("config.json", config.clone())],
            vec!["config.json", "other.safetensors"],
        ),
        (
            vec![
                ("model.safetensors", weights(0)),
                ("part.safetensors", weights(1)),
                ("other.safetensors.index.json", index),
                ("config.json", of("other.safetensors.index.json")),
            ],
            vec!["config.json", "other.safetensors.index.json", "part.safetensors"],
        ),
    ] {
        let server = Server::new(&files);
        let cache = tempfile::tempdir().expect("a directory");
        let settings = server.settings(cache.path());
        let found = find(Path::new("org/name"), &settings, &Silent).expect("a model");
        assert_eq!(names(&found), wanted);
        let offline = Settings { offline: true, ..settings };
        assert_eq!(find(Path::new("org/name"), &offline, &Silent).expect("the copy"), found);
        // The usual ones are no help.
        fs::remove_file(found.join(wanted[wanted.len() - 1])).expect("a link");
        fs::write(found.join("model.safetensors"), b"").expect("a file");
        refused("org/name", &offline);
    }
    let server = Server::new(&[("model.safetensors", weights(0)), ("config.json", config)]);
    let cache = tempfile::tempdir().expect("a directory");
    let error = refused("org/name", &server.settings(cache.path()));
    assert!(error.contains("names \"other.safetensors\"") && error.contains("does not have"), "{error}");
}

#[test]
fn a_commit_of_which_others_took_the_weights_alone_is_completed() {
    let server = Server::new(&files());
    let cache = tempfile::tempdir().expect("a directory");
    let settings = server.settings(cache.path());
    let name = format!("org/name@{COMMIT}");
    let found = find(Path::new(&name), &settings, &Silent).expect("a model");
    server.came();
    find(Path::new(&name), &settings, &Silent).expect("the copy");
    assert_eq!(server.came(), [], "a commit never changes");
    fs::remove_file(found.join("tokenizer.json")).expect("a link");
    find(Path::new(&name), &settings, &Silent).expect("a model");
    assert!(found.join("tokenizer.json").is_file());
}

#[test]
fn an_address_in_place_of_a_name_is_answered_with_the_name() {
    let server = Server::new(&files());
    let cache = tempfile::tempdir().expect("a directory");
    let error = refused("https://huggingface.co/org/name/tree/v1", &server.settings(cache.path()));
    assert!(error.ends_with("an address; give the name alone: org/name@v1"), "{error}");
    assert_eq!(server.came(), []);
}

#[test]
fn what_cannot_be_had_is_refused_with_what_to_do() {
    let server = Server::new(&files());
    let cache = tempfile::tempdir().expect("a directory");
    let settings = server.settings(cache.path());
    for (status, headers, message) in [
        (401, "x-error-code: GatedRepo\r\n", "accept its terms at http://127.0.0.1"),
        (403, "", "the token that is set has no access to it"),
        (401, "", "hf auth login"),
        (404, "x-error-code: RepoNotFound\r\n", "no such repository"),
        (404, "x-error-code: RevisionNotFound\r\n", "no revision \"main\""),
        (404, "", "check the name"),
        (418, "", "answers 418"),
        (302, "", "redirects to no address"),
        (302, "location: /api/models/org/name/revision/main\r\n", "circles"),
    ] {
        locked(&server.mood).answers = vec![("/api/", status, headers); if status == 302 { 40 } else { 1 }];
        let error = refused("org/name", &settings);
        assert!(error.contains(message), "{status} {headers}: {error}");
    }
    locked(&server.mood).answers = vec![("/api/", 403, "")];
    assert!(refused("org/name", &Settings { token: None, ..settings }).contains("no token is set"));
}

#[test]
fn shards_are_those_of_the_index_and_a_gguf_file_is_named() {
    let index = json!({ "weight_map": { "a": "model-1.safetensors", "b": "model-2.safetensors" } }).to_string();
    let sharded = [
        ("config.json", b"{}".to_vec()),
        ("model.safetensors.index.json", index.into_bytes()),
        ("model-1.safetensors", weights(1)),
        ("model-2.safetensors", weights(2)),
        ("model-3.safetensors", weights(3)),
    ];
    let server = Server::new(&sharded);
    let cache = tempfile::tempdir().expect("a directory");
    let found = find(Path::new("org/name@main"), &server.settings(cache.path()), &Silent).expect("a model");
    assert_eq!(
        names(&found),
        ["config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"]
    );
    let server = Server::new(&sharded[..3]);
    let other = tempfile::tempdir().expect("a directory");
    let error = refused("org/name", &server.settings(other.path()));
    assert!(error.contains("names model-2.safetensors, which the repository does not have"), "{error}");
    let server = Server::new(&[("x.Q4_K_M.gguf", weights(0)), ("x.Q8_0.gguf", weights(1)), ("README.md", vec![])]);
    let cache = tempfile::tempdir().expect("a directory");
    let settings = server.settings(cache.path());
    let error = refused("org/name", &settings);
    assert!(error.contains("such as org/name/x.Q4_K_M.gguf"), "{error}");
    let found = find(Path::new("org/name/x.Q8_0.gguf"), &settings, &Silent).expect("a file");
    assert!(fs::read(&found).expect("the file") == weights(1));
    assert_eq!(names(found.parent().expect("a directory")), ["x.Q8_0.gguf"]);
    assert!(refused("org/name/y.gguf", &settings).contains("has no y.gguf"));
    let all = ["x-00001-of-00003.gguf", "x-00002-of-00003.gguf", "x-00003-of-00003.gguf"];
    let others = ["y-00001-of-00002.gguf", "z-00002-of-00002.gguf"].map(String::from);
    let named: Vec<String> = all.map(|name| format!("q/{name}")).into_iter().chain(others).collect();
    let split: Vec<_> = (0..).zip(&named).map(|(number, name)| (name.as_str(), weights(number))).collect();
    let server = Server::new(&split);
    let settings = server.settings(cache.path());
    let listed = "name/q/x-00001-of-00003.gguf; there are q/x-00001-of-00003.gguf, y-00001-of-00002.gguf";
    assert!(refused("org/name", &settings).ends_with(listed), "each model once");
    let found = find(Path::new("org/name/q/x-00002-of-00003.gguf"), &settings, &Silent).expect("a file");
    assert!(found.ends_with("q/x-00002-of-00003.gguf") && fs::read(&found).expect("the file") == weights(1));
    assert_eq!(names(found.parent().expect("a directory")), all);
    // Not if one of the others is not there: neither here nor on the Hub.
    let offline = Settings { offline: true, ..server.settings(cache.path()) };
    find(Path::new("org/name/q/x-00001-of-00003.gguf"), &offline, &Silent).expect("a model");
    fs::remove_file(found.with_file_name("x-00003-of-00003.gguf")).expect("a link");
    assert!(refused("org/name/q/x-00001-of-00003.gguf", &offline).contains("HF_HUB_OFFLINE"));
    let reason = "has no y-00002-of-00002.gguf, which goes with y-00001-of-00002.gguf";
    assert!(refused("org/name/y-00001-of-00002.gguf", &settings).contains(reason));
    for (only, message) in [("pytorch_model.bin", "PyTorch"), ("adapter_config.json", "LoRA"), ("x.png", "no weights")]
    {
        let server = Server::new(&[(only, b"x".to_vec())]);
        let error = refused("org/name", &server.settings(other.path()));
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn files_that_lead_out_of_the_cache_are_refused() {
    for name in ["../../evil.json", "/etc/evil.json", "a/../../evil.json"] {
        let server = Server::new(&[("model.safetensors", weights(0)), (name, b"{}".to_vec())]);
        let cache = tempfile::tempdir().expect("a directory");
        let error = refused("org/name", &server.settings(cache.path()));
        assert!(error.contains("leads out of the repository"), "{error}");
        assert!(names(cache.path()).is_empty());
    }
}

#[test]
fn offline_the_cache_alone_counts_and_a_path_that_is_there_always_does() {
    let server = Server::new(&files());
    let cache = tempfile::tempdir().expect("a directory");
    let offline = Settings { offline: true, ..server.settings(cache.path()) };
    let error = refused("org/name", &offline);
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    assert_eq!(server.came(), []);
    let found = find(Path::new("org/name"), &server.settings(cache.path()), &Silent).expect("a model");
    server.came();
    assert_eq!(find(Path::new("org/name"), &offline, &Silent).expect("a model"), found);
    // Not if it is there in part.
    fs::remove_file(found.join("model.safetensors")).expect("a link");
    refused("org/name", &offline);
    assert_eq!(server.came(), []);
    let local = cache.path().join("org/name");
    fs::create_dir_all(&local).expect("a directory");
    for path in [local.as_path(), Path::new("not-a-name"), Path::new("../org/name")] {
        assert_eq!(find(path, &server.settings(cache.path()), &Silent).expect("a path"), path);
    }
    assert_eq!(server.came(), []);
}

#[test]
fn every_command_takes_a_name_and_the_environment_says_where_and_who() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/llama_gqa_tied");
    let read = |name: &str| fs::read(fixture.join(name)).expect("a file");
    let server = Server::new(&[
        ("config.json", read("config.json")),
        ("model.safetensors", read("model.safetensors")),
        ("tokenizer_config.json", b"{}".to_vec()),
    ]);
    let home = tempfile::tempdir().expect("a directory");
    fs::write(home.path().join("token"), "stored\n").expect("a token");
    let program = |arguments: &[&str], more: &[(&str, &str)]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_slicegpt-gpu"));
        for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
            command.env_remove(name);
        }
        // A proxy of this machine knows nothing of the server.
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", format!("http://127.0.0.1:{}/", server.port)).env("HF_HOME", home.path());
        command.envs(more.iter().copied()).args(arguments).current_dir(home.path());
        let output = command.output().expect("a process");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = program(&["verify", "org/name"], &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(home.path().join("hub/models--org--name/refs/main").is_file());
    let tokens: Vec<_> = server.came().into_iter().filter_map(|came| came.token).collect();
    assert!(!tokens.is_empty() && tokens.iter().all(|token| token == "Bearer stored"), "{tokens:?}");
    // An output without a name is called after the repository, here.
    let (code, said) = program(&["export", "org/name", "--format", "gguf", "--no-tokenizer"], &[("HF_TOKEN", "given")]);
    assert_eq!(code, Some(0), "{said}");
    assert!(home.path().join("name-f16.gguf").is_file(), "{:?}", names(home.path()));
    assert_eq!(server.came()[0].token.as_deref(), Some("Bearer given"));
    fs::write(home.path().join("tokens.json"), json!({ "input_ids": vec![[1, 2, 3, 4, 5, 6, 7, 8]; 4] }).to_string())
        .expect("tokens");
    let dry = ["run", "org/name@main", "--calibration", "tokens.json", "--dry-run", "--json"];
    let (code, said) = program(&dry, &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(server.came(), []);
    let elsewhere = home.path().join("elsewhere").display().to_string();
    let offline = [("HF_HUB_OFFLINE", "1"), ("HF_HUB_CACHE", elsewhere.as_str())];
    let (code, said) = program(&["verify", "org/name"], &offline);
    assert!(code == Some(3) && said.contains("HF_HUB_OFFLINE"), "{code:?} {said}");
}
