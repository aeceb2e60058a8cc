//! config.json of every family, beside the weights that it was for.

use std::{cell::Cell, fs};

use slicegpt_gpu::{
    checkpoint::Checkpoint,
    model::{Config, WeightStore},
};

use super::{cases, mutate::Json, support::fixture};

#[test]
fn config_json() {
    let directories = fs::read_dir(fixture("parity")).expect("fixtures");
    let mut models: Vec<_> = directories.map(|entry| entry.expect("an entry").path()).collect();
    models.sort();
    let original = |model: &std::path::PathBuf| Json::new(fs::read(model.join("config.json")).expect("a config"));
    let originals: Vec<Json> = models.iter().map(original).collect();
    assert!(originals.len() > 100);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.json");
    let which = Cell::new(0);
    cases(
        "config.json",
        2_000,
        |random| {
            which.set(random.below(originals.len() as u32) as usize);
            let changed = originals[which.get()].changed(random);
            fs::write(&path, &changed).expect("a file");
            changed.len()
        },
        |_| {
            let config = Config::load(&path)?;
            // What else is asked of a config before anything is computed.
            let _ = (config.can_slice(), config.tokenizer_class(None, false), config.parameters());
            WeightStore::new(config, Checkpoint::open(&models[which.get()])?).map(drop)
        },
    );
}
