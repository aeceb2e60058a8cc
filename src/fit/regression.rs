//! Linear maps fitted to signals by least squares, and pulled towards what projection would give.
//!
//! With regressors a (some signals side by side), targets t and, where there is a bias, their means taken off, the map
//! is
//!
//! ```text
//!     W = argmin Σ_tokens ‖t − W·a‖² + Σ_j μ_j·‖w_j − p_j‖²  =  (Σ t·aᵀ + P·diag μ) · (Σ a·aᵀ + diag μ)⁻¹
//! ```
//!
//! P the projected weights and μ_j a share λ of the mean energy, tr(G)/n, of the signal that j belongs to. So however
//! few the tokens are, the map stays near the projected one where they tell nothing. The sums are rounded to f32, so
//! that what they tell of a signal is lost below some 2^-20 of its energy: μ_j is never less than that. Where means are
//! to be taken off, those of the first tokens are before anything is summed, for that energy to be little more than the
//! one around the means.

use std::ops::Range;

use faer::{
    Accum, Mat, MatMut, MatRef, Side, get_global_parallelism,
    linalg::{matmul::matmul, triangular_solve::solve_upper_triangular_in_place},
};
use rayon::prelude::*;

use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix, Readback},
    linalg::{Group, Removal, Subset, solve_ridge, subset_and_next},
    ops::COVARIANCE_TOKENS,
};

/// Columns of a Gram matrix that are summed at a time, a multiple of 4: what is on the GPU of it is never more than
/// this squared, twice.
pub const TILE: usize = 2048;

/// The share of a signal's energy below which its Gram matrix is rounding: that of sums of 64 terms in f32, 2^-24 some
/// sixteen times where the terms are alike.
const ROUNDED: f64 = 1.0 / 1_048_576.0;

/// The sums over tokens that a map is fitted from: on the GPU over a batch, in f64 here over batches.
pub struct Regression {
    /// Widths of the signals that the regressors are made of.
    parts: Vec<usize>,
    targets: usize,
    /// Σ a·aᵀ, `[unknowns, unknowns]`, row-major, of which the upper triangle means something.
    gram: Vec<f64>,
    /// Σ t·aᵀ, `[targets, unknowns]`, row-major.
    cross: Vec<f64>,
    means: Option<Means>,
    /// What is added while the GPU works on the next.
    pending: Option<(Readback, Place)>,
}

/// For a bias: the sums of 1, of the regressors and of the targets.
struct Means {
    count: f64,
    regressors: Vec<f64>,
    targets: Vec<f64>,
    /// The means of the first tokens, which are not in any sum: of each part of the regressors, then of the targets.
    shifts: Vec<Shift>,
}

/// What is taken off every token of a signal.
struct Shift {
    values: Vec<f64>,
    /// Times −1, `[width, 1]`.
    negative: Matrix,
}

impl Shift {
    /// The mean of a signal `[tokens, width]` by the `weight` `[tokens, 1]` that it is multiplied by.
    fn of(gpu: &Gpu, signal: &Matrix, weight: &Matrix) -> Result<Self> {
        let sum = gpu.download(&gpu.cross_covariance(weight, 0..1, signal, 0..signal.cols())?)?;
        let count =
            gpu.download(&gpu.cross_covariance(weight, 0..1, weight, 0..1)?)?.first().copied().unwrap_or_default();
        let mean: Vec<f32> = sum.iter().map(|sum| if count > 0.0 { sum / count } else { 0.0 }).collect();
        let negative: Vec<f32> = mean.iter().map(|value| -value).collect();
        Ok(Self {
            values: mean.into_iter().map(f64::from).collect(),
            negative: gpu.upload(&negative, signal.cols(), 1)?,
        })
    }
}

/// Where a readback belongs: its rows and columns begin there.
#[derive(Clone, Copy)]
enum Place {
    Gram(usize, usize),
    Cross(usize, usize),
    Count,
    Regressors(usize),
    Targets,
}

/// The normal equations of a map: W·(gram + diag ridge) = cross.
pub struct System {
    /// Σ a·aᵀ, `[unknowns, unknowns]`, row-major, of which the upper triangle means something.
    gram: Vec<f64>,
    ridge: Vec<f64>,
    /// Σ t·aᵀ + P·diag μ, `[targets, unknowns]`, row-major.
    cross: Vec<f64>,
    means: Option<Centre>,
}

