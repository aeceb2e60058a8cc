//! Is what we write whole or absent, and kept where it can be resumed?

mod support;

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value, json};
use slicegpt_gpu::{
    Error,
    checkpoint::{
        Checkpoint, Dtype, FileTarget, OutputDirectory, RECORD, SHARD_BYTES, TensorFile, TensorPlan, TensorWriter,
        sha256, shards,
    },
};
use support::{names, put, temporary};

fn plan(name: &str, shape: &[usize], dtype: Dtype) -> TensorPlan {
    TensorPlan { name: name.into(), shape: shape.to_vec(), dtype }
}

#[test]
fn an_unfinished_output_leaves_nothing_behind() {
    let parent = temporary();
    let plans = [plan("a", &[2, 2], Dtype::F32), plan("b", &[3], Dtype::F16)];
    let output = OutputDirectory::create(&parent.path().join("out"), false).expect("an output");
    let mut writer = TensorWriter::new(&output, &plans, SHARD_BYTES).expect("a writer");
    writer.write("a", &[0; 16]).expect("a tensor");
    output.write("config.json", b"{}").expect("a file");
    assert!(!parent.path().join("out").exists(), "nothing has the final name before the end");
    assert!(writer.finish().is_err_and(|error| error.to_string().contains("not complete")));
    drop(output);
    assert_eq!(names(parent.path()), Vec::<String>::new());

    let file = parent.path().join("logits.safetensors");
    let mut out = TensorFile::create(FileTarget::new(&file, false).expect("a name"), plans.to_vec()).expect("a file");
    out.write("a", &[0; 16]).expect("a tensor");
    assert!(!parent.path().join("logits.safetensors").exists());
    drop(out);
    assert_eq!(names(parent.path()), Vec::<String>::new());
}

#[test]
fn directories_made_for_an_unfinished_output_go_with_it() {
    let parent = temporary();
    drop(OutputDirectory::create(&parent.path().join("deep/er/out"), false).expect("an output"));
    assert_eq!(names(parent.path()), Vec::<String>::new());
    fs::create_dir(parent.path().join("deep")).expect("a directory");
    drop(OutputDirectory::create(&parent.path().join("deep/er/out"), false).expect("an output"));
    assert_eq!(names(parent.path()), ["deep"], "what was there before stays");
    assert_eq!(names(&parent.path().join("deep")), Vec::<String>::new());
}

#[test]
fn a_finished_output_reads_back_as_it_was_written() {
    reads_back(SHARD_BYTES, &["model.safetensors"]);
}

#[test]
fn a_sharded_output_reads_back_as_it_was_written() {
    // Of 24, 10, 0 and 6 bytes: the first fills a file, the others share one.
    let files =
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"];
    reads_back(24, &files);
}

/// Writes tensors into files of up to this many bytes, and reads them.
fn reads_back(most: u64, files: &[&str]) {
    let parent = temporary();
    let target = parent.path().join("deep/er/out");
    let plans = [
        plan("b", &[2, 3], Dtype::F32),
        plan("a", &[5], Dtype::F16),
        plan("empty", &[0, 4], Dtype::F32),
        plan("odd", &[3], Dtype::BF16),
    ];
    let bytes = |plan: &TensorPlan| -> Vec<u8> {
        (0..plan.byte_len()).map(|byte| (byte * 7 + plan.name.len() as u64) as u8).collect()
    };
    let output = OutputDirectory::create(&target, false).expect("an output");
    let mut writer = TensorWriter::new(&output, &plans, most).expect("a writer");
    for plan in &plans {
        // In pieces, as large tensors come; an empty tensor is one piece.
        for piece in bytes(plan).chunks(5).chain(std::iter::repeat_n([].as_slice(), usize::from(plan.byte_len() == 0)))
        {
            writer.write(&plan.name, piece).expect("a piece");
        }
    }
    writer.finish().expect("all tensors");
    output.finish().expect("the output");
    assert_eq!(names(&parent.path().join("deep/er")), ["out"]);
    assert_eq!(names(&target), files);
    let checkpoint = Checkpoint::open(&target).expect("a checkpoint");
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "empty", "odd"]);
    assert_eq!(checkpoint.byte_len(), plans.iter().map(TensorPlan::byte_len).sum::<u64>());
    for plan in &plans {
        let tensor = checkpoint.tensor(&plan.name).expect("the tensor");
        assert_eq!(
            (tensor.shape, tensor.dtype, tensor.read().expect("its bytes")),
            (plan.shape.as_slice(), plan.dtype, bytes(plan)),
            "{}",
            plan.name
        );
    }
    let start = fs::read(target.join(files[0])).expect("the file");
    let header = u64::from_le_bytes(start[..8].try_into().expect("8 bytes"));
    assert!(header.is_multiple_of(8), "data starts aligned, after {header} bytes");
}

