//! What leaves by LLM-Pruner's gradients: `--importance taylor`.

use crate::{
    checkpoint::Dtype,
    compress::{Ranking, Sensing},
    error::Result,
    gpu::Gpu,
    model::{Config, Kept},
    prune::{self, Aggregate, Groups, Importance, LayerImportance},
    stream::{Extent, MemoryPlan, Peak, Sitting, Speed, Types},
};

/// Gradients of more tokens are not needed to tell groups apart: the paper has ten times 64.
const TOKENS: usize = 8192;

/// |w·g| summed over what belongs to a group, of all layers; nothing is pruned by them.
fn options(config: &Config) -> prune::Options {
    prune::Options {
        ratio: 0.5,
        layers: 0..config.layers.len(),
        importance: Importance::ParamFirst,
        aggregate: Aggregate::Sum,
        global: false,
        iterations: 1,
        groups: Groups::Both,
        keep_importances: false,
        seed: 0,
        dtype: Types::One(Dtype::F32),
        in_mxfp4: Vec::new(),
    }
}

/// What the heads and channels of all layers matter to the loss of the first calibration sequences; `None` if it was
/// stopped.
///
/// # Errors
/// Those of [`prune::Job::importances`].
pub fn ranking(gpu: &Gpu, sensing: Sensing, sitting: &mut Sitting) -> Result<Option<Vec<Ranking>>> {
    let rows = sensing.first(TOKENS);
    let Sensing { model, memory, directory, progress, .. } = sensing;
    let config = model.config();
    let options = &options(config);
    let whole: Vec<Kept> = config.layers.iter().enumerate().map(|(layer, spec)| Kept::all(layer, spec)).collect();
    let job = prune::Job { model, rows: &rows, options, memory, directory, progress };
    let found = job.importances(gpu, &whole, sitting)?;
    let ranking = |LayerImportance { layer, attention, mlp, queries, .. }| Ranking {
        layer,
        key_value_heads: attention,
        query_heads: queries,
        mlp_channels: mlp,
    };
    Ok(found.map(|found| found.into_iter().map(ranking).collect()))
}

/// What working it out takes.
pub fn ranking_peak(
    memory: &MemoryPlan,
    config: &Config,
    calibration: &Extent,
    rope: u64,
    element_size: usize,
) -> Peak {
    let Extent { tokens, longest } = *calibration;
    let part = Extent { tokens: tokens.min(TOKENS + longest), longest };
    options(config).peak(memory, config, 0, &part, rope, element_size)
}

/// Seconds for it.
pub fn ranking_seconds(speed: &Speed, config: &Config, tokens: usize) -> f64 {
    options(config).seconds(speed, config, tokens.min(TOKENS))
}
