//! `slicegpt-gpu run`

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use serde_json::json;

use super::{
    DeviceArgs,
    calibration::{CalibrationArgs, Sequences},
    input::{Tokenizers, evaluation_rows, open_model},
    print, print_json,
    progress::Bars,
};
use crate::{
    checkpoint::{Dtype, OutputDirectory, SHARD_BYTES, shards},
    data::sha256,
    error::{Error, Result},
    eval::perplexity,
    generate::sampling_bytes,
    model::Model,
    report::{CalibrationReport, PerplexityReport, Report, SCHEMA_VERSION, grouped, layers, percent_removed},
    slice::{MemoryEstimate, Options, Orientation, Plan, Site, memory, slice},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: a .safetensors file with its config.json beside it, or a directory
    model: PathBuf,
    /// The directory to write [default: MODEL-sliced-25 beside the model]
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// The share of the model's width to cut
    #[arg(long, default_value_t = 0.25, value_name = "S", allow_negative_numbers = true)]
    sparsity: f64,
    /// Round the width down to a multiple of this
    #[arg(long, default_value_t = 8, value_name = "N")]
    round_interval: usize,
    /// What the kept coordinates are: the principal axes, or these turned at random (the same function, outliers spread)
    #[arg(long, default_value = "pca")]
    final_orientation: OrientationArg,
    #[command(flatten)]
    calibration: CalibrationArgs,
    /// Seed of everything drawn at random
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    /// What to measure perplexity on: a .txt, .jsonl or token file [default: the held-out end of the calibration]
    #[arg(long, value_name = "FILE")]
    eval: Option<PathBuf>,
    /// Tokens of a window of text for perplexity, at most the model's own maximum
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    ppl_eval_seqlen: u32,
    /// Type of the written tensors [default: the model's own]
    #[arg(long)]
    dtype: Option<DtypeArg>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Replace the output directory if it exists
    #[arg(long)]
    force: bool,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OrientationArg {
    Pca,
    Random,
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

/// Files beside a model that go along unchanged.
const COMPANIONS: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.json",
    "chat_template.jinja",
    "generation_config.json",
];

impl Args {
    pub fn execute(&self) -> Result<()> {
        let progress = Bars::new();
        let model = open_model(&self.model, &progress)?;
        let options = self.options(&model);
        let output = self.output_path(&model)?;
        let plan = Plan::new(model.config(), &options, "")?;
        let tokenizers = Tokenizers::new(model.directory());
        // Before the work, which a mistyped name should not cost.
        let eval = self.eval.as_ref().map(|path| evaluation_rows(path, &model, &tokenizers, self.ppl_eval_seqlen as usize)).transpose()?;
        let mut report = self.report(&model, &plan, &options, &output);
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
                plan.sliced_parameters, plan.original_parameters, self.sparsity
            ));
        }
        if self.dry_run {
            report.memory = self.memory(&model, &plan)?;
            report.warnings = progress.warnings();
            return self.show(&report);
        }
        let directory = OutputDirectory::create(&output, self.force)?;
        self.work(&model, &options, &tokenizers, eval, &directory, &mut report, &progress)?;
        directory.finish()?;
        self.show(&report)
    }

    /// Everything between the plan and the report, into `directory`.
    #[expect(clippy::too_many_arguments, reason = "what was found out before the work begins")]
    fn work(
        &self,
        model: &Model,
        options: &Options,
        tokenizers: &Tokenizers,
        eval: Option<Vec<Vec<u32>>>,
        directory: &OutputDirectory,
        report: &mut Report,
        progress: &Bars,
    ) -> Result<()> {
        let gpu = self.device.open(progress)?;
        report.adapter = Some(gpu.adapter().clone());
        let window = (self.ppl_eval_seqlen as usize).min(model.config().max_position_embeddings);
        let Sequences { calibration, held_out } =
            self.calibration.sequences(&gpu, model, tokenizers, options, eval.is_none().then_some(window), progress)?;
        let source = self.calibration.calibration.display().to_string();
        let (rows, text) = match (eval, &self.eval) {
            (Some(rows), Some(path)) => (rows, path.display().to_string()),
            _ => (held_out, format!("the held-out end of the calibration ({source})")),
        };
        let sha256 = sha256(&calibration);
        let plan = Plan::new(model.config(), options, &sha256)?;
        let before = if rows.is_empty() { None } else { Some(perplexity(&gpu, model, &rows, "perplexity before", progress)?) };
        let sites = slice(&gpu, model, &calibration, options, &plan, directory, progress)?;
        progress.end();

        let config = serde_json::to_string_pretty(&plan.config.raw).map_err(|error| Error::Usage(error.to_string()))?;
        directory.write("config.json", format!("{config}\n").as_bytes())?;
        for name in companions(model.directory()) {
            let path = model.directory().join(name);
            directory.write(name, &fs::read(&path).map_err(Error::read(&path))?)?;
        }
        if let Some(before) = before {
            let sliced = Model::open(directory.path())?;
            let after = perplexity(&gpu, &sliced, &rows, "perplexity after", progress)?;
            report.perplexity = Some(PerplexityReport::new(&before, &after, &text));
        }
        let tokens = calibration.iter().map(Vec::len).sum();
        report.calibration = Some(CalibrationReport { source, sequences: calibration.len(), tokens, sha256 });
        add_sites(report, &plan, &sites);
        report.seconds = progress.seconds();
        report.warnings = progress.warnings();
        directory.write("README.md", report.model_card(&name_of(&self.model)).as_bytes())
    }

    fn options(&self, model: &Model) -> Options {
        Options {
            sparsity: self.sparsity,
            round_interval: self.round_interval,
            orientation: match self.final_orientation {
                OrientationArg::Pca => Orientation::Pca,
                OrientationArg::Random => Orientation::Random,
            },
            seed: self.seed,
            dtype: self.dtype.map_or(model.store.dtype(), Dtype::from),
            rows_per_batch: self.calibration.cal_batch_size.map(|rows| rows as usize),
        }
    }

    /// Estimates by phase.
    fn memory(&self, model: &Model, plan: &Plan) -> Result<Vec<MemoryEstimate>> {
        let stored = model.store.dtype().bitsize() as u64 / 8;
        let mut estimates = memory(model.config(), plan, self.calibration.tokens(model)?, stored);
        if self.calibration.samples_itself() {
            let gpu_bytes = sampling_bytes(model, self.calibration.nsamples(), self.calibration.seqlen(model));
            estimates.insert(0, MemoryEstimate { phase: "sample", gpu_bytes, host_bytes: 0 });
        }
        Ok(estimates)
    }

    /// Where to write; never onto anything that is read.
    fn output_path(&self, model: &Model) -> Result<PathBuf> {
        let input = fs::canonicalize(&self.model).map_err(Error::read(&self.model))?;
        let output = match &self.output {
            Some(output) => output.clone(),
            None => {
                // By the name as it was given: a file of a model may be a link to one with a meaningless name.
                let (named, directory) = (named(&self.model), self.model.is_dir());
                let stem = if directory { named.file_name() } else { named.file_stem() };
                let stem = stem.map_or("model".into(), |stem| stem.to_string_lossy().into_owned());
                let percent = (self.sparsity * 1e6).round() / 1e4;
                named.with_file_name(format!("{stem}-sliced-{percent}"))
            }
        };
        if let Ok(existing) = fs::canonicalize(&output) {
            // The files of a model may be links to somewhere else.
            let texts = [Some(&self.calibration.calibration), self.eval.as_ref()].into_iter().flatten().map(PathBuf::as_path);
            let mut inputs = [input.as_path()].into_iter().chain(model.store.checkpoint.files()).chain(texts);
            if let Some(lost) = inputs.find(|path| fs::canonicalize(path).is_ok_and(|path| path.starts_with(&existing))) {
                return Err(Error::Usage(format!(
                    "--output {} holds the input {}, which would be overwritten; give another directory",
                    output.display(),
                    lost.display()
                )));
            }
        }
        if output.exists() && !self.force {
            return Err(Error::OutputExists { path: output });
        }
        Ok(output)
    }

    /// What is known before the work.
    fn report(&self, model: &Model, plan: &Plan, options: &Options, output: &Path) -> Report {
        let original_bytes = model.store.checkpoint.byte_len();
        let mut files: Vec<String> = shards(&plan.tensors, SHARD_BYTES).into_iter().map(|(name, _)| name).collect();
        if files.len() > 1 {
            files.push("model.safetensors.index.json".into());
        }
        files.extend(["config.json", "README.md"].map(String::from));
        files.extend(companions(model.directory()).map(String::from));
        Report {
            schema_version: SCHEMA_VERSION,
            tool_version: env!("CARGO_PKG_VERSION"),
            dry_run: self.dry_run,
            arguments: json!({
                "model": shown(&self.model),
                "output": shown(output),
                "sparsity": self.sparsity,
                "round_interval": self.round_interval,
                "final_orientation": plan.config.slicing.as_ref().map(|slicing| slicing.final_orientation.clone()),
                "calibration": shown(&self.calibration.calibration),
                "cal_nsamples": self.calibration.cal_nsamples,
                "cal_max_seqlen": self.calibration.cal_max_seqlen,
                "cal_batch_size": self.calibration.cal_batch_size,
                "seed": self.seed,
                "eval": self.eval.as_deref().map(shown),
                "ppl_eval_seqlen": self.ppl_eval_seqlen,
                "dtype": options.dtype,
                "device": self.device.device,
                "force": self.force,
            }),
            adapter: None,
            model_type: model.config().architecture.model_type.into(),
            output: output.display().to_string(),
            seconds: Default::default(),
            hidden_size: model.config().hidden_size,
            sliced_width: plan.width,
            original_parameters: plan.original_parameters,
            parameters_after_fusion: plan.fused_parameters,
            sliced_parameters: plan.sliced_parameters,
            original_bytes,
            sliced_bytes: plan.byte_len(),
            percent_removed: percent_removed(plan.original_parameters, plan.sliced_parameters),
            percent_removed_after_fusion: percent_removed(plan.fused_parameters, plan.sliced_parameters),
            perplexity: None,
            calibration: None,
            layers: layers(&plan.config, &[]),
            kept_energy_of_embeddings: None,
            kept_energy_per_site: Vec::new(),
            largest_eigen_residual: None,
            largest_orthogonality_error: None,
            memory: Vec::new(),
            files,
            warnings: Vec::new(),
        }
    }

    fn show(&self, report: &Report) -> Result<()> {
        if self.json { print_json(report) } else { print(&report.table()) }
    }
}

