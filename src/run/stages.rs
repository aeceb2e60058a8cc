//! The work of a run, in stages that are committed one by one, so that any of them can be resumed.

use std::collections::BTreeMap;

use super::{
    attempt::Attempt,
    calibration::Sequences,
    export::{ExportRequest, export},
    inputs::Tokenizers,
    log::Log,
    memory::{RunPlan, host_peak},
    method::{Method, Section},
    origin::Origin,
    outcome::{CalibrationReport, Outcome, PerplexityReport, held_out_end},
    paths::name_of,
    record::RunRecord,
    speed::SpeedReport,
    state::State,
    task::Task,
};
use crate::{
    checkpoint::{OutputDirectory, Written},
    data::sha256,
    error::{Error, Result},
    eval::{agreement, perplexity_within},
    gpu::Gpu,
    model::Model,
    progress::{Progress, Silent},
    stream::Job,
};

impl<M: Method> Task<'_, M> {
    /// Does the work, or the rest of it.
    ///
    /// # Errors
    /// Whatever stops it; [`Error::Kept`] if it can be resumed.
    pub fn work(&self) -> Result<Outcome<M::Snapshot>> {
        let identity = self.identity()?;
        let (request, log) = (self.request, self.log);
        // Before anything of an earlier run is given up: what finds no GPU, or no room, finds it out now.
        let gpu = request.device.open(log)?;
        let memory = if request.resume { None } else { Some(self.fit(Some(gpu.adapter()), None, false)?) };
        let (directory, state) = if request.resume {
            let (directory, bytes) = OutputDirectory::resume(&request.output, request.force)?;
            let state = State::parse(&bytes, &directory.beside("state"), &identity)?;
            log.restore(&state.seconds, &state.warnings);
            check(&directory, &state.written, log)?;
            (directory, state)
        } else {
            (OutputDirectory::create(&request.output, request.force)?, State::new(identity))
        };
        let mut work = Work { task: self, log, directory: &directory, state, outcome: Outcome::default() };
        let result = work.attempts((gpu, memory));
        let outcome = work.outcome;
        let result = result.map(|()| outcome);
        let result = self.settle(directory, result);
        let result = result.and_then(|outcome| self.exported(outcome));
        // Of work that failed, too; after the output, which it must not cost.
        match (result, log.write_trace()) {
            (Err(error), Err(untraced)) => {
                log.note(&untraced.to_string());
                Err(error)
            }
            (Ok(_), Err(untraced)) => Err(untraced),
            (result, Ok(())) => result,
        }
    }

    /// Writes what the method has beside the output.
    fn write_besides(&self, outcome: &Outcome<M::Snapshot>) -> Result<()> {
        match (self.besides.take(), &outcome.found) {
            (Some(target), Some(found)) => self.method.write_besides(target, found),
            _ => Ok(()),
        }
    }

    /// Exports the result, once it is there, if that was asked for.
    fn exported(&self, mut outcome: Outcome<M::Snapshot>) -> Result<Outcome<M::Snapshot>> {
        let output = &self.request.output;
        if let (true, Some(target), Some(kind)) = (outcome.finished, self.export.take(), self.request.export) {
            let request = ExportRequest { kind, ..ExportRequest::default() };
            let made = Model::open(output).and_then(|made| export(&made, &name_of(output), &request, target, self.log));
            outcome.exported = Some(made.inspect_err(|_| {
                let output = output.display();
                self.log
                    .note(&format!("{output} is complete; slicegpt-gpu export {output} --format gguf makes the file"));
            })?);
        }
        Ok(outcome)
    }

    /// Gives the output its name, keeps what can be resumed, or removes what cannot.
    fn settle(&self, directory: OutputDirectory, result: Result<Outcome<M::Snapshot>>) -> Result<Outcome<M::Snapshot>> {
        let kept = directory.beside("");
        match result {
            // What lies beside the output can be written again as long as that does not have its name.
            Ok(outcome) if outcome.finished => match self.write_besides(&outcome).and_then(|()| directory.finish()) {
                Ok(()) => Ok(outcome),
                // Whatever has come in the way of the output, its work is done and stays.
                Err(source) => Err(Error::Kept { path: kept, source: Box::new(source) }),
            },
            Ok(outcome) => {
                self.log.say(&format!(
                    "stopped as requested; progress is kept in {}, and the same command with --resume continues",
                    kept.display()
                ));
                Ok(outcome)
            }
            Err(error) if error.can_go_on() && directory.is_committed() => {
                Err(Error::Kept { path: kept, source: Box::new(error) })
            }
            Err(error) => {
                if !self.request.resume {
                    directory.abandon();
                }
                Err(error)
            }
        }
    }
}