/// An output of these files, finished.
fn output(target: &Path, names: &[&str]) {
    let output = OutputDirectory::create(target, target.exists()).expect("an output");
    names.iter().for_each(|name| output.write(name, name.as_bytes()).expect("a file"));
    let record = json!({ "tool_version": "0", "output": output.files_with_record().expect("names") });
    output.write(RECORD, record.to_string().as_bytes()).expect("a record");
    output.finish().expect("the output");
}

#[test]
fn an_existing_output_is_replaced_by_force_only_and_only_at_the_end() {
    let parent = temporary();
    let target = parent.path().join("out");
    output(&target, &["old.txt"]);
    assert!(matches!(OutputDirectory::create(&target, false), Err(Error::OutputExists { .. })));
    drop(OutputDirectory::create(&target, true).expect("an output"));
    assert_eq!(names(&target), ["old.txt", RECORD], "dropped: the old one stays");
    let output = OutputDirectory::create(&target, true).expect("an output");
    output.write("new.txt", b"new").expect("a file");
    assert_eq!(names(&target), ["old.txt", RECORD]);
    output.finish().expect("the output");
    assert_eq!(names(&target), ["new.txt"]);
    assert_eq!(names(parent.path()), ["out"]);
}

#[test]
fn weights_that_were_trained_in_place_are_not_an_output_any_more() {
    let parent = temporary();
    let target = parent.path().join("out");
    let made = OutputDirectory::create(&target, false).expect("an output");
    let sum = sha256(&mut fs::File::open(put(made.path(), "weights", "as written")).expect("the file")).expect("a sum");
    let record = json!({ "tool_version": "0", "output": ["weights", RECORD], "files": { "weights": sum } });
    put(made.path(), RECORD, record.to_string());
    made.finish().expect("the output");
    for (text, refused) in [("as written", None), ("as trained", Some("weights has been changed since this program"))] {
        let file = fs::File::options().append(true).open(put(&target, "weights", text)).expect("the file");
        // Copied, it is younger, and the same.
        file.set_modified(SystemTime::now() + Duration::from_secs(5)).expect("a time");
        let error = OutputDirectory::create(&target, true).err().map(|error| error.to_string());
        assert!(error.as_deref().unwrap_or_default().contains(refused.unwrap_or_default()), "{text}: {error:?}");
        assert_eq!(error.is_some(), refused.is_some(), "{text}: {error:?}");
    }
}

/// A file, by its path in a directory, with its contents; a path that ends in `/` is a directory.
type Content<'a> = (&'a str, &'a str);