/// The means of regressors and targets, where there is a bias.
struct Centre {
    regressors: Vec<f64>,
    targets: Vec<f64>,
}

impl System {
    /// The map of all regressors.
    ///
    /// # Errors
    /// [`Error::Numerical`] if a sum is not finite, or the ridge too small.
    pub fn solve(self) -> Result<Fit> {
        let Self { mut gram, ridge, mut cross, means } = self;
        solve_ridge(&mut gram, &ridge, &mut cross)?;
        Ok(Fit::new(cross, means.as_ref(), &(0..ridge.len()).collect::<Vec<_>>()))
    }

    /// The map of those regressors that are left once the groups are out whose absence costs least: as
    /// [`subset_and_next`], which of the groups stay, the map, and what each group costs that leaves, or would leave
    /// next until `beyond` are out. What is lost of the targets counts by `metric`; without one, all alike.
    ///
    /// # Errors
    /// As [`System::solve`].
    pub fn subset(
        self,
        groups: &[Group],
        (remove, beyond): (&[usize], &[usize]),
        metric: Option<&Metric>,
    ) -> Result<(Vec<usize>, Fit, Vec<Removal>)> {
        let Self { gram, ridge, cross, means } = self;
        let unknowns = ridge.len();
        let cross = match metric {
            Some(metric) => product(metric.root.as_ref(), &cross, unknowns),
            None => cross,
        };
        let Subset { groups: kept, mut weights, removals } =
            subset_and_next(gram, &ridge, cross, groups, (remove, beyond))?;
        let left: usize = kept.iter().map(|&group| groups[group].columns.len()).sum();
        if let Some(metric) = metric {
            metric.undo(&mut weights, left);
        }
        let columns: Vec<usize> = kept.iter().flat_map(|&group| groups[group].columns.clone()).collect();
        Ok((kept, Fit::new(weights, means.as_ref(), &columns), removals))
    }
}

/// How much what is lost of each direction of the targets counts.
pub struct Metric {
    /// The R of M = Rᵀ·R, upper triangular.
    root: Mat<f64>,
}

impl Metric {
    /// The symmetric, positive definite M `[targets, targets]` of Σ eᵀ·M·e.
    ///
    /// # Errors
    /// [`Error::Numerical`] if it is not.
    pub fn new(m: MatRef<'_, f64>) -> Result<Self> {
        let failed = |_| {
            let reason = "an error in some direction would count less than nothing: the sums that say how much each \
                          counts are not positive definite";
            Error::Numerical(reason.into())
        };
        Ok(Self { root: m.llt(Side::Lower).map_err(failed)?.L().transpose().to_owned() })
    }

    /// R⁻¹ of the columns of `values`, row-major with `cols` columns, in their place.
    fn undo(&self, values: &mut [f64], cols: usize) {
        let values = MatMut::from_row_major_slice_mut(values, self.root.nrows(), cols);
        solve_upper_triangular_in_place(self.root.as_ref(), values, get_global_parallelism());
    }
}

/// `left · right`, `right` row-major with `cols` columns.
fn product(left: MatRef<'_, f64>, right: &[f64], cols: usize) -> Vec<f64> {
    if cols == 0 {
        return Vec::new();
    }
    let mut result = vec![0.0; left.nrows() * cols];
    let right = MatRef::from_row_major_slice(right, right.len() / cols, cols);
    let out = MatMut::from_row_major_slice_mut(&mut result, left.nrows(), cols);
    matmul(out, Accum::Replace, left, right, 1.0, get_global_parallelism());
    result
}

impl Fit {
    /// The `weights` `[targets, kept]` of the regressors that are `kept`, with the bias that goes with them.
    fn new(weights: Vec<f64>, means: Option<&Centre>, kept: &[usize]) -> Self {
        let bias = means.map(|Centre { regressors, targets }| {
            let offset = |row: &[f64]| row.iter().zip(kept).map(|(w, &at)| w * regressors[at]).sum::<f64>();
            weights.par_chunks(kept.len().max(1)).zip(targets).map(|(row, target)| target - offset(row)).collect()
        });
        Self { weights, bias }
    }
}

/// A fitted map.
pub struct Fit {
    /// `[targets, unknowns]`, row-major.
    pub weights: Vec<f64>,
    /// What is added to every token, `[targets]`, where one was asked for.
    pub bias: Option<Vec<f64>>,
}

