//! Does every shader say what it is, and is it used?

use std::{fs, path::Path};

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()).collect();
    found.sort();
    found
}

#[test]
fn every_shader_has_a_header_comment_and_an_op() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ops: String = files(&root.join("src/ops")).iter().map(|path| fs::read_to_string(path).expect("an op")).collect();
    for path in files(&root.join("shaders")).into_iter().chain(files(&root.join("shaders/shared"))).filter(|path| path.is_file()) {
        let stem = path.file_stem().expect("a stem").to_string_lossy().into_owned();
        let shared = path.parent().is_some_and(|parent| parent.ends_with("shared"));
        let name = if shared { format!("\"shared/{stem}\"") } else { format!("\"{stem}\"") };
        assert!(ops.contains(&name), "{} is included nowhere in src/ops", path.display());
        let text = fs::read_to_string(&path).expect("a shader");
        let header = if shared { "// ".to_owned() } else { format!("// {stem}: ") };
        assert!(text.starts_with(&header), "{} does not begin with {header:?}", path.display());
        assert!(shared || text.contains("//   dispatch  "), "{} does not say how it is dispatched", path.display());
        assert!(text.lines().count() <= 200, "{} has more than 200 lines", path.display());
    }
}
