//! Which regressors of a least-squares problem to leave out.
//!
//! With H = G + diag μ, the W that minimises tr(W·H·Wᵀ) − 2·tr(C·Wᵀ) is C·P, P = H⁻¹. Leaving out a group g of
//! regressors, and fitting the others again, raises the minimum by
//!
//! ```text
//!     Δ_g = tr(W_g·(P_gg)⁻¹·W_gᵀ),     W ← W − W_g·(P_gg)⁻¹·P_g,     P ← P − P_·g·(P_gg)⁻¹·P_g·
//! ```
//!
//! (optimal brain surgeon, of a group; Hassibi and Stork 1993). A regressor that is a combination of others, or always
//! zero, costs nothing, and one of two alike costs nothing until the other is gone. So groups leave one after the
//! other, by their cost after those before: among the cheapest few exactly, as long as none outside is cheaper; then
//! the whole is brought up to date by one product.

use std::ops::Range;

use faer::{
    Accum, Conj, Mat, MatRef, Side,
    dyn_stack::{MemBuffer, MemStack},
    get_global_parallelism,
    linalg::{
        cholesky::llt::solve::{solve_in_place_scratch, solve_in_place_with_conj},
        matmul::matmul,
        solvers::Solve,
    },
};

use super::solve_ridge;
use crate::error::{Error, Result};

/// Regressors that leave together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub columns: Range<usize>,
    /// Which of the quotas it counts for.
    pub kind: usize,
}

/// What is left.
#[derive(Debug, Clone, PartialEq)]
pub struct Subset {
    /// The groups that stay, ascending.
    pub groups: Vec<usize>,
    /// Their W `[targets, columns that stay]`, row-major.
    pub weights: Vec<f64>,
    /// Those that left, in order, and after them those that would leave next.
    pub removals: Vec<Removal>,
}

/// A group that leaves after those before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Removal {
    pub group: usize,
    /// By how much that raises the minimum.
    pub cost: f64,
}

/// The most columns that are looked at together, and the share of those there are.
const TOGETHER: usize = 64;
const SHARE: usize = 16;

/// Leaves out `remove[kind]` groups of each kind. `gram` is G `[n, n]`, row-major, of which the upper triangle is read;
/// `right` is C `[m, n]`, row-major. Every column belongs to one group; they ascend.
///
/// # Errors
/// [`Error::Numerical`] if a sum is not finite, or G + diag μ is not positive definite; [`Error::Shape`] if sizes do
/// not fit, or more groups are to leave than there are.
pub fn subset(gram: Vec<f64>, ridge: &[f64], right: Vec<f64>, groups: &[Group], remove: &[usize]) -> Result<Subset> {
    subset_and_next(gram, ridge, right, groups, (remove, &[]))
}

/// As [`subset`], and returns what it would cost to continue until `beyond[kind]` are out, where that is more.
///
/// # Errors
/// As [`subset`].
pub fn subset_and_next(
    gram: Vec<f64>,
    ridge: &[f64],
    right: Vec<f64>,
    groups: &[Group],
    (remove, beyond): (&[usize], &[usize]),
) -> Result<Subset> {
    let n = ridge.len();
    let covered = groups.iter().try_fold(0, |end, group| (group.columns.start == end).then_some(group.columns.end));
    let there = |kind: usize| groups.iter().filter(|group| group.kind == kind).count();
    let too_many = |(kind, &count): (usize, &usize)| count > there(kind);
    if covered != Some(n) || remove.iter().enumerate().any(too_many) || beyond.iter().enumerate().any(too_many) {
        return Err(Error::shape("subset", format!("{remove:?} of {} groups of {n} columns", groups.len())));
    }
    let mut elimination = Elimination::new(gram, ridge, right)?;
    let mut stay: Vec<usize> = (0..groups.len()).collect();
    let mut removals = elimination.leave(groups, &mut stay, remove.to_vec())?;
    let columns: Vec<usize> = stay.iter().flat_map(|&group| groups[group].columns.clone()).collect();
    let (weights, kept) = (elimination.weights(&columns), stay.clone());
    let out = |kind: usize| remove.get(kind).copied().unwrap_or_default();
    let more = beyond.iter().enumerate().map(|(kind, most)| most.saturating_sub(out(kind))).collect();
    removals.extend(elimination.leave(groups, &mut stay, more)?);
    Ok(Subset { groups: kept, weights, removals })
}

