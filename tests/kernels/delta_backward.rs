//! gate_backward, short_conv_backward, delta_gates_backward, delta_rule_backward: the gradients of what a gated delta
//! net is made of.

use slicegpt_gpu::{
    ops::{DeltaRun, DeltaShape, Gate, sequences},
    reference,
};

use crate::{
    check,
    delta_net::signals,
    download, error,
    support::{self, ROUNDOFF, Random},
    upload,
};

/// What a matrix has where a kernel must not write.
const UNTOUCHED: f32 = 77.0;

#[test]
fn gradients_of_gates_match_their_twin_and_leave_other_columns_alone() {
    let gpu = support::gpu_unlimited();
    for (tokens, width, column, scale, reason) in [
        (1, 1, 0, 1.0, "the smallest"),
        (6, 50, 3, 4.0, "padded rows, a gate in the middle"),
        (3, 300, 1, 1.0, "more values than a workgroup has"),
        (4, 7, 2, 40.0, "gates that are shut, and open"),
        (66_000, 2, 2, 1.0, "more tokens than a dimension of workgroups"),
    ] {
        let (mut random, cols) = (Random::new(width as u64), width + column + 1);
        let (x, y) = (random.values(tokens * cols, scale), random.values(tokens * width, 1.0));
        let d = random.values(tokens * width, 1.0);
        for kind in [Gate::Sigmoid, Gate::Silu] {
            let [on_y, on_d] = [&y, &d].map(|of| upload(&gpu, of, tokens, width));
            let (on_x, dx) = (upload(&gpu, &x, tokens, cols), upload(&gpu, &vec![UNTOUCHED; x.len()], tokens, cols));
            gpu.gate_backward_in_place(kind, &on_y, (&on_x, &dx), column, &on_d).expect("gate_backward");
            let [twin_y, twin_d] = [&y, &d].map(|of| reference::matrix(tokens, width, of));
            let twin_x = reference::matrix(tokens, cols, &x);
            let (of_y, of_gate) = reference::gate_backward(kind, &twin_y, &twin_x, column, &twin_d);
            let what = format!("gate_backward {kind:?} of [{tokens}, {width}] from column {column} ({reason})");
            let gate = |t: usize, i: usize| twin_x[(t, column + i)].abs().max(1.0);
            let scale = |t, i| twin_d[(t, i)].abs() * gate(t, i);
            check(&what, error(&download(&gpu, &on_d), &of_y, scale), 16.0 * ROUNDOFF);
            let found = download(&gpu, &dx);
            let scale = |t, i| (twin_d[(t, i)] * twin_y[(t, i)]).abs() * gate(t, i);
            let off = error(&found.columns(column, width).into_owned(), &of_gate, scale);
            check(&format!("{what}, the gate"), off, 16.0 * ROUNDOFF);
            let others = (0..cols).filter(|i| !(column..column + width).contains(i));
            assert!(others.flat_map(|i| found.column(i)).all(|value| *value == f64::from(UNTOUCHED)), "{what}");
        }
    }
    let (x, y) = (upload(&gpu, &[0.0; 8], 2, 4), upload(&gpu, &[0.0; 6], 2, 3));
    assert!(gpu.gate_backward_in_place(Gate::Silu, &y, (&x, &x), 2, &y).is_err(), "too few columns");
}

#[test]
fn gradients_of_convolutions_match_their_twin_and_stay_in_their_sequences() {
    let gpu = support::gpu_unlimited();
    for (lengths, cols, channels, taps, reason) in [
        (vec![1], 1, 1, 1, "the smallest"),
        (vec![9, 1, 5], 7, 5, 4, "columns beyond the channels, padded rows"),
        (vec![3, 2], 6, 6, 8, "more taps than tokens"),
        (vec![40], 300, 257, 3, "more channels than a workgroup has"),
        (vec![33_000, 33_000], 2, 2, 2, "more tokens than a dimension of workgroups"),
    ] {
        let tokens: usize = lengths.iter().sum();
        let mut random = Random::new((tokens + taps) as u64);
        let (x, weight) = (random.values(tokens * cols, 1.0), random.values(taps * channels, 1.0));
        let d = random.values(tokens * channels, 1.0);
        let (on_d, dx) = (upload(&gpu, &d, tokens, channels), upload(&gpu, &vec![UNTOUCHED; x.len()], tokens, cols));
        let (on_x, on_weight) = (upload(&gpu, &x, tokens, cols), upload(&gpu, &weight, taps, channels));
        let all = sequences(lengths.iter().copied());
        gpu.short_conv_backward_in_place(&on_x, &on_weight, &all, &on_d, &dx).expect("short_conv_backward");
        let expected = reference::short_conv_backward(
            &reference::matrix(tokens, cols, &x),
            &reference::matrix(taps, channels, &weight),
            &lengths,
            &reference::matrix(tokens, channels, &d),
        );
        let (most, found) = (expected.amax().max(1.0), download(&gpu, &dx));
        let what = format!("short_conv_backward of {lengths:?} tokens [{channels} of {cols}], {taps} taps ({reason})");
        let off = error(&found.columns(0, channels).into_owned(), &expected, |_, _| most);
        check(&what, off, (16.0 + taps as f64) * ROUNDOFF);
        let others = (channels..cols).flat_map(|i| found.column(i));
        assert!(others.copied().all(|value| value == f64::from(UNTOUCHED)), "{what}");
    }
    let (x, weight) = (upload(&gpu, &[1.0; 8], 2, 4), upload(&gpu, &[1.0; 6], 2, 3));
    let of = |lengths: &[usize]| sequences(lengths.iter().copied());
    let run = |weight: &_, all: &[_], d: &_| gpu.short_conv_backward_in_place(&x, weight, all, d, &x);
    let d = upload(&gpu, &[1.0; 6], 2, 3);
    assert!(run(&weight, &of(&[3]), &d).is_err(), "tokens that are not there");
    let wide = upload(&gpu, &[1.0; 5], 1, 5);
    assert!(run(&wide, &of(&[2]), &d).is_err(), "too few columns");
    let later = of(&[2]).into_iter().map(|one| slicegpt_gpu::ops::Sequence { position: 1, ..one });
    assert!(run(&weight, &later.collect::<Vec<_>>(), &d).is_err(), "a sequence that began before");
}

