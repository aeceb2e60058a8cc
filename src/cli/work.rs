//! The work of `run`, in stages that are committed one by one, so that any of them can be gone on from.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{
    calibration::Sequences,
    companions::Companions,
    describe::{add_sites, name_of},
    input::{Tokenizers, check_tokens},
    progress::Bars,
    run::Args,
    state::{State, fingerprint},
};
use crate::{
    checkpoint::OutputDirectory,
    data::sha256,
    error::{Error, Result},
    eval::perplexity_within,
    gpu::Gpu,
    memory::{Pieces, RunPlan, host_peak},
    model::Model,
    record::RunRecord,
    report::{CalibrationReport, PerplexityReport, Report},
    slice::{Job, Options, Plan},
};

/// What was found out before the work begins.
pub struct Work<'a> {
    pub args: &'a Args,
    pub model: &'a Model,
    pub options: &'a Options,
    pub tokenizers: &'a Tokenizers<'a>,
    pub eval: Option<Vec<Vec<u32>>>,
    pub companions: Companions,
    pub progress: &'a Bars,
}

impl Work<'_> {
    /// Does the work, or the rest of it, and completes the report.
    ///
    /// # Errors
    /// Whatever stops it; [`Error::Kept`] if it can be resumed.
    pub fn execute(&self, output: &Path, report: &mut Report) -> Result<()> {
        let identity = self.identity(report)?;
        // Before anything of an earlier run is given up: what finds no GPU, or no room, finds it out now.
        let gpu = self.args.device.open(self.progress)?;
        let plan = if self.args.resume { None } else { Some(self.fit(&gpu, None, false)?) };
        let mut opened = Some((gpu, plan));
        let (directory, mut state) = if self.args.resume {
            let (directory, bytes) = OutputDirectory::resume(output, self.args.force.force)?;
            let state = State::parse(&bytes, &directory.beside("state"), &identity)?;
            self.progress.restore(&state.seconds, &state.warnings);
            (directory, state)
        } else {
            (OutputDirectory::create(output, self.args.force.force)?, State::new(identity))
        };
        let mut attempt = Attempt::default();
        let result = loop {
            let result = self.stages(opened.take(), &directory, &mut state, report, &attempt);
            self.progress.end();
            match result.as_ref().err().and_then(|error| attempt.after(error, &mut state)) {
                Some(next) => {
                    if let Err(error) = result {
                        self.progress.warn(&format!("{error}; trying again {}", next.change));
                    }
                    attempt = next;
                }
                None => break result,
            }
        };
        let result = match result {
            Ok(true) => {
                let kept = directory.beside("");
                // Whatever has come in the way of the output, its work is done and stays.
                directory.finish().map_err(|source| Error::Kept { path: kept, source: Box::new(source) })
            }
            Ok(false) => {
                self.progress.say(&format!(
                    "stopped as asked; what is done is kept in {}, and the same command with --resume goes on",
                    directory.beside("").display()
                ));
                Ok(())
            }
            Err(error) if error.can_go_on() && directory.is_committed() => {
                Err(Error::Kept { path: directory.beside(""), source: Box::new(error) })
            }
            Err(error) => {
                if !self.args.resume {
                    directory.abandon();
                }
                Err(error)
            }
        };
        // Of work that failed, too; after the output, which it must not cost.
        match (result, self.progress.write_trace()) {
            (Err(error), Err(untraced)) => {
                self.progress.warn(&untraced.to_string());
                Err(error)
            }
            (result, traced) => result.and(traced),
        }
    }

    /// Everything that the result depends on, but the GPU.
    fn identity(&self, report: &Report) -> Result<Map<String, Value>> {
        let mut identity = Map::new();
        identity.insert("the version of slicegpt-gpu".into(), json!(report.tool_version));
        // By their names on the command line; what is compared below, and what changes no result, is left out.
        for (name, value) in report.arguments.as_object().into_iter().flatten().filter(|(name, _)| {
            !["model", "output", "device", "force", "max_gpu_memory", "max_host_memory"].contains(&name.as_str())
        }) {
            identity.insert(
                format!("--{}", name.replace('_', "-")),
                json!(value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
            );
        }
        let directory = self.model.directory();
        let mut files: Vec<_> = self.model.store.checkpoint.files().map(Path::to_owned).collect();
        files.push(directory.join("config.json"));
        files.extend(self.companions.copied.iter().map(|name| directory.join(name)));
        files.extend(self.args.eval.clone());
        if !self.args.calibration.samples_itself() {
            files.push(self.args.calibration.calibration.clone());
        }
        for path in files {
            // Shards may lie in directories below the model's, and have the same names there.
            let name = path
                .strip_prefix(directory)
                .ok()
                .map(Path::as_os_str)
                .or(path.file_name())
                .unwrap_or(path.as_os_str())
                .to_string_lossy();
            identity.insert(format!("the input {name}"), json!(fingerprint(&path)?));
        }
        Ok(identity)
    }

    /// The stages that are not done yet; false if it was asked to stop before the end.
    fn stages(
        &self,
        opened: Option<(Gpu, Option<RunPlan>)>,
        directory: &OutputDirectory,
        state: &mut State,
        report: &mut Report,
        attempt: &Attempt,
    ) -> Result<bool> {
        let opened = opened.map_or_else(|| Ok((self.args.device.open_again(self.progress, attempt.lost)?, None)), Ok);
        let (mut gpu, plan) = opened?;
        report.adapter = Some(gpu.adapter().clone());
        state.check_adapter(description(&gpu)?)?;
        // Pieces that were kept are not made smaller for want of room: the result would be another one.
        let pieces = if attempt.short == 0 { state.pieces.take() } else { state.pieces };
        let memory = plan.map_or_else(|| self.fit(&gpu, pieces, attempt.spare_gpu), Ok)?;
        state.pieces = Some(memory.pieces());
        gpu.set_max_memory(memory.gpu_ceiling().map(|most| most.saturating_sub(self.args.device.withhold_gpu_memory)));
        gpu.set_planned_memory(memory.peaks.iter().map(|peak| peak.gpu_bytes).max());
        (report.plan, report.memory) = (Some(memory.clone()), memory.peaks.clone());
        let result = self.stages_on(&gpu, &memory, directory, state, report);
        // What a lost device recorded is lost.
        if !matches!(result, Err(Error::DeviceLost(_))) {
            self.progress.take_trace(&gpu).unwrap_or_else(|error| self.progress.warn(&error.to_string()));
        }
        report.peak_gpu_bytes = report.peak_gpu_bytes.max(Some(gpu.memory().peak));
        report.peak_host_bytes = host_peak();
        result
    }

    /// How the run keeps within its ceilings on a device.
    fn fit(&self, gpu: &Gpu, pieces: Option<Pieces>, spare_gpu: bool) -> Result<RunPlan> {
        let draft = Plan::new(self.model.config(), self.options, "")?;
        let workload = self.args.workload(self.model, self.options, &draft, self.eval.as_deref(), self.tokenizers)?;
        workload.fit(self.args.ceilings(Some(gpu.adapter())), pieces, spare_gpu)
    }

    fn stages_on(
        &self,
        gpu: &Gpu,
        memory: &RunPlan,
        directory: &OutputDirectory,
        state: &mut State,
        report: &mut Report,
    ) -> Result<bool> {
        let (model, progress) = (self.model, self.progress);
        let sequences = self.sequences(gpu, memory.sampled_rows, directory, state)?;
        let calibration = sequences.calibration;
        let (rows, text) = match (&self.eval, &self.args.eval) {
            (Some(rows), Some(path)) => (rows, path.display().to_string()),
            _ => (
                &sequences.held_out,
                format!("the held-out end of the calibration ({})", self.args.calibration.source()),
            ),
        };
        let sha256 = sha256(&calibration);
        let plan = Plan::new(model.config(), self.options, &sha256)?;
        if state.before.is_none() && !rows.is_empty() {
            state.before =
                Some(perplexity_within(gpu, model, rows, &memory.eval, "perplexity before", progress)?.into());
            self.commit(directory, state)?;
        }
        let layers = model.config().layers.len();
        let all = layers * self.options.passes();
        let first = state.slicing.as_ref().map_or(0, |snapshot| snapshot.passed(layers));
        let last = self.args.stop_after.map_or(all, |count| all.min(first + count as usize));
        let from = state.slicing.clone();
        let job = Job {
            model,
            rows: &calibration,
            options: self.options,
            plan: &plan,
            memory: memory.slice,
            directory,
            progress,
        };
        let snapshot = job.run(gpu, from.as_ref(), |snapshot| {
            state.slicing = Some(snapshot.clone());
            self.commit(directory, state)?;
            Ok(snapshot.passed(layers) < last || last == all)
        })?;
        progress.end();
        let tokens = calibration.iter().map(Vec::len).sum();
        report.calibration = Some(CalibrationReport {
            source: self.args.calibration.source(),
            sequences: calibration.len(),
            tokens,
            sha256: sha256.clone(),
        });
        add_sites(report, &plan, &snapshot.sites);
        let whole = last == all;
        let mut record = None;
        (report.finished, report.layers_done) = (whole, snapshot.passed(layers));
        if whole {
            let config =
                serde_json::to_string_pretty(&plan.config.raw).map_err(|error| Error::Usage(error.to_string()))?;
            directory.write("config.json", format!("{config}\n").as_bytes())?;
            for (name, text) in plan.config.python_files() {
                directory.write(name, text.as_bytes())?;
            }
            for name in self.companions.names() {
                directory.write(&name, &self.companions.contents(model.directory(), &name)?)?;
            }
            let sliced = Model::open(directory.path())?;
            let noted = calibration.first().map_or(&[][..], Vec::as_slice);
            record = Some(RunRecord::of(gpu, &sliced, noted, &memory.eval, method(report), &sha256)?);
            if let Some(before) = state.before.clone() {
                let after = perplexity_within(gpu, &sliced, rows, &memory.eval, "perplexity after", progress)?;
                report.perplexity = Some(PerplexityReport::new(&before.into(), &after, &text));
            }
        }
        report.seconds = progress.seconds();
        report.warnings = progress.warnings();
        if let Some(record) = record {
            directory.write("README.md", report.model_card(&name_of(&self.args.model)).as_bytes())?;
            // The last of all, as it lists the others.
            record.write(directory)?;
        }
        Ok(whole)
    }

    /// The sequences to calibrate on and those held out: kept ones, or new ones that are kept.
    fn sequences(
        &self,
        gpu: &Gpu,
        together: Option<usize>,
        directory: &OutputDirectory,
        state: &mut State,
    ) -> Result<Sequences> {
        if let Some(sequences) = state.sequences(directory)? {
            let source = directory.beside("tokens.json").display().to_string();
            check_tokens(self.model, &sequences.calibration, &source)?;
            check_tokens(self.model, &sequences.held_out, &source)?;
            return Ok(sequences);
        }
        let window = (self.args.ppl_eval_seqlen as usize).min(self.model.config().max_position_embeddings);
        let sequences = self.args.calibration.sequences(
            gpu,
            self.model,
            self.tokenizers,
            self.options,
            self.eval.is_none().then_some(window),
            together,
            self.progress,
        )?;
        state.keep_sequences(&sequences, directory)?;
        // Reading a file again costs nothing.
        if self.args.calibration.samples_itself() {
            self.commit(directory, state)?;
        }
        Ok(sequences)
    }

    fn commit(&self, directory: &OutputDirectory, state: &mut State) -> Result<()> {
        state.seconds = self.progress.seconds_so_far();
        state.warnings = self.progress.warnings();
        state.commit(directory)
    }
}

