//! norm, head_norm, rope, activation: what happens to each token by itself.

use nalgebra::DMatrix;
use slicegpt_gpu::{
    model::{Rope, Scaling},
    ops::{Activation, AdamW, Dropout, HeadSpan, Norm},
    reference,
};

use crate::{
    check, download, error,
    support::{self, ROUNDOFF, Random, wide},
    upload,
};

/// Chains of width / 64 sums, six more between threads, and about 20 for a mean taken off, a division, a root and the
/// parameters. Signals have a mean no larger than their spread, so that taking it off cancels little.
fn norm_tolerance(width: usize) -> f64 {
    (20.0 + width as f64 / 64.0) * ROUNDOFF
}

#[test]
fn norms_match_reference_at_awkward_widths_and_scales() {
    let gpu = support::gpu_unlimited();
    for (tokens, width, norm_width, reason) in [
        (1, 1, 1, "the smallest"),
        (3, 2, 5, "fewer than a vec4, sliced"),
        (2, 63, 63, "below the workgroup"),
        (2, 64, 64, "one value a thread"),
        (5, 65, 65, "above the workgroup"),
        (5, 67, 131, "sliced to about half"),
        (4, 1001, 1001, "far from a multiple"),
        (2, 4095, 4096, "sliced by one"),
    ] {
        for scale in [1.0, 1e4, 1e-4] {
            let mut random = Random::new(width as u64);
            let values: Vec<f32> =
                random.values(tokens * width, 1.0).iter().map(|value| scale * (value + 0.5)).collect();
            let (weight, bias) = (random.values(width, 1.0), random.values(width, 1.0));
            let x = upload(&gpu, &values, tokens, width);
            let twin = reference::matrix(tokens, width, &values);
            for kind in if width == norm_width { &[Norm::Rms, Norm::Layer][..] } else { &[Norm::Rms] } {
                for parameters in [false, true] {
                    let (w, b) = (upload(&gpu, &weight, 1, width), upload(&gpu, &bias, 1, width));
                    let (gpu_w, gpu_b) = (parameters.then_some(&w), parameters.then_some(&b));
                    let y = gpu.norm(*kind, &x, gpu_w, gpu_b, norm_width, 1e-5).expect("norm");
                    let (weight, bias) = (wide(&weight), wide(&bias));
                    let (weight, bias) = (parameters.then_some(&*weight), parameters.then_some(&*bias));
                    let expected = reference::norm(*kind, &twin, weight, bias, norm_width, f64::from(1e-5f32));
                    let most = expected.amax().max(1.0);
                    check(
                        &format!(
                            "norm {kind:?} [{tokens}, {width}] of {norm_width} times {scale}, parameters {parameters} \
                             ({reason})"
                        ),
                        error(&download(&gpu, &y), &expected, |_, _| most),
                        norm_tolerance(width),
                    );
                }
            }
        }
    }
}

#[test]
fn norm_reaches_every_token_of_a_folded_grid() {
    let gpu = support::gpu_unlimited();
    let (tokens, width) = (70_000, 4);
    let values = Random::new(7).values(tokens * width, 1.0);
    let y = gpu.norm(Norm::Rms, &upload(&gpu, &values, tokens, width), None, None, width, 1e-6).expect("norm");
    let expected = reference::norm(Norm::Rms, &reference::matrix(tokens, width, &values), None, None, width, 1e-6);
    check(
        "norm of 70000 tokens, more than one dimension has workgroups",
        error(&download(&gpu, &y), &expected, |_, _| 2.0),
        norm_tolerance(width),
    );
}

#[test]
fn norm_refuses_tokens_wider_than_norm_width_and_layer_norms_of_sliced_tokens() {
    let gpu = support::gpu_unlimited();
    let x = gpu.zeros(2, 8).expect("zeros");
    assert!(gpu.norm(Norm::Rms, &x, None, None, 7, 1e-5).is_err());
    assert!(gpu.norm(Norm::Layer, &x, None, None, 9, 1e-5).is_err());
}

