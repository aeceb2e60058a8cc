//! What is superfluous goes first, and costs nothing.

use super::*;

/// The share of the largest logit by which they may change: sums of signals are rounded to f32, and the ridge that is
/// asked for here, 1e-6 of their mean energy, pulls no more than that; 6e-5 at most, where measured.
const UNCHANGED: f64 = 1e-4;

/// Compresses what `alter` makes of a fixture to `sizes` with every axis allowed, and checks that the logits stay; the
/// config of what came out is that of these sizes.
fn costs_nothing(
    what: &str,
    name: &str,
    axes: &[Axis],
    alter: impl FnOnce(&mut Tensors),
    sizes: impl FnOnce(&mut Resize),
) -> Compressed {
    let gpu = support::gpu();
    let (_directory, model) = altered(name, alter);
    let mut wanted = Resize::whole(model.config());
    sizes(&mut wanted);
    let goal = as_large_as(&model, wanted.clone()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let rows = rows(&model, &[64; 12]);
    let options = Options { ridge: 1e-6, ..options(&model, goal, axes) };
    let found = compressed(&gpu, &model, &rows, &options).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(*found.sizes(), wanted, "{what}: {:?}", found.snapshot.candidates);
    let error = support::relative_error(&logits(&gpu, &found.model, &rows), &logits(&gpu, &model, &rows));
    println!("{what}: logits change by {error:.1e}");
    assert!(error <= UNCHANGED, "{what}: logits change by {error:.2e}, allowed {UNCHANGED:.0e}");
    found
}

/// A channel of each layer of llama_mha_untied that is not needed.
const SUPERFLUOUS: [usize; 3] = [5, 0, 26];

#[test]
fn a_channel_that_is_dead_leaves_and_nothing_changes() {
    for (stem, columns, reason) in [
        ("mlp.down_proj", true, "that is written nowhere"),
        ("mlp.up_proj", false, "that is always zero"),
        ("mlp.gate_proj", false, "whose gate is closed"),
    ] {
        let what = format!("a channel {reason}");
        let silence = |tensors: &mut Tensors| {
            for (layer, channel) in SUPERFLUOUS.into_iter().enumerate() {
                change(tensors, &matrix(layer, stem), |cols, all| {
                    let dead = |at: usize| if columns { at % cols == channel } else { at / cols == channel };
                    all.iter_mut().enumerate().filter(|(at, _)| dead(*at)).for_each(|(_, value)| *value = 0.0);
                });
            }
        };
        let found = costs_nothing(&what, "llama_mha_untied", &Axis::ALL, silence, |sizes| sizes.intermediate_size -= 1);
        let (_, kept) = found.snapshot.written().expect("all is done");
        for (layer, channel) in SUPERFLUOUS.into_iter().enumerate() {
            let kept = kept.iter().find(|kept| kept.layer == layer).expect("a layer that has lost something");
            assert!(!kept.mlp_channels.contains(&channel) && kept.mlp_channels.len() == 26, "{what}: {kept:?}");
        }
    }
}

#[test]
fn a_channel_that_others_make_up_for_leaves_and_nothing_changes() {
    for (of, reason) in [
        (&[(3, 1.0f32)][..], "the same as another"),
        (&[(3, 0.6), (7, -1.3)], "a combination of two"),
        (&[(3, 0.5), (7, 0.4), (11, -0.9)], "a combination of three"),
    ] {
        let what = format!("a channel that is {reason}");
        let combination = |tensors: &mut Tensors| {
            for layer in 0..3 {
                // With one gate for all of them, what they hold is as their rows of `up`.
                for (other, _) in &of[1..] {
                    combine(tensors, &matrix(layer, "mlp.gate_proj"), *other, &[(3, 1.0)]);
                }
                combine(tensors, &matrix(layer, "mlp.gate_proj"), 20, &[(3, 1.0)]);
                combine(tensors, &matrix(layer, "mlp.up_proj"), 20, of);
            }
        };
        let found =
            costs_nothing(&what, "llama_mha_untied", &[Axis::Mlp], combination, |sizes| sizes.intermediate_size -= 1);
        let (_, kept) = found.snapshot.written().expect("all is done");
        let among: Vec<usize> = of.iter().map(|(channel, _)| *channel).chain([20]).collect();
        for kept in kept {
            let gone = among.iter().filter(|channel| !kept.mlp_channels.contains(channel)).count();
            assert_eq!(gone, 1, "{what}: {kept:?}");
        }
    }
}

/// Rows of head `to` become those of head `from`.
fn copy_head(tensors: &mut Tensors, name: &str, from: usize, to: usize, head_dim: usize) {
    for row in 0..head_dim {
        combine(tensors, name, to * head_dim + row, &[(from * head_dim + row, 1.0)]);
    }
}

#[test]
fn of_two_heads_that_do_the_same_one_leaves_and_nothing_changes() {
    let heads = |tensors: &mut Tensors| {
        for (layer, (from, to)) in [(1, 3), (0, 2), (3, 1)].into_iter().enumerate() {
            for stem in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"] {
                copy_head(tensors, &matrix(layer, stem), from, to, 6);
            }
        }
    };
    let found = costs_nothing(
        "a head with its key and value",
        "llama_mha_untied",
        &[Axis::KvHeads, Axis::Heads],
        heads,
        |sizes| {
            (sizes.heads, sizes.kv_heads) = (3, 3);
        },
    );
    let (_, kept) = found.snapshot.written().expect("all is done");
    for (layer, twins) in [[1, 3], [0, 2], [1, 3]].into_iter().enumerate() {
        let kept = kept.iter().find(|kept| kept.layer == layer).expect("a layer that has lost something");
        assert_eq!(kept.query_heads, kept.key_value_heads);
        assert_eq!(twins.iter().filter(|twin| kept.query_heads.contains(twin)).count(), 1, "{kept:?}");
    }
    let queries = |tensors: &mut Tensors| {
        for layer in 0..2 {
            for (from, to) in [(0, 1), (2, 3)] {
                copy_head(tensors, &matrix(layer, "self_attn.q_proj"), from, to, 6);
            }
        }
    };
    costs_nothing("a query of each group", "llama_gqa_tied", &[Axis::Heads], queries, |sizes| sizes.heads = 2);
}

