//! Is each f64 twin of a gradient the derivative of the f64 twin of its kernel? By central differences.

use nalgebra::DMatrix;
use slicegpt_gpu::{
    ops::{Activation, AttentionShape, Bound, ClampedSwiglu, DeltaRun, DeltaShape, Gate, HeadSpan, Norm, sequences},
    reference,
};

use crate::{attention::scores, support::Random};

fn random(random: &mut Random, rows: usize, cols: usize) -> DMatrix<f64> {
    DMatrix::from_fn(rows, cols, |_, _| f64::from(random.normal()))
}

/// Half the step of a difference: its error goes with the square, that of rounding with the inverse.
const STEP: f64 = 1e-5;

/// Checks that `gradient(d)` is that of `Σ d · f(x)` by x.
fn compare(
    what: &str,
    x: &DMatrix<f64>,
    f: impl Fn(&DMatrix<f64>) -> DMatrix<f64>,
    gradient: impl Fn(&DMatrix<f64>) -> DMatrix<f64>,
) {
    let y = f(x);
    let d = random(&mut Random::new(99), y.nrows(), y.ncols());
    let found = gradient(&d);
    assert_eq!(found.shape(), x.shape(), "{what}");
    let differences = DMatrix::from_fn(x.nrows(), x.ncols(), |i, j| {
        let at = |by: f64| {
            let mut moved = x.clone();
            moved[(i, j)] += by;
            f(&moved).dot(&d)
        };
        (at(STEP) - at(-STEP)) / (2.0 * STEP)
    });
    let error = (&found - &differences).amax() / differences.amax().max(1e-3);
    println!("{what}: {error:.1e}");
    assert!(error < 1e-7, "{what}: {error:.2e}");
}

#[test]
fn gradients_of_norms_are_derivatives() {
    let mut numbers = Random::new(1);
    for (width, norm_width) in [(1, 1), (7, 7), (5, 9)] {
        let x = random(&mut numbers, 3, width);
        let weight: Vec<f64> = random(&mut numbers, 1, width).iter().copied().collect();
        for kind in [Norm::Rms, Norm::Layer].into_iter().filter(|kind| *kind == Norm::Rms || width == norm_width) {
            for weight in [None, Some(&*weight)] {
                compare(
                    &format!("norm_backward {kind:?}, {width} of {norm_width}, weight {}", weight.is_some()),
                    &x,
                    |x| reference::norm(kind, x, weight, None, norm_width, 0.01),
                    |d| reference::norm_backward(kind, &x, weight, d, norm_width, 0.01),
                );
            }
            let parameters = DMatrix::from_row_slice(1, width, &weight);
            let normed = reference::norm(kind, &x, None, None, norm_width, 0.01);
            compare(
                &format!("column_sums, weight of a {kind:?} norm"),
                &parameters,
                |weight| reference::norm(kind, &x, Some(weight.as_slice()), None, norm_width, 0.01),
                |d| reference::column_sums(d, Some(&normed)),
            );
            compare(
                &format!("column_sums, bias of a {kind:?} norm"),
                &parameters,
                |bias| reference::norm(kind, &x, None, Some(bias.as_slice()), norm_width, 0.01),
                |d| reference::column_sums(d, None),
            );
        }
    }
}

#[test]
fn gradients_of_head_norms_and_rope_are_derivatives() {
    let x = random(&mut Random::new(2), 4, 19);
    let span = HeadSpan { column: 2, heads: 3 };
    let weight = [0.5, -1.5, 2.0, 1.0, 0.3];
    for kind in [Norm::Rms, Norm::Layer] {
        let normed = |x: &DMatrix<f64>| {
            let mut y = x.clone();
            reference::head_norm(kind, &mut y, span, &weight, None, 0.01);
            y
        };
        compare(&format!("head_norm_backward {kind:?}"), &x, normed, |d| {
            let mut d = d.clone();
            reference::head_norm_backward(kind, &x, span, &weight, 0.01, &mut d);
            d
        });
    }
    let (positions, frequencies) = ([0, 3, 100, 7], [1.0, 0.1]);
    let turned = |x: &DMatrix<f64>| {
        let mut y = x.clone();
        reference::rope(&mut y, span, 5, &positions, &frequencies, 1.2);
        y
    };
    compare("rope_backward", &x, turned, |d| {
        let mut d = d.clone();
        reference::rope_backward(&mut d, span, 5, &positions, &frequencies, 1.2);
        d
    });
}

