//! The rule for everything that is written, held against every option of every subcommand that names something to
//! write.

use std::{any::TypeId, collections::BTreeSet};

use clap::{Command as Clap, CommandFactory};
use slicegpt_gpu::cli::Cli;

use super::*;

/// What an option that takes a path does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Reads,
    WritesFile,
    WritesDirectory,
}
use Use::{Reads, WritesDirectory, WritesFile};

/// Every option that takes a path, by its subcommand: a new one belongs here, and into [`writing`] if it writes.
const PATHS: &[(&str, &str, Use)] = &[
    ("bench", "compare", Reads),
    ("bench", "json", WritesFile),
    ("bench", "show", Reads),
    ("compress", "calibration", Reads),
    ("compress", "eval", Reads),
    ("compress", "model", Reads),
    ("compress", "output", WritesDirectory),
    ("compress", "trace", WritesFile),
    ("eval", "against", Reads),
    ("eval", "model", Reads),
    ("eval", "text", Reads),
    ("eval", "tokens", Reads),
    ("eval", "trace", WritesFile),
    ("export", "model", Reads),
    ("export", "output", WritesFile),
    ("generate", "model", Reads),
    ("generate", "trace", WritesFile),
    ("logits", "model", Reads),
    ("logits", "output", WritesFile),
    ("logits", "tokens", Reads),
    ("logits", "trace", WritesFile),
    ("prune", "calibration", Reads),
    ("prune", "eval", Reads),
    ("prune", "model", Reads),
    ("prune", "output", WritesDirectory),
    ("prune", "trace", WritesFile),
    ("prune", "write-importance", WritesFile),
    ("recover", "adapter", WritesDirectory),
    ("recover", "calibration", Reads),
    ("recover", "eval", Reads),
    ("recover", "model", Reads),
    ("recover", "output", WritesDirectory),
    ("recover", "teacher", Reads),
    ("recover", "trace", WritesFile),
    ("run", "calibration", Reads),
    ("run", "eval", Reads),
    ("run", "model", Reads),
    ("run", "output", WritesDirectory),
    ("run", "trace", WritesFile),
    ("synthesize", "output", WritesDirectory),
    ("verify", "model", Reads),
    ("verify", "trace", WritesFile),
];

/// The options that write, of a kind.
fn options(kind: Use) -> impl Iterator<Item = (&'static str, &'static str)> {
    PATHS.iter().filter(move |(_, _, of)| *of == kind).map(|&(subcommand, option, _)| (subcommand, option))
}

#[test]
fn every_option_that_takes_a_path_is_known_to_read_or_to_write_and_what_writes_takes_force() {
    let mut found = BTreeSet::new();
    let mut pending: Vec<Clap> = Cli::command().get_subcommands().cloned().collect();
    while let Some(command) = pending.pop() {
        pending.extend(command.get_subcommands().cloned());
        for argument in command.get_arguments() {
            let is_path = argument.get_value_parser().type_id() == TypeId::of::<PathBuf>();
            let names: Vec<String> =
                argument.get_value_names().into_iter().flatten().map(|name| name.to_lowercase()).collect();
            let sounds =
                names.iter().any(|name| ["file", "dir", "out", "path", "model"].iter().any(|word| name.contains(word)));
            assert!(
                is_path || !sounds,
                "{} {}: a path is a PathBuf, so that this test sees it",
                command.get_name(),
                argument.get_id()
            );
            if is_path {
                found.insert((command.get_name().to_owned(), argument.get_id().as_str().replace('_', "-")));
            }
        }
        let writes = PATHS.iter().any(|(name, _, kind)| *name == command.get_name() && *kind != Reads);
        let force = command.get_arguments().any(|argument| argument.get_id() == "force");
        assert_eq!(force, writes, "{}: --force belongs to what writes", command.get_name());
    }
    let known: BTreeSet<_> = PATHS.iter().map(|(name, option, _)| ((*name).to_owned(), (*option).to_owned())).collect();
    assert_eq!(found, known, "options that take a path, and PATHS");
}

