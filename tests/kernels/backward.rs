//! The gradients of all kernels, each against its f64 twin.

use nalgebra::DMatrix;
use slicegpt_gpu::{
    gpu::{ElementType, Gpu},
    model::{Rope, Scaling},
    ops::{Activation, AttentionShape, Bound, HeadSpan, Norm, NormInput, ProductConfig, sequences},
    reference,
};

use crate::{
    attention::{scores, side_by_side},
    check, download, error,
    products::stored,
    support::{self, ROUNDOFF, Random, wide},
    upload,
};

/// Two reductions, each of chains of width / 64 sums and six more between threads, and about 30 roundings of products,
/// a root and differences. Errors are on the scale of what the largest gradient is multiplied by.
fn norm_tolerance(width: usize) -> f64 {
    (30.0 + width as f64 / 32.0) * ROUNDOFF
}

#[test]
fn gradients_of_norms_match_reference_at_awkward_widths_and_scales() {
    let gpu = support::gpu_unlimited();
    for (tokens, width, norm_width, scale, reason) in [
        (1, 1, 1, 1.0, "the smallest"),
        (3, 2, 5, 1.0, "fewer than a vec4, sliced"),
        (9, 63, 63, 1e4, "below the workgroup, huge tokens"),
        (5, 65, 65, 1e-4, "above the workgroup, tokens of the size of eps"),
        (5, 67, 131, 1.0, "sliced to about half"),
        (4, 1001, 1001, 1.0, "far from a multiple, a workgroup a token"),
    ] {
        let mut random = Random::new(width as u64);
        let values: Vec<f32> = random.values(tokens * width, 1.0).iter().map(|value| scale * (value + 0.5)).collect();
        let (d, weight) = (random.values(tokens * width, 1.0), random.values(width, 1.0));
        let before = random.values(tokens * width, 1.0 / scale);
        let (x, gpu_d) = (upload(&gpu, &values, tokens, width), upload(&gpu, &d, tokens, width));
        let [twin, d, before_twin] = [&values, &d, &before].map(|one| reference::matrix(tokens, width, one));
        for kind in [Norm::Rms, Norm::Layer].into_iter().filter(|kind| *kind == Norm::Rms || width == norm_width) {
            for (parameters, accumulate) in [(false, false), (true, true)] {
                let gpu_weight = parameters.then(|| upload(&gpu, &weight, 1, width));
                let dx = upload(&gpu, &before, tokens, width);
                let input = NormInput { kind, x: &x, weight: gpu_weight.as_ref(), norm_width, eps: 1e-5 };
                gpu.norm_backward(input, &gpu_d, &dx, accumulate).expect("norm_backward");
                let weight = wide(&weight);
                let eps = f64::from(1e-5f32);
                let weight = parameters.then_some(&*weight);
                let gradient = reference::norm_backward(kind, &twin, weight, &d, norm_width, eps);
                let expected = if accumulate { &gradient + &before_twin } else { gradient };
                // What cancels in a layer norm of one value is of the size of the gradient times the factor.
                let factors = twin.row_iter().map(|row| 1.0 / (row.norm_squared() / norm_width as f64 + eps).sqrt());
                let factors: Vec<f64> = factors.collect();
                let most = d.amax() * weight.map_or(1.0, |w| w.iter().fold(0.0f64, |most, w| most.max(w.abs())));
                let scale = |t: usize, i: usize| {
                    let layer = if kind == Norm::Layer && width == 1 { eps.sqrt().recip() } else { 4.0 * factors[t] };
                    most * layer + if accumulate { before_twin[(t, i)].abs() } else { 0.0 }
                };
                check(
                    &format!(
                        "norm_backward {kind:?} [{tokens}, {width}] of {norm_width} times {scale}, parameters \
                         {parameters} ({reason})",
                        scale = values[0]
                    ),
                    error(&download(&gpu, &dx), &expected, scale),
                    norm_tolerance(width),
                );
            }
        }
    }
    let x = gpu.zeros(2, 8).expect("zeros");
    let input = NormInput { kind: Norm::Layer, x: &x, weight: None, norm_width: 9, eps: 1e-5 };
    assert!(gpu.norm_backward(input, &x, &gpu.zeros(2, 8).expect("zeros"), false).is_err(), "a sliced layer norm");
}

