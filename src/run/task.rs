//! A run that is planned: everything that can be known before the work.

use std::{cell::Cell, path::Path};

use serde_json::{Map, Value, json};

use super::{
    calibration::Calibration,
    companions::Companions,
    export::exported_beside,
    inputs::{Tokenizers, check_readable_again, evaluation_rows, protect_model, writes_beside},
    log::Log,
    memory::{Ceilings, Pieces, RunPlan, Workload, host_available},
    method::{Besides, Method, Section},
    outcome::Outcome,
    record::FILE,
    report::Report,
    request::{HARMLESS, Request},
    state::fingerprint,
};
use crate::{
    checkpoint::{FileTarget, SHARD_BYTES, shards},
    error::{Error, Result},
    gpu::{AdapterDescription, Gpu},
    model::{GgufExport, Model},
    progress::Progress,
    stream::{Extent, Speed},
};

/// A run of the method `M`, planned.
pub struct Task<'a, M: Method> {
    pub method: M,
    pub(super) request: &'a Request<M::Options>,
    pub(super) model: &'a Model,
    /// What perplexity is measured on, text by text; nothing if it is the held-out end of the calibration.
    pub(super) eval: Vec<Vec<Vec<u32>>>,
    pub(super) calibration: Calibration<'a>,
    pub(super) companions: Companions,
    /// What the result is exported to, too.
    pub(super) export: Cell<Option<FileTarget>>,
    /// What the method writes beside the output.
    pub(super) besides: Cell<Option<FileTarget>>,
    pub(super) log: &'a Log,
}

impl<'a, M: Method> Task<'a, M> {
    /// Works out what is asked of a model, and whether it can be read and written.
    ///
    /// # Errors
    /// [`Error::Usage`] and [`Error::OutputExists`] for what cannot be done or written; [`Error::Read`],
    /// [`Error::BadFile`] and [`Error::BadTokens`] for what is read.
    pub fn plan(model: &'a Model, request: &'a Request<M::Options>, log: &'a Log) -> Result<Self> {
        // Never onto anything that is read.
        let mut writes = writes_beside(model, request.force);
        let inputs = || request.inputs().chain(M::inputs(&request.method));
        inputs().for_each(|path| writes.reads(path));
        M::model(&request.method).into_iter().for_each(|path| protect_model(&mut writes, path));
        writes.directory("--output", &request.output)?;
        request.device.plan_trace(&mut writes, log)?;
        let besides = match M::besides(&request.method) {
            Some(Besides::File(flag, path)) => Some(writes.file(flag, path)?),
            Some(Besides::Directory(flag, path)) => writes.directory(flag, path).map(|()| None)?,
            None => None,
        };
        let method = M::plan(model, request)?;
        let export = request.export.map(|kind| {
            GgufExport::check(method.config(), kind)?;
            writes.file("--export", &exported_beside(&request.output, kind))
        });
        let export = Cell::new(export.transpose()?);
        let tokenizers = Tokenizers::new(model, log);
        // Before the work, which a mistyped name should not cost.
        inputs().try_for_each(check_readable_again)?;
        let window = request.ppl_eval_seqlen;
        let eval = request.eval.iter().map(|path| evaluation_rows(path, model, &tokenizers, window));
        let eval = eval.collect::<Result<Vec<_>>>()?;
        let companions = Companions::of(model, method.config(), log);
        let window = eval.is_empty().then_some(window);
        let calibration = Calibration::new(
            &request.calibration,
            model,
            tokenizers,
            request.seed,
            window,
            method.mixes(),
            method.examples(),
        );
        log.say(&method.summary(model));
        method.warnings(model).iter().for_each(|warning| log.note(warning));
        Ok(Self { method, request, model, eval, calibration, companions, export, besides: Cell::new(besides), log })
    }

    /// What it would take, and how long, without doing anything.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if a ceiling is too low; whatever the device reports, but that there is none.
    pub fn foresee(&self) -> Result<Outcome<M::Snapshot>> {
        let gpu = match self.request.device.open(self.log) {
            Ok(gpu) => Some(gpu),
            Err(Error::NoAdapter(reason)) => {
                self.log.note(&format!("cannot estimate the time: {reason}"));
                None
            }
            Err(other) => return Err(other),
        };
        let adapter = gpu.as_ref().map(|gpu| gpu.adapter().clone());
        let plan = self.fit(adapter.as_ref(), None, false)?;
        let estimated_seconds = gpu.map_or_else(|| Ok(Map::new()), |gpu| self.estimate(&gpu))?;
        let (plan, warnings) = (Some(plan), self.log.warnings());
        Ok(Outcome { dry_run: true, adapter, plan, estimated_seconds, warnings, ..Outcome::default() })
    }

    /// Seconds that each phase will take, about.
    fn estimate(&self, gpu: &Gpu) -> Result<Map<String, Value>> {
        let (config, workload) = (self.model.config(), self.workload()?);
        let speed = Speed::measure(gpu, config)?;
        let mut seconds = Map::new();
        let mut phase = |name: &str, time: f64| seconds.insert(name.into(), json!(time));
        if let Some((count, length)) = workload.sampling {
            phase("sample", speed.forward_seconds(config, count * length));
        }
        if let Some(eval) = workload.eval {
            phase("perplexity before", speed.forward_seconds(config, eval.tokens));
            phase("perplexity after", speed.forward_seconds(self.method.config(), eval.tokens));
        }
        phase(M::PHASE, self.method.seconds(&speed, config, workload.calibration.tokens));
        Ok(seconds)
    }

