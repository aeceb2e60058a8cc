//! The table of workloads, which of them a call runs, and that checks find errors.

use slicegpt_gpu::{
    Error,
    bench::{self, Budget, Case, Gradient, WORKLOADS, Workload, select},
    progress::Silent,
};

use crate::support;

fn names(workloads: &[&Workload]) -> Vec<&'static str> {
    workloads.iter().map(|workload| workload.name).collect()
}

fn strings(filters: &[&str]) -> Vec<String> {
    filters.iter().map(|&filter| filter.to_owned()).collect()
}

#[test]
fn names_are_unique() {
    let mut names = names(&WORKLOADS.iter().collect::<Vec<_>>());
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn filters_choose_by_parts_of_names_and_always_keep_the_probes() {
    let probes = ["probe/fma", "probe/copy"];
    assert_eq!(names(&select(&strings(&["probe"]), false, true).expect("probes")), probes);
    let chosen = select(&strings(&["eigh/1024", "gemm/f32/4096"]), true, true).expect("two");
    assert_eq!(
        names(&chosen),
        ["probe/fma", "probe/copy", "gemm/f32/4096x4096x4096", "eigh/1024"],
        "what is named runs, quick or not, software or not"
    );
    match select(&strings(&["eigh", "no such"]), false, false) {
        Err(Error::Usage(message)) => assert!(message.contains("no such"), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn quick_is_a_part_of_full_and_software_adapters_are_spared_the_largest() {
    let chosen = |quick, software| names(&select(&[], quick, software).expect("a choice"));
    let (quick, software, all) = (chosen(true, false), chosen(false, true), chosen(false, false));
    assert!(quick.len() < software.len() && software.len() < all.len() && all.len() == WORKLOADS.len());
    assert!(quick.iter().all(|name| software.contains(name)) && software.iter().all(|name| all.contains(name)));
    assert_eq!(quick, chosen(true, true));
}

/// The row of a workload that is not in the table, measured three times.
fn measured(name: &'static str, case: Case) -> bench::Row {
    let gpu = support::gpu_unlimited();
    let workload = Workload { name, what: "small", case, when: bench::When::Quick };
    let mut row =
        bench::run(&gpu, &[&workload], Budget { least: 3, most: 3, seconds: 0.0 }, &Silent).expect("a row").remove(0);
    row.derive(Default::default());
    row
}

#[test]
fn every_kind_of_workload_passes_its_check_and_is_measured() {
    use bench::{LayerSlicing::*, Product::*};
    use slicegpt_gpu::gpu::ElementType::{F16, F32};
    let cases = [
        ("gemm", Case::Gemm { kernel: Shared, m: 65, n: 70, k: 130, weights: F16 }),
        ("gemv", Case::Gemm { kernel: Shared, m: 1, n: 70, k: 130, weights: F16 }),
        ("best", Case::Gemm { kernel: Best, m: 65, n: 70, k: 130, weights: F32 }),
        ("naive", Case::Gemm { kernel: Naive, m: 33, n: 20, k: 50, weights: F32 }),
        ("covariance", Case::Covariance { width: 70, tokens: 100 }),
        ("eigh", Case::Eigh { width: 60 }),
        ("attention", Case::Attention { heads: 4, kv_heads: 2, head_dim: 16, tokens: 70, past: 0, window: None }),
        ("decoding", Case::Attention { heads: 4, kv_heads: 2, head_dim: 16, tokens: 1, past: 70, window: None }),
        ("window", Case::Attention { heads: 4, kv_heads: 2, head_dim: 16, tokens: 70, past: 0, window: Some(9) }),
        ("norm", Case::Norm { tokens: 7, width: 70 }),
        ("activation", Case::Activation { tokens: 7, width: 70 }),
        ("backward", Case::Backward(Gradient::Linear { m: 33, n: 20, k: 50 })),
        ("backward", Case::Backward(Gradient::Norm { tokens: 7, width: 70 })),
        ("backward", Case::Backward(Gradient::Activation { tokens: 7, width: 70 })),
        (
            "backward",
            Case::Backward(Gradient::Attention { heads: 4, kv_heads: 2, head_dim: 16, tokens: 70, window: None }),
        ),
        (
            "backward",
            Case::Backward(Gradient::Attention { heads: 3, kv_heads: 3, head_dim: 6, tokens: 70, window: Some(9) }),
        ),
        ("layer/opt-125m", Case::Layer { tokens: 20, past: 0, slicing: Dense }),
        ("layer/opt-125m", Case::Layer { tokens: 20, past: 0, slicing: Sliced }),
        ("layer/tinyllama-1.1b", Case::Layer { tokens: 20, past: 0, slicing: WithoutShortcuts }),
        ("layer/tinyllama-1.1b", Case::Layer { tokens: 1, past: 20, slicing: Sliced }),
    ];
    for (name, case) in cases {
        let row = measured(name, case);
        assert!(row.valid && row.samples.len() == 3, "{case:?}: {:?}", row.complaint());
        let check = row.check.expect("a check");
        assert!(
            check.values > 0 && check.error.is_some_and(|error| error > 0.0),
            "{case:?}: {check:?} compares nothing"
        );
    }
}

#[test]
fn work_is_counted_by_the_formula() {
    use bench::{LayerSlicing::*, Product::Shared};
    let work = |name, case| measured(name, case).work;
    let gemm =
        work("gemm", Case::Gemm { kernel: Shared, m: 2, n: 3, k: 8, weights: slicegpt_gpu::gpu::ElementType::F16 });
    assert_eq!((gemm.flops, gemm.bytes), (96.0, (4 * 16 + 2 * 24 + 4 * 6) as f64));
    assert_eq!(work("covariance", Case::Covariance { width: 4, tokens: 5 }).flops, 2.0 * 10.0 * 5.0);
    // Three tokens that see two, three and four; two products of eight multiply-adds each.
    let attention =
        work("attention", Case::Attention { heads: 2, kv_heads: 1, head_dim: 4, tokens: 3, past: 1, window: None });
    assert_eq!(attention.flops, (2 + 3 + 4) as f64 * 2.0 * 2.0 * 8.0);
    // In a window of three they see two, three and three.
    let window = Some(3);
    let windowed =
        work("attention", Case::Attention { heads: 2, kv_heads: 1, head_dim: 4, tokens: 3, past: 1, window });
    assert_eq!(windowed.flops, (2 + 3 + 3) as f64 * 2.0 * 2.0 * 8.0);
    // Of the gradient, five products where attention has two, and two where a linear layer has one.
    let gradient = Gradient::Attention { heads: 2, kv_heads: 1, head_dim: 4, tokens: 3, window: None };
    assert_eq!(work("backward", Case::Backward(gradient)).flops, (1 + 2 + 3) as f64 * 5.0 * 2.0 * 8.0);
    let linear = Case::Backward(Gradient::Linear { m: 2, n: 3, k: 8 });
    assert_eq!(work("backward", linear).flops, 2.0 * gemm.flops);
    // Four matrices of width², two of width by four widths, as OPT has them; a quarter of the residual's coordinates
    // less, and two shortcuts more.
    let (dense, sliced) =
        [Dense, Sliced].map(|slicing| work("layer/opt-125m", Case::Layer { tokens: 2, past: 0, slicing })).into();
    let attended = 4.0 * 3.0 * 768.0;
    assert_eq!(dense.flops, 2.0 * 2.0 * (12 * 768 * 768) as f64 + attended);
    assert_eq!(sliced.flops, 2.0 * 2.0 * (12 * 768 * 576 + 2 * 576 * 576) as f64 + attended);
}

#[test]
fn workloads_that_a_ratio_compares_are_measured_in_turns() {
    let groups = bench::groups(&WORKLOADS.iter().collect::<Vec<_>>());
    let with = |name: &str| {
        let group = groups.iter().find(|group| group.iter().any(|workload| workload.name == name)).expect("a group");
        names(group)
    };
    assert_eq!(
        with("gemm-naive/f32/512x768x768"),
        ["gemm/f32/512x768x768", "gemm-best/f32/512x768x768", "gemm-naive/f32/512x768x768"]
    );
    assert_eq!(with("gemm/square/2048"), ["covariance/2048", "gemm/square/2048"]);
    assert_eq!(with("layer/llama-2-7b/decode/dense").len(), 3);
    assert_eq!(with("eigh/1024"), ["eigh/1024"]);
    assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), WORKLOADS.len());
}

#[test]
fn one_workload_that_cannot_run_does_not_stop_the_others() {
    // The second needs a larger binding than this device has.
    let gpu = support::gpu_with(Some(1 << 16));
    let workload = |name, case| Workload { name, what: "", case, when: bench::When::Quick };
    let small = workload("small", Case::Eigh { width: 10 });
    let large = workload("large", Case::Copy);
    let budget = Budget { least: 3, most: 3, seconds: 0.0 };
    let mut rows = bench::run(&gpu, &[&large, &small], budget, &Silent).expect("rows");
    rows.iter_mut().for_each(|row| row.derive(Default::default()));
    assert!(!rows[0].valid && rows[0].complaint().is_some_and(|why| why.contains("binding")), "{:?}", rows[0]);
    assert!(rows[1].valid, "{:?}", rows[1]);
}