#[test]
fn gradients_of_head_norms_and_rope_match_reference_and_leave_the_rest_alone() {
    let gpu = support::gpu_unlimited();
    let (tokens, width) = (5, 800);
    for (head_dim, column, heads, reason) in
        [(6, 1, 5, "small heads"), (65, 3, 7, "above the workgroup, at an odd place"), (256, 0, 3, "large heads")]
    {
        let span = HeadSpan { column, heads };
        let inside = |column: usize| (span.column..span.end(head_dim)).contains(&column);
        let mut random = Random::new(head_dim as u64);
        let (values, d) = (random.values(tokens * width, 3.0), random.values(tokens * width, 1.0));
        let weight = random.values(head_dim, 1.0);
        let x = upload(&gpu, &values, tokens, width);
        for kind in [Norm::Rms, Norm::Layer] {
            let gpu_d = upload(&gpu, &d, tokens, width);
            let gpu_weight = upload(&gpu, &weight, 1, head_dim);
            gpu.head_norm_backward_in_place(kind, &x, span, &gpu_weight, 1e-5, &gpu_d).expect("head_norm_backward");
            let mut expected = reference::matrix(tokens, width, &d);
            let twin = reference::matrix(tokens, width, &values);
            reference::head_norm_backward(kind, &twin, span, &wide(&weight), f64::from(1e-5f32), &mut expected);
            let error = error(&download(&gpu, &gpu_d), &expected, |_, column| if inside(column) { 4.0 } else { 0.0 });
            check(&format!("head_norm_backward {kind:?} of {head_dim} ({reason})"), error, norm_tolerance(head_dim));
        }
        let pairs = head_dim / 2 - 1;
        let rope = Rope {
            inverse_frequencies: (0..pairs).map(|pair| 10000f32.powf(-(pair as f32) / pairs as f32)).collect(),
            attention_factor: 1.2,
            theta: 10000.0,
            scaling: Scaling::None,
            dynamic: false,
            long: None,
        };
        let positions = [0, 1, 63, 2000, 17];
        let table = upload(&gpu, &rope.table(2001), 2001, 2 * pairs);
        let gpu_d = upload(&gpu, &d, tokens, width);
        let gpu_positions = gpu.upload_u32(&positions).expect("positions");
        gpu.rope_backward_in_place(&gpu_d, span, head_dim, &gpu_positions, &table).expect("rope_backward");
        let mut expected = reference::matrix(tokens, width, &d);
        let factor = f64::from(rope.attention_factor);
        reference::rope_backward(&mut expected, span, head_dim, &positions, &rope.inverse_frequencies, factor);
        let most = 2.0 * expected.amax();
        let turned = |column: usize| inside(column) && (column - span.column) % head_dim < 2 * pairs;
        let error = error(&download(&gpu, &gpu_d), &expected, |_, column| if turned(column) { most } else { 0.0 });
        check(&format!("rope_backward {pairs} pairs of {head_dim} ({reason})"), error, 3.0 * ROUNDOFF);
    }
}

#[test]
fn gradients_of_activations_match_reference_plain_and_gated() {
    let gpu = support::gpu_unlimited();
    let (tokens, width) = (7, 45);
    for scale in [0.01, 1.0, 10.0, 1e20] {
        let mut random = Random::new(3);
        let gate = random.values(tokens * width, scale);
        let both: Vec<f32> =
            gate.chunks(width).flat_map(|row| [row.to_vec(), random.values(width, 2.0)].concat()).collect();
        let d = random.values(tokens * width, 1.0);
        let gpu_d = upload(&gpu, &d, tokens, width);
        let d = reference::matrix(tokens, width, &d);
        for kind in [Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
            for gated in [false, true] {
                let (values, cols) = if gated { (&both, 2 * width) } else { (&gate, width) };
                let x = reference::matrix(tokens, cols, values);
                let dx = gpu.activation_backward(kind, gated, &upload(&gpu, values, tokens, cols), &gpu_d);
                let expected = reference::activation_backward(kind, gated, &x, &d);
                // As of the activation itself: erf is good to 1.5e-7, of which a derivative has half; exp to (3 + 2|x|)
                // ulps, of which what it is multiplied by leaves less than 8 roundings.
                let error = error(&download(&gpu, &dx.expect("activation_backward")), &expected, |t, i| {
                    let other = if gated { x[(t, (i + width) % cols)].abs() } else { 1.0 };
                    d[(t, i % width)].abs() * other
                });
                let tolerance = 1.5e-7 + 8.0 * ROUNDOFF;
                check(&format!("activation_backward {kind:?} around {scale}, gated {gated}"), error, tolerance);
            }
        }
    }
    let (x, d) = (gpu.zeros(2, 7).expect("zeros"), gpu.zeros(2, 4).expect("zeros"));
    assert!(gpu.activation_backward(Activation::Silu, true, &x, &d).is_err());
}

