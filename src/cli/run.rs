//! `slicegpt-gpu run`

use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::json;

use super::{
    DeviceArgs, ForceArgs,
    calibration::CalibrationArgs,
    companions::Companions,
    describe::beside,
    input::{Tokenizers, check_readable_again, evaluation_rows, open_model, writes_beside},
    print, print_json,
    progress::Bars,
    slicing::{SlicingArgs, demanded},
    work::Work,
};
use crate::{
    checkpoint::Dtype,
    error::{Error, Result},
    gpu::AdapterDescription,
    memory::{Ceilings, Workload, host_available, parse_bytes},
    model::Model,
    report::{Report, grouped},
    slice::{Options, Plan, Speed, Types},
    stream::Extent,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: a .safetensors file with its config.json beside it, or a directory
    pub model: PathBuf,
    /// The directory to write [default: MODEL-sliced-25 beside the model]
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    #[command(flatten)]
    pub slicing: SlicingArgs,
    #[command(flatten)]
    pub calibration: CalibrationArgs,
    /// Seed of everything drawn at random
    #[arg(long, default_value_t = 42, value_name = "N")]
    pub seed: u64,
    /// What to measure perplexity on: a file of text, JSON lines or token ids, as for --calibration [default: the
    /// held-out end of the calibration]
    #[arg(long, value_name = "FILE")]
    pub eval: Option<PathBuf>,
    /// Tokens of a window of text for perplexity, at most the model's own maximum
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub ppl_eval_seqlen: u32,
    /// Type of the written tensors [default: each tensor's own]
    #[arg(long)]
    dtype: Option<DtypeArg>,
    /// The most memory to take on the GPU, such as 3GiB [default: no limit but its own; with --max-host-memory where
    /// the GPU shares it]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub max_gpu_memory: Option<u64>,
    /// The most memory to take of the host, the GPU's included where it shares it [default: what is free, less a tenth]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub max_host_memory: Option<u64>,
    /// Say what would be done, what it would take and how long, and do nothing
    #[arg(long, conflicts_with = "resume")]
    pub dry_run: bool,
    #[command(flatten)]
    pub force: ForceArgs,
    /// Go on with an unfinished run to the same output
    #[arg(long)]
    pub resume: bool,
    /// Stop after N layers, each of which counts twice where a basis is found first; --resume continues
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub stop_after: Option<u32>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum DtypeArg {
    F32,
    F16,
    Bf16,
}

impl From<DtypeArg> for Dtype {
    fn from(dtype: DtypeArg) -> Self {
        match dtype {
            DtypeArg::F32 => Self::F32,
            DtypeArg::F16 => Self::F16,
            DtypeArg::Bf16 => Self::BF16,
        }
    }
}

impl Args {
    pub fn execute(&self) -> Result<()> {
        let progress = Bars::new();
        let model = open_model(&self.model, &progress)?;
        let options = self.options(&model);
        let output = self.output_path(&model, &progress)?;
        let plan = Plan::new(model.config(), &options, "")?;
        let tokenizers = Tokenizers::new(&model, &progress);
        // Before the work, which a mistyped name should not cost.
        self.eval.iter().chain(Some(&self.calibration.calibration)).try_for_each(|path| check_readable_again(path))?;
        let eval = self
            .eval
            .as_ref()
            .map(|path| evaluation_rows(path, &model, &tokenizers, self.ppl_eval_seqlen as usize))
            .transpose()?;
        let companions = Companions::of(&model, &plan.config, &progress);
        let mut report = self.report(&model, &plan, &options, &output, &companions.names());
        progress.say(&format!(
            "{} of width {} to {}: {} parameters to {} ({:+.2} %)",
            report.model_type,
            report.hidden_size,
            report.sliced_width,
            grouped(plan.original_parameters),
            grouped(plan.sliced_parameters),
            -report.percent_removed
        ));
        if plan.sliced_parameters >= plan.original_parameters {
            progress.warn(&format!(
                "the result is larger than the original: {} parameters instead of {}; shortcuts and an untied head cost more than --sparsity {} saves",
                plan.sliced_parameters, plan.original_parameters, self.slicing.sparsity
            ));
        }
        if let Some(demanded) = demanded(&model, &options, &plan) {
            progress.warn(&demanded);
        }
        if self.dry_run {
            self.foresee(
                &self.workload(&model, &options, &plan, eval.as_deref(), &tokenizers)?,
                &mut report,
                &progress,
            )?;
            report.warnings = progress.warnings();
            return self.show(&report);
        }
        let (model, options, tokenizers, progress) = (&model, &options, &tokenizers, &progress);
        let work = Work { args: self, model, options, tokenizers, eval, companions, progress };
        work.execute(&output, &mut report)?;
        self.show(&report)
    }

    fn options(&self, model: &Model) -> Options {
        Options {
            seed: self.seed,
            dtype: self.dtype.map_or_else(|| Types::own(&model.store), |dtype| Types::One(dtype.into())),
            rows_per_batch: self.calibration.cal_batch_size.map(|rows| rows as usize),
            ..self.slicing.options()
        }
    }

    /// What the run has to do, as far as memory goes.
    pub fn workload<'a>(
        &self,
        model: &'a Model,
        options: &'a Options,
        plan: &'a Plan,
        eval: Option<&[Vec<u32>]>,
        tokenizers: &Tokenizers,
    ) -> Result<Workload<'a>> {
        let window = (self.ppl_eval_seqlen as usize).min(model.config().max_position_embeddings);
        let (calibration, held_out) = self.calibration.extent(model, eval.is_none().then_some(window), tokenizers)?;
        let eval = match eval {
            Some(rows) => Some(Extent {
                tokens: rows.iter().map(Vec::len).sum(),
                longest: rows.iter().map(Vec::len).max().unwrap_or(0),
            }),
            None => held_out,
        };
        let sampled = (self.calibration.sampled(held_out.is_some()), self.calibration.seqlen(model));
        let sampling = self.calibration.samples_itself().then_some(sampled);
        Ok(Workload { model, options, plan, calibration, eval, sampling })
    }

    /// What may be taken of the memory of an adapter and of the host.
    pub fn ceilings(&self, adapter: Option<&AdapterDescription>) -> Ceilings {
        let shared = adapter.is_some_and(AdapterDescription::shares_host_memory);
        Ceilings { gpu_bytes: self.max_gpu_memory, host_bytes: self.max_host_memory.or_else(host_available), shared }
    }

    /// Plan, peaks and time, as far as they can be told without doing anything.
    fn foresee(&self, workload: &Workload, report: &mut Report, progress: &Bars) -> Result<()> {
        let gpu = match self.device.open(progress) {
            Ok(gpu) => Some(gpu),
            Err(Error::NoAdapter(reason)) => {
                progress.warn(&format!("no time can be told: {reason}"));
                None
            }
            Err(other) => return Err(other),
        };
        report.adapter = gpu.as_ref().map(|gpu| gpu.adapter().clone());
        let plan = workload.fit(self.ceilings(report.adapter.as_ref()), None, false)?;
        report.memory = plan.peaks.clone();
        report.plan = Some(plan);
        if let Some(gpu) = gpu {
            let (config, plan) = (workload.model.config(), workload.plan);
            let speed = Speed::measure(&gpu, config)?;
            let mut phase = |name: &str, seconds: f64| report.estimated_seconds.insert(name.into(), json!(seconds));
            if let Some((count, length)) = workload.sampling {
                phase("sample", speed.forward_seconds(config, count * length));
            }
            if let Some(eval) = workload.eval {
                phase("perplexity before", speed.forward_seconds(config, eval.tokens));
                phase("perplexity after", speed.forward_seconds(&plan.config, eval.tokens));
            }
            phase("slice", speed.slice_seconds(config, plan, workload.options, workload.calibration.tokens));
        }
        Ok(())
    }

    /// Where to write; never onto anything that is read.
    fn output_path(&self, model: &Model, progress: &Bars) -> Result<PathBuf> {
        let output = self.output.clone().unwrap_or_else(|| beside(&self.model, &format!("-{}", self.slicing.suffix())));
        let mut writes = writes_beside(model, self.force.force);
        if !self.calibration.samples_itself() {
            writes.reads(&self.calibration.calibration);
        }
        self.eval.iter().for_each(|path| writes.reads(path));
        writes.directory("--output", &output)?;
        self.device.plan_trace(&mut writes, progress)?;
        Ok(output)
    }

    fn show(&self, report: &Report) -> Result<()> {
        if self.json { print_json(report) } else { print(&report.table()) }
    }
}
