//! Does the rule for what is written hold from the check up to the end?

mod support;

use std::{fs, path::Path};

use slicegpt_gpu::{
    Error,
    checkpoint::{AtomicFile, FileTarget, OutputDirectory, Writes},
};
use support::names;

/// Writes to a target while `meanwhile` happens.
fn write(target: FileTarget, meanwhile: impl FnOnce()) -> slicegpt_gpu::Result<u64> {
    let mut file = AtomicFile::create(target)?;
    file.append(b"new")?;
    meanwhile();
    file.finish()
}

/// What was kept of a file that could not be given its name.
fn kept(result: slicegpt_gpu::Result<u64>, reason: &str) -> Vec<u8> {
    match result {
        Err(Error::Displaced { kept, source }) => {
            assert!(source.to_string().contains(reason), "{source}");
            let bytes = fs::read(&kept).expect("what was written");
            fs::remove_file(kept).expect("a file");
            bytes
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_comes_while_another_is_written_is_not_replaced_and_the_other_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    let target = FileTarget::new(&path, false).expect("a name");
    assert_eq!(names(directory.path()), Vec::<String>::new(), "looking leaves nothing");
    let result = write(target, || fs::write(&path, "somebody else's").expect("a file"));
    assert!(result.as_ref().is_err_and(|error| error.exit_code() == 2), "{result:?}");
    assert_eq!(kept(result, "already exists"), b"new");
    assert_eq!(fs::read(&path).expect("a file"), b"somebody else's");
    assert_eq!(names(directory.path()), ["file"]);
    assert_eq!(write(FileTarget::new(&path, true).expect("a name"), || ()).expect("a file"), 3);
    assert_eq!(fs::read(&path).expect("a file"), b"new");
    // What is gone meanwhile is simply written.
    write(FileTarget::new(&path, true).expect("a name"), || fs::remove_file(&path).expect("gone")).expect("a file");
    assert_eq!(names(directory.path()), ["file"]);
    drop(AtomicFile::create(FileTarget::new(&path, true).expect("a name")).expect("a file"));
    assert_eq!(names(directory.path()), ["file"], "dropped: nothing is left");
}

#[test]
fn a_directory_in_the_place_of_the_file_is_refused_at_the_end_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    let target = FileTarget::new(&path, true).expect("a name");
    assert_eq!(kept(write(target, || fs::create_dir(&path).expect("a directory")), "is a directory"), b"new");
    assert!(path.is_dir());
}

#[cfg(unix)]
#[test]
fn an_input_that_comes_into_the_place_of_the_output_is_not_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let (input, path) = (directory.path().join("input"), directory.path().join("file"));
    fs::write(&input, "input").expect("a file");
    fs::write(&path, "old").expect("a file");
    let mut writes = Writes::new(true);
    writes.reads(&input);
    let target = writes.file("--output", &path).expect("a name");
    let result = write(target, || {
        fs::remove_file(&path).expect("gone");
        std::os::unix::fs::symlink(&input, &path).expect("a link");
    });
    assert_eq!(kept(result, "is the input"), b"new");
    assert_eq!(fs::read(&input).expect("the input"), b"input");
}

#[cfg(unix)]
#[test]
fn a_replaced_file_keeps_its_permissions_and_a_new_one_has_the_usual_ones() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    let (path, usual) = (directory.path().join("file"), directory.path().join("usual"));
    fs::write(&usual, "").expect("a file");
    let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    write(FileTarget::new(&path, false).expect("a name"), || ()).expect("a file");
    assert_eq!(mode(&path), mode(&usual));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("permissions");
    write(FileTarget::new(&path, true).expect("a name"), || ()).expect("a file");
    assert_eq!(mode(&path), 0o640);
}

#[test]
fn an_input_in_the_way_of_an_unfinished_run_is_protected() {
    let scene = tempfile::TempDir::new().expect("a directory");
    let aside = scene.path().join(".out.partial");
    fs::create_dir(&aside).expect("a directory");
    let text = aside.join("calibration.txt");
    fs::write(&text, "mine").expect("a file");
    let mut writes = Writes::new(true);
    writes.reads(&text);
    let refused = writes.directory("--output", &scene.path().join("out")).expect_err("an input is lost");
    assert!(refused.to_string().contains("calibration.txt, which would be overwritten"), "{refused}");
}