#[test]
fn layers_that_add_nothing_are_dropped_and_nothing_changes() {
    for (name, out, reason) in [
        ("llama_mha_untied", vec![1], "the middle one of three"),
        ("llama_mha_untied", vec![2], "the last one"),
        ("smollm3_listed", vec![2], "one of four, a tied head"),
        ("smollm3_listed", vec![1, 2], "two of four in a row"),
        ("smollm3_listed", vec![1, 3], "two of four that are no neighbours"),
    ] {
        let layers = parity(name).config().layers.len();
        let silence = |tensors: &mut Tensors| {
            for (layer, stem) in
                out.iter().flat_map(|&layer| ["self_attn.o_proj", "mlp.down_proj"].map(|of| (layer, of)))
            {
                change(tensors, &matrix(layer, stem), |_, all| all.fill(0.0));
            }
        };
        costs_nothing(reason, name, &Axis::ALL, silence, |sizes| {
            sizes.layers = (0..layers).filter(|other| !out.contains(other)).collect();
        });
    }
}

#[test]
fn a_write_is_to_add_what_the_dense_step_adds_and_a_share_of_what_is_missing() {
    let gpu = support::gpu();
    let (after, before, small) = ([7.0f32, -2.0, 5.0, 1.5], [4.0f32, 1.0, 5.0, -0.5], [2.0f32, 3.0, 5.0, 0.0]);
    let [a, b, s] = [after, before, small].map(|values| gpu.upload(&values, 2, 2).expect("a signal"));
    let found = gpu.download(&slicegpt_gpu::fit::write_target(&gpu, a, &b, &s, 0.75).expect("a target"));
    // Halves and quarters are exact.
    let expected: Vec<f32> = (0..4).map(|i| after[i] - before[i] + 0.75 * (before[i] - small[i])).collect();
    assert_eq!(found.expect("values"), expected);
}

