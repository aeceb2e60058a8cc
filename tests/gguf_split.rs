//! Is a model in several GGUF files read as the one that it was split from, and what does not belong together refused?

#[path = "support/gguf_reader.rs"]
mod gguf_reader;
#[path = "support/gguf_split.rs"]
mod gguf_split;
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use gguf_split::{Part, place, split, write};
use slicegpt_gpu::{
    checkpoint::GgufValue,
    model::{Model, Vocabulary},
};
use support::fixture;

fn open(name: &str) -> Model {
    Model::open(&fixture("parity").join(name)).expect("a model")
}

#[test]
fn whichever_of_the_files_is_named_the_model_is_that_of_the_whole_file() {
    // Separate weights, one head; factors of frequencies in tensors; transposed and fused; norms of heads; experts.
    for name in ["llama_gqa_tied", "phi3_longrope", "gpt2_tied", "stablelm_qk_layernorm", "mixtral_top_2"] {
        let directory = tempfile::tempdir().expect("a directory");
        let whole = directory.path().join("whole.gguf");
        let original = open(name);
        let tensors = split(&original, Vocabulary::None, &whole, &[])[0].tensors.len();
        let expected = Model::open(&whole).expect("the whole file");
        // As gguf-split cuts by default; without tensors in the first; and each tensor in a file of its own.
        for (stem, counts) in [("a.b-of-c", vec![7, 9]), ("no-first", vec![0, 3]), ("each", vec![1; tensors - 1])] {
            let parts = split(&original, Vocabulary::None, &whole, &counts);
            let paths = write(&parts, directory.path(), stem);
            assert_eq!(paths.len(), counts.len() + 1);
            for path in [&paths[0], &paths[1], &paths[paths.len() - 1]] {
                let read = Model::open(path).unwrap_or_else(|error| panic!("{name}, {stem}: {error}"));
                assert!(read.store.checkpoint.files().eq(&paths), "{name}: all files, in order");
                assert_eq!(read.config().raw, expected.config().raw, "{name}, {stem}");
                let (ours, theirs) = (&read.store.checkpoint, &expected.store.checkpoint);
                assert!(ours.names().eq(theirs.names()), "{name}, {stem}");
                assert_eq!(ours.stored_len(), theirs.stored_len(), "{name}, {stem}");
                for tensor in theirs.names() {
                    let bytes = |model: &Model| {
                        let tensor = model.store.checkpoint.tensor(tensor).expect("a tensor");
                        (tensor.dtype, tensor.shape.to_vec(), tensor.read().expect("its bytes"))
                    };
                    assert!(bytes(&read) == bytes(&expected), "{name}, {stem}: {tensor}");
                }
                let hashes = ours.sha256().expect("hashes");
                assert!(
                    paths.iter().all(|path| hashes.contains_key(&*path.file_name().expect("a name").to_string_lossy()))
                );
            }
        }
    }
}

/// Three files that hold a small model, to be changed.
fn three() -> (tempfile::TempDir, Vec<Part>) {
    let directory = tempfile::tempdir().expect("a directory");
    let parts = split(&open("llama_gqa_tied"), Vocabulary::None, &directory.path().join("whole.gguf"), &[4, 5]);
    (directory, parts)
}

#[track_caller]
fn refused(path: &Path, file: &Path, reason: &str) {
    let error = Model::open(path).map(drop).expect_err(reason);
    assert_eq!(error.exit_code(), 3, "{error}");
    let said = error.to_string();
    assert!(said.starts_with(&format!("{}: ", file.display())), "expected {}: {said}", file.display());
    assert!(said.contains(reason), "expected {reason:?}: {said}");
}

#[test]
fn files_that_are_missing_or_have_other_names_are_refused_by_name() {
    let (directory, parts) = three();
    let paths = write(&parts, directory.path(), "x");
    Model::open(&paths[0]).expect("all of them");
    let aside = directory.path().join("aside");
    for (gone, named) in [(0, 1), (1, 0), (1, 2), (2, 0)] {
        fs::rename(&paths[gone], &aside).expect("another name");
        refused(&paths[named], &paths[gone], "missing: the model is in 3 files");
        fs::rename(&aside, &paths[gone]).expect("its name");
    }
    fs::remove_file(&paths[1]).expect("a file");
    fs::remove_file(&paths[2]).expect("a file");
    refused(&paths[0], &paths[1], "missing, and 1 more: the model is in 3 files");
    // Names that say nothing, or something else.
    let other = directory.path().join("other.gguf");
    parts[0].write(&other);
    refused(&other, &other, "is one of 3 files of a model, which are found by how their names end");
    let of_two = place(directory.path(), "x", 1, 2);
    parts[0].write(&of_two);
    parts[1].write(&place(directory.path(), "x", 2, 2));
    refused(&of_two, &of_two, "is one of 3 files of a model");
    let exchanged = [&parts[1], &parts[0], &parts[2]].map(Clone::clone);
    let paths = write(&exchanged, directory.path(), "exchanged");
    refused(&paths[0], &paths[0], "the metadata of file 1 of 3, split.no 0 and split.count 3, found 1 and 3");
    // Of one file that says that it is the only one, the name does not matter.
    let mut alone = split(&open("llama_gqa_tied"), Vocabulary::None, &other, &[]).remove(0);
    let path = place(directory.path(), "alone", 2, 3);
    for count in [Some(GgufValue::U32(1)), Some(GgufValue::U32(0)), None] {
        alone.set("split.count", count);
        alone.write(&path);
        assert_eq!(Model::open(&path).expect("a model").store.checkpoint.files().count(), 1);
    }
}

