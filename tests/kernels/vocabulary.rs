//! loss, divergence and sample: what is done with logits that arrive in slices of the vocabulary.

use slicegpt_gpu::{
    gpu::Gpu,
    ops::{Divergence, SampleOptions},
    reference,
};

use crate::{
    check,
    support::{self, Random},
    upload,
};

/// Columns `first..first + width` of each row.
fn slice(values: &[f32], cols: usize, first: usize, width: usize) -> Vec<f32> {
    values.chunks(cols).flat_map(|row| row[first..first + width].to_vec()).collect()
}

fn losses(gpu: &Gpu, logits: &[f32], vocab: usize, targets: &[u32], widths: &[usize]) -> Vec<f64> {
    let tokens = targets.len();
    let state = gpu.loss_state(tokens).expect("a state");
    let targets = gpu.upload_u32(targets).expect("targets");
    let mut first = 0;
    for &width in widths {
        gpu.loss(&upload(gpu, &slice(logits, vocab, first, width), tokens, width), first, &targets, &state)
            .expect("loss");
        first += width;
    }
    assert_eq!(first, vocab);
    gpu.loss_values(&state).expect("losses")
}

#[test]
fn losses_match_reference_whatever_the_slices_and_the_size_of_the_logits() {
    let gpu = support::gpu_unlimited();
    for (widths, reason) in [
        (&[1][..], "one entry"),
        (&[63], "below the workgroup"),
        (&[64, 1], "a slice of one entry"),
        (&[64, 192, 65, 300], "several slices"),
        (&[5000], "many entries a thread"),
    ] {
        let vocab: usize = widths.iter().sum();
        let tokens = 9;
        for scale in [1.0, 27.0] {
            let mut random = Random::new(vocab as u64);
            let mut logits: Vec<f32> =
                random.values(tokens * vocab, scale).iter().map(|logit| logit.clamp(-80.0, 80.0)).collect();
            // The largest first, last, and all alike.
            logits[0] = 80.0;
            logits[2 * vocab - 1] = 80.0;
            logits[2 * vocab..3 * vocab].fill(-80.0);
            let targets: Vec<u32> = (0..tokens)
                .map(|token| if token < 2 { vocab as u32 - 1 } else { random.below(vocab as u32) })
                .collect();
            let expected = reference::loss(&reference::matrix(tokens, vocab, &logits), &targets);
            let found = losses(&gpu, &logits, vocab, &targets, widths);
            let worst = support::worst(found.iter().zip(&expected).map(|(a, b)| (a - b).abs()));
            // Maximum and target are exact; the sum has terms exp(−x) good to (3 + 2x) ulps, those with large x being
            // small, and rounds once every 64 entries: a relative error of 16 + vocabulary / 64 roundings, which the
            // logarithm makes an absolute one.
            let tolerance = (16.0 + vocab as f64 / 64.0) * support::ROUNDOFF;
            check(
                &format!("loss of {tokens} tokens, slices {widths:?}, logits around {scale} ({reason})"),
                worst,
                tolerance,
            );
        }
    }
}

#[test]
fn loss_reaches_every_token_of_a_folded_grid() {
    let gpu = support::gpu_unlimited();
    let tokens = 66_000;
    let logits = Random::new(9).values(tokens * 3, 1.0);
    let targets: Vec<u32> = (0..tokens as u32).map(|token| token % 3).collect();
    let expected = reference::loss(&reference::matrix(tokens, 3, &logits), &targets);
    let found = losses(&gpu, &logits, 3, &targets, &[3]);
    let worst = support::worst(found.iter().zip(&expected).map(|(a, b)| (a - b).abs()));
    check("loss of 66000 tokens", worst, 16.0 * support::ROUNDOFF);
}

fn divergences(gpu: &Gpu, logits: [&[f32]; 2], vocab: usize, targets: &[u32], widths: &[usize]) -> Vec<Divergence> {
    let tokens = targets.len();
    let state = gpu.divergence_state(tokens).expect("a state");
    let targets = gpu.upload_u32(targets).expect("targets");
    let mut first = 0;
    for &width in widths {
        let [p, q] = logits.map(|logits| upload(gpu, &slice(logits, vocab, first, width), tokens, width));
        gpu.divergence(&p, &q, first, &targets, &state).expect("divergence");
        first += width;
    }
    assert_eq!(first, vocab);
    gpu.divergences(&state).expect("divergences")
}

