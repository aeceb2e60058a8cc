//! What follows from several rows, with the goals of this project: how much better than a naive kernel, how much of
//! what slicing promises.

use serde::Serialize;

use super::row::{Row, Work};

/// A figure that compares rows of one adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ratio {
    pub what: String,
    pub value: f64,
    /// `x` or `%`.
    pub unit: &'static str,
    /// At least so much is the goal, or at most; not every figure has one.
    pub target: Option<f64>,
    pub at_most: bool,
    /// How the figure comes about, where that needs words.
    pub detail: String,
}

impl Ratio {
    /// Whether the goal is reached.
    pub fn met(&self) -> Option<bool> {
        self.target.map(|target| if self.at_most { self.value <= target } else { self.value >= target })
    }
}

/// A rule: the seconds of `slow` over those of `fast`, or what that ratio should be measured by.
struct Rule {
    what: &'static str,
    slow: &'static str,
    fast: &'static str,
    goal: Goal,
}

enum Goal {
    /// So many times faster.
    Times(f64),
    /// At most this many times slower.
    Cost(f64),
    /// Percent of the slow one's speed.
    Percent(f64),
    /// Percent of the ratio of floating-point operations.
    PercentOfFlops(Option<f64>),
    /// Percent of the ratio of bytes.
    PercentOfBytes(Option<f64>),
}

const SLICED: Option<f64> = Some(93.0);
/// A gradient takes two products for each of the forward pass, and a little more.
const GRADIENT: Goal = Goal::Cost(2.5);

#[rustfmt::skip]
const RULES: &[Rule] = &[
    Rule { what: "shared GEMM over naive, 512x768x768", slow: "gemm-naive/f32/512x768x768", fast: "gemm/f32/512x768x768", goal: Goal::Times(8.0) },
    Rule { what: "shared GEMM over naive, 512x3072x768", slow: "gemm-naive/f32/512x3072x768", fast: "gemm/f32/512x3072x768", goal: Goal::Times(8.0) },
    Rule { what: "shared GEMM of the best, 512x768x768", slow: "gemm-best/f32/512x768x768", fast: "gemm/f32/512x768x768", goal: Goal::Percent(80.0) },
    Rule { what: "shared GEMM of the best, 512x3072x768", slow: "gemm-best/f32/512x3072x768", fast: "gemm/f32/512x3072x768", goal: Goal::Percent(80.0) },
    Rule { what: "shared GEMM of the best, 2048x3072x3072", slow: "gemm-best/f32/2048x3072x3072", fast: "gemm/f32/2048x3072x3072", goal: Goal::Percent(80.0) },
    Rule { what: "covariance over the full square, 768", slow: "gemm/square/768", fast: "covariance/768", goal: Goal::Times(1.6) },
    Rule { what: "covariance over the full square, 2048", slow: "gemm/square/2048", fast: "covariance/2048", goal: Goal::Times(1.6) },
    Rule { what: "gradient of a linear layer over the layer", slow: "backward/f32/512x3072x768", fast: "gemm/f32/512x3072x768", goal: GRADIENT },
    Rule { what: "gradient of a norm over the norm", slow: "backward/tinyllama-1.1b/norm/prefill-512", fast: "norm/tinyllama-1.1b/prefill-512", goal: GRADIENT },
    Rule { what: "gradient of an activation over that", slow: "backward/tinyllama-1.1b/activation/prefill-512", fast: "activation/tinyllama-1.1b/prefill-512", goal: GRADIENT },
    Rule { what: "gradient of attention over that, opt-125m", slow: "backward/opt-125m/attention/prefill-512", fast: "attention/opt-125m/prefill-512", goal: GRADIENT },
    Rule { what: "gradient of attention over that, tinyllama-1.1b", slow: "backward/tinyllama-1.1b/attention/prefill-1024", fast: "attention/tinyllama-1.1b/prefill-1024", goal: GRADIENT },
    Rule { what: "gradient of attention over that, in a window", slow: "backward/tinyllama-1.1b/attention/prefill-1024-window-128", fast: "attention/tinyllama-1.1b/prefill-1024-window-128", goal: GRADIENT },
    Rule { what: "gradient of attention over that, llama-2-7b", slow: "backward/llama-2-7b/attention/prefill-512", fast: "attention/llama-2-7b/prefill-512", goal: GRADIENT },
    Rule { what: "sliced layer, opt-125m prefill", slow: "layer/opt-125m/prefill-512/dense", fast: "layer/opt-125m/prefill-512/sliced-25", goal: Goal::PercentOfFlops(None) },
    Rule { what: "sliced layer, llama-2-7b prefill", slow: "layer/llama-2-7b/prefill-512/dense", fast: "layer/llama-2-7b/prefill-512/sliced-25", goal: Goal::PercentOfFlops(SLICED) },
    Rule { what: "sliced layer without shortcuts, llama-2-7b prefill", slow: "layer/llama-2-7b/prefill-512/dense", fast: "layer/llama-2-7b/prefill-512/sliced-25-no-shortcuts", goal: Goal::PercentOfFlops(SLICED) },
    Rule { what: "sliced layer, llama-2-7b decode", slow: "layer/llama-2-7b/decode/dense", fast: "layer/llama-2-7b/decode/sliced-25", goal: Goal::PercentOfBytes(SLICED) },
    Rule { what: "sliced layer without shortcuts, llama-2-7b decode", slow: "layer/llama-2-7b/decode/dense", fast: "layer/llama-2-7b/decode/sliced-25-no-shortcuts", goal: Goal::PercentOfBytes(SLICED) },
];

/// The figures that these rows allow; invalid rows allow none.
pub fn ratios(rows: &[Row]) -> Vec<Ratio> {
    RULES.iter().filter_map(|rule| rule.apply(rows)).collect()
}

/// Whether a ratio of two workloads, or of each with a third, is given.
pub fn compared(a: &str, b: &str) -> bool {
    let partners = |name: &str| {
        let of = |rule: &Rule| [rule.slow, rule.fast].contains(&name).then_some([rule.slow, rule.fast]);
        RULES.iter().filter_map(of).flatten().collect::<Vec<_>>()
    };
    let others = partners(b);
    partners(a).iter().any(|name| others.contains(name))
}

impl Rule {
    fn apply(&self, rows: &[Row]) -> Option<Ratio> {
        let find = |name: &str| rows.iter().find(|row| row.name == name);
        let (slow, fast) = (find(self.slow)?, find(self.fast)?);
        let times = slow.figures?.median_seconds / fast.figures?.median_seconds;
        let what = self.what.to_owned();
        let percent = |amount: fn(&Work) -> f64, of: &str, target| {
            let promised = amount(&slow.work) / amount(&fast.work);
            let detail = format!("{times:.2}x faster; {promised:.2}x fewer {of}");
            let value = 100.0 * times / promised;
            Ratio { what: what.clone(), value, unit: "%", target, at_most: false, detail }
        };
        Some(match self.goal {
            Goal::Times(target) | Goal::Cost(target) => Ratio {
                what,
                value: times,
                unit: "x",
                target: Some(target),
                at_most: matches!(self.goal, Goal::Cost(_)),
                detail: String::new(),
            },
            Goal::Percent(target) => {
                let detail = slow.configuration.as_ref().map_or(String::new(), |best| format!("best: {best}"));
                Ratio { what, value: 100.0 * times, unit: "%", target: Some(target), at_most: false, detail }
            }
            Goal::PercentOfFlops(target) => percent(|work| work.flops, "operations", target),
            Goal::PercentOfBytes(target) => percent(|work| work.bytes, "bytes", target),
        })
    }
}
