//! Slicing with one basis for several layers, and with least-squares re-fits, from their formulas: all signals of the
//! dense model are kept, and every fit is one least-squares problem over tokens and ridge, solved by orthogonal
//! factors, without Gram matrices.

use nalgebra::{DMatrix, SymmetricEigen};

use super::{
    forward::{Affine, Network},
    kernels,
    slicing::{Sliced, axes, kept_energy, principal_axes, seen},
};
use crate::{
    error::Result,
    ops::Norm,
    slice::{Basis, Options, Refit},
};

/// One signal, a matrix for each sequence.
type Signals = Vec<DMatrix<f64>>;

/// The bases `[hidden_size, width]` at every point of the residual stream, and the shares of energy that they keep.
struct Points {
    bases: Vec<DMatrix<f64>>,
    /// Which of the bases it is; each its own where they are per block.
    segments: Vec<usize>,
    kept_energies: Vec<f64>,
}

/// A map `[targets, regressors]` and what is added to it.
pub(super) struct Fitted {
    pub weight: DMatrix<f64>,
    pub bias: Option<Vec<f64>>,
}

/// All sequences one below the other.
pub(super) fn stacked(signals: &[DMatrix<f64>]) -> DMatrix<f64> {
    let (rows, width) = (signals.iter().map(DMatrix::nrows).sum(), signals.first().map_or(0, DMatrix::ncols));
    let mut all = DMatrix::zeros(rows, width);
    let mut first = 0;
    for x in signals {
        all.rows_mut(first, x.nrows()).copy_from(x);
        first += x.nrows();
    }
    all
}

pub(super) fn side_by_side(parts: &[DMatrix<f64>]) -> DMatrix<f64> {
    stacked(&parts.iter().map(DMatrix::transpose).collect::<Vec<_>>()).transpose()
}

/// The W, and b where one is asked for, that minimise Σ_t w_t²·‖target_t − W·a_t − b‖² + Σ_j μ_j·‖w_j − p_j‖², a the
/// `parts` side by side.
///
/// μ is `share` of the mean energy of a part's weighted coordinates, their means taken off where there is a bias; and
/// no less than what sums in f32 can tell. A part without energy keeps its prior.
pub(super) fn least_squares(
    parts: &[DMatrix<f64>],
    target: &DMatrix<f64>,
    weights: &[f64],
    prior: &DMatrix<f64>,
    share: f64,
    bias: bool,
) -> Fitted {
    let weighted = |x: &DMatrix<f64>| DMatrix::from_fn(x.nrows(), x.ncols(), |t, i| weights[t] * x[(t, i)]);
    let total: f64 = weights.iter().map(|w| w * w).sum();
    let mut ridge = Vec::new();
    for part in parts {
        let energy: f64 = (0..part.ncols())
            .map(|i| {
                let mean = if bias {
                    (0..part.nrows()).map(|t| weights[t].powi(2) * part[(t, i)]).sum::<f64>() / total
                } else {
                    0.0
                };
                (0..part.nrows()).map(|t| (weights[t] * (part[(t, i)] - mean)).powi(2)).sum::<f64>()
            })
            .sum();
        let mu = (share / part.ncols() as f64).max(2f64.powi(-20)) * energy;
        ridge.extend(vec![if mu > 0.0 { mu } else { 1.0 }; part.ncols()]);
    }
    let regressors = weighted(&side_by_side(parts));
    let (tokens, unknowns) = regressors.shape();
    let mut left = DMatrix::zeros(tokens + unknowns, unknowns + usize::from(bias));
    left.view_mut((0, 0), (tokens, unknowns)).copy_from(&regressors);
    let mut right = DMatrix::zeros(tokens + unknowns, target.ncols());
    right.rows_mut(0, tokens).copy_from(&weighted(target));
    for (j, mu) in ridge.iter().enumerate() {
        left[(tokens + j, j)] = mu.sqrt();
        right.row_mut(tokens + j).copy_from(&(prior.column(j).transpose() * mu.sqrt()));
    }
    if bias {
        left.view_mut((0, unknowns), (tokens, 1)).copy_from_slice(weights);
    }
    let qr = left.qr();
    let solution = qr.r().solve_upper_triangular(&(qr.q().transpose() * right)).unwrap_or_else(|| DMatrix::zeros(0, 0));
    Fitted {
        weight: solution.rows(0, unknowns).transpose(),
        bias: bias.then(|| solution.row(unknowns).iter().copied().collect()),
    }
}

