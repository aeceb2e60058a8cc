//! Are damaged and hostile checkpoints refused with a reason?

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use slicegpt_gpu::{
    Error,
    checkpoint::{Checkpoint, Dtype, FileTarget, TensorFile, TensorPlan},
    model::{Config, WeightStore},
};
use support::{put, temporary};

/// The bytes of a safetensors file with this header and data.
fn file(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

fn one(name: &str) -> Vec<u8> {
    file(json!({ name: { "dtype": "F32", "shape": [1], "data_offsets": [0, 4] } }).to_string(), &[0; 4])
}

/// The error of opening, which must be a bad input file.
fn refusal(path: &Path) -> String {
    let error = Checkpoint::open(path).err().unwrap_or_else(|| panic!("{} was opened", path.display()));
    assert_eq!(error.exit_code(), 3, "{error}");
    error.to_string()
}

#[test]
fn damaged_and_lying_headers_are_refused_with_the_name_of_the_file() {
    let whole = file(
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#,
        &[0; 16],
    );
    let tensor =
        |shape: &str, offsets: &str| format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#);
    let pair = |first: &str, second: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{first}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{second}}}}}"#
        )
    };
    let mut long = whole.clone();
    long[..8].copy_from_slice(&(whole.len() as u64).to_le_bytes());
    let mut absurd = whole.clone();
    absurd[..8].copy_from_slice(&(1u64 << 63).to_le_bytes());
    let mut wrapping = whole.clone();
    wrapping[..8].copy_from_slice(&(u64::MAX - 7).to_le_bytes());
    let cases = [
        ("empty", Vec::new()),
        ("shorter than the header's length", vec![1, 0, 0]),
        ("header truncated", whole[..40].to_vec()),
        ("data truncated", whole[..whole.len() - 1].to_vec()),
        ("data too long", [whole.as_slice(), &[0]].concat()),
        ("header longer than the file", long),
        ("header of 2^63 bytes", absurd),
        ("header length that wraps around", wrapping),
        ("header of no bytes", file("", &[])),
        ("header not JSON", file("{\"a\": ", &[])),
        ("header not an object", file("[1, 2]", &[])),
        ("header not UTF-8", file(b"{\"\xff\xfe\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", &[0; 4])),
        ("overlap", file(pair("[0,8]", "[4,12]"), &[0; 12])),
        ("same bytes twice", file(pair("[0,8]", "[0,8]"), &[0; 8])),
        ("hole", file(pair("[0,8]", "[12,20]"), &[0; 20])),
        ("hole at the start", file(tensor("[2]", "[4,12]"), &[0; 12])),
        ("offsets beyond the data", file(tensor("[2]", "[0,8]"), &[0; 4])),
        ("offsets backwards", file(tensor("[2]", "[8,0]"), &[0; 8])),
        ("negative offset", file(tensor("[2]", "[-8,0]"), &[0; 8])),
        ("shape of other size than the bytes", file(tensor("[3]", "[0,8]"), &[0; 8])),
        ("shape whose product overflows", file(tensor("[4294967296,4294967296]", "[0,8]"), &[0; 8])),
        ("shape whose byte count overflows", file(tensor("[4611686018427387904]", "[0,0]"), &[])),
        ("negative shape", file(tensor("[-2]", "[0,8]"), &[0; 8])),
        ("unknown dtype", file(r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8])),
    ];
    for (claim, bytes) in cases {
        let directory = temporary();
        let path = put(directory.path(), "model.safetensors", bytes);
        for opened in [directory.path(), &path] {
            let message = refusal(opened);
            assert!(message.contains("model.safetensors: not a valid safetensors file: "), "{claim}: {message}");
        }
    }
}

#[test]
fn paths_that_are_no_checkpoint_are_refused() {
    let directory = temporary();
    assert!(refusal(directory.path()).contains("has neither model.safetensors nor model.safetensors.index.json"));
    let text = put(directory.path(), "notes.txt", "hello");
    assert!(refusal(&text).contains("expected a .safetensors file"), "{}", refusal(&text));
    assert!(matches!(Checkpoint::open(&directory.path().join("missing.bin")), Err(Error::Read { .. })));
    assert!(matches!(Checkpoint::open(&directory.path().join("missing.safetensors")), Err(Error::Read { .. })));
    fs::create_dir(directory.path().join("model.safetensors")).expect("a directory with a file's name");
    assert!(refusal(directory.path()).contains("model.safetensors: not a regular file"));
}

#[cfg(unix)]
#[test]
fn a_pipe_in_the_place_of_a_checkpoint_is_refused_without_waiting() {
    let directory = temporary();
    let pipe = directory.path().join("model.safetensors");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    assert!(refusal(&pipe).contains("not a regular file"));
}

