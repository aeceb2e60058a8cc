//! Which sizes are tried, and which of them are written.

use slicegpt_gpu::stream::Placement;

use super::*;

#[test]
fn what_agrees_best_of_all_that_was_tried_within_the_budget_is_written() {
    let gpu = support::gpu();
    let model = parity("llama_mha_untied");
    let rows = rows(&model, &[40; 12]);
    let axes = [Axis::Width, Axis::Mlp, Axis::KvHeads, Axis::Layers];
    for (effort, rounds) in [(Effort::Quick, 1), (Effort::Normal, 3)] {
        let options = Options { effort, ..options(&model, Goal::Parameters(0.2), &axes) };
        let Compressed { snapshot, .. } = compressed(&gpu, &model, &rows, &options).expect("a smaller model");
        let most = (0.8 * model.config().parameters() as f64).round() as u64;
        let candidates = &snapshot.candidates;
        let (best, _) = snapshot.written().expect("all is done");
        assert!(candidates.iter().all(|other| best.kl() <= other.kl() && other.parameters <= most), "{candidates:?}");
        // What one axis alone costs was measured once, and counts.
        let alone: Vec<_> = candidates.iter().filter(|candidate| candidate.depths.len() == 1).collect();
        let mixtures = candidates.len() - alone.len();
        assert!(!alone.is_empty() && (effort == Effort::Normal || mixtures == 1), "{effort:?}: {candidates:?}");
        assert!(candidates.len() <= alone.len() + rounds, "{effort:?}: {candidates:?}");
        for candidate in alone {
            let same = snapshot.probes.iter().any(|probe| {
                candidate.depths == [(probe.axis, probe.depth)] && candidate.agreement == Some(probe.agreement)
            });
            assert!(same, "{effort:?}: {candidate:?} in {:?}", snapshot.probes);
        }
        for (number, candidate) in candidates.iter().enumerate() {
            let again = candidates[..number].iter().any(|other| other.sizes == candidate.sizes);
            assert!(!again, "{effort:?}: {candidate:?} was tried twice");
        }
        // Though it is a candidate, too, a probe is one point.
        for curve in &snapshot.curves.axes {
            let again = |at: usize| curve.points[..at].contains(&curve.points[at]);
            assert!(!(0..curve.points.len()).any(again), "{effort:?}: {curve:?}");
        }
        // The curves have followed what cuts on several axes cost: the probes alone would be on them.
        let off = snapshot.curves.axes.iter().filter(|curve| curve.points.len() == 1);
        let off = off.map(|curve| (curve.at(curve.points[0].0) / curve.points[0].1 - 1.0).abs()).fold(0.0, f64::max);
        assert!(effort == Effort::Normal || off > 1e-6, "{:?}", snapshot.curves);
        println!("{effort:?}: {} probes, {} candidates, KL {:.4}", snapshot.probes.len(), candidates.len(), best.kl());
    }
}

#[test]
fn what_is_recorded_of_the_dense_model_saves_work_and_changes_nothing() {
    let gpu = support::gpu();
    for (name, reason, least) in [
        ("llama_gqa_tied", "every axis", 0.85),
        ("gpt_neox_parallel", "blocks side by side", 0.9),
        ("gemma2_tied", "norms after blocks, before which the dense model's results are needed", 1.0),
        ("qwen3_moe_normalised", "mixtures", 0.95),
    ] {
        let model = parity(name);
        let rows = rows(&model, &[40; 12]);
        let options = options(&model, Goal::Parameters(0.2), &Axis::ALL);
        let of = |keeps_dense, placement| {
            let memory = MemoryPlan { keeps_dense, placement, ..MemoryPlan::unlimited(Some(2)) };
            gpu.start_trace().expect("a trace");
            let found = compressed_within(&gpu, &model, &rows, &options, None, memory).expect("a smaller model");
            let products: u64 = gpu.take_spans().expect("spans").iter().map(|span| span.work).sum();
            (found.snapshot.clone(), found.tensors(), products)
        };
        let (snapshot, tensors, all) = of(false, Placement::Gpu);
        for placement in [Placement::Gpu, Placement::Disk] {
            let (again, found, products) = of(true, placement);
            println!("{name} ({reason}), {placement:?}: {:.2} of the products", products as f64 / all as f64);
            assert!(
                again.probes == snapshot.probes && again.candidates == snapshot.candidates,
                "{name}, {placement:?}"
            );
            assert!(found == tensors, "{name}, {placement:?}: other bytes");
            assert!(products as f64 <= least * all as f64, "{name}, {placement:?}: {products} of {all}");
        }
    }
}
