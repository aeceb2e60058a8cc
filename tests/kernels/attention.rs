//! attention: grouped heads, windows, ragged batches, decoding.

use slicegpt_gpu::{
    gpu::Gpu,
    ops::{Alibi, AttentionShape, HeadSpan, Sequence, sequences},
    reference,
};

use crate::{
    check, download, error,
    support::{self, ROUNDOFF, Random},
    upload,
};

/// Queries, keys and values side by side, as one projection leaves them.
pub fn side_by_side(head_dim: usize, heads: usize, kv_heads: usize, window: Option<usize>) -> AttentionShape {
    let span = |column, heads| HeadSpan { column, heads };
    AttentionShape {
        head_dim,
        q: span(0, heads),
        k: span(heads * head_dim, kv_heads),
        v: span((heads + kv_heads) * head_dim, kv_heads),
        scale: 1.0 / (head_dim as f32).sqrt(),
        window,
        ..AttentionShape::default()
    }
}

/// What may become of scores: a soft-cap that bites, linear biases of few and of many heads, exact and in bf16.
pub fn scores(shape: AttentionShape) -> [(AttentionShape, &'static str); 4] {
    let heads = shape.q.heads;
    let alibi = Alibi { heads, factor: 1.0, in_bf16: false };
    [
        (AttentionShape { softcap: Some(0.8), ..shape }, "a soft-cap"),
        (AttentionShape { softcap: Some(200.0), ..shape }, "a soft-cap far beyond the scores"),
        (AttentionShape { alibi: Some(alibi), ..shape }, "linear biases"),
        (
            AttentionShape { alibi: Some(Alibi { factor: 0.4, in_bf16: true, ..alibi }), ..shape },
            "linear biases in bf16",
        ),
    ]
}

/// A score is a sum of head_dim products with magnitudes around √head_dim in all, after scaling; its error multiplies a
/// weight. Weights and their sum come out of exp and up to a hundred sums. All errors are on the scale of the largest
/// value.
fn tolerance(head_dim: usize) -> f64 {
    2.0 * (head_dim as f64 + 64.0) * ROUNDOFF
}

fn compare(
    gpu: &Gpu,
    shape: &AttentionShape,
    q_size: (usize, usize),
    kv: Option<(usize, usize)>,
    sequences: &[Sequence],
    reason: &str,
) {
    compare_with_sinks(gpu, (shape, &[]), q_size, kv, sequences, reason);
}

fn compare_with_sinks(
    gpu: &Gpu,
    (shape, sinks): (&AttentionShape, &[f32]),
    (q_rows, q_cols): (usize, usize),
    kv: Option<(usize, usize)>,
    sequences: &[Sequence],
    reason: &str,
) {
    let mut random = Random::new((q_rows * 1000 + q_cols) as u64);
    let q = random.values(q_rows * q_cols, 1.5);
    let gpu_q = upload(gpu, &q, q_rows, q_cols);
    let q = reference::matrix(q_rows, q_cols, &q);
    let (gpu_kv, kv) = match kv {
        None => (gpu_q.clone(), q.clone()),
        Some((rows, cols)) => {
            let values = random.values(rows * cols, 1.5);
            (upload(gpu, &values, rows, cols), reference::matrix(rows, cols, &values))
        }
    };
    let out = gpu.attention_with_sinks(shape, sinks, &gpu_q, &gpu_kv, sequences).expect("attention");
    let wide: Vec<f64> = sinks.iter().map(|&sink| f64::from(sink)).collect();
    let expected = reference::attention_with_sinks(shape, &wide, &q, &kv, sequences);
    let most = kv.amax();
    let error = error(&download(gpu, &out), &expected, |_, _| most);
    let what = format!("attention {shape:?}, {} sinks, {} sequences ({reason})", sinks.len(), sequences.len());
    check(&what, error, tolerance(shape.head_dim));
}

#[test]
fn attention_matches_reference_for_every_kind_of_heads_and_windows() {
    let gpu = support::gpu_unlimited();
    for (head_dim, heads, kv_heads, window, lengths, reason) in [
        (6, 4, 4, None, &[1][..], "one token"),
        (6, 4, 4, None, &[33, 1, 17], "each head its own keys; sequences of any length"),
        (80, 3, 3, None, &[65], "a head of more than the workgroup, one key more than a tile"),
        (64, 8, 2, None, &[64, 63], "groups of four; exactly a tile of keys"),
        (6, 6, 2, None, &[20, 9], "groups of three, which do not divide the eight queries of a workgroup"),
        (128, 4, 1, None, &[70], "one key-value head"),
        (6, 24, 2, None, &[19, 30], "groups of twelve, in two parts"),
        (256, 2, 1, None, &[66], "the largest head"),
        (1, 2, 1, None, &[12], "the smallest head"),
        (6, 4, 2, Some(1), &[12], "a window of the token itself"),
        (6, 4, 2, Some(7), &[40, 5, 7, 8], "windows shorter, equal to and longer than sequences"),
        (64, 2, 2, Some(64), &[200], "a window as long as a tile, across tiles"),
        (6, 12, 1, Some(70), &[150], "a window longer than a tile, groups of twelve"),
    ] {
        let shape = side_by_side(head_dim, heads, kv_heads, window);
        let size = (lengths.iter().sum(), (heads + 2 * kv_heads) * head_dim);
        compare(&gpu, &shape, size, None, &sequences(lengths.iter().copied()), reason);
    }
}

#[test]
fn attention_finds_heads_wherever_they_begin() {
    let gpu = support::gpu_unlimited();
    let span = |column| HeadSpan { column, heads: 4 };
    let shape =
        AttentionShape { head_dim: 10, q: span(83), k: span(0), v: span(41), scale: 0.3, ..AttentionShape::default() };
    compare(&gpu, &shape, (50, 125), None, &sequences([20, 30]), "values before queries, gaps between them");
}

#[test]
fn attention_of_new_tokens_reads_a_cache_at_their_positions() {
    let gpu = support::gpu_unlimited();
    for (heads, kv_heads, tokens, window, reason) in [
        (4, 4, 1, None, "decoding, each head its own keys"),
        (24, 2, 1, None, "decoding, groups of twelve"),
        (4, 1, 1, Some(5), "decoding with a window"),
        (8, 2, 3, None, "several tokens at once after a prefix"),
        (8, 8, 11, Some(20), "several tokens with a window that begins in the prefix"),
    ] {
        let head_dim = 20;
        let span = |column, heads| HeadSpan { column, heads };
        let shape = AttentionShape {
            head_dim,
            q: span(0, heads),
            k: span(0, kv_heads),
            v: span(kv_heads * head_dim, kv_heads),
            scale: 0.2,
            window,
            ..AttentionShape::default()
        };
        // Room for 100 positions a sequence; each is somewhere else.
        let sequences: Vec<Sequence> = [0, 64, 63, 40]
            .iter()
            .enumerate()
            .map(|(i, &position)| Sequence { first: i * tokens, tokens, kv_row: i * 100, position })
            .collect();
        let kv = Some((400, 2 * kv_heads * head_dim));
        compare(&gpu, &shape, (4 * tokens, heads * head_dim), kv, &sequences, reason);
        for (shape, what) in scores(shape) {
            compare(&gpu, &shape, (4 * tokens, heads * head_dim), kv, &sequences, &format!("{reason}, {what}"));
        }
    }
}

#[test]
fn attention_caps_scores_and_biases_them_by_distance() {
    let gpu = support::gpu_unlimited();
    for (head_dim, heads, kv_heads, window, lengths, reason) in [
        (6, 6, 2, None, &[20, 9, 41][..], "heads that are no power of two, tiles of keys"),
        (8, 16, 1, Some(7), &[40, 5], "more heads than eight, a window"),
        (130, 3, 3, None, &[33], "wide heads"),
        (6, 1, 1, None, &[12], "one head"),
    ] {
        let size = (lengths.iter().sum(), (heads + 2 * kv_heads) * head_dim);
        for (shape, what) in scores(side_by_side(head_dim, heads, kv_heads, window)) {
            compare(&gpu, &shape, size, None, &sequences(lengths.iter().copied()), &format!("{reason}, {what}"));
        }
    }
}

#[test]
fn attention_counts_the_sink_of_each_head_in_its_softmax() {
    let gpu = support::gpu_unlimited();
    for (head_dim, heads, kv_heads, window, lengths, reason) in [
        (6, 4, 4, None, &[1][..], "one token"),
        (6, 6, 2, None, &[20, 9, 41], "groups of three, tiles of keys"),
        (8, 24, 2, Some(7), &[40, 5], "groups of twelve, in two parts, with a window"),
        (130, 3, 3, None, &[33], "wide heads"),
        (64, 5, 1, Some(64), &[140], "a window across tiles, heads that fill no vector"),
    ] {
        let shape = side_by_side(head_dim, heads, kv_heads, window);
        let (rows, cols) = (lengths.iter().sum(), (heads + 2 * kv_heads) * head_dim);
        let mut sinks = Random::new(heads as u64).values(heads, 2.0);
        // One that leaves nothing, one that changes nothing, and the least there is.
        for (sink, extreme) in sinks.iter_mut().rev().zip([60.0, -1e4, f32::MIN]) {
            *sink = if heads > 4 { extreme } else { *sink };
        }
        let sequences = sequences(lengths.iter().copied());
        compare_with_sinks(&gpu, (&shape, &sinks), (rows, cols), None, &sequences, reason);
    }
    for (heads, kv_heads, tokens, window, reason) in [
        (4, 4, 1, None, "decoding, each head its own keys"),
        (24, 2, 1, Some(70), "decoding, groups of twelve, a window longer than a tile"),
        (3, 1, 1, Some(5), "decoding, a group that fills no vector, with a window"),
        (8, 2, 3, None, "several tokens at once after a prefix"),
    ] {
        let head_dim = 20;
        let span = |column, heads| HeadSpan { column, heads };
        let (k, v) = (span(0, kv_heads), span(kv_heads * head_dim, kv_heads));
        let shape = AttentionShape { k, v, ..side_by_side(head_dim, heads, kv_heads, window) };
        let place = |(i, &position): (usize, &usize)| Sequence { first: i * tokens, tokens, kv_row: i * 100, position };
        let sequences: Vec<Sequence> = [0, 64, 63, 90].iter().enumerate().map(place).collect();
        let sinks = Random::new(heads as u64).values(heads, 2.0);
        let kv = Some((400, 2 * kv_heads * head_dim));
        compare_with_sinks(&gpu, (&shape, &sinks), (4 * tokens, heads * head_dim), kv, &sequences, reason);
    }
}

#[test]
fn sinks_far_below_all_scores_change_no_bit_and_another_number_of_them_is_refused() {
    let gpu = support::gpu_unlimited();
    for (head_dim, lengths) in [(6, &[50, 3][..]), (130, &[33]), (6, &[1])] {
        let shape = side_by_side(head_dim, 4, 2, Some(40));
        let (rows, cols) = (lengths.iter().sum(), 8 * head_dim);
        let x = upload(&gpu, &Random::new(7).values(rows * cols, 1.5), rows, cols);
        let sequences = sequences(lengths.iter().copied());
        let with = |sinks: &[f32]| gpu.attention_with_sinks(&shape, sinks, &x, &x, &sequences);
        let plain = download(&gpu, &with(&[]).expect("attention"));
        assert_eq!(download(&gpu, &with(&[-1e4, -1e30, -2e30, f32::MIN]).expect("attention")), plain);
        assert!(with(&[0.0; 3]).is_err() && with(&[0.0; 5]).is_err());
    }
}

#[test]
fn slopes_are_those_of_the_paper() {
    assert_eq!(reference::slopes(8), (1..=8).map(|head| 0.5f64.powi(head)).collect::<Vec<_>>());
    let twelve = reference::slopes(12);
    assert_eq!(twelve[..8], reference::slopes(8)[..]);
    let halves: Vec<f64> = [1, 3, 5, 7].iter().map(|&half| 2f64.powf(-f64::from(half) / 2.0)).collect();
    assert!(twelve[8..].iter().zip(&halves).all(|(one, other)| (one - other).abs() < 1e-15), "{twelve:?}");
}

#[test]
fn attention_reaches_every_block_of_a_folded_grid() {
    let gpu = support::gpu_unlimited();
    let shape = side_by_side(1, 8, 1, None);
    compare(
        &gpu,
        &shape,
        (66_000, 10),
        None,
        &sequences(vec![2; 33_000]),
        "more blocks than one dimension has workgroups",
    );
}

#[test]
fn attention_survives_scores_far_from_zero() {
    let gpu = support::gpu_unlimited();
    let (tokens, head_dim) = (70, 8);
    let values: Vec<f32> = Random::new(5).values(tokens * 3 * head_dim, 30.0);
    let x = upload(&gpu, &values, tokens, 3 * head_dim);
    let shape = AttentionShape { scale: 1.0, ..side_by_side(head_dim, 1, 1, None) };
    let out = gpu.attention(&shape, &x, &x, &sequences([tokens])).expect("attention");
    let twin = reference::matrix(tokens, 3 * head_dim, &values);
    let expected = reference::attention(&shape, &twin, &twin, &sequences([tokens]));
    // Scores reach 900·√8·3, and are rounded on that scale before exp.
    let error = error(&download(&gpu, &out), &expected, |_, _| twin.amax());
    check("attention with scores of thousands", error, 8000.0 * 8.0 * ROUNDOFF);
}

#[test]
fn attention_is_right_up_to_the_longest_sequence_that_it_does_not_refuse() {
    let gpu = support::gpu_unlimited();
    for (head_dim, queries, reason) in
        [(128, 64, "narrow heads"), (64, 64, "narrower"), (256, 4, "wide ones"), (128, 1, "decoding")]
    {
        let shape = AttentionShape {
            head_dim,
            q: HeadSpan { column: 0, heads: 1 },
            k: HeadSpan { column: 0, heads: 1 },
            v: HeadSpan { column: head_dim, heads: 1 },
            scale: 1.0 / (head_dim as f32).sqrt(),
            ..AttentionShape::default()
        };
        let (mut random, most) = (Random::new(head_dim as u64), 65_536);
        let (q, kv) = (random.values(queries * head_dim, 1.0), random.values(most * 2 * head_dim, 1.0));
        let gpu_q = upload(&gpu, &q, queries, head_dim);
        let gpu_kv = upload(&gpu, &kv, most, 2 * head_dim);
        let run = |tokens: usize| {
            let last = Sequence { first: 0, tokens: queries, kv_row: 0, position: tokens - queries };
            gpu.attention(&shape, &gpu_q, &gpu_kv, &[last])
        };
        // As long as there is room, or as the message says.
        let tokens = match run(most) {
            Ok(_) => most,
            Err(error) => {
                let said = error.to_string();
                let limit = said.split("no more than ").nth(1).and_then(|rest| rest.split(',').next());
                limit.and_then(|limit| limit.parse().ok()).unwrap_or_else(|| panic!("{said}"))
            }
        };
        assert!(tokens >= 8192 && (tokens == most || run(tokens + 1).is_err()), "{reason}: only {tokens} tokens");
        let out = download(&gpu, &run(tokens).expect("attention"));
        let all = reference::matrix(most, 2 * head_dim, &kv);
        let q = reference::matrix(queries, head_dim, &q).rows(queries - 1, 1).into_owned();
        let [k, v] = [0, head_dim].map(|column| all.view((0, column), (tokens, head_dim)));
        let scores = (q * k.transpose()) * f64::from(shape.scale);
        let top = scores.max();
        let shares = scores.map(|score| (score - top).exp());
        let expected = &shares * v / shares.sum();
        let off = support::worst((0..head_dim).map(|i| (out[(queries - 1, i)] - expected[i]).abs()));
        // Means of so many values are small: of their own size, not that of the values.
        assert!(off < 1e-3 * expected.amax(), "{reason}, {tokens} tokens: off by {off:.1e} of {:.1e}", expected.amax());
    }
}

#[test]
fn attention_refuses_heads_and_sequences_outside_of_the_matrices() {
    let gpu = support::gpu_unlimited();
    let shape = side_by_side(4, 2, 2, None);
    let x = gpu.zeros(10, 24).expect("zeros");
    assert!(gpu.attention(&shape, &x, &x, &sequences([11])).is_err());
    assert!(gpu.attention(&shape, &gpu.zeros(10, 23).expect("zeros"), &x, &sequences([10])).is_ok());
    assert!(gpu.attention(&shape, &x, &gpu.zeros(10, 23).expect("zeros"), &sequences([10])).is_err());
    assert!(gpu.attention(&shape, &x, &x, &[Sequence { first: 0, tokens: 1, kv_row: 0, position: 10 }]).is_err());
}
