//! Does the source keep to its own rules: who may import whom, what is spelled where, how long files are?

mod imports;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use imports::{Imports, circles};

fn sources(directory: &str, extension: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut pending = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(std::fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|found| found == extension) {
            let text = std::fs::read_to_string(&path).expect("text");
            found.push((path, text));
        }
    }
    assert!(!found.is_empty(), "nothing under {directory}");
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("inside").to_string_lossy().replace('\\', "/")
}

/// The lines of code, without comments, outside of the places where they are allowed.
fn offenders(words: &[&str], allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources("src", "rs") {
        let name = relative(&path);
        if allowed.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.trim_start();
            if !code.starts_with("//") && words.iter().any(|word| code.contains(word)) {
                found.push(format!("{name}:{}: {code}", number + 1));
            }
        }
    }
    found
}

#[test]
fn wgpu_is_known_to_gpu_alone() {
    assert_eq!(offenders(&["wgpu::"], &["src/gpu/"]), Vec::<String>::new());
}

#[test]
fn clap_is_known_to_cli_alone() {
    assert_eq!(offenders(&["clap::"], &["src/cli/", "src/main.rs"]), Vec::<String>::new());
}

#[test]
fn model_types_and_tensor_names_are_known_to_model_alone() {
    let words = [
        "\"llama",
        "\"mistral",
        "\"qwen",
        "\"phi",
        "\"opt\"",
        "\"gpt",
        "_proj\"",
        "embed_tokens",
        "lm_head",
        "shortcut_Q",
    ];
    // The model card explains the shortcuts to people.
    assert_eq!(offenders(&words, &["src/model/", "src/run/slicing/report.rs"]), Vec::<String>::new());
}

/// Who may import whom, from the top down: each room imports from rooms below it alone.
const ROOMS: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "bench",
            "run",
            "eval",
            "generate",
            "synthetic",
            "slice",
            "prune",
            "compress",
            "recover",
            "fit",
            "model",
            "ops",
            "hub",
            "data",
            "checkpoint",
            "gpu",
            "progress",
            "error",
        ],
    ),
    ("bench", &["synthetic", "reference", "slice", "model", "ops", "checkpoint", "linalg", "gpu", "progress", "error"]),
    (
        "run",
        &[
            "eval",
            "generate",
            "slice",
            "prune",
            "compress",
            "recover",
            "fit",
            "stream",
            "model",
            "hub",
            "data",
            "checkpoint",
            "trace",
            "gpu",
            "progress",
            "json",
            "error",
        ],
    ),
    ("eval", &["model", "gpu", "progress", "error"]),
    ("generate", &["model", "ops", "gpu", "progress", "error"]),
    ("synthetic", &["model", "checkpoint", "progress", "error"]),
    ("reference", &["slice", "fit", "model", "ops", "linalg", "error"]),
    // Methods are siblings: what two of them need moves down.
    ("slice", METHOD),
    ("prune", METHOD),
    ("compress", METHOD),
    ("recover", METHOD),
    ("fit", &["model", "ops", "linalg", "gpu", "error"]),
    ("stream", &["model", "checkpoint", "linalg", "gpu", "progress", "error"]),
    ("model", &["ops", "checkpoint", "gpu", "progress", "json", "error"]),
    ("ops", &["gpu", "error"]),
    ("data", &["checkpoint", "progress", "json", "error"]),
    ("hub", &["checkpoint", "progress", "error"]),
    ("checkpoint", &["error"]),
    ("linalg", &["error"]),
    ("trace", &["gpu"]),
    ("gpu", &["error"]),
    ("progress", &["error"]),
    ("json", &[]),
    ("error", &[]),
];

const METHOD: &[&str] = &["fit", "stream", "model", "ops", "data", "checkpoint", "linalg", "gpu", "progress", "error"];

#[test]
fn rooms_import_those_they_may_and_files_no_circle() {
    let files = sources("src", "rs");
    let files: Vec<_> = files.iter().map(|(path, text)| (relative(path), text.as_str())).collect();
    let files = files.iter().filter(|(path, _)| path != "src/main.rs");
    let edges = Imports::of(files.map(|(path, text)| (path.as_str(), *text))).edges();
    let room = |module: &Vec<String>| module.first().cloned();
    let mut wrong = BTreeSet::new();
    for (module, imported) in &edges {
        let Some(from) = room(module) else { continue };
        let allowed = ROOMS.iter().find(|(name, _)| *name == from).map_or(&[][..], |(_, allowed)| allowed);
        for target in imported.iter().filter_map(room).filter(|target| *target != from) {
            if !allowed.contains(&target.as_str()) {
                wrong.insert(format!("{} imports {target}", module.join("/")));
            }
        }
    }
    assert_eq!(wrong, BTreeSet::new());
    assert_eq!(circles(&edges), BTreeSet::new());
}

#[test]
fn every_room_is_below_those_that_import_it() {
    for (at, (room, allowed)) in ROOMS.iter().enumerate() {
        for below in *allowed {
            assert!(ROOMS[at + 1..].iter().any(|(name, _)| name == below), "{room} may import {below}");
        }
    }
}

