//! route, clamped_swiglu and add_rows: which experts a token goes to, what one may have inside, and what the token
//! gets back; and the gradients of all that.

use slicegpt_gpu::{
    ops::{ClampedSwiglu, Routes},
    reference,
};

use crate::{
    check, download, error,
    support::{self, ROUNDOFF, Random},
    upload,
};

#[test]
fn route_finds_the_experts_and_gates_of_its_twin() {
    let gpu = support::gpu();
    for (tokens, experts, chosen, reason) in [
        (1, 1, 1, "the smallest"),
        (3, 6, 2, "few experts"),
        (70, 64, 8, "an expert a thread"),
        (5, 129, 8, "several experts a thread, one more for one of them"),
        (2, 300, 300, "all of them"),
        (66_000, 4, 1, "more tokens than a dimension of workgroups"),
    ] {
        for normalised in [false, true] {
            let values = Random::new(experts as u64).values(tokens * experts, 3.0);
            let routes = gpu.route(&upload(&gpu, &values, tokens, experts), chosen, normalised).expect("routes");
            let expected = reference::route(&reference::matrix(tokens, experts, &values), chosen, normalised);
            let (ids, gates): (Vec<u32>, Vec<f64>) = expected.into_iter().flatten().unzip();
            let what = format!("route {tokens} tokens to {chosen} of {experts}, normalised {normalised} ({reason})");
            assert_eq!(routes.ids, ids, "{what}");
            let worst = routes.gates.iter().zip(&gates).map(|(&found, gate)| (f64::from(found) - gate).abs() / gate);
            // exp of up to about 20 has that many roundings of its argument; then sums of positive numbers.
            check(&what, support::worst(worst), 64.0 * ROUNDOFF);
        }
    }
}

#[test]
fn of_equal_logits_the_experts_before_others_are_chosen() {
    let gpu = support::gpu();
    for (experts, chosen) in [(5, 3), (200, 70)] {
        let routes = gpu.route(&upload(&gpu, &vec![0.25; 2 * experts], 2, experts), chosen, true).expect("routes");
        let first: Vec<u32> = (0..chosen as u32).collect();
        assert_eq!(routes.ids, [first.clone(), first].concat());
        assert!(
            routes
                .gates
                .iter()
                .all(|&gate| (f64::from(gate) * chosen as f64 - 1.0).abs() < 2.0 * chosen as f64 * ROUNDOFF)
        );
    }
    // The same number three times, beside a larger and a smaller one, far apart.
    let mut logits = vec![-1.0; 130];
    for (expert, logit) in [(129, 2.0), (3, 1.0), (65, 1.0), (127, 1.0)] {
        logits[expert] = logit;
    }
    assert_eq!(gpu.route(&upload(&gpu, &logits, 1, 130), 5, false).expect("routes").ids, [129, 3, 65, 127, 0]);
}

#[test]
fn logits_far_apart_leave_gates_of_one_and_zero_and_those_that_are_no_numbers_are_refused() {
    let gpu = support::gpu();
    let route = |logits: &[f32], normalised| gpu.route(&upload(&gpu, logits, 1, logits.len()), 2, normalised);
    let routes = route(&[-3e4, 1e4, -1e4], true).expect("routes");
    assert_eq!((routes.ids, routes.gates), (vec![1, 2], vec![1.0, 0.0]));
    assert!(route(&[f32::NAN; 3], true).is_err());
    assert!(route(&[f32::INFINITY, 1.0, 2.0], false).is_err());
    let logits = upload(&gpu, &[0.0; 6], 2, 3);
    assert!(gpu.route(&logits, 4, true).is_err() && gpu.route(&logits, 0, true).is_err());
}

#[test]
fn add_rows_adds_to_its_targets_and_to_nothing_else() {
    let gpu = support::gpu();
    for (rows, width, all, reason) in [
        (1, 1, 1, "the smallest"),
        (0, 8, 3, "an expert without tokens"),
        (7, 50, 9, "padded rows"),
        (40, 300, 40, "all tokens, more than a workgroup adds of one"),
        (66_000, 3, 66_001, "more rows than a dimension of workgroups"),
    ] {
        let mut random = Random::new((rows * 1000 + width) as u64);
        let (values, before) = (random.values(rows * width, 1.0), random.values(all * width, 1.0));
        // Backwards: targets are in no order.
        let targets: Vec<(u32, f32)> = (0..rows).map(|row| ((all - 1 - row) as u32, random.normal())).collect();
        let y = upload(&gpu, &before, all, width);
        gpu.add_rows(&upload(&gpu, &values, rows, width), &y, &targets).expect("add_rows");
        let mut expected = reference::matrix(all, width, &before);
        let wide: Vec<(u32, f64)> = targets.iter().map(|&(target, gate)| (target, f64::from(gate))).collect();
        reference::add_rows(&reference::matrix(rows, width, &values), &mut expected, &wide);
        let most = expected.amax().max(1.0);
        let what = format!("add_rows [{rows}, {width}] to {all} ({reason})");
        check(&what, error(&download(&gpu, &y), &expected, |_, _| most), 4.0 * ROUNDOFF);
    }
}