#[test]
fn gradients_of_linear_layers_match_reference_for_every_stored_type() {
    let (whole, split) = (support::gpu_unlimited(), support::gpu_with(Some(1 << 16)));
    for (tokens, rows, width, column, gpu, reason) in [
        (1, 1, 1, 0, &whole, "the smallest"),
        (5, 7, 130, 3, &whole, "columns that begin at no multiple of four"),
        (66, 65, 17, 4, &whole, "above a tile, columns that begin inside"),
        (70, 600, 33, 0, &whole, "more rows of the weight than one dispatch takes"),
        (130, 200, 140, 8, &split, "a weight in parts, on the device with small bindings"),
    ] {
        for element in [ElementType::F32, ElementType::F16, ElementType::Bf16] {
            let mut random = Random::new((tokens * 1000 + width) as u64);
            let cols = column + rows + 5;
            let (gpu_w, w) = stored(gpu, &random.values(rows * width, 0.3), rows, width, element);
            let (d, before) = (random.values(tokens * cols, 1.0), random.values(tokens * width, 1.0));
            let (gpu_d, dx) = (upload(gpu, &d, tokens, cols), upload(gpu, &before, tokens, width));
            let columns = column..column + rows;
            gpu.linear_backward(&gpu_d, columns.clone(), &gpu_w, &dx, true).expect("linear_backward");
            let d = reference::matrix(tokens, cols, &d).columns(column, rows).into_owned();
            let before = reference::matrix(tokens, width, &before);
            let magnitudes = reference::linear_backward(&d.abs(), &w.abs()) + before.abs();
            let error =
                error(&download(gpu, &dx), &(reference::linear_backward(&d, &w) + before), |i, j| magnitudes[(i, j)]);
            let what = format!("linear_backward [{tokens}, {rows}, {width}] {element:?} ({reason})");
            check(&what, error, 4.0 * ((rows + 2) as f64).sqrt() * ROUNDOFF);
        }
    }
    let zeros = |rows, cols| whole.zeros(rows, cols).expect("zeros");
    assert!(whole.linear_backward(&zeros(3, 8), 0..9, &zeros(9, 4), &zeros(3, 4), false).is_err());
    assert!(whole.linear_backward(&zeros(3, 8), 0..8, &zeros(7, 4), &zeros(3, 4), false).is_err());
}

#[test]
fn gradients_of_weights_and_biases_match_reference_over_any_number_of_tokens() {
    let gpu = support::gpu_unlimited();
    for (tokens, cols, columns, width, reason) in [
        (1, 1, 0..1, 1, "the smallest"),
        (65, 70, 3..66, 9, "above a chunk, columns that begin at no multiple of four"),
        (2100, 9, 4..9, 6, "more tokens than one sum takes"),
    ] {
        let mut random = Random::new(tokens as u64);
        let (d, x) = (random.values(tokens * cols, 1.0), random.values(tokens * width, 1.0));
        let (gpu_d, gpu_x) = (upload(&gpu, &d, tokens, cols), upload(&gpu, &x, tokens, width));
        let found = gpu.linear_weight_backward(&gpu_d, columns.clone(), &gpu_x).expect("linear_weight_backward");
        let d = reference::matrix(tokens, cols, &d).columns_range(columns.clone()).into_owned();
        let x = reference::matrix(tokens, width, &x);
        let magnitudes = reference::linear_weight_backward(&d.abs(), &x.abs());
        let tolerance = 4.0 * (66f64.sqrt() + 34f64.sqrt()) * ROUNDOFF;
        let error_of_weight =
            error(&download(&gpu, &found), &reference::linear_weight_backward(&d, &x), |i, j| magnitudes[(i, j)]);
        check(&format!("linear_weight_backward [{tokens}, {cols}] ({reason})"), error_of_weight, tolerance);

        let sums = upload(&gpu, &vec![1.0; columns.len()], 1, columns.len());
        gpu.column_sums(&gpu_d, None, columns.clone(), &sums, true).expect("column_sums");
        let expected = reference::column_sums(&d, None).add_scalar(1.0);
        let magnitudes = reference::column_sums(&d.abs(), None).add_scalar(1.0);
        let of_bias = error(&download(&gpu, &sums), &expected, |i, j| magnitudes[(i, j)]);
        check(&format!("column_sums [{tokens}, {cols}] ({reason})"), of_bias, tolerance);
        gpu.column_sums(&gpu_d, Some(&gpu_d), columns, &sums, false).expect("column_sums");
        let expected = reference::column_sums(&d, Some(&d));
        let of_products = error(&download(&gpu, &sums), &expected, |i, j| expected[(i, j)]);
        check(&format!("column_sums of squares [{tokens}, {cols}] ({reason})"), of_products, tolerance);
    }
    let x = gpu.zeros(3, 8).expect("zeros");
    assert!(gpu.column_sums(&x, None, 2..9, &gpu.zeros(1, 7).expect("zeros"), false).is_err());
}

