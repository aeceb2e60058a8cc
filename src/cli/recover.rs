//! `slicegpt-gpu recover`

use std::path::PathBuf;

use super::{arguments::TEXTS, calibration::Calibrates, progress::Bars, work::WorkArgs};
use crate::{
    error::Result,
    recover::{Mode, Schedule, Target},
    run::{CalibrationRequest, Extra, LossOn, Recover, RecoverRequest, Request, find_model},
};

const METHOD: &str = "How to train";
const LOW_RANK: &str = "What is trained";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// lora: the whole model on next tokens; blocks: each layer towards the same layer of --teacher; distil: the whole
    /// model towards the predictions of --teacher [default: blocks with a --teacher of the same width and depth, distil
    /// with another, lora without]
    #[arg(long, value_name = "lora|blocks|distil")]
    mode: Option<Mode>,
    /// The dense model that is imitated
    #[arg(long, value_name = "DENSE")]
    teacher: Option<PathBuf>,
    /// Steps of the optimiser; with --mode blocks, of each layer
    #[arg(long, default_value_t = 150, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Sequences of a step; those that do not fit in memory together are taken one after the other
    #[arg(long, alias = "batch_size", help_heading = METHOD, default_value_t = 4, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// The learning rate at its highest [default: 0.41 over the width of the model for A and B, 1e-4 at 4096; a
    /// tenth of that for weights]
    #[arg(long, aliases = ["lr", "learning_rate"], help_heading = METHOD, value_name = "RATE", allow_negative_numbers = true)]
    learning_rate: Option<f64>,
    /// How the learning rate falls: linear, cosine or constant
    #[arg(long, help_heading = METHOD, default_value = "linear", value_name = "HOW")]
    schedule: Schedule,
    /// The share of the steps in which the learning rate rises
    #[arg(long, help_heading = METHOD, default_value_t = 0.05, value_name = "SHARE", allow_negative_numbers = true)]
    warmup: f64,
    /// How strongly matrices decay, times the learning rate
    #[arg(long, help_heading = METHOD, default_value_t = 0.01, value_name = "LAMBDA", allow_negative_numbers = true)]
    weight_decay: f64,
    /// Shorten gradients that are longer than this together; 0 for never
    #[arg(long, help_heading = METHOD, default_value_t = 1.0, value_name = "LENGTH", allow_negative_numbers = true)]
    max_grad_norm: f64,
    /// The temperature of predictions, with --mode distil
    #[arg(long, help_heading = METHOD, default_value_t = 1.0, value_name = "T", allow_negative_numbers = true)]
    temperature: f64,
    /// Rank of A and B
    #[arg(long, alias = "lora_r", help_heading = LOW_RANK, default_value_t = 8, value_name = "R")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    lora_r: u32,
    /// B·A counts alpha / r times
    #[arg(long, alias = "lora_alpha", help_heading = LOW_RANK, default_value_t = 16.0, value_name = "ALPHA")]
    #[arg(allow_negative_numbers = true)]
    lora_alpha: f64,
    /// The share of what A reads that is left out
    #[arg(long, alias = "lora_dropout", help_heading = LOW_RANK, default_value_t = 0.0, value_name = "SHARE")]
    #[arg(allow_negative_numbers = true)]
    lora_dropout: f64,
    /// The weights that get A and B: some of q, k, v, o, gate, up and down, and of gated delta nets qkv, z, b and a
    /// [default: all; with --mode blocks none, as their layer's weights are trained themselves]
    #[arg(long, alias = "lora_target_modules", help_heading = LOW_RANK, value_name = "WEIGHTS", value_delimiter = ',')]
    targets: Option<Vec<Target>>,
    /// Train these in full, too: some of norms and biases; or weights, instead of A and B
    #[arg(long, help_heading = LOW_RANK, value_name = "WHAT", value_delimiter = ',')]
    train: Vec<Extra>,
    /// Which tokens of examples with questions and answers are learned: those of the answers alone, or all [default:
    /// answer; with --mode blocks, all]
    #[arg(long, help_heading = METHOD, value_name = "answer|all")]
    loss_on: Option<LossOn>,
    /// LLM-Pruner's name for --loss-on all
    #[arg(long, alias = "train_on_inputs", hide = true, conflicts_with = "loss_on")]
    train_on_inputs: bool,
    /// Measure the loss on sequences that are not trained on every N steps; 0 for never [default: a tenth of the steps]
    #[arg(long, help_heading = METHOD, value_name = "N")]
    eval_every: Option<u32>,
    /// Keep what --resume needs every N steps; with --mode blocks, after each layer
    #[arg(long, help_heading = METHOD, default_value_t = 50, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    save_every: u32,
    /// Write A and B to this directory, too, as an adapter that PEFT loads
    #[arg(long, help_heading = LOW_RANK, value_name = "DIR")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    work: WorkArgs<ExampleArgs>,
}

