//! What is refused, and what goes wrong: exit codes, messages, nothing left behind.

use super::*;

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
    let said = program(args!["eval", "gpt2-nowhere", "--tokens", tokens]);
    let message = "no such model; one on the Hugging Face Hub is called ORGANISATION/NAME";
    assert!(said.code == Some(3) && said.err.contains(message), "{said:?}");
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
    scene.refused(
        args!["eval", scene.path("model"), "--tokens", tokens],
        3,
        "value 7 is NaN or infinite; the checkpoint is damaged",
    );
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
    scene.refused(
        args!["run", model, "-o", out, "--eval", tokens, "--calibration", scene.tokens("good.json", 2, 5)],
        3,
        "outside of the vocabulary",
    );
    let long = scene.tokens("long.json", 1, 38);
    scene.refused(args!["eval", model, "--tokens", long], 3, "row 0 has 38 tokens, the model has positions for 37");
    let short = scene.put("short.json", "{\"input_ids\": [[1, 2], [3]]}");
    scene.refused(args!["eval", model, "--tokens", short], 3, "row 1 has fewer than two tokens: nothing to predict");
    scene.refused(args!["eval", model, "--tokens", scene.path("absent.json")], 3, "absent.json");

    for (name, text, message) in [
        ("empty.txt", b"".as_slice(), "empty.txt: holds no text"),
        ("blank.txt", b" \n\n \n\n", "blank.txt: holds no text"),
        ("empty.jsonl", b"\n", "empty.jsonl: holds no text"),
        (
            "bad.jsonl",
            b"{\"text\": \"w1\"}\n{\"body\": \"w2\"}\n",
            "bad.jsonl: line 2: expected a JSON string or an object with \"text\"",
        ),
        ("latin.txt", b"caf\xe9", "latin.txt: not UTF-8 text"),
        ("fine.txt", b"w1 w2 w3", "no tokenizer.json beside the model: put the model's there, or give token ids"),
    ] {
        let text = scene.put(name, text);
        scene.refused(args!["eval", model, "--text", text], 3, message);
    }
    scene.refused(
        args!["run", model, "-o", out, "--calibration", scene.path("empty.txt")],
        3,
        "empty.txt: holds no text",
    );
    scene.refused(
        args!["run", model, "-o", out, "--calibration", scene.path("fine.txt")],
        3,
        "no tokenizer.json beside the model",
    );
    scene.refused(args!["generate", model, "--prompt", "w1"], 3, "no tokenizer.json beside the model");
    scene.put("model/tokenizer.json", "{\"version\": \"1.0\"}");
    scene.refused(args!["eval", model, "--text", scene.path("fine.txt")], 3, "tokenizer.json");
    scene.tokenizer(json!({}));
    scene.refused(
        args!["eval", model, "--text", scene.path("fine.txt")],
        3,
        "fine.txt has 3 tokens, fewer than one window of 37",
    );
}

#[test]
fn an_existing_output_is_refused_without_force() {
    let scene = Scene::new(LLAMA);
    let tokens = scene.tokens("tokens.json", 2, 8);
    let (model, out) = (scene.path("model"), scene.path("out"));
    fs::create_dir(&out).expect("a directory");
    scene.put("out/precious", "precious");
    scene.refused(
        args!["run", model, "-o", out, "--calibration", tokens],
        2,
        "out already exists; give another --output, or --force to replace it",
    );
    let file = scene.put("file", "precious");
    scene.refused(args!["run", model, "-o", file, "--calibration", tokens], 2, "file already exists");
    scene.refused(
        args!["run", model, "-o", file, "--calibration", tokens, "--force"],
        2,
        "file is not a directory, and will not be replaced",
    );
    let foreign =
        "out is neither empty nor an output of this program, and will not be replaced; give another directory";
    scene.refused(args!["run", model, "-o", out, "--calibration", tokens, "--force"], 2, foreign);
    for (nameless, message) in
        [(".", "is not a name for an output directory"), ("..", "holds the input"), ("/", "holds the input")]
    {
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
    for output in [
        model.clone(),
        scene.directory.path().to_owned(),
        scene.path("model/"),
        scene.path("texts/../model"),
        file.clone(),
    ] {
        for input in [&model, &file] {
            scene.refused(args!["run", input, "-o", output, "--calibration", tokens, "--force"], 2, message);
            scene.refused(args!["run", input, "-o", output, "--calibration", tokens], 2, message);
            scene.refused(
                args!["run", input, "-o", output, "--calibration", tokens, "--force", "--dry-run"],
                2,
                message,
            );
        }
    }
    scene.refused(
        args!["run", model, "-o", scene.path("texts"), "--calibration", tokens, "--force"],
        2,
        "holds the input",
    );
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
    scene.refused(
        args!["logits", model, "--tokens", tokens, "-o", model, "--force"],
        2,
        "is a directory; give the name of a file",
    );
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
    scene.refused(
        args!["run", model, "-o", out, "--sparsity", "0.9"],
        2,
        "leaves nothing of hidden_size 24; lower either",
    );
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
        assert!(
            said.code == Some(2) && said.err.contains(flag.split('=').next().unwrap_or_default()),
            "{flag}: {said:?}"
        );
    }
    for flag in
        ["--temperature=-1", "--temperature=nan", "--temperature=inf", "--top-p=0", "--top-p=1.5", "--top-p=nan"]
    {
        scene.refused(
            args!["generate", model, "--prompt", "x", flag],
            2,
            "expected --temperature of at least 0 and --top-p in 0 < p <= 1",
        );
    }
    let dry = args!["run", model, "-o", out, "--dry-run", "--max-gpu-memory", "64KiB"];
    scene.refused(dry, 5, "--max-gpu-memory is too low by ");
    scene.refused(args!["run", model, "-o", out, "--max-host-memory", "1MiB"], 5, "--max-host-memory is too low by ");
    let said = program(args!["run", model, "-o", out, "--max-gpu-memory", "1 apple"]);
    assert!(said.code == Some(2) && said.err.contains("expected a size such as 3GiB or 500MB"), "{said:?}");
    assert_eq!(program(args!["eval", model]).code, Some(2));
    let tokens = scene.tokens("tokens.json", 3, 8);
    scene.refused(
        args!["run", model, "-o", out, "--calibration", tokens, "--cal-nsamples", "4"],
        2,
        "--cal-nsamples 4, but",
    );
    scene.refused(
        args!["run", model, "-o", out, "--calibration", tokens, "--cal-nsamples", "4", "--dry-run"],
        2,
        "tokens.json has 3 rows",
    );
    assert!(!out.exists());
}

