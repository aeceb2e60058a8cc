//! How to slice.

use std::{fmt, str::FromStr};

use crate::{checkpoint::Dtype, fit::Signal, stream::Types};

/// How much to cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cut {
    /// This share of hidden_size, 0 ≤ s < 1.
    Sparsity(f64),
    /// As little as removes this share of the stored parameters, shortcuts and an untied head counted, 0 < p < 1.
    Parameters(f64),
}

/// Which orthonormal bases the residual stream is moved into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// One at each point, as the paper has it: a shortcut past every half of a layer.
    PerBlock,
    /// One for each of K runs of layers: shortcuts at the borders between them. One basis for the whole model needs
    /// none.
    Segments(usize),
}

impl Basis {
    /// One basis for the whole model.
    pub const SHARED: Self = Self::Segments(1);

    /// Which of the bases a layer of `layers` reads; `None` where each point has its own.
    pub fn segment(self, layer: usize, layers: usize) -> Option<usize> {
        match self {
            Self::PerBlock => None,
            Self::Segments(count) => Some(layer.min(layers - 1) * count / layers),
        }
    }
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::PerBlock => f.write_str("per-block"),
            Self::Segments(1) => f.write_str("shared"),
            Self::Segments(count) => write!(f, "segments={count}"),
        }
    }
}

impl FromStr for Basis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count = |text: &str| text.parse().ok().filter(|&count: &usize| count > 0);
        match text {
            "per-block" => Ok(Self::PerBlock),
            "shared" => Ok(Self::SHARED),
            _ => text.strip_prefix("segments=").and_then(count).map(Self::Segments).ok_or_else(|| {
                format!("expected per-block, shared or segments=K with K of at least 1, found {text:?}")
            }),
        }
    }
}

/// What is fitted again, by least squares against the dense model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refit {
    /// Nothing: weights are projected.
    None,
    /// What reads the residual stream, the head included.
    Reads,
    /// What writes it, too, with the shortcuts.
    Full,
}

impl fmt::Display for Refit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Reads => "reads",
            Self::Full => "full",
        })
    }
}

/// What the head of the sliced model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// The embedding, as in the original.
    Tied,
    /// A matrix of its own.
    Untied,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Tied => "tied",
            Self::Untied => "untied",
        })
    }
}

/// What the first d coordinates are after slicing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orientation {
    /// The principal axes, by descending eigenvalue.
    Pca,
    /// The principal axes times a random orthogonal d × d matrix: the same function, outliers spread.
    Random,
}

impl fmt::Display for Orientation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Pca => "pca",
            Self::Random => "random",
        })
    }
}

/// How to slice.
#[derive(Debug, Clone)]
pub struct Options {
    pub cut: Cut,
    /// The width is rounded down to a multiple of this: of 8 if `None`, and of what other programs demand.
    pub round_interval: Option<usize>,
    pub basis: Basis,
    pub refit: Refit,
    pub signal: Signal,
    /// The ridge of the least squares, as a share of the regressors' mean energy.
    pub ridge: f64,
    /// Whether the head reads the sliced width; the paper leaves it whole.
    pub slice_head: bool,
    /// Whether a head that is the embedding stays so.
    pub head: Head,
    pub orientation: Orientation,
    pub seed: u64,
    /// Types of the written tensors.
    pub dtype: Types,
    /// Calibration sequences at a time; by size if `None`.
    pub rows_per_batch: Option<usize>,
}

impl Default for Options {
    /// The paper's method at 25 %.
    fn default() -> Self {
        Self {
            cut: Cut::Sparsity(0.25),
            round_interval: None,
            basis: Basis::PerBlock,
            refit: Refit::None,
            signal: Signal::Raw,
            ridge: 1e-2,
            slice_head: false,
            head: Head::Untied,
            orientation: Orientation::Pca,
            seed: 42,
            dtype: Types::One(Dtype::F32),
            rows_per_batch: None,
        }
    }
}

impl Options {
    /// How often the layers are gone through: a basis for several of them is found first.
    pub fn passes(&self) -> usize {
        if self.basis == Basis::PerBlock { 1 } else { 2 }
    }

    /// Whether the dense model runs beside the sliced one.
    pub fn refits(&self) -> bool {
        self.refit != Refit::None
    }

    /// Whether this is the paper's method: each basis is found from what the sliced layers before it have made of the
    /// signals.
    pub(super) fn is_paper(&self) -> bool {
        self.basis == Basis::PerBlock && self.refit == Refit::None
    }
}
