//! From fitted maps to weights.

use super::{regression::Fit, rotation::Rotation};
use crate::{
    error::Result,
    gpu::{Gpu, Matrix},
    model::Linear,
    ops::RowCopy,
};

/// What reads the residual stream, moved onto the sliced one: `W·T`, `b + W·c`.
pub struct Map {
    /// Tᵀ `[width, hidden_size]`, the weight of a linear layer.
    transposed: Matrix,
    /// `[1, hidden_size]`.
    offset: Option<Matrix>,
}

impl Map {
    /// `fit` is T `[rows, cols]`, with c where there is a bias.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn upload(gpu: &Gpu, fit: &Fit, rows: usize, cols: usize) -> Result<Self> {
        let column = |col: usize| (0..rows).map(move |row| fit.weights[row * cols + col] as f32);
        let weights: Vec<f32> = (0..cols).flat_map(column).collect();
        let offset = fit
            .bias
            .as_ref()
            .map(|bias| gpu.upload(&bias.iter().map(|&value| value as f32).collect::<Vec<_>>(), 1, rows))
            .transpose()?;
        Ok(Self { transposed: gpu.upload(&weights, cols, rows)?, offset })
    }

    fn weight(&self, gpu: &Gpu, w: &Matrix) -> Result<Matrix> {
        gpu.product(w, &self.transposed)
    }

    /// What a signal `[tokens, width]` of the smaller model is in the dense one's terms, `T·z + c`, `[tokens,
    /// hidden_size]`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn signal(&self, gpu: &Gpu, z: &Matrix) -> Result<Matrix> {
        let map = gpu.transposed(&self.transposed)?;
        let moved = gpu.unfilled(z.rows(), map.rows())?;
        gpu.linear_layer(z, &map, self.offset.as_ref(), &moved, 0, false)?;
        Ok(moved)
    }

    /// A weight that reads the residual, with its bias.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn read(&self, gpu: &Gpu, Linear { spec, role, weight, bias }: Linear) -> Result<Linear> {
        let moved = match (&self.offset, bias) {
            (Some(offset), Some(bias)) => {
                let moved = gpu.unfilled(1, weight.rows())?;
                gpu.linear(offset, &weight, Some(&bias), &moved, 0, false)?;
                Some(moved)
            }
            (_, bias) => bias,
        };
        Ok(Linear { spec, role, weight: self.weight(gpu, &weight)?, bias: moved })
    }

    /// Some rows of the head, with their biases.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`]; whatever the readback reports.
    pub fn rows(&self, gpu: &Gpu, part: &Matrix, bias: Option<Vec<f32>>) -> Result<(Matrix, Option<Vec<f32>>)> {
        let moved = match (&self.offset, bias) {
            (Some(offset), Some(bias)) => {
                let moved = gpu.unfilled(1, part.rows())?;
                gpu.linear(offset, part, Some(&gpu.upload(&bias, 1, bias.len())?), &moved, 0, false)?;
                Some(gpu.download(&moved)?)
            }
            (_, bias) => bias,
        };
        Ok((self.weight(gpu, part)?, moved))
    }
}

/// What writes the residual after a step: the shortcut `[before, after]` past it, where there is one, and the weights
/// that write.
pub struct Writes {
    pub shortcut: Option<Matrix>,
    pub linears: Vec<Linear>,
}

impl Writes {
    /// How wide the signals are that these read: the residual, where there is a shortcut, then what each weight reads.
    pub fn widths(&self) -> Vec<usize> {
        self.shortcut.iter().map(Matrix::rows).chain(self.linears.iter().map(|linear| linear.weight.cols())).collect()
    }

    pub fn has_bias(&self) -> bool {
        self.linears.iter().any(|linear| linear.bias.is_some())
    }

    /// All of them side by side, `[width, sum of widths]`, row-major.
    ///
    /// # Errors
    /// Whatever the readback reports.
    pub fn prior(&self, gpu: &Gpu, width: usize) -> Result<Vec<f32>> {
        let mut parts = Vec::new();
        if let Some(shortcut) = &self.shortcut {
            parts.push((gpu.download(&gpu.transposed(shortcut)?)?, shortcut.rows()));
        }
        for linear in &self.linears {
            parts.push((gpu.download(&linear.weight)?, linear.weight.cols()));
        }
        Ok((0..width)
            .flat_map(|row| parts.iter().flat_map(move |(values, cols)| &values[row * cols..][..*cols]))
            .copied()
            .collect())
    }

    /// These as they were fitted side by side to a residual of `width`, with `widths` columns each. One bias holds what
    /// is to be added; the others are zero.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`]; whatever the readback reports.
    pub fn fitted(self, gpu: &Gpu, fit: Fit, width: usize, widths: &[usize]) -> Result<Self> {
        let unknowns: usize = widths.iter().sum();
        let mut widths = widths.iter().copied();
        let mut first = 0;
        let mut columns = |cols: usize| {
            let range = first..first + cols;
            first += cols;
            let values: Vec<f32> = fit
                .weights
                .chunks_exact(unknowns)
                .flat_map(|row| &row[range.clone()])
                .map(|&value| value as f32)
                .collect();
            gpu.upload(&values, width, cols)
        };
        let shortcut = match self.shortcut {
            Some(_) => Some(gpu.transposed(&columns(widths.next().unwrap_or(0))?)?),
            None => None,
        };
        let mut bias = fit.bias.as_ref().map(|bias| bias.iter().map(|&value| value as f32).collect::<Vec<_>>());
        let mut linears = Vec::new();
        for Linear { spec, role, bias: before, .. } in self.linears {
            let weight = columns(widths.next().unwrap_or(0))?;
            let bias = match before {
                Some(_) => Some(gpu.upload(&bias.take().unwrap_or_else(|| vec![0.0; width]), 1, width)?),
                None => None,
            };
            linears.push(Linear { spec, role, weight, bias });
        }
        Ok(Self { shortcut, linears })
    }
}

/// What writes the residual stream, projected.
///
/// # Errors
/// [`crate::Error::OutOfMemory`].
pub fn project_write(gpu: &Gpu, to: &Rotation, Linear { spec, role, weight, bias }: Linear) -> Result<Linear> {
    Ok(Linear {
        spec,
        role,
        weight: to.columns(gpu, &weight)?,
        bias: bias.as_ref().map(|bias| to.rows(gpu, bias)).transpose()?,
    })
}

/// What a step is to write: what it adds to the dense residual, and `share` of what the smaller one lacks before it,
/// `(after − before) + share·(before − small)`, `[tokens, width]` each. It takes the place of `after`, and `before` is
/// changed.
///
/// # Errors
/// [`crate::Error::Shape`] if the shapes differ.
pub fn write_target(gpu: &Gpu, after: Matrix, before: &Matrix, small: &Matrix, share: f32) -> Result<Matrix> {
    gpu.subtract(&after, before, 1.0)?;
    gpu.subtract(before, small, 1.0)?;
    gpu.subtract(&after, before, -share)?;
    Ok(after)
}

/// A matrix of its own with the values of `x`.
///
/// # Errors
/// [`crate::Error::OutOfMemory`].
pub fn copied(gpu: &Gpu, x: &Matrix) -> Result<Matrix> {
    let copy = gpu.unfilled(x.rows(), x.cols())?;
    let rows: Vec<(usize, usize)> = (0..x.rows()).map(|row| (row, row)).collect();
    gpu.copy_rows(x, &copy, &rows, RowCopy::whole(x.cols()))?;
    Ok(copy)
}