fn attention(gpu: &Gpu, shape: &AttentionShape, cols: usize, lengths: &[usize], reason: &str) {
    attention_with_sinks(gpu, (shape, &[]), cols, lengths, reason);
}

fn attention_with_sinks(
    gpu: &Gpu,
    (shape, sinks): (&AttentionShape, &[f32]),
    cols: usize,
    lengths: &[usize],
    reason: &str,
) {
    let tokens = lengths.iter().sum();
    let (mut random, width) = (Random::new((tokens * 1000 + cols) as u64), shape.q.heads * shape.head_dim);
    let (qkv, d) = (random.values(tokens * cols, 1.5), random.values(tokens * width, 1.0));
    let (gpu_qkv, gpu_d) = (upload(gpu, &qkv, tokens, cols), upload(gpu, &d, tokens, width));
    let [qkv, d] = [reference::matrix(tokens, cols, &qkv), reference::matrix(tokens, width, &d)];
    let sequences = sequences(lengths.iter().copied());
    // As of attention itself: what a share is off by comes from its score and two exponentials.
    let tolerance = 2.0 * (shape.head_dim as f64 + 96.0) * ROUNDOFF;
    let expected = reference::attention_backward_with_sinks(shape, &wide(sinks), &qkv, &d, &sequences);
    let most = expected.amax().max(1.0);
    let dqkv = gpu.zeros(tokens, cols).expect("zeros");
    gpu.attention_backward_into((shape, sinks), &gpu_qkv, &gpu_d, &sequences, &dqkv).expect("attention_backward");
    let off = error(&download(gpu, &dqkv), &expected, |_, _| most);
    check(&format!("attention_backward {shape:?}, {} sequences ({reason})", lengths.len()), off, tolerance);
}

#[test]
fn gradients_of_attention_match_reference_for_every_kind_of_heads_and_windows() {
    let gpu = support::gpu_unlimited();
    for (head_dim, heads, kv_heads, window, lengths, reason) in [
        (6, 4, 4, None, &[1][..], "one token"),
        (6, 4, 4, None, &[33, 1, 17], "each head its own keys; sequences of any length"),
        (64, 8, 2, None, &[64, 63], "groups of four; two blocks, and one token less"),
        (80, 3, 3, None, &[65], "one token more than two blocks"),
        (10, 6, 2, None, &[40], "heads that begin at no multiple of four"),
        (128, 4, 1, None, &[70], "one key-value head"),
        (256, 2, 1, None, &[66], "the largest head"),
        (128, 128, 1, None, &[96], "more turns for all heads of a group than a software driver takes"),
        (1, 2, 1, None, &[12], "the smallest head"),
        (6, 4, 2, Some(1), &[12], "a window of the token itself"),
        (6, 4, 2, Some(7), &[40, 5, 7, 8], "windows shorter, equal to and longer than sequences"),
        (16, 2, 2, Some(32), &[200], "a window as long as a block, across blocks"),
        (6, 12, 1, Some(70), &[150], "a window longer than two blocks, groups of twelve"),
        (4, 128, 1, None, &[260], "several blocks of queries"),
        (4, 128, 2, Some(70), &[300], "several blocks of queries, whose keys begin later and later"),
        (1, 512, 512, None, &[131], "not all key-value heads at a time"),
    ] {
        let shape = side_by_side(head_dim, heads, kv_heads, window);
        attention(&gpu, &shape, (heads + 2 * kv_heads) * head_dim, lengths, reason);
    }
    for (heads, kv_heads, window, lengths) in [(6, 2, None, &[40, 5][..]), (12, 1, Some(7), &[33])] {
        for (shape, what) in scores(side_by_side(10, heads, kv_heads, window)) {
            attention(&gpu, &shape, (heads + 2 * kv_heads) * 10, lengths, what);
        }
    }
    let span = |column| HeadSpan { column, heads: 4 };
    let shape =
        AttentionShape { head_dim: 10, q: span(83), k: span(0), v: span(41), scale: 0.3, ..AttentionShape::default() };
    attention(&gpu, &shape, 125, &[20, 30], "values before queries, gaps between them");
}