#[test]
fn head_norms_match_reference_and_leave_the_rest_alone() {
    let gpu = support::gpu_unlimited();
    let (tokens, width) = (5, 800);
    for (head_dim, column, heads, reason) in [
        (6, 1, 5, "small heads"),
        (64, 256, 4, "keys after their queries"),
        (65, 3, 7, "above the workgroup, at an odd place"),
        (256, 0, 3, "large heads"),
    ] {
        let span = HeadSpan { column, heads };
        let mut random = Random::new(head_dim as u64);
        let (values, weight, bias) =
            (random.values(tokens * width, 3.0), random.values(head_dim, 1.0), random.values(head_dim, 1.0));
        for (kind, bias) in [(Norm::Rms, None), (Norm::Layer, Some(bias))] {
            let x = upload(&gpu, &values, tokens, width);
            let gpu_bias = bias.as_ref().map(|bias| upload(&gpu, bias, 1, head_dim));
            gpu.head_norm(kind, &x, span, &upload(&gpu, &weight, 1, head_dim), gpu_bias.as_ref(), 1e-5)
                .expect("head_norm");
            let mut expected = reference::matrix(tokens, width, &values);
            reference::head_norm(
                kind,
                &mut expected,
                span,
                &wide(&weight),
                bias.as_deref().map(wide).as_deref(),
                f64::from(1e-5f32),
            );
            let error = error(
                &download(&gpu, &x),
                &expected,
                |_, column| if inside(span, head_dim, column) { 4.0 } else { 0.0 },
            );
            check(&format!("head_norm {kind:?} {span:?} of {head_dim} ({reason})"), error, norm_tolerance(head_dim));
        }
    }
}

#[test]
fn norms_of_heads_may_have_weights_of_their_own() {
    let gpu = support::gpu_unlimited();
    let (tokens, width) = (4, 90);
    for (head_dim, column, heads, reason) in [(6, 1, 5, "padded weights"), (64, 8, 1, "one head"), (3, 0, 30, "many")] {
        let span = HeadSpan { column, heads };
        let mut random = Random::new(head_dim as u64);
        let (values, d) = (random.values(tokens * width, 3.0), random.values(tokens * width, 1.0));
        let (weight, bias) = (random.values(heads * head_dim, 1.0), random.values(heads * head_dim, 1.0));
        for kind in [Norm::Rms, Norm::Layer] {
            let (x, before) = (upload(&gpu, &values, tokens, width), upload(&gpu, &values, tokens, width));
            let [gpu_weight, gpu_bias] = [&weight, &bias].map(|values| upload(&gpu, values, heads, head_dim));
            gpu.head_norm(kind, &x, span, &gpu_weight, Some(&gpu_bias), 1e-5).expect("head_norm");
            let gpu_d = upload(&gpu, &d, tokens, width);
            gpu.head_norm_backward_in_place(kind, &before, span, &gpu_weight, 1e-5, &gpu_d)
                .expect("head_norm_backward");
            let twin = reference::matrix(tokens, width, &values);
            let (mut expected, mut expected_d) = (twin.clone(), reference::matrix(tokens, width, &d));
            for head in 0..heads {
                let own = HeadSpan { column: column + head * head_dim, heads: 1 };
                let [weight, bias] = [&weight, &bias].map(|values| wide(&values[head * head_dim..][..head_dim]));
                let eps = f64::from(1e-5f32);
                reference::head_norm(kind, &mut expected, own, &weight, Some(&bias), eps);
                reference::head_norm_backward(kind, &twin, own, &weight, eps, &mut expected_d);
            }
            let scale = |_, column| if inside(span, head_dim, column) { 4.0 } else { 0.0 };
            let off = error(&download(&gpu, &x), &expected, scale);
            check(&format!("head_norm {kind:?}, own weights of {head_dim} ({reason})"), off, norm_tolerance(head_dim));
            let most = expected_d.amax().max(1.0);
            let scale = |_, column| if inside(span, head_dim, column) { most } else { 0.0 };
            let off = error(&download(&gpu, &gpu_d), &expected_d, scale);
            let what = format!("head_norm_backward {kind:?}, own weights of {head_dim} ({reason})");
            check(&what, off, 2.0 * norm_tolerance(head_dim));
        }
    }
    let (x, weight) = (gpu.zeros(2, 12).expect("zeros"), gpu.zeros(2, 4).expect("zeros"));
    assert!(gpu.head_norm(Norm::Rms, &x, HeadSpan { column: 0, heads: 3 }, &weight, None, 1e-5).is_err());
}