#[test]
fn gradients_of_delta_gates_match_their_twin() {
    let gpu = support::gpu_unlimited();
    for (tokens, heads, scale, reason) in [
        (1, 1, 1.0, "the smallest"),
        (7, 3, 8.0, "gates of small and of large numbers"),
        (5, 65, 100.0, "more heads than a workgroup has threads, gates that are 0 and 1"),
        (70_000, 2, 1.0, "many workgroups"),
    ] {
        let (beta, decay, cols) = (1, heads + 2, 2 * heads + 3);
        let mut random = Random::new(tokens as u64);
        let (x, d) = (random.values(tokens * cols, scale), random.values(tokens * 2 * heads, 1.0));
        let rates = random.values(heads, 1.0).into_iter().map(f32::exp);
        let parameters: Vec<f32> = rates.chain(random.values(heads, 1.0)).collect();
        let (on_x, on_d) = (upload(&gpu, &x, tokens, cols), upload(&gpu, &d, tokens, 2 * heads));
        let (on_parameters, dx) = (upload(&gpu, &parameters, 2, heads), gpu.zeros(tokens, cols).expect("zeros"));
        gpu.delta_gates_backward(&on_x, [beta, decay], &on_parameters, &on_d, &dx).expect("delta_gates_backward");
        let twin = reference::matrix(tokens, cols, &x);
        let expected = reference::delta_gates_backward(
            &twin,
            [beta, decay],
            &reference::matrix(2, heads, &parameters),
            &reference::matrix(tokens, 2 * heads, &d),
        );
        // What is in an exponent is rounded, too.
        let size = |t: usize, i: usize| (expected[(t, i)] * (2.0 + twin[(t, i)].abs())).abs().max(1e-30);
        let what = format!("delta_gates_backward of {tokens} tokens and {heads} heads, times {scale} ({reason})");
        check(&what, error(&download(&gpu, &dx), &expected, size), 16.0 * ROUNDOFF);
    }
    let x = upload(&gpu, &[0.0; 4], 1, 4);
    let parameters = upload(&gpu, &[0.0; 4], 2, 2);
    assert!(gpu.delta_gates_backward(&x, [0, 3], &parameters, &x, &x).is_err(), "columns that are not there");
}