#[test]
fn gradients_of_attention_with_sinks_match_reference() {
    let gpu = support::gpu_unlimited();
    for (head_dim, heads, kv_heads, window, lengths, reason) in [
        (1, 2, 1, None, &[1][..], "one token of the smallest heads"),
        (6, 4, 2, None, &[33, 1, 17], "groups of two; sequences of any length"),
        (6, 12, 1, Some(70), &[150], "a window longer than two blocks, groups of twelve"),
        (1, 512, 512, None, &[131], "not all key-value heads at a time"),
    ] {
        let mut sinks = Random::new(heads as u64).values(heads, 2.0);
        // Such that there is nothing left for keys, and one that counts nothing.
        for (sink, extreme) in sinks.iter_mut().rev().zip([60.0, -1e4]) {
            *sink = extreme;
        }
        let shape = side_by_side(head_dim, heads, kv_heads, window);
        attention_with_sinks(&gpu, (&shape, &sinks), (heads + 2 * kv_heads) * head_dim, lengths, reason);
    }
    let (shape, x) = (side_by_side(4, 2, 2, None), gpu.zeros(3, 24).expect("zeros"));
    let d = gpu.zeros(3, 8).expect("zeros");
    let refused = gpu.attention_backward_into((&shape, &[1.0; 3]), &x, &d, &sequences([3]), &x);
    assert!(refused.is_err(), "another number of sinks");
}

#[test]
fn bounds_and_their_gradients_match_reference_at_awkward_widths_and_limits() {
    let gpu = support::gpu_unlimited();
    for (tokens, width, limit, reason) in [
        (1, 1, 1.0, "the smallest"),
        (3, 67, 0.3, "padded rows, most values beyond the limit"),
        (70, 64, 50.0, "many workgroups, all values far within the limit"),
        (2, 5, 1e-3, "values a thousand times the limit"),
    ] {
        let mut random = Random::new(width as u64);
        let (x, d) = (random.values(tokens * width, 2.0), random.values(tokens * width, 1.0));
        for kind in [Bound::Clip, Bound::SoftCap] {
            let (y, gpu_d) = (upload(&gpu, &x, tokens, width), upload(&gpu, &d, tokens, width));
            gpu.bound_in_place(kind, &y, limit).expect("bound");
            let x = reference::matrix(tokens, width, &x);
            let expected = reference::bound(kind, &x, f64::from(limit));
            // A quotient, a series or an exponential and a quotient, and a product.
            let off = error(&download(&gpu, &y), &expected, |t, i| expected[(t, i)].abs().max(f64::from(limit) * 0.1));
            check(&format!("bound {kind:?} [{tokens}, {width}] ({reason})"), off, 12.0 * ROUNDOFF);
            gpu.bound_backward_in_place(kind, &y, limit, &gpu_d).expect("bound_backward");
            let y = download(&gpu, &y);
            let expected = reference::bound_backward(kind, &y, f64::from(limit), &reference::matrix(tokens, width, &d));
            let off = error(&download(&gpu, &gpu_d), &expected, |t, i| f64::from(d[t * width + i]).abs());
            check(&format!("bound_backward {kind:?} [{tokens}, {width}] ({reason})"), off, 6.0 * ROUNDOFF);
        }
    }
    let (y, d) = (gpu.zeros(2, 3).expect("zeros"), gpu.zeros(2, 4).expect("zeros"));
    assert!(gpu.bound_backward_in_place(Bound::Clip, &y, 1.0, &d).is_err());
}