#[test]
fn gradients_of_activations_are_derivatives() {
    let x = random(&mut Random::new(3), 5, 8) * 2.0;
    for kind in [Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
        for gated in [false, true] {
            compare(
                &format!("activation_backward {kind:?}, gated {gated}"),
                &x,
                |x| reference::activation(kind, gated, x),
                |d| reference::activation_backward(kind, gated, &x, d),
            );
        }
    }
}

#[test]
fn gradients_of_linear_layers_are_derivatives() {
    let mut numbers = Random::new(4);
    let (x, w) = (random(&mut numbers, 4, 6), random(&mut numbers, 3, 6));
    let bias = random(&mut numbers, 1, 3);
    compare(
        "linear_backward",
        &x,
        |x| reference::linear(x, &w, Some(bias.as_slice())),
        |d| reference::linear_backward(d, &w),
    );
    compare(
        "linear_weight_backward",
        &w,
        |w| reference::linear(&x, w, None),
        |d| reference::linear_weight_backward(d, &x),
    );
    compare(
        "column_sums, bias of a linear layer",
        &bias,
        |bias| reference::linear(&x, &w, Some(bias.as_slice())),
        |d| reference::column_sums(d, None),
    );
}

#[test]
fn gradients_of_attention_are_derivatives() {
    for (heads, kv_heads, window) in [(2, 2, None), (4, 2, None), (3, 1, Some(3)), (2, 1, Some(1))] {
        let h = 3;
        let span = |column, heads| HeadSpan { column, heads };
        let shape = AttentionShape {
            head_dim: h,
            q: span(0, heads),
            k: span(heads * h, kv_heads),
            v: span((heads + kv_heads) * h, kv_heads),
            scale: 0.7,
            window,
            ..AttentionShape::default()
        };
        let qkv = random(&mut Random::new(5), 9, (heads + 2 * kv_heads) * h);
        let sequences = sequences([5, 1, 3]);
        for (shape, what) in [(shape, "plain")].into_iter().chain(scores(shape)) {
            compare(
                &format!("attention_backward, {heads} heads, {kv_heads} key-value heads, window {window:?}, {what}"),
                &qkv,
                |qkv| reference::attention(&shape, qkv, qkv, &sequences),
                |d| reference::attention_backward(&shape, &qkv, d, &sequences),
            );
        }
        let sinks: Vec<f64> = random(&mut Random::new(12), 1, heads).iter().copied().collect();
        compare(
            &format!("attention_backward, {heads} heads, {kv_heads} key-value heads, window {window:?}, sinks"),
            &qkv,
            |qkv| reference::attention_with_sinks(&shape, &sinks, qkv, qkv, &sequences),
            |d| reference::attention_backward_with_sinks(&shape, &sinks, &qkv, d, &sequences),
        );
    }
}

#[test]
fn gradients_of_bounds_are_derivatives() {
    let x = random(&mut Random::new(8), 4, 7) * 2.0;
    for kind in [Bound::Clip, Bound::SoftCap] {
        let y = reference::bound(kind, &x, 0.9);
        compare(
            &format!("bound_backward {kind:?}"),
            &x,
            |x| reference::bound(kind, x, 0.9),
            |d| reference::bound_backward(kind, &y, 0.9, d),
        );
    }
}

#[test]
fn gradients_of_the_ends_are_derivatives() {
    let mut numbers = Random::new(6);
    let table = random(&mut numbers, 6, 4);
    let ids = [3, 0, 3, 5, 3];
    compare(
        "embed_backward",
        &table,
        |table| reference::embed(&ids, table),
        |d| reference::embed_backward(&ids, d, table.nrows()),
    );
    let (p, q) = (random(&mut numbers, 4, 7), random(&mut numbers, 4, 7));
    let targets = [6, 0, 3, 3];
    let losses = |q: &DMatrix<f64>| DMatrix::from_row_slice(1, 1, &[reference::loss(q, &targets).iter().sum()]);
    compare("loss_backward", &q, losses, |d| reference::loss_backward(&q, &targets, d[(0, 0)]));
    let divergences = |q: &DMatrix<f64>| {
        let each = reference::divergence(&p, q, &targets);
        DMatrix::from_row_slice(1, 1, &[each.iter().map(|one| one.kl).sum()])
    };
    compare("divergence_backward", &q, divergences, |d| reference::divergence_backward(&p, &q, d[(0, 0)]));
}

