//! Which sizes are tried, and which of them are written.

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
