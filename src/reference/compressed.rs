//! Compression of a model whose width stays, from its formulas: all signals are kept, every selection is made by
//! solving anew for each group that might leave, and every fit is one problem over all tokens.

use std::ops::Range;

use nalgebra::{DMatrix, DVector, SymmetricEigen};

use super::{
    experts::Aim,
    forward::{Affine, Block, Layer, Network},
    kernels,
    shared::{least_squares, moved, side_by_side, stacked},
    subset::{restricted, subset},
};
use crate::{
    error::Result,
    linalg::Group,
    model::{
        Config, LayerSpec, PLACES,
        architecture::{BlockKind, Role},
        place,
    },
};

type Signals = Vec<DMatrix<f64>>;

/// How much of what was lost before a write makes up for.
pub(super) const MADE_UP: f64 = 0.7;

/// What is left of a layer, by numbers in the original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub layer: usize,
    pub query_heads: Vec<usize>,
    pub key_value_heads: Vec<usize>,
    pub mlp_channels: Vec<usize>,
    pub experts: Vec<usize>,
}

/// What leaves a step at a time: whole groups of heads and channels, or queries of each group and channels.
#[derive(Clone, Copy)]
struct Round {
    kv_heads: usize,
    /// Of each key-value head.
    queries: usize,
    channels: usize,
}

/// The rounds in which a step of a layer of sizes `whole` comes to those of `left`.
fn rounds(whole: &LayerSpec, left: &LayerSpec, blocks: &[Block]) -> Vec<Round> {
    let has = |attention: bool| {
        blocks.iter().any(|block| if attention { block.kind == BlockKind::Attention } else { block.kind.is_mlp() })
    };
    let (queries, fewer) = (whole.heads / whole.kv_heads, left.heads / left.kv_heads);
    let channels = if has(false) { left.intermediate_size } else { whole.intermediate_size };
    let mut rounds = Vec::new();
    if has(true) && left.kv_heads < whole.kv_heads {
        rounds.push(Round { kv_heads: left.kv_heads, queries, channels });
    }
    if has(true) && fewer < queries || rounds.is_empty() && channels < whole.intermediate_size {
        let kv_heads = if has(true) { left.kv_heads } else { whole.kv_heads };
        rounds.push(Round { kv_heads, queries: if has(true) { fewer } else { queries }, channels });
    }
    rounds
}

impl Round {
    /// The groups of columns of the blocks' writes side by side, and how many of each kind leave.
    fn groups(self, spec: &LayerSpec, blocks: &[Block]) -> (Vec<Group>, Vec<usize>) {
        let (queries, h) = (spec.heads / spec.kv_heads, spec.head_dim);
        let (mut groups, mut remove, mut start) = (Vec::new(), Vec::new(), 0);
        let mut add = |width: usize, sets: usize, each: usize, leave: usize| {
            for _ in 0..sets {
                for _ in 0..each {
                    groups.push(Group { columns: start..start + width, kind: remove.len() });
                    start += width;
                }
                remove.push(leave);
            }
        };
        for block in blocks {
            match block.kind {
                BlockKind::Attention if self.kv_heads < spec.kv_heads => {
                    add(queries * h, 1, spec.kv_heads, spec.kv_heads - self.kv_heads);
                }
                BlockKind::Attention => add(h, spec.kv_heads, queries, queries - self.queries),
                BlockKind::Mixture | BlockKind::DeltaNet => {}
                BlockKind::Mlp { .. } => add(1, 1, spec.intermediate_size, spec.intermediate_size - self.channels),
            }
        }
        (groups, remove)
    }
}

/// What is to be added to the smaller model's residual.
fn written(after: &DMatrix<f64>, before: &DMatrix<f64>, own: &DMatrix<f64>) -> DMatrix<f64> {
    after - before + MADE_UP * (before - own)
}

/// Normal equations of the writes of a step, tokens and their weights w already in them.
struct Equations {
    gram: DMatrix<f64>,
    ridge: Vec<f64>,
    cross: DMatrix<f64>,
    /// The weighted means of regressors and targets, where there is a bias.
    means: Option<(DVector<f64>, DVector<f64>)>,
}

