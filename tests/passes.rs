//! Is a pass of gradients that was stopped, between whichever layers, resumed to the same importances and groups,
//! without doing anything twice, and refused where what it needs is damaged?

mod support;

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use slicegpt_gpu::{
    checkpoint::{Dtype, OutputDirectory},
    error::Result,
    gpu::Gpu,
    model::{BatchSize, Config, Model},
    progress::Progress,
    prune::{Aggregate, Groups, Importance, Job, Options, Snapshot},
    stream::{MemoryPlan, Placement, Types},
};

/// Counts what is done.
#[derive(Default)]
struct Counted(Cell<u64>);

impl Progress for Counted {
    fn begin(&self, _: &'static str, _: u64) {}

    fn advance(&self, steps: u64) -> Result<()> {
        self.0.set(self.0.get() + steps);
        Ok(())
    }

    fn note(&self, message: &str) {
        panic!("{message}");
    }
}

/// A model, its examples, and where what is committed lies.
struct Work {
    model: Model,
    rows: Vec<Vec<u32>>,
    directory: OutputDirectory,
    progress: Counted,
    _at: tempfile::TempDir,
}

impl Work {
    fn of(name: &str) -> Self {
        let path = support::fixture("parity").join(name);
        let rows = support::tokens(&path.join("tokens.json")).into_iter().filter(|row| row.len() > 1).collect();
        let at = tempfile::tempdir().expect("a directory");
        let directory = OutputDirectory::create(&at.path().join("out"), false).expect("an output");
        let model = Model::open(&path).expect("a model");
        Self { model, rows, directory, progress: Counted::default(), _at: at }
    }

    fn config(&self) -> &Config {
        self.model.config()
    }

    /// Ranks, or goes on from a state, and says whether that came to its end.
    fn rank(
        &self,
        gpu: &Gpu,
        options: &Options,
        memory: MemoryPlan,
        state: &mut Snapshot,
        commit: &mut dyn FnMut(&Snapshot) -> Result<bool>,
    ) -> Result<bool> {
        let Self { model, rows, directory, progress, .. } = self;
        Job { model, rows, options, memory, directory, progress }.rank(gpu, state, commit)
    }

