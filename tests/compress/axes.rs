//! The coordinates of a narrower residual stream whose head stays the embedding, in f64.

use faer::Mat;
use slicegpt_gpu::fit::{TiedAxes, axes, tied_axes};

use super::support::Random;

const WIDTH: usize = 24;
const TOKENS: usize = 200;

fn matrix(rows: usize, cols: usize, random: &mut Random) -> Mat<f64> {
    Mat::from_fn(rows, cols, |_, _| f64::from(random.normal()))
}

/// Residuals `[TOKENS, WIDTH]` with some coordinates this much larger than others.
fn residuals(massive: &[usize], factor: f64, random: &mut Random) -> Mat<f64> {
    let mixed = matrix(TOKENS, WIDTH, random) * matrix(WIDTH, WIDTH, random);
    Mat::from_fn(TOKENS, WIDTH, |t, i| mixed[(t, i)] * if massive.contains(&i) { factor } else { 1.0 })
}

/// Weights of a final norm around 1.8, with `unusual` ones.
fn weights(spread: f64, unusual: &[(usize, f64)], random: &mut Random) -> Vec<f64> {
    let mut alpha: Vec<f64> =
        (0..WIDTH).map(|_| 1.8 * (1.0 + spread * f64::from(random.normal()).clamp(-2.0, 2.0))).collect();
    unusual.iter().for_each(|&(at, value)| alpha[at] = value);
    alpha
}

fn of(x: &Mat<f64>, alpha: &[f64], kept: usize) -> TiedAxes {
    let identity = Mat::<f64>::identity(WIDTH, WIDTH);
    tied_axes((x.transpose() * x).as_ref(), identity.as_ref(), alpha, 0.25, kept).expect("coordinates")
}

fn root_mean_square(row: impl Iterator<Item = f64>, width: usize) -> f64 {
    (row.map(|value| value * value).sum::<f64>() / width as f64).sqrt()
}

/// The largest entry of a − b, relative to the largest of b.
fn difference(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    (a - b).norm_max() / b.norm_max()
}

