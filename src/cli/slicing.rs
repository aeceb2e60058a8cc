//! How to slice, on the command line.

use clap::ValueEnum;

use crate::{
    run::SliceRequest,
    slice::{Basis, Cut, Head, Orientation, Refit, Signal},
};

const METHOD: &str = "How to slice";

#[derive(Debug, clap::Args)]
pub struct SlicingArgs {
    /// The share of the model's width to cut
    #[arg(long, default_value_t = 0.25, value_name = "S", allow_negative_numbers = true)]
    sparsity: f64,
    /// Cut as much of the width as really removes this share of the parameters, shortcuts and a head of its own
    /// counted, such as -20%
    #[arg(long, value_name = "PERCENT", value_parser = parse_share)]
    #[arg(allow_hyphen_values = true, conflicts_with = "sparsity")]
    target_parameters: Option<f64>,
    /// Round the width down to a multiple of this [default: 8, and what other programs demand of it]
    #[arg(long, help_heading = METHOD, value_name = "N")]
    round_interval: Option<usize>,
    /// The bases that the residual stream is moved into: per-block, the paper's, with a shortcut past every block;
    /// shared, one for the whole model, without shortcuts: an ordinary checkpoint where the architecture allows;
    /// segments=K, one for each of K runs of layers
    #[arg(long, default_value = "per-block", value_name = "BASIS")]
    basis: Basis,
    /// What is fitted again to the dense model: nothing, the weights that read the residual stream, or those that write
    /// it, too [default: none with per-block, else full]
    #[arg(long, help_heading = METHOD)]
    refit: Option<RefitArg>,
    /// What a basis is found from: the residual as it is, or every token scaled to the same size [default: raw for the
    /// paper's method, else normed]
    #[arg(long, help_heading = METHOD)]
    covariance: Option<SignalArg>,
    /// How strongly re-fitted weights are pulled towards the projected ones, as a share of the mean energy of what they
    /// read
    #[arg(long, help_heading = METHOD, default_value_t = 0.01, value_name = "LAMBDA")]
    ridge: f64,
    /// Slice what the head reads, too, with --basis per-block; the others always do
    #[arg(long, help_heading = METHOD)]
    slice_head: bool,
    /// What the head is where the original's is its embedding: that still, with --basis shared and where the ordinary
    /// checkpoint allows, or a matrix of its own [default: tied where that can be]
    #[arg(long, help_heading = METHOD)]
    head: Option<HeadArg>,
    /// What the kept coordinates are: the principal axes, or these rotated at random (the same function, outliers
    /// spread)
    #[arg(long, help_heading = METHOD, default_value = "pca")]
    final_orientation: OrientationArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OrientationArg {
    Pca,
    Random,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum HeadArg {
    Tied,
    Untied,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RefitArg {
    None,
    Reads,
    Full,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SignalArg {
    Raw,
    Normed,
}

impl SlicingArgs {
    pub fn request(&self) -> SliceRequest {
        SliceRequest {
            cut: self.target_parameters.map_or(Cut::Sparsity(self.sparsity), Cut::Parameters),
            basis: self.basis,
            refit: self.refit.map(|refit| match refit {
                RefitArg::None => Refit::None,
                RefitArg::Reads => Refit::Reads,
                RefitArg::Full => Refit::Full,
            }),
            signal: self.covariance.map(|signal| match signal {
                SignalArg::Raw => Signal::Raw,
                SignalArg::Normed => Signal::Normed,
            }),
            ridge: self.ridge,
            slice_head: self.slice_head,
            head: self.head.map(|head| match head {
                HeadArg::Tied => Head::Tied,
                HeadArg::Untied => Head::Untied,
            }),
            round_interval: self.round_interval,
            orientation: match self.final_orientation {
                OrientationArg::Pca => Orientation::Pca,
                OrientationArg::Random => Orientation::Random,
            },
        }
    }

    /// What an output is called after its model, where nothing else is asked for.
    pub fn suffix(&self) -> String {
        let percent = |share: f64| (share * 1e6).round() / 1e4;
        let method = match self.basis {
            Basis::PerBlock => "sliced".to_owned(),
            Basis::Segments(1) => "shared".to_owned(),
            Basis::Segments(count) => format!("{count}-segments"),
        };
        match self.target_parameters {
            Some(share) => format!("{method}-minus-{}", percent(share)),
            None => format!("{method}-{}", percent(self.sparsity)),
        }
    }
}

/// The share of `-20%` or `20%`: 0.2.
pub(super) fn parse_share(text: &str) -> Result<f64, String> {
    let expected = || format!("expected a percentage such as -20%, found {text:?}");
    let number: f64 = text.trim().strip_suffix('%').ok_or_else(expected)?.trim().parse().map_err(|_| expected())?;
    if number.is_finite() && number != 0.0 && number.abs() < 100.0 { Ok(number.abs() / 100.0) } else { Err(expected()) }
}
