//! Every architecture on every axis that it has.

use super::*;

/// What an axis of a model is cut to, if it can be.
fn cut(model: &Model, axis: Axis) -> Resize {
    let whole = Resize::whole(model.config());
    let (kv_heads, queries) = (whole.kv_heads, whole.heads / whole.kv_heads);
    match axis {
        Axis::Width => {
            let interval = model.config().stock_interval();
            Resize { width: Some((model.config().hidden_size - 1) / interval * interval), ..whole }
        }
        Axis::Mlp => Resize { intermediate_size: whole.intermediate_size * 3 / 4, ..whole },
        Axis::Heads => Resize { heads: (queries - 1) * kv_heads, ..whole },
        Axis::KvHeads => Resize { heads: queries * (kv_heads - 1), kv_heads: kv_heads - 1, ..whole },
        Axis::Layers => Resize { layers: (0..whole.layers.len() - 1).collect(), ..whole },
        Axis::Experts => Resize { experts: whole.experts.map(|experts| experts - 1), ..whole },
    }
}

/// Cuts an axis alone; the agreement that was measured on the way is that of the model that was written.
fn check(gpu: &Gpu, what: &str, model: &Model, axis: Axis) {
    let what = &format!("{what}, {axis}");
    // The same rows are fitted to, measured on and written for, so that nothing but rounding tells the models apart.
    let pair = rows(model, &[24, 18]);
    let rows: Vec<Vec<u32>> = std::iter::repeat_n(&pair, 4).flatten().cloned().collect();
    let goal = as_large_as(model, cut(model, axis)).unwrap_or_else(|error| panic!("{what}: {error}"));
    // What pulls experts towards what they were depends on the number of their tokens, unless there is next to none.
    let usual = options(model, goal, &[axis]);
    let options = Options { ridge: if model.config().is_mixture() { 1e-9 } else { usual.ridge }, ..usual };
    let found = compressed(gpu, model, &rows, &options).unwrap_or_else(|error| panic!("{what}: {error}"));
    let sizes = found.sizes();
    let depth = axis.depth(model.config(), sizes);
    assert!(depth > 0.0, "{what}: {sizes:?}");
    for other in Axis::ALL.into_iter().filter(|other| *other != axis) {
        assert_eq!(other.depth(model.config(), sizes), 0.0, "{what}: {other} is cut, too");
    }
    let written = agreement(gpu, &found.model, model, &pair);
    assert!(written.perplexity.is_finite() && written.kl > 0.0, "{what}: {written:?}");
    let (best, _) = found.snapshot.written().expect("all is done");
    let probe = found.snapshot.probes.iter().find(|probe| probe.depth == depth && probe.basis == best.basis);
    let probe = probe.unwrap_or_else(|| panic!("{what}: no probe is as deep: {:?}", found.snapshot.probes)).agreement;
    assert_eq!((probe.tokens, probe.sequences), (written.tokens, written.sequences), "{what}");
    // Rows that come up four times, not three, round otherwise in the sums; and what is next to nothing is known to
    // some roundings of the logits: 6e-8 of some 10, less in the mean over tokens.
    let pairs = [
        (probe.kl, written.kl),
        (probe.loss, written.loss),
        (probe.dense_loss, written.dense_loss),
        (probe.perplexity, written.perplexity),
        (probe.dense_perplexity, written.dense_perplexity),
    ];
    let off = |(probe, written): (f64, f64)| (probe - written).abs() / (written.abs() + 1e-4);
    let error = support::worst(pairs.into_iter().map(off));
    println!("{what}: KL {:.4}, {:.4} when probed; off by {error:.1e}", written.kl, probe.kl);
    assert!(error <= 1e-3, "{what}: {written:?}, when probed {probe:?}");
    assert!((probe.top_1 - written.top_1).abs() <= 1.5 / written.tokens as f64, "{what}: {written:?}, {probe:?}");
}

#[test]
fn every_architecture_is_cut_on_every_axis_and_agrees_as_was_measured() {
    let gpu = support::gpu();
    for (name, reason) in KINDS {
        let model = parity(name);
        let options = options(&model, Goal::Parameters(0.1), &Axis::ALL);
        let (axes, refused) = slicegpt_gpu::compress::axes(model.config(), &options).expect("axes");
        println!("{name}: {axes:?}, not {refused:?}");
        for axis in axes {
            check(&gpu, &format!("{name} ({reason})"), &model, axis);
        }
    }
}

const ALONE: &str = "no two query heads share a key and a value, and all of a group cannot leave";
const ONE: &str = "there is only one";
const BY_WIDTH: &str = "its classes take hidden_size / heads for the width of a head";
const BY_NORMS: &str = "its classes take hidden_size / heads for the width of the norms of queries and keys";
const TIED: &str = "the head is the embedding, and with a layer norm before it the two would be different matrices";
const NO_FORM: &str = "be narrower: its classes have no form for that";