/// Weights of a final norm that are unusual, the massive coordinates, and a reason.
type FinalNorm = (&'static [(usize, f64)], &'static [usize], &'static str);

const NORMS: [FinalNorm; 5] = [
    (&[], &[], "nothing unusual"),
    (&[(3, 9.0), (11, 0.1)], &[], "outliers"),
    (&[(5, -2.5), (17, -1.8)], &[], "negative weights"),
    (&[(5, -2.5), (17, 6.0)], &[5, 17], "negative and large weights on massive coordinates"),
    (&[(0, 0.0)], &[0], "a massive coordinate of no weight"),
];

#[test]
fn coordinates_of_a_tied_head_are_orthonormal_and_leave_unusual_ones_alone() {
    for (unusual, massive, reason) in NORMS {
        for kept in [8, 17, WIDTH] {
            let mut random = Random::new(kept as u64);
            let alpha = weights(0.08, unusual, &mut random);
            let found = of(&residuals(massive, 100.0, &mut random), &alpha, kept);
            let gram = found.axes.transpose() * &found.axes;
            let error = (&gram - Mat::<f64>::identity(kept, kept)).norm_max();
            assert!(error <= 1e-13, "{reason}, {kept} kept: SᵀS is off by {error:.1e}");
            for (column, &(row, weight)) in unusual.iter().enumerate() {
                assert_eq!(found.final_norm[column], weight, "{reason}");
                assert_eq!((found.scale[row], found.axes[(row, column)]), (1.0, 1.0), "{reason}");
            }
            let rest = &found.final_norm[unusual.len()..];
            assert!(rest.iter().all(|weight| *weight == rest[0] && *weight > 0.0), "{reason}: {rest:?}");
            assert!(found.scale.iter().all(|scale| (0.8..1.2).contains(scale)), "{reason}: {:?}", found.scale);
        }
    }
}

#[test]
fn without_a_cut_a_tied_head_gives_the_same_logits_but_for_one_factor_a_token() {
    for (unusual, massive, reason) in NORMS {
        let mut random = Random::new(7);
        let alpha = weights(0.08, unusual, &mut random);
        let x = residuals(massive, 100.0, &mut random);
        let embedding = matrix(50, WIDTH, &mut random);
        let found = of(&x, &alpha, WIDTH);
        let TiedAxes { axes, scale, final_norm, .. } = &found;
        let scaled = |x: &Mat<f64>| Mat::from_fn(x.nrows(), WIDTH, |t, i| x[(t, i)] * scale[i]);
        let (z, small) = (scaled(&x) * axes, scaled(&embedding) * axes);
        let normed = |x: &Mat<f64>, weights: &[f64]| {
            Mat::from_fn(x.nrows(), WIDTH, |t, i| {
                x[(t, i)] * weights[i] / root_mean_square(x.row(t).iter().copied(), WIDTH)
            })
        };
        let (dense, tied) = (normed(&x, &alpha) * embedding.transpose(), normed(&z, final_norm) * small.transpose());
        // n(z) is n(x) in other coordinates but for the norm of A·x, which differs from that of x by what the
        // weights that are not unusual spread: √(α/m) is within 0.8 and 1.2 of theirs.
        let factors: Vec<f64> = (0..TOKENS)
            .map(|t| {
                root_mean_square(z.row(t).iter().copied(), WIDTH) / root_mean_square(x.row(t).iter().copied(), WIDTH)
            })
            .collect();
        let corrected = Mat::from_fn(TOKENS, 50, |t, i| tied[(t, i)] * factors[t]);
        let error = difference(&corrected, &dense);
        println!("{reason}: {error:.1e} but for the factors, {:.1e} with them", difference(&tied, &dense));
        assert!(error <= 1e-12, "{reason}: {error:.1e}");
        assert!(factors.iter().all(|factor| (0.8..1.2).contains(factor)), "{reason}: {factors:?}");
        if massive.len() > 1 {
            // What is in massive coordinates is left alone, and the norm with it.
            assert!(factors.iter().all(|factor| (factor - 1.0).abs() < 0.02), "{reason}: {factors:?}");
        }
    }
}

#[test]
fn with_a_constant_final_norm_a_tied_head_costs_nothing_at_any_width() {
    for (weight, reason) in [(1.8, "positive"), (-0.7, "negative"), (1.0, "one")] {
        let mut random = Random::new(3);
        let x = residuals(&[4], 30.0, &mut random);
        let (signal, identity) = (x.transpose() * &x, Mat::<f64>::identity(WIDTH, WIDTH));
        for kept in [9, WIDTH] {
            let TiedAxes { axes: tied, scale, final_norm, .. } = of(&x, &[weight; WIDTH], kept);
            let (untied, _) = axes(signal.as_ref(), identity.as_ref(), kept).expect("axes");
            assert!(scale.iter().all(|scale| (scale - 1.0).abs() < 1e-15), "{reason}");
            assert!(final_norm.iter().all(|found| (found - weight).abs() < 1e-14), "{reason}: {final_norm:?}");
            // The same subspace as with a head of its own.
            let (tied, untied) = (&tied * tied.transpose(), &untied * untied.transpose());
            let error = difference(&tied, &untied);
            assert!(error <= 1e-9, "{reason}, {kept} kept: the subspaces differ by {error:.1e}");
        }
    }
}

#[test]
fn too_many_unusual_weights_for_a_width_are_an_error() {
    let mut random = Random::new(1);
    let unusual: Vec<(usize, f64)> = (0..10).map(|at| (2 * at, -1.0)).collect();
    let alpha = weights(0.05, &unusual, &mut random);
    let (signal, identity) = (Mat::<f64>::identity(WIDTH, WIDTH), Mat::<f64>::identity(WIDTH, WIDTH));
    let found = |kept| tied_axes(signal.as_ref(), identity.as_ref(), &alpha, 0.25, kept);
    assert!(found(11).is_ok());
    for kept in [4, 10] {
        let error = found(kept).expect_err("too many").to_string();
        assert!(
            error.contains(&format!(
                "10 of 24 weights of the final norm are far from their median, too many for a width of {kept}"
            )),
            "{error}"
        );
    }
    let none = tied_axes(signal.as_ref(), identity.as_ref(), &[0.0; WIDTH], 0.25, 12);
    assert!(none.is_err(), "a final norm of zeros");
}