    fn workload(&self) -> Result<Workload<'_, M>> {
        let extents = self.calibration.extents()?;
        Ok(Workload {
            model: self.model,
            method: &self.method,
            rows_per_batch: self.request.calibration.cal_batch_size,
            calibration: extents.calibration,
            eval: if self.eval.is_empty() { extents.held_out } else { Some(self.evaluated()) },
            sampling: self.calibration.sampling()?,
            flags: self.request.calibration.flags,
        })
    }

    /// All that is evaluated on.
    fn evaluated(&self) -> Extent {
        let extents = self.eval.iter().map(|rows| Extent::of(rows));
        extents.fold(Extent { tokens: 0, longest: 0 }, |all, each| Extent {
            tokens: all.tokens + each.tokens,
            longest: all.longest.max(each.longest),
        })
    }

    /// How the run keeps within its ceilings on an adapter.
    pub(super) fn fit(
        &self,
        adapter: Option<&AdapterDescription>,
        pieces: Option<Pieces>,
        spare_gpu: bool,
    ) -> Result<RunPlan> {
        let ceilings = Ceilings {
            gpu_bytes: self.request.max_gpu_memory,
            host_bytes: self.request.max_host_memory.or_else(host_available),
            shared: adapter.is_some_and(AdapterDescription::shares_host_memory),
        };
        self.workload()?.fit(ceilings, pieces, spare_gpu)
    }

    /// What is reported of an outcome.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn report(&self, outcome: &Outcome<M::Snapshot>) -> Result<Report<M::Report>> {
        let section = self.method.report(self.model, outcome.found.as_ref());
        let model_type = self.model.config().architecture.model_type;
        let settled = match &outcome.found {
            Some(found) if outcome.finished => Some(self.method.settled(self.model, found)?),
            _ => None,
        };
        let files = self.files(settled.as_ref().unwrap_or(&self.method));
        let exports = |kind| exported_beside(&self.request.output, kind).display().to_string();
        let files = (files, self.request.export.map(exports));
        Ok(Report::new(self.arguments()?, model_type, section, files, outcome))
    }

    /// Files that are or would be written.
    fn files(&self, method: &M) -> Vec<String> {
        let mut files: Vec<_> = shards(method.tensors(), SHARD_BYTES).into_iter().map(|(name, _)| name).collect();
        if files.len() > 1 {
            files.push("model.safetensors.index.json".into());
        }
        files.extend(["config.json", FILE, "README.md"].map(String::from));
        files.extend(method.pictures().into_iter().map(String::from));
        files.extend(method.config().python_files().iter().map(|(name, _)| (*name).into()));
        files.extend(self.companions.names());
        files
    }

    /// The options in force by their names, defaults included.
    fn arguments(&self) -> Result<Map<String, Value>> {
        let in_force = Request { method: self.method.options(), ..self.request.clone() };
        let mut arguments = in_force.fields()?;
        arguments.insert("dtype".into(), self.method.types().to_string().into());
        Ok(arguments)
    }

    /// Everything that the result depends on, but the GPU: what is asked for, and what the inputs hold.
    pub(super) fn identity(&self) -> Result<Map<String, Value>> {
        let mut identity = Map::new();
        identity.insert("the method".into(), M::NAME.into());
        identity.insert("the version of slicegpt-gpu".into(), json!(env!("CARGO_PKG_VERSION")));
        for (name, value) in self.arguments()?.into_iter().filter(|(name, _)| !HARMLESS.contains(&name.as_str())) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            identity.insert(format!("--{}", name.replace('_', "-")), text.into());
        }
        let directory = self.model.directory();
        let mut files: Vec<_> = self.model.store.checkpoint.files().map(Path::to_owned).collect();
        files.push(directory.join("config.json"));
        files.extend(self.companions.copied.iter().map(|name| directory.join(name)));
        let inputs = self.request.inputs().chain(M::inputs(&self.request.method));
        files.extend(inputs.filter(|path| !path.is_dir()).map(Path::to_owned));
        for path in files {
            // Shards may lie in directories below the model's, and have the same names there.
            let within = path.strip_prefix(directory).ok().map(Path::as_os_str);
            let name = within.or(path.file_name()).unwrap_or(path.as_os_str()).to_string_lossy();
            identity.insert(format!("the input {name}"), json!(fingerprint(&path)?));
        }
        for path in self.method.others() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            identity.insert(format!("the other model's {name}"), json!(fingerprint(&path)?));
        }
        Ok(identity)
    }

    /// The method and its options, for the record of the output.
    pub(super) fn record(&self, section: &M::Report) -> Result<Value> {
        let mut record = Map::new();
        record.insert("method".into(), M::NAME.into());
        let arguments = self.arguments()?;
        let options = serde_json::to_value(self.method.options()).map_err(Error::internal)?;
        let names = options.as_object().into_iter().flat_map(Map::keys).map(String::as_str).chain(["seed", "dtype"]);
        for name in names {
            if let Some(value) = arguments.get(name).filter(|value| !value.is_null()) {
                record.insert(name.into(), value.clone());
            }
        }
        record.extend(section.sizes().into_iter().map(|(name, size)| (name.to_owned(), size.into())));
        Ok(record.into())
    }
}
