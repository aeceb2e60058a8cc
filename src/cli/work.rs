//! The work of `run`, in stages that are committed one by one, so that any of them can be gone on from.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

use super::{
    calibration::Sequences,
    describe::{add_sites, companions, name_of},
    input::{Tokenizers, check_tokens},
    progress::Bars,
    run::Args,
    state::{State, fingerprint},
};
use crate::{
    checkpoint::OutputDirectory,
    data::sha256,
    error::{Error, Result},
    eval::perplexity,
    gpu::Gpu,
    model::Model,
    report::{CalibrationReport, PerplexityReport, Report},
    slice::{Job, MemoryPlan, Options, Plan},
};

/// What was found out before the work begins.
pub struct Work<'a> {
    pub args: &'a Args,
    pub model: &'a Model,
    pub options: &'a Options,
    pub tokenizers: &'a Tokenizers<'a>,
    pub eval: Option<Vec<Vec<u32>>>,
    pub progress: &'a Bars,
}

impl Work<'_> {
    /// Does the work, or the rest of it, and completes the report.
    ///
    /// # Errors
    /// Whatever stops it; [`Error::Kept`] if it can be gone on with.
    pub fn execute(&self, output: &Path, report: &mut Report) -> Result<()> {
        let identity = self.identity(report)?;
        let (directory, mut state) = if self.args.resume {
            let (directory, bytes) = OutputDirectory::resume(output, self.args.force)?;
            let state = State::parse(&bytes, &directory.beside("state"), &identity)?;
            self.progress.restore(&state.seconds, &state.warnings);
            (directory, state)
        } else {
            (OutputDirectory::create(output, self.args.force)?, State::new(identity, MemoryPlan::unlimited(self.options).batch))
        };
        let result = self.stages(&directory, &mut state, report);
        self.progress.end();
        match result {
            Ok(true) => directory.finish(),
            Ok(false) => {
                self.progress.say(&format!(
                    "stopped as asked; what is done is kept in {}, and the same command with --resume goes on",
                    directory.beside("").display()
                ));
                Ok(())
            }
            Err(error) if error.can_go_on() && directory.is_committed() => Err(Error::Kept { path: directory.beside(""), source: Box::new(error) }),
            Err(error) => {
                if !self.args.resume {
                    directory.abandon();
                }
                Err(error)
            }
        }
    }

    /// Everything that the result depends on, but the GPU.
    fn identity(&self, report: &Report) -> Result<Map<String, Value>> {
        let mut identity = Map::new();
        identity.insert("the version of slicegpt-gpu".into(), json!(report.tool_version));
        // By their names on the command line; what is compared below, and what changes no result, is left out.
        for (name, value) in
            report.arguments.as_object().into_iter().flatten().filter(|(name, _)| !["model", "output", "device", "force"].contains(&name.as_str()))
        {
            identity.insert(format!("--{}", name.replace('_', "-")), json!(value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
        }
        let directory = self.model.directory();
        let mut files: Vec<_> = self.model.store.checkpoint.files().map(Path::to_owned).collect();
        files.push(directory.join("config.json"));
        files.extend(companions(directory).map(|name| directory.join(name)));
        files.extend(self.args.eval.clone());
        if !self.args.calibration.samples_itself() {
            files.push(self.args.calibration.calibration.clone());
        }
        for path in files {
            let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
            identity.insert(format!("the input {name}"), json!(fingerprint(&path)?));
        }
        Ok(identity)
    }

    /// The stages that are not done yet; false if it was asked to stop before the end.
    fn stages(&self, directory: &OutputDirectory, state: &mut State, report: &mut Report) -> Result<bool> {
        let (model, progress) = (self.model, self.progress);
        let gpu = self.args.device.open(progress)?;
        report.adapter = Some(gpu.adapter().clone());
        state.check_adapter(description(&gpu)?)?;
        let sequences = self.sequences(&gpu, directory, state)?;
        let calibration = sequences.calibration;
        let (rows, text) = match (&self.eval, &self.args.eval) {
            (Some(rows), Some(path)) => (rows, path.display().to_string()),
            _ => (&sequences.held_out, format!("the held-out end of the calibration ({})", self.args.calibration.source())),
        };
        let sha256 = sha256(&calibration);
        let plan = Plan::new(model.config(), self.options, &sha256)?;
        if state.before.is_none() && !rows.is_empty() {
            state.before = Some(perplexity(&gpu, model, rows, "perplexity before", progress)?.into());
            self.commit(directory, state)?;
        }
        let layers = model.config().num_hidden_layers;
        let first = state.slicing.as_ref().map_or(0, |snapshot| snapshot.layers);
        let last = self.args.stop_after.map_or(layers, |count| layers.min(first + count as usize));
        let from = state.slicing.clone();
        let memory = MemoryPlan { batch: state.batch, ..MemoryPlan::unlimited(self.options) };
        let job = Job { model, rows: &calibration, options: self.options, plan: &plan, memory, directory, progress };
        let snapshot = job.run(&gpu, from.as_ref(), |snapshot| {
            state.slicing = Some(snapshot.clone());
            self.commit(directory, state)?;
            Ok(snapshot.layers < last || last == layers)
        })?;
        progress.end();
        let tokens = calibration.iter().map(Vec::len).sum();
        report.calibration = Some(CalibrationReport { source: self.args.calibration.source(), sequences: calibration.len(), tokens, sha256 });
        add_sites(report, &plan, &snapshot.sites);
        let whole = last == layers;
        (report.finished, report.layers_done) = (whole, snapshot.layers);
        if whole {
            let config = serde_json::to_string_pretty(&plan.config.raw).map_err(|error| Error::Usage(error.to_string()))?;
            directory.write("config.json", format!("{config}\n").as_bytes())?;
            for name in companions(model.directory()) {
                let path = model.directory().join(name);
                directory.write(name, &fs::read(&path).map_err(Error::read(&path))?)?;
            }
            if let Some(before) = state.before.clone() {
                let sliced = Model::open(directory.path())?;
                let after = perplexity(&gpu, &sliced, rows, "perplexity after", progress)?;
                report.perplexity = Some(PerplexityReport::new(&before.into(), &after, &text));
            }
        }
        self.args.device.close(&gpu, progress)?;
        report.seconds = progress.seconds();
        report.warnings = progress.warnings();
        if whole {
            directory.write("README.md", report.model_card(&name_of(&self.args.model)).as_bytes())?;
        }
        Ok(whole)
    }

    /// The sequences to calibrate on and those held out: kept ones, or new ones that are kept.
    fn sequences(&self, gpu: &Gpu, directory: &OutputDirectory, state: &mut State) -> Result<Sequences> {
        if let Some(sequences) = state.sequences(directory)? {
            let source = directory.beside("tokens.json").display().to_string();
            check_tokens(self.model, &sequences.calibration, &source)?;
            check_tokens(self.model, &sequences.held_out, &source)?;
            return Ok(sequences);
        }
        let window = (self.args.ppl_eval_seqlen as usize).min(self.model.config().max_position_embeddings);
        let sequences =
            self.args.calibration.sequences(gpu, self.model, self.tokenizers, self.options, self.eval.is_none().then_some(window), self.progress)?;
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

/// What of the GPU the last bits of a result depend on: the adapter, its driver and its limits.
fn description(gpu: &Gpu) -> Result<String> {
    let mut adapter = serde_json::to_value(gpu.adapter()).map_err(|error| Error::Usage(error.to_string()))?;
    if let Some(fields) = adapter.as_object_mut() {
        // Where it stands in the list says nothing about it.
        fields.retain(|name, _| name != "index" && name != "default");
    }
    Ok(adapter.to_string())
}