#[test]
fn a_directory_is_replaced_if_it_is_empty_or_an_output_and_nothing_else() {
    let listed = r#"{"tool_version": "0.1.0", "output": ["a/b.txt", "config.json", "slicegpt.json"]}"#;
    let card = "# x, sliced\n\nThis is x (opt) after SliceGPT (arXiv 2401.15024): its residual stream was cut from 8 \
         to 4 coordinates by slicegpt-gpu 0.1.0.";
    let synthesized = "{\n  \"model_type\": \"opt\",\n  \"torch_dtype\": \"float16\"\n}\n";
    let saved =
        "{\n  \"model_type\": \"opt\",\n  \"torch_dtype\": \"float16\",\n  \"transformers_version\": \"5.0.0\"\n}\n";
    let rows = r#"{"input_ids":[[1,2]]}"#;
    let cases: [(&[Content], Option<&str>); 17] = [
        (&[], None),
        (&[("notes.txt", "mine")], Some("neither empty nor an output")),
        (&[("empty/", "")], Some("neither empty nor an output")),
        (
            &[("config.json", "{}"), ("model.safetensors", ""), ("tokenizer.json", "{}")],
            Some("neither empty nor an output"),
        ),
        (&[("slicegpt.json", listed), ("config.json", "{}"), ("a/b.txt", "")], None),
        (&[("slicegpt.json", listed)], None),
        (&[("slicegpt.json", listed), (".DS_Store", "")], None),
        (
            &[("slicegpt.json", listed), ("notes.txt", "mine")],
            Some("holds notes.txt, which this program has not written"),
        ),
        (&[("slicegpt.json", listed), ("a/b/c.txt", "mine")], Some("holds a/b/c.txt")),
        (&[("slicegpt.json", listed), ("kept/", "")], Some("holds kept/")),
        (&[("slicegpt.json", "[]"), ("config.json", "{}")], Some("neither empty nor an output")),
        // Of earlier versions.
        (
            &[
                ("slicegpt.json", r#"{"tool_version": "0.1.0"}"#),
                ("model-00001-of-00002.safetensors", ""),
                ("modeling_sliced_opt.py", ""),
            ],
            None,
        ),
        (&[("slicegpt.json", r#"{"tool_version": "0.1.0"}"#), ("LICENSE", "mine")], Some("holds LICENSE")),
        (&[("README.md", card), ("config.json", "{}"), ("vocab.json", "{}")], None),
        // What transformers saves of an output that was trained on.
        (
            &[("config.json", r#"{"slicing": {"method": "slicegpt"}}"#), ("model.safetensors", "")],
            Some("neither empty nor an output"),
        ),
        (&[("config.json", synthesized), ("tokens.json", rows), ("model.safetensors", "")], None),
        (
            &[("config.json", saved), ("tokens.json", rows), ("model.safetensors", "")],
            Some("neither empty nor an output"),
        ),
    ];
    for (files, reason) in cases {
        let parent = temporary();
        let target = parent.path().join("out");
        fs::create_dir(&target).expect("a directory");
        for (name, text) in files {
            let path = target.join(name);
            fs::create_dir_all(if name.ends_with('/') { &path } else { path.parent().expect("a directory") })
                .expect("a directory");
            if !name.ends_with('/') {
                fs::write(path, text).expect("a file");
            }
        }
        let before = names(&target);
        let result = OutputDirectory::create(&target, true);
        match (result, reason) {
            (Ok(output), None) => output.finish().expect("the output"),
            (Err(error), Some(reason)) => {
                assert!(error.exit_code() == 2 && error.to_string().contains(reason), "{files:?}: {error}");
                assert_eq!(names(&target), before, "{files:?}");
            }
            (result, _) => panic!("{files:?}: {:?}", result.err()),
        }
        assert_eq!(names(parent.path()), ["out"], "{files:?}");
    }
}

#[test]
fn what_has_come_into_the_old_output_meanwhile_is_not_lost() {
    let parent = temporary();
    let target = parent.path().join("out");
    output(&target, &["old.txt"]);
    let replacing = OutputDirectory::create(&target, true).expect("an output");
    replacing.commit(b"state").expect("a state");
    put(&target, "notes.txt", "mine");
    let error = replacing.finish().expect_err("something foreign");
    assert!(error.to_string().contains("holds notes.txt"), "{error}");
    assert_eq!(names(&target), ["notes.txt", "old.txt", RECORD]);
    fs::remove_file(target.join("notes.txt")).expect("moved away");
    OutputDirectory::resume(&target, true).expect("what was kept").0.finish().expect("the output");
    assert_eq!(names(&target), Vec::<String>::new());

    let appeared = parent.path().join("new");
    let output = OutputDirectory::create(&appeared, false).expect("an output");
    fs::create_dir(&appeared).expect("somebody else");
    assert!(matches!(output.finish(), Err(Error::OutputExists { .. })));
    assert_eq!(names(parent.path()), ["new", "out"]);
}

#[test]
fn a_directory_of_the_users_with_the_name_of_an_unfinished_run_is_left_alone() {
    let parent = temporary();
    fs::create_dir(parent.path().join(".out.partial")).expect("a directory");
    put(&parent.path().join(".out.partial"), "notes.txt", "mine");
    for force in [false, true] {
        let error = OutputDirectory::create(&parent.path().join("out"), force).err().expect("something foreign");
        assert!(
            error.exit_code() == 2
                && error.to_string().contains("is in the way, and no unfinished run of this program"),
            "{error}"
        );
    }
    assert_eq!(names(&parent.path().join(".out.partial")), ["notes.txt"]);
}

#[cfg(unix)]
#[test]
fn links_under_the_names_of_unfinished_work_are_not_written_through() {
    use std::os::unix::fs::symlink;
    let parent = temporary();
    let (target, kept) = (parent.path().join("out"), parent.path().join(".out.partial"));
    let precious = put(parent.path(), "precious", "mine");
    let links: [fn(&Path, &Path) -> std::io::Result<()>; 2] =
        [|from, to| symlink(from, to), |from, to| fs::hard_link(from, to)];
    let work = OutputDirectory::create(&target, false).expect("an output");
    work.write("model.safetensors", b"tensors").expect("a file");
    work.write("a/b.txt", b"text").expect("a file");
    work.commit(b"state").expect("a state");
    drop(work);
    for name in
        ["lock", "residual.0", "tokens.json", "output/config.json", "output/a/c.json", "state.new", "output/a/d"]
    {
        let place = kept.join(name);
        let before = fs::read(&place).ok();
        for link in links {
            let _ = fs::remove_file(&place);
            link(&precious, &place).expect("a link");
            for force in [false, true] {
                let made = OutputDirectory::create(&target, force).err().expect("a link").to_string();
                let resumed = OutputDirectory::resume(&target, force).err().expect("a link").to_string();
                let named = format!("holds {}, which this program has not written", name.split('/').next().unwrap());
                assert!(made.contains(&named) && resumed.contains(&named), "{name}: {made}; {resumed}");
            }
            assert_eq!(fs::read(&precious).expect("a file"), b"mine", "{name}");
        }
        fs::remove_file(&place).expect("the link");
        before.into_iter().for_each(|bytes| fs::write(&place, bytes).expect("a file"));
    }
    OutputDirectory::resume(&target, false).expect("what was kept").0.finish().expect("the output");
}

#[test]
fn a_file_in_the_place_of_the_output_is_never_replaced() {
    let parent = temporary();
    let target = put(parent.path(), "out", "precious");
    assert!(matches!(OutputDirectory::create(&target, false), Err(Error::OutputExists { .. })));
    let error = OutputDirectory::create(&target, true).err().expect("an error");
    assert!(error.exit_code() == 2 && error.to_string().contains("not a directory"), "{error}");
    assert_eq!(fs::read(&target).expect("the file"), b"precious");
    assert_eq!(names(parent.path()), ["out"]);
}

#[cfg(unix)]
#[test]
fn through_a_link_the_directory_is_written_and_the_link_stays() {
    let parent = temporary();
    let (target, link) = (parent.path().join("elsewhere"), parent.path().join("out"));
    std::os::unix::fs::symlink(&target, &link).expect("a link");
    let error = OutputDirectory::create(&link, true).err().expect("a link to nothing");
    assert!(
        error.exit_code() == 2
            && error.to_string().contains("is a link to")
            && error.to_string().contains("which is not there"),
        "{error}"
    );
    output(&target, &["old"]);
    assert!(matches!(OutputDirectory::create(&link, false), Err(Error::OutputExists { .. })));
    output(&link, &["new"]);
    assert_eq!(names(&target), ["new", RECORD]);
    assert!(link.is_symlink());
    assert_eq!(names(parent.path()), ["elsewhere", "out"]);
}

#[test]
fn tensors_out_of_plan_are_refused() {
    let parent = temporary();
    let plans = [plan("a", &[4], Dtype::F32), plan("b", &[2], Dtype::F32)];
    let wrong = |write: &dyn Fn(&mut TensorWriter) -> slicegpt_gpu::Result<()>| {
        let output = OutputDirectory::create(&parent.path().join("out"), false).expect("an output");
        let mut writer = TensorWriter::new(&output, &plans, SHARD_BYTES).expect("a writer");
        let error = write(&mut writer).expect_err("out of plan");
        assert!(matches!(error, Error::Shape { .. }), "{error}");
        error.to_string()
    };
    let unknown = wrong(&|writer| writer.write("c", &[0; 8]));
    assert!(unknown.contains("c is not planned"), "{unknown}");
    let long = wrong(&|writer| writer.write("a", &[0; 17]));
    assert!(long.contains("17 bytes of a"), "{long}");
    let twice = wrong(&|writer| writer.write("a", &[0; 16]).and_then(|()| writer.write("a", &[0; 1])));
    assert!(twice.contains("1 bytes of a, where 0 are missing"), "{twice}");
    assert_eq!(names(parent.path()), Vec::<String>::new());
}

#[test]
fn tensors_may_come_in_any_order_and_after_an_interruption() {
    let parent = temporary();
    let target = parent.path().join("out");
    let plans = [plan("a", &[4], Dtype::F32), plan("b", &[2], Dtype::F32), plan("c", &[3], Dtype::F16)];
    // Of 16, 8 and 6 bytes, two files: b and c share one.
    let output = OutputDirectory::create(&target, false).expect("an output");
    let mut writer = TensorWriter::new(&output, &plans, 16).expect("a writer");
    for (name, bytes) in [("c", [3; 6].as_slice()), ("a", &[1; 5]), ("b", &[2; 3])] {
        writer.write(name, bytes).expect("bytes");
    }
    writer.sync().expect("durable");
    output.commit(b"first").expect("a state");
    drop(writer);
    drop(output);
    assert_eq!(names(parent.path()), [".out.partial"], "what was committed is kept");

    let error = OutputDirectory::create(&target, false).err().expect("an unfinished run");
    assert!(
        error.exit_code() == 2 && error.to_string().contains("--resume continues it, --force starts over"),
        "{error}"
    );
    let (output, state) = OutputDirectory::resume(&target, false).expect("an unfinished run");
    assert_eq!(state, b"first");
    let busy = OutputDirectory::resume(&target, false).err().expect("a lock");
    assert!(busy.exit_code() == 2 && busy.to_string().contains("another run is at work"), "{busy}");
    assert!(
        TensorWriter::resume(&output, &plans[..2], 16, |_| true).is_err_and(|error| error.exit_code() == 3),
        "another plan"
    );
    let mut writer = TensorWriter::resume(&output, &plans, 16, |name| name == "c").expect("files as they were");
    assert!(writer.write("c", &[0]).is_err(), "c is whole");
    writer.write("a", &[1; 16]).expect("all of a again");
    writer.write("b", &[2; 8]).expect("all of b again");
    writer.finish().expect("all tensors");
    output.finish().expect("the output");
    assert_eq!(names(parent.path()), ["out"]);
    let checkpoint = Checkpoint::open(&target).expect("a checkpoint");
    for (name, bytes) in [("a", vec![1; 16]), ("b", vec![2; 8]), ("c", vec![3; 6])] {
        assert_eq!(checkpoint.tensor(name).expect("a tensor").read().expect("bytes"), bytes, "{name}");
    }
    let nothing = OutputDirectory::resume(&parent.path().join("other"), false).err().expect("nothing");
    assert!(nothing.exit_code() == 2 && nothing.to_string().contains("nothing to resume"), "{nothing}");
    assert_eq!(names(parent.path()), ["out"], "looking for it makes nothing");
}

#[test]
fn shards_hold_at_most_five_gigabytes_and_keep_the_order() {
    // Bytes of each tensor, in units of 1 MB, and how many shards they need.
    let cases: [(&[usize], usize); 7] = [
        (&[], 1),
        (&[4999], 1),
        (&[5000], 1),
        (&[2500, 2500], 1),
        (&[2500, 2500, 1], 2),
        (&[3000, 3000, 3000, 1000], 3),
        (&[1, 9000, 1], 3),
    ];
    for (sizes, count) in cases {
        let plans: Vec<TensorPlan> = sizes
            .iter()
            .enumerate()
            .map(|(index, size)| plan(&format!("t{index}"), &[*size, 500_000], Dtype::BF16))
            .collect();
        let shards = shards(&plans, SHARD_BYTES);
        assert_eq!(shards.len(), count, "{sizes:?}");
        let flat: Vec<TensorPlan> = shards.iter().flat_map(|(_, group)| group.clone()).collect();
        assert_eq!(flat, plans, "{sizes:?}");
        for (index, (name, group)) in shards.iter().enumerate() {
            let bytes: u64 = group.iter().map(TensorPlan::byte_len).sum();
            assert!(bytes <= 5_000_000_000 || group.len() == 1, "{sizes:?}: {name} has {bytes}");
            let expected = if count == 1 {
                "model.safetensors".into()
            } else {
                format!("model-{:05}-of-{count:05}.safetensors", index + 1)
            };
            assert_eq!(*name, expected);
        }
    }
}

#[test]
fn an_index_goes_with_several_shards() {
    let parent = temporary();
    let output = OutputDirectory::create(&parent.path().join("out"), false).expect("an output");
    let plans = [plan("a", &[3000, 500_000], Dtype::BF16), plan("b", &[3000, 500_000], Dtype::BF16)];
    drop(TensorWriter::new(&output, &plans, SHARD_BYTES).expect("a writer"));
    let index: Map<String, Value> =
        serde_json::from_slice(&fs::read(output.path().join("model.safetensors.index.json")).expect("an index"))
            .expect("JSON");
    assert_eq!(index["metadata"]["total_size"], json!(6_000_000_000u64));
    assert_eq!(
        index["weight_map"],
        json!({ "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors" })
    );
}

#[test]
fn what_a_user_has_put_beside_an_unfinished_output_is_never_removed() {
    for force in [false, true] {
        let parent = temporary();
        let target = parent.path().join("out");
        let output = OutputDirectory::create(&target, force).expect("a directory");
        output.write_beside(OutputDirectory::TOKENS, b"[]").expect("a file");
        output.write_beside("sliced.whole.0", b"").expect("a file");
        output.commit(b"{}").expect("a state");
        drop(output);
        let kept = parent.path().join(".out.partial/notes.txt");
        fs::write(&kept, "mine").expect("a file");
        let again = OutputDirectory::create(&target, force).err().map(|error| error.to_string());
        let resumed = OutputDirectory::resume(&target, force).err().map(|error| error.to_string());
        for reason in [again, resumed] {
            assert!(reason.as_ref().is_some_and(|reason| reason.contains("holds notes.txt")), "{reason:?}");
            assert_eq!(fs::read(&kept).expect("the file"), b"mine");
        }
        fs::remove_file(&kept).expect("removed");
        OutputDirectory::resume(&target, force).expect("an unfinished run");
    }
}