#[test]
fn gradients_of_gated_delta_nets_are_derivatives() {
    let mut numbers = Random::new(7);
    let (x, y) = (random(&mut numbers, 4, 7) * 2.0, random(&mut numbers, 4, 3));
    for kind in [Gate::Sigmoid, Gate::Silu] {
        let backward = |d: &DMatrix<f64>| reference::gate_backward(kind, &y, &x, 2, d);
        compare(&format!("gate_backward {kind:?}"), &y, |y| reference::gate(kind, y, &x, 2), |d| backward(d).0);
        let gates = x.columns(2, 3).into_owned();
        let by_gates = |gates: &DMatrix<f64>| reference::gate(kind, &y, gates, 0);
        compare(&format!("gate_backward {kind:?}, the gate"), &gates, by_gates, |d| backward(d).1);
    }
    let parameters = random(&mut numbers, 2, 2).map(f64::exp);
    compare(
        "delta_gates_backward",
        &x,
        |x| reference::delta_gates(x, 1, 4, &parameters).map(f64::ln),
        |d| reference::delta_gates_backward(&x, [1, 4], &parameters, d),
    );
    for (taps, lengths) in [(1, vec![4]), (3, vec![2, 7, 1]), (8, vec![5, 3])] {
        let tokens: usize = lengths.iter().sum();
        let (x, weight) = (random(&mut numbers, tokens, 3), random(&mut numbers, taps, 3));
        let of = |tokens: usize| (1..=tokens as u32).collect::<Vec<_>>();
        let seen = lengths.iter().flat_map(|&tokens| of(tokens));
        let places: Vec<[u32; 2]> = seen.enumerate().map(|(row, seen)| [row as u32, seen]).collect();
        compare(
            &format!("short_conv_backward, {taps} taps"),
            &x,
            |x| reference::short_conv(x, &weight, &places),
            |d| reference::short_conv_backward(&x, &weight, &lengths, d),
        );
    }
    let run = |first, tokens, state| DeltaRun { first, tokens, state, begins: true };
    let runs = [run(0, 6, 0), run(6, 1, 1), run(7, 4, 0)];
    for (key_heads, value_heads, key_dim, value_dim) in [(1, 1, 1, 1), (2, 2, 3, 2), (1, 3, 2, 4), (2, 4, 4, 3)] {
        let shape = DeltaShape { key_heads, value_heads, key_dim, value_dim };
        let qkv = random(&mut numbers, 11, shape.qkv_width());
        let logarithms = -random(&mut numbers, 11, 2 * value_heads).abs();
        let rule = |qkv: &DMatrix<f64>, logarithms: &DMatrix<f64>| {
            let mut states = DMatrix::zeros(2 * shape.state_rows(), value_dim);
            reference::delta_rule(&shape, qkv, &logarithms.map(f64::exp), &mut states, &runs)
        };
        let backward =
            |d: &DMatrix<f64>| reference::delta_rule_backward(&shape, &qkv, &logarithms.map(f64::exp), d, &runs);
        compare(&format!("delta_rule_backward {shape:?}"), &qkv, |qkv| rule(qkv, &logarithms), |d| backward(d).0);
        let by_gates = |logarithms: &DMatrix<f64>| rule(&qkv, logarithms);
        compare(&format!("delta_rule_backward {shape:?}, gates"), &logarithms, by_gates, |d| backward(d).1);
    }
}

#[test]
fn gradients_of_routes_and_of_clamped_gates_are_derivatives() {
    let mut numbers = Random::new(7);
    for (experts, chosen) in [(1, 1), (6, 2), (6, 1), (5, 5)] {
        for normalised in [false, true] {
            let logits = random(&mut numbers, 4, experts);
            compare(
                &format!("route_backward {chosen} of {experts}, normalised {normalised}"),
                &logits,
                |logits| {
                    let routes = reference::route(logits, chosen, normalised);
                    DMatrix::from_fn(4, chosen, |token, at| routes[token][at].1)
                },
                |d| {
                    let d: Vec<Vec<f64>> = d.row_iter().map(|row| row.iter().copied().collect()).collect();
                    reference::route_backward(&logits, chosen, normalised, &d)
                },
            );
        }
    }
    let both = random(&mut numbers, 5, 14) * 2.0;
    let kind = ClampedSwiglu { alpha: 1.702, limit: 1.5 };
    compare(
        "clamped_swiglu_backward",
        &both,
        |both| reference::clamped_swiglu(kind, both),
        |d| reference::clamped_swiglu_backward(kind, &both, d),
    );
    let a = random(&mut numbers, 3, 4);
    let gates = DMatrix::from_element(3, 1, 0.5);
    compare(
        "row_products",
        &gates,
        |gates| DMatrix::from_fn(3, 4, |i, j| gates[i] * a[(i, j)]),
        |d| DMatrix::from_vec(3, 1, reference::row_products(d, &a)),
    );
}