/// A path for messages and reports, also where it is not UTF-8.
fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn add_sites(report: &mut Report, plan: &Plan, sites: &[Site]) {
    report.layers = layers(&plan.config, sites);
    report.kept_energy_of_embeddings = sites.first().map(|site| site.kept_energy);
    report.kept_energy_per_site = sites.iter().map(|site| site.kept_energy).collect();
    report.largest_eigen_residual = sites.iter().map(|site| site.eigen_residual).reduce(f64::max);
    report.largest_orthogonality_error = sites.iter().map(|site| site.orthogonality).reduce(f64::max);
}

/// The companions that this model has.
fn companions(directory: &Path) -> impl Iterator<Item = &'static str> {
    COMPANIONS.iter().copied().filter(move |name| directory.join(name).is_file())
}

/// The path with a name at its end: `.` and `..` are resolved, links are not.
fn named(path: &Path) -> PathBuf {
    match path.file_name() {
        Some(_) => path.to_owned(),
        None => fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
    }
}

/// What to call the model: its directory.
fn name_of(path: &Path) -> String {
    let path = std::path::absolute(named(path)).unwrap_or_else(|_| path.to_owned());
    let directory = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
    directory.and_then(Path::file_name).map_or("model".into(), |name| name.to_string_lossy().into_owned())
}