/// P and W, of which the rows and columns that left are zero.
struct Elimination {
    inverse: Mat<f64>,
    /// `[m, n]`.
    weights: Mat<f64>,
}

impl Elimination {
    fn new(mut gram: Vec<f64>, ridge: &[f64], mut right: Vec<f64>) -> Result<Self> {
        let n = ridge.len();
        solve_ridge(&mut gram, ridge, &mut right)?;
        let inverse = inverse(&gram, n);
        drop(gram);
        let weights = MatRef::from_row_major_slice(&right, right.len() / n, n).to_owned();
        Ok(Self { inverse, weights })
    }

    /// Takes out as many groups of each kind as are `missing`.
    fn leave(&mut self, groups: &[Group], stay: &mut Vec<usize>, mut missing: Vec<usize>) -> Result<Vec<Removal>> {
        let mut removals = Vec::new();
        while missing.iter().any(|&count| count > 0) {
            let leave = self.cheapest(groups, stay, &mut missing)?;
            let columns: Vec<usize> = leave.iter().flat_map(|leave| groups[leave.group].columns.clone()).collect();
            self.remove(&columns)?;
            stay.retain(|group| leave.iter().all(|leave| leave.group != *group));
            removals.extend(leave);
        }
        Ok(removals)
    }

    /// Some of the groups that `stay`, in the order in which they leave; `missing` is what is still to leave of each
    /// kind.
    fn cheapest(&self, groups: &[Group], stay: &[usize], missing: &mut [usize]) -> Result<Vec<Removal>> {
        let mut order = Vec::with_capacity(stay.len());
        for &group in stay.iter().filter(|&&group| missing[groups[group].kind] > 0) {
            let columns: Vec<usize> = groups[group].columns.clone().collect();
            order.push((self.local(&columns).cost(0..columns.len())?, group));
        }
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let columns: usize = stay.iter().map(|&group| groups[group].columns.len()).sum();
        let most = (columns / SHARE).clamp(1, TOGETHER);
        let mut together = 0;
        let near = order.iter().take_while(|(_, group)| {
            together += groups[*group].columns.len();
            together <= most
        });
        let (near, far) = order.split_at(near.count().max(1));
        let bound = |kind: usize| far.iter().find(|(_, group)| groups[*group].kind == kind).map(|(cost, _)| *cost);

        let columns: Vec<usize> = near.iter().flat_map(|&(_, group)| groups[group].columns.clone()).collect();
        let mut local = self.local(&columns);
        let mut end = 0;
        let mut candidates: Vec<(usize, Range<usize>)> = Vec::new();
        for &(_, group) in near {
            let first = end;
            end += groups[group].columns.len();
            candidates.push((group, first..end));
        }
        let mut leave = Vec::new();
        loop {
            let mut least: Option<(f64, usize)> = None;
            for (at, (group, columns)) in candidates.iter().enumerate() {
                let kind = groups[*group].kind;
                let cost = local.cost(columns.clone())?;
                let allowed = leave.is_empty() || bound(kind).is_none_or(|bound| cost <= bound);
                if missing[kind] > 0 && allowed && least.is_none_or(|(best, _)| cost < best) {
                    least = Some((cost, at));
                }
            }
            let Some((cost, at)) = least else { return Ok(leave) };
            let (group, columns) = candidates.swap_remove(at);
            local.remove(columns)?;
            missing[groups[group].kind] -= 1;
            leave.push(Removal { group, cost });
        }
    }