/// Whether a column belongs to a head.
fn inside(span: HeadSpan, head_dim: usize, column: usize) -> bool {
    (span.column..span.end(head_dim)).contains(&column)
}

#[test]
fn rope_matches_reference_up_to_far_positions_and_leaves_the_rest_alone() {
    let gpu = support::gpu_unlimited();
    let width = 400;
    for (pairs, column, head_dim, heads, factor, reason) in [
        (3, 0, 6, 8, 1.0, "an odd number of pairs"),
        (1, 5, 8, 4, 1.0, "one pair, most of the head stays"),
        (40, 80, 80, 3, 1.2, "whole heads, with an attention factor"),
        (5, 16, 48, 8, 1.0, "keys after their queries, partial"),
    ] {
        let rope = Rope {
            inverse_frequencies: (0..pairs).map(|pair| 10000f32.powf(-(pair as f32) / pairs as f32)).collect(),
            attention_factor: factor,
            theta: 10000.0,
            scaling: Scaling::None,
            dynamic: false,
            long: None,
        };
        let span = HeadSpan { column, heads };
        let positions = [0, 1, 2, 63, 64, 1000, 3999, 4000, 17];
        let table = upload(&gpu, &rope.table(4001), 4001, 2 * pairs);
        let values = Random::new(pairs as u64).values(positions.len() * width, 1.0);
        let x = upload(&gpu, &values, positions.len(), width);
        gpu.rope(&x, span, head_dim, &gpu.upload_u32(&positions).expect("positions"), &table).expect("rope");
        let mut expected = reference::matrix(positions.len(), width, &values);
        reference::rope(&mut expected, span, head_dim, &positions, &rope.inverse_frequencies, f64::from(factor));
        // Two entries of the table, two products and a sum are rounded; nothing else may change.
        let most = 2.0 * expected.amax();
        let rotated = |column: usize| inside(span, head_dim, column) && (column - span.column) % head_dim < 2 * pairs;
        let error = error(&download(&gpu, &x), &expected, |_, column| if rotated(column) { most } else { 0.0 });
        check(&format!("rope {pairs} pairs of {head_dim}, {span:?} ({reason})"), error, 3.0 * ROUNDOFF);
    }
}

#[test]
fn activations_match_reference_plain_and_gated() {
    let gpu = support::gpu_unlimited();
    let (tokens, width) = (7, 45);
    for scale in [0.01, 1.0, 10.0, 100.0] {
        let mut random = Random::new(3);
        let gate = random.values(tokens * width, scale);
        let both: Vec<f32> =
            gate.chunks(width).flat_map(|row| [row.to_vec(), random.values(width, 2.0)].concat()).collect();
        let x = reference::matrix(tokens, width, &gate);
        let up = DMatrix::from_fn(tokens, width, |i, j| f64::from(both[i * 2 * width + width + j]));
        for kind in [Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
            // |f(x)| ≤ |x|. The approximation of erf is good to 1.5e-7; exp to (3 + 2|x|) ulps, of which the factor
            // that it goes into, at most 1 / (1 + exp |x|), leaves less than 8 roundings.
            let tolerance = 1.5e-7 + 8.0 * ROUNDOFF;
            let y = gpu.activation(kind, false, &upload(&gpu, &gate, tokens, width)).expect("activation");
            let plain = error(&download(&gpu, &y), &reference::activation(kind, false, &x), |i, j| x[(i, j)].abs());
            check(&format!("activation {kind:?} of values around {scale}"), plain, tolerance);
            let y = gpu.activation(kind, true, &upload(&gpu, &both, tokens, 2 * width)).expect("activation");
            let expected = reference::activation(kind, true, &reference::matrix(tokens, 2 * width, &both));
            let gated = error(&download(&gpu, &y), &expected, |i, j| (x[(i, j)] * up[(i, j)]).abs());
            check(&format!("activation {kind:?} of values around {scale}, gated"), gated, tolerance);
        }
    }
}