impl Regression {
    /// Empty sums, of targets from signals of widths `parts` side by side, with a `bias` or without.
    pub fn new(parts: Vec<usize>, targets: usize, bias: bool) -> Self {
        let unknowns: usize = parts.iter().sum();
        let means = bias.then(|| Means {
            count: 0.0,
            regressors: vec![0.0; unknowns],
            targets: vec![0.0; targets],
            shifts: Vec::new(),
        });
        Self {
            parts,
            targets,
            gram: vec![0.0; unknowns * unknowns],
            cross: vec![0.0; targets * unknowns],
            means,
            pending: None,
        }
    }

    fn unknowns(&self) -> usize {
        self.parts.iter().sum()
    }

    /// Accumulates tokens: the `regressors` `[tokens, width]`, one of each part, the `target` `[tokens, targets]` and
    /// the weight of each token's error, `[tokens, 1]`, by which regressors and targets are multiplied already. These
    /// are changed where there is a bias.
    ///
    /// # Errors
    /// [`Error::Shape`] if a width differs; whatever the GPU reports.
    pub fn add(&mut self, gpu: &Gpu, regressors: &[Matrix], target: &Matrix, weight: &Matrix) -> Result<()> {
        if !regressors.iter().map(Matrix::cols).eq(self.parts.iter().copied()) || target.cols() != self.targets {
            return Err(Error::shape(
                "regression",
                format!("signals of other widths than {:?} and {}", self.parts, self.targets),
            ));
        }
        for first in (0..target.rows()).step_by(COVARIANCE_TOKENS) {
            let tokens = first..target.rows().min(first + COVARIANCE_TOKENS);
            let regressors = regressors.iter().map(|part| part.view(tokens.clone())).collect::<Result<Vec<_>>>()?;
            self.add_batch(gpu, &regressors, &target.view(tokens.clone())?, &weight.view(tokens)?)?;
        }
        Ok(())
    }

    fn add_batch(&mut self, gpu: &Gpu, regressors: &[Matrix], target: &Matrix, weight: &Matrix) -> Result<()> {
        if let Some(means) = &mut self.means {
            if means.shifts.is_empty() {
                means.shifts = regressors
                    .iter()
                    .chain([target])
                    .map(|signal| Shift::of(gpu, signal, weight))
                    .collect::<Result<_>>()?;
            }
            for (signal, shift) in regressors.iter().chain([target]).zip(&means.shifts) {
                gpu.linear(weight, &shift.negative, None, signal, 0, true)?;
            }
        }
        let starts: Vec<usize> =
            self.parts.iter().scan(0, |end, width| Some(std::mem::replace(end, *end + width))).collect();
        for (number, part) in regressors.iter().enumerate() {
            for columns in tiles(part.cols()) {
                let at = starts[number] + columns.start;
                for (other, right) in regressors.iter().enumerate().skip(number) {
                    let first = if other == number { columns.start } else { 0 };
                    for others in tiles(right.cols()).filter(|tile| tile.start >= first) {
                        let place = Place::Gram(at, starts[other] + others.start);
                        self.sum(gpu, gpu.cross_covariance(part, columns.clone(), right, others)?, place)?;
                    }
                }
                for rows in tiles(self.targets) {
                    let place = Place::Cross(rows.start, at);
                    self.sum(gpu, gpu.cross_covariance(target, rows, part, columns.clone())?, place)?;
                }
                if self.means.is_some() {
                    self.sum(gpu, gpu.cross_covariance(weight, 0..1, part, columns.clone())?, Place::Regressors(at))?;
                }
            }
        }
        if self.means.is_some() {
            self.sum(gpu, gpu.cross_covariance(weight, 0..1, target, 0..self.targets)?, Place::Targets)?;
            self.sum(gpu, gpu.cross_covariance(weight, 0..1, weight, 0..1)?, Place::Count)?;
        }
        Ok(())
    }

    /// Reads a sum back, and adds the one before.
    fn sum(&mut self, gpu: &Gpu, sum: Matrix, place: Place) -> Result<()> {
        let before = self.pending.replace((gpu.download_later(&sum)?, place));
        before.map_or(Ok(()), |(readback, place)| self.receive(gpu, readback, place))
    }