#[test]
fn an_index_cannot_name_files_outside_of_its_directory() {
    let outer = temporary();
    put(outer.path(), "x.safetensors", one("a"));
    let inner = outer.path().join("model");
    fs::create_dir_all(inner.join("a")).expect("directories");
    put(&inner.join("a"), "b.safetensors", one("a"));
    put(&inner, "x.safetensors", one("a"));
    for name in [
        "../x.safetensors",
        "/etc/passwd",
        "a/../x.safetensors",
        "a//b.safetensors",
        "a/./b.safetensors",
        "./x.safetensors",
        "..",
        ".",
        "",
        "a\\b.safetensors",
        "..\\x.safetensors",
    ] {
        put(&inner, "model.safetensors.index.json", json!({ "weight_map": { "a": name } }).to_string());
        let message = refusal(&inner);
        assert!(message.contains("is not a plain file name") && message.contains("index.json"), "{name}: {message}");
    }
}

#[test]
fn broken_indices_are_refused() {
    let directory = temporary();
    let index = |text: &str| put(directory.path(), "model.safetensors.index.json", text);
    for (text, expected) in [
        (r#"{"weight_map": {}}"#, "weight_map names no file"),
        (r#"{"metadata": {}}"#, "missing field `weight_map`"),
        (r#"{"weight_map": {"a": 3}}"#, "expected a string"),
        (r#"{"weight_map": ["x.safetensors"]}"#, "expected a map"),
        ("not json", "expected"),
        ("", "EOF"),
    ] {
        let path = index(text);
        let message = refusal(directory.path());
        assert!(message.contains(expected) && message.contains(&path.display().to_string()), "{text}: {message}");
    }
    index(r#"{"weight_map": {"a": "here.safetensors", "b": "missing.safetensors"}}"#);
    put(directory.path(), "here.safetensors", one("a"));
    let message = refusal(directory.path());
    assert!(message.contains("cannot read") && message.contains("missing.safetensors"), "{message}");
    put(directory.path(), "missing.safetensors", one("b"));
    let checkpoint = Checkpoint::open(directory.path()).expect("two shards");
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
}

/// A llama of two layers, small.
fn tiny() -> Config {
    let fields = json!({
        "model_type": "llama", "hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 6, "vocab_size": 5,
        "max_position_embeddings": 16
    });
    let Value::Object(fields) = fields else { unreachable!("an object") };
    Config::from_fields(fields, Path::new("config.json")).expect("a config")
}

/// What [`tiny`] calls for, in one type.
fn planned(dtype: Dtype) -> Vec<TensorPlan> {
    tiny().tensors().into_iter().map(|spec| TensorPlan { name: spec.name, shape: spec.shape, dtype }).collect()
}

fn data(plan: &TensorPlan) -> Vec<u8> {
    vec![0; plan.byte_len() as usize]
}

/// A checkpoint in `directory` of these tensors, zero everywhere but where `edit` changes it.
fn write(directory: &Path, plans: &[TensorPlan], mut edit: impl FnMut(&str, &mut [u8])) -> PathBuf {
    let path = directory.join("model.safetensors");
    let mut out = TensorFile::create(FileTarget::new(&path, true).expect("a name"), plans.to_vec()).expect("a file");
    for plan in plans {
        let mut bytes = data(plan);
        edit(&plan.name, &mut bytes);
        out.write(&plan.name, &bytes).expect("a tensor");
    }
    out.finish().expect("the file");
    path
}

#[test]
fn doubles_are_read_as_floats_and_that_is_said() {
    let directory = temporary();
    write(directory.path(), &planned(Dtype::F64), |name, bytes| {
        if name == UP {
            bytes[8..16].copy_from_slice(&0.1f64.to_le_bytes());
        }
    });
    let checkpoint = Checkpoint::open(directory.path()).expect("a checkpoint");
    let store = WeightStore::new(tiny(), checkpoint).expect("a model");
    let layer = store.layer(1).expect("a layer");
    let up = layer.linears().find(|linear| UP.contains(linear.spec.name)).expect("the weight");
    assert_eq!(up.matrix.rows_f32(0..1).expect("a row")[..3], [0.0, 0.1f32, 0.0]);
    let notes: Vec<&str> = store.notes().collect();
    let count = planned(Dtype::F64).len();
    assert_eq!(notes, [format!("{count} tensors are stored as F64; they are computed with and written as F32")]);
}

const UP: &str = "model.layers.1.mlp.up_proj.weight";

#[test]
fn tensors_that_do_not_fit_the_config_are_refused_by_name() {
    let alter = |edit: fn(&mut Vec<TensorPlan>, usize)| {
        let mut plans = planned(Dtype::F32);
        let at = plans.iter().position(|plan| plan.name == UP).expect("the tensor");
        edit(&mut plans, at);
        let directory = temporary();
        write(directory.path(), &plans, |_, _| {});
        let checkpoint = Checkpoint::open(directory.path()).expect("a readable checkpoint");
        let error = WeightStore::new(tiny(), checkpoint).err().expect("an error");
        assert_eq!(error.exit_code(), 3);
        let message = error.to_string();
        assert!(message.contains(UP), "{message}");
        message
    };
    let missing = alter(|plans, at| drop(plans.remove(at)));
    assert!(missing.contains("missing; config.json implies [6, 4]"), "{missing}");
    let turned = alter(|plans, at| plans[at].shape = vec![4, 6]);
    assert!(turned.contains("expected shape [6, 4], found [4, 6]"), "{turned}");
    let flat = alter(|plans, at| plans[at].shape = vec![24]);
    assert!(flat.contains("found [24]"), "{flat}");
    let deep = alter(|plans, at| plans[at].shape = vec![1, 6, 4]);
    assert!(deep.contains("found [1, 6, 4]"), "{deep}");
    let none = alter(|plans, at| plans[at].shape = vec![0, 4]);
    assert!(none.contains("found [0, 4]"), "{none}");
    for message in [
        alter(|plans, at| plans[at].dtype = Dtype::I8),
        alter(|plans, at| plans[at].dtype = Dtype::U8),
        alter(|plans, at| plans[at].dtype = Dtype::I64),
        alter(|plans, at| plans[at].dtype = Dtype::BOOL),
        alter(|plans, at| plans[at].dtype = Dtype::F8_E4M3),
    ] {
        assert!(
            message.contains("expected F32, F16, BF16 or F64, found")
                && message.contains("quantised checkpoints cannot be sliced: give the one"),
            "{message}"
        );
    }
}

#[test]
fn nan_and_infinity_are_refused_with_their_position() {
    /// The largest finite value of a type, which must pass, and four broken ones.
    type Case<'a> = (Dtype, &'a [u8], [&'a [u8]; 4]);
    let (wide, beyond) = (f64::from(f32::MAX).to_le_bytes(), 3.5e38f64.to_le_bytes());
    let cases: [Case; 4] = [
        (
            Dtype::F32,
            &[0xff, 0xff, 0x7f, 0x7f],
            [&[0, 0, 0xc0, 0x7f], &[1, 0, 0x80, 0xff], &[0, 0, 0x80, 0x7f], &[0, 0, 0x80, 0xff]],
        ),
        (Dtype::F16, &[0xff, 0x7b], [&[0x00, 0x7e], &[0x01, 0xfc], &[0x00, 0x7c], &[0x00, 0xfc]]),
        (
            Dtype::F64,
            &wide,
            [&beyond, &f64::NAN.to_le_bytes(), &f64::INFINITY.to_le_bytes(), &f64::NEG_INFINITY.to_le_bytes()],
        ),
        (Dtype::BF16, &[0x7f, 0xff], [&[0xc0, 0x7f], &[0x81, 0xff], &[0x80, 0x7f], &[0x80, 0xff]]),
    ];
    for (dtype, largest, broken) in cases {
        let size = largest.len();
        let open = |tensor: &str, position: usize, value: &[u8]| {
            let directory = temporary();
            write(directory.path(), &planned(dtype), |name, bytes| {
                if name == tensor {
                    bytes[position * size..][..size].copy_from_slice(value);
                }
            });
            let checkpoint = Checkpoint::open(directory.path()).expect("a checkpoint");
            (WeightStore::new(tiny(), checkpoint).expect("shapes that fit"), directory)
        };
        let layer = |store: &WeightStore, layer| {
            store.layer(layer)?.linears().try_for_each(|linear| linear.matrix.bytes().map(drop))
        };
        let (store, _kept) = open(UP, 5, largest);
        layer(&store, 1).expect("finite values");
        for value in broken {
            for position in [0, 5, 23] {
                let (store, _kept) = open(UP, position, value);
                layer(&store, 0).expect("a layer without the broken value");
                let error = layer(&store, 1).expect_err("a broken value");
                let expected = match value == beyond.as_slice() {
                    true => format!("value {position} is 3.5e38, which is too large for F32, in which F64 is computed"),
                    false => format!("value {position} is NaN or infinite; the checkpoint is damaged"),
                };
                assert!(
                    error.to_string().contains(&expected) && error.to_string().contains(UP),
                    "{dtype:?} {value:x?}: {error}"
                );
                assert_eq!(error.exit_code(), 3);
            }
            let (store, _kept) = open("model.layers.0.input_layernorm.weight", 2, value);
            assert!(store.layer(0).is_err_and(|error| error.to_string().contains("input_layernorm.weight")), "a norm");
            let (store, _kept) = open("lm_head.weight", 7, value);
            let head = store.ends().expect("ends that are not read yet").head;
            assert!(head.row_bytes(0..head.rows).is_err_and(|error| error.to_string().contains("value 7")), "the head");
            assert!(
                head.row_bytes(7 / head.cols..head.rows).is_err_and(|error| error.to_string().contains("value 7")),
                "its end"
            );
            head.row_bytes(0..7 / head.cols).expect("rows before it");
            layer(&store, 1).expect("layers do not care");
        }
    }
}

#[test]
fn every_fixture_opens_and_has_what_its_config_calls_for() {
    for entry in fs::read_dir(support::fixture("parity")).expect("fixtures") {
        let path = entry.expect("an entry").path();
        let model = slicegpt_gpu::model::Model::open(&path).unwrap_or_else(|error| panic!("{error}"));
        assert!(model.store.checkpoint.byte_len() > 0);
        model.store.ends().and_then(|ends| ends.embedding.to_f32()).expect("finite values");
    }
}
