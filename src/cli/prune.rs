//! `slicegpt-gpu prune`

use std::path::PathBuf;

use super::{arguments::TEXTS, calibration::Calibrates, work::WorkArgs};
use crate::{
    error::Result,
    prune::{Aggregate, Groups, Importance},
    run::{CalibrationRequest, Prune, PruneLayers, PruneRequest, Request},
};

const METHOD: &str = "How to prune";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The share of attention heads and MLP channels that leaves, of the layers that may be cut
    #[arg(long, alias = "pruning_ratio", default_value_t = 0.25, value_name = "SHARE")]
    ratio: f64,
    /// Cut whole experts of a mixture instead, and this share of them: those whose results, times the router's gates,
    /// are shortest on the examples (REAP)
    #[arg(long, value_name = "SHARE", conflicts_with_all = ["ratio", "importance", "aggregate", "iterations", "attention", "mlp"])]
    experts: Option<f64>,
    /// The layers that may be cut, from A up to but not B, or `all` [default: all but the first eighth and the last
    /// sixteenth: 4..30 of 32]
    #[arg(long, value_name = "A..B|all")]
    layers: Option<PruneLayers>,
    /// What a weight matters: param_first |w·g| with the gradient g of the loss, param_second ½|w·F·w| with the mean F of
    /// squared gradients, param_mix of both, vectorize |Σ w·g| of a channel, l1 |w|, l2 w², or random
    #[arg(long, alias = "taylor", help_heading = METHOD, default_value = "param_first", value_name = "ESTIMATE")]
    importance: Importance,
    /// How the weights of a channel count together: sum, mean, max, prod, first or last
    #[arg(long, alias = "grouping_strategy", help_heading = METHOD, default_value = "sum", value_name = "HOW")]
    aggregate: Aggregate,
    /// Rank the heads and channels, or the experts, of all layers in one row: layers then differ in size
    #[arg(long, alias = "global_pruning", help_heading = METHOD)]
    global: bool,
    /// Cut in this many rounds, with new gradients in each
    #[arg(long, alias = "iterative_steps", help_heading = METHOD, default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    /// Cut attention heads alone, or with --mlp both
    #[arg(long, help_heading = METHOD)]
    attention: bool,
    /// Cut MLP channels alone, or with --attention both
    #[arg(long, help_heading = METHOD)]
    mlp: bool,
    #[command(flatten)]
    work: WorkArgs<ExampleArgs>,
}

/// The examples whose loss is differentiated.
#[derive(Debug, clap::Args)]
pub struct ExampleArgs {
    /// What the loss is measured on: `self` samples from the model; or a file: plain text; JSON or JSON lines of strings
    /// or of objects with text, messages, instruction and output, and the like; token ids {"input_ids": [[...], ...]}
    #[arg(
        id = "calibration",
        long = "examples",
        alias = "calibration",
        default_value = "self",
        value_name = "self|FILE"
    )]
    examples: PathBuf,
    /// Examples; of a token file the first N rows [default: 10, for experts 128, or all rows of a token file that has
    /// fewer]
    #[arg(id = "cal_nsamples", long = "nsamples", aliases = ["cal-nsamples", "num_examples"], help_heading = TEXTS, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    nsamples: Option<u32>,
    /// Tokens of an example, at most the model's own maximum
    #[arg(id = "cal_max_seqlen", long = "seqlen", alias = "cal-max-seqlen", help_heading = TEXTS, default_value_t = 128, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(2..))]
    seqlen: u32,
    /// Examples at a time [default: what makes about 2048 tokens; one where squared gradients are wanted]
    #[arg(long, help_heading = TEXTS, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cal_batch_size: Option<u32>,
}

/// As many as the reference has.
const EXAMPLES: usize = 10;
/// What the scores of experts are measured on: each token tells of a few of them alone.
const ROUTED_EXAMPLES: usize = 128;

impl Calibrates for ExampleArgs {
    fn request(&self) -> CalibrationRequest {
        CalibrationRequest {
            calibration: self.examples.clone(),
            cal_nsamples: self.nsamples.map(|count| count as usize),
            usual_nsamples: Some(EXAMPLES),
            cal_max_seqlen: self.seqlen as usize,
            cal_batch_size: self.cal_batch_size.map(|count| count as usize),
            ..CalibrationRequest::default()
        }
    }
}

impl Args {
    pub fn request(&self) -> Request<PruneRequest> {
        let groups = match (self.experts, self.attention, self.mlp) {
            (Some(_), ..) => Groups::Experts,
            (None, true, false) => Groups::Attention,
            (None, false, true) => Groups::Mlp,
            _ => Groups::Both,
        };
        let ratio = self.experts.unwrap_or(self.ratio);
        let request = PruneRequest {
            ratio,
            layers: self.layers.clone(),
            importance: self.importance,
            aggregate: self.aggregate,
            global: self.global,
            iterations: self.iterations as usize,
            groups,
        };
        let mut request = self.work.request(request, &format!("pruned-{}", (ratio * 1e6).round() / 1e4));
        if groups == Groups::Experts {
            request.calibration.usual_nsamples = Some(ROUTED_EXAMPLES);
        }
        request
    }

    pub fn execute(&self) -> Result<()> {
        self.work.execute::<Prune>(&self.request())
    }
}
