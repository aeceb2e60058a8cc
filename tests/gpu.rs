//! Is GPU memory used again without anyone noticing, counted to the byte and held below its ceiling; are dispatches
//! timed?

mod support;

use slicegpt_gpu::{
    Error,
    gpu::{Gpu, GpuOptions},
    ops::Norm,
};

fn gpu() -> Gpu {
    Gpu::new(&GpuOptions::default()).expect("an adapter")
}

#[test]
fn memory_that_was_given_back_is_used_again() {
    let gpu = gpu();
    for _ in 0..100 {
        let x = gpu.zeros(300, 300).expect("x");
        let _ = gpu.norm(Norm::Rms, &x, None, None, 300, 1e-5).expect("y");
    }
    let matrix = 300 * 300 * 4;
    assert!(
        (2 * matrix..3 * matrix).contains(&gpu.memory().peak),
        "{:?} where two matrices of {matrix} bytes are in use",
        gpu.memory()
    );
}

#[test]
fn memory_used_again_is_zero_where_zeros_are_promised() {
    let gpu = gpu();
    let ones = gpu.upload(&[1.0; 70 * 66], 70, 66).expect("ones");
    drop(ones);
    let zeros = gpu.zeros(70, 66).expect("zeros");
    assert!(gpu.download(&zeros).expect("values").iter().all(|&value| value == 0.0));
    drop(gpu.upload(&[1.0; 70 * 68], 70, 68).expect("ones"));
    // 66 columns leave two of padding, which the energy of the rows would show.
    let x = gpu.unfilled(70, 66).expect("unfilled");
    let w = gpu.upload(&[0.0; 66], 66, 1).expect("w");
    gpu.linear(&gpu.zeros(70, 1).expect("a"), &w, None, &x, 0, false).expect("linear");
    assert!(gpu.download(&gpu.energy(&x).expect("energy")).expect("values").iter().all(|&value| value == 0.0));
}

#[test]
fn an_upload_does_not_overtake_the_work_that_still_reads_the_memory() {
    // Small uploads are recorded among the work, large ones go ahead of it once it is submitted.
    for size in [64, 160] {
        let gpu = gpu();
        let first: Vec<f32> = (0..size * size).map(|i| i as f32).collect();
        let identity: Vec<f32> = (0..size * size).map(|i| if i / size == i % size { 1.0 } else { 0.0 }).collect();
        let identity = gpu.upload(&identity, size, size).expect("identity");
        let mut results = Vec::new();
        for round in 0..20 {
            // Not submitted yet when the next round writes into the memory that `x` gives back here.
            let x =
                gpu.upload(&first.iter().map(|value| value + round as f32).collect::<Vec<_>>(), size, size).expect("x");
            let y = gpu.zeros(size, size).expect("y");
            gpu.linear(&x, &identity, None, &y, 0, false).expect("linear");
            results.push(y);
        }
        for (round, y) in results.iter().enumerate() {
            let values = gpu.download(y).expect("values");
            assert!(
                values.iter().zip(&first).all(|(found, value)| *found == value + round as f32),
                "size {size}, round {round}"
            );
        }
    }
}

#[test]
fn a_ceiling_on_memory_is_kept_and_named() {
    let ceiling = 4 << 20;
    let gpu = Gpu::new(&GpuOptions { max_memory: Some(ceiling), ..GpuOptions::default() }).expect("an adapter");
    // What is free is given up before anything is refused.
    for size in [300, 500, 700, 900] {
        gpu.zeros(size, size).expect("below the ceiling");
    }
    let held = gpu.zeros(900, 900).expect("below the ceiling");
    match gpu.zeros(600, 600) {
        Err(Error::OutOfMemory(message)) => assert!(message.contains("--max-gpu-memory"), "{message}"),
        other => panic!("{other:?}"),
    }
    drop(held);
    gpu.zeros(600, 600).expect("below the ceiling again");
    assert!(gpu.memory().peak <= ceiling, "{:?}", gpu.memory());
}

#[test]
fn buffers_wait_for_use_again_within_the_plan_alone_and_the_plan_refuses_nothing() {
    let mut gpu = Gpu::new(&GpuOptions::default()).expect("an adapter");
    let planned = 4 << 20;
    gpu.set_planned_memory(Some(planned));
    // No two of a size that one could do for the other: 10.8 MB, were all of them kept.
    for size in [300, 500, 700, 900, 1000] {
        gpu.zeros(size, size).expect("below the plan");
    }
    assert!(gpu.memory().peak <= planned, "{:?}", gpu.memory());
    let live = [gpu.zeros(900, 900), gpu.zeros(1000, 1000)].map(|matrix| matrix.expect("a plan is no ceiling"));
    assert!(gpu.memory().held > planned && live.iter().all(|matrix| matrix.rows() >= 900), "{:?}", gpu.memory());
}

#[test]
fn short_submits_change_no_bit() {
    // In one piece, and in three of which the last has so few rows that alone it would be another kernel's.
    let (m, n, k) = (130, 3000, 3000);
    let values = |count: usize| (0..count).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>();
    let products = [false, true].map(|short_submits| {
        let gpu = Gpu::new(&GpuOptions { short_submits, ..GpuOptions::default() }).expect("an adapter");
        let (a, w) = (gpu.upload(&values(m * k), m, k).expect("a"), gpu.upload(&values(n * k), n, k).expect("w"));
        let c = gpu.zeros(m, n).expect("c");
        gpu.linear(&a, &w, None, &c, 0, false).expect("linear");
        gpu.download(&c).expect("values")
    });
    assert!(products[0] == products[1]);
}

#[test]
fn a_product_without_room_to_measure_it_is_computed_all_the_same() {
    let cache = tempfile::tempdir().expect("a directory");
    let options = GpuOptions {
        max_memory: Some(6 << 20),
        measure_at_once: true,
        cache: Some(cache.path().into()),
        ..GpuOptions::default()
    };
    let gpu = Gpu::new(&options).expect("an adapter");
    let (a, w, c) = (gpu.zeros(600, 600).expect("a"), gpu.zeros(600, 600).expect("w"), gpu.zeros(600, 600).expect("c"));
    let filler = gpu.zeros(500, 500).expect("a filler");
    gpu.linear(&a, &w, None, &c, 0, false).expect("a product");
    drop(filler);
    assert!(std::fs::read_dir(cache.path()).expect("a directory").next().is_none(), "nothing was measured");
}

#[test]
fn dispatches_are_timed_in_order_by_the_name_of_their_kernel() {
    let gpu = gpu();
    let x = gpu.zeros(256, 256).expect("x");
    gpu.start_trace().expect("trace");
    let y = gpu.norm(Norm::Rms, &x, None, None, 256, 1e-5).expect("norm");
    gpu.matmul(&y, &x).expect("product");
    let spans = gpu.take_spans().expect("spans");
    if !gpu.has_timestamps() {
        assert!(spans.is_empty() && gpu.clock().expect("clock").is_none());
        return;
    }
    assert_eq!(spans.iter().map(|span| (span.kernel, span.work)).collect::<Vec<_>>()[1], ("gemm", 256 * 256 * 256));
    assert_eq!(spans.len(), 2, "{spans:?}");
    assert!(spans.iter().all(|span| span.start_ns < span.end_ns) && spans[0].end_ns <= spans[1].start_ns, "{spans:?}");
    assert!(gpu.clock().expect("clock").is_some_and(|now| now > spans[1].end_ns));
    assert!(gpu.take_spans().expect("spans").is_empty());
}
