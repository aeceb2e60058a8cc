//! Is the width that a plan settles on the one that was asked for, and is what makes no sense refused before any work?

use std::path::Path;

use serde_json::{Map, Value, json};
use slicegpt_gpu::{
    Error,
    model::Config,
    slice::{Basis, Cut, Options, Plan, Refit},
};

fn parse(fields: &Value) -> Result<Config, Error> {
    let fields: Map<String, Value> = fields.as_object().expect("an object").clone();
    Config::from_fields(fields, Path::new("DIR/config.json"))
}

fn fields(model_type: &str, hidden_size: usize, heads: usize, layers: usize, tied: bool) -> Value {
    let mut fields = json!({
        "model_type": model_type, "hidden_size": hidden_size, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": 3001,
        "max_position_embeddings": 128, "intermediate_size": 3 * hidden_size, "ffn_dim": 3 * hidden_size, "num_key_value_heads": heads,
        "tie_word_embeddings": tied
    });
    if !["opt", "gpt_neox"].contains(&model_type) {
        fields["head_dim"] = json!(8);
    }
    fields
}

fn options(basis: Basis, cut: Cut, round_interval: Option<usize>) -> Options {
    Options {
        cut,
        basis,
        round_interval,
        refit: Refit::Full,
        slice_head: basis != Basis::PerBlock,
        ..Options::default()
    }
}

const BASES: [Basis; 3] = [Basis::PerBlock, Basis::Segments(2), Basis::SHARED];

