//! What the experts of a mixture add to the residual stream, from one pass of the examples.

use std::ops::Range;

use super::experts::ExpertScores;
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    model::{Config, ExpertTap, LayerSpec, Model, plan_batches, through},
    progress::Progress,
    stream::{MemoryPlan, Placement},
};

/// S of the experts of `layers`, on the examples `rows`.
///
/// # Errors
/// [`Error::Numerical`] if a score is not finite; whatever the model or the GPU reports.
pub fn expert_scores(
    gpu: &Gpu,
    model: &Model,
    rows: &[Vec<u32>],
    layers: Range<usize>,
    memory: &MemoryPlan,
    progress: &dyn Progress,
) -> Result<Vec<ExpertScores>> {
    let config = model.config();
    let batches = plan_batches(gpu, config, rows, memory.batch)?;
    progress.begin("experts", (batches.len() * config.layers.len()) as u64);
    let mut sums = Sums::new(gpu, config);
    // Where residuals are not to stay on the GPU, experts come again for every batch.
    let together = if memory.placement == Placement::Gpu { batches.len() } else { 1 };
    for group in batches.chunks(together.max(1)) {
        through(gpu, model, rows, group, memory.part_bytes, &mut sums, progress)?;
    }
    layers.filter(|&layer| config.layers[layer].experts.is_some()).map(|layer| sums.of(layer)).collect()
}

/// The sum of g · ‖f‖ and the number of tokens of each expert of each layer.
struct Sums<'a> {
    gpu: &'a Gpu,
    layers: Vec<Vec<(f64, u64)>>,
}

impl<'a> Sums<'a> {
    fn new(gpu: &'a Gpu, config: &Config) -> Self {
        let experts = |spec: &LayerSpec| vec![(0.0, 0); spec.experts.map_or(0, |experts| experts.count)];
        Self { gpu, layers: config.layers.iter().map(experts).collect() }
    }

    fn of(&self, layer: usize) -> Result<ExpertScores> {
        let mean = |&(sum, count): &(f64, u64)| if count > 0 { sum / count as f64 } else { 0.0 };
        let scores: Vec<f64> = self.layers[layer].iter().map(mean).collect();
        match scores.iter().position(|score| !score.is_finite()) {
            Some(expert) => {
                let score = scores[expert];
                Err(Error::Numerical(format!("layer {layer}: the score of expert {expert} is {score}")))
            }
            None => Ok(ExpertScores { layer, scores }),
        }
    }
}

impl ExpertTap for Sums<'_> {
    fn result(&mut self, layer: usize, expert: usize, gates: &[f32], result: &Matrix) -> Result<()> {
        let squares = self.gpu.download(&self.gpu.energy(result)?)?;
        let (sum, count) = &mut self.layers[layer][expert];
        for (gate, square) in gates.iter().zip(squares) {
            *sum += f64::from(*gate) * f64::from(square).sqrt();
            *count += 1;
        }
        Ok(())
    }
}
