//! Are importances those of an independent implementation, do the right groups leave, and is what is written the model
//! without them?

mod support;

use std::path::Path;

use slicegpt_gpu::{
    checkpoint::{Checkpoint, OutputDirectory},
    gpu::Gpu,
    model::{Config, Kept, Model, Shape},
    progress::Silent,
    prune::{Aggregate, Groups, Importance, Job, LayerImportance, Options, Plan, Share, Snapshot, cut},
    reference::Network,
    stream::{MemoryPlan, Sitting, Types},
};

fn options(config: &Config) -> Options {
    Options {
        ratio: 0.25,
        layers: 0..config.layers.len(),
        importance: Importance::ParamFirst,
        aggregate: Aggregate::Sum,
        global: false,
        iterations: 1,
        groups: Groups::Both,
        keep_importances: false,
        seed: 42,
        dtype: Types::One(slicegpt_gpu::checkpoint::Dtype::F32),
        in_mxfp4: Vec::new(),
    }
}

fn fixture(name: &str) -> (Model, Vec<Vec<u32>>) {
    let path = support::fixture("parity").join(name);
    let rows = support::tokens(&path.join("tokens.json")).into_iter().filter(|row| row.len() > 1).collect();
    (Model::open(&path).expect("a model"), rows)
}

fn whole(config: &Config) -> Vec<Kept> {
    config.layers.iter().enumerate().map(|(layer, spec)| Kept::all(layer, spec)).collect()
}

/// A model, and where its output goes.
struct Work {
    model: Model,
    rows: Vec<Vec<u32>>,
    directory: OutputDirectory,
    at: tempfile::TempDir,
}

impl Work {
    fn on(model: Model, rows: Vec<Vec<u32>>) -> Self {
        let at = tempfile::tempdir().expect("a directory");
        let directory = OutputDirectory::create(&at.path().join("out"), false).expect("an output");
        Self { model, rows, directory, at }
    }

    fn of(name: &str) -> Self {
        let (model, rows) = fixture(name);
        Self::on(model, rows)
    }

    fn job<'a>(&'a self, options: &'a Options) -> Job<'a> {
        Job {
            model: &self.model,
            rows: &self.rows,
            options,
            memory: MemoryPlan::unlimited(None),
            directory: &self.directory,
            progress: &Silent,
        }
    }

    /// Prunes, stopping at every commit to resume, and opens what was written.
    fn prune(self, gpu: &Gpu, options: &Options) -> (Self, Model, Vec<Kept>) {
        let mut state: Option<Snapshot> = None;
        while state.as_ref().is_none_or(|state| !state.done) {
            state = Some(self.job(options).run(gpu, state.as_ref(), &mut |_| Ok(false)).expect("a step of the work"));
        }
        let state = state.expect("a state");
        let plan = state.plan(self.model.config(), options).expect("a plan");
        let kept = state.kept;
        let text = serde_json::to_vec(&plan.config.raw).expect("JSON");
        self.directory.write("config.json", &text).expect("a config");
        let Self { model, rows, directory, at } = self;
        directory.finish().expect("an output");
        let pruned = Model::open(&at.path().join("out")).expect("the pruned model");
        assert_eq!(pruned.config().parameters(), plan.parameters);
        (Self::on(model, rows), pruned, kept)
    }
}

fn importances(work: &Work, gpu: &Gpu, options: &Options, kept: &[Kept]) -> Vec<LayerImportance> {
    let found = work.job(options).importances(gpu, kept, &mut Sitting::whole()).expect("importances");
    found.expect("all of them")
}

fn coordinates(gpu: &Gpu, job: &Job) -> Vec<f64> {
    job.coordinates(gpu, &mut Sitting::whole()).expect("importances").expect("all of them")
}