#[test]
fn a_ranking_says_what_leaves_and_the_rest_is_fitted() {
    let gpu = support::gpu();
    let (_directory, model) = altered("llama_gqa_tied", |_| ());
    let whole = Resize::whole(model.config());
    let channels = whole.intermediate_size;
    let rows = rows(&model, &[40; 12]);
    let of_layer = |layer: usize| Ranking {
        layer,
        key_value_heads: if layer == 0 { vec![2.0, 1.0] } else { vec![1.0, 2.0] },
        query_heads: vec![0.5, 0.6, 0.9, 0.1],
        mlp_channels: (0..channels).map(|channel| ((channel * 7 + layer) % channels) as f64).collect(),
    };
    let ranking: Vec<Ranking> = (0..model.config().layers.len()).map(of_layer).collect();
    for (axis, wanted) in [
        (Axis::Mlp, Resize { intermediate_size: channels - 5, ..whole.clone() }),
        (Axis::KvHeads, Resize { heads: 2, kv_heads: 1, ..whole.clone() }),
        (Axis::Heads, Resize { heads: 2, ..whole.clone() }),
    ] {
        let goal = as_large_as(&model, wanted.clone()).expect("sizes");
        let options = options(&model, goal, &[axis]);
        let ranked = compressed_by(&gpu, &model, &rows, &options, Some(&ranking)).expect("a smaller model");
        assert_eq!(*ranked.sizes(), wanted, "{axis}");
        let (_, kept) = ranked.snapshot.written().expect("all is done");
        assert_eq!(kept.len(), ranking.len());
        for (kept, ranking) in kept.iter().zip(&ranking) {
            let (heads, queries) = match axis {
                Axis::KvHeads if ranking.layer == 0 => (vec![0], vec![0, 1]),
                Axis::KvHeads => (vec![1], vec![2, 3]),
                Axis::Heads => (vec![0, 1], vec![1, 2]),
                _ => (vec![0, 1], vec![0, 1, 2, 3]),
            };
            assert_eq!((&kept.key_value_heads, &kept.query_heads), (&heads, &queries), "{axis}");
            let least = if axis == Axis::Mlp { 5.0 } else { 0.0 };
            let stay = (0..channels).filter(|&channel| ranking.mlp_channels[channel] >= least);
            assert_eq!(kept.mlp_channels, stay.collect::<Vec<_>>(), "{axis}");
        }
        // What nothing was known of is no nearer to the original than what costs least.
        let obs = compressed(&gpu, &model, &rows, &options).expect("a smaller model");
        let kl = |small: &Compressed| agreement(&gpu, &small.model, &model, &rows).kl;
        println!("{axis}: KL {:.4}, by what costs least {:.4}", kl(&ranked), kl(&obs));
        assert!(kl(&obs) < kl(&ranked), "{axis}");
    }
    // What is left writes what was fitted, not what it wrote.
    let goal = as_large_as(&model, Resize { intermediate_size: channels - 5, ..whole }).expect("sizes");
    let options = options(&model, goal, &[Axis::Mlp]);
    let ranked = compressed_by(&gpu, &model, &rows, &options, Some(&ranking)).expect("a smaller model");
    let (tensors, dense) = (ranked.tensors(), support::tensors(&fixture("parity/llama_gqa_tied")));
    let name = matrix(0, "mlp.down_proj");
    let ((_, fitted), (shape, all)) = (values(&tensors, &name), values(&dense, &name));
    let stay = &ranked.snapshot.written().expect("all is done").1[0].mlp_channels;
    let picked: Vec<f32> = all.chunks(shape[1]).flat_map(|row| stay.iter().map(|&at| row[at])).collect();
    assert_eq!(picked.len(), fitted.len());
    assert_ne!(picked, fitted, "nothing was fitted");
}
