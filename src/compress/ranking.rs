//! What leaves by LLM-Pruner's gradients, in place of what costs the re-fit least.

use super::{driver::Job, plan::Plan};
use crate::{
    error::Result,
    gpu::Gpu,
    model::{Config, Kept, LayerSpec},
    prune::{self, Aggregate, Groups, LayerImportance, without_lowest},
    stream::{Extent, MemoryPlan, Peak, Types},
};

/// Gradients of more tokens are not needed to tell groups apart: the paper has ten times 64.
pub const TOKENS: usize = 8192;

/// |w·g| summed over what belongs to a group, of all layers.
fn options(config: &Config, dtype: &Types) -> prune::Options {
    prune::Options {
        ratio: 0.5,
        layers: 0..config.layers.len(),
        importance: prune::Importance::ParamFirst,
        aggregate: Aggregate::Sum,
        global: false,
        iterations: 1,
        groups: Groups::Both,
        keep_importances: true,
        seed: 0,
        dtype: dtype.clone(),
    }
}

/// What the heads and channels of all layers matter to the loss of the first calibration sequences.
///
/// # Errors
/// Those of [`crate::prune::Job::importances`].
pub fn importances(job: &Job, gpu: &Gpu) -> Result<Vec<LayerImportance>> {
    let Job { model, rows, memory, directory, progress, .. } = *job;
    let config = model.config();
    let mut seen = 0;
    let first = rows.iter().filter(|row| row.len() > 1).take_while(|row| {
        let before = seen;
        seen += row.len();
        before < TOKENS
    });
    let rows: Vec<Vec<u32>> = first.cloned().collect();
    let options = &options(config, &job.options.dtype);
    let whole: Vec<Kept> = config.layers.iter().enumerate().map(|(layer, spec)| Kept::all(layer, spec)).collect();
    prune::Job { model, rows: &rows, options, memory, directory, progress }.importances(gpu, &whole)
}

/// What working them out takes.
pub fn ranking_peak(
    dtype: &Types,
    memory: &MemoryPlan,
    config: &Config,
    calibration: &Extent,
    rope: u64,
    element_size: usize,
) -> Peak {
    let Extent { tokens, longest } = *calibration;
    let part = Extent { tokens: tokens.min(TOKENS + longest), longest };
    options(config, dtype).peak(memory, config, 0, &part, rope, element_size)
}

/// What stays of every layer at the sizes of a plan: whole groups of heads first, then queries of each of those that stay.
pub fn selected(config: &Config, plan: &Plan, importances: &[LayerImportance]) -> Vec<Kept> {
    let all = config.layers.iter().enumerate();
    all.map(|(layer, spec)| {
        let found = importances.iter().find(|found| found.layer == layer);
        match (plan.place(layer), found) {
            (Some(place), Some(found)) => of_layer(found, spec, &plan.config.layers[place]),
            _ => Kept::all(layer, spec),
        }
    })
    .collect()
}

fn of_layer(found: &LayerImportance, whole: &LayerSpec, left: &LayerSpec) -> Kept {
    let mut kept = Kept::all(found.layer, whole);
    kept.mlp_channels = lowest_gone(&found.mlp, kept.mlp_channels, left.intermediate_size);
    if found.attention.is_empty() {
        return kept;
    }
    kept.key_value_heads = lowest_gone(&found.attention, kept.key_value_heads, left.kv_heads);
    let (group, stay) = (whole.heads / whole.kv_heads.max(1), left.heads / left.kv_heads.max(1));
    let queries = |head: &usize| lowest_gone(&found.queries, (head * group..(head + 1) * group).collect(), stay);
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
        let found = LayerImportance {
            layer: 1,
            attention: vec![3.0, 1.0, 2.0],
            mlp: vec![2.0, 2.0, 1.0, 3.0],
            queries: vec![2.0, 1.0, 0.5, 0.5, 1.0, 1.0],
            ..LayerImportance::default()
        };
        let kept = of_layer(&found, &whole, &left);
        assert_eq!((kept.key_value_heads.as_slice(), kept.query_heads.as_slice()), (&[0, 2][..], &[0, 5][..]));
        assert_eq!(kept.mlp_channels, [0, 1, 3]);
        assert_eq!(of_layer(&found, &whole, &whole), Kept::all(1, &whole));
        // One query for each key-value head has no importances of queries.
        let single = LayerSpec { heads: 3, ..whole.clone() };
        let left = LayerSpec { heads: 2, kv_heads: 2, ..single.clone() };
        let kept = of_layer(&LayerImportance { queries: vec![], ..found }, &single, &left);
        assert_eq!(kept.query_heads, [0, 2]);
    }
}
