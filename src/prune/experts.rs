//! Which experts of a mixture leave: those that add least to the residual stream ([`crate::stream::ExpertSums`]).
//! Without an expert the router's choice among the others stays, and gates are divided by another sum.

use crate::model::{Experts, Kept, LayerSpec};

/// How many experts of a layer leave, if a share of them is to: of which as many stay as a token goes to.
pub fn experts_leaving(experts: Experts, share: f64) -> usize {
    // A share such as 0.29 of 100 is 28.999… in binary.
    let leave = (experts.count as f64 * share + 1e-9) as usize;
    leave.min(experts.count - experts.chosen)
}

/// S of each expert of a layer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExpertScores {
    pub layer: usize,
    pub scores: Vec<f64>,
}

/// Takes the experts with the lowest scores out of what is `kept` of the layers that `found` is of, the same share in
/// each of them or, `global`, by one ranking of all; of equals, those before others leave. `specs` are the sizes of all
/// layers of the original.
pub fn cut_experts(share: f64, global: bool, specs: &[LayerSpec], found: &[ExpertScores], kept: &mut [Kept]) {
    let experts = |layer: usize| specs[layer].experts;
    let mut ranked: Vec<(f64, usize, usize)> = found
        .iter()
        .flat_map(|of| of.scores.iter().enumerate().map(|(expert, score)| (*score, of.layer, expert)))
        .collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    // How many may still leave each layer, and all of them.
    let least = |layer: usize| experts(layer).map_or(0, |experts| experts.count - experts.chosen);
    let each = |layer: usize| experts(layer).map_or(0, |experts| experts_leaving(experts, share));
    let mut room: Vec<usize> = (0..specs.len()).map(|layer| if global { least(layer) } else { each(layer) }).collect();
    let mut all = match global {
        true => (ranked.len() as f64 * share + 1e-9) as usize,
        false => ranked.len(),
    };
    for (_, layer, expert) in ranked {
        if all > 0 && room[layer] > 0 {
            kept[layer].experts.retain(|&other| other != expert);
            room[layer] -= 1;
            all -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPERTS: Experts = Experts { count: 4, chosen: 2, normalised: true, shared: None };

    fn spec() -> LayerSpec {
        LayerSpec {
            heads: 1,
            kv_heads: 1,
            head_dim: 2,
            intermediate_size: 3,
            experts: Some(EXPERTS),
            ..LayerSpec::default()
        }
    }

    #[test]
    fn a_share_of_the_experts_leaves_and_never_those_that_a_token_needs() {
        let of =
            |count, chosen, share| experts_leaving(Experts { count, chosen, normalised: true, shared: None }, share);
        assert_eq!((of(128, 8, 0.25), of(8, 2, 0.3), of(100, 1, 0.29)), (32, 2, 29));
        assert_eq!((of(4, 2, 0.9), of(4, 4, 0.5)), (2, 0), "a token goes to as many");
    }

    #[test]
    fn the_lowest_leave_layer_by_layer_or_by_one_ranking() {
        let specs = [spec(), spec()];
        let found = [(0, vec![1.0, 3.0, 2.0, 1.0]), (1, vec![9.0, 8.0, 7.0, 6.0])]
            .map(|(layer, scores)| ExpertScores { layer, scores });
        let left = |share, global| {
            let mut kept = [Kept::all(0, &specs[0]), Kept::all(1, &specs[1])];
            cut_experts(share, global, &specs, &found, &mut kept);
            kept.map(|kept| kept.experts)
        };
        assert_eq!(left(0.25, false), [vec![1, 2, 3], vec![0, 1, 2]]);
        assert_eq!(left(0.25, true), [vec![1, 2], vec![0, 1, 2, 3]]);
        // Four of eight: no more than two leave either layer.
        assert_eq!(left(0.5, true), [vec![1, 2], vec![0, 1]]);
    }
}
