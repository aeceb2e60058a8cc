//! What cuts cost: one curve for each axis, fitted to all that was measured.
//!
//! An axis that is cut to a depth x, the share of its heads, channels, layers or coordinates that leaves, is taken to
//! cost KL(x) = c·xᵖ; several that are cut together, (Σ KLᵠ)^(1/q): the sum of what each costs where q is 1, less where
//! a model that is cut on one axis loses less by being cut on another as well, more where it loses more.

use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

use super::axis::Axis;

/// What sizes were found to cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Depth by axis, of those that are cut.
    pub depths: Vec<(Axis, f64)>,
    /// The mean KL divergence from the dense model.
    pub kl: f64,
}

/// What an axis costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    pub axis: Axis,
    /// Depths at which it was cut alone, and the mean KL divergence there.
    pub points: Vec<(f64, f64)>,
    /// c and p of KL(x) = c·xᵖ.
    pub coefficient: f64,
    pub exponent: f64,
}

/// What axes cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curves {
    /// Of the axes that were cut alone.
    pub axes: Vec<Curve>,
    /// The q of what several cost together.
    pub together: f64,
}

impl Default for Curves {
    fn default() -> Self {
        Self { axes: Vec::new(), together: 1.0 }
    }
}

/// What noise makes smaller or larger than this is not believed, of p and of q.
const EXPONENTS: [f64; 2] = [0.75, 5.0];
const TOGETHER: [f64; 2] = [0.5, 3.0];
/// How far the log of what was measured is off, about.
const NOISE: f64 = 0.05;
/// How far the exponents of a model are from the usual ones, and log q from 0, about. It decides where little was
/// measured: one depth alone does not tell an exponent.
const SPREAD: f64 = 0.5;
const SPREAD_TOGETHER: f64 = 0.3;
/// Steps until the fit stands still; a few do.
const STEPS: usize = 100;

impl Curve {
    /// What an axis has cost other models, about.
    pub fn usual(axis: Axis) -> Self {
        let (coefficient, exponent) = match axis {
            Axis::Width => (11.0, 1.5),
            Axis::Mlp => (3.0, 1.3),
            Axis::Heads => (0.8, 2.0),
            Axis::KvHeads => (2.5, 2.0),
            Axis::Layers => (3.5, 1.1),
            Axis::Experts => (3.0, 2.0),
        };
        Self { axis, points: Vec::new(), coefficient, exponent }
    }

    /// The predicted divergence at a depth.
    pub fn at(&self, depth: f64) -> f64 {
        if depth > 0.0 { self.coefficient * depth.powf(self.exponent) } else { 0.0 }
    }
}

impl Curves {
    /// What axes have cost other models, about.
    pub fn usual(axes: &[Axis]) -> Self {
        Self { axes: axes.iter().map(|&axis| Curve::usual(axis)).collect(), ..Self::default() }
    }

    /// Of an axis.
    pub fn of(&self, axis: Axis) -> Option<&Curve> {
        self.axes.iter().find(|curve| curve.axis == axis)
    }

    /// What sizes are predicted to cost; `None` if they are cut on an axis that there is no curve of.
    pub fn predict(&self, depths: &[(Axis, f64)]) -> Option<f64> {
        let of = |(axis, depth): &(Axis, f64)| self.of(*axis).map(|curve| curve.at(*depth).powf(self.together));
        depths.iter().map(of).sum::<Option<f64>>().map(|sum| sum.powf(1.0 / self.together))
    }
}

/// The curves of the axes that were cut alone, by least squares of the logs of all that was measured, cuts on several
/// axes too, and of how far the exponents are from the usual ones.
pub fn fit(measured: &[Measured]) -> Curves {
    let problem = Problem::new(measured);
    let mut at = problem.start();
    let (mut loss, mut damping) = (problem.loss(&at), 1e-3);
    for _ in 0..STEPS {
        let Some(next) = problem.step(&at, damping) else { break };
        let found = problem.loss(&next);
        if found < loss {
            let gained = loss - found;
            (at, loss, damping) = (next, found, damping * 0.1);
            if gained < 1e-12 * (1.0 + loss) {
                break;
            }
        } else if damping > 1e9 {
            break;
        } else {
            damping *= 10.0;
        }
    }
    problem.curves(&at)
}