/// The program under a limit on the size of files, 4 or 8 MiB as the shell counts, whose violation fails writes as a
/// full disk does. A lower one would hit SwiftShader, which keeps the code that it compiles in unnamed files.
#[cfg(target_os = "linux")]
pub fn with_small_files(arguments: &[&OsStr]) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\"")
        .arg(PROGRAM)
        .args(arguments)
        .env("MESA_SHADER_CACHE_DISABLE", "true");
    command
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing_behind() {
    // So many tokens that both outputs are larger than the limit.
    let scene = Scene::with_vocabulary(100_000);
    let (model, out, file) = (scene.path("model"), scene.path("a/out"), scene.path("logits.safetensors"));
    let tokens = scene.tokens("tokens.json", 2, 30);
    scene.refused_with(
        &mut with_small_files(args!["run", model, "-o", out, "--calibration", tokens]),
        7,
        "cannot write",
    );
    scene.refused_with(
        &mut with_small_files(args!["logits", model, "--tokens", tokens, "-o", file]),
        7,
        "logits.safetensors: ",
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_or_closed_terminal_is_no_panic() {
    let scene = Scene::new(LLAMA);
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let lost = said_into(Command::new(PROGRAM).args(["devices", "--json"]), full().into(), Stdio::piped());
    assert!(lost.0 == Some(7) && lost.1.contains("cannot write standard output"), "{lost:?}");
    let mute =
        said_into(Command::new(PROGRAM).args(args!["run", scene.path("missing")]), Stdio::piped(), full().into());
    assert_eq!(mute.0, Some(3));
    let warned = said_into(
        Command::new(PROGRAM).args(args!["run", scene.path("model"), "--dry-run"]),
        Stdio::piped(),
        full().into(),
    );
    assert_eq!(warned.0, Some(0), "a warning that nobody can read");
}

#[cfg(target_os = "linux")]
fn said_into(command: &mut Command, out: Stdio, err: Stdio) -> (Option<i32>, String) {
    let output = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .and_then(|child| child.wait_with_output())
        .expect("a process");
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
        scene.refused(
            args!["run", scene.path("model"), "-o", parent.join("out"), "--calibration", tokens],
            7,
            "cannot write",
        );
    }
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o755)).expect("permissions");
}

#[cfg(unix)]
#[test]
fn interrupting_before_anything_is_done_stops_soon_and_leaves_nothing_behind() {
    let scene = Scene::new(LLAMA);
    for sent in [Signal::INT, Signal::TERM] {
        let before = scene.contents();
        let mut child = Command::new(PROGRAM)
            .args(args![
                "run",
                scene.path("model"),
                "-o",
                scene.path("out"),
                "--cal-nsamples",
                "3000",
                "--cal-max-seqlen",
                "128"
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process");
        let started = Instant::now();
        while !names(scene.directory.path()).iter().any(|name| name.ends_with(".partial")) {
            assert!(
                child.try_wait().expect("a state").is_none() && started.elapsed() < Duration::from_secs(60),
                "no temporary directory appeared"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(300));
        signal(&child, sent);
        let output = child.wait_with_output().expect("an end");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{err}");
        assert!(err.contains("error: interrupted"), "{err}");
        assert!(scene.contents() == before, "{:?}", names(scene.directory.path()));
    }
}