impl Equations {
    fn new(
        parts: &[DMatrix<f64>],
        target: &DMatrix<f64>,
        weights: &[f64],
        prior: &DMatrix<f64>,
        share: f64,
        bias: bool,
    ) -> Self {
        let total: f64 = weights.iter().map(|w| w * w).sum();
        let mean = |x: &DMatrix<f64>| -> DVector<f64> {
            DVector::from_fn(x.ncols(), |i, _| {
                (0..x.nrows()).map(|t| weights[t].powi(2) * x[(t, i)]).sum::<f64>() / total
            })
        };
        let a = side_by_side(parts);
        let means = bias.then(|| (mean(&a), mean(target)));
        let weighted = |x: &DMatrix<f64>, mean: Option<&DVector<f64>>| {
            DMatrix::from_fn(x.nrows(), x.ncols(), |t, i| weights[t] * (x[(t, i)] - mean.map_or(0.0, |mean| mean[i])))
        };
        let left = weighted(&a, means.as_ref().map(|(mean, _)| mean));
        let right = weighted(target, means.as_ref().map(|(_, mean)| mean));
        let gram = left.transpose() * &left;
        let (mut ridge, mut first) = (Vec::new(), 0);
        for part in parts {
            let energy: f64 = (first..first + part.ncols()).map(|j| gram[(j, j)]).sum();
            let mu = (share / part.ncols() as f64).max(2f64.powi(-20)) * energy;
            ridge.extend(vec![if mu > 0.0 { mu } else { 1.0 }; part.ncols()]);
            first += part.ncols();
        }
        let pull = DMatrix::from_fn(prior.nrows(), prior.ncols(), |i, j| prior[(i, j)] * ridge[j]);
        let cross = right.transpose() * left + pull;
        Self { gram, ridge, cross, means }
    }
}

