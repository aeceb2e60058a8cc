//! Does the bench measure what it says, and say what it measured?

mod formats;
mod program;
mod recordings;
mod series;
#[path = "../support/mod.rs"]
mod support;
mod workloads;

use slicegpt_gpu::bench::{
    Adapter, AdapterRun, Bound, Check, Clock, Machine, Recording, Row, SCHEMA_VERSION, Tool, Unit, Work,
};

/// A row of ten repetitions of a gigaflop and a gigabyte in `seconds`.
fn row(name: &str, seconds: f64) -> Row {
    Row {
        name: name.into(),
        what: "made up".into(),
        sizes: [("m".to_owned(), 512)].into(),
        unit: Unit::Gflops,
        bound: Bound::Compute,
        work: Work { flops: 1e9, bytes: 1e9, items: 100.0 },
        configuration: None,
        clock: Clock::WallClock,
        executions_per_sample: 1,
        samples: vec![seconds; 10],
        check: Some(Check { what: "made up".into(), values: 64, error: Some(1e-6), tolerance: 1e-5 }),
        problem: None,
        valid: false,
        figures: None,
    }
}

fn run(name: &str, rows: Vec<Row>) -> AdapterRun {
    let adapter = Adapter {
        name: name.into(),
        vendor: "Nobody".into(),
        device_type: "discrete".into(),
        backend: "vulkan".into(),
        driver: "1, \"beta\"".into(),
        software: false,
        limits: [("max_buffer_size".to_owned(), 1 << 30)].into(),
        features: vec!["timestamp-query".into()],
    };
    let mut run = AdapterRun {
        adapter,
        configurations: [("gemm".to_owned(), "8x8/64".to_owned())].into(),
        rows,
        ratios: Vec::new(),
    };
    run.derive();
    run
}

fn recording(adapters: Vec<AdapterRun>) -> Recording {
    let machine = Machine {
        os: "an OS".into(),
        arch: "x86_64".into(),
        cpu: Some("a CPU | of sorts".into()),
        cores: 2,
        ram_bytes: Some(8 << 30),
    };
    Recording {
        schema_version: SCHEMA_VERSION,
        tool: Tool::this(),
        machine,
        quick: false,
        filters: Vec::new(),
        adapters,
    }
}
