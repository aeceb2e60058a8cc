//! What every subcommand that makes a smaller model is asked, and how it is carried out.

use std::path::PathBuf;

use super::{
    arguments::{DeviceArgs, DtypeArg, ForceArgs, MACHINE, TEXTS},
    calibration::{Calibrates, CalibrationArgs},
    export::parse_export,
    print::{print, print_json},
    progress::Bars,
};
use crate::{
    checkpoint::{Dtype, GgufType},
    error::Result,
    model::Model,
    run::{Log, Method, Request, Task, beside, find_model, memory::parse_bytes, open_model, stem_of},
};

const RESULT: &str = "What is written";
const LONG: &str = "Long runs";

#[derive(Debug, clap::Args)]
pub struct WorkArgs<C: clap::Args = CalibrationArgs> {
    /// The model: a directory, a .safetensors file with its config.json beside it, a
    /// .gguf file, or a name on the Hugging Face Hub such as org/name
    model: PathBuf,
    /// The directory to write [default: beside the model, named after it and the method, such as MODEL-pruned-25]
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    #[command(flatten)]
    calibration: C,
    /// Seed of everything drawn at random
    #[arg(long, help_heading = RESULT, default_value_t = 42, value_name = "N")]
    seed: u64,
    /// What to measure perplexity on: a file of text, JSON lines or token ids; may be given several times [default: the
    /// held-out end of what is calibrated or trained on]
    #[arg(long, help_heading = TEXTS, value_name = "FILE")]
    eval: Vec<PathBuf>,
    /// Tokens of a window of text for perplexity, at most the model's own maximum
    #[arg(long, help_heading = TEXTS, default_value_t = 2048, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(2..))]
    ppl_eval_seqlen: u32,
    /// Type of the written tensors [default: each tensor's own]
    #[arg(long, help_heading = RESULT)]
    dtype: Option<DtypeArg>,
    /// Export the result, too, to OUT-TYPE.gguf beside it, for llama.cpp; its matrices in f16 [default], q8_0 or f32,
    /// or the experts of a mixture in mxfp4
    #[arg(long, help_heading = RESULT, value_name = "gguf[:TYPE]", value_parser = parse_export)]
    export: Option<GgufType>,
    /// The most memory to take on the GPU, such as 3GiB [default: no limit but its own; with --max-host-memory where
    /// the GPU shares it]
    #[arg(long, help_heading = MACHINE, value_name = "SIZE", value_parser = parse_bytes)]
    max_gpu_memory: Option<u64>,
    /// The most memory to take of the host, the GPU's included where it shares it [default: what is free, less a tenth]
    #[arg(long, help_heading = MACHINE, value_name = "SIZE", value_parser = parse_bytes)]
    max_host_memory: Option<u64>,
    /// Say what would be done, how much memory and time it would take, and do nothing
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    #[command(flatten)]
    force: ForceArgs,
    /// Continue an unfinished run to the same output
    #[arg(long, help_heading = LONG)]
    resume: bool,
    /// Stop after N layers, each of which counts twice where a basis is found first, or N steps of training; --resume
    /// continues
    #[arg(long, help_heading = LONG, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    stop_after: Option<u32>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

impl<C: Calibrates + clap::Args> WorkArgs<C> {
    /// What is asked of a method; an output without a name is called after the model, with this ending.
    pub fn request<O>(&self, method: O, ending: &str) -> Request<O> {
        let output = self.output.clone().unwrap_or_else(|| beside(&self.model, &format!("-{ending}")));
        Request {
            calibration: self.calibration.request(),
            seed: self.seed,
            eval: self.eval.clone(),
            ppl_eval_seqlen: self.ppl_eval_seqlen as usize,
            dtype: self.dtype.map(Dtype::from),
            export: self.export,
            device: self.device.request(),
            force: self.force.force,
            max_gpu_memory: self.max_gpu_memory,
            max_host_memory: self.max_host_memory,
            resume: self.resume,
            stop_after: self.stop_after.map(|count| count as usize),
            ..Request::new(&self.model, output, method)
        }
    }

    /// The same of the model where it was found; an output without a name is called after that.
    fn located<O: Clone>(&self, request: &Request<O>, found: PathBuf) -> Request<O> {
        let mut located = request.clone();
        if self.output.is_none() && found != request.model {
            let name = request.output.file_name().unwrap_or_default().to_string_lossy();
            let ending = name.strip_prefix(stem_of(&request.model).as_str());
            located.output = beside(&found, ending.unwrap_or(&name));
        }
        located.model = found;
        located
    }

    /// Does it, or says what it would take, and prints what came of it.
    pub fn execute<M: Method>(&self, request: &Request<M::Options>) -> Result<()> {
        self.execute_on::<M>(request, |model, _| Ok(model))
    }

    /// The same with what `prepare` makes of the model.
    pub fn execute_on<M: Method>(
        &self,
        request: &Request<M::Options>,
        prepare: impl FnOnce(Model, &Log) -> Result<Model>,
    ) -> Result<()> {
        let log = Bars::log();
        let request = &self.located(request, find_model(&request.model, &log)?);
        let model = prepare(open_model(&request.model, &log)?, &log)?;
        let task = Task::<M>::plan(&model, request, &log)?;
        let outcome = if self.dry_run { task.foresee()? } else { task.work()? };
        let report = task.report(&outcome)?;
        if self.json { print_json(&report) } else { print(&report.table()) }
    }
}
