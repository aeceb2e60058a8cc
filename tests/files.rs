//! Which files of a directory count, and is what lies there instead named with what to do?

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;
use slicegpt_gpu::{
    checkpoint::{Checkpoint, Dtype, FileTarget, TensorFile, TensorPlan},
    model::Model,
};
use support::temporary;

/// A file with these tensors of one value each, in a directory that is made if need be.
fn shard(directory: &Path, name: &str, tensors: &[(&str, f32)]) -> PathBuf {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
    let plans = tensors
        .iter()
        .map(|(name, _)| TensorPlan { name: (*name).into(), shape: vec![1], dtype: Dtype::F32 })
        .collect();
    let mut file = TensorFile::create(FileTarget::new(&path, false).expect("a name"), plans).expect("a file");
    for (name, value) in tensors {
        file.write(name, &value.to_le_bytes()).expect("a tensor");
    }
    file.finish().expect("a file");
    path
}

fn index(directory: &Path, map: &[(&str, &str)]) {
    let map: serde_json::Map<_, _> = map.iter().map(|(tensor, file)| ((*tensor).to_owned(), json!(file))).collect();
    // A total that is wrong says nothing.
    let text = json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string();
    fs::write(directory.join("model.safetensors.index.json"), text).expect("a file");
}

fn values(checkpoint: &Checkpoint) -> Vec<(String, f32)> {
    let value = |name: &str| {
        let bytes = checkpoint.tensor(name).expect("a tensor").read().expect("its bytes");
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    };
    checkpoint.names().map(|name| (name.to_owned(), value(name))).collect()
}

fn expect(directory: &Path, expected: &[(&str, f32)]) -> Vec<String> {
    let checkpoint = Checkpoint::open(directory).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        values(&checkpoint),
        expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect::<Vec<_>>()
    );
    checkpoint.notes().to_vec()
}

fn refusal(path: &Path) -> String {
    let error = Checkpoint::open(path).err().unwrap_or_else(|| panic!("{} was opened", path.display()));
    assert_eq!(error.exit_code(), 3, "{error}");
    error.to_string()
}

#[test]
fn one_file_counts_more_than_an_index_and_that_is_said() {
    let directory = temporary();
    shard(directory.path(), "model.safetensors", &[("a", 1.0)]);
    shard(directory.path(), "other.safetensors", &[("a", 2.0)]);
    shard(directory.path(), "model.fp16.safetensors", &[("a", 3.0)]);
    shard(directory.path(), "consolidated.safetensors", &[("a", 4.0)]);
    assert_eq!(expect(directory.path(), &[("a", 1.0)]), Vec::<String>::new());
    index(directory.path(), &[("a", "other.safetensors")]);
    let notes = expect(directory.path(), &[("a", 1.0)]);
    assert!(
        notes.len() == 1
            && notes[0].ends_with("counts, as in transformers; model.safetensors.index.json beside it is not read"),
        "{notes:?}"
    );
    fs::remove_file(directory.path().join("model.safetensors")).expect("removed");
    assert_eq!(expect(directory.path(), &[("a", 2.0)]), Vec::<String>::new());
}

#[test]
fn all_tensors_of_all_shards_count_whatever_the_index_says_of_them() {
    let directory = temporary();
    shard(directory.path(), "a.safetensors", &[("one", 1.0), ("unlisted", 2.0)]);
    shard(directory.path(), "sub/dir/b.safetensors", &[("two", 3.0)]);
    shard(directory.path(), "not-named.safetensors", &[("three", 4.0)]);
    index(directory.path(), &[("one", "sub/dir/b.safetensors"), ("two", "a.safetensors")]);
    let notes = expect(directory.path(), &[("one", 1.0), ("two", 3.0), ("unlisted", 2.0)]);
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn of_a_tensor_in_two_shards_the_last_by_name_counts_and_differences_are_said() {
    let directory = temporary();
    shard(directory.path(), "x-1.safetensors", &[("a", 1.0), ("same", 5.0)]);
    shard(directory.path(), "x-2.safetensors", &[("a", 2.0), ("b", 3.0), ("same", 5.0)]);
    index(directory.path(), &[("a", "x-1.safetensors"), ("b", "x-2.safetensors"), ("same", "x-1.safetensors")]);
    let notes = expect(directory.path(), &[("a", 2.0), ("b", 3.0), ("same", 5.0)]);
    assert!(
        notes.len() == 1 && notes[0].starts_with("1 tensors are in two files with different values, a first: that of "),
        "{notes:?}"
    );
    assert!(
        notes[0].contains("x-2.safetensors counts") && notes[0].contains("x-1.safetensors is left out"),
        "{notes:?}"
    );
}

#[test]
fn a_name_that_was_left_out_as_the_same_as_another_is_found() {
    let directory = temporary();
    let header = json!({ "__metadata__": { "format": "pt", "b": "a", "c": "nothing" }, "a": { "dtype": "F32", "shape": [1], "data_offsets": [0, 4] } });
    let header = header.to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &7f32.to_le_bytes()].concat();
    fs::write(directory.path().join("model.safetensors"), bytes).expect("a file");
    let checkpoint = Checkpoint::open(directory.path()).expect("a checkpoint");
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a"]);
    assert_eq!(checkpoint.tensor("b").expect("the same").read().expect("bytes"), 7f32.to_le_bytes());
    assert!(checkpoint.tensor("c").is_none() && checkpoint.tensor("format").is_none());
}

