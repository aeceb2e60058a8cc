//! Mixtures of experts: whole experts leave, and what the others write is fitted.

use serde_json::json;
use slicegpt_gpu::{
    compress::{self, Ranking},
    model::{BatchSize, Config, Kept},
    stream::{self, Extent, Peak, Placement},
    synthetic::{self, TokenRows},
};

use super::*;

/// What an independent script has found of a fixture.
#[derive(serde::Deserialize)]
struct Expected {
    left: Vec<Option<Vec<usize>>>,
}

const FIXTURES: [(&str, &str); 6] = [
    ("qwen3_moe_normalised", "gates divided by their sum"),
    ("qwen2_moe_plain", "an expert that every token goes to, gates as they are"),
    ("mixtral_top_2", "other names"),
    ("olmoe_plain", "queries and keys normalised whole"),
    ("gpt_oss_plain", "biases, sinks, all experts in one tensor"),
    ("gpt_oss_mxfp4", "all experts in one tensor of floats of four bits"),
];

/// With this many experts in each mixture.
fn with_experts(model: &Model, experts: usize) -> Resize {
    Resize { experts: Some(experts), ..Resize::whole(model.config()) }
}

#[test]
fn the_experts_of_the_first_layer_leave_as_an_independent_implementation_has_it() {
    let gpu = support::gpu();
    for (name, reason) in FIXTURES {
        let path = fixture("parity").join(name);
        let (model, rows) = (open(&path), support::tokens(&path.join("tokens.json")));
        let text = std::fs::read(fixture("experts").join(name).with_extension("json")).expect("a file");
        let expected: Expected = serde_json::from_slice(&text).expect("JSON");
        let left = expected.left[0].clone().expect("a mixture");
        let sizes = with_experts(&model, left.len());
        let goal = as_large_as(&model, sizes.clone()).expect("a goal");
        let options = Options { effort: Effort::Quick, ..options(&model, goal, &[Axis::Experts]) };
        let found = compressed(&gpu, &model, &rows, &options).expect("a smaller model");
        assert_eq!(*found.sizes(), sizes, "{name} ({reason})");
        let (_, kept) = found.snapshot.written().expect("all is done");
        assert_eq!(kept[0].experts, left, "{name} ({reason})");
        assert_eq!(found.model.store.unexpected(), Vec::<String>::new(), "{name} ({reason})");
    }
}

/// The router of mixtral_top_1, whose tokens go to one of five experts, by the factors of one row that its rows are.
fn route(tensors: &mut Tensors, factors: [f32; 5]) {
    for layer in 0..2 {
        let name = matrix(layer, "block_sparse_moe.gate");
        for (to, factor) in factors.into_iter().enumerate().rev() {
            combine(tensors, &name, to, &[(0, factor)]);
        }
    }
}

#[test]
fn an_expert_that_no_token_goes_to_leaves_first_and_costs_nothing() {
    let gpu = support::gpu();
    // By the sign of one product, tokens go to the first or to the last; the others are never ahead of both.
    let (_directory, model) = altered("mixtral_top_1", |tensors| route(tensors, [1.0, 0.5, -0.3, 0.9, -1.0]));
    let rows = rows(&model, &[40; 8]);
    let goal = as_large_as(&model, with_experts(&model, 3)).expect("a goal");
    let found = compressed(&gpu, &model, &rows, &options(&model, goal, &[Axis::Experts])).expect("a smaller model");
    let (_, kept) = found.snapshot.written().expect("all is done");
    assert!(kept.len() == 2 && kept.iter().all(|kept| kept.experts == [0, 3, 4]), "{kept:?}");
    let error = support::relative_error(&logits(&gpu, &found.model, &rows), &logits(&gpu, &model, &rows));
    println!("logits change by {error:.1e}");
    assert!(error <= 1e-5, "logits change by {error:.1e}");
}

/// Leaves these experts of both layers of a model, and fits what they write.
fn of_selection(gpu: &Gpu, model: &Model, rows: &[Vec<u32>], experts: &[usize], ridge: f64) -> (TempDir, Model) {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let directory = OutputDirectory::create(&temporary.path().join("small"), false).expect("a directory");
    let kept: Vec<Kept> = (0..2)
        .map(|layer| Kept { experts: experts.to_vec(), ..Kept::all(layer, &model.config().layers[layer]) })
        .collect();
    let types = Types::own(&model.store);
    let plan = compress::plan_of_selection(model.config(), &kept, &types).expect("a plan");
    let job = stream::Job {
        model,
        rows,
        counted: None,
        watched: 0,
        memory: MemoryPlan::unlimited(None),
        output: &plan.config,
        tensors: &plan.tensors,
        directory: &directory,
        progress: &Silent,
    };
    assert!(compress::refit_selection(gpu, job, &plan, &kept, ridge, None, &mut |_| Ok(true)).expect("a fit"));
    directory.write("config.json", &serde_json::to_vec(&plan.config.raw).expect("JSON")).expect("a config");
    directory.finish().expect("an output");
    let model = open(&temporary.path().join("small"));
    (temporary, model)
}