#[test]
fn add_rows_refuses_targets_that_are_there_twice_or_not_at_all() {
    let gpu = support::gpu();
    let (x, y) = (upload(&gpu, &[1.0; 6], 2, 3), upload(&gpu, &[1.0; 12], 4, 3));
    for targets in [&[(1, 1.0), (1, 1.0)][..], &[(0, 1.0), (4, 1.0)], &[(0, 1.0)]] {
        assert!(gpu.add_rows(&x, &y, targets).is_err(), "{targets:?}");
    }
    assert!(gpu.add_rows(&x, &upload(&gpu, &[1.0; 8], 2, 4), &[(0, 1.0), (1, 1.0)]).is_err(), "another width");
}

#[test]
fn clamped_swiglu_is_that_of_its_twin() {
    let gpu = support::gpu();
    for (tokens, width, limit, reason) in [
        (1, 1, 1.0, "the smallest"),
        (5, 30, 1.5, "padded rows, limits that bite"),
        (3, 259, 7.0, "more values than a workgroup has"),
        (0, 8, 7.0, "no tokens"),
        (66_000, 3, 2.0, "more tokens than a dimension of workgroups"),
    ] {
        let kind = ClampedSwiglu { alpha: 1.702, limit };
        let values = Random::new((tokens + width) as u64).values(tokens * 2 * width, 3.0);
        let found =
            download(&gpu, &gpu.clamped_swiglu(kind, &upload(&gpu, &values, tokens, 2 * width)).expect("values"));
        let x = reference::matrix(tokens, 2 * width, &values);
        // The exponential rounds its argument, of up to about 30; what becomes small by it loses as much.
        let what = format!("clamped_swiglu [{tokens}, {width}], limit {limit} ({reason})");
        let most = f64::from(limit) * (f64::from(limit) + 1.0);
        check(&what, error(&found, &reference::clamped_swiglu(kind, &x), |_, _| most.max(1.0)), 32.0 * ROUNDOFF);
    }
    // Gates are clamped from above, and what they are multiplied by from both sides.
    let kind = ClampedSwiglu { alpha: 1.0, limit: 2.0 };
    let (gates, ups) = ([-200.0, -1e30, 1e30, 3.0, 1.0, 2.0], [0.0, 5.0, -9.0, 9.0, -2.5, -1.0]);
    let found = gpu.clamped_swiglu(kind, &upload(&gpu, &[gates, ups].concat(), 1, 12)).expect("values");
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let expected = [0.0, 0.0, -silu(2.0), 3.0 * silu(2.0), -silu(1.0), 0.0];
    let worst = support::worst(download(&gpu, &found).iter().zip(expected).map(|(a, b)| (a - b).abs()));
    assert!(worst < 1e-6, "off by {worst:.1e}");
    assert!(gpu.clamped_swiglu(kind, &upload(&gpu, &[0.0; 3], 1, 3)).is_err());
}

#[test]
fn gradients_of_routes_are_those_of_their_twin() {
    let gpu = support::gpu();
    for (tokens, experts, chosen, reason) in [
        (1, 1, 1, "the smallest"),
        (3, 6, 2, "few experts, padded rows"),
        (5, 5, 5, "all of them"),
        (70, 64, 8, "an expert a thread"),
        (5, 129, 70, "several experts and several chosen ones a thread"),
        (66_000, 4, 1, "more tokens than a dimension of workgroups"),
    ] {
        for normalised in [false, true] {
            let mut random = Random::new((experts + chosen) as u64);
            let values = random.values(tokens * experts, 3.0);
            let d = random.values(tokens * chosen, 1.0);
            let logits = upload(&gpu, &values, tokens, experts);
            let routes = gpu.route(&logits, chosen, normalised).expect("routes");
            let gpu_d = upload(&gpu, &d, 1, tokens * chosen);
            let found = gpu.route_backward(&logits, &routes, normalised, &gpu_d).expect("route_backward");
            let d: Vec<Vec<f64>> =
                d.chunks(chosen).map(|row| row.iter().map(|&value| f64::from(value)).collect()).collect();
            let twin = reference::matrix(tokens, experts, &values);
            let expected = reference::route_backward(&twin, chosen, normalised, &d);
            let what = format!("route_backward {tokens} tokens, {chosen} of {experts}, {normalised} ({reason})");
            // Gates have 64 roundings, d is up to 5, and a mean of as many as are chosen.
            check(&what, error(&download(&gpu, &found), &expected, |_, _| 10.0), (64.0 + chosen as f64) * ROUNDOFF);
        }
    }
    let (logits, d) = (upload(&gpu, &[0.0; 6], 2, 3), upload(&gpu, &[0.0; 4], 1, 4));
    let routes = gpu.route(&logits, 2, true).expect("routes");
    assert!(gpu.route_backward(&logits, &routes, true, &upload(&gpu, &[0.0; 4], 2, 2)).is_err(), "another shape");
    let outside = Routes { ids: vec![0, 3, 1, 2], ..routes };
    assert!(gpu.route_backward(&logits, &outside, true, &d).is_err(), "an expert that is not there");
}

