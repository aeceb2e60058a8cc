//! Compression of the width alone, from its formulas: all signals of the dense model are kept, and every fit is one
//! least-squares problem over tokens and ridge.

use nalgebra::{DMatrix, DVector};

use super::{
    compressed::MADE_UP,
    forward::Network,
    kernels,
    shared::{least_squares, moved, side_by_side, stacked, weighted_axes},
    slicing::seen,
};
use crate::{
    error::Result,
    model::{PLACES, place},
    ops::Norm,
    slice::Signal,
};

/// The ways of a narrower residual stream: x·into are the coordinates of x, and back·z what weights read of z.
struct Coordinates {
    /// `[hidden_size, width]`.
    into: DMatrix<f64>,
    /// `[hidden_size, width]`.
    back: DMatrix<f64>,
    /// The weights of the final norm, where the head is the embedding.
    final_norm: Option<DVector<f64>>,
}

impl Coordinates {
    /// Orthonormal S for C and B: both ways are S.
    fn orthonormal(c: &DMatrix<f64>, b: DMatrix<f64>, width: usize) -> Self {
        let (_, basis) = weighted_axes(c, b, width);
        Self { into: basis.clone(), back: basis, final_norm: None }
    }

    /// Where the head is the embedding: coordinates whose weight α of the final norm is further from the median than
    /// `tolerance` stay as they are; of the others, with A the root of α by its mean m, the ways are A·S and A⁻¹·S, S
    /// for A·C·A without what those that stay tell of it, and A⁻¹·B·A⁻¹; their weight is m.
    fn tied(c: &DMatrix<f64>, b: &DMatrix<f64>, width: usize, alpha: &[f64], tolerance: f64) -> Self {
        let mut sorted = alpha.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = sorted[(alpha.len() - 1) / 2];
        let all = 0..alpha.len();
        let (usual, stay): (Vec<usize>, Vec<usize>) = all.partition(|&i| (alpha[i] / median - 1.0).abs() <= tolerance);
        let mean = usual.iter().map(|&i| alpha[i]).sum::<f64>() / usual.len() as f64;
        let a = DVector::from_fn(alpha.len(), |i, _| if usual.contains(&i) { (alpha[i] / mean).sqrt() } else { 1.0 });
        let c = DMatrix::from_fn(alpha.len(), alpha.len(), |i, j| a[i] * c[(i, j)] * a[j]);
        let b = DMatrix::from_fn(alpha.len(), alpha.len(), |i, j| b[(i, j)] / (a[i] * a[j]));
        let part =
            |of: &DMatrix<f64>, rows: &[usize], cols: &[usize]| of.select_rows(rows.iter()).select_columns(cols.iter());
        let mut own = part(&c, &usual, &usual);
        if !stay.is_empty() {
            let across = part(&c, &stay, &usual);
            let told =
                part(&c, &stay, &stay).cholesky().map_or_else(|| across.clone(), |factors| factors.solve(&across));
            own -= across.transpose() * told;
        }
        let (_, q) = weighted_axes(&own, part(&b, &usual, &usual), width - stay.len());
        let mut basis = DMatrix::zeros(alpha.len(), width);
        stay.iter().enumerate().for_each(|(column, &row)| basis[(row, column)] = 1.0);
        for (from, &row) in usual.iter().enumerate() {
            basis.view_mut((row, stay.len()), (1, q.ncols())).copy_from(&q.row(from));
        }
        let scaled = |power: i32| DMatrix::from_fn(basis.nrows(), width, |i, j| a[i].powi(power) * basis[(i, j)]);
        let weights = stay.iter().map(|&i| alpha[i]).chain(std::iter::repeat(mean)).take(width);
        Self { into: scaled(1), back: scaled(-1), final_norm: Some(DVector::from_iterator(width, weights)) }
    }
}

