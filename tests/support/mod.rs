//! What several tests need: the device, files of fixtures, and how results are compared.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use rand_distr::{Distribution, StandardNormal};
use slicegpt_gpu::{
    checkpoint::{Checkpoint, Dtype},
    gpu::{Gpu, GpuOptions},
};

/// The unit roundoff of f32: the relative error of one rounding.
pub const ROUNDOFF: f64 = 1.0 / 16_777_216.0;

/// The device that tests run on. `SLICEGPT_GPU_TEST_BINDING` forces smaller bindings on the whole suite.
pub fn gpu() -> Gpu {
    gpu_with(None)
}

/// The device with bindings of up to this many bytes.
pub fn gpu_with(max_binding_size: Option<u64>) -> Gpu {
    let forced = std::env::var("SLICEGPT_GPU_TEST_BINDING").ok().and_then(|bytes| bytes.parse().ok());
    let options = GpuOptions { max_binding_size: max_binding_size.or(forced), ..GpuOptions::default() };
    Gpu::new(&options).expect("an adapter; `make test` installs a software one")
}

/// The device with bindings as large as it has, whatever is forced: for kernels that leave splitting to their callers.
pub fn gpu_unlimited() -> Gpu {
    gpu_with(Some(u64::MAX))
}

/// The device with no more than what every adapter has.
pub fn gpu_downlevel() -> Gpu {
    let gpu = Gpu::new(&GpuOptions { downlevel_limits: true, ..GpuOptions::default() }).expect("an adapter");
    assert!(!gpu.unpacks_f16());
    gpu
}

/// A file or directory under tests/fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A directory that is removed in the end.
pub fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Writes a file of a directory, and returns its path.
pub fn put(directory: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, bytes).expect("a written file");
    path
}

/// The names of what lies in a directory, in order.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The token rows of a token file.
pub fn tokens(path: &Path) -> Vec<Vec<u32>> {
    #[derive(serde::Deserialize)]
    struct File {
        input_ids: Vec<Vec<u32>>,
    }
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice::<File>(&text).expect("a token file").input_ids
}

/// A f32 tensor of a safetensors file.
pub fn tensor(path: &Path, name: &str) -> Vec<f32> {
    let checkpoint = Checkpoint::open(path).expect("a safetensors file");
    let tensor = checkpoint.tensor(name).expect("the tensor");
    tensor.read().expect("its bytes").chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The tensors of a file: type, shape and bytes of each.
pub type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// The tensors of a checkpoint.
pub fn tensors(path: &Path) -> Tensors {
    let checkpoint = Checkpoint::open(path).expect("a checkpoint");
    let one = |name: &str| {
        let tensor = checkpoint.tensor(name).expect("the tensor");
        (name.to_owned(), (tensor.dtype, tensor.shape.to_vec(), tensor.read().expect("its bytes")))
    };
    checkpoint.names().map(one).collect()
}

/// Writes a safetensors file with these tensors and this metadata.
pub fn write_tensors(path: &Path, tensors: &Tensors, metadata: &[(&str, &str)]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    header.insert(
        "__metadata__".into(),
        metadata
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    );
    for (name, (dtype, shape, bytes)) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }));
        data.extend_from_slice(bytes);
    }
    let mut header = serde_json::Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    fs::write(path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()).expect("a file");
}

/// Changes some fields of the config.json in a directory; null takes a field out.
pub fn set_fields(directory: &Path, fields: &[(&str, serde_json::Value)]) {
    let path = directory.join("config.json");
    let mut config: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&fs::read(&path).expect("a config")).expect("JSON");
    for (name, value) in fields {
        if value.is_null() { drop(config.remove(*name)) } else { drop(config.insert((*name).into(), value.clone())) }
    }
    fs::write(path, serde_json::Value::Object(config).to_string()).expect("a file");
}

/// A copy of a parity fixture, to be changed.
pub fn copy_of(name: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for entry in fs::read_dir(fixture("parity").join(name)).expect("a fixture") {
        let from = entry.expect("an entry").path();
        fs::copy(&from, directory.path().join(from.file_name().expect("a name"))).expect("a copy");
    }
    directory
}

/// The same values as f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// The largest of some errors, none of them negative; infinite if one is NaN, which `f64::max` would leave out.
pub fn worst(errors: impl IntoIterator<Item = f64>) -> f64 {
    errors.into_iter().fold(0.0, |worst, error| if error.is_nan() { f64::INFINITY } else { worst.max(error) })
}

/// |a − b| / |b|; 0 where both are the same.
pub fn relative(a: f64, b: f64) -> f64 {
    if a == b { 0.0 } else { (a - b).abs() / b.abs() }
}

/// max |a − b| / max |b|.
pub fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0f64, |most, &value| most.max(f64::from(value.abs())));
    worst(a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()))) / largest.max(f64::MIN_POSITIVE)
}

/// Reproducible random numbers.
pub struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A normally distributed number.
    pub fn normal(&mut self) -> f32 {
        StandardNormal.sample(&mut self.0)
    }

    /// `count` normally distributed numbers times `scale`.
    pub fn values(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| scale * self.normal()).collect()
    }

    /// A number below `limit`, close enough to uniform.
    pub fn below(&mut self, limit: u32) -> u32 {
        self.0.next_u32() % limit
    }
}
