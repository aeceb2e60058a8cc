//! SliceGPT as the paper tells it: signals in the original basis, the axes of each
//! point found from what the sliced steps before it have made of them.

use nalgebra::{DMatrix, SymmetricEigen};

use super::{
    forward::{Affine, Network, Step},
    kernels,
};
use crate::{
    error::Result,
    ops::Norm,
    slice::{Options, Signal},
};

/// A sliced network and the share of the energy kept at each site: the embeddings, then after each half of each layer.
pub struct Sliced<'a> {
    pub network: Network<'a>,
    pub kept_energies: Vec<f64>,
}

/// Eigenvalues, descending, and the eigenvectors as columns.
pub fn principal_axes(covariance: &DMatrix<f64>) -> (Vec<f64>, DMatrix<f64>) {
    let eigen = SymmetricEigen::new(covariance.clone());
    let mut order: Vec<usize> = (0..covariance.nrows()).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    (order.iter().map(|&i| eigen.eigenvalues[i]).collect(), eigen.eigenvectors.select_columns(&order))
}

/// The share of the trace in the first `width` eigenvalues.
pub fn kept_energy(values: &[f64], width: usize) -> f64 {
    values[..width].iter().sum::<f64>() / values.iter().sum::<f64>()
}

/// What counts of a signal: itself, or its tokens scaled to unit root mean square.
pub(super) fn seen(which: Signal, x: &DMatrix<f64>, eps: f64) -> DMatrix<f64> {
    match which {
        Signal::Raw => x.clone(),
        Signal::Normed => kernels::norm(Norm::Rms, x, None, None, x.ncols(), eps),
    }
}

/// The axes of some signals, all tokens of all sequences.
pub(super) fn axes(signals: &[DMatrix<f64>]) -> (Vec<f64>, DMatrix<f64>) {
    let width = signals.first().map_or(0, DMatrix::ncols);
    let sum = signals.iter().fold(DMatrix::zeros(width, width), |sum, x| sum + kernels::covariance(x));
    principal_axes(&sum)
}

/// `[rows, 1]`.
fn column(values: &[f64]) -> DMatrix<f64> {
    DMatrix::from_column_slice(values.len(), 1, values)
}

/// W ← (W·Q)[:, :width] for what reads the residual.
fn rotate_reads(step: &mut Step, q: &DMatrix<f64>, width: usize) {
    for linear in step.linears_mut(true) {
        linear.weight = (&linear.weight * q).columns(0, width).into_owned();
    }
}

/// W ← (QᵀW)[:width, :] and b ← (Qᵀb)[:width] for what writes it.
fn rotate_writes(step: &mut Step, q: &DMatrix<f64>, width: usize) {
    for Affine { weight, bias } in step.linears_mut(false) {
        *weight = (q.transpose() * &*weight).rows(0, width).into_owned();
        if let Some(bias) = bias {
            *bias = (q.transpose() * column(bias)).rows(0, width).iter().copied().collect();
        }
    }
}

impl<'a> Network<'a> {
    /// This fused network sliced to `width`, by the signals of the calibration sequences `rows`. The last layer hands
    /// on the whole width unless the head is to be sliced, too.
    ///
    /// # Errors
    /// As [`Network::logits`].
    pub fn sliced(self, rows: &[Vec<u32>], width: usize, options: &Options) -> Result<Sliced<'a>> {
        let mut network = self;
        let full = network.config.hidden_size;
        let eps = f64::from(network.config.norm_eps);
        let axes =
            |signals: &[DMatrix<f64>]| axes(&signals.iter().map(|x| seen(options.signal, x, eps)).collect::<Vec<_>>());
        let mut signals: Vec<DMatrix<f64>> = rows.iter().map(|row| network.embed(row)).collect();
        let (values, mut q) = axes(&signals);
        let mut kept_energies = vec![kept_energy(&values, width)];
        network.embedding = (&network.embedding * &q).columns(0, width).into_owned();
        network.positions = network.positions.map(|table| (table * &q).columns(0, width).into_owned());
        let (layers, steps) = (network.layers.len(), network.config.steps().len());
        for (index, step) in (0..layers).flat_map(|layer| (0..steps).map(move |step| (layer, step))) {
            let last = (index + 1, step + 1) == (layers, steps);
            let out = if last && !options.slice_head { full } else { width };
            let inputs: Vec<DMatrix<f64>> = signals.iter().map(|x| (x * &q).columns(0, width).into_owned()).collect();
            let weights = &mut network.layers[index].steps[step];
            rotate_reads(weights, &q, width);
            weights.shortcut = Some(q.transpose().rows(0, width).into_owned());
            signals = inputs.iter().map(|x| network.step(index, step, x)).collect::<Result<_>>()?;
            let (values, next) = axes(&signals);
            kept_energies.push(kept_energy(&values, width));
            let weights = &mut network.layers[index].steps[step];
            rotate_writes(weights, &next, out);
            weights.shortcut = weights.shortcut.take().map(|shortcut| shortcut * next.columns(0, out));
            q = next;
        }
        network.head.weight = &network.head.weight * q.columns(0, if options.slice_head { width } else { full });
        Ok(Sliced { network, kept_energies })
    }
}
