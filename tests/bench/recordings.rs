//! Recordings are read without trust, compared with care, and those in assets/bench can still be read.

use std::{fs, path::Path};

use serde_json::{Value, json};
use slicegpt_gpu::{
    Error,
    bench::{Clock, Recording, WGPU_VERSION, compare, comparison, markdown},
};

use crate::{recording, row, run};

fn read(value: &Value) -> slicegpt_gpu::Result<Recording> {
    read_bytes(value.to_string().as_bytes())
}

fn read_bytes(bytes: &[u8]) -> slicegpt_gpu::Result<Recording> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), bytes).expect("a file");
    Recording::read(file.path())
}

fn sample() -> Value {
    serde_json::to_value(recording(vec![run("a GPU", vec![row("probe/fma", 0.1), row("x", 0.5)])])).expect("JSON")
}

#[test]
fn a_recording_is_read_as_it_was_written() {
    let written = recording(vec![run("a GPU", vec![row("probe/fma", 0.1), row("x", 0.5)])]);
    assert_eq!(read(&serde_json::to_value(&written).expect("JSON")).expect("a recording"), written);
}

#[test]
fn figures_in_a_file_are_not_believed_but_worked_out_from_its_samples() {
    let mut file = sample();
    let row = &mut file["adapters"][0]["rows"][1];
    (row["figures"]["rate"], row["check"]["error"]) = (json!(1e9), json!(1.0));
    let recording = read(&file).expect("a recording");
    assert!(!recording.adapters[0].rows[1].valid && recording.adapters[0].rows[1].figures.is_none());
}

#[test]
fn files_that_are_no_recordings_are_refused_as_bad_input() {
    let spoiled = |path: &[&str], value: Value| {
        let mut file = sample();
        let mut place = &mut file;
        for name in path {
            place = match name.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) => &mut place[*name],
            };
        }
        *place = value;
        file.to_string().into_bytes()
    };
    let row = |field: &str, value| spoiled(&["adapters", "0", "rows", "1", field], value);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "not a recording"),
        (b"\xff\xfe".to_vec(), "not a recording"),
        (b"{}".to_vec(), "schema_version"),
        (b"[]".to_vec(), "not a recording"),
        (vec![b'['; 100_000], "not a recording"),
        (spoiled(&["schema_version"], json!(99)), "expected 1, found 99"),
        (spoiled(&["adapters"], json!([])), "adapters"),
        (spoiled(&["adapters", "0", "adapter", "name"], json!("\u{1b}[2J")), "cannot be shown"),
        (spoiled(&["machine", "cpu"], json!("x".repeat(5000))), "cannot be shown"),
        (row("samples", json!([1.0, -1.0])), "sample of -1"),
        (row("samples", json!([1e300])), "sample of"),
        (row("samples", json!([null])), "null"),
        (row("samples", json!(vec![1.0; 5000])), "5000 samples"),
        (row("name", json!("probe/fma")), "two rows"),
        (row("work", json!({ "flops": -1.0, "bytes": 1.0, "items": 1.0 })), "amount of work"),
        (row("check", json!({ "what": "", "values": 1, "error": 0.5, "tolerance": 1e9 })), "tolerance"),
        (row("clock", json!("sundial")), "sundial"),
    ];
    for (bytes, message) in cases {
        match read_bytes(&bytes) {
            Err(error @ Error::BadFile { .. }) => {
                assert!(error.to_string().contains(message) && error.exit_code() == 3, "expected {message:?}: {error}");
            }
            other => panic!("expected {message:?}: {other:?}"),
        }
    }
}

#[test]
fn comparing_matches_rows_by_name_and_tells_how_many_times_faster_b_is() {
    let a = run(
        "a GPU",
        vec![row("x", 1.0), row("only a", 1.0), row("resized", 1.0), row("broken", 1.0), row("clock", 1.0)],
    );
    let mut rows = vec![row("clock", 0.5), row("broken", 1.0), row("resized", 0.5), row("x", 0.25), row("only b", 1.0)];
    rows[0].clock = Clock::GpuTimestamps;
    rows[1].check.as_mut().expect("a check").error = None;
    rows[2].sizes.insert("m".into(), 1024);
    let told: Vec<_> =
        compare(&a, &run("another", rows)).into_iter().map(|row| (row.name, row.ratio, row.remark)).collect();
    let expected = [
        ("x", Some(4.0), ""),
        ("only a", None, "only in A"),
        ("resized", None, "other sizes or another unit: not comparable"),
        ("broken", None, "invalid in B"),
        ("clock", Some(2.0), "other clocks"),
        ("only b", None, "only in B"),
    ];
    assert_eq!(told, expected.map(|(name, ratio, remark)| (name.to_owned(), ratio, remark.to_owned())));
}

#[test]
fn comparing_says_what_differs_in_the_circumstances() {
    let a = recording(vec![run("a GPU", vec![row("x", 1.0)])]);
    let mut b = recording(vec![run("another GPU", vec![row("x", 0.5)])]);
    b.tool.git_hash = "abc".into();
    b.adapters[0].adapter.driver = "2".into();
    let text = comparison(&a, &b).expect("a comparison");
    for part in ["the tool differs", "the adapter differs: a GPU in A, another GPU in B", "the driver differs", "2.00x"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!comparison(&a, &a).expect("a comparison").contains("differs"));
}

#[test]
fn comparing_files_of_several_adapters_pairs_them_by_name() {
    let several = |names: &[&str]| recording(names.iter().map(|name| run(name, vec![row("x", 1.0)])).collect());
    let text = comparison(&several(&["one", "two"]), &several(&["two", "three"])).expect("a comparison");
    assert_eq!(text.matches("A: ").count(), 1, "{text}");
    assert!(matches!(comparison(&several(&["one", "two"]), &several(&["three"])), Err(Error::Usage(_))));
}

#[test]
fn recordings_in_assets_can_be_read_and_shown() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/bench");
    let files: Vec<_> =
        fs::read_dir(&directory).expect("assets/bench").map(|entry| entry.expect("an entry").path()).collect();
    let recordings: Vec<_> =
        files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect();
    assert!(!recordings.is_empty(), "nothing is recorded in {}", directory.display());
    for path in recordings {
        let recording = Recording::read(path).unwrap_or_else(|error| panic!("{error}"));
        let table = markdown(&recording);
        assert!(
            recording.adapters.iter().flat_map(|run| &run.rows).all(|row| table.contains(&row.name)),
            "{}",
            path.display()
        );
    }
}

#[test]
fn the_version_of_wgpu_is_the_one_that_is_locked() {
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).expect("Cargo.lock");
    assert!(lock.contains(&format!("name = \"wgpu\"\nversion = \"{WGPU_VERSION}\"")), "wgpu is not {WGPU_VERSION}");
}