#[test]
fn shards_that_are_gone_or_of_another_kind_are_named() {
    let directory = temporary();
    shard(directory.path(), "a.safetensors", &[("a", 1.0)]);
    index(directory.path(), &[("a", "a.safetensors"), ("b", "b.safetensors"), ("c", "sub/c.safetensors")]);
    let message = refusal(directory.path());
    assert!(
        message.contains(
            "cannot read 2 of the 3 shards that it names, which are not there: b.safetensors, \
             sub/c.safetensors; download"
        ),
        "{message}"
    );
    index(directory.path(), &[("a", "pytorch_model.bin")]);
    let message = refusal(directory.path());
    assert!(
        message.contains(
            "\"pytorch_model.bin\" is not a .safetensors file: it is a PyTorch file; load it in \
             transformers and save it"
        ),
        "{message}"
    );
}

#[test]
fn what_a_directory_holds_instead_is_named_with_what_to_do() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[], ": it is empty"),
        (
            &[("pytorch_model.bin", "")],
            ": it has pytorch_model.bin, a PyTorch file; load it in transformers and save it with \
             model.save_pretrained",
        ),
        (&[("tf_model.h5", "")], ": it has only tf_model.h5, a TensorFlow file"),
        (&[("flax_model.msgpack", "")], "a Flax file"),
        (&[("llama.Q4_K_M.gguf", "")], "a model for llama.cpp; give that file itself"),
        (&[("model.onnx", "")], "an ONNX graph"),
        (&[("model.ckpt", ""), ("config.json", "{}")], ": it has only model.ckpt, a PyTorch file"),
        (
            &[
                ("adapter_config.json", "{\"base_model_name_or_path\": \"org/base\"}"),
                ("adapter_model.safetensors", ""),
            ],
            ": it is a LoRA adapter (adapter_config.json) of org/base, not a whole model; merge it first, with PEFT: ",
        ),
        (&[("model_index.json", "{}"), ("unet/config.json", "{}")], ": it is a diffusers pipeline"),
        (&[("modules.json", "[]"), ("pytorch_model.bin", "")], ": it is a sentence-transformers model"),
        (
            &[("model-00001-of-00004.safetensors", ""), ("model-00003-of-00004.safetensors", "")],
            ": it has 2 of 4 shards (model-00001-of-00004.safetensors, model-00003-of-00004.safetensors), but not the \
             index",
        ),
        (&[("consolidated.safetensors", "")], "tensor names of another program's"),
        (
            &[("model.fp16.safetensors", "")],
            ": it has model.fp16.safetensors, which transformers does not load of its own accord; give the file itself",
        ),
        (&[("model.safetensors.part", "")], ": a download is not finished (model.safetensors.part)"),
        (
            &[("one/config.json", "{}"), ("two/model.safetensors", ""), ("three/notes.txt", "")],
            ": the models lie in directories below it: one, two; give one",
        ),
        (
            &[("refs/main", "abc"), ("snapshots/abc/x", "")],
            ": the models lie in directories below it: snapshots/abc; give one of them",
        ),
        (&[("notes.txt", "")], ": it has only notes.txt"),
    ];
    for (files, expected) in cases {
        let directory = temporary();
        for (name, text) in *files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            fs::write(path, text).expect("a file");
        }
        let message = refusal(directory.path());
        assert!(
            message.contains("has neither model.safetensors nor model.safetensors.index.json")
                && message.contains(expected),
            "{files:?}: {message}"
        );
    }
    let directory = temporary();
    shard(directory.path(), "model.safetensors", &[("a", 1.0)]);
    shard(directory.path(), "shard-00001-model-00001-of-00002.safetensors", &[("a", 1.0)]);
    assert!(
        refusal(directory.path())
            .contains("shard-00001-model-00001-of-00002.safetensors, a shard of a distributed checkpoint")
    );
}

