//! Statistics, and the figures and flags that follow from a row's samples.

use slicegpt_gpu::bench::{Bound, Row, Unit, median, spread, throttles};

use crate::{row, run};

#[test]
fn the_median_is_the_middle_or_halfway_between_the_two_in_the_middle() {
    assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    assert_eq!(median(&[4.0, 1.0, 2.0, 10.0]), 3.0);
    assert_eq!(median(&[7.0]), 7.0);
}

#[test]
fn one_disturbed_repetition_moves_neither_median_nor_spread_much() {
    let samples = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 100.0];
    assert_eq!((median(&samples), spread(&samples)), (1.0, 0.0));
}

#[test]
fn the_spread_is_half_the_distance_between_the_quartiles_over_the_median() {
    // Quartiles of 1 to 5 are 2 and 4.
    assert!((spread(&[5.0, 3.0, 1.0, 2.0, 4.0]) - 1.0 / 3.0).abs() < 1e-15);
    // Of two values they lie a quarter inside.
    assert!((spread(&[1.0, 2.0]) - 0.25 / 1.5).abs() < 1e-15);
}

#[test]
fn a_series_throttles_if_its_last_third_is_over_five_percent_slower() {
    let thirds = |last: f64| [1.0, 1.0, 1.0, 1.02, 1.02, 1.02, last, last, last];
    assert!(throttles(&thirds(1.06)));
    assert!(!throttles(&thirds(1.04)));
    assert!(!throttles(&thirds(0.9)), "getting faster is no throttling");
    assert!(!throttles(&[1.0, 1.0, 2.0]), "too short to tell");
}

#[test]
fn rates_are_those_of_the_median_in_the_rows_unit() {
    for (unit, rate) in [(Unit::Gflops, 2.0), (Unit::Gbytes, 2.0), (Unit::Tokens, 200.0), (Unit::Solves, 200.0)] {
        let mut row = row("x", 0.5);
        row.unit = unit;
        row.samples[0] = 50.0;
        row.derive(Default::default());
        let figures = row.figures.expect("a valid row");
        assert_eq!((figures.rate, figures.median_seconds, figures.percent_of_peak), (rate, 0.5, None), "{unit:?}");
    }
}

#[test]
fn percentages_are_of_the_probe_that_bounds_the_row() {
    let bound = |name: &str, bound, seconds| {
        let mut row = row(name, seconds);
        row.bound = bound;
        row
    };
    let rows = vec![
        bound("probe/fma", Bound::Compute, 0.1),
        bound("probe/copy", Bound::Bandwidth, 0.2),
        bound("compute", Bound::Compute, 0.4),
        bound("bandwidth", Bound::Bandwidth, 0.4),
        bound("neither", Bound::Nothing, 0.4),
    ];
    let percents: Vec<_> = run("a GPU", rows.clone())
        .rows
        .iter()
        .map(|row| row.figures.and_then(|figures| figures.percent_of_peak))
        .collect();
    let rounded: Vec<_> = percents.into_iter().map(|percent| percent.map(f64::round)).collect();
    assert_eq!(rounded, [Some(100.0), Some(100.0), Some(25.0), Some(50.0), None]);

    let mut wrong = rows;
    wrong[0].check.as_mut().expect("a check").error = Some(1.0);
    assert_eq!(
        run("a GPU", wrong).rows[2].figures.expect("valid").percent_of_peak,
        None,
        "a probe that computes nonsense is no peak"
    );
}

#[test]
fn unstable_and_throttling_series_are_flagged() {
    let flags = |samples: Vec<f64>| {
        let mut row = row("x", 1.0);
        row.samples = samples;
        row.derive(Default::default());
        row.flags()
    };
    assert!(flags(vec![1.0; 9]).is_empty());
    assert_eq!(flags(vec![0.9, 1.1, 0.9, 1.1, 0.9, 1.1]), ["unstable"]);
    assert_eq!(flags(vec![1.0, 1.0, 1.0, 1.08, 1.08, 1.08]), ["throttling"]);
    assert_eq!(flags(vec![1.0, 1.0, 1.0, 1.2, 1.2, 1.2]), ["unstable", "throttling"]);
}

#[test]
fn a_row_whose_check_fails_has_no_figures() {
    let mut wrong = row("x", 1.0);
    let check = wrong.check.as_mut().expect("a check");
    check.error = Some(2e-5);
    wrong.derive(Default::default());
    assert!(!wrong.valid && wrong.figures.is_none());
    assert!(wrong.complaint().expect("a complaint").contains("error 2.0e-5, allowed 1.0e-5"));

    wrong.check.as_mut().expect("a check").error = None;
    wrong.derive(Default::default());
    assert!(!wrong.valid && wrong.complaint().expect("a complaint").contains("no numbers"));

    let spoiled: [fn(&mut Row); 3] =
        [|row| row.check = None, |row| row.samples.clear(), |row| row.problem = Some("too large".into())];
    for spoil in spoiled {
        let mut row = row("x", 1.0);
        spoil(&mut row);
        row.derive(Default::default());
        assert!(!row.valid && row.figures.is_none() && row.complaint().is_some(), "{row:?}");
    }
}

#[test]
fn ratios_compare_the_rows_they_name_and_need_both_to_be_valid() {
    let names = [
        "gemm-naive/f32/512x768x768",
        "gemm/f32/512x768x768",
        "layer/llama-2-7b/decode/dense",
        "layer/llama-2-7b/decode/sliced-25",
    ];
    let mut rows: Vec<_> = names.iter().zip([9.0, 1.0, 1.0, 0.8]).map(|(name, seconds)| row(name, seconds)).collect();
    // A quarter more bytes are promised to make it a quarter faster, which it is.
    rows[2].work.bytes = 1.25e9;
    let ratios = run("a GPU", rows.clone()).ratios;
    let told: Vec<_> =
        ratios.iter().map(|ratio| (ratio.value.round(), ratio.unit, ratio.target, ratio.met())).collect();
    assert_eq!(told, [(9.0, "x", Some(8.0), Some(true)), (100.0, "%", Some(93.0), Some(true))]);

    // A gradient is to take no more than two and a half times as long.
    let gradient = |seconds| {
        let rows = [("backward/f32/512x3072x768", seconds), ("gemm/f32/512x3072x768", 1.0)];
        run("a GPU", rows.map(|(name, seconds)| row(name, seconds)).to_vec()).ratios[0].met()
    };
    assert_eq!((gradient(2.4), gradient(2.6)), (Some(true), Some(false)));

    rows[0].samples = vec![7.0; 10];
    assert_eq!(run("a GPU", rows.clone()).ratios[0].met(), Some(false));
    rows[0].check = None;
    assert_eq!(run("a GPU", rows).ratios.len(), 1);
}