/// The basis of points with the covariances C and the sums A of WᵀW: orthonormal columns that span B^½·U, U the axes of
/// B^½·C̄·B^½, with B = ½·Ā/tr Ā + ½·I/D, rotated into the axes of what is in them.
fn segment_basis(covariances: &[DMatrix<f64>], reads: &[DMatrix<f64>], width: usize) -> (DMatrix<f64>, f64) {
    let full = covariances.first().map_or(0, DMatrix::nrows);
    let mean = |all: &[DMatrix<f64>]| all.iter().fold(DMatrix::zeros(full, full), |sum, one| sum + one / one.trace());
    let (c, a) = (mean(covariances), mean(reads));
    let b = &a / (2.0 * a.trace()) + DMatrix::identity(full, full) / (2.0 * full as f64);
    let (values, basis) = weighted_axes(&c, b, width);
    (basis, values.iter().sum::<f64>() / c.trace())
}

/// Orthonormal columns that span B^½·U, U the axes of B^½·C·B^½, rotated into the axes of what C has in them, with the
/// energies there.
pub(super) fn weighted_axes(c: &DMatrix<f64>, b: DMatrix<f64>, width: usize) -> (Vec<f64>, DMatrix<f64>) {
    let eigen = SymmetricEigen::new(b);
    let root = &eigen.eigenvectors
        * DMatrix::from_diagonal(&eigen.eigenvalues.map(f64::sqrt))
        * eigen.eigenvectors.transpose();
    let (_, u) = principal_axes(&(&root * c * &root));
    let span = (root * u.columns(0, width)).qr().q();
    let (values, own) = principal_axes(&(span.transpose() * c * &span));
    (values, span * own)
}

impl<'a> Network<'a> {
    /// The step of a layer that begins at a point of the residual stream.
    pub(super) fn place(&self, point: usize) -> (usize, usize) {
        let steps = self.config.steps().len();
        (point / steps, point % steps)
    }

    /// Runs the step that begins at a point.
    pub(super) fn step_from(&self, point: usize, x: &DMatrix<f64>) -> Result<DMatrix<f64>> {
        let (layer, step) = self.place(point);
        self.step(layer, step, x)
    }

    /// Its linear weights that read the residual, or that write it.
    pub(super) fn linears_from(&mut self, point: usize, reads: bool) -> Vec<&mut Affine> {
        let (layer, step) = self.place(point);
        self.layers[layer].steps[step].linears_mut(reads).collect()
    }

    pub(super) fn scaled(&self, signals: &[DMatrix<f64>]) -> DMatrix<f64> {
        stacked(&signals.iter().map(|x| self.norm(None, x)).collect::<Vec<_>>())
    }

