//! How slicing is asked for.

use std::fmt::Display;

use serde::{Serialize, Serializer};

use crate::{
    model::Config,
    slice::{Basis, Cut, Head, Options, Orientation, Refit, Signal, can_stay_tied},
    stream::Types,
};

/// How to slice. What is `None` depends on the other options or on the model; serialised, the fields have the names of
/// the flags.
#[derive(Debug, Clone, Serialize)]
pub struct SliceRequest {
    #[serde(flatten, serialize_with = "as_flags")]
    pub cut: Cut,
    #[serde(serialize_with = "as_text")]
    pub basis: Basis,
    /// Nothing with a basis per block, all with others, if `None`.
    #[serde(serialize_with = "as_text_if_any")]
    pub refit: Option<Refit>,
    /// Raw for the paper's method, else normed, if `None`.
    #[serde(rename = "covariance", serialize_with = "as_text_if_any")]
    pub signal: Option<Signal>,
    /// A share of the mean energy of what re-fitted weights read.
    pub ridge: f64,
    /// With a basis per block; the others always slice the head.
    pub slice_head: bool,
    /// Tied where it is and can stay so, if `None`.
    #[serde(serialize_with = "as_text_if_any")]
    pub head: Option<Head>,
    /// 8, and what other programs demand, if `None`.
    pub round_interval: Option<usize>,
    #[serde(rename = "final_orientation", serialize_with = "as_text")]
    pub orientation: Orientation,
}

impl Default for SliceRequest {
    /// The paper's method at 25 %.
    fn default() -> Self {
        let Options { cut, basis, ridge, slice_head, round_interval, orientation, .. } = Options::default();
        Self { cut, basis, refit: None, signal: None, ridge, slice_head, head: None, round_interval, orientation }
    }
}

impl SliceRequest {
    /// The options that this comes to for a model of this config.
    pub fn options(&self, config: &Config, seed: u64, dtype: Types, rows_per_batch: Option<usize>) -> Options {
        let stays = if can_stay_tied(config, self.basis) { Head::Tied } else { Head::Untied };
        let per_block = self.basis == Basis::PerBlock;
        let refit = self.refit.unwrap_or(if per_block { Refit::None } else { Refit::Full });
        let signal = if per_block && refit == Refit::None { Signal::Raw } else { Signal::Normed };
        Options {
            cut: self.cut,
            round_interval: self.round_interval,
            basis: self.basis,
            refit,
            signal: self.signal.unwrap_or(signal),
            ridge: self.ridge,
            slice_head: self.slice_head || !per_block,
            head: self.head.unwrap_or(stays),
            orientation: self.orientation,
            seed,
            dtype,
            rows_per_batch,
        }
    }
}

/// The two flags that say how much to cut, one of them null.
fn as_flags<S: Serializer>(cut: &Cut, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Default, Serialize)]
    struct Flags {
        sparsity: Option<f64>,
        target_parameters: Option<String>,
    }
    let flags = match cut {
        Cut::Sparsity(sparsity) => Flags { sparsity: Some(*sparsity), ..Flags::default() },
        Cut::Parameters(share) => {
            Flags { target_parameters: Some(format!("{:+}%", -100.0 * share)), ..Flags::default() }
        }
    };
    flags.serialize(serializer)
}

fn as_text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_text_if_any<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}