#[test]
fn gradients_of_attention_are_the_same_in_every_configuration() {
    let gpu = support::gpu_unlimited();
    for (head_dim, heads, kv_heads, window, tokens) in [(10, 4, 2, None, 71), (64, 2, 1, Some(33), 150)] {
        let shape = side_by_side(head_dim, heads, kv_heads, window);
        let (cols, width) = ((heads + 2 * kv_heads) * head_dim, heads * head_dim);
        let mut random = Random::new(head_dim as u64);
        let (qkv, d) = (random.values(tokens * cols, 1.5), random.values(tokens * width, 1.0));
        let (qkv, d) = (upload(&gpu, &qkv, tokens, cols), upload(&gpu, &d, tokens, width));
        let run = |config| {
            let dqkv = gpu.with_products(config, || gpu.attention_backward(&shape, &qkv, &d, &sequences([tokens])));
            gpu.download(&dqkv.expect("attention_backward")).expect("a result")
        };
        let mut all = ProductConfig::all(&gpu);
        let first = run(all.next().expect("a configuration"));
        for config in all {
            assert!(run(config) == first, "{config} {shape:?}");
        }
    }
}

#[test]
fn gradients_of_attention_want_whole_sequences_beside_their_keys() {
    let gpu = support::gpu_unlimited();
    let shape = side_by_side(8, 2, 1, None);
    let (qkv, out) = (gpu.zeros(6, 32).expect("zeros"), gpu.zeros(6, 16).expect("zeros"));
    let mut later = sequences([6]);
    later[0].position = 2;
    assert!(gpu.attention_backward(&shape, &qkv, &out, &later).is_err());
    assert!(gpu.attention_backward(&shape, &qkv, &out, &sequences([7])).is_err());
    assert!(gpu.attention_backward(&shape, &qkv, &qkv, &sequences([6])).is_err());
}

#[test]
fn gradients_of_embeddings_match_reference_whatever_the_part_and_how_often_an_entry_is_used() {
    let gpu = support::gpu_unlimited();
    for (tokens, vocab, width, reason) in [
        (1, 1, 1, "the smallest"),
        (200, 3, 5, "many tokens of few entries"),
        (70, 300, 259, "rows of more than a workgroup"),
    ] {
        let mut random = Random::new(tokens as u64);
        let d = random.values(tokens * width, 1.0);
        let ids: Vec<u32> = (0..tokens).map(|_| random.below(vocab as u32)).collect();
        let gpu_d = upload(&gpu, &d, tokens, width);
        let d = reference::matrix(tokens, width, &d);
        let expected = reference::embed_backward(&ids, &d, vocab);
        let magnitudes = reference::embed_backward(&ids, &d.abs(), vocab);
        let cut = vocab / 2;
        for (first, rows) in [(0, cut), (cut, vocab - cut)].into_iter().filter(|(_, rows)| *rows > 0) {
            let table = gpu.zeros(rows, width).expect("zeros");
            gpu.embed_backward(&ids, first, &gpu_d, &table).expect("embed_backward");
            let off = error(&download(&gpu, &table), &expected.rows(first, rows).into_owned(), |i, j| {
                magnitudes[(first + i, j)]
            });
            check(&format!("embed_backward [{tokens}, {width}] from {first} ({reason})"), off, 16.0 * ROUNDOFF);
        }
    }
    let d = gpu.zeros(3, 4).expect("zeros");
    assert!(gpu.embed_backward(&[0, 1], 0, &d, &gpu.zeros(2, 4).expect("zeros")).is_err());
}