    /// The bases at all points, from the dense model's signals there.
    fn points(&mut self, signals: &[Signals], width: usize, options: &Options) -> Points {
        let (full, eps, last) = (self.config.hidden_size, f64::from(self.config.norm_eps), signals.len() - 1);
        let of = |point: usize| signals[point].iter().map(|x| seen(options.signal, x, eps)).collect::<Vec<_>>();
        let Basis::Segments(count) = options.basis else {
            let all: Vec<_> = (0..=last).map(|point| axes(&of(point))).collect();
            let kept = |point: usize| if point == last && !options.slice_head { full } else { width };
            return Points {
                bases: all.iter().enumerate().map(|(point, (_, q))| q.columns(0, kept(point)).into_owned()).collect(),
                segments: (0..=last).collect(),
                kept_energies: all.iter().map(|(values, _)| kept_energy(values, width)).collect(),
            };
        };
        let layers = self.layers.len();
        let segments: Vec<usize> =
            (0..=last).map(|point| self.place(point).0.min(layers - 1) * count / layers).collect();
        let mean_free = DMatrix::identity(full, full) - DMatrix::from_element(full, full, 1.0 / full as f64);
        let layer_norm = self.config.architecture.norm.kind == Norm::Layer;
        let mut reads: Vec<DMatrix<f64>> = Vec::new();
        for point in 0..=last {
            let weights = if point == last {
                vec![self.head.weight.clone()]
            } else {
                self.linears_from(point, true).into_iter().map(|affine| affine.weight.clone()).collect()
            };
            // A signal without a mean is read by W as by W·M.
            let weights = weights.into_iter().map(|weight| if layer_norm { weight * &mean_free } else { weight });
            reads.push(weights.fold(DMatrix::zeros(full, full), |sum, weight| sum + kernels::covariance(&weight)));
        }
        let found: Vec<_> = (0..count)
            .map(|segment| {
                let inside: Vec<usize> = (0..=last).filter(|&point| segments[point] == segment).collect();
                let covariances: Vec<_> =
                    inside.iter().map(|&point| kernels::covariance(&stacked(&of(point)))).collect();
                let reads: Vec<_> = inside.iter().map(|&point| reads[point].clone()).collect();
                segment_basis(&covariances, &reads, width)
            })
            .collect();
        Points {
            bases: segments.iter().map(|&segment| found[segment].0.clone()).collect(),
            kept_energies: found.iter().map(|(_, kept)| *kept).collect(),
            segments,
        }
    }

