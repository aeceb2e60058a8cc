//! short_conv, delta_gates, delta_rule, gate: what a gated delta net makes of tokens and those before them.

use slicegpt_gpu::{
    ops::{DeltaRun, DeltaShape, Gate},
    reference,
};

use crate::{
    check, download, error,
    support::{self, ROUNDOFF, Random},
    upload,
};

#[test]
fn short_conv_matches_its_twin_and_sees_no_further_than_it_may() {
    let gpu = support::gpu_unlimited();
    for (rows, cols, channels, taps, reason) in [
        (1, 1, 1, 1, "the smallest"),
        (9, 7, 5, 4, "columns beyond the channels, padded rows"),
        (3, 6, 6, 8, "more taps than tokens"),
        (40, 300, 257, 3, "more channels than a workgroup has"),
        (66_000, 2, 2, 2, "more tokens than a dimension of workgroups"),
    ] {
        let mut random = Random::new((rows + taps) as u64);
        let (x, weight) = (random.values(rows * cols, 1.0), random.values(taps * channels, 1.0));
        // Backwards, and in sequences of three: a place is no row, and what is seen may end before it.
        let places: Vec<[u32; 2]> = (0..rows as u32).rev().map(|row| [row, row % 3 + 1]).collect();
        let found = gpu.short_conv(&upload(&gpu, &x, rows, cols), &upload(&gpu, &weight, taps, channels), &places);
        let expected = reference::short_conv(
            &reference::matrix(rows, cols, &x),
            &reference::matrix(taps, channels, &weight),
            &places,
        );
        let most = expected.amax().max(1.0);
        let what = format!("short_conv [{rows}, {channels} of {cols}] with {taps} taps ({reason})");
        check(&what, error(&download(&gpu, &found.expect("short_conv")), &expected, |_, _| most), 16.0 * ROUNDOFF);
    }
    let (x, weight) = (upload(&gpu, &[1.0; 8], 2, 4), upload(&gpu, &[1.0; 6], 2, 3));
    assert!(gpu.short_conv(&x, &weight, &[[2, 1]]).is_err(), "a row that is not there");
    assert!(gpu.short_conv(&x, &weight, &[[0, 2]]).is_err(), "a row before the first");
    assert!(gpu.short_conv(&x, &upload(&gpu, &[1.0; 5], 1, 5), &[[0, 1]]).is_err(), "too few columns");
}

#[test]
fn delta_gates_are_right_relative_to_what_is_forgotten() {
    let gpu = support::gpu_unlimited();
    for (tokens, heads, scale, reason) in [
        (1, 1, 1.0, "the smallest"),
        (7, 3, 8.0, "softplus of small and of large numbers"),
        (5, 65, 30.0, "more heads than a workgroup has threads"),
        (70_000, 2, 1.0, "many workgroups"),
    ] {
        let (beta, decay) = (1, heads + 2);
        let mut random = Random::new(tokens as u64);
        let x = random.values(tokens * (2 * heads + 2), scale);
        let rates = random.values(heads, 1.0).into_iter().map(f32::exp);
        let parameters: Vec<f32> = rates.chain(random.values(heads, 1.0)).collect();
        let gpu_parameters = upload(&gpu, &parameters, 2, heads);
        let x_on_gpu = upload(&gpu, &x, tokens, 2 * heads + 2);
        let found = download(&gpu, &gpu.delta_gates(&x_on_gpu, beta, decay, &gpu_parameters).expect("gates"));
        let twin = reference::matrix(tokens, 2 * heads + 2, &x);
        let expected = reference::delta_gates(&twin, beta, decay, &reference::matrix(2, heads, &parameters));
        let what = format!("delta_gates of {tokens} tokens and {heads} heads, times {scale} ({reason})");
        // What is kept is 1 less a small number: rounding of 1 is all that may be lost of that, and the rounding of the
        // exponents, which are as large as the logarithm of what there is.
        let size = |i: usize, j: usize| {
            let value = expected[(i, j)];
            (value * (1.0 + value.max(1e-30).ln().abs())).max(1e-30)
        };
        check(&what, error(&found, &expected, size), 16.0 * ROUNDOFF);
    }
    let x = upload(&gpu, &[0.0; 4], 1, 4);
    assert!(gpu.delta_gates(&x, 0, 3, &upload(&gpu, &[0.0; 4], 2, 2)).is_err(), "columns that are not there");
}