impl Network<'_> {
    /// This fused network with a residual stream of `width` coordinates, by the signals of `rows`; `tied` are the
    /// weights of the final norm and the tolerance of those that are rotated, where the head is the embedding. The
    /// squares of the errors of the tokens of step `n` of the model count by their places as `by_place(n)` says.
    ///
    /// # Errors
    /// As [`Network::logits`].
    pub fn narrowed(
        mut self,
        rows: &[Vec<u32>],
        width: usize,
        tied: Option<(&[f64], f64)>,
        share: f64,
        by_place: &dyn Fn(usize) -> [f64; PLACES],
    ) -> Result<Self> {
        let mut dense = self.clone();
        let (steps, full) = (dense.config.points(), dense.config.hidden_size);
        let eps = f64::from(dense.config.norm_eps);
        let mut signals: Vec<Vec<DMatrix<f64>>> = vec![rows.iter().map(|row| dense.embed(row)).collect()];
        for point in 0..steps {
            signals.push(signals[point].iter().map(|x| dense.step_from(point, x)).collect::<Result<_>>()?);
        }
        let mean_free = DMatrix::identity(full, full) - DMatrix::from_element(full, full, 1.0 / full as f64);
        let layer_norm = dense.config.architecture.norm.kind == Norm::Layer;
        let (mut c, mut reads) = (DMatrix::zeros(full, full), DMatrix::zeros(full, full));
        for (point, signals) in signals.iter().enumerate() {
            let of_point = kernels::covariance(&seen(Signal::Normed, &stacked(signals), eps));
            c += &of_point / of_point.trace();
            if point < steps {
                let weights = dense.linears_from(point, true).into_iter().map(|affine| affine.weight.clone());
                let weights = weights.map(|weight| if layer_norm { weight * &mean_free } else { weight });
                let sum = weights.fold(DMatrix::zeros(full, full), |sum, weight| sum + weight.transpose() * weight);
                reads += &sum / sum.trace();
            }
        }
        let b = &reads / (2.0 * reads.trace()) + DMatrix::identity(full, full) / (2.0 * full as f64);
        let ways = match tied {
            Some((alpha, tolerance)) => Coordinates::tied(&c, &b, width, alpha, tolerance),
            None => Coordinates::orthonormal(&c, b, width),
        };
        self.embedding = &self.embedding * &ways.into;
        self.positions = self.positions.map(|table| table * &ways.into);
        let mut z: Vec<DMatrix<f64>> = signals[0].iter().map(|x| x * &ways.into).collect();
        for point in 0..steps {
            let bias = self.linears_from(point, true).iter().all(|affine| affine.bias.is_some());
            let goal = dense.scaled(&signals[point]);
            let map = least_squares(&[self.scaled(&z)], &goal, &vec![1.0; goal.nrows()], &ways.back, share, bias);
            self.linears_from(point, true).into_iter().for_each(|affine| moved(affine, &map));
            self.fit_writes_of_step(
                point,
                [&signals[point], &signals[point + 1], &z].map(|x| stacked(x)),
                &z,
                &ways,
                (share, by_place(point)),
            );
            z = z.iter().map(|z| self.step_from(point, z)).collect::<Result<_>>()?;
        }
        let goal = dense.scaled(&signals[steps]);
        let seen = self.scaled(&z);
        let (Some(norm), Some((alpha, _))) = (&ways.final_norm, tied) else {
            let ones = vec![1.0; goal.nrows()];
            let map = least_squares(&[seen], &goal, &ones, &ways.back, share, self.head.bias.is_some());
            moved(&mut self.head, &map);
            return Ok(self);
        };
        // What the final norm gives, in the coordinates of the embedding.
        let goal = goal * DMatrix::from_diagonal(&DVector::from_column_slice(alpha)) * &ways.back;
        let seen = seen * DMatrix::from_diagonal(norm);
        let factor = goal.dot(&seen) / seen.dot(&seen);
        let plain = DVector::from_iterator(full, alpha.iter().map(|weight| 1.0 / weight));
        let embedding = &self.head.weight * DMatrix::from_diagonal(&plain) * &ways.into;
        self.head.weight = embedding * DMatrix::from_diagonal(&(norm * factor));
        Ok(self)
    }

    /// W' = argmin Σ w·‖t − W'·a'‖² / ms(x_new) + Σ μ‖W' − intoᵀ·W‖² with t = (x_new − x)·into + q·(x·into − z).
    fn fit_writes_of_step(
        &mut self,
        point: usize,
        [x, x_new, z]: [DMatrix<f64>; 3],
        each: &[DMatrix<f64>],
        ways: &Coordinates,
        (share, by_place): (f64, [f64; PLACES]),
    ) {
        let project = |values: DMatrix<f64>| ways.into.transpose() * values;
        for affine in self.linears_from(point, false) {
            affine.weight = project(affine.weight.clone());
            let bias = affine.bias.take().map(|bias| project(DMatrix::from_vec(bias.len(), 1, bias)));
            affine.bias = bias.map(|bias| bias.as_slice().to_vec());
        }
        let (layer, step) = self.place(point);
        let inner = |block| stacked(&each.iter().map(|z| self.inner(layer, block, z)).collect::<Vec<_>>());
        let parts: Vec<DMatrix<f64>> = self.layers[layer].steps[step].blocks.iter().map(inner).collect();
        let energies = kernels::energy(&x_new);
        let before = x * &ways.into;
        let target = x_new * &ways.into - &before + MADE_UP * (before - z);
        let eps = f64::from(self.config.norm_eps);
        let by_token = each.iter().flat_map(|row| (0..row.nrows()).map(|at| by_place[place(at)]));
        let scale = |(energy, counts): (f64, f64)| (counts / (energy / self.config.hidden_size as f64 + eps)).sqrt();
        let weights: Vec<f64> = energies.into_iter().zip(by_token).map(scale).collect();
        let mut writes = self.linears_from(point, false);
        let bias = writes.iter().any(|affine| affine.bias.is_some());
        let prior = side_by_side(&writes.iter().map(|affine| affine.weight.clone()).collect::<Vec<_>>());
        let mut fitted = least_squares(&parts, &target, &weights, &prior, share, bias);
        let mut first = 0;
        for affine in &mut writes {
            let width = affine.weight.ncols();
            affine.weight = fitted.weight.columns(first, width).into_owned();
            first += width;
            let zeros = |before: Vec<f64>| vec![0.0; before.len()];
            affine.bias = affine.bias.take().map(|before| fitted.bias.take().unwrap_or_else(|| zeros(before)));
        }
    }
}
