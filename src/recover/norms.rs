//! Norms in training: those before blocks, of their results, of queries and keys, and the final one. What blocks or
//! heads share has one set of parameters, whose gradients are added up.

use std::iter;

use super::parameters::Parameter;
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    model::{AffineGradients, HostNorm, NormWeights},
    ops::RowCopy,
};

/// A norm in training. Its parameters are in one row, so that they do not decay.
pub(super) struct NormState {
    weight: Parameter,
    bias: Option<Parameter>,
    /// How many heads have weights of their own, one after the other.
    heads: usize,
}

impl NormState {
    /// Before the first step.
    pub fn new(gpu: &Gpu, norm: &HostNorm) -> Result<Self> {
        let row = |values: &Vec<f32>| Parameter::new(gpu, values, 1, values.len());
        Ok(Self { weight: row(&norm.weight)?, bias: norm.bias.as_ref().map(row).transpose()?, heads: norm.heads })
    }

    /// The weight, and the bias where there is one.
    pub fn parameters(&mut self) -> impl Iterator<Item = &mut Parameter> {
        iter::once(&mut self.weight).chain(&mut self.bias)
    }

    /// As it is now.
    pub fn host(&self, gpu: &Gpu) -> Result<HostNorm> {
        let bias = self.bias.as_ref().map(|bias| gpu.download(&bias.value)).transpose()?;
        Ok(HostNorm { heads: self.heads, weight: gpu.download(&self.weight.value)?, bias })
    }

    /// The norm of all heads at once whose results are `factor` times as large.
    pub fn scaled(&self, gpu: &Gpu, factor: f32) -> Result<NormWeights> {
        let times = |parameter: &Parameter| {
            let scaled = gpu.zeros(1, parameter.value.cols())?;
            gpu.subtract(&scaled, &parameter.value, -factor)?;
            Ok::<_, Error>(scaled)
        };
        Ok(NormWeights { weight: times(&self.weight)?, bias: self.bias.as_ref().map(times).transpose()? })
    }

    /// Puts them where the forward pass takes them from.
    pub fn put(&self, gpu: &Gpu, norm: &mut NormWeights) -> Result<()> {
        norm.weight = rows(gpu, &self.weight.value, self.heads)?;
        if let Some(bias) = &self.bias {
            norm.bias = Some(rows(gpu, &bias.value, self.heads)?);
        }
        Ok(())
    }

    /// Takes the gradients of all that it is the norm of: each a row, as wide as the parameters, or, where these are
    /// for several heads, several times as wide.
    pub fn set_gradients(&mut self, gpu: &Gpu, gradients: &[&AffineGradients]) -> Result<()> {
        let missing = || Error::shape("training", "a norm without a gradient");
        let set = |parameter: &mut Parameter, select: fn(&AffineGradients) -> Option<&Matrix>| {
            let parts = gradients.iter().map(|part| select(part).ok_or_else(missing)).collect::<Result<Vec<_>>>()?;
            parameter.set_gradient(Some(&total(gpu, &parts, parameter.value.cols())?))
        };
        set(&mut self.weight, |part| part.weight.as_ref())?;
        self.bias.as_mut().map_or(Ok(()), |bias| set(bias, |part| part.bias.as_ref()))
    }
}

/// The sum of all pieces of some rows, each piece `cols` columns wide.
fn total(gpu: &Gpu, parts: &[&Matrix], cols: usize) -> Result<Matrix> {
    if let [part] = parts
        && part.cols() == cols
    {
        return Ok((*part).clone());
    }
    let sum = gpu.zeros(1, cols)?;
    for part in parts {
        for first in (0..part.cols()).step_by(cols) {
            gpu.subtract(&sum, &gpu.columns(part, first..first + cols)?, -1.0)?;
        }
    }
    Ok(sum)
}

/// A row cut into `count` rows.
fn rows(gpu: &Gpu, row: &Matrix, count: usize) -> Result<Matrix> {
    if count == 1 {
        return Ok(row.clone());
    }
    let cols = row.cols() / count;
    let matrix = gpu.zeros(count, cols)?;
    for number in 0..count {
        let piece = RowCopy { from_column: number * cols, cols, to_column: 0 };
        gpu.copy_rows(row, &matrix, &[(0, number)], piece)?;
    }
    Ok(matrix)
}
