//! `slicegpt-gpu run`

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use serde_json::json;

use super::{
    DeviceArgs,
    input::{Tokenizers, check_tokens, evaluation_rows, open_model},
    print, print_json,
    progress::Bars,
};
use crate::{
    checkpoint::{Dtype, OutputDirectory, shards},
    data::{Tokens, sha256},
    error::{Error, Result},
    eval::perplexity,
    generate::{sample_sequences, sampling_bytes},
    gpu::Gpu,
    model::Model,
    report::{CalibrationReport, PerplexityReport, Report, SCHEMA_VERSION, layers, percent_removed},
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
    /// What to calibrate on: `self` samples from the model; a .txt, .jsonl or token file
    #[arg(long, default_value = "self", value_name = "self|FILE")]
    calibration: PathBuf,
    /// Calibration sequences; of a token file the first N rows [default: 128, all rows of a token file]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cal_nsamples: Option<u32>,
    /// Tokens of a calibration sequence, at most the model's own maximum
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    cal_max_seqlen: u32,
    /// Sequences at a time [default: what makes about 2048 tokens]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cal_batch_size: Option<u32>,
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
enum DtypeArg {
    F32,
    F16,
    Bf16,
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

/// Sequences to calibrate on, and others of the same kind to evaluate on.
struct Sequences {
    calibration: Vec<Vec<u32>>,
    held_out: Vec<Vec<u32>>,
}

/// At most so many held-out sequences are evaluated on.
const HELD_OUT: usize = 64;

impl Args {
    pub fn execute(&self) -> Result<()> {
        let progress = Bars::new();
        let model = open_model(&self.model, &progress)?;
        let dtype = match self.dtype {
            Some(DtypeArg::F32) => Dtype::F32,
            Some(DtypeArg::F16) => Dtype::F16,
            Some(DtypeArg::Bf16) => Dtype::BF16,
            None => model.store.dtype(),
        };
        let options = Options {
            sparsity: self.sparsity,
            round_interval: self.round_interval,
            orientation: match self.final_orientation {
                OrientationArg::Pca => Orientation::Pca,
                OrientationArg::Random => Orientation::Random,
            },
            seed: self.seed,
            dtype,
            rows_per_batch: self.cal_batch_size.map(|rows| rows as usize),
        };
        let output = self.output_path(&model)?;
        let plan = Plan::new(model.config(), &options, "")?;
        let mut report = self.report(&model, &plan, &options, &output);
        if plan.sliced_parameters >= plan.original_parameters {
            progress.warn(&format!(
                "the result is larger than the original: {} parameters instead of {}; shortcuts and an untied head cost more than --sparsity {} saves",
                plan.sliced_parameters, plan.original_parameters, self.sparsity
            ));
        }
        if self.dry_run {
            report.memory = memory(model.config(), &plan, self.calibration_tokens(&model)?, model.store.dtype().bitsize() as u64 / 8);
            if self.samples_itself() {
                let gpu_bytes = sampling_bytes(&model, self.nsamples(), self.cal_seqlen(&model));
                report.memory.insert(0, MemoryEstimate { phase: "sample", gpu_bytes, host_bytes: 0 });
            }
            report.warnings = progress.warnings();
            return self.show(&report);
        }
        let directory = OutputDirectory::create(&output, self.force)?;
        let gpu = self.device.open(&progress)?;
        report.adapter = Some(gpu.adapter().clone());

        let tokenizers = Tokenizers::new(model.directory());
        let sequences = self.sequences(&gpu, &model, &tokenizers, &progress)?;
        let (rows, text) = match &self.eval {
            Some(path) => (evaluation_rows(path, &model, &tokenizers, self.ppl_eval_seqlen as usize)?, path.display().to_string()),
            None => (sequences.held_out, format!("the held-out end of the calibration ({})", self.calibration.display())),
        };
        if rows.is_empty() {
            progress.warn("nothing is held out of a calibration that uses all rows: give --eval FILE to measure perplexity");
        }
        let sha256 = sha256(&sequences.calibration);
        let plan = Plan::new(model.config(), &options, &sha256)?;
        let before = if rows.is_empty() { None } else { Some(perplexity(&gpu, &model, &rows, None, "perplexity before", &progress)?) };
        let sites = slice(&gpu, &model, &sequences.calibration, &options, &plan, &directory, &progress)?;
        progress.end();

        let config = serde_json::to_string_pretty(&plan.config.raw).map_err(|error| Error::Usage(error.to_string()))?;
        directory.write("config.json", format!("{config}\n").as_bytes())?;
        for name in companions(model.directory()) {
            let path = model.directory().join(name);
            directory.write(name, &fs::read(&path).map_err(Error::read(&path))?)?;
        }
        if let Some(before) = before {
            let sliced = Model::open(directory.path())?;
            let after = perplexity(&gpu, &sliced, &rows, None, "perplexity after", &progress)?;
            report.perplexity = Some(PerplexityReport::new(&before, &after, &text));
        }
        report.calibration = Some(CalibrationReport {
            source: self.calibration.display().to_string(),
            sequences: sequences.calibration.len(),
            tokens: sequences.calibration.iter().map(Vec::len).sum(),
            sha256,
        });
        add_sites(&mut report, &plan, &sites);
        report.seconds = progress.seconds();
        report.warnings = progress.warnings();
        directory.write("README.md", report.model_card(&name_of(&self.model)).as_bytes())?;
        directory.finish()?;
        self.show(&report)
    }

    /// Where to write; never onto anything that is read.
    fn output_path(&self, model: &Model) -> Result<PathBuf> {
        let input = fs::canonicalize(&self.model).map_err(Error::read(&self.model))?;
        let output = match &self.output {
            Some(output) => output.clone(),
            None => {
                let stem = if input.is_dir() { input.file_name() } else { input.file_stem() };
                let stem = stem.map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_else(|| "model".into());
                let percent = (self.sparsity * 1e6).round() / 1e4;
                let shown = if self.model.is_dir() { input.clone() } else { self.model.clone() };
                shown.with_file_name(format!("{stem}-sliced-{percent}"))
            }
        };
        if let Ok(existing) = fs::canonicalize(&output) {
            // The files of a model may be links to somewhere else.
            let texts = [Some(&self.calibration), self.eval.as_ref()].into_iter().flatten().map(PathBuf::as_path);
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

    fn samples_itself(&self) -> bool {
        self.calibration.as_os_str() == "self"
    }

    fn nsamples(&self) -> usize {
        self.cal_nsamples.unwrap_or(128) as usize
    }

    fn cal_seqlen(&self, model: &Model) -> usize {
        (self.cal_max_seqlen as usize).min(model.config().max_position_embeddings)
    }

    /// How many of the rows of a token file are calibrated on.
    fn used_rows(&self, rows: usize) -> Result<usize> {
        match self.cal_nsamples {
            Some(count) if count as usize > rows => {
                Err(Error::Usage(format!("--cal-nsamples {count}, but {} has {rows} rows", self.calibration.display())))
            }
            count => Ok(count.map_or(rows, |count| count as usize)),
        }
    }

    /// How many calibration tokens there will be, for the estimates of a dry run.
    fn calibration_tokens(&self, model: &Model) -> Result<usize> {
        if !self.samples_itself()
            && let Tokens::Rows(rows) = Tokens::read(&self.calibration)?
        {
            check_tokens(model, &rows, &self.calibration.display().to_string())?;
            return Ok(rows.iter().take(self.used_rows(rows.len())?).map(Vec::len).sum());
        }
        Ok(self.nsamples() * self.cal_seqlen(model))
    }

    fn sequences(&self, gpu: &Gpu, model: &Model, tokenizers: &Tokenizers, progress: &Bars) -> Result<Sequences> {
        let (count, seqlen) = (self.nsamples(), self.cal_seqlen(model));
        let eval_seqlen = (self.ppl_eval_seqlen as usize).min(model.config().max_position_embeddings);
        let sequences = if self.samples_itself() {
            let spare = if self.eval.is_some() { 0 } else { (count / 8).clamp(1, HELD_OUT) };
            let mut calibration = sample_sequences(gpu, model, count + spare, seqlen, self.seed, progress)?;
            let held_out = calibration.split_off(count);
            Sequences { calibration, held_out }
        } else {
            match Tokens::read(&self.calibration)? {
                Tokens::Rows(mut calibration) => {
                    let used = self.used_rows(calibration.len())?;
                    let mut held_out = calibration.split_off(used);
                    held_out.retain(|row| row.len() > 1);
                    Sequences { calibration, held_out }
                }
                Tokens::Text(text) => {
                    let tokenizer = tokenizers.get()?;
                    let (beginning, tail) = text.split_tail();
                    let calibration = beginning.sequences(tokenizer, count, seqlen, self.seed)?;
                    // A short tail is evaluated on in windows as long as it allows.
                    let windows = tail.map(|tail| tail.windows(tokenizer, eval_seqlen).or_else(|_| tail.windows(tokenizer, seqlen.min(64))));
                    Sequences { calibration, held_out: windows.and_then(Result::ok).unwrap_or_default() }
                }
            }
        };
        let source = self.calibration.display().to_string();
        check_tokens(model, &sequences.calibration, &source)?;
        check_tokens(model, &sequences.held_out, &source)?;
        progress.end();
        Ok(Sequences { held_out: sequences.held_out.into_iter().take(HELD_OUT).collect(), ..sequences })
    }

    /// What is known before the work.
    fn report(&self, model: &Model, plan: &Plan, options: &Options, output: &Path) -> Report {
        let original_bytes = model.store.checkpoint.byte_len();
        let mut files: Vec<String> = shards(&plan.tensors).into_iter().map(|(name, _)| name).collect();
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
                "calibration": shown(&self.calibration),
                "cal_nsamples": self.cal_nsamples,
                "cal_max_seqlen": self.cal_max_seqlen,
                "cal_batch_size": self.cal_batch_size,
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

fn name_of(path: &Path) -> String {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
    directory.and_then(Path::file_name).map_or("model".into(), |name| name.to_string_lossy().into_owned())
}
