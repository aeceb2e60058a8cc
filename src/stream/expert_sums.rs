//! What the experts of mixtures add to the residual stream, as REAP has it (Lasby et al. 2025, arXiv 2510.13999).
//!
//! S_j is the mean over the tokens that go to expert j of g_j · ‖f_j(h)‖₂, with the gates of a token divided by their
//! sum; 0 of an expert that no token goes to.

use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    model::{Config, ExpertTap, LayerSpec},
};

/// The sum of g · ‖f‖ and the number of tokens of each expert of each layer.
pub struct ExpertSums<'a> {
    gpu: &'a Gpu,
    layers: Vec<Vec<(f64, u64)>>,
}

impl<'a> ExpertSums<'a> {
    /// Empty sums.
    pub fn new(gpu: &'a Gpu, config: &Config) -> Self {
        let experts = |spec: &LayerSpec| vec![(0.0, 0); spec.experts.map_or(0, |experts| experts.count)];
        Self { gpu, layers: config.layers.iter().map(experts).collect() }
    }

    /// S of each expert of a layer.
    ///
    /// # Errors
    /// [`Error::Numerical`] if one is not finite.
    pub fn scores(&self, layer: usize) -> Result<Vec<f64>> {
        let mean = |&(sum, count): &(f64, u64)| if count > 0 { sum / count as f64 } else { 0.0 };
        let scores: Vec<f64> = self.layers[layer].iter().map(mean).collect();
        match scores.iter().position(|score| !score.is_finite()) {
            Some(expert) => {
                let score = scores[expert];
                Err(Error::Numerical(format!("layer {layer}: the score of expert {expert} is {score}")))
            }
            None => Ok(scores),
        }
    }
}

impl ExpertTap for ExpertSums<'_> {
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