#[test]
fn energies_match_reference_at_awkward_widths() {
    let gpu = support::gpu_unlimited();
    for (tokens, width, reason) in [
        (1, 1, "the smallest"),
        (3, 63, "below the workgroup"),
        (2, 65, "above it"),
        (2048, 6, "a whole batch"),
        (5, 1001, "far from a multiple"),
    ] {
        let values = Random::new(width as u64).values(tokens * width, 1.0);
        let found = download(&gpu, &gpu.energy(&upload(&gpu, &values, tokens, width)).expect("energy"));
        let twin = reference::energy(&reference::matrix(tokens, width, &values));
        let expected = DMatrix::from_row_slice(1, tokens, &twin);
        // A thread sums every 64th square, then the threads are summed in a tree.
        check(
            &format!("energy [{tokens}, {width}] ({reason})"),
            error(&found, &expected, |i, j| expected[(i, j)]),
            norm_tolerance(width),
        );
    }
}

#[test]
fn adamw_matches_reference_in_its_first_and_later_steps() {
    let gpu = support::gpu_unlimited();
    for (rows, width, step, scale, reason) in [
        (1, 1, 1, 1.0, "the smallest"),
        (3, 65, 1, 0.5, "padded rows, a clipped gradient"),
        (70, 300, 7, 1.0, "many workgroups, a later step"),
    ] {
        let mut random = Random::new((rows * width) as u64);
        let [w, g, m] = [1.0, 0.1, 0.05].map(|size| random.values(rows * width, size));
        let v: Vec<f32> = random.values(rows * width, 0.1).iter().map(|value| value * value).collect();
        let (m, v) = if step == 1 { (vec![0.0; m.len()], vec![0.0; v.len()]) } else { (m, v) };
        let options = AdamW { rate: 0.01, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, step };
        let on_gpu = [&w, &m, &v].map(|values| upload(&gpu, values, rows, width));
        let gradient = upload(&gpu, &g, rows, width);
        gpu.adamw(&options, &gradient, scale, on_gpu.each_ref()).expect("adamw");
        let mut twin = [&w, &m, &v].map(|values| reference::matrix(rows, width, values));
        let g = reference::matrix(rows, width, &g);
        reference::adamw(&options, &g, f64::from(scale), twin.each_mut());
        let before = [&w, &m, &v].map(|values| reference::matrix(rows, width, values));
        for (at, name) in ["w", "m", "v"].into_iter().enumerate() {
            // A few products, a root and a quotient, each rounded; a step may be longer than the weight.
            let (expected, before) = (&twin[at], &before[at]);
            let size = |i, j| expected[(i, j)].abs() + before[(i, j)].abs() + 1e-3;
            let worst = error(&download(&gpu, &on_gpu[at]), expected, size);
            check(&format!("adamw {name} [{rows}, {width}], step {step} ({reason})"), worst, 16.0 * ROUNDOFF);
        }
    }
    let (two, three) = (gpu.zeros(2, 4).expect("zeros"), gpu.zeros(2, 3).expect("zeros"));
    let other = [(); 3].map(|()| gpu.zeros(2, 4).expect("zeros"));
    let options = AdamW { rate: 0.1, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.0, step: 1 };
    assert!(gpu.adamw(&options, &three, 1.0, other.each_ref()).is_err());
    assert!(gpu.adamw(&AdamW { step: 0, ..options }, &two, 1.0, other.each_ref()).is_err());
}

#[test]
fn dropout_leaves_out_what_the_reference_does_and_the_same_again_in_pieces() {
    let gpu = support::gpu_unlimited();
    for (tokens, width, rate, reason) in
        [(1, 1, 0.5, "the smallest"), (3, 65, 0.25, "padded rows"), (200, 300, 0.05, "many workgroups")]
    {
        let dropout = Dropout { rate, seed: 7 + tokens as u32, scale: 2.0 };
        let mut random = Random::new((tokens * width) as u64);
        let x = random.values(tokens * width, 1.0);
        let (input, result) = (upload(&gpu, &x, tokens, width), gpu.zeros(tokens, width).expect("zeros"));
        gpu.dropout(dropout, 5, &input, &result, false).expect("dropout");
        gpu.dropout(dropout, 5, &input, &result, true).expect("dropout");
        let expected = 2.0 * reference::dropout(dropout, 5, &reference::matrix(tokens, width, &x));
        let found = download(&gpu, &result);
        let worst = error(&found, &expected, |i, j| expected[(i, j)].abs().max(1e-3));
        check(&format!("dropout [{tokens}, {width}] ({reason})"), worst, 4.0 * ROUNDOFF);
        if tokens > 64 {
            let missing = found.iter().filter(|value| **value == 0.0).count() as f64 / (tokens * width) as f64;
            assert!((missing - f64::from(rate)).abs() < 0.005, "{missing} of the values are missing");
            let piece = gpu.zeros(tokens - 64, width).expect("zeros");
            gpu.dropout(dropout, 69, &input.view(64..tokens).expect("a view"), &piece, true).expect("dropout");
            assert_eq!(2.0 * download(&gpu, &piece), found.rows(64, tokens - 64).into_owned(), "from token 64 on");
        }
    }
    let (two, three) = (gpu.zeros(2, 4).expect("zeros"), gpu.zeros(2, 3).expect("zeros"));
    assert!(gpu.dropout(Dropout { rate: 0.1, seed: 0, scale: 1.0 }, 0, &two, &three, false).is_err());
}

