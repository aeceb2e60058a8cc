//! `slicegpt-gpu prune`

use std::path::PathBuf;

use super::{arguments::TEXTS, calibration::Calibrates, work::WorkArgs};
use crate::{
    error::{Error, Result},
    prune::{Aggregate, Groups, Importance},
    run::{CalibrationRequest, Prune, PruneLayers, PruneRefit, PruneRequest, Request},
};

const METHOD: &str = "How to prune";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The share of attention heads and MLP channels that leaves, of the layers that may be cut
    #[arg(long, alias = "pruning_ratio", default_value_t = 0.25, value_name = "SHARE", allow_negative_numbers = true)]
    ratio: f64,
    /// Cut whole experts of a mixture instead, and this share of them: those whose results, times the router's gates,
    /// are shortest on the examples (REAP)
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    #[arg(conflicts_with_all = ["ratio", "importance", "aggregate", "iterations", "attention", "mlp"])]
    experts: Option<f64>,
    /// Cut coordinates of the residual stream instead, everywhere at once: the model becomes narrower
    #[arg(long, alias = "channel_wise", conflicts_with_all = ["experts", "attention", "mlp", "layers", "global"])]
    channel: bool,
    /// The layers that may be cut, from A up to but not B, or `all` [default: all but the first eighth and the last
    /// sixteenth: 4..30 of 32; of one or two, all]
    #[arg(long, value_name = "A..B|all")]
    layers: Option<PruneLayers>,
    /// What a weight matters: param_first |w·g| with the gradient g of the loss, param_second ½|w·F·w| with the mean F
    /// of squared gradients, param_mix of both, vectorize |Σ w·g| of a channel, l1 |w|, l2 w², or random
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
    /// Whether weights that are left are fitted to the original: none, as published; or writes, those that write the
    /// residual stream after the first cut, by least squares on the examples, of which it needs more than the default
    #[arg(long, help_heading = METHOD, value_enum, default_value_t = RefitArg::None)]
    refit: RefitArg,
    /// Write what each group matters into this safetensors file: layers.I.attention, a value for each key-value head,
    /// and layers.I.mlp, one for each channel; or layers.I.experts; or residual, one for each coordinate; with several
    /// rounds, what each was last ranked by
    #[arg(long, help_heading = METHOD, value_name = "FILE")]
    write_importance: Option<PathBuf>,
    /// As LLM-Pruner's script has it: taylor is what --importance says
    #[arg(long = "pruner_type", hide = true, value_name = "taylor|l1|l2|random")]
    pruner_type: Option<PrunerType>,
    /// As LLM-Pruner's script has them: --layers for attention and MLP, which must agree
    #[arg(long = "block_attention_layer_start", hide = true, requires = "block_attention_layer_end")]
    #[arg(conflicts_with = "layers")]
    block_attention_layer_start: Option<usize>,
    #[arg(long = "block_attention_layer_end", hide = true, requires = "block_attention_layer_start")]
    block_attention_layer_end: Option<usize>,
    #[arg(long = "block_mlp_layer_start", hide = true, requires = "block_mlp_layer_end", conflicts_with = "layers")]
    block_mlp_layer_start: Option<usize>,
    #[arg(long = "block_mlp_layer_end", hide = true, requires = "block_mlp_layer_start")]
    block_mlp_layer_end: Option<usize>,
    /// As LLM-Pruner's script has it: what is done anyway
    #[arg(long = "block_wise", hide = true)]
    block_wise: bool,
    #[command(flatten)]
    work: WorkArgs<ExampleArgs>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RefitArg {
    None,
    Writes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PrunerType {
    Taylor,
    L1,
    L2,
    Random,
}

/// The examples whose loss is differentiated.
#[derive(Debug, clap::Args)]
pub struct ExampleArgs {
    /// What the loss is measured on: `self` samples from the model; or a file: plain text; JSON or JSON lines of
    /// strings or of objects with text, messages, instruction and output, and the like; token ids {"input_ids": [[...],
    /// ...]}
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
    #[arg(id = "cal_nsamples", long = "nsamples", aliases = ["cal-nsamples", "num_examples"])]
    #[arg(help_heading = TEXTS, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    nsamples: Option<u32>,
    /// Tokens of an example, at most the model's own maximum
    #[arg(id = "cal_max_seqlen", long = "seqlen", alias = "cal-max-seqlen", help_heading = TEXTS)]
    #[arg(default_value_t = 128, value_name = "N")]
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
            flags: ["--nsamples", "--seqlen"],
            ..CalibrationRequest::default()
        }
    }
}

impl Args {
    /// What is asked for.
    ///
    /// # Errors
    /// [`Error::Usage`] if options for attention and for MLPs contradict each other.
    pub fn request(&self) -> Result<Request<PruneRequest>> {
        let (attention, mlp) = (
            self.block_attention_layer_start.zip(self.block_attention_layer_end),
            self.block_mlp_layer_start.zip(self.block_mlp_layer_end),
        );
        if let (Some(attention), Some(mlp)) = (attention, mlp)
            && attention != mlp
        {
            return Err(Error::Usage(format!(
                "--block_attention_layer_start and --block_attention_layer_end say {}..{}, those of the MLPs {}..{}: \
                 heads and channels leave the same layers here; name the same layers twice, or those of one kind alone",
                attention.0, attention.1, mlp.0, mlp.1
            )));
        }
        let range = attention.or(mlp).map(|(start, end)| PruneLayers::Some(start..end));
        let groups = match (self.attention, self.mlp) {
            _ if self.experts.is_some() => Groups::Experts,
            _ if self.channel => Groups::Coordinates,
            (true, false) => Groups::Attention,
            (false, true) => Groups::Mlp,
            (false, false) if attention.is_some() && mlp.is_none() => Groups::Attention,
            (false, false) if mlp.is_some() && attention.is_none() => Groups::Mlp,
            _ => Groups::Both,
        };
        let ratio = self.experts.unwrap_or(self.ratio);
        let request = PruneRequest {
            ratio,
            layers: range.or_else(|| self.layers.clone()),
            importance: match self.pruner_type {
                None | Some(PrunerType::Taylor) => self.importance,
                Some(PrunerType::L1) => Importance::L1,
                Some(PrunerType::L2) => Importance::L2,
                Some(PrunerType::Random) => Importance::Random,
            },
            aggregate: self.aggregate,
            global: self.global,
            iterations: self.iterations as usize,
            groups,
            refit: match self.refit {
                RefitArg::None => PruneRefit::None,
                RefitArg::Writes => PruneRefit::Writes,
            },
            write_importance: self.write_importance.clone(),
        };
        let mut request = self.work.request(request, &format!("pruned-{}", (ratio * 1e6).round() / 1e4));
        if groups == Groups::Experts {
            request.calibration.usual_nsamples = Some(ROUTED_EXAMPLES);
        }
        Ok(request)
    }

    pub fn execute(&self) -> Result<()> {
        self.work.execute::<Prune>(&self.request()?)
    }
}