/// Signals as a layer has them: unit keys and queries, values about 1, gates between 0 and 1.
pub fn signals(shape: &DeltaShape, tokens: usize, random: &mut Random) -> (Vec<f32>, Vec<f32>) {
    let width = shape.qkv_width();
    let mut qkv = random.values(tokens * width, 1.0);
    for token in qkv.chunks_exact_mut(width) {
        for head in token[..2 * shape.key_heads * shape.key_dim].chunks_exact_mut(shape.key_dim) {
            let length = head.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-3);
            head.iter_mut().for_each(|value| *value /= length);
        }
    }
    let gates = random.values(tokens * 2 * shape.value_heads, 1.0);
    let gates = gates.into_iter().enumerate().map(|(at, value)| {
        let share = 1.0 / (1.0 + (-value).exp());
        // Most of a state stays.
        if at % (2 * shape.value_heads) < shape.value_heads { 1.0 - 0.1 * share } else { share }
    });
    (qkv, gates.collect())
}

#[test]
fn delta_rule_matches_its_twin_at_awkward_shapes_and_keeps_its_states() {
    let gpu = support::gpu_unlimited();
    for (key_heads, value_heads, key_dim, value_dim, lengths, reason) in [
        (1, 1, 1, 1, vec![1], "the smallest"),
        (2, 4, 5, 6, vec![7, 7, 7], "fewer than the registers, groups of two, sequences alike"),
        (1, 3, 16, 65, vec![4, 9, 9, 2], "as many as the registers, more values than a workgroup, ragged"),
        (2, 2, 33, 3, vec![40], "one more than registers of a size"),
        (1, 1, 256, 2, vec![3], "the widest keys"),
        (1, 1, 2, 2, vec![2500], "more tokens than a dispatch takes"),
        (1, 2, 128, 128, vec![258], "as large as models have it"),
    ] {
        let shape = DeltaShape { key_heads, value_heads, key_dim, value_dim };
        let tokens: usize = lengths.iter().sum();
        let mut random = Random::new((key_dim * 100 + value_dim) as u64);
        let (qkv, gates) = signals(&shape, tokens, &mut random);
        let states = random.values(lengths.len() * shape.state_rows() * value_dim, 1.0);
        let mut first = 0;
        let runs = lengths.iter().enumerate().map(|(state, &tokens)| {
            first += tokens;
            DeltaRun { first: first - tokens, tokens, state, begins: state % 3 == 0 }
        });
        let runs: Vec<DeltaRun> = runs.collect();
        let on_gpu = upload(&gpu, &states, lengths.len() * shape.state_rows(), value_dim);
        let (q, g) = (upload(&gpu, &qkv, tokens, shape.qkv_width()), upload(&gpu, &gates, tokens, 2 * value_heads));
        let out = gpu.delta_rule(&shape, &q, &g, &on_gpu, &runs).expect("delta_rule");
        let mut twin = reference::matrix(lengths.len() * shape.state_rows(), value_dim, &states);
        let expected = reference::delta_rule(
            &shape,
            &reference::matrix(tokens, shape.qkv_width(), &qkv),
            &reference::matrix(tokens, 2 * value_heads, &gates),
            &mut twin,
            &runs,
        );
        // A state forgets what is ten tokens back, errors with it; sums of key_dim products.
        let tolerance = (40.0 + key_dim as f64) * ROUNDOFF;
        let [size, of_states] = [&expected, &twin].map(|of| of.amax().max(1.0));
        let what = format!("delta_rule {shape:?} of {lengths:?} tokens ({reason})");
        check(&what, error(&download(&gpu, &out), &expected, |_, _| size), tolerance);
        check(&format!("{what}, states"), error(&download(&gpu, &on_gpu), &twin, |_, _| of_states), tolerance);
    }
}

