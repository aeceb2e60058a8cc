//! SliceGPT as the paper tells it: signals in the original basis, every block run once to find an axis and once more to go on.

use nalgebra::{DMatrix, SymmetricEigen};

use super::{
    forward::{Affine, Layer, Network},
    kernels,
};
use crate::{
    error::Result,
    model::architecture::Space,
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

/// W ← (W·Q)[:, :width] for what reads the residual.
fn rotate_reads(layer: &mut Layer, attention: bool, q: &DMatrix<f64>, width: usize) {
    for (spec, linear) in &mut layer.linears {
        if spec.role.is_attention() == attention && spec.reads == Space::Residual {
            linear.weight = (&linear.weight * q).columns(0, width).into_owned();
        }
    }
}

/// W ← (QᵀW)[:width, :] and b ← (Qᵀb)[:width] for what writes it.
fn rotate_writes(layer: &mut Layer, attention: bool, q: &DMatrix<f64>, width: usize) {
    for (spec, Affine { weight, bias }) in &mut layer.linears {
        if spec.role.is_attention() == attention && spec.writes == Space::Residual {
            *weight = (q.transpose() * &*weight).rows(0, width).into_owned();
            if let Some(bias) = bias {
                *bias = (q.transpose() * DMatrix::from_column_slice(bias.len(), 1, bias)).rows(0, width).iter().copied().collect();
            }
        }
    }
}

impl<'a> Network<'a> {
    /// This fused network sliced to `width`, by the signals of the calibration sequences `rows`. The last layer hands on the whole width unless
    /// the head is to be sliced, too.
    ///
    /// # Errors
    /// As [`Network::logits`].
    pub fn sliced(self, rows: &[Vec<u32>], width: usize, options: &Options) -> Result<Sliced<'a>> {
        let mut network = self;
        let full = network.config.hidden_size;
        let eps = f64::from(network.config.norm_eps);
        let axes = |signals: &[DMatrix<f64>]| axes(&signals.iter().map(|x| seen(options.signal, x, eps)).collect::<Vec<_>>());
        let mut signals: Vec<DMatrix<f64>> = rows.iter().map(|row| network.embed(row)).collect();
        let (values, mut q) = axes(&signals);
        let mut kept_energies = vec![kept_energy(&values, width)];
        network.embedding = (&network.embedding * &q).columns(0, width).into_owned();
        network.positions = network.positions.map(|table| (table * &q).columns(0, width).into_owned());
        let parallel = network.config.parallel;
        for index in 0..network.layers.len() {
            let out = if index + 1 == network.layers.len() && !options.slice_head { full } else { width };
            let inputs: Vec<DMatrix<f64>> = signals.iter().map(|x| (x * &q).columns(0, width).into_owned()).collect();
            rotate_reads(&mut network.layers[index], true, &q, width);
            network.layers[index].shortcuts[0] = Some(q.transpose().rows(0, width).into_owned());
            if parallel {
                rotate_reads(&mut network.layers[index], false, &q, width);
            } else {
                let middle = inputs.iter().map(|x| network.after_attention(index, x)).collect::<Result<Vec<_>>>()?;
                let (values, next) = axes(&middle);
                kept_energies.push(kept_energy(&values, width));
                let layer = &mut network.layers[index];
                rotate_writes(layer, true, &next, width);
                layer.shortcuts[0] = layer.shortcuts[0].take().map(|shortcut| shortcut * next.columns(0, width));
                rotate_reads(layer, false, &next, width);
                layer.shortcuts[1] = Some(next.transpose().rows(0, width).into_owned());
            }
            signals = inputs.iter().map(|x| network.layer(index, x)).collect::<Result<_>>()?;
            let (values, next) = axes(&signals);
            kept_energies.push(kept_energy(&values, width));
            let layer = &mut network.layers[index];
            if parallel {
                rotate_writes(layer, true, &next, out);
            }
            rotate_writes(layer, false, &next, out);
            let last = if parallel { 0 } else { 1 };
            layer.shortcuts[last] = layer.shortcuts[last].take().map(|shortcut| shortcut * next.columns(0, out));
            q = next;
        }
        network.head.weight = &network.head.weight * q.columns(0, if options.slice_head { width } else { full });
        Ok(Sliced { network, kept_energies })
    }
}
