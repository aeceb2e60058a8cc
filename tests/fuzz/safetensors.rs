//! The files of weights: headers, data, and the index of several.

use std::{cell::RefCell, fs, path::Path};

use slicegpt_gpu::{
    checkpoint::Checkpoint,
    error::Result,
    model::{Config, WeightStore},
};

use super::{
    cases,
    mutate::{Json, bytes},
    support::{Random, copy_of, fixture, tensors, write_tensors},
};

/// Opens a checkpoint, reads everything that it has, and holds it against a config.
fn read(directory: &Path, config: &Config) -> Result<()> {
    let checkpoint = Checkpoint::open(directory)?;
    for name in checkpoint.names() {
        if let Some(tensor) = checkpoint.tensor(name) {
            tensor.read()?;
        }
    }
    WeightStore::new(config.clone(), checkpoint)?.check_values(|| Ok(()))
}

/// A header that was changed, with a length that is mostly its own.
fn file(header: &Json, data: &[u8], random: &mut Random) -> Vec<u8> {
    let mut header = header.changed(random);
    if random.below(2) == 0 {
        header.resize(header.len().next_multiple_of(8), b' ');
    }
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], &header, data].concat()
}

#[test]
fn safetensors_files() {
    let model = copy_of("llama_gqa_tied");
    let config = Config::load(&model.path().join("config.json")).expect("a config");
    let path = model.path().join("model.safetensors");
    // With what `save_model` leaves out, to be found by its alias.
    write_tensors(&path, &tensors(&path), &[("format", "pt"), ("lm_head.weight", "model.embed_tokens.weight")]);
    let whole = fs::read(&path).expect("weights");
    let length = u64::from_le_bytes(whole[..8].try_into().expect("eight bytes")) as usize;
    let (header, data) = (Json::new(&whole[8..8 + length]), &whole[8 + length..]);
    cases(
        "safetensors",
        2_000,
        |random| {
            let changed = match random.below(3) {
                0 => bytes(&whole, 8 + length, random),
                1 => bytes(&whole, whole.len(), random),
                _ => file(&header, data, random),
            };
            fs::write(&path, &changed).expect("a file");
            changed.len()
        },
        |_| read(model.path(), &config),
    );
}

#[test]
fn indices_of_shards() {
    let model = copy_of("llama_sharded");
    let config = Config::load(&model.path().join("config.json")).expect("a config");
    let path = model.path().join("model.safetensors.index.json");
    let index = Json::new(fs::read(&path).expect("an index"));
    let shards: u64 = fs::read_dir(fixture("parity/llama_sharded"))
        .expect("a fixture")
        .map(|entry| entry.expect("an entry").metadata().expect("its size").len())
        .sum();
    let text = RefCell::new(Vec::new());
    cases(
        "index of shards",
        1_000,
        |random| {
            let changed = index.changed(random);
            fs::write(&path, &changed).expect("a file");
            let size = changed.len() + shards as usize;
            text.replace(changed);
            size
        },
        |_| read(model.path(), &config),
    );
}