#[test]
fn a_sequence_in_pieces_has_the_states_and_results_of_the_whole() {
    let gpu = support::gpu_unlimited();
    let shape = DeltaShape { key_heads: 1, value_heads: 2, key_dim: 6, value_dim: 7 };
    let (qkv, gates) = signals(&shape, 11, &mut Random::new(5));
    let (qkv, gates) = (upload(&gpu, &qkv, 11, shape.qkv_width()), upload(&gpu, &gates, 11, 4));
    let states = || gpu.zeros(shape.state_rows(), shape.value_dim).expect("states");
    let (whole, pieces) = (states(), states());
    let run = |first, tokens| DeltaRun { first, tokens, state: 0, begins: first == 0 };
    let all = gpu.delta_rule(&shape, &qkv, &gates, &whole, &[run(0, 11)]).expect("the whole");
    let all = gpu.download(&all).expect("a readback");
    for (first, tokens) in [(0, 4), (4, 1), (5, 6)] {
        let part = gpu.delta_rule(&shape, &qkv, &gates, &pieces, &[run(first, tokens)]).expect("a piece");
        let part = gpu.download(&part).expect("a readback");
        let width = shape.value_width();
        assert_eq!(part[first * width..][..tokens * width], all[first * width..][..tokens * width], "from {first}");
    }
    assert_eq!(gpu.download(&whole).expect("states"), gpu.download(&pieces).expect("states"));
}

#[test]
fn delta_rule_refuses_what_is_outside() {
    let gpu = support::gpu_unlimited();
    let shape = DeltaShape { key_heads: 2, value_heads: 4, key_dim: 3, value_dim: 2 };
    let (qkv, gates) = (gpu.zeros(5, shape.qkv_width()).expect("qkv"), gpu.zeros(5, 8).expect("gates"));
    let states = gpu.zeros(shape.state_rows(), 2).expect("states");
    let run = DeltaRun { first: 0, tokens: 5, state: 0, begins: true };
    assert!(gpu.delta_rule(&shape, &qkv, &gates, &states, &[run]).is_ok());
    for (shape, run, reason) in [
        (shape, DeltaRun { first: 1, ..run }, "tokens beyond the last"),
        (shape, DeltaRun { state: 1, ..run }, "a state that is not there"),
        (DeltaShape { value_heads: 3, ..shape }, run, "heads that do not divide"),
        (DeltaShape { key_dim: 300, ..shape }, run, "wide keys"),
    ] {
        assert!(gpu.delta_rule(&shape, &qkv, &gates, &states, &[run]).is_err(), "{reason}");
    }
}

#[test]
fn gate_matches_its_twin_and_leaves_the_padding_alone() {
    let gpu = support::gpu_unlimited();
    for (tokens, width, column, reason) in [
        (1, 1, 0, "the smallest"),
        (6, 50, 3, "padded rows, a gate in the middle"),
        (3, 300, 1, "more values than a workgroup has"),
        (66_000, 2, 2, "more tokens than a dimension of workgroups"),
    ] {
        let mut random = Random::new(width as u64);
        let (x, y) = (random.values(tokens * (width + column + 1), 4.0), random.values(tokens * width, 1.0));
        for kind in [Gate::Sigmoid, Gate::Silu] {
            let (of, by) = (upload(&gpu, &y, tokens, width), upload(&gpu, &x, tokens, width + column + 1));
            gpu.gate_in_place(kind, &of, &by, column).expect("gate");
            let twin = reference::matrix(tokens, width + column + 1, &x);
            let expected = reference::gate(kind, &reference::matrix(tokens, width, &y), &twin, column);
            let most = expected.amax().max(1.0);
            let what = format!("gate {kind:?} of [{tokens}, {width}] from column {column} ({reason})");
            check(&what, error(&download(&gpu, &of), &expected, |_, _| most), 16.0 * ROUNDOFF);
        }
    }
    let (x, y) = (upload(&gpu, &[0.0; 8], 2, 4), upload(&gpu, &[0.0; 6], 2, 3));
    assert!(gpu.gate_in_place(Gate::Silu, &y, &x, 2).is_err(), "too few columns");
}
