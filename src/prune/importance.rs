//! What a group of a layer's weights matters, as LLM-Pruner has it: an estimate of what the loss changes when it
//! leaves.
//!
//! Elements of a weight are summed along what belongs to a channel: the row of a weight that reads the residual stream,
//! the column of one that writes it. Saliences of the weights of a channel are put together by [`Aggregate`]. A head is
//! the sum over its channels. With grouped queries a channel is one of a key-value head, and what its queries have of
//! it is summed into it: a key-value head leaves with the queries that read it.

use std::str::FromStr;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use serde::{Deserialize, Serialize};

use crate::model::{LayerSpec, architecture::Role};

/// How an element of a weight w counts, with the gradient g of the mean loss of all tokens and the mean F over the
/// examples of the squared gradient of each one's own mean loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Importance {
    /// |w·g|
    ParamFirst,
    /// |½ w·F·w|
    ParamSecond,
    /// |w·g − ½ w·F·w|
    ParamMix,
    /// |Σ w·g| over the elements of a channel in one weight.
    Vectorize,
    /// |w|
    L1,
    /// w²
    L2,
    /// A number between 0 and 1 for each group.
    Random,
}

/// How the weights of a channel count together, in the order that the architecture's table has them in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    Sum,
    Mean,
    Max,
    Prod,
    First,
    Last,
}

impl Importance {
    /// All, by their names.
    pub const ALL: [(&'static str, Self); 7] = [
        ("param_first", Self::ParamFirst),
        ("param_second", Self::ParamSecond),
        ("param_mix", Self::ParamMix),
        ("vectorize", Self::Vectorize),
        ("l1", Self::L1),
        ("l2", Self::L2),
        ("random", Self::Random),
    ];

    /// Whether it needs the gradient of the loss.
    pub fn needs_gradient(self) -> bool {
        !matches!(self, Self::L1 | Self::L2 | Self::Random)
    }

    /// Whether it needs the squared gradient of each example's own loss.
    pub fn needs_squares(self) -> bool {
        matches!(self, Self::ParamSecond | Self::ParamMix)
    }

    /// What sums over all elements of a weight come to.
    pub fn whole(self, mut sums: Vec<f64>) -> Vec<f64> {
        if self == Self::Vectorize {
            sums.iter_mut().for_each(|sum| *sum = sum.abs());
        }
        sums
    }

    fn element(self, w: f64, g: f64, f: f64) -> f64 {
        match self {
            Self::ParamFirst => (w * g).abs(),
            Self::ParamSecond => (0.5 * w * f * w).abs(),
            Self::ParamMix => (w * g - 0.5 * w * f * w).abs(),
            Self::Vectorize => w * g,
            Self::L1 => w.abs(),
            Self::L2 => w * w,
            Self::Random => 0.0,
        }
    }
}

/// A weight `[rows, cols]`, row-major, its gradient and the squared gradients, which are empty where none are needed.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    pub weight: &'a [f32],
    pub gradient: &'a [f32],
    pub squares: &'a [f32],
    pub cols: usize,
}

impl Evidence<'_> {
    /// What each row matters, or each column if `columns`.
    pub fn saliences(self, importance: Importance, columns: bool) -> Vec<f64> {
        importance.whole(self.sums(importance, columns))
    }

    /// What these elements add to what each row matters, or each column: [`Importance::whole`] makes that of all sums.
    pub fn sums(self, importance: Importance, columns: bool) -> Vec<f64> {
        let rows = self.weight.len().checked_div(self.cols).unwrap_or(0);
        let mut sums = vec![0.0; if columns { self.cols } else { rows }];
        let value = |of: &[f32], at: usize| of.get(at).map_or(0.0, |&value| f64::from(value));
        for row in 0..rows {
            for col in 0..self.cols {
                let at = row * self.cols + col;
                let element =
                    importance.element(f64::from(self.weight[at]), value(self.gradient, at), value(self.squares, at));
                sums[if columns { col } else { row }] += element;
            }
        }
        sums
    }
}

impl Aggregate {
    /// All, by their names.
    pub const ALL: [(&'static str, Self); 6] = [
        ("sum", Self::Sum),
        ("mean", Self::Mean),
        ("max", Self::Max),
        ("prod", Self::Prod),
        ("first", Self::First),
        ("last", Self::Last),
    ];

    /// One number a channel, of those that each weight gives it.
    pub fn of(self, members: &[Vec<f64>]) -> Vec<f64> {
        let channels = members.iter().map(Vec::len).min().unwrap_or(0);
        let one = |channel: usize| {
            let mut values = members.iter().map(|member| member[channel]);
            match self {
                Self::Sum => values.sum(),
                Self::Mean => values.sum::<f64>() / members.len() as f64,
                Self::Max => values.fold(0.0, f64::max),
                Self::Prod => values.product(),
                Self::First => values.next().unwrap_or(0.0),
                Self::Last => values.next_back().unwrap_or(0.0),
            }
        };
        (0..channels).map(one).collect()
    }
}

/// Whether a weight has channels of each query head.
fn of_query(role: Role) -> bool {
    matches!(role, Role::Query | Role::OutputGate | Role::Output)
}

/// What each key-value head matters, with the queries that read it: `members` are the saliences of the channels of
/// queries, their gates, keys, values and the output's columns.
pub fn of_heads(aggregate: Aggregate, members: &[(Role, Vec<f64>)], spec: &LayerSpec) -> Vec<f64> {
    let (width, group) = (spec.head_dim, spec.heads / spec.kv_heads.max(1));
    let shared = |(role, channels): &(Role, Vec<f64>)| {
        if !of_query(*role) {
            return channels.clone();
        }
        let mut sums = vec![0.0; spec.kv_heads * width];
        for (channel, value) in channels.iter().enumerate() {
            sums[channel / width / group * width + channel % width] += value;
        }
        sums
    };
    let channels = aggregate.of(&members.iter().map(shared).collect::<Vec<_>>());
    channels.chunks(width).map(|head| head.iter().sum()).collect()
}

/// What each query matters by itself, of the same `members`; nothing where each has a key-value head of its own.
pub fn of_queries(aggregate: Aggregate, members: &[(Role, Vec<f64>)], spec: &LayerSpec) -> Vec<f64> {
    if spec.heads == spec.kv_heads {
        return Vec::new();
    }
    let own = members.iter().filter(|(role, _)| of_query(*role));
    let channels = aggregate.of(&own.map(|(_, channels)| channels.clone()).collect::<Vec<_>>());
    channels.chunks(spec.head_dim).map(|head| head.iter().sum()).collect()
}

/// What each channel of an MLP matters.
pub fn of_channels(aggregate: Aggregate, members: &[(Role, Vec<f64>)]) -> Vec<f64> {
    aggregate.of(&members.iter().map(|(_, channels)| channels.clone()).collect::<Vec<_>>())
}

/// A number between 0 and 1 for each of `count` groups; `stream` picks one of many independent rows of the same seed.
pub fn random(count: usize, seed: u64, stream: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    (0..count).map(|_| f64::from(rng.next_u32()) / f64::from(u32::MAX)).collect()
}

fn named<T: Copy>(all: &[(&'static str, T)], name: &str) -> Result<T, String> {
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let found = all.iter().find(|(known, _)| *known == name).map(|(_, one)| *one);
    found.ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

impl FromStr for Importance {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        named(&Self::ALL, name)
    }
}

impl FromStr for Aggregate {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        named(&Self::ALL, name)
    }
}