#[test]
fn target_parameters_picks_the_widest_width_that_removes_the_share() {
    let mut reached = 0;
    for (model_type, hidden_size, heads, layers) in [
        ("llama", 96, 6, 3),
        ("llama", 1024, 16, 2),
        ("mistral", 200, 4, 2),
        ("qwen3", 96, 4, 5),
        ("phi", 160, 4, 3),
        ("opt", 96, 4, 2),
        ("gpt_neox", 128, 4, 4),
    ] {
        for tied in [false, true] {
            let config = parse(&fields(model_type, hidden_size, heads, layers, tied)).expect("a config");
            for basis in BASES {
                for slice_head in [true, false].into_iter().filter(|sliced| *sliced || basis == Basis::PerBlock) {
                    for interval in [None, Some(1), Some(8), Some(32)] {
                        let plan = |cut| Plan::new(&config, &Options { slice_head, ..options(basis, cut, interval) });
                        for share in [0.01, 0.05, 0.2, 0.25, 0.5, 0.8] {
                            let what = format!(
                                "{model_type} of {hidden_size}, tied {tied}, {basis}, head {slice_head}, \
                                 {interval:?}, -{share}"
                            );
                            let most = (1.0 - share) * config.parameters() as f64;
                            // By hand: the widest of all multiples whose own plan is small enough.
                            let sparsity = |stored: usize| Cut::Sparsity(1.0 - stored as f64 / hidden_size as f64);
                            let step = plan(sparsity(hidden_size)).expect("a plan").round_interval;
                            let fits = |stored: &usize| {
                                plan(sparsity(*stored)).is_ok_and(|plan| plan.sliced_parameters as f64 <= most)
                            };
                            let expected = (1..=hidden_size / step).map(|steps| steps * step).rev().find(fits);
                            match (plan(Cut::Parameters(share)), expected) {
                                (Ok(found), Some(expected)) => {
                                    assert_eq!(found.stored_width, expected, "{what}");
                                    assert_eq!(
                                        found.sliced_parameters,
                                        plan(sparsity(expected)).expect("a plan").sliced_parameters,
                                        "{what}"
                                    );
                                    reached += 1;
                                }
                                (Err(error), None) => assert_eq!(error.exit_code(), 2, "{what}: {error}"),
                                (found, expected) => {
                                    panic!("{what}: {:?}, expected {expected:?}", found.map(|plan| plan.stored_width))
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(reached > 300, "only {reached} were reached");
}

#[test]
fn the_stock_form_is_rounded_to_what_other_programs_demand_and_to_nothing_else_when_told() {
    let width = |model_type: &str, hidden_size, heads, interval, basis| {
        let config = parse(&fields(model_type, hidden_size, heads, 2, false)).expect("a config");
        let plan = Plan::new(&config, &options(basis, Cut::Sparsity(0.2), interval)).expect("a plan");
        (plan.stored_width, plan.round_interval)
    };
    // 8 heads divide 8; of 12 heads and 8 the least common multiple is 24; 160 of 20 heads and 8 would be coarse for
    // 640, so the heads alone.
    assert_eq!(width("llama", 512, 8, None, Basis::SHARED), (408, 8));
    assert_eq!(width("llama", 768, 12, None, Basis::SHARED), (600, 24));
    assert_eq!(width("llama", 300, 12, None, Basis::SHARED), (240, 12));
    assert_eq!(width("llama", 4096, 20, None, Basis::SHARED), (3240, 40));
    // Only transformers' llama demands it, and only of the stock form.
    assert_eq!(width("llama", 768, 12, None, Basis::PerBlock), (608, 8));
    assert_eq!(width("llama", 768, 12, None, Basis::Segments(2)), (608, 8));
    for model_type in ["mistral", "qwen2", "qwen3", "phi3", "phi"] {
        assert_eq!(width(model_type, 768, 12, None, Basis::SHARED), (608, 8), "{model_type}");
    }
    for interval in [1, 5, 8, 256] {
        let exact = 614 - 614 % interval;
        assert_eq!(width("llama", 768, 12, Some(interval), Basis::SHARED), (exact, interval));
        assert_eq!(width("phi", 768, 12, Some(interval), Basis::SHARED), (exact, interval));
    }
}

fn refused(config: &Config, options: &Options, expected: &str) {
    let error = Plan::new(config, options).err().unwrap_or_else(|| panic!("accepted: {options:?}"));
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(error.to_string().contains(expected), "{error}: expected {expected:?}");
}

#[test]
fn plans_that_contradict_themselves_are_usage_errors() {
    let config = parse(&fields("llama", 96, 4, 3, false)).expect("a config");
    let quarter = Cut::Sparsity(0.25);
    for basis in [Basis::Segments(4), Basis::Segments(usize::MAX)] {
        refused(&config, &options(basis, quarter, None), "the model has 3 layers");
    }
    for basis in BASES {
        Plan::new(&config, &options(basis, quarter, None)).expect("a plan");
        refused(&config, &options(basis, quarter, Some(0)), "--round-interval");
        refused(&config, &options(basis, Cut::Parameters(0.2), Some(0)), "--round-interval");
        for share in [0.0, 1.0, -0.2, 1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            refused(&config, &options(basis, Cut::Parameters(share), None), "--target-parameters");
        }
        for ridge in [0.0, -1e-2, f64::NAN, f64::INFINITY] {
            refused(&config, &Options { ridge, ..options(basis, quarter, None) }, "--ridge");
        }
        for sparsity in [1.0, -0.1, f64::NAN] {
            refused(&config, &options(basis, Cut::Sparsity(sparsity), None), "--sparsity");
        }
        refused(&config, &options(basis, Cut::Parameters(0.9), Some(96)), "or give a smaller --round-interval");
        refused(&config, &options(basis, Cut::Parameters(0.2), Some(97)), "no width that is a multiple of 97");
        refused(&config, &options(basis, Cut::Parameters(0.9999), Some(1)), "ask for less");
    }
    for basis in [Basis::SHARED, Basis::Segments(2)] {
        refused(
            &config,
            &Options { slice_head: false, ..options(basis, quarter, None) },
            "the head has to be sliced, too",
        );
    }
    // One coordinate holds the mean, and nothing is left.
    let phi = parse(&fields("phi", 96, 4, 3, false)).expect("a config");
    refused(
        &phi,
        &options(Basis::SHARED, Cut::Sparsity(1.0 - 1.0 / 96.0), Some(1)),
        "leaves nothing of hidden_size 96",
    );
    assert_eq!(
        Plan::new(&phi, &options(Basis::SHARED, Cut::Sparsity(1.0 - 2.0 / 96.0), Some(1))).expect("a plan").width,
        1
    );
}

#[test]
fn bases_are_read_as_they_are_written() {
    for (text, basis) in [("per-block", Basis::PerBlock), ("shared", Basis::SHARED), ("segments=7", Basis::Segments(7))]
    {
        assert_eq!((text.parse(), basis.to_string().as_str()), (Ok(basis), text));
    }
    assert_eq!("segments=1".parse(), Ok(Basis::SHARED));
    for text in [
        "",
        "Shared",
        "segments",
        "segments=",
        "segments=0",
        "segments=-1",
        "segments=1.5",
        "segments= 2",
        "segments=99999999999999999999",
    ] {
        let refusal = text.parse::<Basis>().expect_err(text);
        assert!(refusal.contains("segments=K with K of at least 1"), "{refusal}");
    }
}

#[test]
fn segments_are_runs_of_layers_as_even_as_can_be() {
    for layers in 1..20 {
        for count in 1..=layers {
            let segments: Vec<usize> =
                (0..=layers).map(|layer| Basis::Segments(count).segment(layer, layers).expect("a segment")).collect();
            assert!(segments[0] == 0 && segments[layers] == count - 1 && segments[layers] == segments[layers - 1]);
            assert!(segments.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0] + 1));
            let sizes: Vec<usize> =
                (0..count).map(|one| segments[..layers].iter().filter(|&&segment| segment == one).count()).collect();
            assert!(
                sizes.iter().max() <= sizes.iter().min().map(|least| least + 1).as_ref(),
                "{layers} layers, {count} segments: {sizes:?}"
            );
        }
    }
}

#[test]
fn shortcuts_are_where_bases_change_and_nowhere_else() {
    for (model_type, parallel) in [("llama", false), ("opt", false), ("gpt_neox", true)] {
        let config = parse(&fields(model_type, 96, 4, 5, false)).expect("a config");
        let shortcuts = |basis: Basis, slice_head: bool| -> Vec<String> {
            let plan = Plan::new(&config, &Options { slice_head, ..options(basis, Cut::Sparsity(0.25), None) })
                .expect("a plan");
            plan.tensors
                .iter()
                .filter(|tensor| tensor.name.contains("shortcut"))
                .map(|tensor| format!("{} {:?}", tensor.name, tensor.shape))
                .collect()
        };
        assert_eq!(shortcuts(Basis::SHARED, true), Vec::<String>::new(), "{model_type}");
        let per_block = shortcuts(Basis::PerBlock, false);
        assert_eq!(per_block.len(), if parallel { 5 } else { 10 }, "{model_type}");
        assert!(per_block.last().is_some_and(|last| last.ends_with("[72, 96]")), "{per_block:?}");
        assert!(shortcuts(Basis::PerBlock, true).last().is_some_and(|last| last.ends_with("[72, 72]")));
        let (half, prefix) = if parallel {
            ("attn", "gpt_neox.layers")
        } else {
            ("mlp", if model_type == "opt" { "model.decoder.layers" } else { "model.layers" })
        };
        // Layers 0, 1, 2 and 3, 4.
        assert_eq!(
            shortcuts(Basis::Segments(2), true),
            [format!("{prefix}.2.{half}_shortcut_Q [72, 72]")],
            "{model_type}"
        );
    }
}

#[test]
fn a_layer_without_a_shortcut_must_hand_on_the_width_that_it_reads() {
    for (model_type, parallel) in [("llama", false), ("gpt_neox", true)] {
        let mut fields = fields(model_type, 96, 4, 2, false);
        fields["model_type"] = json!(format!("sliced_{model_type}"));
        let mut open = |layers: [[Value; 5]; 2]| {
            let layers = layers.map(|[input, middle, output, attn, mlp]| {
                let mut layer = json!({ "attention_input": input, "mlp_input": middle, "output": output });
                for (name, value) in [("attn_shortcut", attn), ("mlp_shortcut", mlp)] {
                    if !value.is_null() {
                        layer[name] = value;
                    }
                }
                layer
            });
            fields["slicing"] = json!({
                "method": "slicegpt", "norm_width": 96, "layers": layers, "sparsity": 0.25, "round_interval": 8, "final_orientation": "pca",
                "seed": 42, "calibration_sha256": ""
            });
            parse(&fields)
        };
        macro_rules! layer {
            ($($value:expr),*) => { [$(json!($value)),*] };
        }
        let shortcuts =
            |config: &Config| config.tensors().iter().filter(|tensor| tensor.name.contains("shortcut")).count();
        let all = open([layer!(72, 72, 72, Value::Null, Value::Null), layer!(72, 72, 96, Value::Null, Value::Null)]);
        // Parallel blocks know no width in between.
        let per_layer = if parallel { 1 } else { 2 };
        assert_eq!(all.as_ref().map(shortcuts).unwrap_or_default(), 2 * per_layer, "{model_type}: {all:?}");
        let none = open([layer!(72, 72, 72, false, false), layer!(72, 72, 72, false, false)]).expect("equal widths");
        assert_eq!(shortcuts(&none), 0);
        let some = open([layer!(72, 72, 72, false, false), layer!(72, 72, 72, true, true)]).expect("equal widths");
        assert_eq!(shortcuts(&some), per_layer);
        for wrong in [
            [layer!(72, 80, 80, false, false), layer!(80, 80, 80, true, true)],
            [layer!(72, 80, 80, false, true), layer!(80, 80, 80, true, true)],
            [layer!(72, 72, 72, true, true), layer!(72, 72, 96, false, false)],
        ] {
            let error = open(wrong.clone()).expect_err("a residual that changes its width");
            assert!(error.exit_code() == 3 && error.to_string().contains("widths do not fit"), "{error}");
        }
        assert!(
            open([layer!(72, 72, 72, 0, true), layer!(72, 72, 72, true, true)])
                .expect_err("no boolean")
                .to_string()
                .contains("slicing: ")
        );
    }
}
