//! linear (gemm and gemv), matmul, covariance.

use half::{bf16, f16};
use nalgebra::DMatrix;
use slicegpt_gpu::{
    gpu::{ElementType, Gpu, GpuOptions, Matrix},
    ops::ProductConfig,
    reference,
};

use crate::{
    check, download, error,
    support::{self, ROUNDOFF, Random},
    upload,
};

/// M, N, K and why.
const SHAPES: &[(usize, usize, usize, &str)] = &[
    (1, 1, 1, "the smallest"),
    (1, 65, 30, "one row: gemv, N above its eight"),
    (2, 3000, 40, "gemv of two rows, 32 threads along a row of w"),
    (3, 9000, 70, "gemv of three rows, 8 threads along a row of w"),
    (3, 7, 129, "gemv of three rows, N below its eight"),
    (4, 300, 64, "the most rows of gemv"),
    (5, 8, 3, "the fewest rows of gemm, K below one vec4"),
    (63, 63, 15, "below the tile, K below its steps"),
    (64, 64, 16, "one exact tile"),
    (65, 65, 17, "above the tile, K above its steps"),
    (66, 130, 62, "three tiles of columns, K not a multiple of 4"),
    (130, 1, 257, "one column"),
    (129, 67, 1000, "long sums"),
];

pub fn stored(gpu: &Gpu, values: &[f32], rows: usize, cols: usize, element: ElementType) -> (Matrix, DMatrix<f64>) {
    let bytes: Vec<u8> = match element {
        ElementType::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        ElementType::Bf16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    let matrix = gpu.upload_bytes(&bytes, rows, cols, element).expect("an upload");
    let twin = download(gpu, &matrix);
    (matrix, twin)
}

/// K products and K sums in a chain that is as good as random: 4·√K roundings of what the terms' magnitudes sum to.
fn tolerance(k: usize) -> f64 {
    4.0 * ((k + 2) as f64).sqrt() * ROUNDOFF
}

/// One linear layer, without anything, and with bias, column offset and accumulation.
fn linear(gpu: &Gpu, (m, n, k): (usize, usize, usize), element: ElementType, reason: &str) {
    let mut random = Random::new((m * 1_000_000 + n * 1000 + k) as u64);
    let a = random.values(m * k, 1.0);
    let (gpu_w, w) = stored(gpu, &random.values(n * k, 0.3), n, k, element);
    let (gpu_a, a) = (upload(gpu, &a, m, k), reference::matrix(m, k, &a));
    let magnitudes = reference::linear(&a.abs(), &w.abs(), None);

    let c = gpu.zeros(m, n).expect("zeros");
    gpu.linear(&gpu_a, &gpu_w, None, &c, 0, false).expect("linear");
    let plain = error(&download(gpu, &c), &reference::linear(&a, &w, None), |i, j| magnitudes[(i, j)]);
    check(&format!("linear [{m}, {n}, {k}] {element:?} ({reason})"), plain, tolerance(k));

    let (column, width) = (3, n + 8);
    let (before, bias) = (random.values(m * width, 1.0), random.values(n, 1.0));
    let c = upload(gpu, &before, m, width);
    gpu.linear(&gpu_a, &gpu_w, Some(&upload(gpu, &bias, 1, n)), &c, column, true).expect("linear");
    let before = reference::matrix(m, width, &before);
    let bias: Vec<f64> = bias.iter().map(|&value| f64::from(value)).collect();
    let mut expected = before.clone();
    let mut inside = expected.columns_mut(column, n);
    inside += reference::linear(&a, &w, Some(&bias));
    // Columns beside the result must not change at all: their scale is nothing.
    let scale = |i: usize, j: usize| {
        if (column..column + n).contains(&j) {
            magnitudes[(i, j - column)] + bias[j - column].abs() + before[(i, j)].abs()
        } else {
            0.0
        }
    };
    let accumulated = error(&download(gpu, &c), &expected, scale);
    check(
        &format!("linear [{m}, {n}, {k}] {element:?} with bias, onto column {column} ({reason})"),
        accumulated,
        tolerance(k),
    );
}

#[test]
fn linear_matches_reference_at_awkward_shapes_in_every_weight_type() {
    let (gpu, downlevel) = (support::gpu_unlimited(), support::gpu_downlevel());
    for &(m, n, k, reason) in SHAPES {
        for element in [ElementType::F32, ElementType::F16, ElementType::Bf16] {
            linear(&gpu, (m, n, k), element, reason);
        }
        // Where f16 is not unpacked by the driver.
        linear(&downlevel, (m, n, k), ElementType::F16, reason);
    }
}

/// The product, the plain product and the covariance of the same values.
fn products(gpu: &Gpu, (m, n, k): (usize, usize, usize)) -> [Vec<f32>; 3] {
    let mut random = Random::new((m * 1_000_000 + n * 1000 + k) as u64);
    let (a, w, b) = (random.values(m * k, 1.0), random.values(n * k, 1.0), random.values(k * n, 1.0));
    let a = upload(gpu, &a, m, k);
    let c = gpu.zeros(m, n).expect("zeros");
    gpu.linear(&a, &upload(gpu, &w, n, k), None, &c, 0, false).expect("linear");
    let plain = gpu.matmul(&a, &upload(gpu, &b, k, n)).expect("matmul");
    let mut covariance = gpu.download(&gpu.covariance(&a).expect("covariance")).expect("values");
    // The lower triangle means nothing.
    (0..k).for_each(|row| covariance[row * k..row * k + row].fill(0.0));
    [gpu.download(&c).expect("values"), gpu.download(&plain).expect("values"), covariance]
}

#[test]
fn every_configuration_of_products_gives_the_same_bits() {
    let default = support::gpu_unlimited();
    let configs: Vec<ProductConfig> = ProductConfig::all(&default).collect();
    assert!(configs.len() > 4, "{configs:?}");
    let shapes = [(5, 8, 3), (63, 65, 15), (130, 131, 66), (129, 67, 300)];
    for config in configs {
        let gpu = support::gpu_unlimited();
        gpu.pin_products(config);
        for shape in shapes {
            assert!(products(&gpu, shape) == products(&default, shape), "{config} at {shape:?}");
        }
    }
}

#[test]
fn the_fastest_configuration_is_measured_once_and_remembered() {
    let cache = tempfile::tempdir().expect("a directory");
    let options = GpuOptions { cache: Some(cache.path().into()), measure_at_once: true, ..GpuOptions::default() };
    let default = support::gpu_unlimited();
    let measuring = Gpu::new(&options).expect("an adapter");
    assert!(products(&measuring, (130, 131, 66)) == products(&default, (130, 131, 66)), "measuring changes the result");
    let chosen = measuring.choices();
    assert_eq!(
        chosen.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
        ["covariance 256x256", "linear 256x256", "matmul 256x256"]
    );
    assert!(
        chosen.iter().all(|(_, name)| name.parse::<ProductConfig>().is_ok_and(|config| config.to_string() == *name)),
        "{chosen:?}"
    );
    let again = Gpu::new(&GpuOptions { measure_at_once: false, ..options.clone() }).expect("an adapter");
    assert_eq!(again.choices(), chosen);

    let file = std::fs::read_dir(cache.path()).expect("a directory").next().expect("a file").expect("an entry").path();
    for damaged in ["{\"linear 256x256\": \"9x9 1x1 k3\"}", "{\"linear", "[1, 2]"] {
        std::fs::write(&file, damaged).expect("a file");
        let gpu = Gpu::new(&options).expect("an adapter");
        assert!(products(&gpu, (130, 131, 66)) == products(&default, (130, 131, 66)), "{damaged}");
        assert_eq!(gpu.choices().len(), 3, "{damaged}");
    }
}

#[test]
fn linear_is_split_where_a_binding_is_too_small() {
    // Parts are multiples of 64 rows, of at most 256 values here.
    let gpu = support::gpu_with(Some(1 << 16));
    for (m, n, k, reason) in [
        (7, 700, 100, "rows of w in five parts"),
        (2, 700, 100, "rows of w in five parts, gemv"),
        (300, 150, 130, "rows of w, of a and of c in parts"),
        (200, 240, 20, "rows of c in parts, its rows wider than those of a"),
    ] {
        for element in [ElementType::F32, ElementType::Bf16] {
            linear(&gpu, (m, n, k), element, reason);
        }
    }
}

fn matmul(gpu: &Gpu, (m, n, k): (usize, usize, usize), reason: &str) {
    let mut random = Random::new((m * 1_000_000 + n * 1000 + k) as u64);
    let (a, b) = (random.values(m * k, 1.0), random.values(k * n, 1.0));
    let c = gpu.matmul(&upload(gpu, &a, m, k), &upload(gpu, &b, k, n)).expect("matmul");
    let (a, b) = (reference::matrix(m, k, &a), reference::matrix(k, n, &b));
    let magnitudes = a.abs() * b.abs();
    let error = error(&download(gpu, &c), &reference::matmul(&a, &b), |i, j| magnitudes[(i, j)]);
    check(&format!("matmul [{m}, {n}, {k}] ({reason})"), error, tolerance(k));
}

#[test]
fn matmul_matches_reference_at_awkward_shapes() {
    let gpu = support::gpu_unlimited();
    for &(m, n, k, reason) in SHAPES {
        matmul(&gpu, (m, n, k), reason);
    }
}

#[test]
fn matmul_is_split_where_a_binding_is_too_small() {
    let gpu = support::gpu_with(Some(1 << 16));
    for (m, n, k, reason) in [
        (60, 200, 250, "rows of b in parts, whose products are added"),
        (200, 90, 201, "rows of a, b and c in parts"),
        (1, 250, 130, "one row"),
    ] {
        matmul(&gpu, (m, n, k), reason);
    }
}

#[test]
fn covariance_matches_reference_at_awkward_widths_and_token_counts() {
    let (whole, split) = (support::gpu_unlimited(), support::gpu_with(Some(1 << 16)));
    for (tokens, width, reason) in [
        (1, 1, "the smallest"),
        (15, 3, "below the steps, width below one vec4"),
        (17, 63, "above the steps, width below the tile"),
        (64, 64, "one exact chunk and tile"),
        (65, 65, "above the chunk and the tile"),
        (200, 130, "three tiles, chunks that end early"),
        (2048, 66, "the most tokens"),
        (70, 200, "rows of the result in parts, on the device with small bindings"),
    ] {
        let gpu = if width == 200 { &split } else { &whole };
        let values = Random::new((tokens * 1000 + width) as u64).values(tokens * width, 1.0);
        let c = gpu.covariance(&upload(gpu, &values, tokens, width)).expect("covariance");
        let x = reference::matrix(tokens, width, &values);
        let magnitudes = reference::covariance(&x.abs());
        // Chains of 64 tokens, then of up to 32 chunks. The lower triangle means nothing.
        let scale = |i, j| if i <= j { magnitudes[(i, j)] } else { f64::INFINITY };
        let error = error(&download(gpu, &c), &reference::covariance(&x), scale);
        check(&format!("covariance [{tokens}, {width}] ({reason})"), error, tolerance(64) + tolerance(32));
    }
}

#[test]
fn cross_covariance_matches_reference_for_any_columns_of_either_factor() {
    let (whole, split) = (support::gpu_unlimited(), support::gpu_with(Some(1 << 16)));
    for (tokens, a, a_columns, b, b_columns, reason) in [
        (1, 1, 0..1, 1, 0..1, "the smallest"),
        (15, 3, 0..3, 70, 0..70, "below the steps, a below one vec4"),
        (65, 130, 64..130, 9, 4..9, "above a chunk, columns from the middle to the end"),
        (64, 64, 8..40, 64, 0..64, "one chunk, columns that end before the matrix"),
        (2048, 66, 0..66, 33, 0..33, "the most tokens, in runs"),
        (530, 200, 0..200, 180, 100..180, "rows of the result in parts, on the device with small bindings"),
        (20, 8, 4..4, 8, 0..8, "no rows"),
    ] {
        let gpu = if a == 200 { &split } else { &whole };
        let mut random = Random::new((tokens * 1000 + a) as u64);
        let (x, y) = (random.values(tokens * a, 1.0), random.values(tokens * b, 1.0));
        let c = gpu
            .cross_covariance(
                &upload(gpu, &x, tokens, a),
                a_columns.clone(),
                &upload(gpu, &y, tokens, b),
                b_columns.clone(),
            )
            .expect("sums");
        let (x, y) = (reference::matrix(tokens, a, &x), reference::matrix(tokens, b, &y));
        let (x, y) = (x.columns_range(a_columns).into_owned(), y.columns_range(b_columns).into_owned());
        let magnitudes = reference::cross_covariance(&x.abs(), &y.abs());
        let error = error(&download(gpu, &c), &reference::cross_covariance(&x, &y), |i, j| magnitudes[(i, j)]);
        check(&format!("cross_covariance [{tokens}, {a}, {b}] ({reason})"), error, tolerance(64) + tolerance(32));
    }
}

#[test]
fn sums_over_tokens_are_taken_in_short_chunks() {
    let gpu = support::gpu_unlimited();
    // One f32 sum of so many equal terms is off by 223 roundoffs, chunks of 64 by 8.
    let (tokens, width) = (1024, 5);
    let values = vec![1.3; tokens * width];
    let (x, exact) = (upload(&gpu, &values, tokens, width), reference::matrix(tokens, width, &values));
    let exact = reference::covariance(&exact);
    for c in [gpu.covariance(&x), gpu.cross_covariance(&x, 0..width, &x, 0..width)] {
        let scale = |i: usize, j: usize| if i <= j { exact[(i, j)] } else { f64::INFINITY };
        check("equal tokens", error(&download(&gpu, &c.expect("sums")), &exact, scale), tolerance(64) + tolerance(32));
    }
}

#[test]
fn cross_covariance_refuses_columns_that_are_not_there_and_signals_of_other_tokens() {
    let gpu = support::gpu_unlimited();
    let zeros = |tokens| gpu.zeros(tokens, 8).expect("zeros");
    for (a, a_columns, b, b_columns) in [
        (zeros(3), 0..9, zeros(3), 0..8),
        (zeros(3), 2..8, zeros(3), 0..8),
        (zeros(3), 0..8, zeros(4), 0..8),
        (zeros(2049), 0..8, zeros(2049), 0..8),
    ] {
        assert!(gpu.cross_covariance(&a, a_columns, &b, b_columns).is_err());
    }
}

#[test]
fn covariance_refuses_more_tokens_than_one_sum_may_have() {
    let gpu = support::gpu_unlimited();
    assert!(gpu.covariance(&gpu.zeros(2049, 4).expect("zeros")).is_err());
}