    /// P and WᵀW among some columns.
    fn local(&self, columns: &[usize]) -> Local {
        let k = columns.len();
        let chosen = Mat::from_fn(self.weights.nrows(), k, |i, j| self.weights[(i, columns[j])]);
        Local {
            inverse: Mat::from_fn(k, k, |i, j| self.inverse[(columns[i], columns[j])]),
            squares: chosen.transpose() * &chosen,
        }
    }

    /// Takes columns out, and fits the others again.
    fn remove(&mut self, columns: &[usize]) -> Result<()> {
        let (n, m, k) = (self.inverse.nrows(), self.weights.nrows(), columns.len());
        let rows = Mat::from_fn(k, n, |i, j| self.inverse[(columns[i], j)]);
        let inner = Mat::from_fn(k, k, |i, j| self.inverse[(columns[i], columns[j])]);
        let factor = inner.llt(Side::Lower).map_err(|_| singular(n))?.solve(&rows);
        let tall = rows.transpose().to_owned();
        let chosen = Mat::from_fn(m, k, |i, j| self.weights[(i, columns[j])]);
        let parallelism = get_global_parallelism();
        matmul(self.inverse.as_mut(), Accum::Add, tall.as_ref(), factor.as_ref(), -1.0, parallelism);
        matmul(self.weights.as_mut(), Accum::Add, chosen.as_ref(), factor.as_ref(), -1.0, parallelism);
        for &column in columns {
            (0..n).for_each(|i| {
                self.inverse[(i, column)] = 0.0;
                self.inverse[(column, i)] = 0.0;
            });
            (0..m).for_each(|i| self.weights[(i, column)] = 0.0);
        }
        Ok(())
    }

    /// W of some columns, row-major.
    fn weights(&self, columns: &[usize]) -> Vec<f64> {
        (0..self.weights.nrows()).flat_map(|i| columns.iter().map(move |&j| self.weights[(i, j)])).collect()
    }
}

/// P and WᵀW among a few columns.
struct Local {
    inverse: Mat<f64>,
    squares: Mat<f64>,
}

impl Local {
    /// Δ of a group: tr((P_gg)⁻¹·(WᵀW)_gg).
    fn cost(&self, group: Range<usize>) -> Result<f64> {
        let (first, k) = (group.start, group.len());
        let squares = self.squares.submatrix(first, first, k, k);
        if k == 1 {
            let own = self.inverse[(first, first)];
            return if own > 0.0 { Ok(squares[(0, 0)] / own) } else { Err(singular(k)) };
        }
        let own = self.inverse.submatrix(first, first, k, k);
        let solved = own.llt(Side::Lower).map_err(|_| singular(k))?.solve(squares);
        Ok((0..k).map(|i| solved[(i, i)]).sum())
    }

    fn remove(&mut self, group: Range<usize>) -> Result<()> {
        let (first, k, all) = (group.start, group.len(), self.inverse.nrows());
        let own = self.inverse.submatrix(first, first, k, k);
        let rows = self.inverse.submatrix(first, 0, k, all);
        let factor = own.llt(Side::Lower).map_err(|_| singular(k))?.solve(rows);
        let crossed = self.squares.submatrix(0, first, all, k) * &factor;
        let both = factor.transpose() * self.squares.submatrix(first, first, k, k) * &factor;
        let downdate = rows.transpose() * &factor;
        self.squares = &self.squares - &crossed - crossed.transpose() + both;
        self.inverse = &self.inverse - downdate;
        Ok(())
    }
}

/// H⁻¹ from Cholesky's factors.
fn inverse(factors: &[f64], n: usize) -> Mat<f64> {
    let mut inverse = Mat::<f64>::identity(n, n);
    let parallelism = get_global_parallelism();
    let mut memory = MemBuffer::new(solve_in_place_scratch::<f64>(n, n, parallelism));
    let factors = MatRef::from_column_major_slice(factors, n, n);
    solve_in_place_with_conj(factors, Conj::No, inverse.as_mut(), parallelism, MemStack::new(&mut memory));
    inverse
}

fn singular(n: usize) -> Error {
    Error::Numerical(format!("a least-squares problem with {n} unknowns lost its precision; a larger ridge helps"))
}
