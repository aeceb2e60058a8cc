//! Is a run that was stopped, in whatever way, resumed to the same bytes, and refused where that could not be?

use sha2::{Digest, Sha256};

use super::*;

/// The demo model, of five layers, and what a run of it wrote that nothing has stopped.
pub struct Runs {
    pub scene: Scene,
    tokens: PathBuf,
    /// How all of them make it smaller: the subcommand and its options.
    subcommand: &'static str,
    method: &'static [&'static str],
    pub expected: Vec<(PathBuf, Vec<u8>)>,
}

/// Commits of a run: tokens, perplexity before, embeddings, then the layers.
const STAGES: usize = 8;

impl Runs {
    pub fn new() -> Self {
        Self::of(&[])
    }

    pub fn of(method: &'static [&'static str]) -> Self {
        Self::with("run", method)
    }

    pub fn with(subcommand: &'static str, method: &'static [&'static str]) -> Self {
        let scene = Scene { directory: tempfile::tempdir().expect("a temporary directory") };
        fs::create_dir(scene.path("model")).expect("a directory");
        for name in ["config.json", "model.safetensors", "generation_config.json"] {
            fs::copy(
                Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo").join(name),
                scene.path("model").join(name),
            )
            .expect("a copy");
        }
        let tokens = scene.tokens("tokens.json", 6, 40);
        let mut runs = Self { scene, tokens, subcommand, method, expected: Vec::new() };
        let said = said(&mut runs.command("reference", &[]));
        assert_eq!(said.code, Some(0), "{said:?}");
        runs.expected = runs.output("reference");
        runs
    }

    pub fn command(&self, out: &str, flags: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        let path = |name: &str| self.scene.path(name);
        command.args(args![
            self.subcommand,
            path("model"),
            "-o",
            path(out),
            "--calibration",
            self.tokens,
            "--cal-nsamples",
            "5",
            "--cal-batch-size",
            "4"
        ]);
        command.args(self.method).args(flags);
        command
    }

    pub fn run(&self, out: &str, flags: &[&str]) -> Said {
        said(&mut self.command(out, flags))
    }

    pub fn output(&self, out: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let directory = self.scene.path(out);
        contents(&directory)
            .into_iter()
            .map(|(path, bytes)| (path.strip_prefix(&directory).expect("inside").into(), bytes))
            .collect()
    }

    pub fn partial(&self, out: &str, name: &str) -> PathBuf {
        self.scene.path(&format!(".{out}.partial")).join(name)
    }

    /// What is committed.
    pub fn state(&self, out: &str) -> Option<Value> {
        let bytes = fs::read(self.partial(out, "state")).ok()?;
        serde_json::from_slice(bytes.get(65..)?).ok()
    }

    /// How far it is, in commits.
    fn stage(&self, out: &str) -> usize {
        match self.state(out) {
            None => 0,
            Some(state) => match state["slicing"]["layers"].as_u64() {
                Some(layers) => 3 + layers as usize,
                None => 1 + usize::from(!state["before"].is_null()),
            },
        }
    }

    /// Writes a state as the program does.
    pub fn put_state(&self, out: &str, state: &Value) {
        let text = state.to_string();
        let hash: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(self.partial(out, "state"), format!("{hash}\n{text}")).expect("a state");
    }

    pub fn check(&self, out: &str, what: &str) {
        let found = self.output(out);
        let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found), names(&self.expected), "{what}");
        for ((path, found), (_, expected)) in found.iter().zip(&self.expected) {
            assert!(found == expected, "{what}: {} differs", path.display());
        }
    }

    /// Waits until a run is at a stage, or has ended.
    fn wait(&self, child: &mut std::process::Child, out: &str, stage: usize) {
        let began = Instant::now();
        while self.stage(out) < stage && child.try_wait().expect("a state").is_none() {
            assert!(began.elapsed() < Duration::from_secs(60), "stage {stage} is not reached");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// A run that was stopped after two layers.
    fn stopped(&self, out: &str) {
        let said = self.run(out, &["--stop-after", "2"]);
        assert!(said.code == Some(0) && said.err.contains("--resume continues"), "{said:?}");
        assert_eq!(self.stage(out), 5);
    }

    /// Going on must fail so, and leave what there is.
    pub fn refused(&self, out: &str, flags: &[&str], code: i32, message: &str) {
        let kept = self.scene.path(&format!(".{out}.partial"));
        let kept = || if kept.exists() { contents(&kept) } else { Vec::new() };
        let before = kept();
        let said = self.run(out, flags);
        assert_eq!(said.code, Some(code), "{flags:?}: {said:?}");
        let last = said.err.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && last.contains(message), "expected {message:?}: {said:?}");
        assert!(!said.err.contains("panicked"), "{said:?}");
        assert!(kept() == before, "{flags:?} changed what was kept");
    }
}