/// Least squares by Levenberg and Marquardt's steps. The unknowns are two for each axis: the log of what it costs at
/// the depth of [`Problem::deepest`], and its exponent; and the log of q, last.
struct Problem<'a> {
    measured: Vec<&'a Measured>,
    /// The axes that were cut alone.
    axes: Vec<Axis>,
    /// For each, where it was cut alone most, and what that cost.
    deepest: Vec<(f64, f64)>,
}

impl<'a> Problem<'a> {
    fn new(measured: &'a [Measured]) -> Self {
        let (mut axes, mut deepest) = (Vec::new(), Vec::new());
        for axis in Axis::ALL {
            let points = points(measured, axis);
            if let Some(point) = points.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)) {
                axes.push(axis);
                deepest.push(point);
            }
        }
        let known = |of: &&Measured| !of.depths.is_empty() && of.depths.iter().all(|(axis, _)| axes.contains(axis));
        Self { measured: measured.iter().filter(known).collect(), axes, deepest }
    }

    /// Through the deepest points, with the usual exponents.
    fn start(&self) -> DVector<f64> {
        let both = self.axes.iter().zip(&self.deepest);
        let values = both.flat_map(|(&axis, (_, kl))| [log(*kl), Curve::usual(axis).exponent]);
        DVector::from_iterator(2 * self.axes.len() + 1, values.chain([0.0]))
    }

    /// What is off at `at`, in standard deviations, and its derivatives by the unknowns.
    fn residuals(&self, at: &DVector<f64>) -> (DVector<f64>, DMatrix<f64>) {
        let (points, unknowns) = (self.measured.len(), at.len());
        let together = at[unknowns - 1].exp();
        let mut off = DVector::zeros(points + self.axes.len() + 1);
        let mut slopes = DMatrix::zeros(off.len(), unknowns);
        for (row, Measured { depths, kl }) in self.measured.iter().enumerate() {
            // By axis: its number, the log of its depth against the deepest, the log of what it costs.
            let term = |(axis, depth): &(Axis, f64)| {
                let number = self.axes.iter().position(|of| of == axis)?;
                let far = (depth / self.deepest[number].0).ln();
                Some((number, far, at[2 * number] + at[2 * number + 1] * far))
            };
            let terms: Vec<(usize, f64, f64)> = depths.iter().filter_map(term).collect();
            let sum: f64 = terms.iter().map(|(.., log)| (together * log).exp()).sum();
            let predicted = sum.ln() / together;
            off[row] = (predicted - log(*kl)) / NOISE;
            for (number, far, log) in terms {
                let share = (together * log).exp() / sum;
                slopes[(row, 2 * number)] += share / NOISE;
                slopes[(row, 2 * number + 1)] += far * share / NOISE;
                slopes[(row, unknowns - 1)] += share * (log - predicted) / NOISE;
            }
        }
        for (number, &axis) in self.axes.iter().enumerate() {
            off[points + number] = (at[2 * number + 1] - Curve::usual(axis).exponent) / SPREAD;
            slopes[(points + number, 2 * number + 1)] = 1.0 / SPREAD;
        }
        off[points + self.axes.len()] = at[unknowns - 1] / SPREAD_TOGETHER;
        slopes[(points + self.axes.len(), unknowns - 1)] = 1.0 / SPREAD_TOGETHER;
        (off, slopes)
    }

    fn loss(&self, at: &DVector<f64>) -> f64 {
        self.residuals(at).0.norm_squared()
    }

    fn step(&self, at: &DVector<f64>, damping: f64) -> Option<DVector<f64>> {
        let (off, slopes) = self.residuals(at);
        let mut normal = slopes.tr_mul(&slopes);
        for unknown in 0..at.len() {
            normal[(unknown, unknown)] *= 1.0 + damping;
        }
        let mut next = at - normal.cholesky()?.solve(&slopes.tr_mul(&off));
        for unknown in 0..self.axes.len() {
            next[2 * unknown + 1] = next[2 * unknown + 1].clamp(EXPONENTS[0], EXPONENTS[1]);
        }
        let last = at.len() - 1;
        next[last] = next[last].clamp(TOGETHER[0].ln(), TOGETHER[1].ln());
        Some(next)
    }

    fn curves(&self, at: &DVector<f64>) -> Curves {
        let measured: Vec<Measured> = self.measured.iter().map(|&of| of.clone()).collect();
        let curve = |(number, &axis): (usize, &Axis)| {
            let exponent = at[2 * number + 1];
            let coefficient = at[2 * number].exp() / self.deepest[number].0.powf(exponent);
            Curve { axis, points: points(&measured, axis), coefficient, exponent }
        };
        Curves { axes: self.axes.iter().enumerate().map(curve).collect(), together: at[at.len() - 1].exp() }
    }
}

