//! Are GGUF files that lie refused, with a reason and exit code 3, before anything is allocated for what they say?

mod support;

use std::path::Path;

use slicegpt_gpu::{
    Error,
    checkpoint::{FileTarget, GgufFile, GgufHeader, GgufTensor, GgufType, GgufValue},
    model::{GgufExport, Model, Vocabulary},
    progress::Silent,
};
use support::{Random, fixture};

/// A file by its pieces: magic, version, counts, then whatever is added.
struct Bytes(Vec<u8>);

impl Bytes {
    fn new(tensors: u64, keys: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(keys)
    }

    fn u32(mut self, number: u32) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Self {
        let mut this = self.u64(text.len() as u64);
        this.0.extend(text.as_bytes());
        this
    }

    fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// A tensor of f32 of so many values from here on.
    fn tensor(self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        let this = self.text(name).u32(dimensions.len() as u32);
        dimensions.iter().fold(this, |this, &size| this.u64(size)).u32(kind).u64(offset)
    }
}

#[test]
fn headers_that_lie_are_refused_with_the_reason() {
    let key = |keys: u64| Bytes::new(0, keys);
    let list = |kind: u32, count: u64| key(1).text("k").u32(9).u32(kind).u64(count);
    let tensor = |dimensions: &[u64], kind, offset| Bytes::new(1, 0).tensor("t", dimensions, kind, offset).zeros(256);
    // Bytes of the file, and a part of the reason.
    let cases: Vec<(Bytes, &str)> = vec![
        (Bytes(b"GGUF".to_vec()), "ends within the version"),
        (Bytes(b"GGML".to_vec()).zeros(100), "does not begin with GGUF"),
        (Bytes(b"GGUF".to_vec()).u32(1).zeros(100), "version 1"),
        (Bytes(b"GGUF".to_vec()).u32(3 << 24).zeros(100), "big-endian"),
        (Bytes::new(u64::MAX, 0), "absurd"),
        (Bytes::new(1 << 20, 0), "ends within the name of a tensor"),
        (Bytes::new(0, u64::MAX), "absurd"),
        (key(1).u64(u64::MAX), "ends within the key"),
        (key(1).u64(1 << 40).zeros(64), "ends within the key"),
        (key(1).u64(0), "0 bytes"),
        (key(1).u64(1000).zeros(1000), "1000 bytes"),
        (key(1).text("k").u32(8).u64(u64::MAX - 4), "ends within k"),
        (key(1).text("k").u32(13).u64(0), "type 13"),
        (key(1).text("k").u32(u32::MAX).u64(0), "type 4294967295"),
        (key(1).text("k").u32(7).u32(2), "where 0 or 1 are expected"),
        (key(2).text("k").u32(4).u32(1).text("k").u32(4).u32(1), "twice"),
        // Arrays of arrays are how a small file asks for a deep stack, or for a lot of memory.
        (list(9, 1).u32(9).u64(1).u32(9).u64(1), "list of lists"),
        (list(4, u64::MAX), "absurd"),
        (list(4, 1 << 24), "more than the file has bytes for"),
        (list(8, 1 << 24).zeros(64), "more than the file has bytes for"),
        (list(8, 2).u64(1 << 62), "more than the file has bytes for"),
        (list(8, 1).u64(1 << 62), "ends within k"),
        (list(77, 1).zeros(64), "elements of type 77"),
        (list(10, 1).u64(u64::MAX), "too large"),
        (tensor(&[], 0, 0), "0 dimensions"),
        (Bytes::new(1, 0).text("t").u32(u32::MAX), "4294967295 dimensions"),
        (tensor(&[0], 0, 0), "a dimension of 0"),
        (tensor(&[u64::MAX, 2], 0, 0), "a dimension of"),
        // Products that come out small, or right, where they overflow.
        (tensor(&[1 << 32, 1 << 32], 0, 0), "absurd dimensions"),
        (tensor(&[1 << 33, 1 << 31], 0, 0), "absurd dimensions"),
        (tensor(&[1 << 62], 0, 0), "absurd dimensions"),
        (tensor(&[1 << 40], 0, 0), "beyond the end"),
        (tensor(&[31], 8, 0), "no multiple of the 32"),
        (tensor(&[8], 36, 0), "type 36"),
        (tensor(&[8], u32::MAX, 0), "type 4294967295"),
        (tensor(&[8], 0, 4), "no multiple of 32"),
        (tensor(&[8], 0, u64::MAX - 31), "beyond the end"),
        (tensor(&[8], 0, 1 << 40), "beyond the end"),
        (Bytes::new(2, 0).tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 32).zeros(256), "twice"),
        (Bytes::new(2, 0).tensor("t", &[16], 0, 0).tensor("u", &[8], 0, 32).zeros(256), "share bytes"),
        (key(1).text("general.alignment").u32(4).u32(0), "general.alignment"),
        (key(1).text("general.alignment").u32(4).u32(3), "power of two"),
        (key(1).text("general.alignment").u32(4).u32(u32::MAX), "general.alignment"),
        (key(1).text("general.alignment").u32(8).text("x"), "general.alignment"),
    ];
    for (bytes, reason) in cases {
        let error = GgufHeader::parse(&bytes.0, Path::new("x.gguf")).expect_err(reason);
        assert_eq!(error.exit_code(), 3, "{error}");
        assert!(error.to_string().contains(reason), "{reason}: {error}");
        assert!(error.to_string().starts_with("x.gguf: not a valid GGUF file: "), "{error}");
    }
    let invalid = Bytes(key(1).u64(2).0.into_iter().chain([0xff, 0xfe]).collect()).u32(4).u32(1);
    let error = GgufHeader::parse(&invalid.0, Path::new("x.gguf")).expect_err("no text");
    assert!(error.to_string().contains("UTF-8"), "{error}");
}