/// A model with all that may lie in its directory, an output of it, and everything else that is read.
pub fn scene() -> Scene {
    let scene = Scene::with_vocabulary(260);
    scene.tokenizer(json!({}));
    scene.put("model/README.md", "the model's card");
    fs::create_dir(scene.path("model/onnx")).expect("a directory");
    scene.put("model/onnx/notes", "of the model");
    fs::create_dir(scene.path("teacher")).expect("a directory");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(scene.path("model").join(name), scene.path("teacher").join(name)).expect("a copy");
    }
    scene.put("tokens.json", json!({ "input_ids": [[1, 2, 3, 4], [5, 6, 7, 8]] }).to_string());
    scene.put("text.txt", "w1 w2 w3 w4 w5 ".repeat(9));
    scene.put("more.txt", "w9 w8 w7 w6 ".repeat(9));
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/bench/lavapipe-2-cores.json"),
        scene.path("recording.json"),
    )
    .expect("a recording");
    let run = program(args![
        "run",
        scene.path("model"),
        "-o",
        scene.path("sliced"),
        "--calibration",
        scene.path("tokens.json")
    ]);
    assert_eq!(run.code, Some(0), "{run:?}");
    scene
}

/// A subcommand that does its work quickly, with `option` naming `path`.
fn writing(scene: &Scene, subcommand: &str, option: &str, path: impl AsRef<OsStr>) -> Command {
    let place = |name: &str| scene.path(name);
    let (model, tokens, text) = (place("model"), place("tokens.json"), place("text.txt"));
    let mut command = Command::new(PROGRAM);
    command.arg(subcommand);
    match subcommand {
        "bench" => command.arg("--show").arg(place("recording.json")),
        "eval" => {
            command.arg(model).args(args!["--text", text, "--against", place("teacher")]).args(["--seqlen", "20"])
        }
        "export" => command.arg(model).args(["--format", "gguf", "--no-tokenizer"]),
        "generate" => command.arg(model).args(["--prompt", "w5", "--max-new-tokens", "1"]),
        "logits" => command.arg(model).arg("--tokens").arg(tokens),
        "run" | "compress" => command
            .args((subcommand == "compress").then_some(["--axes", "mlp", "--effort", "quick"]).into_iter().flatten())
            .arg(model)
            .args(args!["--calibration", tokens, "--eval", text, "--eval", place("more.txt")])
            .args(["--ppl-eval-seqlen", "20"]),
        "prune" | "recover" => command
            .args(match subcommand {
                "prune" => &["--ratio", "0.5", "--layers", "all", "--nsamples", "2"][..],
                _ => &["--steps", "1", "--batch-size", "1"],
            })
            .arg(model)
            .args(args!["--examples", tokens, "--eval", text, "--eval", place("more.txt")])
            .args(["--ppl-eval-seqlen", "20"]),
        "synthesize" => command.args(["opt-125m", "--layers", "1", "--cal-nsamples", "1", "--cal-max-seqlen", "2"]),
        "verify" => command.arg(place("sliced")),
        _ => panic!("how does {subcommand} write its {option}?"),
    };
    if subcommand == "recover" {
        command.arg("--teacher").arg(place("teacher"));
    }
    if matches!(subcommand, "compress" | "logits" | "prune" | "recover" | "run") && option != "output" {
        command.arg("--output").arg(place("other"));
    }
    command.arg(format!("--{option}")).arg(path);
    command
}

/// What that reads.
fn inputs(subcommand: &str) -> Vec<&'static str> {
    let model =
        ["model/model.safetensors", "model/config.json", "model/tokenizer.json", "model/README.md", "model/onnx/notes"];
    let more: &[&str] = match subcommand {
        "bench" => return vec!["recording.json"],
        "verify" => return vec!["sliced/model.safetensors", "sliced/slicegpt.json", "sliced/README.md"],
        "eval" => &["text.txt", "teacher/model.safetensors", "teacher/config.json"],
        "logits" => &["tokens.json"],
        "recover" => &["tokens.json", "text.txt", "more.txt", "teacher/model.safetensors", "teacher/config.json"],
        "compress" | "prune" | "run" => &["tokens.json", "text.txt", "more.txt"],
        _ => &[],
    };
    [&model, more].concat()
}