#[test]
fn files_that_lie_or_are_of_other_models_are_refused_by_name() {
    let number = |number: u32| Some(GgufValue::U32(number));
    type Change = Box<dyn Fn(&mut [Part])>;
    let set = |file: usize, key: &'static str, value: Option<GgufValue>| -> Change {
        Box::new(move |parts| parts[file].set(key, value.clone()))
    };
    let all = |key: &'static str, value: Option<GgufValue>| -> Change {
        Box::new(move |parts| parts.iter_mut().for_each(|part| part.set(key, value.clone())))
    };
    // What is changed, the file that is named, and a part of the reason.
    let cases: Vec<(Change, usize, &str)> = vec![
        (set(0, "split.count", number(u32::MAX)), 0, "split.count: expected a number up to 65535, found"),
        (set(0, "split.count", number(65535)), 0, "is one of 65535 files of a model"),
        (set(0, "split.count", Some(GgufValue::Text("3".into()))), 0, "split.count: expected a number up to 65535"),
        (set(0, "split.count", Some(GgufValue::I32s(vec![3]))), 0, "split.count: expected a number up to 65535"),
        (set(0, "split.count", Some(GgufValue::F32(3.0))), 0, "split.count: expected a number up to 65535"),
        (set(0, "split.no", number(70000)), 0, "split.no: expected a number up to 65535"),
        (set(0, "split.no", None), 0, "file 1 of 3, split.no 0 and split.count 3, found nothing and 3"),
        (set(1, "split.no", number(2)), 1, "file 2 of 3, split.no 1 and split.count 3, found 2 and 3"),
        (set(2, "split.count", number(2)), 2, "file 3 of 3, split.no 2 and split.count 3, found 2 and 2"),
        (set(2, "split.count", None), 2, "found 2 and nothing"),
        (set(1, "split.tensors.count", number(7)), 1, "split.tensors.count is not as in"),
        (set(2, "general.name", Some(GgufValue::Text("another".into()))), 2, "general.name is not as in"),
        (set(2, "general.else", number(1)), 2, "general.else is not as in"),
        (all("split.tensors.count", number(1)), 0, "split.tensors.count: expected"),
        (all("split.tensors.count", number(u32::MAX)), 0, "split.tensors.count: expected a number up to 2147483647"),
        (all("split.tensors.count", None), 0, "has no split.tensors.count"),
        (Box::new(|parts| drop(parts[1].tensors.pop())), 0, "as many as all 3 files have together"),
        (
            Box::new(|parts| {
                let again = parts[0].tensors[1].clone();
                parts[2].tensors[0] = again;
            }),
            2,
            "has the tensor",
        ),
    ];
    for (change, file, reason) in cases {
        let (directory, mut parts) = three();
        change(&mut parts);
        let paths = write(&parts, directory.path(), "x");
        refused(&paths[0], &paths[file], reason);
    }
    // What each file has for itself may differ, and what is said again may be the same.
    let (directory, mut parts) = three();
    let name = parts[0].metadata.iter().find(|(key, _)| key == "general.name").expect("a name").1.clone();
    parts[1].set("general.name", Some(name));
    parts[2].set("general.alignment", number(32));
    Model::open(&write(&parts, directory.path(), "x")[0]).expect("a model");
}

#[test]
fn files_that_are_damaged_or_something_else_are_refused_by_name() {
    let (directory, parts) = three();
    let paths: Vec<PathBuf> = write(&parts, directory.path(), "x");
    let whole = fs::read(&paths[1]).expect("bytes");
    let mut small = whole.clone();
    small.truncate(whole.len() - 64);
    for (bytes, reason) in [
        (small, "it is cut off"),
        (b"<!DOCTYPE html><html>".to_vec(), "a web page"),
        (Vec::new(), "empty"),
        (b"GGUF".to_vec(), "ends within the version"),
    ] {
        fs::write(&paths[1], bytes).expect("a file");
        refused(&paths[0], &paths[1], reason);
        refused(&paths[2], &paths[1], reason);
    }
    fs::remove_file(&paths[1]).expect("a file");
    fs::create_dir(&paths[1]).expect("a directory");
    refused(&paths[0], &paths[1], "not a regular file");
}