pub fn quietly(command: &mut Command) -> std::process::Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a process")
}

#[test]
fn killed_at_any_point_it_ends_in_the_same_bytes() {
    let runs = Runs::new();
    let mut random = Random(20261122);
    let mut kills = 0;
    let mut hit = [0; STAGES + 1];
    for round in 0..12 {
        let out = format!("out{round}");
        // The first kill of a round is at its own stage, so that all are hit; later ones strike the run that goes on.
        let mut stage = round % (STAGES + 1);
        loop {
            let flags: &[&str] = if runs.stage(&out) > 0 { &["--resume"] } else { &[] };
            let mut child = quietly(&mut runs.command(&out, flags));
            runs.wait(&mut child, &out, stage);
            std::thread::sleep(Duration::from_micros(u64::from(random.below(60_000))));
            child.kill().expect("kill -9");
            let finished = child.wait().expect("an end").success();
            if finished || runs.scene.path(&out).exists() {
                break;
            }
            kills += 1;
            hit[runs.stage(&out).min(STAGES)] += 1;
            stage = runs.stage(&out) + 1 + random.below(3) as usize;
            if stage > STAGES {
                let flags: &[&str] = if runs.stage(&out) > 0 { &["--resume"] } else { &[] };
                let said = runs.run(&out, flags);
                assert_eq!(said.code, Some(0), "round {round}: {said:?}");
            }
            if runs.scene.path(&out).exists() {
                break;
            }
        }
        runs.check(&out, &format!("round {round}, {kills} kills so far"));
    }
    println!("{kills} kills, by stage {hit:?}");
    assert!(kills >= 20, "only {kills} kills");
    assert!(hit[1..STAGES].iter().filter(|&&count| count > 0).count() >= 5, "kills by stage: {hit:?}");
}

#[cfg(unix)]
#[test]
fn interrupted_it_says_how_to_go_on_and_does() {
    let runs = Runs::new();
    let mut child = runs
        .command("out", &[])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    runs.wait(&mut child, "out", 4);
    signal(&child, Signal::INT);
    let output = child.wait_with_output().expect("an end");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(
        err.contains(".out.partial") && err.contains("the same command with --resume continues: interrupted"),
        "{err}"
    );
    assert!(!runs.scene.path("out").exists());
    let said = runs.run("out", &["--resume", "--json"]);
    assert_eq!(said.json()["finished"], json!(true));
    runs.check("out", "after Ctrl-C");
    assert_eq!(
        names(runs.scene.directory.path()),
        ["model", "out", "reference", "tokens.json"],
        "nothing is left beside it"
    );
}

#[test]
fn in_sittings_it_ends_in_the_same_bytes() {
    let runs = Runs::new();
    for (sitting, done) in [2, 4].into_iter().enumerate() {
        let flags: &[&str] =
            if sitting == 0 { &["--stop-after", "2", "--json"] } else { &["--stop-after", "2", "--resume", "--json"] };
        let report = runs.run("out", flags).json();
        assert_eq!((&report["finished"], &report["layers_done"]), (&json!(false), &json!(done)), "{report}");
    }
    let report = runs.run("out", &["--stop-after", "2", "--resume", "--json"]).json();
    assert_eq!((&report["finished"], &report["layers_done"]), (&json!(true), &json!(5)), "{report}");
    runs.check("out", "in three sittings");
}

