//! The mixtures of a compressed model, from the formulas: every expert's inputs are kept, and every fit is one problem.

use nalgebra::DMatrix;

use super::{
    forward::{Affine, Block, Network},
    kernels,
};
use crate::model::architecture::Role;

/// By how much more experts are pulled towards what they were the fewer tokens they have.
const PULL: f64 = 100.0;

/// What a mixture is fitted to: the smaller model's residual before it, what is to be added to that, and the weight of
/// each token's error.
pub struct Aim<'a> {
    pub own: &'a DMatrix<f64>,
    pub target: &'a DMatrix<f64>,
    pub weights: &'a [f64],
}

impl Network<'_> {
    /// Leaves `stay` of the experts of a mixture that the router chooses from, by what they add to the residual `own`;
    /// returns their numbers.
    pub fn leave_experts(&self, layer: usize, block: &mut Block, own: &DMatrix<f64>, stay: usize) -> Vec<usize> {
        let (gates, hidden) = self.experts(layer, block, own);
        let is_chosen = |at: &usize| block.experts[*at].gate.is_none();
        let all: Vec<usize> = (0..block.experts.len()).filter(is_chosen).collect();
        let sums: Vec<f64> = (0..own.nrows()).map(|token| all.iter().map(|&at| gates[(token, at)]).sum()).collect();
        let score = |&at: &usize| {
            let result = block.experts[at].down().apply(&hidden[at]);
            let tokens: Vec<usize> = (0..own.nrows()).filter(|&token| gates[(token, at)] > 0.0).collect();
            let sum: f64 =
                tokens.iter().map(|&token| gates[(token, at)] / sums[token] * result.row(token).norm()).sum();
            sum / tokens.len().max(1) as f64
        };
        let mut ranked: Vec<(f64, usize)> = all.iter().map(|at| (score(at), *at)).collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut kept: Vec<usize> = ranked[all.len() - stay..].iter().map(|(_, at)| *at).collect();
        kept.sort_unstable();
        let mut number = 0;
        block.experts.retain(|expert| {
            number += 1;
            expert.gate.is_some() || kept.contains(&(number - 1))
        });
        for (role, router) in &mut block.linears {
            if *role == Role::Router {
                router.weight = router.weight.select_rows(kept.iter());
                router.bias = router.bias.take().map(|bias| kept.iter().map(|&at| bias[at]).collect());
            }
        }
        kept
    }

    /// Fits what the experts of a mixture write, one after the other, the one that every token goes to first.
    pub fn fit_experts(&self, layer: usize, block: &mut Block, aim: &Aim, share: f64) {
        let (gates, hidden) = self.experts(layer, block, aim.own);
        let scaled = |x: &DMatrix<f64>, by: &dyn Fn(usize) -> f64| {
            DMatrix::from_fn(x.nrows(), x.ncols(), |t, i| by(t) * x[(t, i)])
        };
        let gated: Vec<DMatrix<f64>> =
            hidden.iter().enumerate().map(|(at, a)| scaled(a, &|t| gates[(t, at)])).collect();
        let mut lacks = aim.target.clone();
        for (at, (expert, hidden)) in block.experts.iter().zip(&hidden).enumerate() {
            lacks -= scaled(&expert.down().apply(hidden), &|t| gates[(t, at)]);
        }
        let mut order: Vec<usize> = (0..gated.len()).collect();
        order.sort_by_key(|&at| (block.experts[at].gate.is_none(), at));
        for at in order {
            let tokens = gates.column(at).iter().filter(|gate| **gate > 0.0).count();
            if tokens == 0 {
                continue;
            }
            let (a, error) = (scaled(&gated[at], &|t| aim.weights[t]), scaled(&lacks, &|t| aim.weights[t]));
            let (inner, gram) = (a.ncols(), a.transpose() * &a);
            let share = share * (1.0 + PULL * inner as f64 / tokens as f64);
            let mu = (share / inner as f64).max(2f64.powi(-20)) * gram.trace();
            let damped = gram + DMatrix::identity(inner, inner) * if mu > 0.0 { mu } else { 1.0 };
            let inverse = damped.try_inverse().expect("positive definite");
            let change = error.transpose() * a * inverse;
            lacks -= kernels::linear(&gated[at], &change, None);
            for (role, Affine { weight, .. }) in &mut block.experts[at].linears {
                if *role == Role::Down {
                    *weight += &change;
                }
            }
        }
    }
}