/// The method and its options, for the record.
fn method(report: &Report) -> Value {
    let names = [
        "sparsity",
        "target_parameters",
        "basis",
        "refit",
        "covariance",
        "ridge",
        "slice_head",
        "round_interval",
        "final_orientation",
        "seed",
        "dtype",
    ];
    let options = names.into_iter().filter_map(|name| {
        Some((name.to_owned(), report.arguments.get(name).filter(|value| !value.is_null())?.clone()))
    });
    let sizes = [("hidden_size", report.hidden_size), ("width", report.sliced_width)];
    let name = [("method".to_owned(), "slicegpt".into())];
    name.into_iter()
        .chain(options)
        .chain(sizes.into_iter().map(|(name, size)| (name.to_owned(), size.into())))
        .collect::<Map<_, _>>()
        .into()
}

/// How the work is tried, after what went wrong before.
#[derive(Debug, Clone, Default)]
struct Attempt {
    /// How often the device was lost.
    lost: usize,
    /// How often memory ran out.
    short: usize,
    /// The residual stays off the GPU.
    spare_gpu: bool,
    /// What is different this time.
    change: &'static str,
}

/// Memory that runs out is answered by smaller pieces up to this many times.
const SQUEEZES: usize = 3;

impl Attempt {
    /// What to try after an error; `None` if that would not help.
    fn after(&self, error: &Error, state: &mut State) -> Option<Self> {
        match error {
            Error::DeviceLost(_) if self.lost == 0 => Some(Self {
                lost: 1,
                change: "on the same device opened again, in shorter pieces of work",
                ..self.clone()
            }),
            Error::OutOfMemory(_) if self.short < SQUEEZES => {
                // None if it is the plan that finds no room.
                let pieces = state.pieces?;
                let halved = pieces.halved();
                if halved.is_none() && self.spare_gpu {
                    return None;
                }
                state.pieces = Some(halved.unwrap_or(pieces));
                Some(Self {
                    short: self.short + 1,
                    spare_gpu: true,
                    change: "with fewer tokens at a time and the residual off the GPU",
                    ..self.clone()
                })
            }
            _ => None,
        }
    }
}

/// What of the GPU the last bits of a result depend on: the adapter, its driver and its limits.
fn description(gpu: &Gpu) -> Result<String> {
    let mut adapter = serde_json::to_value(gpu.adapter()).map_err(|error| Error::Usage(error.to_string()))?;
    if let Some(fields) = adapter.as_object_mut() {
        // Where it stands in the list says nothing about it.
        fields.retain(|name, _| name != "index" && name != "default");
    }
    Ok(adapter.to_string())
}