#[test]
fn nothing_is_written_that_would_become_a_part_of_the_model_that_is_read() {
    let model = tempfile::TempDir::new().expect("a directory");
    fs::write(model.path().join("config.json"), "{}").expect("a file");
    fs::create_dir(model.path().join("additional_chat_templates")).expect("a directory");
    fs::write(model.path().join("other.gguf"), b"GGUF\x03\0\0\0").expect("a file");
    for (name, reason) in [
        ("model.safetensors", Some("would become a part of the model")),
        ("adapter_config.json", Some("would become a part of the model")),
        ("other.gguf", Some("is a file of the model")),
        ("tokenizer.5.0.0.json", Some("would become a part of the model")),
        ("Tokenizer.model", Some("would become a part of the model")),
        ("vocab.txt", Some("would become a part of the model")),
        ("LICENSE", Some("would become a part of the model")),
        ("slicegpt.json", Some("would become a part of the model")),
        ("model-00001-of-00002.safetensors", Some("would become a part of the model")),
        ("shard-00000-model-00001-of-00001.safetensors", Some("would become a part of the model")),
        ("additional_chat_templates/default.jinja", Some("would become a part of the model")),
        ("logits.safetensors", None),
        ("trace.json", None),
    ] {
        let writes = || {
            let mut writes = Writes::new(true);
            writes.reads_model(model.path(), std::iter::empty());
            writes
        };
        let path = model.path().join(name);
        let mut results = vec![writes().file("--output", &path).map(drop).map_err(|error| error.to_string())];
        // Nor a directory: what is looked for as a file would be found, and not be read.
        if !path.exists() {
            results.push(writes().directory("--output", &path).map_err(|error| error.to_string()));
        }
        for result in results {
            match reason {
                Some(reason) => assert!(result.is_err_and(|error| error.contains(reason)), "{name}"),
                None => assert!(result.is_ok(), "{name}"),
            }
        }
    }
}

#[test]
fn a_file_that_is_named_like_a_directory_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("file"), "x").expect("a file");
    for force in [false, true] {
        let error = Writes::new(force).file("--output", &directory.path().join("file/")).err().expect("no file's name");
        assert!(error.exit_code() == 2 && error.to_string().contains("leave out the slash"), "{error}");
    }
}

#[test]
fn what_runs_put_beside_an_output_is_known_for_that_and_nothing_else() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let (target, kept) = (parent.path().join("out"), parent.path().join(".out.partial"));
    let work = OutputDirectory::create(&target, false).expect("an output");
    work.commit(b"state").expect("a state");
    let draft = work.draft().expect("a draft");
    draft.write("config.json", b"{}").expect("a file");
    assert_eq!((draft.path(), draft.beside("x")), (kept.join("draft").as_path(), work.beside("x")));
    drop((draft, work));
    for name in ["residual.0", "residual.3.0", "gradient.1.1", "training.2"] {
        let place = kept.join(name);
        fs::write(&place, "values").expect("a file");
        let resumed = OutputDirectory::resume(&target, false).unwrap_or_else(|error| panic!("{name}: {error}"));
        drop(resumed);
        assert!(place.exists() && kept.join("draft/config.json").exists(), "{name}");
    }
    for name in ["residual", "residual.", "Residual.0", "residual.0.txt", "residual 3.0", "drafts"] {
        let place = kept.join(name);
        fs::write(&place, "mine").expect("a file");
        let error = OutputDirectory::resume(&target, false).err().expect("something foreign").to_string();
        assert!(error.contains(&format!("holds {name}, which")), "{name}: {error}");
        fs::remove_file(place).expect("mine");
    }
    let (work, _) = OutputDirectory::resume(&target, false).expect("what was kept");
    work.finish().expect("the output");
    assert!(target.is_dir() && !kept.exists(), "drafts are no part of the output");
}