#[test]
fn what_stands_in_the_place_of_weights_is_named_with_what_to_do() {
    let whole = fs::read(support::fixture("parity/llama_gqa_tied/model.safetensors")).expect("weights");
    let text = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 13476838\n";
    let mut tar = vec![b'x'; 512];
    tar[257..262].copy_from_slice(b"ustar");
    let header = br#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#;
    let ill_sized = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 8]].concat();
    let cases: &[(&[u8], &str)] = &[
        (b"", "it is empty; download it again"),
        (
            text.as_bytes(),
            "it is a Git LFS pointer to a file of 13476838 bytes, not that file; fetch it with `git lfs pull`",
        ),
        (
            b"\n<!doctype html><html>...",
            "it is a web page (HTML), not the file that it is about; download the file itself",
        ),
        (b"PK\x03\x04rest", "it is a zip archive, as torch.save writes them"),
        (b"\x80\x02\x8a\x0a", "it is a Python pickle"),
        (b"\x1f\x8b\x08rest", "it is compressed with gzip; unpack it"),
        (b"\x28\xb5\x2f\xfdrest", "it is compressed with zstd; unpack it"),
        (&tar, "it is a tar archive; unpack it"),
        (b"GGUF\x03\0\0\0", "it is a GGUF file for llama.cpp"),
        (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
        (
            b"Access denied: log in first",
            "it is a text that begins with \"Access denied: log in first\"; if a server said so",
        ),
        (b"Entry not found", "it is a text that begins with \"Entry not found\"; if a server said so, check the name"),
        (b"no file", "it is a text that begins with \"no file\"; if a server"),
        (b"\x40\0\0\0\0\0\0", "it has 7 bytes, fewer than any such file; download it again"),
        (&whole[..whole.len() - 1000], "1000 bytes at its end are missing: an unfinished download or copy"),
        (&whole[..100], "bytes of its header are missing; download it again"),
        (&[whole.as_slice(), &[0; 3]].concat(), "3 bytes more than its header tells of"),
        (&ill_sized, "its header gives a 8 bytes, which [3] of F32 does not take"),
    ];
    for (bytes, expected) in cases {
        let directory = temporary();
        let path = directory.path().join("model.safetensors");
        fs::write(&path, bytes).expect("a file");
        let message = refusal(directory.path());
        assert!(
            message.contains("model.safetensors: not a valid safetensors file: ") && message.contains(expected),
            "{expected}: {message}"
        );
    }
    let directory = temporary();
    for (name, expected) in [
        ("model.gguf", "this is a model for llama.cpp"),
        ("model.pt", "this is a PyTorch file"),
        ("model.tar.gz", "this is an archive"),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, "x").expect("a file");
        let message = refusal(&path);
        assert!(
            message.contains("expected a .safetensors file or a directory with one; ") && message.contains(expected),
            "{message}"
        );
    }
}

#[test]
fn what_a_server_answered_in_the_place_of_json_is_named_with_what_to_do() {
    for name in ["config.json", "tokenizer_config.json", "model.safetensors.index.json"] {
        let directory = temporary();
        let path = directory.path().join(name);
        fs::write(&path, "Repository not found\n").expect("a file");
        let error = match name {
            "config.json" => slicegpt_gpu::model::Config::load(&path).err().map(|error| error.to_string()),
            "tokenizer_config.json" => {
                slicegpt_gpu::data::TokenizerFiles::read(directory.path()).err().map(|error| error.to_string())
            }
            _ => Some(refusal(directory.path())),
        };
        let error = error.unwrap_or_else(|| panic!("{name} is read"));
        assert!(error.contains("begins with \"Repository not found\"; if a server said so, check the name"), "{error}");
    }
}

fn unloadable(directory: &Path) -> String {
    let error = Model::open(directory).err().unwrap_or_else(|| panic!("{} was opened", directory.display()));
    assert_eq!(error.exit_code(), 3, "{error}");
    error.to_string()
}

