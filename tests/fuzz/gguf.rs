//! GGUF files: the header, and the model that is made of it.

use std::{fs, path::Path};

use slicegpt_gpu::{
    checkpoint::{FileTarget, GgufFile, GgufHeader, GgufTensor, GgufType, GgufValue},
    model::{GgufExport, Model, Vocabulary},
    progress::Silent,
};

use super::{
    cases, gguf_split,
    support::{Random, fixture},
};

/// Models with each kind of metadata and tensors; the first has room for a vocabulary.
const FIXTURES: [&str; 8] = [
    "llama_gqa_tied",
    "phi3_longrope",
    "granite_llama3",
    "falcon_new_shared",
    "stablelm_qk_layernorm",
    "mpt_tied",
    "bloom_tied",
    "qwen35_one_width",
];

/// A small model as a file.
fn whole_file(name: &str, directory: &Path) -> Vec<u8> {
    let model = Model::open(&fixture("parity").join(name)).expect("a model");
    let export = GgufExport::plan(&model, "a name", GgufType::F16, Vocabulary::None).expect("a plan");
    let path = directory.join("whole.gguf");
    export.write(FileTarget::new(&path, true).expect("a name"), &Silent).expect("a file");
    let tokens: Vec<String> = (0..128u8).map(|byte| char::from(byte).to_string()).collect();
    if name != FIXTURES[0] {
        return fs::read(&path).expect("its bytes");
    }
    let mut metadata: Vec<(String, GgufValue)> = export.metadata().to_vec();
    metadata.retain(|(key, _)| key != "tokenizer.ggml.model");
    let mut add = |key: &str, value| metadata.push((format!("tokenizer.ggml.{key}"), value));
    add("model", GgufValue::Text("llama".into()));
    add("scores", GgufValue::F32s(vec![0.0; tokens.len()]));
    add("token_type", GgufValue::I32s(vec![1; tokens.len()]));
    add("tokens", GgufValue::Texts(tokens));
    let list: Vec<GgufTensor> = export.tensors().cloned().collect();
    let mut file =
        GgufFile::create(FileTarget::new(&path, true).expect("a name"), &metadata, list.clone()).expect("a file");
    for tensor in &list {
        let count: usize = tensor.shape.iter().product();
        file.write(&tensor.name, &vec![0.5; count]).expect("values");
    }
    file.finish().expect("a file");
    fs::read(&path).expect("its bytes")
}

/// The file with some of it changed, mostly before the data.
fn mutated(whole: &[u8], header: usize, random: &mut Random) -> Vec<u8> {
    const NUMBERS: [u64; 12] =
        [0, 1, 7, 9, 1 << 16, 1 << 31, 1 << 32, 1 << 40, 1 << 62, 1 << 63, u64::MAX, u64::MAX - 31];
    let mut bytes = whole.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(header as u32) as usize;
        let number = NUMBERS[random.below(12) as usize].to_le_bytes();
        match random.below(6) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at..at + 4].copy_from_slice(&number[..4]),
            3 => bytes[at..at + 8].copy_from_slice(&number),
            4 => drop(bytes.splice(at..at + random.below(16) as usize, number)),
            _ => bytes.truncate(at + random.below(64) as usize),
        }
        if bytes.len() < header + 64 {
            break;
        }
    }
    bytes
}

/// Each of [`FIXTURES`] as a file at `path`, which can be read: its bytes, and where its data begins.
fn whole_files(directory: &Path, path: &Path) -> [(Vec<u8>, usize); FIXTURES.len()] {
    FIXTURES.map(|name| {
        let bytes = whole_file(name, directory);
        let header = GgufHeader::parse(&bytes, Path::new("whole")).expect("a header");
        let begins = header.tensors.values().map(|entry| entry.offset).min().expect("tensors") as usize;
        fs::write(path, &bytes).expect("a file");
        Model::open(path).unwrap_or_else(|error| panic!("{name}, whole: {error}"));
        (bytes, begins)
    })
}

#[test]
fn gguf_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.gguf");
    let whole = whole_files(directory.path(), &path);
    cases(
        "GGUF",
        2_000,
        |random| {
            // Half of them of the first.
            let which = random.below(2 * FIXTURES.len() as u32) as usize;
            let (bytes, begins) = whole.get(which).unwrap_or(&whole[0]);
            let changed = mutated(bytes, *begins, random);
            fs::write(&path, &changed).expect("a file");
            changed.len()
        },
        |_| Model::open(&path).map(drop),
    );
}

/// Where the numbers of the metadata stand that are 32 bits, unsigned.
fn numbers(whole: &[u8]) -> Vec<usize> {
    let header = GgufHeader::parse(whole, Path::new("whole")).expect("a header");
    let after = |key: &String| {
        let before = [&(key.len() as u64).to_le_bytes()[..], key.as_bytes(), &U32.to_le_bytes()].concat();
        whole.windows(before.len()).position(|bytes| bytes == before).map(|at| at + before.len())
    };
    header.metadata.keys().filter_map(after).collect()
}

/// The number of the type in a file.
const U32: u32 = 4;

/// Sizes that are many times what they were still divide each other as they should, and get further than others.
#[test]
fn gguf_files_whose_sizes_are_many_times_what_they_are() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.gguf");
    let whole = whole_files(directory.path(), &path).map(|(bytes, _)| (numbers(&bytes), bytes));
    cases(
        "sizes of GGUF",
        2_000,
        |random| {
            let (places, bytes) = &whole[random.below(FIXTURES.len() as u32) as usize];
            let mut changed = bytes.clone();
            for _ in 0..=random.below(3) {
                let place = &mut changed[places[random.below(places.len() as u32) as usize]..][..4];
                let number = u32::from_le_bytes([place[0], place[1], place[2], place[3]]);
                place.copy_from_slice(&(number << random.below(28)).to_le_bytes());
            }
            fs::write(&path, &changed).expect("a file");
            changed.len()
        },
        |_| Model::open(&path).map(drop),
    );
}

#[test]
fn gguf_files_that_a_model_is_split_into() {
    let directory = tempfile::tempdir().expect("a directory");
    let model = Model::open(&fixture("parity").join(FIXTURES[0])).expect("a model");
    let parts = gguf_split::split(&model, Vocabulary::None, &directory.path().join("whole.gguf"), &[4, 5]);
    let paths = gguf_split::write(&parts, directory.path(), "x");
    let whole: Vec<_> = paths
        .iter()
        .map(|path| {
            let bytes = fs::read(path).expect("its bytes");
            let header = GgufHeader::parse(&bytes, path).expect("a header");
            let begins = header.tensors.values().map(|entry| entry.offset).min().expect("tensors") as usize;
            // Much of what a header says makes the files not belong together: some changes are in the data.
            let changed = begins.midpoint(bytes.len());
            (bytes, changed)
        })
        .collect();
    cases(
        "split GGUF",
        2_000,
        |random| {
            let which = random.below(paths.len() as u32) as usize;
            let mut size = 0;
            for (number, (path, (bytes, changed))) in paths.iter().zip(&whole).enumerate() {
                let bytes = if number == which { &mutated(bytes, *changed, random) } else { bytes };
                fs::write(path, bytes).expect("a file");
                size += bytes.len();
            }
            size
        },
        |case| Model::open(&paths[case as usize % paths.len()]).map(drop),
    );
}