/// Where an axis was cut alone, and what that cost.
fn points(measured: &[Measured], axis: Axis) -> Vec<(f64, f64)> {
    let alone = |of: &Measured| match of.depths[..] {
        [(cut, depth)] if cut == axis && depth > 0.0 => Some((depth, of.kl)),
        _ => None,
    };
    measured.iter().filter_map(alone).collect()
}

/// Of a divergence, which may be zero where nothing was lost.
fn log(kl: f64) -> f64 {
    kl.max(1e-9).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(depths: &[(Axis, f64)], kl: f64) -> Measured {
        Measured { depths: depths.to_vec(), kl }
    }

    fn off(curves: &Curves, of: &Measured) -> f64 {
        (curves.predict(&of.depths).map_or(0.0, f64::ln) - of.kl.ln()).abs()
    }

    #[test]
    fn one_depth_leaves_an_axis_its_usual_exponent_and_is_on_the_curve() {
        for axis in Axis::ALL {
            let curves = fit(&[of(&[(axis, 0.3)], 0.42)]);
            assert_eq!((curves.axes.len(), curves.together), (1, 1.0));
            let curve = &curves.axes[0];
            assert_eq!((curve.axis, &curve.points), (axis, &vec![(0.3, 0.42)]));
            assert!((curve.exponent - Curve::usual(axis).exponent).abs() < 1e-9, "{curve:?}");
            assert!((curve.at(0.3) - 0.42).abs() < 1e-9 && curve.at(0.0) == 0.0, "{curve:?}");
        }
    }

    #[test]
    fn two_depths_tell_an_exponent_that_is_not_the_usual_one() {
        let kl = |depth: f64| 7.0 * depth.powf(2.3);
        let curve = &fit(&[of(&[(Axis::Mlp, 0.4)], kl(0.4)), of(&[(Axis::Mlp, 0.2)], kl(0.2))]).axes[0];
        assert!((curve.exponent - 2.3).abs() < 0.06, "{curve:?}");
        assert!((curve.at(0.3) / kl(0.3) - 1.0).abs() < 0.03, "{curve:?}");
        // Noise is not believed.
        let curves = fit(&[of(&[(Axis::Mlp, 0.4)], 0.3), of(&[(Axis::Mlp, 0.2)], 0.4)]);
        assert_eq!(curves.axes[0].exponent, 0.75);
    }

    #[test]
    fn what_several_axes_cost_together_moves_their_curves() {
        let (mlp, layers) = (|x: f64| 2.5 * x.powf(1.3), |x: f64| 3.5 * x.powf(2.2));
        let channels = [0.34, 0.17].map(|x| of(&[(Axis::Mlp, x)], mlp(x)));
        let alone = [&channels[..], &[of(&[(Axis::Layers, 0.27)], layers(0.27))]].concat();
        let both = |x: f64, y: f64| of(&[(Axis::Mlp, x), (Axis::Layers, y)], mlp(x) + layers(y));
        let mixed = [both(0.25, 0.1), both(0.1, 0.2), both(0.3, 0.04)];
        let usual = fit(&alone);
        assert!(off(&usual, &mixed[0]) > 0.09);
        let told = fit(&[&alone[..], &mixed].concat());
        // Layers cost less near nothing than they usually do: others are foreseen, too.
        assert!(mixed.iter().all(|of| off(&told, of) < 0.02), "{told:?}");
        let other = both(0.28, 0.07);
        assert!(off(&told, &other) < 0.3 * off(&usual, &other), "{told:?}");
        // Alone, they cost what they did.
        assert!(alone.iter().all(|alone| off(&told, alone) < 0.02), "{told:?}");
    }

    #[test]
    fn where_curves_are_known_what_several_axes_cost_says_how_they_add_up() {
        // As measured on SmolLM2-135M and on stories260K.
        let (mlp, layers, heads) = (Axis::Mlp, Axis::Layers, Axis::Heads);
        let less = [
            of(&[(mlp, 0.354)], 0.8886),
            of(&[(mlp, 0.167)], 0.4749),
            of(&[(layers, 0.267)], 1.0459),
            of(&[(layers, 0.133)], 0.5188),
            of(&[(mlp, 0.3125), (layers, 0.0333)], 0.8392),
        ];
        let more = [
            of(&[(mlp, 0.326)], 0.7095),
            of(&[(mlp, 0.163)], 0.2668),
            of(&[(heads, 0.5)], 0.1436),
            of(&[(heads, 0.25)], 0.0359),
            of(&[(mlp, 0.198), (heads, 0.5)], 0.576),
        ];
        let (less, more) = ((fit(&less), &less), (fit(&more), &more));
        assert!(less.0.together > 1.1 && more.0.together < 0.95, "{less:?}, {more:?}");
        for (curves, measured) in [less, more] {
            assert!(measured.iter().all(|of| off(&curves, of) < 0.06), "{curves:?}");
            // The sum is further off.
            let sum = Curves { together: 1.0, ..curves.clone() };
            assert!(off(&curves, &measured[4]) < 0.6 * off(&sum, &measured[4]), "{curves:?}");
        }
    }

    #[test]
    fn axes_without_a_measurement_have_no_curve() {
        assert_eq!(fit(&[]), Curves::default());
        let both = [(Axis::Heads, 0.5), (Axis::Mlp, 0.1)];
        let curves = fit(&[of(&[], 0.0), of(&both[..1], 0.0), of(&both, 1.0)]);
        assert_eq!(curves.axes.iter().map(|curve| curve.axis).collect::<Vec<_>>(), [Axis::Heads]);
        assert!(curves.axes[0].coefficient.is_finite() && curves.axes[0].at(0.5) < 1e-8, "{curves:?}");
        assert_eq!(curves.predict(&both), None);
    }

    #[test]
    fn slopes_are_those_of_the_residuals() {
        let measured = [
            of(&[(Axis::Mlp, 0.3)], 0.5),
            of(&[(Axis::Layers, 0.2)], 0.7),
            of(&[(Axis::Mlp, 0.2), (Axis::Layers, 0.1)], 0.6),
        ];
        let problem = Problem::new(&measured);
        let mut at = problem.start();
        at[4] = 0.3;
        let (_, slopes) = problem.residuals(&at);
        for unknown in 0..at.len() {
            let moved = |by: f64| {
                let mut at = at.clone();
                at[unknown] += by;
                problem.residuals(&at).0
            };
            let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((difference - slopes.column(unknown)).amax() < 1e-6, "{unknown}");
        }
    }
}