    fn receive(&mut self, gpu: &Gpu, readback: Readback, place: Place) -> Result<()> {
        let unknowns = self.unknowns();
        let Self { gram, cross, means, .. } = self;
        let (sum, width, row, column) = match (place, means) {
            (Place::Gram(row, column), _) => (gram, unknowns, row, column),
            (Place::Cross(row, column), _) => (cross, unknowns, row, column),
            (Place::Regressors(column), Some(means)) => (&mut means.regressors, unknowns, 0, column),
            (Place::Targets, Some(means)) => (&mut means.targets, self.targets, 0, 0),
            (Place::Count, Some(means)) => {
                means.count += f64::from(readback.wait(gpu)?.first().copied().unwrap_or_default());
                return Ok(());
            }
            (_, None) => return Ok(()),
        };
        let cols = readback.cols();
        readback.wait_with(gpu, |values, stride| {
            let rows = sum[row * width..].par_chunks_mut(width).zip(values.par_chunks(stride));
            rows.for_each(|(sum, values)| {
                sum[column..column + cols].iter_mut().zip(values).for_each(|(sum, &value)| *sum += f64::from(value))
            });
        })
    }

    /// The map, with a ridge of `share` of each part's mean energy that pulls it towards `prior` `[targets, unknowns]`,
    /// row-major.
    ///
    /// # Errors
    /// [`Error::Numerical`] if a signal was not finite; whatever the readback reports.
    pub fn fit(self, gpu: &Gpu, prior: &[f32], share: f64) -> Result<Fit> {
        self.system(gpu, prior, share)?.solve()
    }

    /// The equations of [`Regression::fit`].
    ///
    /// # Errors
    /// Whatever the readback reports.
    pub fn system(mut self, gpu: &Gpu, prior: &[f32], share: f64) -> Result<System> {
        if let Some((readback, place)) = self.pending.take() {
            self.receive(gpu, readback, place)?;
        }
        let unknowns = self.unknowns();
        let Self { mut gram, mut cross, means, parts, .. } = self;
        let means = means.filter(|means| means.count > 0.0);
        let mut lost: Vec<f64> = (0..unknowns).map(|j| ROUNDED * gram[j * unknowns + j]).collect();
        if let Some(Means { count, regressors, targets, shifts }) = &means {
            // The values themselves are rounded, too, and what was taken off them is no longer there to tell.
            let taken = shifts.iter().flat_map(|shift| &shift.values);
            lost.iter_mut().zip(taken).for_each(|(lost, value)| *lost += ROUNDED * ROUNDED * count * value * value);
            gram.par_chunks_mut(unknowns)
                .zip(regressors)
                .for_each(|(row, mean)| subtract_product(row, mean / count, regressors));
            cross
                .par_chunks_mut(unknowns)
                .zip(targets)
                .for_each(|(row, mean)| subtract_product(row, mean / count, regressors));
        }
        let mut ridge = Vec::with_capacity(unknowns);
        for width in parts {
            let first = ridge.len();
            let energy = (first..first + width).map(|j| gram[j * unknowns + j]).sum::<f64>() / width as f64;
            // A signal without energy keeps the prior, whatever pulls there.
            let pull = (share * energy).max(lost[first..first + width].iter().sum());
            let pull = if pull > 0.0 { pull } else { 1.0 };
            ridge.resize(first + width, pull);
        }
        cross.par_chunks_mut(unknowns).zip(prior.par_chunks(unknowns)).for_each(|(row, prior)| {
            row.iter_mut().zip(prior).zip(&ridge).for_each(|((value, &prior), mu)| *value += f64::from(prior) * mu);
        });
        let means = means.map(|Means { count, regressors, targets, shifts }| {
            let mut taken = shifts.into_iter().flat_map(|shift| shift.values);
            let mut centre = |sums: Vec<f64>| -> Vec<f64> {
                sums.into_iter().map(|sum| sum / count).zip(&mut taken).map(|(mean, shift)| mean + shift).collect()
            };
            Centre { regressors: centre(regressors), targets: centre(targets) }
        });
        Ok(System { gram, ridge, cross, means })
    }
}

/// row ← row − factor·values.
fn subtract_product(row: &mut [f64], factor: f64, values: &[f64]) {
    row.iter_mut().zip(values).for_each(|(entry, value)| *entry -= factor * value);
}

/// Runs of columns.
fn tiles(width: usize) -> impl Iterator<Item = Range<usize>> {
    (0..width).step_by(TILE).map(move |first| first..width.min(first + TILE))
}