/// The largest error of divergences and losses, each relative to 1 + E_p |p − q| of the token, which is what the sum
/// that a divergence is made of adds up; whether the largest entries agree is exact.
fn divergence_error(found: &[Divergence], logits: [&[f32]; 2], vocab: usize, targets: &[u32]) -> f64 {
    let [p, q] = logits.map(|logits| reference::matrix(targets.len(), vocab, logits));
    let expected = reference::divergence(&p, &q, targets);
    assert_eq!(found.len(), expected.len());
    let mut worst = 0.0f64;
    for (token, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found.agrees, expected.agrees, "token {token}: {found:?}, expected {expected:?}");
        let highest = p.row(token).max();
        let (sum, apart) = p.row(token).iter().zip(q.row(token).iter()).fold((0.0, 0.0), |(sum, apart), (p, q)| {
            let weight = (p - highest).exp();
            (sum + weight, apart + weight * (p - q).abs())
        });
        let [dense, other] = [0, 1].map(|of| (found.losses[of] - expected.losses[of]).abs());
        let error = (found.kl - expected.kl).abs().max(dense).max(other);
        worst = worst.max(if error.is_nan() { f64::INFINITY } else { error / (1.0 + apart / sum) });
    }
    worst
}

#[test]
fn divergences_match_reference_whatever_the_slices_and_the_size_of_the_logits() {
    let gpu = support::gpu_unlimited();
    for (widths, reason) in [
        (&[1][..], "one entry"),
        (&[63], "below the workgroup"),
        (&[64, 1], "a slice of one entry"),
        (&[64, 192, 65, 300], "several slices"),
        (&[1; 70], "every entry a slice of its own"),
        (&[5000], "many entries a thread"),
    ] {
        let vocab: usize = widths.iter().sum();
        let tokens = 9;
        for scale in [1.0, 27.0] {
            let mut random = Random::new(vocab as u64);
            let mut logits = || {
                random.values(tokens * vocab, scale).iter().map(|logit| logit.clamp(-80.0, 80.0)).collect::<Vec<_>>()
            };
            let (mut p, mut q) = (logits(), logits());
            // The largest first in one and last in the other; all alike; the largest of one at both ends, and at one
            // end of the other; the same model twice.
            p[0] = 80.0;
            q[vocab - 1] = 80.0;
            p[vocab..2 * vocab].fill(-80.0);
            p[2 * vocab] = 80.0;
            p[3 * vocab - 1] = 80.0;
            q[3 * vocab - 1] = 80.0;
            q[3 * vocab..4 * vocab].copy_from_slice(&p[3 * vocab..4 * vocab]);
            let targets: Vec<u32> = (0..tokens as u32)
                .map(|token| if token < 3 { vocab as u32 - 1 } else { token % vocab as u32 })
                .collect();
            let found = divergences(&gpu, [&p, &q], vocab, &targets, widths);
            // As of losses: each of the sums has terms exp(−x) good to (3 + 2x) ulps, and rounds once every 64 entries
            // and twice a slice; that of differences rounds these, and their products, too. A divergence is made of
            // three sums.
            let tolerance = 3.0 * (18.0 + vocab as f64 / 64.0 + 2.0 * widths.len() as f64) * support::ROUNDOFF;
            check(
                &format!("divergence of {tokens} tokens, slices {} ({reason}), logits around {scale}", widths.len()),
                divergence_error(&found, [&p, &q], vocab, &targets),
                tolerance,
            );
            let same = found[3];
            assert!(same.kl == 0.0 && same.agrees && same.losses[0] == same.losses[1], "of the same model: {same:?}");
            if vocab > 1 {
                assert!(!found[0].agrees && !found[2].agrees, "the first of two largest entries counts");
            }
        }
    }
}

#[test]
fn divergence_reaches_every_token_of_a_folded_grid() {
    let gpu = support::gpu_unlimited();
    let tokens = 66_000;
    let (p, q) = (Random::new(9).values(tokens * 3, 1.0), Random::new(10).values(tokens * 3, 1.0));
    let targets: Vec<u32> = (0..tokens as u32).map(|token| token % 3).collect();
    let found = divergences(&gpu, [&p, &q], 3, &targets, &[3]);
    let error = divergence_error(&found, [&p, &q], 3, &targets);
    check("divergence of 66000 tokens", error, 3.0 * 20.0 * support::ROUNDOFF);
}

