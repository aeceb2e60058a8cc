//! Are dispatches and steps on the CPU drawn on one clock, and summed?

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;
use slicegpt_gpu::{
    gpu::Span,
    trace::{Trace, Track},
};

#[test]
fn dispatches_are_drawn_beside_the_steps_on_the_cpu_that_ran_meanwhile() {
    let mut trace = Trace::default();
    let began = Instant::now();
    sleep(Duration::from_millis(20));
    // The GPU's clock counts from elsewhere: it says 5 s, and the dispatch ended 10 ms before.
    trace.align(5_000_000_000);
    trace.record(Track::Cpu, "wait", began);
    let span = |start_ns, end_ns| Span { kernel: "gemm", start_ns, end_ns, work: 7 };
    trace.dispatches(&[span(4_985_000_000, 4_990_000_000), span(4_990_000_000, 4_991_500_000)]);

    let mut text = Vec::new();
    trace.write(&mut text).expect("a trace");
    let json: Value = serde_json::from_slice(&text).expect("JSON");
    let events = json["traceEvents"].as_array().expect("a list");
    let of = |name: &str| events.iter().filter(|event| event["name"] == name).collect::<Vec<_>>();
    let time = |event: &Value, field: &str| event[field].as_f64().expect("microseconds");
    let (wait, gemms) = (of("wait")[0], of("gemm"));
    assert_eq!((gemms.len(), time(gemms[0], "dur"), gemms[0]["args"]["multiply_adds"].as_u64()), (2, 5000.0, Some(7)));
    let (start, end) = (time(wait, "ts"), time(wait, "ts") + time(wait, "dur"));
    assert!(start <= time(gemms[0], "ts") && time(gemms[1], "ts") + 1500.0 <= end, "{json}");
    assert!(wait["tid"] != gemms[0]["tid"], "{json}");

    let totals = trace.totals();
    assert!(
        (totals.gpu["gemm"] - 0.0065).abs() < 1e-12 && totals.cpu["wait"] >= 0.02 && totals.wall >= totals.cpu["wait"],
        "{totals:?}"
    );
    assert!((json["otherData"]["gpu"]["gemm"].as_f64().expect("seconds") - 0.0065).abs() < 1e-12, "{json}");
    assert!(totals.summary().contains("GPU busy 0.01 s (gemm 100.0 %)"), "{}", totals.summary());
}