#[test]
fn an_unfinished_run_is_neither_lost_nor_taken_for_another() {
    let runs = Runs::new();
    runs.refused("out", &["--resume"], 2, "nothing to resume");
    assert!(!runs.scene.path(".out.partial").exists());
    runs.stopped("out");
    runs.refused("out", &[], 2, "holds an unfinished run to");
    for (flags, message) in [
        (["--sparsity", "0.3"], "cannot resume: --sparsity was 0.25, and is 0.3 now"),
        (["--seed", "7"], "--seed was 42, and is 7 now"),
        (["--dtype", "f32"], "--dtype was"),
        (["--final-orientation", "random"], "--final-orientation was pca, and is random now"),
        (["--round-interval", "4"], "--round-interval was 8, and is 4 now"),
        (["--ppl-eval-seqlen", "64"], "--ppl-eval-seqlen was 2048, and is 64 now"),
    ] {
        runs.refused("out", &["--resume", flags[0], flags[1]], 2, message);
    }
    let mut other = Command::new(PROGRAM);
    let (model, out) = (runs.scene.path("model"), runs.scene.path("out"));
    other.args(args!["compress", model, "-o", out, "--calibration", runs.tokens, "--resume"]);
    let said = said(&mut other);
    assert!(said.code == Some(2) && said.err.contains("the method was slicegpt, and is compress now"), "{said:?}");
    let changed = |path: PathBuf, message: &str| {
        let bytes = fs::read(&path).expect("an input");
        let mut other = bytes.clone();
        let at = other.len() - 2;
        other[at] ^= 1;
        if path.extension().is_some_and(|extension| extension == "json") {
            other = [bytes.as_slice(), b" "].concat();
        }
        fs::write(&path, other).expect("another input");
        runs.refused("out", &["--resume"], 2, message);
        fs::write(&path, bytes).expect("the input");
    };
    changed(runs.scene.path("model/model.safetensors"), "cannot resume: the input model.safetensors was sha256");
    changed(runs.scene.path("model/config.json"), "cannot resume: the input config.json was sha256");
    changed(
        runs.scene.path("model/generation_config.json"),
        "cannot resume: the input generation_config.json was sha256",
    );
    changed(runs.tokens.clone(), "cannot resume: the input tokens.json was sha256");

    let state = runs.state("out").expect("a state");
    for (change, message) in [
        (json!(["identity", "the version of slicegpt-gpu", "0.0.1"]), "the version of slicegpt-gpu was 0.0.1"),
        (json!(["adapter", null, "another card"]), "the GPU was another card"),
        (json!(["format", null, 77]), "written by another version"),
    ] {
        let mut other = state.clone();
        let place = &mut other[change[0].as_str().expect("a name")];
        match change[1].as_str() {
            Some(name) => place[name] = change[2].clone(),
            None => *place = change[2].clone(),
        }
        runs.put_state("out", &other);
        runs.refused("out", &["--resume"], 2, message);
    }
    runs.put_state("out", &state);
    assert_eq!(runs.run("out", &["--resume"]).code, Some(0));
    runs.check("out", "after all refusals");

    runs.stopped("again");
    assert_eq!(runs.run("again", &["--force"]).code, Some(0));
    runs.check("again", "started over");
}

#[test]
fn a_run_that_replaces_its_own_output_stops_where_something_foreign_lies_in_that() {
    let runs = Runs::new();
    assert_eq!(runs.run("out", &[]).code, Some(0));
    assert_eq!(runs.run("out", &["--force", "--stop-after", "2"]).code, Some(0));
    let notes = runs.scene.put("out/notes.txt", "mine");
    runs.refused("out", &["--resume", "--force"], 2, "holds notes.txt");
    assert_eq!(fs::read(&notes).expect("a file"), b"mine");
    fs::remove_file(notes).expect("moved away");
    runs.refused("out", &["--resume"], 2, "already exists");
    let trace = runs.partial("out", "trace.json");
    runs.refused(
        "out",
        &["--resume", "--force", "--trace", trace.to_str().expect("a name")],
        2,
        "or one lies in the other",
    );
    assert_eq!(runs.run("out", &["--resume", "--force"]).code, Some(0));
    runs.check("out", "in the place of its own");
}

