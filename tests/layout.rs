//! Does the source keep to its own rules: who may import whom, what is spelled where, how long files are?

use std::path::{Path, PathBuf};

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

#[test]
fn imports_go_one_way() {
    let rules: &[(&str, &[&str])] = &[
        (
            "src/error.rs",
            &[
                "cli",
                "bench",
                "slice",
                "eval",
                "generate",
                "run",
                "model",
                "ops",
                "gpu",
                "linalg",
                "data",
                "checkpoint",
            ],
        ),
        (
            "src/linalg/",
            &["cli", "bench", "slice", "eval", "generate", "run", "model", "ops", "gpu", "data", "checkpoint"],
        ),
        (
            "src/gpu/",
            &["cli", "bench", "slice", "eval", "generate", "run", "model", "ops", "linalg", "data", "checkpoint"],
        ),
        ("src/ops/", &["cli", "bench", "slice", "eval", "generate", "run", "model", "linalg", "data", "checkpoint"]),
        (
            "src/checkpoint/",
            &["cli", "bench", "slice", "eval", "generate", "run", "model", "ops", "gpu", "linalg", "data"],
        ),
        ("src/data/", &["cli", "bench", "slice", "eval", "generate", "run", "model", "ops", "gpu", "linalg"]),
        ("src/model/", &["cli", "bench", "slice", "eval", "generate", "run", "linalg", "data"]),
        ("src/synthetic.rs", &["cli", "bench", "slice", "eval", "generate", "run", "ops", "gpu", "linalg", "data"]),
        ("src/slice/", &["cli", "bench", "eval", "generate", "run", "data"]),
        ("src/run/", &["cli", "bench", "ops", "linalg"]),
        ("src/eval.rs", &["cli", "bench", "slice", "generate", "run", "data"]),
        ("src/generate.rs", &["cli", "bench", "slice", "eval", "run", "data"]),
        ("src/bench/", &["cli", "eval", "generate", "run", "data"]),
    ];
    for (place, forbidden) in rules {
        for (path, text) in sources("src", "rs").iter().filter(|(path, _)| relative(path).starts_with(place)) {
            let code: String =
                text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            // `use crate::{a::…, b::…}` names modules at the start of lines of a list, or after `crate::`.
            for module in *forbidden {
                let imported = code.contains(&format!("crate::{module}::"))
                    || code.split("use crate::{").skip(1).any(|list| {
                        let list = list.split("};").next().unwrap_or_default();
                        list.lines().any(|line| line.trim_start().starts_with(&format!("{module}::")))
                    });
                assert!(!imported, "{} imports {module}", relative(path));
            }
        }
    }
}

#[test]
fn nothing_in_the_library_unwraps_or_is_unsafe_but_the_memory_map_and_matrix_units() {
    assert_eq!(
        offenders(&[".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!("], &["src/reference"]),
        Vec::<String>::new()
    );
    assert_eq!(offenders(&["unsafe "], &["src/checkpoint/reader.rs", "src/gpu/precision.rs"]), Vec::<String>::new());
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