/// What is left of a run of `writing` but what it was to write.
fn clean(scene: &Scene) {
    let _ = fs::remove_file(scene.path("other"));
    let _ = fs::remove_dir_all(scene.path("other"));
    // Of work whose last file could not be written.
    let _ = fs::remove_dir_all(scene.path(".other.partial"));
}

#[test]
fn no_option_writes_what_is_read_by_whatever_name_even_with_force() {
    let scene = scene();
    for (subcommand, option) in options(WritesFile) {
        for input in inputs(subcommand) {
            let path = scene.path(input);
            let refused = |path: &Path| {
                scene.refused_with(&mut writing(&scene, subcommand, option, path), 2, "would be overwritten");
                scene.refused_with(writing(&scene, subcommand, option, path).arg("--force"), 2, "would be overwritten");
            };
            refused(&path);
            refused(&scene.path("model/../model/onnx/../..").join(input));
            #[cfg(unix)]
            for name in ["link", "model/link"] {
                std::os::unix::fs::symlink(&path, scene.path(name)).expect("a link");
                refused(&scene.path(name));
                fs::remove_file(scene.path(name)).expect("a link");
            }
            fs::hard_link(&path, scene.path("hard")).expect("a link");
            refused(&scene.path("hard"));
            fs::remove_file(scene.path("hard")).expect("a link");
        }
    }
}

#[test]
fn a_file_that_is_there_is_replaced_by_force_alone() {
    let scene = scene();
    for (subcommand, option) in options(WritesFile) {
        let path = scene.put("precious", "precious");
        scene.refused_with(
            &mut writing(&scene, subcommand, option, &path),
            2,
            &format!("give another --{option}, or --force to replace it"),
        );
        let said = said(writing(&scene, subcommand, option, &path).arg("--force"));
        assert_eq!(said.code, Some(0), "{subcommand} --{option}: {said:?}");
        assert!(fs::read(&path).expect("a file") != b"precious", "{subcommand} --{option} wrote nothing");
        clean(&scene);
    }
}

#[test]
fn what_this_program_put_into_the_models_directory_may_be_replaced_again() {
    let scene = scene();
    for (subcommand, option) in [("logits", "output"), ("logits", "trace")] {
        let path = scene.path("model/made");
        for force in [false, true] {
            let mut command = writing(&scene, subcommand, option, &path);
            command.args(force.then_some("--force"));
            assert_eq!(said(&mut command).code, Some(0), "{command:?}");
            clean(&scene);
        }
        fs::remove_file(path).expect("a file");
    }
    // But for GGUF, which others write, too.
    let gguf = scene.path("model/made.gguf");
    assert_eq!(said(&mut writing(&scene, "export", "output", &gguf)).code, Some(0));
    scene.refused_with(writing(&scene, "export", "output", &gguf).arg("--force"), 2, "is a file of the model in");
    fs::remove_file(gguf).expect("a file");
    for force in [false, true] {
        let mut command = writing(&scene, "run", "output", scene.path("model/sliced"));
        command.args(force.then_some("--force"));
        assert_eq!(said(&mut command).code, Some(0), "{command:?}");
    }
}

#[test]
fn names_that_are_none_for_a_file_are_refused_before_the_work() {
    let scene = scene();
    fs::create_dir(scene.path("directory")).expect("a directory");
    for (subcommand, option) in options(WritesFile) {
        for (name, code, message) in [
            ("directory", 2, "is a directory; give the name of a file"),
            ("directory/", 2, "is a directory"),
            ("directory/..", 2, "is a directory"),
            ("new/", 2, "is not a name for a file"),
            ("nowhere/new", 7, "cannot write"),
            ("text.txt/new", 7, "cannot write"),
        ] {
            scene.refused_with(writing(&scene, subcommand, option, scene.path(name)).arg("--force"), code, message);
        }
        scene.refused_with(writing(&scene, subcommand, option, ".").arg("--force"), 2, "is a directory");
    }
}

