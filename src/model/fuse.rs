//! Fusing norms into the weights beside them; exact, no approximation.
//!
//! A norm's weight α scales the columns of what reads it, W·diag(α); its bias β becomes part of the reader's, b + W·β.
//! A layer norm also subtracts the mean over the hidden axis: with M = I − 11ᵀ/D that is x·M, and since M·M = M every
//! writer of the residual may do it in advance. Models with RMS norm do not subtract a mean, and neither may their
//! writers: RMSNorm(x·M) ≠ RMSNorm(x).

use std::ops::Range;

use super::{
    architecture::Space,
    config::Config,
    host::{HostBlock, HostEnds, HostLayer, HostLinear, HostMatrix, HostNorm, HostStep},
};
use crate::{error::Result, ops::Norm};

/// The layer with its norms in its weights, in f32.
///
/// # Errors
/// [`crate::Error::BadTensor`] if a value is NaN or infinite; [`crate::Error::Read`].
pub fn layer(config: &Config, layer: &HostLayer) -> Result<HostLayer<'static>> {
    let block = |block: &HostBlock| {
        let linears = block.linears.iter().map(|one| linear(config, block, one)).collect::<Result<_>>()?;
        let (head_norms, norm_after) = (block.head_norms.clone(), block.norm_after.clone());
        let (sinks, delta) = (block.sinks.clone(), block.delta.clone());
        Ok(HostBlock { spec: block.spec, norm: None, norm_after, head_norms, sinks, delta, linears })
    };
    let step = |step: &HostStep| {
        Ok(HostStep { blocks: step.blocks.iter().map(block).collect::<Result<_>>()?, shortcut: None })
    };
    Ok(HostLayer { fused: true, steps: layer.steps.iter().map(step).collect::<Result<_>>()? })
}

/// One linear weight of a block with the norm that it reads in it, in f32.
///
/// # Errors
/// As [`layer`].
pub fn linear(config: &Config, block: &HostBlock, linear: &HostLinear) -> Result<HostLinear<'static>> {
    let mut values = linear.matrix.to_f32()?;
    let mut bias = linear.bias.clone();
    if linear.spec.reads == Space::Residual
        && let Some(norm) = &block.norm
    {
        read_norm(&mut values, &mut bias, norm);
    }
    if linear.spec.writes == Space::Residual && config.architecture.norm.kind == Norm::Layer {
        subtract_output_mean(&mut values, &mut bias, linear.matrix.cols);
    }
    let matrix = HostMatrix::from_f32(linear.matrix.rows, linear.matrix.cols, values);
    Ok(HostLinear { spec: linear.spec, role: linear.role, matrix, bias })
}

/// Rows of an embedding that is added into the residual.
///
/// # Errors
/// As [`layer`].
pub fn embedding_rows(config: &Config, embedding: &HostMatrix, rows: Range<usize>) -> Result<Vec<f32>> {
    let mut values = embedding.rows_f32(rows)?;
    if config.architecture.norm.kind == Norm::Layer {
        values.chunks_exact_mut(embedding.cols).for_each(subtract_mean);
    }
    Ok(values)
}

/// Rows of the head, which reads the final norm, and their biases.
///
/// # Errors
/// As [`layer`].
pub fn head_rows(ends: &HostEnds, rows: Range<usize>) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
    let mut values = ends.head.rows_f32(rows.clone())?;
    let mut bias = ends.head_bias.as_ref().map(|bias| bias[rows].to_vec());
    if let Some(norm) = &ends.final_norm {
        read_norm(&mut values, &mut bias, norm);
    }
    Ok((values, bias))
}

/// W ← W·diag(α), b ← b + W·β.
fn read_norm(values: &mut [f32], bias: &mut Option<Vec<f32>>, norm: &HostNorm) {
    let width = norm.weight.len();
    if let Some(beta) = &norm.bias {
        let shift = values
            .chunks_exact(width)
            .map(|row| row.iter().zip(beta).map(|(&w, &b)| f64::from(w) * f64::from(b)).sum::<f64>());
        *bias = Some(match bias {
            Some(bias) => bias.iter().zip(shift).map(|(&b, shift)| (f64::from(b) + shift) as f32).collect(),
            None => shift.map(|shift| shift as f32).collect(),
        });
    }
    for row in values.chunks_exact_mut(width) {
        row.iter_mut().zip(&norm.weight).for_each(|(w, alpha)| *w *= alpha);
    }
}

fn subtract_mean(values: &mut [f32]) {
    let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64;
    values.iter_mut().for_each(|value| *value = (f64::from(*value) - mean) as f32);
}

/// W ← M·W, b ← M·b.
fn subtract_output_mean(values: &mut [f32], bias: &mut Option<Vec<f32>>, cols: usize) {
    let mut means = vec![0.0; cols];
    for row in values.chunks_exact(cols) {
        means.iter_mut().zip(row).for_each(|(mean, &value)| *mean += f64::from(value));
    }
    let rows = (values.len() / cols) as f64;
    for row in values.chunks_exact_mut(cols) {
        row.iter_mut().zip(&means).for_each(|(value, mean)| *value = (f64::from(*value) - mean / rows) as f32);
    }
    if let Some(bias) = bias {
        subtract_mean(bias);
    }
}