#[test]
fn gradients_of_logits_match_reference_slice_by_slice() {
    let gpu = support::gpu_unlimited();
    for (widths, scale, reason) in
        [(&[1][..], 1.0, "one entry"), (&[64, 1], 20.0, "a slice of one entry"), (&[65, 300], 3.0, "odd slices")]
    {
        let (vocab, tokens): (usize, _) = (widths.iter().sum(), 9);
        let mut random = Random::new(vocab as u64);
        let [p, q] = [(); 2].map(|()| random.values(tokens * vocab, scale));
        let mut targets: Vec<u32> = (0..tokens).map(|_| random.below(vocab as u32)).collect();
        targets[3] = u32::MAX;
        let gpu_targets = gpu.upload_u32(&targets).expect("targets");
        let (state, both) = (gpu.loss_state(tokens).expect("state"), gpu.divergence_state(tokens).expect("state"));
        let slice = |values: &[f32], first: usize, width: usize| {
            let rows: Vec<f32> = values.chunks(vocab).flat_map(|row| row[first..first + width].to_vec()).collect();
            upload(&gpu, &rows, tokens, width)
        };
        let parts = || widths.iter().scan(0, |next, &width| Some((std::mem::replace(next, *next + width), width)));
        for (first, width) in parts() {
            gpu.loss(&slice(&q, first, width), first, &gpu_targets, &state).expect("loss");
            let (p, q) = (slice(&p, first, width), slice(&q, first, width));
            gpu.divergence(&p, &q, first, &gpu_targets, &both).expect("divergence");
        }
        let [p_twin, q_twin] = [&p, &q].map(|one| reference::matrix(tokens, vocab, one));
        let losses = reference::loss_backward(&q_twin, &targets, 0.25);
        let divergences = reference::divergence_backward(&p_twin, &q_twin, 0.25);
        // exp(−x) good to (3 + 2x) ulps has an error below 4, times what is left of it; sums of up to six a thread.
        let compare = |what: &str, found: DMatrix<f64>, expected: &DMatrix<f64>, first: usize| {
            let expected = expected.columns(first, found.ncols()).into_owned();
            check(&format!("{what} from {first} ({reason})"), error(&found, &expected, |_, _| 0.25), 16.0 * ROUNDOFF);
        };
        for (first, width) in parts() {
            let (p, q) = (slice(&p, first, width), slice(&q, first, width));
            let d = gpu.loss_backward(&q, first, &gpu_targets, &state, 0.25).expect("loss_backward");
            compare("loss_backward", download(&gpu, &d), &losses, first);
            let d = gpu.divergence_backward(&p, &q, &both, 0.25).expect("divergence_backward");
            compare("divergence_backward", download(&gpu, &d), &divergences, first);
        }
        let warm = gpu.divergence_state(tokens).expect("state");
        for (first, width) in parts() {
            let (p, q) = (slice(&p, first, width), slice(&q, first, width));
            gpu.divergence_at(&p, &q, first, &gpu_targets, &warm, 2.5).expect("divergence");
        }
        let [p_twin, q_twin] = [p_twin / 2.5, q_twin / 2.5];
        let divergences = reference::divergence_backward(&p_twin, &q_twin, 0.25);
        let expected = reference::divergence(&p_twin, &q_twin, &vec![0; tokens]);
        let found = gpu.divergences(&warm).expect("divergences");
        let pairs = found.iter().zip(&expected);
        let worst = support::worst(pairs.map(|(found, expected)| (found.kl - expected.kl).abs()));
        check(&format!("divergence at a temperature ({reason})"), worst, 64.0 * f64::from(scale) * ROUNDOFF);
        for (first, width) in parts() {
            let (p, q) = (slice(&p, first, width), slice(&q, first, width));
            let d = gpu.divergence_backward_at(&p, &q, &warm, 0.25, 2.5).expect("divergence_backward");
            compare("divergence_backward at a temperature", download(&gpu, &d), &divergences, first);
        }
        // Where some tokens do not count, they have neither a divergence nor a gradient, and the others what they had.
        let counted: Vec<bool> = (0..tokens).map(|token| token % 3 != 1).collect();
        let some = gpu.divergence_state_of(&counted).expect("state");
        for (first, width) in parts() {
            let (p, q) = (slice(&p, first, width), slice(&q, first, width));
            gpu.divergence_at(&p, &q, first, &gpu_targets, &some, 2.5).expect("divergence");
        }
        for ((found, all), counted) in gpu.divergences(&some).expect("divergences").iter().zip(&found).zip(&counted) {
            assert_eq!(found.kl, if *counted { all.kl } else { 0.0 }, "{reason}");
        }
        for (first, width) in parts() {
            let (p, q) = (slice(&p, first, width), slice(&q, first, width));
            let [some, all] = [&some, &warm].map(|state| {
                download(&gpu, &gpu.divergence_backward_at(&p, &q, state, 0.25, 2.5).expect("divergence_backward"))
            });
            let expected = DMatrix::from_fn(tokens, width, |t, i| if counted[t] { all[(t, i)] } else { 0.0 });
            assert!(
                some == expected,
                "{reason}: gradients of tokens that do not count, or other ones of those that do"
            );
        }
    }
    let (logits, targets) = (gpu.zeros(3, 4).expect("zeros"), gpu.upload_u32(&[0; 3]).expect("targets"));
    let state = gpu.loss_state(2).expect("state");
    assert!(gpu.loss_backward(&logits, 0, &targets, &state, 1.0).is_err());
    assert!(gpu.divergence_backward(&logits, &logits, &state, 1.0).is_err());
}