impl<'a> Network<'a> {
    /// This network, whose norms are its own, made as small as `smaller` says, with the layers that `stay`, by the
    /// signals of `rows`; `fused` is the same one with its norms in its weights. What is lost of what a step of a layer
    /// makes counts by the matrix of `counts(layer, step)`, by which what leaves is chosen, all alike without one; and
    /// the squares of the errors of its tokens by their places.
    ///
    /// # Errors
    /// As [`Network::logits`]; [`crate::Error::Numerical`].
    pub fn compressed<'b>(
        &self,
        fused: Network,
        rows: &[Vec<u32>],
        (smaller, stay): (&'b Config, &[usize]),
        share: f64,
        counts: &dyn Fn(usize, usize) -> (Option<DMatrix<f64>>, [f64; PLACES]),
    ) -> Result<(Network<'b>, Vec<Left>)>
    where
        'a: 'b,
    {
        // A layer norm takes off the mean that embeddings add: it is not in the residual to begin with.
        let mut x: Signals = rows.iter().map(|row| fused.embed(row)).collect();
        let mut z: Option<Signals> = None;
        let (mut layers, mut found) = (Vec::new(), Vec::new());
        let mut layer = 0;
        while layer < self.layers.len() {
            let (number, mut next) = (layers.len(), layer + 1);
            let mut small = self.layers[layer].clone();
            let whole = &self.config.layers[layer];
            let mut left = Left {
                layer,
                query_heads: (0..whole.heads).collect(),
                key_value_heads: (0..whole.kv_heads).collect(),
                mlp_channels: (0..whole.intermediate_size).collect(),
                experts: (0..whole.experts.map_or(0, |experts| experts.count)).collect(),
            };
            let mut now = self.config.clone();
            for step in 0..small.steps.len() {
                let before = x.clone();
                x = x.iter().map(|x| self.step(layer, step, x)).collect::<Result<_>>()?;
                while step + 1 == small.steps.len() && next < self.layers.len() && !stay.contains(&next) {
                    x = x.iter().map(|x| self.layer(next, x)).collect::<Result<_>>()?;
                    next += 1;
                }
                let gap = step + 1 == small.steps.len() && next > layer + 1;
                let rounds = rounds(whole, &smaller.layers[number], &small.steps[step].blocks);
                let mixture = small.steps[step].blocks.iter().any(|block| block.kind == BlockKind::Mixture);
                let stay = smaller.layers[number].experts.map_or(0, |experts| experts.count);
                let fewer = mixture && stay < left.experts.len();
                if z.is_none() && !gap && rounds.is_empty() && !fewer {
                    continue;
                }
                let own = z.take().unwrap_or_else(|| before.clone());
                let (metric, by_place) = counts(layer, step);
                let by_token: Vec<f64> =
                    own.iter().flat_map(|row| (0..row.nrows()).map(|at| by_place[place(at)])).collect();
                if mixture {
                    let [before, after, own] = [&before, &x, &own].map(|signals| stacked(signals));
                    let (target, weights) = (written(&after, &before, &own), self.weights(&after, &by_token));
                    let block = &mut small.steps[step].blocks[0];
                    if fewer {
                        left.experts = self.leave_experts(layer, block, &own, stay);
                    }
                    self.fit_experts(layer, block, &Aim { own: &own, target: &target, weights: &weights }, share);
                }
                let width = self.config.hidden_size;
                let metric = metric.unwrap_or_else(|| DMatrix::identity(width, width));
                let eigen = SymmetricEigen::new(metric);
                // Its square root, and the inverse of that.
                let metric = [0.5, -0.5].map(|power| {
                    let values = DMatrix::from_diagonal(&eigen.eigenvalues.map(|value| value.powf(power)));
                    &eigen.eigenvectors * values * eigen.eigenvectors.transpose()
                });
                for round in 0..if mixture { 0 } else { rounds.len().max(1) } {
                    let signals = [&before, &x, &own].map(|signals| stacked(signals));
                    let round = rounds.get(round).copied();
                    self.fit_step(
                        (layer, step),
                        (&mut small, &mut now),
                        (&signals, &own, &by_token),
                        &metric,
                        (round, share),
                        &mut left,
                    )?;
                }
                let mut layers = self.layers.clone();
                layers[layer] = small.clone();
                let network = Network { config: &now, layers, ..self.clone() };
                z = Some(own.iter().map(|z| network.step(layer, step, z)).collect::<Result<_>>()?);
            }
            found.push(left);
            layers.push(small);
            layer = next;
        }
        let mut network = Network { config: smaller, layers, ..self.clone() };
        if let Some(z) = z {
            network.fit_head(&x, &z, share);
        }
        Ok((network, found))
    }

    /// What each token's error is multiplied by, for the norm that comes and for its place.
    fn weights(&self, after: &DMatrix<f64>, by_token: &[f64]) -> Vec<f64> {
        let eps = f64::from(self.config.norm_eps);
        let energies = kernels::energy(after).into_iter().zip(by_token);
        energies.map(|(energy, counts)| (counts / (energy / after.ncols() as f64 + eps)).sqrt()).collect()
    }

    /// Fits the writes of a step, and takes out what a round takes out of it.
    fn fit_step(
        &self,
        (layer, step): (usize, usize),
        (small, now): (&mut Layer, &mut Config),
        ([before, after, own], each, by_token): (&[DMatrix<f64>; 3], &Signals, &[f64]),
        [root, inverse]: &[DMatrix<f64>; 2],
        (round, share): (Option<Round>, f64),
        left: &mut Left,
    ) -> Result<()> {
        let spec = now.layers[layer].clone();
        let network = Network { config: now, ..self.clone() };
        let blocks = &small.steps[step].blocks;
        let inner = |block: &Block| stacked(&each.iter().map(|z| network.inner(layer, block, z)).collect::<Vec<_>>());
        let parts: Vec<DMatrix<f64>> = blocks.iter().map(inner).collect();
        // A norm after a block makes of anything what has its length: the block's own result is fitted.
        let dense = &self.layers[layer].steps[step].blocks;
        let result = dense.iter().find(|block| block.has_norm_after).map(|block| {
            let mut first = 0;
            let results = each.iter().map(|z| {
                let own = before.rows(first, z.nrows()).into_owned();
                first += z.nrows();
                Ok(block.output()?.apply(&self.inner(layer, block, &own)))
            });
            Ok::<_, crate::Error>(stacked(&results.collect::<Result<Vec<_>>>()?))
        });
        let result = result.transpose()?;
        let target = result.clone().unwrap_or_else(|| written(after, before, own));
        let weights = self.weights(result.as_ref().unwrap_or(after), by_token);
        let writes: Vec<Affine> = small.steps[step].linears_mut(false).map(|affine| affine.clone()).collect();
        let bias = writes.iter().any(|affine| affine.bias.is_some());
        let prior = side_by_side(&writes.iter().map(|affine| affine.weight.clone()).collect::<Vec<_>>());
        let Equations { gram, ridge, cross, means } = Equations::new(&parts, &target, &weights, &prior, share, bias);
        let blocks = &small.steps[step].blocks;
        let (groups, remove) = match round {
            Some(round) => round.groups(&spec, blocks),
            None => (vec![Group { columns: 0..gram.nrows(), kind: 0 }], vec![0]),
        };
        let (kept, fitted) = if round.is_some() {
            let reduced = subset(&gram, &ridge, &(root * &cross), &groups, &remove)?;
            (reduced.groups, inverse * reduced.weights)
        } else {
            (vec![0], restricted(&gram, &ridge, &cross, &groups, &[0])?.0)
        };
        let columns: Vec<Range<usize>> = kept.iter().map(|&group| groups[group].columns.clone()).collect();
        let all: Vec<usize> = columns.iter().cloned().flatten().collect();
        let mut offset = means.map(|(regressors, targets)| {
            let regressors = DVector::from_fn(all.len(), |i, _| regressors[all[i]]);
            (targets - &fitted * regressors).as_slice().to_vec()
        });
        let (mut start, mut first) = (0, 0);
        for (block, part) in small.steps[step].blocks.iter_mut().zip(&parts) {
            let end = start + part.ncols();
            let own: Vec<usize> = all.iter().filter(|at| (start..end).contains(*at)).map(|at| at - start).collect();
            take(block, &own, &spec, now, layer, left);
            for (_, write) in block.linears.iter_mut().filter(|(role, _)| matches!(role, Role::Output | Role::Down)) {
                write.weight = fitted.columns(first, own.len()).into_owned();
                let zeros = |before: &Vec<f64>| vec![0.0; before.len()];
                write.bias = write.bias.as_ref().map(|before| offset.take().unwrap_or_else(|| zeros(before)));
            }
            (start, first) = (end, first + own.len());
        }
        Ok(())
    }

    /// Fits the head to what the final norm gives it, or the factor of that norm where the head is the embedding.
    fn fit_head(&mut self, x: &Signals, z: &Signals, share: f64) {
        if self.config.tie_word_embeddings {
            let Some(norm) = &self.final_norm else { return };
            let plain = Affine { weight: norm.weight.clone(), bias: None };
            let [goal, seen] = [x, z].map(|signals| self.norm(Some(&plain), &stacked(signals)));
            let factor = goal.dot(&seen) / seen.dot(&seen);
            self.final_norm.iter_mut().for_each(|norm| norm.weight *= factor);
            return;
        }
        let [goal, seen] = [x, z].map(|signals| self.norm(self.final_norm.as_ref(), &stacked(signals)));
        let (width, ones) = (goal.ncols(), vec![1.0; goal.nrows()]);
        let bias = self.head.bias.is_some();
        let map = least_squares(&[seen], &goal, &ones, &DMatrix::identity(width, width), share, bias);
        moved(&mut self.head, &map);
    }
}

/// Takes the columns of its write that are not `kept` out of a block, with what makes them, and notes what is left.
fn take(block: &mut Block, kept: &[usize], spec: &LayerSpec, now: &mut Config, layer: usize, left: &mut Left) {
    if block.kind == BlockKind::DeltaNet {
        return;
    }
    let (h, queries) = (spec.head_dim, spec.heads / spec.kv_heads);
    let chosen = |numbers: &[usize], kept: &[usize]| kept.iter().map(|&at| numbers[at]).collect::<Vec<_>>();
    let rows = if block.kind == BlockKind::Attention {
        let heads: Vec<usize> = kept.iter().step_by(h).map(|column| column / h).collect();
        let mut kv_heads: Vec<usize> = heads.iter().map(|head| head / queries).collect();
        kv_heads.dedup();
        left.query_heads = chosen(&left.query_heads, &heads);
        left.key_value_heads = chosen(&left.key_value_heads, &kv_heads);
        now.layers[layer].heads = heads.len();
        now.layers[layer].kv_heads = kv_heads.len();
        [kept.to_vec(), kv_heads.iter().flat_map(|head| head * h..(head + 1) * h).collect()]
    } else {
        left.mlp_channels = chosen(&left.mlp_channels, kept);
        now.layers[layer].intermediate_size = kept.len();
        [kept.to_vec(), Vec::new()]
    };
    for (role, affine) in &mut block.linears {
        let rows = match role {
            Role::Output | Role::Down | Role::Router | Role::Mixed | Role::Beta | Role::Decay => continue,
            Role::Query | Role::OutputGate | Role::Gate | Role::Up => &rows[0],
            Role::Key | Role::Value => &rows[1],
        };
        affine.weight = affine.weight.select_rows(rows.iter());
        affine.bias = affine.bias.as_ref().map(|bias| rows.iter().map(|&row| bias[row]).collect());
    }
}