#[test]
fn an_expert_that_can_do_what_another_did_takes_its_place_and_nothing_changes() {
    let gpu = support::gpu();
    // The second expert has the first one's gate and up and a write of its own; without it the first one gets its
    // tokens, and had none before.
    let (_directory, model) = altered("mixtral_top_1", |tensors| {
        route(tensors, [0.999, 1.0, -0.5, -0.2, -1.0]);
        for (layer, stem) in [(0, "w1"), (0, "w3"), (1, "w1"), (1, "w3")] {
            let [from, to] = [0, 1].map(|at| matrix(layer, &format!("block_sparse_moe.experts.{at}.{stem}")));
            tensors.insert(to, tensors[&from].clone());
        }
    });
    let rows = rows(&model, &[48; 12]);
    let dense = logits(&gpu, &model, &rows);
    let lost = |ridge: f64| {
        let (_directory, smaller) = of_selection(&gpu, &model, &rows, &[0, 4], ridge);
        support::relative_error(&logits(&gpu, &smaller, &rows), &dense)
    };
    // A ridge without end leaves all writes as they were.
    let (fitted, left) = (lost(1e-6), lost(1e9));
    println!("logits change by {fitted:.1e}; not fitted, by {left:.1e}");
    assert!(fitted <= 1e-4 && left > 1e-2, "logits change by {fitted:.1e}; not fitted, by {left:.1e}");
}

#[test]
fn stopped_at_every_commit_a_mixture_is_cut_to_the_same_bytes_wherever_its_residuals_are() {
    let gpu = support::gpu();
    let model = parity("qwen2_moe_dense_between");
    let rows = rows(&model, &[20, 30, 24, 28]);
    let options = options(&model, Goal::Parameters(0.12), &[Axis::Layers, Axis::Experts]);
    let options = Options { effort: Effort::Quick, ..options };
    let ranking: Option<&[Ranking]> = None;
    let of = |memory: MemoryPlan, goes_on: bool| {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let directory = OutputDirectory::create(&temporary.path().join("small"), false).expect("a directory");
        let job = Job {
            model: &model,
            rows: &rows,
            options: &options,
            ranking,
            memory,
            directory: &directory,
            progress: &Silent,
        };
        let (mut state, mut sittings) = (None, 0);
        while state.as_ref().is_none_or(|state: &Snapshot| state.written().is_none()) {
            state = Some(job.run(&gpu, state.as_ref(), |_| Ok(goes_on)).expect("a step of the work"));
            sittings += 1;
        }
        directory.finish().expect("an output");
        (state.expect("a state"), support::tensors(&temporary.path().join("small")), sittings)
    };
    let together =
        MemoryPlan { batch: BatchSize { rows: Some(2), ..BatchSize::default() }, ..MemoryPlan::unlimited(None) };
    let (whole, tensors, _) = of(together, true);
    let (best, kept) = whole.written().expect("all is done");
    assert!(best.sizes.experts < Some(5) && kept.iter().any(|kept| !kept.experts.is_empty()), "{best:?}");
    for (placement, goes_on) in [(Placement::Gpu, false), (Placement::Host, true), (Placement::Disk, false)] {
        let (again, found, sittings) = of(MemoryPlan { placement, ..together }, goes_on);
        println!("{placement:?}: {sittings} sittings");
        assert!(goes_on || sittings > 7, "{placement:?}: only {sittings} sittings");
        assert!(again.written().map(|(best, _)| &best.sizes) == Some(&best.sizes), "{placement:?}");
        assert!(found == tensors, "{placement:?}: other bytes");
    }
}

#[test]
fn experts_are_never_on_the_gpu_together_while_they_are_fitted() {
    let fields = json!({
        "model_type": "qwen2_moe", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "num_experts": 32, "num_experts_per_tok": 2, "moe_intermediate_size": 96,
        "shared_expert_intermediate_size": 128, "norm_topk_prob": true, "vocab_size": 100,
    });
    let config = Config::from_fields(fields.as_object().expect("fields").clone(), Path::new("config.json"));
    let directory = tempfile::tempdir().expect("a directory");
    let output = OutputDirectory::create(&directory.path().join("model"), false).expect("a directory");
    let tokens = TokenRows { rows: 3, len: 32 };
    synthetic::write(&output, &config.expect("a config"), Dtype::F32, tokens, 1, &Silent).expect("a model");
    output.finish().expect("a model");
    let model = open(&directory.path().join("model"));
    let rows = support::tokens(&directory.path().join("model/tokens.json"));
    for placement in [Placement::Gpu, Placement::Host] {
        let memory = MemoryPlan {
            batch: BatchSize { rows: Some(1), ..BatchSize::default() },
            placement,
            part_bytes: 8192,
            keeps_dense: false,
        };
        let options = options(&model, Goal::Parameters(0.2), &[Axis::Experts]);
        let options = Options { effort: Effort::Quick, ..options };
        let sizes = with_experts(&model, 24);
        let plan = Plan::new(model.config(), sizes, Width::default(), &options.dtype).expect("a plan");
        let rope = 2 * 4 * 32 * 32;
        let Peak { gpu: planned, .. } =
            compress::peak(&memory, model.config(), plan.byte_len(), &Extent::of(&rows), rope, 4);
        let mut gpu = support::gpu();
        gpu.set_planned_memory(Some(planned));
        let output = OutputDirectory::create(&directory.path().join(format!("{placement:?}")), false).expect("one");
        let job = Job {
            model: &model,
            rows: &rows,
            options: &options,
            ranking: None,
            memory,
            directory: &output,
            progress: &Silent,
        };
        job.run(&gpu, None, |_| Ok(true)).expect("a smaller model");
        let (peak, experts) = (gpu.memory().peak, 4 * 32 * model.config().expert_parameters(0));
        println!("{placement:?}: {peak} bytes at most, {planned} planned, {experts} of experts");
        assert!(peak <= planned, "{placement:?}: {peak} bytes, where {planned} were planned");
        assert!(planned < 3 * peak && peak < experts / 2, "{placement:?}: {planned} planned, {peak} taken");
    }
}
