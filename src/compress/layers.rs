//! The sizes of each layer where they may differ: channels, or heads, go from the layers that need them least to those
//! that need them most, and the model stays as large.
//!
//! What leaving out units costs a layer is known in the order in which they would leave ([`crate::linalg::subset`]), as
//! an error on the scale of the next norm: costs of different layers can be added. The sizes of least cost within the
//! total are found exactly, unit by unit and layer by layer, by dynamic programming.

use super::{
    budget::channel_interval,
    cut::{Quota, Unit},
};
use crate::{
    linalg::{Group, Removal},
    model::{Config, LayerSizes, Resize},
};

/// A layer keeps at least one in this many of its channels.
const LEAST: usize = 8;

impl Quota {
    /// How many may leave at most.
    pub fn deepest(&self) -> usize {
        match self.unit {
            // What the model as a whole keeps, every layer keeps.
            _ if self.leave == 0 => 0,
            Unit::Channel => (self.there - self.there.div_ceil(LEAST)).max(self.leave),
            Unit::KvHead | Unit::Query => self.there - 1,
        }
    }
}

/// What it costs to take units from a layer, by how many leave, from none on.
#[derive(Debug, Clone)]
pub struct Costs {
    layer: usize,
    channels: Vec<f64>,
    kv_heads: Vec<f64>,
    queries: Vec<f64>,
}

impl Costs {
    /// Of the groups of a step, in the order in which they leave.
    pub fn of(layer: usize, quotas: &[Quota], groups: &[Group], removals: &[Removal]) -> Self {
        let curve = |unit: Unit| {
            let deepest = quotas.iter().filter(|quota| quota.unit == unit).map(Quota::deepest).max().unwrap_or(0);
            let mut steps = vec![0.0; deepest];
            for (kind, _) in quotas.iter().enumerate().filter(|(_, quota)| quota.unit == unit) {
                let of_kind = removals.iter().filter(|removal| groups[removal.group].kind == kind);
                // One of each kind leaves together.
                steps.iter_mut().zip(of_kind).for_each(|(step, removal)| *step += removal.cost);
            }
            let mut sum = 0.0;
            let sums = steps.iter().map(|step| {
                sum += step;
                sum
            });
            std::iter::once(0.0).chain(sums).collect()
        };
        Self { layer, channels: curve(Unit::Channel), kv_heads: curve(Unit::KvHead), queries: curve(Unit::Query) }
    }
}

/// Sizes by layer of least cost in place of sizes that all layers have; `None` if these are the same.
pub fn by_layer(config: &Config, sizes: &Resize, costs: &[Costs]) -> Option<Resize> {
    let whole = Resize::whole(config);
    let (all_queries, queries) = (whole.heads / whole.kv_heads, sizes.heads / sizes.kv_heads);
    let curves = |of: fn(&Costs) -> &Vec<f64>| -> Vec<Vec<f64>> {
        let of_layer = |&layer: &usize| {
            let curves = costs.iter().filter(|costs| costs.layer == layer).map(of);
            curves.max_by_key(|curve| curve.len()).cloned().unwrap_or_default()
        };
        sizes.layers.iter().map(of_layer).collect()
    };
    let channels = spread(
        whole.intermediate_size,
        sizes.intermediate_size,
        channel_interval(whole.intermediate_size),
        &curves(|costs| &costs.channels),
    );
    let kv_heads = spread(whole.kv_heads, sizes.kv_heads, 1, &curves(|costs| &costs.kv_heads));
    // With both, the heads would be more or fewer in all.
    let queries = match sizes.kv_heads == whole.kv_heads {
        true => spread(all_queries, queries, 1, &curves(|costs| &costs.queries)),
        false => vec![queries; sizes.layers.len()],
    };
    let layers: Vec<LayerSizes> = (0..sizes.layers.len())
        .map(|at| LayerSizes {
            num_attention_heads: queries[at] * kv_heads[at],
            num_key_value_heads: kv_heads[at],
            intermediate_size: channels[at],
            num_experts: None,
        })
        .collect();
    let differ = layers.windows(2).any(|pair| pair[0] != pair[1]);
    differ.then(|| Resize { by_layer: Some(layers), ..sizes.clone() })
}

/// How many of `all` units each layer keeps, on a grid, if together they may keep as many as with `each`; the curves
/// say what it costs a layer that 0, 1, 2 … leave.
fn spread(all: usize, each: usize, grid: usize, curves: &[Vec<f64>]) -> Vec<usize> {
    let even = vec![each; curves.len()];
    if each == all {
        return even;
    }
    // What a layer may keep, in steps of the grid, and what that costs.
    let options = |curve: &Vec<f64>| -> Vec<(usize, usize, f64)> {
        let kept = (1..).map(|steps| steps * grid).take_while(|&kept| kept < all).chain([all]);
        kept.filter_map(|kept| Some((kept, kept.div_ceil(grid), *curve.get(all - kept)?))).collect()
    };
    let room = curves.len() * (each / grid);
    // The least cost of the layers so far within each number of steps, and which option of each layer gives it.
    let mut least = vec![0.0; room + 1];
    let mut chosen = Vec::new();
    for curve in curves {
        let options = options(curve);
        let (mut next, mut picks) = (vec![f64::INFINITY; room + 1], vec![None; room + 1]);
        for (number, &(_, steps, cost)) in options.iter().enumerate() {
            for within in steps..=room {
                let total = least[within - steps] + cost;
                if total < next[within] {
                    (next[within], picks[within]) = (total, Some(number));
                }
            }
        }
        least = next;
        chosen.push((options, picks));
    }
    let mut within = room;
    let mut kept = Vec::new();
    for (options, picks) in chosen.iter().rev() {
        // No way to meet the total: as it was.
        let Some(number) = picks[within] else { return even };
        let (size, steps, _) = options[number];
        kept.push(size);
        within -= steps;
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_go_to_the_layers_that_need_them_and_the_total_stays() {
        // What leaves the first layer costs ten times as much.
        let curve = |factor: f64| (0..=14).map(|leave| factor * f64::from(leave * leave)).collect::<Vec<_>>();
        let curves = [curve(10.0), curve(1.0), curve(1.0)];
        let kept = spread(16, 10, 2, &curves);
        assert_eq!(kept.iter().sum::<usize>(), 30);
        assert!(kept[0] > kept[1] && kept.iter().all(|size| size % 2 == 0), "{kept:?}");
        let cost = |kept: &[usize]| kept.iter().zip(&curves).map(|(size, curve)| curve[16 - size]).sum::<f64>();
        for first in (2..=16).step_by(2) {
            for second in (2..=16).step_by(2) {
                let third = 30 - first - second;
                if (2..=16).contains(&third) {
                    assert!(cost(&kept) <= cost(&[first, second, third]), "{kept:?}");
                }
            }
        }
    }

    #[test]
    fn alike_layers_stay_alike_and_none_falls_below_what_its_curve_has() {
        let curve: Vec<f64> = (0..=8).map(|leave| f64::from(leave * leave)).collect();
        assert_eq!(spread(10, 6, 1, &[curve.clone(), curve.clone()]), [6, 6]);
        // Free to cut: still two of ten are left.
        let free = vec![0.0; 9];
        assert_eq!(spread(10, 6, 1, &[curve.clone(), free]), [10, 2]);
        assert_eq!(spread(10, 10, 1, &[curve.clone(), curve]), [10, 10], "nothing is cut");
    }
}