/// A small model with a vocabulary, as a file.
fn whole_file(directory: &Path) -> Vec<u8> {
    let model = Model::open(&fixture("parity").join("llama_gqa_tied")).expect("a model");
    let export = GgufExport::plan(&model, "a name", GgufType::F16, Vocabulary::None).expect("a plan");
    let path = directory.join("whole.gguf");
    export.write(FileTarget::new(&path, true).expect("a name"), &Silent).expect("a file");
    let tokens: Vec<String> = (0..128u8).map(|byte| char::from(byte).to_string()).collect();
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
    std::fs::read(&path).expect("its bytes")
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

#[test]
fn files_with_bytes_changed_at_random_are_read_or_refused_and_nothing_panics() {
    let directory = tempfile::tempdir().expect("a directory");
    let whole = whole_file(directory.path());
    let header = GgufHeader::parse(&whole, Path::new("whole")).expect("a header");
    let begins = header.tensors.values().map(|entry| entry.offset).min().expect("tensors") as usize;
    let path = directory.path().join("x.gguf");
    std::fs::write(&path, &whole).expect("a file");
    Model::open(&path).expect("the whole file");
    let mut random = Random::new(1);
    let (mut refused, mut read) = (0, 0);
    for case in 0..30_000 {
        let bytes = mutated(&whole, begins, &mut random);
        let parsed = GgufHeader::parse(&bytes, &path);
        // What a header alone does not tell: the rest of the way, for some of those that get there.
        let result = match parsed {
            Err(error) => Err(error),
            Ok(_) if case % 8 != 0 => continue,
            Ok(_) => {
                std::fs::write(&path, &bytes).expect("a file");
                Model::open(&path).map(drop)
            }
        };
        match result {
            Ok(()) => read += 1,
            Err(error) => {
                assert_eq!(error.exit_code(), 3, "case {case}: {error}");
                assert!(!matches!(error, Error::Internal(_)), "case {case}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 10_000 && read > 10, "{refused} refused, {read} read");
}