#[test]
fn what_was_kept_and_then_damaged_is_refused() {
    let runs = Runs::new();
    runs.stopped("out");
    let state = runs.state("out").expect("a state");
    let file = format!("residual.{}", state["slicing"]["residuals"][0]["file"]);
    for name in ["state", "tokens.json", &file, "output/model.safetensors"] {
        let path = runs.partial("out", name);
        let bytes = fs::read(&path).expect("what was kept");
        let middle = bytes.len() / 2;
        let flipped = |at: usize| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            bytes
        };
        let mut damages = vec![
            bytes[..0].to_vec(),
            bytes[..middle].to_vec(),
            bytes[..bytes.len() - 1].to_vec(),
            [bytes.as_slice(), b"x"].concat(),
            flipped(40),
        ];
        if name == "output/model.safetensors" {
            // The lowest bit of a value of the embeddings, which are finished; what is not will be written anew.
            let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
            let mut other = bytes.clone();
            other[8 + header] ^= 1;
            damages.push(other);
        } else {
            damages.extend([flipped(middle), flipped(bytes.len() - 2)]);
        }
        for (index, damage) in damages.iter().enumerate() {
            fs::write(&path, damage).expect("damage");
            runs.refused("out", &["--resume"], 3, "--force starts over");
            println!("{name}, damage {index}: refused");
        }
        fs::remove_file(&path).expect("gone");
        match name {
            "state" => runs.refused("out", &["--resume"], 2, "nothing to resume"),
            _ => runs.refused("out", &["--resume"], 3, "missing from the unfinished run; --force starts over"),
        }
        fs::write(&path, &bytes).expect("what was kept");
    }
    // Whole, but absurd.
    for (name, value) in [
        ("layers", json!(6)),
        ("layers", json!(u64::MAX)),
        ("layers", json!(4)),
        ("layers", json!(-1)),
        ("width", json!(0)),
        ("width", json!(129)),
        ("width", json!(100)),
        ("width", json!(u64::MAX)),
        ("residuals", json!([])),
        ("residuals", json!([{ "file": 2, "checksum": 0 }])),
        ("residuals", json!([{ "file": u64::MAX, "checksum": 0 }])),
        ("residuals", json!([{ "file": 0, "checksum": 0 }])),
        ("residuals", json!([{ "file": 1, "checksum": 0 }])),
        ("bases", json!([1])),
        ("stage", json!("Basis")),
        ("sites", json!([])),
        ("sites", json!("none")),
        ("unknown", json!(1)),
    ] {
        let mut other = state.clone();
        other["slicing"][name] = value.clone();
        runs.put_state("out", &other);
        println!("{name} {value}");
        runs.refused("out", &["--resume"], 3, "--force starts over");
    }
    runs.put_state("out", &state);
    assert_eq!(runs.run("out", &["--resume"]).code, Some(0));
    runs.check("out", "after all damage was undone");
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_keeps_the_last_layer() {
    let runs = Runs::new();
    runs.stopped("out");
    // No file may grow: what layer 3 would be kept in cannot be written.
    let command = runs.command("out", &["--resume"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\""]);
    limited.arg(command.get_program()).args(command.get_args());
    let said = said(&mut limited);
    assert_eq!(said.code, Some(7), "{said:?}");
    let last = said.err.lines().last().unwrap_or_default();
    assert!(last.contains("--resume continues: cannot write") && last.contains("File too large"), "{said:?}");
    assert_eq!(runs.stage("out"), 5, "two layers are kept");
    assert_eq!(runs.run("out", &["--resume"]).code, Some(0));
    runs.check("out", "after the disk was full");
}

#[test]
fn a_lost_device_is_opened_once_more_and_then_the_state_is_kept() {
    let runs = Runs::new();
    let said = runs.run("once", &["--lose-device-after", "150"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.err.contains(
            "warning: the GPU device was lost: on purpose, for a test; trying again on the same device opened again"
        ),
        "{said:?}"
    );
    runs.check("once", "after a lost device");

    let trace = runs.scene.path("trace.json");
    let said = runs.run("out", &["--lose-device-after", "150,120", "--trace", trace.to_str().expect("a name")]);
    assert_eq!(said.code, Some(6), "{said:?}");
    assert!(
        !read_json(&trace)["traceEvents"].as_array().expect("events").is_empty(),
        "the trace of what failed is written"
    );
    let last = said.err.lines().last().unwrap_or_default();
    assert!(last.contains(".out.partial") && last.contains("--resume continues: the GPU device was lost"), "{said:?}");
    let before = runs.stage("out");
    assert!((2..STAGES).contains(&before), "lost too early or too late: {before}");
    assert_eq!(runs.run("out", &["--resume"]).code, Some(0));
    runs.check("out", "after two lost devices");
}

#[test]
fn starting_over_gives_up_an_unfinished_run_once_there_is_a_gpu_and_room() {
    let runs = Runs::new();
    runs.stopped("out");
    runs.refused("out", &["--force", "--device", "no such GPU"], 4, "no adapter");
    runs.refused("out", &["--force", "--max-gpu-memory", "64KiB"], 5, "--max-gpu-memory is too low by");
    assert_eq!(runs.run("out", &["--resume"]).code, Some(0));
    runs.check("out", "after two runs that could not start over");
}

#[test]
fn two_runs_to_one_output_do_not_meet() {
    let runs = Runs::new();
    runs.stopped("out");
    let lock = fs::File::create(runs.partial("out", "lock")).expect("the lock");
    lock.lock().expect("locked");
    for flags in [["--resume"].as_slice(), &["--force"], &[]] {
        runs.refused("out", flags, 2, "another run is at work in");
    }
    drop(lock);
    assert_eq!(runs.run("out", &["--resume"]).code, Some(0));
    runs.check("out", "after the other was done");
}