#[test]
fn the_file_that_the_config_names_counts_and_stays_in_its_directory() {
    let scene = support::copy_of("llama_gqa_tied");
    let whole = scene.path().join("model.safetensors");
    fs::create_dir(scene.path().join("weights")).expect("a directory");
    fs::rename(&whole, scene.path().join("weights/mine.safetensors")).expect("renamed");
    fs::write(&whole, "not this").expect("a file");
    support::set_fields(scene.path(), &[("transformers_weights", json!("weights/mine.safetensors"))]);
    let model = Model::open(scene.path()).expect("the model that the config names");
    assert!(model.store.checkpoint.files().all(|file| file.ends_with("weights/mine.safetensors")));
    for name in ["../model.safetensors", "/etc/passwd", ""] {
        support::set_fields(scene.path(), &[("transformers_weights", json!(name))]);
        let message = unloadable(scene.path());
        assert!(
            message.contains("transformers_weights: ")
                && message.contains("is not the name of a file in its directory"),
            "{message}"
        );
    }
    for (name, reason) in [
        (json!("mine.index.json"), "is neither a .safetensors nor a .safetensors.index.json file"),
        (json!("mine.bin"), "file; it is a PyTorch file"),
        (json!(["weights/mine.safetensors"]), "expected the name of a file, found [\"weights/mine.safetensors\"]"),
    ] {
        support::set_fields(scene.path(), &[("transformers_weights", name)]);
        let message = unloadable(scene.path());
        assert!(message.contains("config.json: transformers_weights: ") && message.contains(reason), "{message}");
    }
}

#[test]
fn an_adapter_beside_a_model_and_a_model_without_config_are_refused() {
    let scene = support::copy_of("llama_gqa_tied");
    fs::write(scene.path().join("adapter_config.json"), "{}").expect("a file");
    let message = unloadable(scene.path());
    assert!(
        message.contains(
            "beside the model, it has what transformers would add to it: a LoRA adapter (adapter_config.json)"
        ),
        "{message}"
    );
    fs::remove_file(scene.path().join("adapter_config.json")).expect("removed");
    fs::remove_file(scene.path().join("config.json")).expect("removed");
    let message = unloadable(scene.path());
    assert!(
        message.contains("config.json: missing: expected the config.json of the model beside its weights"),
        "{message}"
    );
    fs::write(scene.path().join("params.json"), "{}").expect("a file");
    assert!(unloadable(scene.path()).ends_with("; params.json is of another program's format"));
}

#[test]
fn all_that_is_wrong_with_a_model_is_said_at_once() {
    let refused = |directory: &Path| {
        let error = Model::open(directory).err().expect("refused");
        assert_eq!(error.exit_code(), 3, "{error}");
        error.to_string()
    };
    // Weights and config.
    let model = support::copy_of("llama_gqa_tied");
    let path = model.path().join("model.safetensors");
    let whole = fs::read(&path).expect("weights");
    fs::write(&path, &whole[..whole.len() - 100]).expect("weights");
    support::set_fields(model.path(), &[("model_type", "mamba".into())]);
    let message = refused(model.path());
    assert!(message.starts_with("2 things are wrong: "), "{message}");
    assert!(message.contains("100 bytes at its end are missing") && message.contains("\"mamba\""), "{message}");
    // Tensors that are missing, and of another shape.
    let model = support::copy_of("llama_gqa_tied");
    let mut tensors = support::tensors(model.path());
    let names: Vec<String> = tensors.keys().filter(|name| name.contains("mlp")).cloned().collect();
    assert_eq!(names.len(), 6);
    for name in &names[1..] {
        tensors.remove(name);
    }
    tensors.get_mut(&names[0]).expect("a tensor").1.reverse();
    support::write_tensors(&model.path().join("model.safetensors"), &tensors, &[]);
    let message = refused(model.path());
    assert!(message.starts_with("6 things are wrong: ") && message.ends_with("; and 1 more"), "{message}");
    assert_eq!(names.iter().filter(|name| message.contains(name.as_str())).count(), 5, "{message}");
    assert!(message.contains("expected shape") && message.contains("missing; config.json implies"), "{message}");
    // One thing is said as it always was.
    let model = support::copy_of("llama_gqa_tied");
    support::set_fields(model.path(), &[("model_type", "mamba".into())]);
    assert!(refused(model.path()).starts_with("unknown model_type"));
}