#[test]
fn gradients_of_the_delta_rule_match_their_twin_at_awkward_shapes() {
    let gpu = support::gpu_unlimited();
    for (key_heads, value_heads, key_dim, value_dim, lengths, reason) in [
        (1, 1, 1, 1, vec![1], "the smallest"),
        (2, 4, 5, 6, vec![7, 7, 7], "fewer than the registers, groups of two, sequences alike"),
        (1, 3, 16, 65, vec![4, 9, 9, 2], "as many as the registers, more values than a workgroup, ragged"),
        (2, 2, 65, 8, vec![40], "more rows than a workgroup, values as the registers"),
        (1, 1, 256, 2, vec![3], "the widest keys"),
        (1, 2, 3, 300, vec![5, 6], "more values than registers"),
        (1, 1, 2, 2, vec![2500], "more tokens than a dispatch takes"),
        (65, 65, 1, 1, vec![3, 2], "more heads than a workgroup has threads"),
        (1, 1, 1, 1, vec![33_000, 2], "more tokens than a thread adds up"),
        (1, 2, 128, 128, vec![258], "as large as models have it"),
    ] {
        let shape = DeltaShape { key_heads, value_heads, key_dim, value_dim };
        let tokens: usize = lengths.iter().sum();
        let mut random = Random::new((key_dim * 100 + value_dim) as u64);
        let (qkv, gates) = signals(&shape, tokens, &mut random);
        let (width, value_width) = (shape.qkv_width(), shape.value_width());
        let d = random.values(tokens * value_width, 1.0);
        // Of three sequences, the last has the state of the first.
        let runs = sequences(lengths.iter().copied()).into_iter().enumerate().map(|(number, one)| DeltaRun {
            first: one.first,
            tokens: one.tokens,
            state: number % 2,
            begins: true,
        });
        let runs: Vec<DeltaRun> = runs.collect();
        let (q, g) = (upload(&gpu, &qkv, tokens, width), upload(&gpu, &gates, tokens, 2 * value_heads));
        let states = gpu.unfilled(2 * shape.state_rows(), value_dim).expect("states");
        let out = gpu.delta_rule(&shape, &q, &g, &states, &runs).expect("delta_rule");
        let on_d = upload(&gpu, &d, tokens, value_width);
        let found = gpu.delta_rule_backward(&shape, (&q, &g), (&out, &on_d), &runs).expect("delta_rule_backward");
        let (of_qkv, of_gates) = reference::delta_rule_backward(
            &shape,
            &reference::matrix(tokens, width, &qkv),
            &reference::matrix(tokens, 2 * value_heads, &gates),
            &reference::matrix(tokens, value_width, &d),
            &runs,
        );
        // As of the rule itself, and sums over values as well as keys.
        let tolerance = (40.0 + (key_dim + value_dim) as f64) * ROUNDOFF;
        let what = format!("delta_rule_backward {shape:?} of {lengths:?} tokens ({reason})");
        let most = of_qkv.amax().max(1.0);
        check(&what, error(&download(&gpu, &found.qkv), &of_qkv, |_, _| most), tolerance);
        // Sums of what all tokens from one on take in and give: their roundings add up like a random walk.
        let longest = *lengths.iter().max().expect("a length") as f64;
        let most = of_gates.amax().max(1.0);
        let off = error(&download(&gpu, &found.log_gates), &of_gates, |_, _| most);
        check(&format!("{what}, gates"), off, tolerance + 8.0 * longest.sqrt() * ROUNDOFF);
    }
}

#[test]
fn gradients_of_the_delta_rule_are_right_where_states_are_forgotten_at_once() {
    let gpu = support::gpu_unlimited();
    let (shape, tokens) = (DeltaShape { key_heads: 1, value_heads: 2, key_dim: 6, value_dim: 7 }, 50);
    let mut random = Random::new(11);
    let (qkv, mut gates) = signals(&shape, tokens, &mut random);
    // At one token of four the states are forgotten, at another nothing is corrected: by one head wholly, by one
    // nearly.
    for (number, token) in gates.chunks_exact_mut(4).enumerate() {
        match number % 4 {
            1 => (token[0], token[1]) = (0.0, 1e-30),
            3 => (token[2], token[3]) = (0.0, 1e-30),
            _ => {}
        }
    }
    let d = random.values(tokens * shape.value_width(), 1.0);
    let run = DeltaRun { first: 0, tokens, state: 0, begins: true };
    let (q, g) = (upload(&gpu, &qkv, tokens, shape.qkv_width()), upload(&gpu, &gates, tokens, 4));
    let states = gpu.unfilled(shape.state_rows(), shape.value_dim).expect("states");
    let out = gpu.delta_rule(&shape, &q, &g, &states, &[run]).expect("delta_rule");
    let on_d = upload(&gpu, &d, tokens, shape.value_width());
    let found = gpu.delta_rule_backward(&shape, (&q, &g), (&out, &on_d), &[run]).expect("delta_rule_backward");
    let (of_qkv, of_gates) = reference::delta_rule_backward(
        &shape,
        &reference::matrix(tokens, shape.qkv_width(), &qkv),
        &reference::matrix(tokens, 4, &gates),
        &reference::matrix(tokens, shape.value_width(), &d),
        &[run],
    );
    for (found, expected, what) in [(&found.qkv, &of_qkv, "qkv"), (&found.log_gates, &of_gates, "gates")] {
        let off = error(&download(&gpu, found), expected, |_, _| expected.amax());
        check(&format!("delta_rule_backward, {what}, where states are forgotten"), off, 64.0 * ROUNDOFF);
    }
}

#[test]
fn delta_rule_backward_refuses_what_is_outside() {
    let gpu = support::gpu_unlimited();
    let shape = DeltaShape { key_heads: 2, value_heads: 4, key_dim: 3, value_dim: 2 };
    let (qkv, gates) = (gpu.zeros(5, shape.qkv_width()).expect("qkv"), gpu.zeros(5, 8).expect("gates"));
    let out = gpu.zeros(5, shape.value_width()).expect("out");
    let run = DeltaRun { first: 0, tokens: 5, state: 0, begins: true };
    assert!(gpu.delta_rule_backward(&shape, (&qkv, &gates), (&out, &out), &[run]).is_ok());
    for (shape, run, reason) in [
        (shape, DeltaRun { first: 1, ..run }, "tokens beyond the last"),
        (shape, DeltaRun { begins: false, ..run }, "a state from before"),
        (DeltaShape { value_heads: 3, ..shape }, run, "heads that do not divide"),
        (DeltaShape { key_dim: 300, ..shape }, run, "wide keys"),
    ] {
        assert!(gpu.delta_rule_backward(&shape, (&qkv, &gates), (&out, &out), &[run]).is_err(), "{reason}");
    }
}
