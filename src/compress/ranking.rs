//! What leaves by a ranking that something else has made, in place of what costs the re-fit least.

use serde::{Deserialize, Serialize};

use super::plan::Plan;
use crate::model::{Config, Kept, LayerSpec, without_lowest};

/// What the groups of a layer matter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranking {
    pub layer: usize,
    /// Each with the queries that read it; none where the layer has no attention.
    pub key_value_heads: Vec<f64>,
    /// Single ones; none where each has a key-value head of its own.
    pub query_heads: Vec<f64>,
    pub mlp_channels: Vec<f64>,
}

/// What stays of every layer at the sizes of a plan: whole groups of heads first, then queries of each of those that
/// stay.
pub fn selected(config: &Config, plan: &Plan, ranking: &[Ranking]) -> Vec<Kept> {
    let all = config.layers.iter().enumerate();
    all.map(|(layer, spec)| {
        let found = ranking.iter().find(|found| found.layer == layer);
        match (plan.place(layer), found) {
            (Some(place), Some(found)) => of_layer(found, spec, &plan.config.layers[place]),
            _ => Kept::all(layer, spec),
        }
    })
    .collect()
}

fn of_layer(found: &Ranking, whole: &LayerSpec, left: &LayerSpec) -> Kept {
    let mut kept = Kept::all(found.layer, whole);
    kept.mlp_channels = lowest_gone(&found.mlp_channels, kept.mlp_channels, left.intermediate_size);
    if found.key_value_heads.is_empty() {
        return kept;
    }
    kept.key_value_heads = lowest_gone(&found.key_value_heads, kept.key_value_heads, left.kv_heads);
    let (group, stay) = (whole.heads / whole.kv_heads.max(1), left.heads / left.kv_heads.max(1));
    let queries = |head: &usize| lowest_gone(&found.query_heads, (head * group..(head + 1) * group).collect(), stay);
    kept.query_heads = kept.key_value_heads.iter().flat_map(queries).collect();
    kept
}

/// The `stay` most important ones of `all`.
fn lowest_gone(importance: &[f64], all: Vec<usize>, stay: usize) -> Vec<usize> {
    match all.len().saturating_sub(stay) {
        0 => all,
        leave => without_lowest(importance, &all, leave),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_leave_whole_and_then_queries_of_those_that_stay() {
        let whole = LayerSpec { heads: 6, kv_heads: 3, head_dim: 2, intermediate_size: 4, ..LayerSpec::default() };
        let left = LayerSpec { heads: 2, kv_heads: 2, intermediate_size: 3, ..whole.clone() };
        let found = Ranking {
            layer: 1,
            key_value_heads: vec![3.0, 1.0, 2.0],
            mlp_channels: vec![2.0, 2.0, 1.0, 3.0],
            query_heads: vec![2.0, 1.0, 0.5, 0.5, 1.0, 1.0],
        };
        let kept = of_layer(&found, &whole, &left);
        assert_eq!((kept.key_value_heads.as_slice(), kept.query_heads.as_slice()), (&[0, 2][..], &[0, 5][..]));
        assert_eq!(kept.mlp_channels, [0, 1, 3]);
        assert_eq!(of_layer(&found, &whole, &whole), Kept::all(1, &whole));
        // One query for each key-value head has no importances of queries.
        let single = LayerSpec { heads: 3, ..whole.clone() };
        let left = LayerSpec { heads: 2, kv_heads: 2, ..single.clone() };
        let kept = of_layer(&Ranking { query_heads: vec![], ..found }, &single, &left);
        assert_eq!(kept.query_heads, [0, 2]);
    }
}