/// What cannot be cut, and why.
const REFUSED: [(&str, &[(Axis, &str)]); 15] = [
    ("llama_mha_untied", &[(Axis::Heads, ALONE)]),
    ("llama_bias", &[(Axis::KvHeads, ONE)]),
    ("qwen3_tied", &[(Axis::KvHeads, ONE)]),
    ("phi3_tied", &[(Axis::Heads, ALONE)]),
    ("phi_qk_layernorm", &[(Axis::Width, NO_FORM), (Axis::Heads, ALONE), (Axis::KvHeads, BY_NORMS)]),
    ("opt_relu", &[(Axis::Width, TIED), (Axis::Heads, ALONE), (Axis::KvHeads, BY_WIDTH)]),
    ("opt_untied", &[(Axis::Width, NO_FORM), (Axis::Heads, ALONE), (Axis::KvHeads, BY_WIDTH)]),
    ("gpt2_tied", &[(Axis::Width, TIED), (Axis::Heads, ALONE), (Axis::KvHeads, BY_WIDTH)]),
    ("gptj_tied", &[(Axis::Width, TIED), (Axis::Heads, ALONE), (Axis::KvHeads, BY_WIDTH)]),
    ("gpt_neox_parallel", &[(Axis::Width, NO_FORM), (Axis::Heads, ALONE), (Axis::KvHeads, BY_WIDTH)]),
    ("starcoder2_tied", &[(Axis::Width, TIED)]),
    ("qwen3_moe_normalised", &[(Axis::Width, MIXTURE), (Axis::Mlp, OF_EXPERTS)]),
    ("qwen3_moe_top_all", &[(Axis::Width, MIXTURE), (Axis::Mlp, OF_EXPERTS), (Axis::Experts, "a token goes to all")]),
    ("olmoe_plain", &[(Axis::Width, MIXTURE), (Axis::Mlp, OF_EXPERTS), (Axis::Heads, SPAN), (Axis::KvHeads, SPAN)]),
    ("gpt_oss_plain", &[(Axis::Width, MIXTURE), (Axis::Mlp, OF_EXPERTS), (Axis::Heads, SINKS), (Axis::KvHeads, SINKS)]),
];
const MIXTURE: &str = "`compress` whole experts, heads and layers";
const OF_EXPERTS: &str = "have experts with fewer channels yet";
const SINKS: &str = "its attention has sinks, one for each head";
const SPAN: &str = "the norms of its queries and keys span all heads";

#[test]
fn what_a_class_has_no_form_for_is_left_whole_and_refused_by_name() {
    for (name, expected) in REFUSED {
        let model = parity(name);
        let any = options(&model, Goal::Parameters(0.1), &Axis::ALL);
        let (axes, refused) = slicegpt_gpu::compress::axes(model.config(), &any).expect("axes");
        let names: Vec<Axis> = refused.iter().map(|(axis, _)| *axis).collect();
        assert_eq!(names, expected.iter().map(|(axis, _)| *axis).collect::<Vec<_>>(), "{name}: {refused:?}");
        let meant = Axis::ALL.into_iter().filter(|axis| *axis != Axis::Experts || model.config().is_mixture());
        assert!(meant.into_iter().all(|axis| axes.contains(&axis) != names.contains(&axis)), "{name}: {axes:?}");
        for ((axis, reason), (_, part)) in refused.iter().zip(expected) {
            assert!(reason.starts_with(&format!("--axes {axis}: ")) && reason.contains(part), "{name}: {reason}");
            let chosen = Options { axes: vec![Axis::Layers, *axis], chosen: true, ..any.clone() };
            let error = slicegpt_gpu::compress::axes(model.config(), &chosen).expect_err("an axis that it has not");
            assert_eq!(error.to_string(), *reason, "{name}");
        }
    }
}

#[test]
fn negative_and_massive_weights_of_the_final_norm_keep_a_tied_head() {
    let gpu = support::gpu();
    for (name, unusual, reason) in [
        ("llama_gqa_tied", &[(5, -1.7f32), (17, -0.9)][..], "negative"),
        ("llama_gqa_tied", &[(2, 14.0), (9, 0.01)][..], "outliers"),
        ("qwen2_gqa_tied", &[(0, -6.0), (3, 5.0), (20, 0.0)][..], "negative, large and zero"),
    ] {
        let (_directory, model) = altered(name, |tensors| {
            change(tensors, "model.norm.weight", |_, all| unusual.iter().for_each(|&(at, value)| all[at] = value));
            change(tensors, "model.embed_tokens.weight", |cols, all| {
                all.iter_mut()
                    .enumerate()
                    .filter(|(at, _)| at % cols == unusual[0].0)
                    .for_each(|(_, value)| *value *= 8.0);
            });
        });
        check(&gpu, &format!("{name} ({reason} weights of the final norm)"), &model, Axis::Width);
    }
}

#[test]
fn a_width_that_cannot_hold_the_unusual_weights_of_a_final_norm_is_left_whole_and_the_others_are_cut() {
    let gpu = support::gpu();
    // Few of the weights are near each other: all but these coordinates have to stay as they are.
    let weight = |at: usize| (if at.is_multiple_of(2) { 4.0 } else { -4.0 }) * 8f32.powi(-((at % 8) as i32));
    let (_directory, model) = altered("llama_gqa_tied", |tensors| {
        change(tensors, "model.norm.weight", |_, all| {
            all.iter_mut().enumerate().for_each(|(at, value)| *value = weight(at));
        });
    });
    let rows = rows(&model, &[24, 18, 20, 22]);
    let found = compressed(&gpu, &model, &rows, &options(&model, Goal::Parameters(0.2), &Axis::ALL)).expect("a model");
    assert_eq!(found.sizes().width, None, "{:?}", found.sizes());
    assert!(found.snapshot.probes.iter().all(|probe| probe.axis != Axis::Width), "{:?}", found.snapshot.probes);
}