/// Work under way.
struct Work<'a, M: Method> {
    task: &'a Task<'a, M>,
    log: &'a Log,
    directory: &'a OutputDirectory,
    state: State<M::Snapshot>,
    outcome: Outcome<M::Snapshot>,
}

/// A device, and how the run keeps within its memory, where that is known.
type Opened = (Gpu, Option<RunPlan>);

impl<M: Method> Work<'_, M> {
    /// Tries until it succeeds, or nothing is left to try.
    fn attempts(&mut self, opened: Opened) -> Result<()> {
        let mut attempt = Attempt::default();
        let mut opened = Ok(opened);
        loop {
            let result = opened.and_then(|opened| self.attempt(opened, &attempt));
            self.log.end();
            let Err(error) = result else { return Ok(()) };
            let Some(next) = attempt.after(&error, &mut self.state.pieces) else { return Err(error) };
            self.log.note(&format!("{error}; trying again {}", next.change));
            opened = self.task.request.device.open_again(next.lost, self.log).map(|gpu| (gpu, None));
            attempt = next;
        }
    }

    /// The stages that are not done yet, on a device.
    fn attempt(&mut self, (mut gpu, memory): Opened, attempt: &Attempt) -> Result<()> {
        self.outcome.adapter = Some(gpu.adapter().clone());
        self.state.check_adapter(description(&gpu)?)?;
        // Pieces that were kept are not made smaller for want of room: the result would be another one.
        let pieces = if attempt.short == 0 { self.state.pieces.take() } else { self.state.pieces };
        let fit = || self.task.fit(Some(gpu.adapter()), pieces, attempt.spare_gpu);
        let memory = memory.map_or_else(fit, Ok)?;
        self.state.pieces = Some(memory.pieces());
        self.task.request.device.limit(&mut gpu, memory.gpu_ceiling());
        gpu.set_planned_memory(memory.peaks.iter().map(|peak| peak.gpu_bytes).max());
        self.outcome.plan = Some(memory.clone());
        let result = self.stages(&gpu, &memory);
        // What a lost device recorded is lost.
        if !matches!(result, Err(Error::DeviceLost(_))) {
            self.log.take_trace(&gpu).unwrap_or_else(|error| self.log.note(&error.to_string()));
        }
        self.outcome.peak_gpu_bytes = self.outcome.peak_gpu_bytes.max(Some(gpu.memory().peak));
        self.outcome.peak_host_bytes = host_peak();
        result
    }

    /// Sequences, perplexity before, the layers, and what else belongs to the output.
    fn stages(&mut self, gpu: &Gpu, memory: &RunPlan) -> Result<()> {
        let Sequences { calibration, held_out, counted, own } = self.sequences(gpu, memory.sampled_rows)?;
        let held_out: Vec<Vec<Vec<u32>>> = if held_out.is_empty() { Vec::new() } else { vec![held_out] };
        let eval = if self.task.eval.is_empty() { &held_out } else { &self.task.eval };
        let sha256 = sha256(&calibration);
        self.before(gpu, eval, memory)?;
        self.layers(gpu, (&calibration, counted.as_deref()), memory)?;
        self.outcome.calibration = Some(CalibrationReport {
            source: self.task.calibration.request.source(),
            sequences: calibration.len(),
            tokens: calibration.iter().map(Vec::len).sum(),
            own_sequences: own,
            answer_tokens: counted.map(|rows| rows.iter().flatten().filter(|counted| **counted).count()),
            sha256: sha256.clone(),
        });
        let mut record = None;
        if self.outcome.finished {
            let made = self.complete(&sha256)?;
            let recorded = calibration.first().map_or(&[][..], Vec::as_slice);
            let section = self.task.method.report(self.task.model, self.outcome.found.as_ref());
            let method = self.task.record(&section)?;
            for (name, drawing) in section.drawings() {
                self.directory.write(name, drawing.as_bytes())?;
            }
            record = Some(RunRecord::of(gpu, &made, recorded, &memory.eval, method, &sha256)?);
            self.after(gpu, &made, eval, memory)?;
            if M::COMPARES {
                let rows = eval.first().unwrap_or(&calibration);
                self.outcome.speed = SpeedReport::measure(gpu, [self.task.model, &made], rows, memory, self.log)?;
            }
        }
        self.outcome.seconds = self.log.seconds();
        self.outcome.warnings = self.log.warnings();
        if let Some(record) = record {
            let directory = self.task.model.store.checkpoint.directory();
            let origin = Origin::of(&self.task.request.model, directory);
            let card = self.task.report(&self.outcome)?.model_card(&origin);
            self.directory.write("README.md", card.as_bytes())?;
            // The last of all, as it lists the others.
            record.write(self.directory)?;
        }
        Ok(())
    }

    /// The sequences to calibrate on and those held out: kept ones, or new ones that are kept.
    fn sequences(&mut self, gpu: &Gpu, together: Option<usize>) -> Result<Sequences> {
        let calibration = &self.task.calibration;
        if let Some(sequences) = self.state.sequences(self.directory)? {
            let source = self.directory.beside(OutputDirectory::TOKENS).display().to_string();
            sequences.check(self.task.model, &source)?;
            calibration.release();
            return Ok(sequences);
        }
        let sequences = calibration.sequences(gpu, together, self.log)?;
        self.state.keep_sequences(&sequences, self.directory)?;
        // Reading a file again costs nothing.
        if calibration.sampling()?.is_some() {
            self.commit()?;
        }
        Ok(sequences)
    }

    /// Measures the model as it is on each text, unless that is done, or both models will be compared.
    fn before(&mut self, gpu: &Gpu, eval: &[Vec<Vec<u32>>], memory: &RunPlan) -> Result<()> {
        let texts = if M::COMPARES { &[] } else { eval };
        for rows in texts.iter().skip(self.state.before.len()) {
            let before = perplexity_within(gpu, self.task.model, rows, &memory.eval, "perplexity before", self.log)?;
            self.state.before.push(before.into());
            self.commit()?;
        }
        Ok(())
    }

    /// Goes through the layers that are not done, or as many as are asked for.
    fn layers(
        &mut self,
        gpu: &Gpu,
        (rows, counted): (&[Vec<u32>], Option<&[Vec<bool>]>),
        memory: &RunPlan,
    ) -> Result<()> {
        let Task { method, model, request, .. } = self.task;
        let layers = model.config().layers.len();
        let all = layers * method.passes();
        let from = self.state.layers.clone();
        let first = from.as_ref().map_or(0, |snapshot| method.passed(snapshot, layers));
        let last = request.stop_after.map_or(all, |count| all.min(first + count));
        let (directory, progress, tensors, output) = (self.directory, self.log, method.tensors(), method.config());
        let memory = memory.layers;
        let job = Job { model, rows, counted, watched: 0, memory, output, tensors, directory, progress };
        let snapshot = method.run(gpu, job, from.as_ref(), &mut |snapshot| {
            self.state.layers = Some(snapshot.clone());
            self.commit()?;
            Ok(method.passed(snapshot, layers) < last || last == all)
        })?;
        self.log.end();
        self.outcome.finished = method.is_done(&snapshot, layers);
        self.outcome.layers_done = method.passed(&snapshot, layers);
        self.outcome.found = Some(snapshot);
        Ok(())
    }

    /// Writes what belongs to the tensors; returns the model that they make.
    fn complete(&self, calibration_sha256: &str) -> Result<Model> {
        let Task { method, model, companions, .. } = self.task;
        let settled = self.outcome.found.as_ref().map(|found| method.settled(model, found)).transpose()?;
        let method = settled.as_ref().unwrap_or(method);
        self.directory.write("config.json", method.config_json(calibration_sha256)?.as_bytes())?;
        for (name, text) in method.config().python_files() {
            self.directory.write(name, text.as_bytes())?;
        }
        for name in companions.names() {
            self.directory.write(&name, &companions.contents(model.directory(), &name)?)?;
        }
        Model::open(self.directory.path())
    }

    /// Measures what was made on each text.
    fn after(&mut self, gpu: &Gpu, made: &Model, eval: &[Vec<Vec<u32>>], memory: &RunPlan) -> Result<()> {
        let Task { model, request, calibration, .. } = self.task;
        let whole = model.whole_vocabulary().map(|_| Model::open(&request.model)).transpose()?;
        for (number, rows) in eval.iter().enumerate() {
            let held_out = || held_out_end(&request.calibration.source());
            let text = request.eval.get(number).map_or_else(held_out, |path| path.display().to_string());
            let found = match self.state.before.get(number) {
                _ if M::COMPARES => {
                    let found = agreement(gpu, made, model, rows, &memory.eval, "agreement", self.log)?;
                    let compared = PerplexityReport::compared(&found, &text, calibration.predicted_bytes(rows));
                    match &whole {
                        Some(whole) => compared.from_whole(self.bits_per_byte(gpu, whole, rows, memory)?),
                        None => compared,
                    }
                }
                None => continue,
                Some(before) => {
                    let after = perplexity_within(gpu, made, rows, &memory.eval, "perplexity after", self.log)?;
                    PerplexityReport::new(&before.clone().into(), &after, &text)
                }
            };
            match &self.outcome.perplexity {
                None => self.outcome.perplexity = Some(found),
                Some(_) => self.outcome.perplexity_elsewhere.push(found),
            }
        }
        Ok(())
    }

    /// Bits that a model with all its tokens takes for a byte of what these rows say.
    fn bits_per_byte(&self, gpu: &Gpu, whole: &Model, rows: &[Vec<u32>], memory: &RunPlan) -> Result<Option<f64>> {
        let tokenizers = Tokenizers::new(whole, &Silent);
        let rows = self.task.calibration.translated(rows, &tokenizers)?;
        let found = agreement(gpu, whole, whole, &rows, &memory.eval, "all tokens", self.log)?;
        let report = PerplexityReport::compared(&found, "", tokenizers.predicted_bytes(&rows));
        Ok(report.agreement.and_then(|agreement| agreement.bits_per_byte).map(|[before, _]| before))
    }

    /// Makes what is done so far what `--resume` continues from.
    fn commit(&mut self) -> Result<()> {
        self.state.seconds = self.log.seconds_so_far();
        self.state.warnings = self.log.warnings();
        self.state.written = self.directory.written();
        self.state.commit(self.directory)
    }
}

/// Checks that what an unfinished run has written is still there.
fn check(directory: &OutputDirectory, written: &Written, log: &Log) -> Result<()> {
    let all: usize = written.values().map(BTreeMap::len).sum();
    if all > 0 {
        log.begin("check", all as u64);
    }
    directory.check(written, &|| log.advance(1))?;
    log.end();
    Ok(())
}

/// What of the GPU the last bits of a result depend on: the adapter, its driver and its limits.
fn description(gpu: &Gpu) -> Result<String> {
    let mut adapter = serde_json::to_value(gpu.adapter()).map_err(Error::internal)?;
    if let Some(fields) = adapter.as_object_mut() {
        // Where it stands in the list says nothing about it.
        fields.retain(|name, _| name != "index" && name != "default");
    }
    Ok(adapter.to_string())
}