#[test]
fn imports_are_seen_in_every_form() {
    for (form, seen) in [
        ("use crate::ops::Block;", "ops"),
        ("use crate::{error::Result, ops::{Block, other::Thing}};", "ops"),
        ("use crate::{\n    error::Result,\n    ops,\n};\nfn f() -> ops::Block {}", "ops"),
        ("use crate::ops as kernels;\nfn f() { kernels::run() }", "ops"),
        ("use crate::ops::*;", "ops"),
        ("use super::super::ops::Block;", "ops"),
        ("fn f() { crate::ops::run() }", "ops"),
        ("fn f(x: &crate::ops::Block) {}", "ops"),
        ("fn f() -> Vec<u8> { vec![crate::ops::SIZE] }", "ops"),
        ("// use crate::ops::Block;\n/// See [`crate::ops`].\npub(super) fn f() {}", "-"),
        ("use std::ops::Range;", "-"),
        ("use crate::gpu::Given;", "ops"),
        ("use super::other::Thing;", "room"),
    ] {
        let files = [
            ("src/lib.rs", "mod room; mod ops; mod gpu; mod error;"),
            ("src/room/mod.rs", "mod this; mod other;"),
            ("src/room/this.rs", form),
            ("src/room/other.rs", "pub struct Thing;"),
            ("src/ops.rs", "pub struct Block;"),
            ("src/gpu.rs", "pub use crate::ops::Block as Given;"),
            ("src/error.rs", ""),
        ];
        let edges = Imports::of(files.into_iter()).edges();
        let this = &edges[&vec!["room".to_owned(), "this".to_owned()]];
        let rooms: Vec<_> = this.iter().map(|target| target[0].as_str()).filter(|room| *room != "error").collect();
        assert_eq!(rooms, if seen == "-" { vec![] } else { vec![seen] }, "{form}");
    }
    let circle = |second| {
        let files = [("src/lib.rs", ""), ("src/a.rs", "use crate::b::B;"), ("src/b.rs", second)];
        circles(&Imports::of(files.into_iter()).edges()).len()
    };
    assert_eq!((circle("use crate::a::A;"), circle("use crate::c::C;")), (1, 0));
    let files = [("src/room/mod.rs", "mod this; fn f() { this::g() }"), ("src/room/this.rs", "use super::f;")];
    assert_eq!(circles(&Imports::of(files.into_iter()).edges()).len(), 1, "a module below");
}

#[test]
fn nothing_in_the_library_unwraps_or_is_unsafe_but_the_memory_map_and_matrix_units() {
    assert_eq!(
        offenders(
            &[".unwrap()", ".expect(", "panic!(", "unreachable!(", "todo!(", "unimplemented!("],
            &["src/reference"]
        ),
        Vec::<String>::new()
    );
    assert_eq!(offenders(&["unsafe "], &["src/checkpoint/reader.rs", "src/gpu/precision.rs"]), Vec::<String>::new());
}

#[test]
fn nothing_but_the_program_changes_what_panics_do() {
    assert_eq!(offenders(&["set_hook(", "take_hook("], &["src/cli/panics.rs"]), Vec::<String>::new());
}

#[test]
fn nothing_but_the_command_line_prints() {
    assert_eq!(offenders(&["println!", "print!("], &["src/cli/", "src/main.rs"]), Vec::<String>::new());
}

#[test]
fn files_stay_short() {
    for (path, text) in sources("src", "rs").into_iter().chain(sources("shaders", "wgsl")).chain(sources("tests", "rs"))
    {
        let name = relative(&path);
        let most = if name.starts_with("src/ops/") || name.starts_with("shaders/") { 200 } else { 500 };
        let lines = text.lines().count();
        assert!(lines <= most, "{name} has {lines} lines, more than {most}");
    }
}

#[test]
fn comments_stay_within_120_columns() {
    for (path, text) in sources("src", "rs").into_iter().chain(sources("shaders", "wgsl")).chain(sources("tests", "rs"))
    {
        let wide = text.lines().position(|line| line.trim_start().starts_with("//") && line.chars().count() > 120);
        assert_eq!(wide.map(|line| line + 1), None, "{}, by line", relative(&path));
    }
}

#[test]
fn every_shader_has_an_op_of_its_name() {
    for (path, text) in sources("shaders", "wgsl") {
        let name = relative(&path);
        assert!(text.starts_with("// "), "{name} has no header");
        let Some(stem) = name
            .strip_prefix("shaders/")
            .and_then(|rest| rest.strip_suffix(".wgsl"))
            .filter(|stem| !stem.contains('/'))
        else {
            continue;
        };
        let used = sources("src/ops", "rs").iter().any(|(_, op)| op.contains(&format!("\"{stem}\"")));
        assert!(used, "{name} is used by no op");
        assert!(text.contains(&format!("// {stem}")), "{name} does not say its name");
    }
}

#[test]
fn files_that_documents_name_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = sources("docs", "md").into_iter().chain(sources("assets", "md")).chain(sources("README.md", "md"));
    let (mut named, mut missing) = (0, Vec::new());
    for (page, text) in pages {
        // Every other piece between backticks is code.
        let code = text.split('`').skip(1).step_by(2).filter(|piece| !piece.contains(char::is_whitespace));
        let of_source =
            |piece: &&str| ["src/", "shaders/", "tests/", "benches/"].iter().any(|start| piece.starts_with(start));
        for piece in code.filter(of_source).filter(|piece| !piece.contains(['*', '<', '{'])) {
            named += 1;
            if !root.join(piece).exists() {
                missing.push(format!("{}: {piece}", relative(&page)));
            }
        }
    }
    assert!(named > 10 && missing.is_empty(), "{named} are named; not there: {missing:#?}");
}
