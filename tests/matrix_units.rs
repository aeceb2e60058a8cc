//! Are linear layers on matrix units as good as factors rounded to f16 allow, is all else as it was, and is a clear
//! error what other adapters give?
//!
//! Where the adapter has no matrix units, every test here asserts that asking for them is refused.

mod support;

use half::{bf16, f16};
use nalgebra::DMatrix;
use slicegpt_gpu::{
    Error, eval,
    gpu::{ElementType, Gpu, GpuOptions, Kernel, MatrixUnits, Need, Precision},
    model::Model,
    progress::Silent,
    reference,
};
use support::{ROUNDOFF, Random};

/// The device with matrix units; `None` where it has none and has said so.
fn matrix_gpu() -> Option<Gpu> {
    match Gpu::new(&GpuOptions { precision: Precision::F16Matrix, ..GpuOptions::default() }) {
        Ok(gpu) => {
            assert!(gpu.adapter().features.contains(&"cooperative-matrix") && gpu.precision() == Precision::F16Matrix);
            Some(gpu)
        }
        Err(error @ Error::Usage(_)) => {
            let (name, message) = (support::gpu().adapter().name.clone(), error.to_string());
            assert_eq!(error.exit_code(), 2);
            for part in ["--precision f16-matrix", &name, "leave --precision out", "--device"] {
                assert!(message.contains(part), "{message}");
            }
            println!("refused: {message}");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

/// M, N, K and why.
const SHAPES: &[(usize, usize, usize, &str)] = &[
    (5, 8, 3, "the fewest rows, K below one vec4"),
    (8, 8, 8, "one small fragment"),
    (16, 16, 16, "one large fragment"),
    (17, 15, 33, "beside fragments and steps"),
    (32, 32, 32, "one quarter of a tile and its steps"),
    (63, 63, 31, "below the tile and its steps"),
    (64, 64, 64, "one exact tile"),
    (65, 65, 65, "above the tile and its steps"),
    (66, 130, 62, "three tiles of columns, K not a multiple of 4"),
    (130, 1, 257, "one column"),
    (129, 67, 1000, "long sums"),
];

/// Every addition may be truncated instead of rounded on matrix units, in the same direction: twice the roundoff for
/// each of K.
fn tolerance(k: usize) -> f64 {
    2.0 * (k + 2) as f64 * ROUNDOFF
}

/// Values that f16, bf16 and f32 all hold exactly.
fn exact(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|value| if value.abs() < 1e-3 { 0.0 } else { bf16::from_f32(value).to_f32() }).collect()
}

fn bytes(values: &[f32], element: ElementType) -> Vec<u8> {
    match element {
        ElementType::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        ElementType::Bf16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

fn check(what: &str, found: &[f32], expected: &DMatrix<f64>, scale: impl Fn(usize, usize) -> f64, tolerance: f64) {
    for (at, &value) in found.iter().enumerate() {
        let (i, j) = (at / expected.ncols(), at % expected.ncols());
        let error = (f64::from(value) - expected[(i, j)]).abs();
        assert!(
            error <= tolerance * scale(i, j),
            "{what}: {value} at ({i}, {j}), {} expected, scale {}",
            expected[(i, j)],
            scale(i, j)
        );
    }
}

#[test]
fn linear_layers_match_reference_at_awkward_shapes_in_every_weight_type() {
    let Some(gpu) = matrix_gpu() else { return };
    for &(m, n, k, reason) in SHAPES {
        for element in [ElementType::F32, ElementType::F16, ElementType::Bf16] {
            let what = format!("[{m}, {n}, {k}] {element:?} ({reason})");
            let mut random = Random::new((m * 1_000_000 + n * 1000 + k) as u64);
            let (a, w) = (exact(random.values(m * k, 1.0)), exact(random.values(n * k, 0.3)));
            let gpu_a = gpu.upload(&a, m, k).expect("a");
            let gpu_w = gpu.upload_bytes(&bytes(&w, element), n, k, element).expect("w");
            let (a, w) = (reference::matrix(m, k, &a), reference::matrix(n, k, &w));
            let magnitudes = reference::linear(&a.abs(), &w.abs(), None);
            let c = gpu.zeros(m, n).expect("c");
            gpu.linear_layer(&gpu_a, &gpu_w, None, &c, 0, false).expect("linear");
            check(
                &what,
                &gpu.download(&c).expect("c"),
                &reference::linear(&a, &w, None),
                |i, j| magnitudes[(i, j)],
                tolerance(k),
            );

            let (column, width) = (3, n + 8);
            let (before, bias) = (random.values(m * width, 1.0), random.values(n, 1.0));
            let c = gpu.upload(&before, m, width).expect("c");
            gpu.linear_layer(&gpu_a, &gpu_w, Some(&gpu.upload(&bias, 1, n).expect("bias")), &c, column, true)
                .expect("linear");
            let before = reference::matrix(m, width, &before);
            let bias: Vec<f64> = bias.iter().map(|&value| f64::from(value)).collect();
            let mut expected = before.clone();
            let mut inside = expected.columns_mut(column, n);
            inside += reference::linear(&a, &w, Some(&bias));
            // Columns beside the result must not change at all.
            let scale = |i: usize, j: usize| {
                if (column..column + n).contains(&j) {
                    magnitudes[(i, j - column)] + bias[j - column].abs() + before[(i, j)].abs()
                } else {
                    0.0
                }
            };
            check(&format!("{what}, with bias, added"), &gpu.download(&c).expect("c"), &expected, scale, tolerance(k));
        }
    }
    assert!(gpu.compiled().iter().any(|(name, _)| *name == "gemm_f16_matrix"));
}

#[test]
fn factors_are_rounded_to_f16_and_no_more_and_stop_at_its_largest_number() {
    let Some(gpu) = matrix_gpu() else { return };
    let (m, n, k) = (70, 40, 200);
    let mut random = Random::new(7);
    let (mut a, w) = (random.values(m * k, 1.0), random.values(n * k, 0.3));
    let gpu_w = gpu.upload(&w, n, k).expect("w");
    let w = reference::matrix(n, k, &w);
    for massive in [false, true] {
        if massive {
            (a[3], a[k + 7]) = (1e6, -2e9);
        }
        let c = gpu.zeros(m, n).expect("c");
        gpu.linear_layer(&gpu.upload(&a, m, k).expect("a"), &gpu_w, None, &c, 0, false).expect("linear");
        let a = reference::matrix(m, k, &a).map(|value| value.clamp(-65504.0, 65504.0));
        let magnitudes = reference::linear(&a.abs(), &w.abs(), None);
        // Both factors may be truncated to the 11 bits of f16; values below 2^-14 may become zero.
        let scale = |i: usize, j: usize| magnitudes[(i, j)] + a.row(i).abs().sum() / 16.0 + w.row(j).abs().sum() / 16.0;
        check(
            "rounded factors",
            &gpu.download(&c).expect("c"),
            &reference::linear(&a, &w, None),
            scale,
            2.0 / 1024.0 + tolerance(k),
        );
    }
}

#[test]
fn covariances_and_plain_products_are_the_same_bits_in_every_precision() {
    let Some(gpu) = matrix_gpu() else { return };
    let values = Random::new(9).values(200 * 100, 1.0);
    let results = [gpu, support::gpu_unlimited()].map(|gpu| {
        let (a, b) = (gpu.upload(&values, 200, 100).expect("a"), gpu.upload(&values, 100, 200).expect("b"));
        let c = gpu.zeros(200, 200).expect("c");
        gpu.linear(&a, &gpu.upload(&values, 200, 100).expect("w"), None, &c, 0, false).expect("linear");
        let [product, covariance] = [gpu.matmul(&a, &b).expect("product"), gpu.covariance(&a).expect("covariance")];
        assert!(gpu.compiled().iter().all(|(name, _)| *name != "gemm_f16_matrix"));
        let mut covariance = gpu.download(&covariance).expect("values");
        // The lower triangle means nothing.
        (0..100).for_each(|row| covariance[row * 100..row * 100 + row].fill(0.0));
        [gpu.download(&c).expect("values"), gpu.download(&product).expect("values"), covariance]
    });
    assert!(results[0] == results[1]);
}

#[test]
fn models_give_the_same_logits_as_in_f32_but_for_the_rounding_of_f16() {
    let Some(gpu) = matrix_gpu() else { return };
    for name in ["parity/llama_gqa_tied", "parity/opt_relu", "parity/phi_qk_layernorm"] {
        let path = support::fixture(name);
        let (model, rows) = (Model::open(&path).expect("a model"), support::tokens(&path.join("tokens.json")));
        let logits = [&gpu, &support::gpu()].map(|gpu| {
            let mut all = Vec::new();
            eval::logits(gpu, &model, &rows, &Silent, |_, values| {
                all.extend(values);
                Ok(())
            })
            .expect("logits");
            all
        });
        let error = support::relative_error(&logits[0], &logits[1]);
        assert!(error > 0.0 && error < 1e-2, "{name}: {error:e}");
    }
    assert!(gpu.compiled().iter().any(|(name, _)| *name == "gemm_f16_matrix"));
}

#[test]
fn no_kernel_for_matrix_units_is_compiled_in_f32() {
    let gpu = support::gpu();
    assert_eq!((gpu.precision(), gpu.matrix_units()), (Precision::F32, None));
    let (a, c) = (gpu.upload(&[1.0; 64 * 64], 64, 64).expect("a"), gpu.zeros(64, 64).expect("c"));
    gpu.linear_layer(&a, &a, None, &c, 0, false).expect("linear");
    let kernels = slicegpt_gpu::ops::kernels();
    let for_matrix_units =
        |name: &str| kernels.iter().any(|kernel| kernel.name == name && kernel.need() == Need::MatrixUnits);
    assert!(gpu.compiled().iter().all(|(name, _)| !for_matrix_units(name)), "{:?}", gpu.compiled());
    assert!(gpu.download(&c).expect("c").iter().all(|&value| value == 64.0));
}

#[test]
fn matrix_units_are_refused_where_no_more_than_every_adapter_has_is_asked_for() {
    let options = GpuOptions { precision: Precision::F16Matrix, downlevel_limits: true, ..GpuOptions::default() };
    assert!(matches!(Gpu::new(&options), Err(Error::Usage(message)) if message.contains("cooperative-matrix")));
}

/// What stands in for matrix units: a fragment of factors is where it lies, one of results has a row in each thread of
/// the subgroup.
const EMULATION: &str = "
alias Fragment = array<f32, SIZE>;
var<private> lane: u32;
fn load_left(at: u32, stride: u32) -> u32 { return at + lane * stride; }
fn load_right(at: u32, stride: u32) -> vec2<u32> { return vec2(at, stride); }
fn load_results(at: u32, stride: u32) -> Fragment {
    var row: Fragment;
    for (var i = 0u; i < SIZE; i += 1u) { row[i] = results[at + lane * stride + i]; }
    return row;
}
fn store_fragment(fragment: Fragment, at: u32, stride: u32) {
    var row = fragment;
    for (var i = 0u; i < SIZE; i += 1u) { results[at + lane * stride + i] = row[i]; }
}
fn multiply_add(left: u32, right: vec2<u32>, sums: Fragment) -> Fragment {
    var row = sums;
    for (var i = 0u; i < SIZE; i += 1u) {
        for (var k = 0u; k < SIZE; k += 1u) { row[i] += tile_left[left + k] * tile_right[right.x + i * right.y + k]; }
    }
    return row;
}
";

/// The kernel with emulated matrix units, in subgroups of this many threads.
fn emulated(kernel: &Kernel, size: u32, subgroup: u32) -> Kernel {
    let matrix = format!("coop_mat{size}x{size}");
    let source = [
        ("enable f16;", ""),
        ("enable wgpu_cooperative_matrix;", ""),
        ("f16>(select", "f32>(select"),
        ("-> vec4<f16>", "-> vec4<f32>"),
        ("array<f16, TILE", "array<f32, TILE"),
        (&format!("coopLoadT<{matrix}<f16, A>>(&tile_left["), "load_left("),
        (&format!("coopLoad<{matrix}<f16, B>>(&tile_right["), "load_right("),
        (&format!("coopLoadT<{matrix}<f32, C>>(&results["), "load_results("),
        (&format!("{matrix}<f32, C>"), "Fragment"),
        ("], STRIDE)", ", STRIDE)"),
        ("], SIZE)", ", SIZE)"),
        ("coopStoreT(", "store_fragment("),
        ("&results[", ""),
        ("], ROUND_COLUMNS)", ", ROUND_COLUMNS)"),
        ("coopMultiplyAdd(", "multiply_add("),
        (
            ", @builtin(subgroup_id) subgroup: u32) {",
            &format!(") {{\n    let subgroup = index / {subgroup}u;\n    lane = index % SIZE;"),
        ),
    ]
    .into_iter()
    .fold(kernel.source.to_owned(), |source, (from, to)| {
        assert!(source.contains(from), "{from}");
        source.replace(from, to)
    });
    assert!(!source.contains("coop") && !source.contains("f16>"), "{source}");
    Kernel { source: Box::leak((source + EMULATION).into_boxed_str()), ..kernel.clone() }
}

#[test]
fn the_kernels_are_right_on_every_adapter_when_matrix_units_are_emulated() {
    let gpu = support::gpu_unlimited();
    let kernels: Vec<_> =
        slicegpt_gpu::ops::kernels().into_iter().filter(|kernel| kernel.need() == Need::MatrixUnits).collect();
    assert_eq!(kernels.len(), 3 * MatrixUnits::ALL.len());
    for kernel in kernels {
        let size = if kernel.source.contains("coop_mat16x16") { 16 } else { 8 };
        let element = match kernel.source {
            source if source.contains("stored as f32") => ElementType::F32,
            source if source.contains("stored as bf16") => ElementType::Bf16,
            _ => ElementType::F16,
        };
        let threads = kernel.constants[0].1;
        // Four subgroups, and more than work. Compiling takes seconds: not all with all.
        let subgroups = match (element, threads) {
            (ElementType::F32, 128) => vec![threads / 4, threads / 8],
            (ElementType::F32, _) => vec![threads / 4],
            (ElementType::F16, _) if !gpu.unpacks_f16() => vec![],
            (_, 128) if size == 16 => vec![threads / 4],
            _ => vec![],
        };
        for subgroup in subgroups {
            let kernel = emulated(&kernel, size, subgroup);
            for (m, n, k) in [(5, 8, 3), (17, 15, 33), (65, 130, 70)] {
                let mut random = Random::new((m * n + k) as u64);
                let (a, w, bias) =
                    (exact(random.values(m * k, 1.0)), exact(random.values(n * k, 0.3)), random.values(n, 1.0));
                let (before, column, width) = (random.values(m * (n + 8), 1.0), 3, n + 8);
                let gpu_a = gpu.upload(&a, m, k).expect("a");
                let gpu_w = gpu.upload_bytes(&bytes(&w, element), n, k, element).expect("w");
                let (gpu_bias, c) = (gpu.upload(&bias, 1, n).expect("bias"), gpu.upload(&before, m, width).expect("c"));
                let k4 = k.div_ceil(4);
                let params = [m, n, k4, k4, k4, c.stride(), column, 0, 1, 1, 0, 0].map(|value| value as u32);
                let grid = [n.div_ceil(64) as u32, m.div_ceil(64) as u32, 1];
                let bindings = [(&gpu_a).into(), (&gpu_w).into(), (&gpu_bias).into(), (&c).into()];
                gpu.dispatch(&kernel, &params, &bindings, grid, (m * n * k) as u64).expect("a dispatch");
                let (a, w, before) =
                    (reference::matrix(m, k, &a), reference::matrix(n, k, &w), reference::matrix(m, width, &before));
                let bias: Vec<f64> = bias.iter().map(|&value| f64::from(value)).collect();
                let magnitudes = reference::linear(&a.abs(), &w.abs(), None);
                let mut expected = before.clone();
                let mut inside = expected.columns_mut(column, n);
                inside += reference::linear(&a, &w, Some(&bias));
                let scale = |i: usize, j: usize| {
                    if (column..column + n).contains(&j) {
                        magnitudes[(i, j - column)] + bias[j - column].abs() + before[(i, j)].abs()
                    } else {
                        0.0
                    }
                };
                let what = format!("{size}, {threads} threads in subgroups of {subgroup}, [{m}, {n}, {k}] {element:?}");
                check(&what, &gpu.download(&c).expect("c"), &expected, scale, tolerance(k));
            }
        }
    }
}
