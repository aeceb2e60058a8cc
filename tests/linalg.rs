//! Is the eigensolver right on spectra that are nasty, and are random rotations rotations?

mod support;

use faer::Mat;
use slicegpt_gpu::linalg::{eigh, random_orthogonal, solve_ridge};
use support::Random;

/// Q·diag(values)·Qᵀ for a random orthogonal Q.
fn with_spectrum(values: &[f64], seed: u64) -> Mat<f64> {
    let n = values.len();
    let q = random_orthogonal(n, seed, 0);
    let scaled = Mat::from_fn(n, n, |i, j| q[(i, j)] * values[j]);
    &scaled * q.transpose()
}

/// Eigenvalues within n·ε of the largest, of those that went in (Weyl: an error E in the matrix moves none by more than
/// ‖E‖).
fn check_spectrum(name: &str, values: &[f64]) {
    let n = values.len();
    let solution = eigh(with_spectrum(values, n as u64).as_ref()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut expected = values.to_vec();
    expected.sort_by(|a, b| b.total_cmp(a));
    let largest = expected.iter().fold(0.0f64, |most, value| most.max(value.abs()));
    let bound = 100.0 * n as f64 * f64::EPSILON * largest;
    for (index, (found, expected)) in solution.values.iter().zip(&expected).enumerate() {
        assert!(
            (found - expected).abs() <= bound,
            "{name}: eigenvalue {index} of {n} is {found}, expected {expected} within {bound:.1e}"
        );
    }
    assert!(
        solution.residual <= 1e-12 && solution.orthogonality <= 1e-12,
        "{name}: {} {}",
        solution.residual,
        solution.orthogonality
    );
}

#[test]
fn kept_energy_is_at_most_one() {
    // Rounding leaves eigenvalues of zero a little below it, and their sum below that of the first ones.
    let c = Mat::from_fn(3, 3, |i, j| if i == j { [1.0, 1e-3, -1e-9][i] } else { 0.0 });
    let eigen = eigh(c.as_ref()).expect("a decomposition");
    assert!(eigen.values.iter().sum::<f64>() < eigen.values[..2].iter().sum(), "{:?}", eigen.values);
    assert_eq!(eigen.kept_energy(2), 1.0);
    assert!(eigen.kept_energy(1) < 1.0);
}

#[test]
fn eigenvalues_are_found_in_nasty_spectra() {
    check_spectrum("one value", &[3.0]);
    check_spectrum("clustered", &(0..60).map(|i| 1.0 + 1e-14 * f64::from(i % 3)).collect::<Vec<_>>());
    check_spectrum("rank-deficient", &(0..64).map(|i| if i < 5 { f64::from(i + 1) } else { 0.0 }).collect::<Vec<_>>());
    check_spectrum("graded 1e12", &(0..65).map(|i| 1e12f64.powf(-f64::from(i) / 64.0)).collect::<Vec<_>>());
    check_spectrum("one massive direction", &(0..40).map(|i| if i == 7 { 1e9 } else { 1.0 }).collect::<Vec<_>>());
    check_spectrum("beyond the range of squares", &(0..20).map(|i| 1e200 * f64::from(i + 1)).collect::<Vec<_>>());
    check_spectrum("below the range of squares", &(0..20).map(|i| 1e-200 * f64::from(i + 1)).collect::<Vec<_>>());
}

#[test]
fn kept_energy_is_the_sum_of_the_first_eigenvalues() {
    let values: Vec<f64> = (1..=10).map(f64::from).collect();
    let solution = eigh(with_spectrum(&values, 3).as_ref()).expect("a solution");
    for width in 0..=10 {
        let expected = (0..width).map(|i| 10.0 - f64::from(i)).sum::<f64>() / 55.0;
        assert!((solution.kept_energy(width as usize) - expected).abs() < 1e-14, "{width}");
    }
    let nothing = eigh(Mat::<f64>::zeros(4, 4).as_ref()).expect("zeros");
    assert_eq!(nothing.kept_energy(2), 1.0);
}

#[test]
fn the_upper_triangle_alone_is_read() {
    let mut matrix = with_spectrum(&[5.0, 2.0, 1.0], 1);
    let expected = eigh(matrix.as_ref()).expect("a solution").values;
    matrix[(2, 0)] = 99.0;
    matrix[(1, 0)] = f64::NAN;
    assert_eq!(eigh(matrix.as_ref()).expect("a solution").values, expected);
}

#[test]
fn values_that_are_not_finite_are_an_error() {
    for value in [f64::NAN, f64::INFINITY] {
        let mut matrix = with_spectrum(&[5.0, 2.0, 1.0], 1);
        matrix[(0, 1)] = value;
        assert!(eigh(matrix.as_ref()).expect_err("an error").to_string().contains("not finite"));
    }
}

#[test]
fn wrong_solutions_fail_the_check() {
    let matrix = with_spectrum(&(1..=30).map(f64::from).collect::<Vec<_>>(), 2);
    let right = eigh(matrix.as_ref()).expect("a solution");
    right.clone().check(matrix.as_ref()).expect("a right solution passes");
    let mut turned = right.clone();
    turned.vectors[(3, 4)] += 1e-9;
    turned.check(matrix.as_ref()).expect_err("a vector that is a little off");
    let mut swapped = right.clone();
    swapped.values.swap(0, 1);
    swapped.check(matrix.as_ref()).expect_err("values in the wrong order");
    let mut broken = right;
    broken.vectors[(0, 0)] = f64::NAN;
    broken.check(matrix.as_ref()).expect_err("a value that is not a number");
}

#[test]
fn random_rotations_are_orthogonal_and_differ_by_seed_and_stream() {
    for n in [1, 2, 17, 64] {
        let q = random_orthogonal(n, 42, 1);
        let gram = q.transpose() * &q;
        let entries = (0..n * n).map(|k| (k / n, k % n));
        let error = support::worst(entries.map(|(i, j)| (gram[(i, j)] - f64::from(u8::from(i == j))).abs()));
        assert!(error < 1e-13, "{n}: {error:.1e}");
    }
    let q = random_orthogonal(8, 42, 1);
    assert_eq!(q, random_orthogonal(8, 42, 1));
    assert_ne!(q, random_orthogonal(8, 43, 1));
    assert_ne!(q, random_orthogonal(8, 42, 2));
}

#[test]
fn random_rotations_are_uniform() {
    // Of a uniform rotation, each entry has mean 0 and variance 1/n: over 400 draws, the mean of n·q² is within 5 of
    // its deviations (about 0.07).
    let mut random = Random::new(5);
    let (n, draws) = (6, 400);
    let (i, j) = (random.values(1, 1.0)[0].abs() as usize % n, 2);
    let entries: Vec<f64> = (0..draws).map(|stream| random_orthogonal(n, 7, stream)[(i, j)]).collect();
    let mean = entries.iter().sum::<f64>() / draws as f64;
    let square = entries.iter().map(|q| q * q).sum::<f64>() * n as f64 / draws as f64;
    assert!(mean.abs() < 5.0 / (n as f64 * draws as f64).sqrt(), "mean {mean}");
    assert!((square - 1.0).abs() < 0.35, "n times the variance {square}");
}

/// The residual of the normal equations, relative to what goes into them, of a problem with this many samples and
/// unknowns.
fn check_ridge(name: &str, samples: usize, unknowns: usize, targets: usize, scales: impl Fn(usize) -> f64) {
    let mut random = Random::new((samples * 1000 + unknowns) as u64);
    let mut matrix = |rows, cols| Mat::from_fn(rows, cols, |_, _| f64::from(random.values(1, 1.0)[0]));
    let (a, t, prior) = (matrix(samples, unknowns), matrix(samples, targets), matrix(targets, unknowns));
    let a = Mat::from_fn(samples, unknowns, |i, j| a[(i, j)] * scales(j));
    let (gram, cross) = (a.transpose() * &a, t.transpose() * &a);
    let ridge: Vec<f64> = (0..unknowns).map(|j| 1e-2 * samples as f64 * scales(j) * scales(j)).collect();
    let right = |i: usize, j: usize| cross[(i, j)] + prior[(i, j)] * ridge[j];
    // The lower triangle must not be read.
    let mut factors: Vec<f64> = (0..unknowns * unknowns)
        .map(|k| if k / unknowns <= k % unknowns { gram[(k / unknowns, k % unknowns)] } else { f64::NAN })
        .collect();
    let mut solved: Vec<f64> = (0..targets * unknowns).map(|k| right(k / unknowns, k % unknowns)).collect();
    solve_ridge(&mut factors, &ridge, &mut solved).unwrap_or_else(|error| panic!("{name}: {error}"));
    for i in 0..targets {
        for j in 0..unknowns {
            let terms = |k: usize| solved[i * unknowns + k] * (gram[(k, j)] + if k == j { ridge[j] } else { 0.0 });
            let (sum, size) =
                (0..unknowns).fold((0.0, right(i, j).abs()), |(sum, size), k| (sum + terms(k), size + terms(k).abs()));
            let bound = 100.0 * unknowns as f64 * f64::EPSILON * size;
            assert!(
                (sum - right(i, j)).abs() <= bound,
                "{name}: ({i}, {j}) is {sum}, expected {} within {bound:.1e}",
                right(i, j)
            );
        }
    }
}

#[test]
fn ridge_solutions_fulfil_the_normal_equations() {
    check_ridge("one unknown", 3, 1, 2, |_| 1.0);
    check_ridge("more samples than unknowns", 300, 70, 5, |_| 1.0);
    check_ridge("four times fewer samples than unknowns", 16, 64, 3, |_| 1.0);
    check_ridge("regressors of very different size", 200, 40, 4, |j| 10f64.powi(j as i32 % 9 - 4));
}

#[test]
fn ridge_keeps_the_prior_where_no_sample_tells_anything() {
    let mut solved: Vec<f64> = vec![0.5, -2.0, 12.0];
    solve_ridge(&mut [0.0; 9], &[0.5, 1.0, 4.0], &mut solved).expect("a solution");
    assert!(solved.iter().zip([1.0, -2.0, 3.0]).all(|(w, p)| (w - p).abs() < 1e-15), "{solved:?}");
}

#[test]
fn ridge_refuses_what_has_no_solution() {
    for (gram, ridge, right) in [
        ([1.0, 0.0, 0.0, -3.0], 1.0, 1.0),
        ([f64::NAN, 0.0, 0.0, 1.0], 1.0, 1.0),
        ([1.0, 0.0, 0.0, 1.0], 0.0, f64::INFINITY),
    ] {
        assert!(solve_ridge(&mut gram.to_vec(), &[ridge; 2], &mut [right, 0.0]).is_err(), "{gram:?}");
    }
    assert!(solve_ridge(&mut [1.0], &[1.0, 1.0], &mut [1.0, 1.0]).is_err());
}