#[test]
fn importances_and_what_leaves_agree_with_an_independent_implementation() {
    let gpu = support::gpu();
    let mut compared = 0;
    for entry in std::fs::read_dir(support::fixture("importances")).expect("fixtures") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let work = Work::of(&name);
        let config = work.model.config();
        for (importance_name, importance) in Importance::ALL {
            for (aggregate_name, aggregate) in Aggregate::ALL {
                if importance == Importance::Random {
                    continue;
                }
                let options = Options { importance, aggregate, ..options(config) };
                let found = importances(&work, &gpu, &options, &whole(config));
                let expected = expected(&path, &format!("{importance_name}.{aggregate_name}"), config);
                let what = format!("{name} {importance_name} {aggregate_name}");
                let mut worst: f64 = 0.0;
                for (found, expected) in found.iter().zip(&expected) {
                    for (a, b) in [(&found.attention, &expected.attention), (&found.mlp, &expected.mlp)] {
                        assert_eq!(a.len(), b.len(), "{what}");
                        worst = worst.max(support::worst(a.iter().zip(b).map(|(a, b)| support::relative(*a, *b))));
                    }
                }
                println!("{what}: {worst:.1e}");
                assert!(worst < 1e-3, "{what}: relative error {worst:.1e}");
                for global in [false, true] {
                    // Of two heads, and no channels.
                    let (ratio, mlp) = if config.is_mixture() { (0.5, false) } else { (0.25, true) };
                    let share = Share { ratio, attention: true, mlp, global };
                    let [mut own, mut theirs] = [whole(config), whole(config)];
                    cut(share, &config.layers, &found, &mut own);
                    cut(share, &config.layers, &expected, &mut theirs);
                    assert_eq!(own, theirs, "{what}, global {global}");
                    assert_ne!(own, whole(config), "{what}: nothing left");
                }
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 9 * 36);
}

fn expected(path: &Path, name: &str, config: &Config) -> Vec<LayerImportance> {
    let values = support::tensor(path, name);
    let rows = values.chunks(values.len() / config.layers.len()).zip(&config.layers).enumerate();
    rows.map(|(layer, (row, spec))| {
        let (heads, channels) = row.split_at(spec.kv_heads);
        // No heads of delta nets leave.
        let heads = if spec.delta.is_some() { &[] } else { heads };
        LayerImportance {
            layer,
            attention: support::wide(heads),
            mlp: support::wide(channels),
            ..LayerImportance::default()
        }
    })
    .collect()
}

/// The values of a tensor in f64.
fn doubles(path: &Path, name: &str) -> Vec<f64> {
    let checkpoint = Checkpoint::open(path).expect("a safetensors file");
    let bytes = checkpoint.tensor(name).expect("the tensor").read().expect("its bytes");
    bytes.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect()
}

#[test]
fn importances_of_coordinates_agree_with_an_independent_implementation() {
    let gpu = support::gpu();
    let mut compared = 0;
    for name in ["llama_gqa_tied", "llama_mha_untied", "phi3_gqa"] {
        let path = support::fixture("importances").join(format!("{name}.safetensors"));
        let work = Work::of(name);
        let config = work.model.config();
        // Where signs count, terms of a sum cancel, and a product over all matrices has such sums for factors, whose
        // errors have nothing to do with one another.
        let factors = config.tensors().iter().filter(|spec| spec.shape.len() == 2).count();
        for (importance_name, importance) in Importance::ALL {
            for (aggregate_name, aggregate) in Aggregate::ALL {
                let cancels = (importance, aggregate) == (Importance::Vectorize, Aggregate::Prod);
                let allowed = 1e-3 * if cancels { (factors as f64).sqrt() } else { 1.0 };
                // Tables in parts, and all of it in one: sums of some rows are no sums of all.
                for part_bytes in [4 * 4 * config.hidden_size as u64, 1 << 20] {
                    let (tied, parts) = (name == "llama_gqa_tied", part_bytes < 1 << 20);
                    let others = !tied && !matches!(aggregate, Aggregate::Sum | Aggregate::Last);
                    let of_parts = parts && !(tied && aggregate == Aggregate::Max);
                    if importance == Importance::Random || others || of_parts {
                        continue;
                    }
                    let groups = Groups::Coordinates;
                    let options = Options { importance, aggregate, groups, ..options(config) };
                    let memory = MemoryPlan { part_bytes, ..MemoryPlan::unlimited(None) };
                    let found = coordinates(&gpu, &Job { memory, ..work.job(&options) });
                    let expected = doubles(&path, &format!("residual.{importance_name}.{aggregate_name}"));
                    assert_eq!((found.len(), expected.len()), (config.hidden_size, config.hidden_size));
                    let pairs = found.iter().zip(&expected);
                    let worst = support::worst(pairs.map(|(a, b)| support::relative(*a, *b)));
                    println!("{name} {importance_name} {aggregate_name}: {worst:.1e}");
                    assert!(worst < allowed, "{name} {importance_name} {aggregate_name}: relative error {worst:.1e}");
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 36 + 6 + 2 * 12);
}

/// The values of a tensor `[rows, cols]`, or of a vector as one row, at some places.
fn picked(all: &[f32], cols: usize, rows: Option<&[usize]>, columns: Option<&[usize]>) -> Vec<f32> {
    let count = all.len() / cols;
    let rows: Vec<usize> = rows.map_or_else(|| (0..count).collect(), <[usize]>::to_vec);
    let columns: Vec<usize> = columns.map_or_else(|| (0..cols).collect(), <[usize]>::to_vec);
    rows.iter().flat_map(|row| columns.iter().map(|col| all[row * cols + col]).collect::<Vec<_>>()).collect()
}

#[test]
fn coordinates_leave_everywhere_and_nothing_else_changes() {
    let gpu = support::gpu();
    for (name, reason) in [
        ("llama_bias", "biases on what writes, rms norms"),
        ("qwen3_tied", "norms of queries and keys stay, tied head"),
        ("phi3_gqa", "fused weights"),
        ("cohere_untied", "layer norms, parallel blocks"),
        ("olmo2_untied", "norms after blocks alone"),
    ] {
        let config = fixture(name).0.config().clone();
        let change = Options { ratio: 0.3, groups: Groups::Coordinates, ..options(&config) };
        let width = (config.hidden_size as f64 * (1.0 - 0.3)) as usize;
        // The classes of llama want a multiple of the heads.
        let heads = config.layers[0].heads;
        let ratio =
            if name == "llama_bias" { 1.0 - (width / heads * heads) as f64 / config.hidden_size as f64 } else { 0.3 };
        let (work, pruned, _) = Work::of(name).prune(&gpu, &Options { ratio, ..change.clone() });
        let (small, width) = (pruned.config(), pruned.config().hidden_size);
        assert_eq!(small.layers, config.layers, "{name} ({reason}): all but the width stays");
        assert!(width < config.hidden_size && small.architecture.model_type == config.architecture.model_type);
        let importances = coordinates(&gpu, &work.job(&change));
        let mut left: Vec<usize> = (0..config.hidden_size).collect();
        left.sort_by(|&a, &b| importances[b].total_cmp(&importances[a]));
        left.truncate(width);
        left.sort_unstable();
        let (before, after) = (&work.model.store.checkpoint, &pruned.store.checkpoint);
        for spec in small.tensors() {
            let name_of = |ends: &[&str]| ends.iter().any(|end| spec.name.contains(end));
            let values = |of: &Checkpoint| -> Vec<f32> {
                let tensor = of.tensor(&spec.name).unwrap_or_else(|| panic!("{name}: no {}", spec.name));
                let bytes = tensor.read().expect("its bytes");
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            };
            let (old, new) = (values(before), values(after));
            let shape = config.tensors().into_iter().find(|old| old.name == spec.name).expect("the same").shape;
            let cols = *shape.last().expect("a size");
            let writes = name_of(&["o_proj", "down_proj"]);
            let head_norm = name_of(&["q_norm", "k_norm"]);
            let bias_of_read =
                spec.name.ends_with(".bias") && name_of(&["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]);
            let expected = match shape.len() {
                _ if head_norm || bias_of_read => old.clone(),
                1 => picked(&old, cols, None, Some(&left)),
                _ if writes => picked(&old, cols, Some(&left), None),
                _ => picked(&old, cols, None, Some(&left)),
            };
            assert_eq!(new, expected, "{name} ({reason}): {}", spec.name);
        }
    }
}

#[test]
fn where_no_class_is_narrower_coordinates_are_refused_by_name() {
    for (name, expected) in [
        ("gpt2_n_inner", "its classes take hidden_size / heads for the width of a head"),
        ("opt_relu", "its classes take hidden_size / heads for the width of a head"),
        ("phi_qk_layernorm", "its classes take hidden_size / heads for the width of a head"),
        ("phi3_longrope", "its classes take hidden_size / heads for the width of a head"),
        ("gemma_tied", "its classes multiply the embedding by the root of the width"),
        ("llama_gqa_tied", "which transformers asks for"),
    ] {
        let config = fixture(name).0.config().clone();
        let ratio = 1.5 / config.hidden_size as f64;
        let error = Plan::guess(&config, &Options { groups: Groups::Coordinates, ratio, ..options(&config) });
        let error = error.expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn as_many_parameters_are_left_of_published_models_as_published() {
    let llama = Shape::named("llama-2-7b").expect("a shape").config(None).expect("a config");
    let tiny = Shape::named("tinyllama-1.1b").expect("a shape").config(None).expect("a config");
    let mut fields = llama.raw.clone();
    for (name, value) in [("intermediate_size", 14336), ("num_key_value_heads", 8), ("vocab_size", 128_256)] {
        fields.insert(name.into(), value.into());
    }
    let llama3 = Config::from_fields(fields, Path::new("config.json")).expect("a config");
    for (config, layers, before, after) in [
        (&llama, Options::usual_layers(32), 6_738_415_616, 5_422_977_024),
        (&llama3, Options::usual_layers(32), 8_030_261_248, 6_612_586_496),
        (&tiny, 4..18, 1_100_048_384, 945_907_712),
    ] {
        let options = Options { layers, ..options(config) };
        options.check(config).expect("options");
        let plan = Plan::guess(config, &options).expect("a plan");
        assert_eq!((config.parameters(), plan.parameters), (before, after), "{}", config.raw["num_hidden_layers"]);
    }
    // Of so few that none would be left, all.
    assert_eq!((Options::usual_layers(2), Options::usual_layers(3)), (0..2, 1..2));
    assert_eq!((Options::usual_layers(32), Options::usual_layers(5), Options::usual_layers(1)), (4..30, 1..4, 0..1));
}

/// The model's logits in f64 where what is not kept adds nothing.
fn masked_logits(model: &Model, kept: &[Kept], row: &[u32]) -> nalgebra::DMatrix<f64> {
    let config = model.config();
    let mut network = Network::load(&model.store).expect("a network");
    for (layer, kept) in kept.iter().enumerate() {
        let spec = &config.layers[layer];
        for write in network.layers[layer].steps.iter_mut().flat_map(|step| step.linears_mut(false)) {
            // Of a mixture, those of experts.
            let is_mlp = write.weight.ncols() == spec.intermediate_size;
            assert!(is_mlp != (write.weight.ncols() == spec.heads_width()), "widths that tell them apart");
            for col in 0..write.weight.ncols() {
                let stays = match is_mlp {
                    true => kept.mlp_channels.contains(&col),
                    false => kept.query_heads.contains(&(col / spec.head_dim)),
                };
                if !stays {
                    write.weight.column_mut(col).fill(0.0);
                }
            }
        }
    }
    network.logits(row).expect("logits")
}

/// Half of the heads of a mixture.
fn heads_of(name: &str) -> Options {
    Options { ratio: 0.5, groups: Groups::Attention, ..options(fixture(name).0.config()) }
}

#[test]
fn what_is_written_computes_what_the_model_does_without_what_left() {
    let gpu = support::gpu();
    for (name, change, reason) in [
        ("llama_gqa_tied", Options { ratio: 0.5, ..options(fixture("llama_gqa_tied").0.config()) }, "uniform, grouped"),
        ("phi3_gqa", Options { layers: 1..2, ..options(fixture("phi3_gqa").0.config()) }, "fused, one layer of two"),
        (
            "gpt_neox_parallel",
            Options {
                global: true,
                importance: Importance::ParamMix,
                ..options(fixture("gpt_neox_parallel").0.config())
            },
            "fused group by group, all in one row",
        ),
        ("gemma2_tied", Options { ratio: 0.5, ..options(fixture("gemma2_tied").0.config()) }, "norms after blocks"),
        ("falcon_rw", Options { groups: Groups::Mlp, ..options(fixture("falcon_rw").0.config()) }, "linear biases"),
        ("gpt2_n_inner", Options { groups: Groups::Mlp, ..options(fixture("gpt2_n_inner").0.config()) }, "transposed"),
        (
            "qwen35_interval",
            Options { ratio: 0.5, importance: Importance::L2, ..options(fixture("qwen35_interval").0.config()) },
            "heads of the attention, gates with them, delta nets stay",
        ),
        (
            "llama_bias",
            Options { iterations: 3, importance: Importance::L2, ..options(fixture("llama_bias").0.config()) },
            "biases, in rounds",
        ),
        ("qwen3_moe_normalised", heads_of("qwen3_moe_normalised"), "heads before experts, alike in all layers"),
        (
            "mixtral_top_2",
            Options { layers: 0..1, iterations: 2, ..heads_of("mixtral_top_2") },
            "heads before experts, in one layer, in rounds",
        ),
        ("qwen3_moe_dense_between", heads_of("qwen3_moe_dense_between"), "experts, and a dense layer of another width"),
    ] {
        change.check(fixture(name).0.config()).expect("options");
        let (work, pruned, kept) = Work::of(name).prune(&gpu, &change);
        assert!(pruned.config().parameters() < work.model.config().parameters(), "{name}");
        let row = &work.rows[0];
        let expected = masked_logits(&work.model, &kept, row);
        let found = slicegpt_gpu::reference::logits(&pruned.store, row).expect("logits");
        let error = (&found - &expected).amax() / expected.amax();
        println!("{name} ({reason}): {error:.1e}");
        assert!(error < 1e-12, "{name} ({reason}): {error:.1e}");
    }
}

#[test]
fn gradients_of_later_rounds_are_those_of_the_pruned_model() {
    let gpu = support::gpu();
    for name in ["llama_gqa_tied", "gpt_neox_parallel", "qwen3_moe_normalised"] {
        let usual = options(fixture(name).0.config());
        let one = if name.contains("moe") { heads_of(name) } else { usual };
        let (work, pruned, kept) = Work::of(name).prune(&gpu, &one);
        let masked = importances(&work, &gpu, &one, &kept);
        let rows = work.rows.clone();
        let after = Work::on(pruned, rows);
        let own = importances(&after, &gpu, &one, &whole(after.model.config()));
        for (masked, (own, kept)) in masked.iter().zip(own.iter().zip(&kept)) {
            // Of experts' channels, none are ranked.
            let pick = |values: &[f64], kept: &[usize]| {
                kept.iter().filter_map(|&at| values.get(at).copied()).collect::<Vec<_>>()
            };
            let pairs = [
                (pick(&masked.attention, &kept.key_value_heads), &own.attention),
                (pick(&masked.mlp, &kept.mlp_channels), &own.mlp),
            ];
            for (a, b) in pairs {
                assert_eq!(a.len(), b.len(), "{name}");
                let worst = support::worst(a.iter().zip(b).map(|(a, b)| support::relative(*a, *b)));
                assert!(worst < 1e-4, "{name}: {worst:.1e}");
            }
        }
    }
}

#[test]
fn random_importances_depend_on_the_seed_alone() {
    let gpu = support::gpu();
    let work = Work::of("llama_gqa_tied");
    let of = |seed| {
        let options = Options { importance: Importance::Random, seed, ..options(work.model.config()) };
        importances(&work, &gpu, &options, &whole(work.model.config()))
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    assert_ne!(of(1)[0].mlp, of(1)[1].mlp, "every layer has numbers of its own");
}

#[test]
fn heads_that_others_depend_on_are_refused_with_the_reason() {
    for (name, reason) in [
        ("falcon_rw", "slopes of its linear biases"),
        ("mpt_tied", "slopes of its linear biases"),
        ("olmo2_untied", "span all heads"),
        ("cohere_qk_norm", "weights for each head"),
        ("stablelm_qk_layernorm", "weights for each head"),
    ] {
        let (model, _) = fixture(name);
        let error = options(model.config()).check(model.config()).expect_err(name).to_string();
        assert!(error.contains(reason) && error.contains("--mlp"), "{name}: {error}");
        let channels = Options { groups: Groups::Mlp, ..options(model.config()) };
        channels.check(model.config()).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn of_mixtures_heads_leave_and_channels_do_not() {
    for (name, groups, message) in [
        ("qwen3_moe_normalised", Groups::Both, "`prune --attention` heads"),
        ("qwen3_moe_normalised", Groups::Mlp, "`prune --attention` heads"),
        ("qwen3_moe_normalised", Groups::Coordinates, "`prune --attention` heads"),
        ("olmoe_plain", Groups::Attention, "span all heads; --experts SHARE"),
    ] {
        let (model, _) = fixture(name);
        let asked = Options { groups, ..options(model.config()) };
        let error = asked.check(model.config()).expect_err(name).to_string();
        assert!(error.contains(message), "{name}, {groups:?}: {error}");
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let config = fixture("llama_gqa_tied").0;
    let config = config.config();
    let usual = || options(config);
    for (options, reason) in [
        (Options { ratio: 0.0, ..usual() }, "nothing to remove"),
        (Options { ratio: 1.0, ..usual() }, "nothing left"),
        (Options { ratio: f64::NAN, ..usual() }, "no number"),
        (Options { layers: 1..9, ..usual() }, "layers that are not there"),
        (Options { layers: 1..1, ..usual() }, "no layers"),
        (Options { iterations: 0, ..usual() }, "no rounds"),
    ] {
        assert!(options.check(config).is_err(), "{reason}");
    }
    usual().check(config).expect("what makes sense");
    assert!("param_third".parse::<Importance>().is_err() && "sum".parse::<Aggregate>() == Ok(Aggregate::Sum));
}