#[cfg(unix)]
#[test]
fn what_stands_there_keeps_its_kind() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let scene = scene();
    let (file, link, pipe, socket, lost) =
        (scene.put("file", "old"), scene.path("link"), scene.path("pipe"), scene.path("socket"), scene.path("lost"));
    symlink("file", &link).expect("a link");
    symlink("nowhere", &lost).expect("a link");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).expect("a pipe");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    for (subcommand, option) in options(WritesFile) {
        let what = format!("{subcommand} --{option}");
        let does = |path: &Path, force: bool| {
            let mut command = writing(&scene, subcommand, option, path);
            command.args(force.then_some("--force"));
            let said = said(&mut command);
            clean(&scene);
            assert_eq!(said.code, Some(0), "{command:?}: {said:?}");
        };
        let refused = |path: &Path, message: &str| {
            let said = said(writing(&scene, subcommand, option, path).arg("--force"));
            assert!(said.code == Some(2) && said.err.contains(message), "{what}: {said:?}");
        };
        refused(&socket, "socket is neither a file nor a pipe nor a device");
        refused(&lost, "lost is a link to nowhere, which is not there");

        let already = said(&mut writing(&scene, subcommand, option, &link));
        assert!(already.code == Some(2) && already.err.contains("link already exists"), "{already:?}");
        does(&link, true);
        assert!(link.is_symlink(), "{what} replaced the link");
        let written = fs::read(&file).expect("a file");
        assert!(written != b"old", "{what} wrote nothing through the link");
        fs::write(&file, "old").expect("a file");

        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).expect("what comes through")
        });
        does(&pipe, false);
        assert!(fs::symlink_metadata(&pipe).expect("a pipe").file_type().is_fifo(), "{what} replaced the pipe");
        let through = reader.join().expect("a reader");
        // Traces tell times.
        assert!(through == written || (option == "trace" && through.starts_with(b"{\"traceEvents\": [")), "{what}");
        does(Path::new("/dev/null"), false);
        assert!(
            fs::symlink_metadata("/dev/null").expect("a device").file_type().is_char_device(),
            "{what} replaced the null device"
        );
    }
    assert!(names(scene.directory.path()).iter().all(|name| !name.ends_with(".tmp")));
}