#[test]
fn subtract_matches_reference_at_awkward_widths() {
    let gpu = support::gpu_unlimited();
    for (tokens, width, factor, reason) in [
        (1, 1, 1.0, "the smallest"),
        (3, 65, -0.75, "padded rows, and something added"),
        (70, 300, 0.3, "many workgroups, the last not full"),
    ] {
        let mut random = Random::new((tokens * width) as u64);
        let (y, x) = (random.values(tokens * width, 3.0), random.values(tokens * width, 3.0));
        let (difference, other) = (upload(&gpu, &y, tokens, width), upload(&gpu, &x, tokens, width));
        gpu.subtract(&difference, &other, factor).expect("subtract");
        let (y, x) = (reference::matrix(tokens, width, &y), reference::matrix(tokens, width, &x));
        let expected = reference::subtract(&y, &x, f64::from(factor));
        check(
            &format!("subtract [{tokens}, {width}] ({reason})"),
            // A product and a difference are rounded, or both at once.
            error(&download(&gpu, &difference), &expected, |i, j| {
                y[(i, j)].abs() + 2.0 * (f64::from(factor) * x[(i, j)]).abs()
            }),
            ROUNDOFF,
        );
    }
    assert!(gpu.subtract(&gpu.zeros(2, 4).expect("zeros"), &gpu.zeros(2, 3).expect("zeros"), 1.0).is_err());
}

#[test]
fn scale_tokens_matches_reference_at_awkward_widths() {
    let gpu = support::gpu_unlimited();
    for (tokens, width, norm_width, reason) in
        [(1, 1, 1, "the smallest"), (3, 65, 64, "above a workgroup"), (70, 300, 400, "several turns of a workgroup")]
    {
        let mut random = Random::new((tokens * width) as u64);
        let y = random.values(tokens * width, 3.0);
        let e: Vec<f32> = random.values(tokens, 100.0).into_iter().map(|value| value * value).collect();
        let w: Vec<f32> = (0..tokens).map(|token| [1.0, 100.0, 3.5][token % 3]).collect();
        for w in [None, Some(&w)] {
            let scaled = upload(&gpu, &y, tokens, width);
            let counts = w.map(|w| upload(&gpu, w, 1, tokens));
            let e_there = upload(&gpu, &e, 1, tokens);
            gpu.scale_tokens(&scaled, &e_there, counts.as_ref(), norm_width, 1e-5).expect("scale_tokens");
            let (y, w, eps) = (reference::matrix(tokens, width, &y), w.map(|w| wide(w)), f64::from(1e-5f32));
            let expected = reference::scale_tokens(&y, &wide(&e), w.as_deref(), norm_width, eps);
            // A division, a sum, two roots, a division and two products.
            check(
                &format!("scale_tokens [{tokens}, {width}] ({reason})"),
                error(&download(&gpu, &scaled), &expected, |i, j| expected[(i, j)].abs()),
                12.0 * ROUNDOFF,
            );
        }
    }
    let [y, e, short] = [(3, 4), (1, 3), (1, 2)].map(|(rows, cols)| gpu.zeros(rows, cols).expect("zeros"));
    assert!(gpu.scale_tokens(&y, &short, None, 4, 1e-5).is_err());
    assert!(gpu.scale_tokens(&y, &e, Some(&short), 4, 1e-5).is_err());
}