    /// The files beside the output.
    fn files(&self) -> BTreeMap<String, PathBuf> {
        let entries =
            fs::read_dir(self.directory.beside("")).expect("a directory").map(|entry| entry.expect("an entry"));
        let files = entries.filter(|entry| entry.file_type().expect("a type").is_file());
        let named = files.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
        named.filter(|(name, _)| name != "lock").collect()
    }
}

fn options(config: &Config) -> Options {
    Options {
        ratio: 0.3,
        layers: 0..config.layers.len(),
        importance: Importance::ParamFirst,
        aggregate: Aggregate::Sum,
        global: false,
        iterations: 1,
        groups: Groups::Both,
        keep_importances: true,
        seed: 42,
        dtype: Types::One(Dtype::F32),
        in_mxfp4: Vec::new(),
    }
}

/// As it comes back from the disk.
fn stored(state: &Snapshot) -> Snapshot {
    serde_json::from_slice(&serde_json::to_vec(state).expect("JSON")).expect("a state")
}

#[test]
fn stopped_at_every_commit_it_finds_the_same_and_does_nothing_twice() {
    let gpu = support::gpu();
    let two_rounds = |config: &Config| Options { iterations: 2, ..options(config) };
    let apart = |config: &Config| Options { importance: Importance::ParamMix, groups: Groups::Mlp, ..options(config) };
    let narrower = |config: &Config| Options { groups: Groups::Coordinates, ..options(config) };
    let narrower_apart = |config: &Config| Options {
        groups: Groups::Coordinates,
        importance: Importance::ParamSecond,
        ..options(config)
    };
    type Case = (&'static str, fn(&Config) -> Options, &'static str);
    let cases: [Case; 4] = [
        ("llama_gqa_tied", two_rounds, "two rounds, with what has left masked"),
        ("phi_partial_rotary", apart, "one step a layer, examples one by one"),
        ("phi3_gqa", narrower, "ends, a head of its own"),
        ("cohere_untied", narrower_apart, "ends, one step a layer, examples one by one"),
    ];
    for (name, options, reason) in cases {
        for (placement, rows) in [(Placement::Gpu, None), (Placement::Host, Some(2)), (Placement::Disk, Some(1))] {
            let what = format!("{name} ({reason}), {placement:?}");
            let batch = BatchSize { rows, ..BatchSize::default() };
            let memory = MemoryPlan { placement, batch, part_bytes: 4096, keeps_dense: false };
            let whole = Work::of(name);
            let options = options(whole.config());
            let mut expected = Snapshot::default();
            assert!(whole.rank(&gpu, &options, memory, &mut expected, &mut |_| Ok(true)).expect("a pass"), "{what}");
            assert_eq!(whole.files(), BTreeMap::new(), "{what}: files of a pass that is over");
            // Forward, loss, back, and each round at its end.
            let commits = options.iterations * (2 * whole.config().layers.len() + 2);

            let work = Work::of(name);
            let (mut state, mut sittings) = (Snapshot::default(), 0);
            while state.rounds < options.iterations {
                let done = work.rank(&gpu, &options, memory, &mut state, &mut |_| Ok(false)).expect("a sitting");
                assert!(!done, "{what}: not stopped");
                state = stored(&state);
                sittings += 1;
                assert!(sittings <= commits, "{what}: it does not come to its end");
            }
            assert_eq!((&state, sittings), (&expected, commits), "{what}");
            assert_eq!(work.progress.0.get(), whole.progress.0.get(), "{what}: steps that were taken");
            assert_eq!(work.files(), BTreeMap::new(), "{what}: files of a pass that is over");

            // Killed before each state but the one before it was durable, with the files of both written.
            let work = Work::of(name);
            let (mut state, mut sittings) = (Snapshot::default(), 0);
            loop {
                let mut durable: Option<Snapshot> = None;
                let mut from = state.clone();
                let done = work.rank(&gpu, &options, memory, &mut from, &mut |now| match durable {
                    Some(_) => Err(slicegpt_gpu::Error::Interrupted),
                    None => {
                        durable = Some(stored(now));
                        Ok(true)
                    }
                });
                state = durable.unwrap_or(state);
                sittings += 1;
                assert!(sittings <= commits, "{what}, killed: it does not come to its end");
                match done {
                    Ok(_) => break,
                    Err(error) => assert!(matches!(error, slicegpt_gpu::Error::Interrupted), "{what}: {error}"),
                }
            }
            assert_eq!((&state, sittings), (&expected, commits), "{what}, killed");
        }
    }
}

/// A file with one bit of its middle turned, and one that lacks its last byte.
fn damages(bytes: &[u8]) -> [Vec<u8>; 2] {
    let mut turned = bytes.to_vec();
    turned[bytes.len() / 2] ^= 16;
    [turned, bytes[..bytes.len() - 1].to_vec()]
}

#[test]
fn what_is_damaged_or_gone_is_refused_by_the_name_of_its_file() {
    let gpu = support::gpu();
    for (name, groups) in [("llama_gqa_tied", Groups::Both), ("phi3_gqa", Groups::Coordinates)] {
        let work = Work::of(name);
        let (options, layers) = (Options { groups, ..options(work.config()) }, work.config().layers.len());
        let memory = MemoryPlan::unlimited(None);
        let mut expected = Snapshot::default();
        work.rank(&gpu, &options, memory, &mut expected, &mut |_| Ok(true)).expect("a pass");
        let (mut state, mut refused) = (Snapshot::default(), Vec::new());
        for sitting in 1..=2 * layers + 1 {
            work.rank(&gpu, &options, memory, &mut state, &mut |_| Ok(false)).expect("a sitting");
            let mut wrong = 0;
            for (file, path) in work.files() {
                let bytes = fs::read(&path).expect("a file");
                for damaged in damages(&bytes).into_iter().map(Some).chain([None]) {
                    match damaged {
                        Some(damaged) => fs::write(&path, damaged).expect("damage"),
                        None => fs::remove_file(&path).expect("no file"),
                    }
                    let (mut again, gone) = (stored(&state), !path.exists());
                    match work.rank(&gpu, &options, memory, &mut again, &mut |_| Ok(true)) {
                        // Of what is over, nothing is read.
                        Ok(_) => assert_eq!(again, expected, "{name}, sitting {sitting}: {file}"),
                        Err(error) => {
                            wrong += 1;
                            let said = error.to_string();
                            assert!(said.contains(&file) && said.contains("--force starts over"), "{said}");
                            assert_eq!(error.exit_code(), 3, "{said}, gone: {gone}");
                        }
                    }
                    restore(&work, &gpu, &options, memory, &state, (&path, &bytes));
                }
            }
            refused.push(wrong / 3);
        }
        // Residuals of a layer each; with the loss, its gradient and what was found; then fewer and fewer of the
        // former.
        let steps = work.config().steps().len();
        let forward = (1..=layers).map(|done| done * steps);
        let back = (0..=layers).rev().map(|left| left * steps + 2);
        assert_eq!(refused, forward.chain(back).collect::<Vec<_>>(), "{name}");
    }
}

/// Makes the files those of a state again: a run from it may have gone on to its end.
fn restore(
    work: &Work,
    gpu: &Gpu,
    options: &Options,
    memory: MemoryPlan,
    state: &Snapshot,
    (path, bytes): (&Path, &[u8]),
) {
    fs::write(path, bytes).expect("the file");
    let (mut again, wanted) = (Snapshot::default(), stored(state));
    // What ran to its end has removed the others.
    while again != wanted {
        work.rank(gpu, options, memory, &mut again, &mut |_| Ok(false)).expect("a sitting");
    }
}