/// What is trained on.
#[derive(Debug, clap::Args)]
pub struct ExampleArgs {
    /// What to train on: `self` samples from the model; or a file: plain text; JSON or JSON lines of strings or of
    /// objects with text, messages, instruction and output, and the like, of which answers are learned (--loss-on);
    /// token ids {"input_ids": [[...], ...]}
    #[arg(
        id = "calibration",
        long = "examples",
        alias = "calibration",
        default_value = "self",
        value_name = "self|FILE"
    )]
    examples: PathBuf,
    /// Sequences; of a token file, or of questions and answers, the first N rows [default: 512, or all rows]
    #[arg(id = "cal_nsamples", long = "nsamples", alias = "cal-nsamples", help_heading = TEXTS, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    nsamples: Option<u32>,
    /// Tokens of a sequence, at most the model's own maximum
    #[arg(id = "cal_max_seqlen", long = "seqlen", aliases = ["cal-max-seqlen", "cutoff_len"])]
    #[arg(help_heading = TEXTS, default_value_t = 256, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(2..))]
    seqlen: u32,
    /// Sequences at a time [default: what makes about 2048 tokens]
    #[arg(long, aliases = ["micro-batch-size", "micro_batch_size"], help_heading = TEXTS, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    cal_batch_size: Option<u32>,
}

/// Sequences that are drawn of a text, or written by the model, where --nsamples does not say.
const DRAWN: usize = 512;

impl Calibrates for ExampleArgs {
    fn request(&self) -> CalibrationRequest {
        CalibrationRequest {
            calibration: self.examples.clone(),
            cal_nsamples: self.nsamples.map(|count| count as usize),
            drawn_nsamples: DRAWN,
            cal_max_seqlen: self.seqlen as usize,
            cal_batch_size: self.cal_batch_size.map(|count| count as usize),
            flags: ["--nsamples", "--seqlen"],
            ..CalibrationRequest::default()
        }
    }
}

impl Args {
    pub fn request(&self) -> Request<RecoverRequest> {
        let request = RecoverRequest {
            mode: self.mode,
            teacher: self.teacher.clone(),
            steps: self.steps as usize,
            batch_size: self.batch_size as usize,
            learning_rate: self.learning_rate,
            schedule: self.schedule,
            warmup: self.warmup,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            lora_r: self.lora_r as usize,
            lora_alpha: self.lora_alpha,
            lora_dropout: self.lora_dropout,
            targets: self.targets.clone(),
            train: self.train.clone(),
            temperature: self.temperature,
            loss_on: self.loss_on.or(self.train_on_inputs.then_some(LossOn::All)),
            eval_every: self.eval_every.map(|steps| steps as usize),
            save_every: self.save_every as usize,
            adapter: self.adapter.clone(),
        };
        self.work.request(request, "recovered")
    }

    pub fn execute(&self) -> Result<()> {
        let mut request = self.request();
        if let Some(teacher) = &mut request.method.teacher {
            *teacher = find_model(teacher, &Bars::log())?;
        }
        self.work.execute::<Recover>(&request)
    }
}