    /// This fused network sliced to `width` as `options` say, by the signals of the calibration sequences `rows`.
    ///
    /// # Errors
    /// As [`Network::logits`].
    pub fn refitted(self, rows: &[Vec<u32>], width: usize, options: &Options) -> Result<Sliced<'a>> {
        if options.basis == Basis::PerBlock && options.refit == Refit::None {
            return self.sliced(rows, width, options);
        }
        let (mut dense, mut sliced) = (self.clone(), self);
        let steps = dense.config.points();
        let mut signals: Vec<Signals> = vec![rows.iter().map(|row| dense.embed(row)).collect()];
        for point in 0..steps {
            signals.push(signals[point].iter().map(|x| dense.step_from(point, x)).collect::<Result<_>>()?);
        }
        let points = dense.points(&signals, width, options);
        let first = &points.bases[0];
        sliced.embedding = &sliced.embedding * first;
        sliced.positions = sliced.positions.map(|table| table * first);
        let mut z: Signals = signals[0].iter().map(|x| x * first).collect();
        for point in 0..steps {
            sliced.fit_reads(point, &dense.scaled(&signals[point]), &z, &points.bases[point], options);
            let shortcut = options.basis == Basis::PerBlock || points.segments[point] != points.segments[point + 1];
            sliced.fit_writes(
                point,
                &signals[point + 1],
                &z,
                [&points.bases[point], &points.bases[point + 1]],
                shortcut,
                options,
            );
            z = z.iter().map(|z| sliced.step_from(point, z)).collect::<Result<_>>()?;
        }
        let map = sliced.read_map(
            &dense.scaled(&signals[steps]),
            &z,
            &points.bases[steps],
            options,
            sliced.head.bias.is_some(),
        );
        moved(&mut sliced.head, &map);
        Ok(Sliced { network: sliced, kept_energies: points.kept_energies })
    }

    /// T = argmin Σ‖n(x) − T·n(z)‖² + μ‖T − S‖², or S.
    fn read_map(
        &self,
        target: &DMatrix<f64>,
        z: &[DMatrix<f64>],
        basis: &DMatrix<f64>,
        options: &Options,
        bias: bool,
    ) -> Fitted {
        if options.refit == Refit::None {
            return Fitted { weight: basis.clone(), bias: None };
        }
        least_squares(&[self.scaled(z)], target, &vec![1.0; target.nrows()], basis, options.ridge, bias)
    }

    fn fit_reads(
        &mut self,
        point: usize,
        target: &DMatrix<f64>,
        z: &[DMatrix<f64>],
        basis: &DMatrix<f64>,
        options: &Options,
    ) {
        let bias = self.linears_from(point, true).iter().all(|affine| affine.bias.is_some());
        let map = self.read_map(target, z, basis, options, bias);
        self.linears_from(point, true).into_iter().for_each(|affine| moved(affine, &map));
    }

    /// [K, W'] = argmin Σ‖S'ᵀ·x − [K, W']·[z, a']‖²/ms(x) + Σ μ‖[K, W'] − [S'ᵀ·S, S'ᵀ·W]‖², or the latter.
    fn fit_writes(
        &mut self,
        point: usize,
        x: &[DMatrix<f64>],
        z: &[DMatrix<f64>],
        bases: [&DMatrix<f64>; 2],
        shortcut: bool,
        options: &Options,
    ) {
        let [from, to] = bases;
        for affine in self.linears_from(point, false) {
            affine.weight = to.transpose() * &affine.weight;
            affine.bias = affine
                .bias
                .as_ref()
                .map(|bias| (to.transpose() * DMatrix::from_column_slice(bias.len(), 1, bias)).as_slice().to_vec());
        }
        let carried = shortcut.then(|| from.transpose() * to);
        let (layer, step) = self.place(point);
        self.layers[layer].steps[step].shortcut = carried.clone();
        if options.refit != Refit::Full {
            return;
        }
        let (residual, mut target) = (stacked(z), stacked(x) * to);
        let mut parts = Vec::new();
        let mut prior = Vec::new();
        match &carried {
            Some(carried) => {
                parts.push(residual);
                prior.push(carried.transpose());
            }
            None => target -= residual,
        }
        for block in &self.layers[layer].steps[step].blocks {
            parts.push(stacked(&z.iter().map(|z| self.inner(layer, block, z)).collect::<Vec<_>>()));
        }
        let eps = f64::from(self.config.norm_eps);
        let energies = kernels::energy(&stacked(x));
        let weights: Vec<f64> =
            energies.iter().map(|energy| 1.0 / (energy / from.nrows() as f64 + eps).sqrt()).collect();
        let mut writes = self.linears_from(point, false);
        prior.extend(writes.iter().map(|affine| affine.weight.clone()));
        let bias = writes.iter().any(|affine| affine.bias.is_some());
        let Fitted { weight, mut bias } =
            least_squares(&parts, &target, &weights, &side_by_side(&prior), options.ridge, bias);
        let mut column = 0;
        let mut next = |width: usize| {
            column += width;
            weight.columns(column - width, width).into_owned()
        };
        let carried = carried.map(|carried| next(carried.nrows()).transpose());
        for affine in &mut writes {
            affine.weight = next(affine.weight.ncols());
            affine.bias = affine.bias.as_ref().map(|before| bias.take().unwrap_or_else(|| vec![0.0; before.len()]));
        }
        self.layers[layer].steps[step].shortcut = carried;
    }
}

/// W ← W·T, b ← b + W·c.
pub(super) fn moved(affine: &mut Affine, map: &Fitted) {
    if let (Some(bias), Some(offset)) = (&mut affine.bias, &map.bias) {
        let shift = &affine.weight * DMatrix::from_column_slice(offset.len(), 1, offset);
        bias.iter_mut().zip(shift.iter()).for_each(|(bias, shift)| *bias += shift);
    }
    affine.weight = &affine.weight * &map.weight;
}