#[cfg(target_os = "linux")]
#[test]
fn standard_output_is_appended_to_and_a_full_device_is_an_error() {
    let scene = scene();
    let expected = scene.path("expected");
    assert_eq!(said(&mut writing(&scene, "logits", "output", &expected)).code, Some(0));
    let file = scene.put("file", "before ");
    let append = fs::OpenOptions::new().append(true).open(&file).expect("a file");
    let status = writing(&scene, "logits", "output", "/dev/stdout")
        .stdout(append)
        .stderr(Stdio::null())
        .status()
        .expect("a process");
    assert!(status.success());
    assert!(fs::read(&file).expect("a file") == [b"before ".as_slice(), &fs::read(expected).expect("logits")].concat());
    // Not even so onto what is read.
    let append = fs::OpenOptions::new().append(true).open(scene.path("tokens.json")).expect("a file");
    let before = scene.contents();
    let refused =
        writing(&scene, "logits", "output", "/dev/stdout").arg("--force").stdout(append).output().expect("a process");
    assert!(refused.status.code() == Some(2) && scene.contents() == before, "{refused:?}");
    for (subcommand, option) in options(WritesFile) {
        let said = said(&mut writing(&scene, subcommand, option, "/dev/full"));
        clean(&scene);
        assert!(
            said.code == Some(7) && said.err.contains("cannot write /dev/full"),
            "{subcommand} --{option}: {said:?}"
        );
        let result = subcommand != "eval" || said.out.starts_with("perplexity ");
        assert!(result, "a trace that cannot be written costs no result: {said:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_that_nobody_reads_does_not_hang() {
    let scene = scene();
    let pipe = scene.path("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).expect("a pipe");
    let said = said(&mut writing(&scene, "logits", "output", &pipe));
    assert!(said.code == Some(7) && said.err.contains("no program reads from this pipe"), "{said:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_old_file_as_it_was() {
    let scene = Scene::with_vocabulary(100_000);
    scene.tokens("tokens.json", 2, 30);
    let old = scene.put("old", "old");
    for subcommand in ["logits", "export"] {
        let mut command = writing(&scene, subcommand, "output", &old);
        let mut arguments: Vec<&OsStr> = command.arg("--force").get_args().collect();
        if subcommand == "export" {
            arguments.extend(args!["--type", "f32"]);
        }
        scene.refused_with(&mut refusals::with_small_files(&arguments), 7, "cannot write");
    }
}

#[test]
fn directories_that_are_not_ours_or_hold_what_is_read_are_never_replaced() {
    let scene = scene();
    fs::create_dir_all(scene.path("mine/deeper")).expect("a directory");
    scene.put("mine/deeper/notes.txt", "mine");
    for (subcommand, option) in options(WritesDirectory) {
        let reads = subcommand != "synthesize";
        let refused = |name: &str, message: &str| {
            scene.refused_with(writing(&scene, subcommand, option, scene.path(name)).arg("--force"), 2, message);
        };
        refused("mine", "is neither empty nor an output of this program");
        refused("mine/", "is neither empty nor an output of this program");
        refused("", if reads { "holds the input" } else { "is neither empty nor an output" });
        refused("model/onnx", "is neither empty nor an output of this program");
        refused("text.txt", if reads { "holds the input" } else { "is not a directory, and will not be replaced" });
        if reads {
            for name in ["model", "model/", "model/onnx/..", "mine/../model"] {
                refused(name, "holds the input");
            }
        }
        if subcommand == "recover" {
            refused("teacher", "holds the input");
        }
        for _ in 0..2 {
            let said = said(writing(&scene, subcommand, option, scene.path("out")).arg("--force"));
            assert_eq!(said.code, Some(0), "its own output, again: {said:?}");
        }
        scene.put("out/notes.txt", "mine");
        refused("out", "holds notes.txt, which this program has not written");
        fs::remove_dir_all(scene.path("out")).expect("gone");
    }
    let mut here = writing(&scene, "synthesize", "output", ".");
    fs::create_dir(scene.path("empty")).expect("a directory");
    scene.refused_with(
        here.current_dir(scene.path("empty")).arg("--force"),
        2,
        "is not a name for an output directory",
    );
}

#[cfg(unix)]
#[test]
fn an_output_that_holds_what_the_models_directory_links_to_is_kept() {
    let scene = scene();
    assert_eq!(said(&mut writing(&scene, "run", "output", scene.path("out"))).code, Some(0));
    let tokenizer = scene.path("model/tokenizer.json");
    fs::rename(&tokenizer, scene.path("out/tokenizer.json")).expect("moved");
    std::os::unix::fs::symlink("../out/tokenizer.json", &tokenizer).expect("a link");
    scene.refused_with(
        writing(&scene, "run", "output", scene.path("out")).arg("--force"),
        2,
        "model/tokenizer.json, which would be overwritten",
    );
}

#[test]
fn two_outputs_of_one_command_do_not_meet() {
    let scene = scene();
    let cannot = "cannot both be written: they are the same, or one lies in the other";
    for (output, trace) in [("new", "new"), ("new", "model/../new"), ("new", "./NEW")] {
        scene.refused_with(
            writing(&scene, "logits", "output", scene.path(output)).arg("--trace").arg(scene.path(trace)),
            2,
            cannot,
        );
    }
    let run = |trace: &str| {
        let mut command = writing(&scene, "run", "output", scene.path("out"));
        command.arg("--force").arg("--trace").arg(scene.path(trace));
        command
    };
    scene.refused_with(&mut run("out"), 2, cannot);
    assert_eq!(said(&mut run("trace.json")).code, Some(0));
    for trace in ["out/trace.json", "out/config.json"] {
        scene.refused_with(&mut run(trace), 2, cannot);
    }
    let said = said(writing(&scene, "logits", "output", "/dev/null").args(["--trace", "/dev/null"]));
    assert_eq!(said.code, Some(0), "what is thrown away may be so twice: {said:?}");
}