#[test]
fn row_products_put_each_where_it_belongs_and_leave_the_rest() {
    let gpu = support::gpu();
    for (rows, width, all, reason) in [
        (1, 1, 1, "the smallest"),
        (0, 8, 3, "an expert without tokens"),
        (7, 50, 9, "padded rows"),
        (40, 300, 40, "several values a thread"),
        (66_000, 3, 66_001, "more rows than a dimension of workgroups"),
    ] {
        let mut random = Random::new((rows * 1000 + width) as u64);
        let [a, b] = [random.values(rows * width, 1.0), random.values(rows * width, 1.0)];
        let places: Vec<u32> = (0..rows).map(|row| (all - 1 - row) as u32).collect();
        let before = random.values(all, 1.0);
        let y = upload(&gpu, &before, 1, all);
        gpu.row_products(&upload(&gpu, &a, rows, width), &upload(&gpu, &b, rows, width), &places, &y)
            .expect("row_products");
        let mut expected = reference::matrix(1, all, &before);
        let [a, b] = [a, b].map(|values| reference::matrix(rows, width, &values));
        places.iter().zip(reference::row_products(&a, &b)).for_each(|(&at, value)| expected[(0, at as usize)] = value);
        let most = if rows == 0 { 1.0 } else { a.amax() * b.amax() * width as f64 };
        let what = format!("row_products [{rows}, {width}] to {all} ({reason})");
        check(&what, error(&download(&gpu, &y), &expected, |_, _| most.max(1.0)), 10.0 * ROUNDOFF);
    }
    let (a, y) = (upload(&gpu, &[1.0; 6], 2, 3), upload(&gpu, &[1.0; 4], 1, 4));
    for places in [&[1, 1][..], &[0, 4], &[0]] {
        assert!(gpu.row_products(&a, &a, places, &y).is_err(), "{places:?}");
    }
    assert!(gpu.row_products(&a, &upload(&gpu, &[1.0; 8], 2, 4), &[0, 1], &y).is_err(), "another width");
    assert!(gpu.row_products(&a, &a, &[0, 1], &upload(&gpu, &[1.0; 4], 2, 2)).is_err(), "several rows");
}

#[test]
fn gradients_of_clamped_swiglu_are_those_of_its_twin() {
    let gpu = support::gpu();
    for (tokens, width, limit, reason) in [
        (1, 1, 1.0, "the smallest"),
        (5, 30, 1.5, "padded rows, limits that bite"),
        (3, 259, 7.0, "more values than a workgroup has"),
        (0, 8, 7.0, "no tokens"),
        (66_000, 3, 2.0, "more tokens than a dimension of workgroups"),
    ] {
        let kind = ClampedSwiglu { alpha: 1.702, limit };
        let mut random = Random::new((tokens + width) as u64);
        let (values, d) = (random.values(tokens * 2 * width, 3.0), random.values(tokens * width, 1.0));
        let (x, gpu_d) = (upload(&gpu, &values, tokens, 2 * width), upload(&gpu, &d, tokens, width));
        let found = download(&gpu, &gpu.clamped_swiglu_backward(kind, &x, &gpu_d).expect("a gradient"));
        let [x, d] = [(2 * width, &values), (width, &d)].map(|(cols, all)| reference::matrix(tokens, cols, all));
        let expected = reference::clamped_swiglu_backward(kind, &x, &d);
        let most = f64::from(limit) + 1.0;
        let what = format!("clamped_swiglu_backward [{tokens}, {width}], limit {limit} ({reason})");
        // As of the function itself; d is up to 5.
        check(&what, error(&found, &expected, |_, _| 5.0 * most), 32.0 * ROUNDOFF);
    }
    // None of what is clamped: gates from above, and what they are multiplied by from both sides.
    let kind = ClampedSwiglu { alpha: 1.0, limit: 2.0 };
    let x = upload(&gpu, &[-1e30, 1e30, 3.0, 1.0, 1.0, 2.0, 0.0, 9.0, -9.0, 2.5, -2.5, -2.0], 1, 12);
    let d = upload(&gpu, &[1.0; 6], 1, 6);
    let found = gpu.download(&gpu.clamped_swiglu_backward(kind, &x, &d).expect("a gradient")).expect("values");
    let nothing: Vec<bool> = found.iter().map(|value| *value == 0.0).collect();
    let (gates, ups) = nothing.split_at(6);
    assert_eq!(
        (gates, ups),
        (&[true, true, true, false, false, false][..], &[true, true, true, true, true, false][..])
    );
    assert!(gpu.clamped_swiglu_backward(kind, &x, &x).is_err());
}
