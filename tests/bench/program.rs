//! `slicegpt-gpu bench` as people call it.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use slicegpt_gpu::bench::Recording;

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_slicegpt-gpu")).arg("bench").args(arguments).output().expect("a process")
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(arguments: &[&str], code: i32, message: &str) {
    let output = program(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(code) && said.contains(message), "{arguments:?}: {output:?}");
}

#[test]
fn a_measured_file_can_be_shown_in_every_format_and_compared_with_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.json");
    let file = path.to_str().expect("UTF-8");
    let table = out(&program(&["--quick", "--filter", "covariance/768", "--json", file]));
    let json: Value = serde_json::from_slice(&fs::read(&path).expect("the file")).expect("JSON");
    let rows = json["adapters"][0]["rows"].as_array().expect("rows");
    assert_eq!(
        rows.iter().map(|row| row["name"].as_str().unwrap_or_default()).collect::<Vec<_>>(),
        ["probe/fma", "probe/copy", "covariance/768"]
    );
    for row in rows {
        assert!(row["valid"] == true && row["samples"].as_array().expect("samples").len() >= 3, "{row}");
        assert!(row["figures"]["rate"].as_f64().is_some_and(|rate| rate > 0.0), "{row}");
        assert!(table.contains(row["name"].as_str().unwrap_or_default()), "{table}");
    }

    assert_eq!(out(&program(&["--show", file])), table);
    assert!(out(&program(&["--show", file, "--markdown"])).contains("| covariance/768 |"));
    assert_eq!(out(&program(&["--show", file, "--csv"])).lines().count(), 4);
    let read = Recording::read(&path).expect("a recording");
    assert_eq!(out(&program(&["--show", file, "--json"])), serde_json::to_string_pretty(&read).expect("JSON") + "\n");
    assert_eq!(out(&program(&["--compare", file, file])).matches("1.00x").count(), 3);

    refused(&["--filter", "probe", "--json", file], 2, "already exists");
    fs::write(&path, "{\"schema_version\": 2}").expect("the file");
    refused(&["--show", file], 3, "expected 1, found 2");
    refused(&["--compare", file, file], 3, "expected 1, found 2");
}

#[test]
fn what_cannot_be_measured_is_refused_before_the_work() {
    refused(&["--filter", "no such workload"], 2, "no such workload");
    let output = program(&["--quick", "--filter", "probe", "--json", "/nowhere/x.json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(7) && said.contains("/nowhere/x.json") && !said.contains("probe/fma"),
        "{said}"
    );
    refused(&["--adapter", "no such adapter"], 4, "no such adapter");
    refused(&["--show", "/nowhere/x.json"], 3, "/nowhere/x.json");
    refused(&["--compare", "one.json"], 2, "--compare");
}

#[test]
fn the_list_names_every_workload() {
    let list = out(&program(&["--list"]));
    assert_eq!(list.lines().count(), slicegpt_gpu::bench::WORKLOADS.len());
    assert!(list.contains("layer/llama-2-7b/decode/sliced-25-no-shortcuts"), "{list}");
}

#[test]
fn all_adapters_are_measured_in_turn() {
    let json: Value =
        serde_json::from_str(&out(&program(&["--quick", "--adapter", "all", "--filter", "probe/copy", "--json"])))
            .expect("JSON");
    assert_eq!(json["adapters"].as_array().expect("adapters").len(), slicegpt_gpu::gpu::adapters().len());
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/bench").is_dir());
}