#[test]
fn divergence_refuses_what_does_not_fit_together() {
    let gpu = support::gpu_unlimited();
    let (p, narrow) = (upload(&gpu, &[0.0; 12], 3, 4), upload(&gpu, &[0.0; 9], 3, 3));
    let (targets, two) = (gpu.upload_u32(&[0; 3]).expect("targets"), gpu.upload_u32(&[0; 2]).expect("targets"));
    let (state, short) = (gpu.divergence_state(3).expect("a state"), gpu.divergence_state(2).expect("a state"));
    for (q, targets, state, reason) in [
        (&narrow, &targets, &state, "two vocabularies"),
        (&p, &two, &state, "a target missing"),
        (&p, &targets, &short, "a state missing"),
    ] {
        let error = gpu.divergence(&p, q, 0, targets, state).expect_err(reason);
        assert!(error.to_string().contains("divergence"), "{reason}: {error}");
    }
}

fn draws(gpu: &Gpu, logits: &[f32], vocab: usize, options: &SampleOptions, widths: &[usize]) -> Vec<u32> {
    let tokens = logits.len() / vocab;
    let (best, ids) = gpu.sample_state(tokens).expect("a state");
    let mut first = 0;
    for &width in widths {
        gpu.sample(&upload(gpu, &slice(logits, vocab, first, width), tokens, width), first, options, &best, &ids)
            .expect("sample");
        first += width;
    }
    assert_eq!(first, vocab);
    gpu.download_u32(&ids).expect("ids")
}

#[test]
fn draws_are_distributed_as_the_softmax_and_equal_those_of_reference() {
    let gpu = support::gpu_unlimited();
    let (tokens, vocab) = (4000, 12);
    // No token is so rare that its count is far from normally distributed.
    let row = Random::new(11).values(vocab, 0.5);
    let logits = row.repeat(tokens);
    for (seed, step, first_row, temperature) in
        [(1, 0, 0, 1.0), (2, 7, 4000, 1.0), (3, 1, 0, 2.0), (4, 0, 9, 0.5), (5, 1, 1, 1.0), (6, 100, 0, 1.0)]
    {
        let options = SampleOptions { seed, step, first_row, temperature };
        let ids = draws(&gpu, &logits, vocab, &options, &[vocab]);
        let expected = reference::sample(&reference::matrix(tokens, vocab, &logits), &options);
        // f32 puts two candidates that are within 1e-6 of one another in the wrong order: less than one draw in 1e5.
        let different = ids.iter().zip(&expected).filter(|(a, b)| a != b).count();
        assert!(different <= 1, "{options:?}: {different} of {tokens} draws differ from the reference");

        let weights: Vec<f64> = row.iter().map(|&logit| (f64::from(logit) / f64::from(temperature)).exp()).collect();
        let total: f64 = weights.iter().sum();
        let chi_square: f64 = weights
            .iter()
            .enumerate()
            .map(|(id, weight)| {
                let mean = tokens as f64 * weight / total;
                (ids.iter().filter(|&&drawn| drawn == id as u32).count() as f64 - mean).powi(2) / mean
            })
            .sum();
        // 11 degrees of freedom: one honest run in a thousand exceeds 31.3.
        check(&format!("chi square of {tokens} draws with {options:?}"), chi_square, 31.3);
    }
}

#[test]
fn draws_do_not_depend_on_slices_or_batches() {
    let gpu = support::gpu_unlimited();
    let (tokens, vocab) = (40, 300);
    let logits = Random::new(12).values(tokens * vocab, 2.0);
    let options = SampleOptions { seed: 5, step: 3, first_row: 0, temperature: 0.8 };
    let whole = draws(&gpu, &logits, vocab, &options, &[vocab]);
    assert_eq!(whole, draws(&gpu, &logits, vocab, &options, &[1, 64, 100, 135]), "in slices");
    let second = draws(&gpu, &logits[16 * vocab..], vocab, &SampleOptions { first_row: 16, ..options }, &[vocab]);
    assert_eq!(whole[16..], second, "as a batch that begins at row 16");
}

#[test]
fn no_uniform_number_makes_an_impossible_token_win() {
    let gpu = support::gpu_unlimited();
    let smallest = 0.5 / f64::from(1 << 23);
    let vocab = 64;
    // Token 0 is 100 above the others; noise is at most −ln(smallest) = 16.6, were it not for a number that rounds to
    // 1.
    let mut logits = vec![-100.0; vocab];
    logits[0] = 0.0;
    let mut found = 0;
    for seed in 0..1_000_000 {
        let extreme = |token| {
            let u = reference::uniform(seed, 0, 0, token);
            u == smallest || u == 1.0 - smallest
        };
        if (1..vocab as u32).any(extreme) {
            let ids =
                draws(&gpu, &logits, vocab, &SampleOptions { seed, step: 0, first_row: 0, temperature: 1.0 }, &[vocab]);
            assert_eq!(ids, [0], "seed {seed}");
            found += 1;
        }
    }
    assert!(found >= 8, "only {found} seeds have an extreme number");
}
