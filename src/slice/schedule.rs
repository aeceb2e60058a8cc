//! How wide the residual stream is at each point after slicing.

use super::options::{Basis, Options};
use crate::{
    error::{Error, Result},
    model::{Config, LayerWidths},
};

/// Widths are rounded to multiples of this where nothing else is asked for.
const ROUND_INTERVAL: usize = 8;

/// `int((1 − sparsity) · hidden_size)`, rounded down to a multiple of `round_interval`.
///
/// The product is nudged by a rounding error's worth first: 0.7 · 10 is 6.999… in floating point, and 7 in fact.
///
/// # Errors
/// [`Error::Usage`] if nothing is left, or the sparsity is not in 0 ≤ s < 1.
pub fn sliced_width(hidden_size: usize, sparsity: f64, round_interval: usize) -> Result<usize> {
    if !(0.0..1.0).contains(&sparsity) || round_interval == 0 {
        return Err(Error::Usage(format!(
            "--sparsity {sparsity} and --round-interval {round_interval}: expected 0 <= sparsity < 1 and an interval \
             of at least 1"
        )));
    }
    let exact = (1.0 - sparsity) * hidden_size as f64;
    let width = (exact + 1e-9 * hidden_size as f64).floor() as usize;
    let rounded = width - width % round_interval;
    if rounded == 0 {
        return Err(Error::Usage(format!(
            "--sparsity {sparsity} with --round-interval {round_interval} leaves nothing of hidden_size \
             {hidden_size}; lower either"
        )));
    }
    Ok(rounded)
}

/// What widths are rounded to: what is asked for; or 8, and what other programs demand of the stock form. Where both
/// together would be coarse, the latter alone.
pub fn round_interval(config: &Config, options: &Options, stock: bool) -> usize {
    options.round_interval.unwrap_or_else(|| {
        let demanded = if stock { config.stock_interval() } else { 1 };
        match config.stock_interval_on(ROUND_INTERVAL) {
            _ if demanded == 1 => ROUND_INTERVAL,
            common if 16 * common <= config.hidden_size => common,
            _ => demanded,
        }
    })
}

/// The widths around each layer: `width` everywhere, but the last layer hands on the whole hidden_size to the head
/// unless that is sliced, too.
pub fn layer_widths(config: &Config, width: usize, options: &Options) -> Vec<LayerWidths> {
    let layers = config.layers.len();
    (0..layers)
        .map(|layer| {
            let last = layer + 1 == layers;
            let output = if last && !options.slice_head { config.hidden_size } else { width };
            let mut widths = LayerWidths::new(width, if config.parallel { output } else { width }, output);
            if options.basis != Basis::PerBlock {
                let border = output != width
                    || (!last && options.basis.segment(layer, layers) != options.basis.segment(layer + 1, layers));
                (widths.attn_shortcut, widths.mlp_shortcut) = (config.parallel && border, !config.parallel && border);
            }
            widths
        })
        .collect()
}
