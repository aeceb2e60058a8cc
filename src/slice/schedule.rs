//! How wide the residual stream is at each point after slicing.

use crate::{
    error::{Error, Result},
    model::{Config, LayerWidths},
};

/// `int((1 − sparsity) · hidden_size)`, rounded down to a multiple of `round_interval`.
///
/// The product is nudged by a rounding error's worth first: 0.7 · 10 is 6.999… in floating point, and 7 in fact.
///
/// # Errors
/// [`Error::Usage`] if nothing is left, or the sparsity is not in 0 ≤ s < 1.
pub fn sliced_width(hidden_size: usize, sparsity: f64, round_interval: usize) -> Result<usize> {
    if !(0.0..1.0).contains(&sparsity) || round_interval == 0 {
        return Err(Error::Usage(format!(
            "--sparsity {sparsity} and --round-interval {round_interval}: expected 0 <= sparsity < 1 and an interval of at least 1"
        )));
    }
    let exact = (1.0 - sparsity) * hidden_size as f64;
    let width = (exact + 1e-9 * hidden_size as f64).floor() as usize;
    let rounded = width - width % round_interval;
    if rounded == 0 {
        return Err(Error::Usage(format!(
            "--sparsity {sparsity} with --round-interval {round_interval} leaves nothing of hidden_size {hidden_size}; lower either"
        )));
    }
    Ok(rounded)
}

/// The widths around each layer: `width` everywhere, but the last layer hands on the whole hidden_size to the head.
pub fn layer_widths(config: &Config, width: usize) -> Vec<LayerWidths> {
    (0..config.num_hidden_layers)
        .map(|layer| {
            let output = if layer + 1 == config.num_hidden_layers { config.hidden_size } else { width };
            LayerWidths { attention_input: width, mlp_input: if config.parallel { output } else { width }, output }
        })
        .collect()
}
