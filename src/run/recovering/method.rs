//! Recovery as a run sees it.

use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

use serde_json::json;

use super::{
    super::{
        examples::LossOn,
        method::{Besides, Method},
        paths::repository_of,
        request::Request,
        units::grouped,
    },
    chart,
    report::RecoverReport,
    request::{Extra, RecoverRequest},
};
use crate::{
    checkpoint::{Dtype, OutputDirectory, RECORD, TensorPlan, tensor_file},
    error::{Error, Result},
    gpu::Gpu,
    model::{AdapterForm, AdapterTensor, Config, LowRank, Model, TensorSpec},
    recover::{self, Mode, Options, Recovered, Snapshot},
    stream::{Extent, Job, MemoryPlan, Peak, Speed, Types},
};

/// Recovery, planned for a model.
#[derive(Clone)]
pub struct Recover {
    pub options: Options,
    request: RecoverRequest,
    teacher: Option<Rc<Model>>,
    /// Whether what is there may be replaced.
    force: bool,
    /// Tokens of a sequence, at most.
    longest: usize,
    /// Of the result, which is the model's but for the type of its tensors.
    config: Config,
    tensors: Vec<TensorPlan>,
}

impl Method for Recover {
    type Options = RecoverRequest;
    type Report = RecoverReport;
    type Snapshot = Snapshot;

    const NAME: &'static str = "recover";
    const PHASE: &'static str = "train";

    fn model(options: &RecoverRequest) -> Option<&Path> {
        options.teacher.as_deref()
    }

    fn besides(options: &RecoverRequest) -> Option<Besides<'_>> {
        options.adapter.as_deref().map(|path| Besides::Directory("--adapter", path))
    }

    fn others(&self) -> Vec<PathBuf> {
        let of = |teacher: &Rc<Model>| {
            let files = teacher.store.checkpoint.files().map(Path::to_owned);
            let config = Some(teacher.directory().join("config.json")).filter(|path| path.exists());
            files.chain(config).collect()
        };
        self.teacher.as_ref().map_or_else(Vec::new, of)
    }

    fn plan(model: &Model, request: &Request<RecoverRequest>) -> Result<Self> {
        if request.method.train.contains(&Extra::Weights) && request.method.targets.is_some() {
            return Err(Error::Usage(
                "--targets says which weights get A and B, --train weights trains all themselves".into(),
            ));
        }
        let dtype = request.dtype.map_or_else(|| Types::own(&model.store), Types::One);
        let teacher = request.method.teacher.as_ref().map(|path| Model::open(path).map(Rc::new)).transpose()?;
        let of = teacher.as_ref().map(|teacher| teacher.config());
        let options = request.method.options(model.config(), (of, None), request.seed, dtype);
        options.check(model.config())?;
        match (options.mode, &teacher) {
            (Mode::Lora, Some(_)) => {
                return Err(Error::Usage(
                    "--teacher is for --mode blocks or distil; --mode lora learns from text".into(),
                ));
            }
            (Mode::Blocks | Mode::Distil, None) => {
                return Err(Error::Usage(format!(
                    "--mode {} needs --teacher DENSE, the model to imitate",
                    options.mode
                )));
            }
            (_, Some(teacher)) if teacher.config().vocab_size != model.config().vocab_size => {
                return Err(Error::Usage(format!(
                    "--teacher has {} tokens, the model {}: they must have the same vocabulary",
                    teacher.config().vocab_size,
                    model.config().vocab_size
                )));
            }
            (Mode::Blocks, Some(teacher)) => recover::check_teacher(model.config(), teacher.config(), None)?,
            _ => {}
        }
        if options.mode == Mode::Blocks && request.method.loss_on == Some(LossOn::Answer) {
            return Err(Error::Usage(
                "--loss-on answer: --mode blocks compares layers at every token; use --mode lora or distil".into(),
            ));
        }
        let trained = &options.trained;
        if request.method.adapter.is_some() && (trained.weights || trained.norms || trained.biases) {
            return Err(Error::Usage(
                "--adapter holds A and B alone; leave out --train, and name --targets with --mode blocks".into(),
            ));
        }
        let config = options.dtype.noted_in(model.config().clone());
        let dtypes = options.dtype.of_tensors(model.config(), &config);
        let longest = request.calibration.cal_max_seqlen.min(config.max_position_embeddings);
        // Experts stay as they are stored.
        let in_mxfp4 = if request.dtype.is_none() { model.store.in_mxfp4() } else { Vec::new() };
        let plan = |spec: TensorSpec, dtype| TensorPlan { name: spec.name, shape: spec.shape, dtype };
        let of = |(spec, dtype): (TensorSpec, Dtype)| match spec.in_mxfp4().filter(|_| in_mxfp4.contains(&spec.name)) {
            Some(parts) => parts.map(|part| plan(part, Dtype::U8)).into(),
            None => vec![plan(spec, dtype)],
        };
        let tensors = config.tensors().into_iter().zip(dtypes).flat_map(of).collect();
        let config = match &model.config().quantization {
            Some(section) if !in_mxfp4.is_empty() => config.quantized(section),
            _ => config,
        };
        Ok(Self { options, request: request.method.clone(), teacher, force: request.force, longest, config, tensors })
    }

    fn examples(&self) -> Option<LossOn> {
        Some(self.request.loss_on(self.options.mode))
    }

    fn options(&self) -> RecoverRequest {
        let Options { mode, learning_rate, eval_every, .. } = self.options;
        let (learning_rate, eval_every, loss_on) = (Some(learning_rate), Some(eval_every), self.examples());
        RecoverRequest { mode: Some(mode), learning_rate, eval_every, loss_on, ..self.request.clone() }
    }

    fn types(&self) -> &Types {
        &self.options.dtype
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn tensors(&self) -> &[TensorPlan] {
        &self.tensors
    }

    fn config_json(&self, _: &str) -> Result<String> {
        let mut text = serde_json::to_string_pretty(&self.config.raw).map_err(Error::internal)?;
        text.push('\n');
        Ok(text)
    }

    fn summary(&self, model: &Model) -> String {
        let (config, options) = (model.config(), &self.options);
        format!(
            "{}: {} steps of {} ({} trained parameters for {} of the model), {} sequences each, learning rate {}",
            config.architecture.model_type,
            options.steps,
            options.mode,
            grouped(options.all_trained_parameters(config)),
            grouped(config.parameters()),
            options.batch_size,
            options.learning_rate
        )
    }

    fn warnings(&self, model: &Model) -> Vec<String> {
        let explicit = self.request.targets.is_some() || self.request.train.contains(&Extra::Weights);
        self.options.untrained(model.config()).filter(|_| explicit).map(str::to_owned).into_iter().collect()
    }

    fn settled(&self, _: &Model, _: &Snapshot) -> Result<Self> {
        Ok(self.clone())
    }

    fn passes(&self) -> usize {
        // One more than there are steps, so that all steps are not all there is.
        let steps = self.all_steps();
        steps / self.config.layers.len().max(1) + 1
    }

    fn passed(&self, snapshot: &Snapshot, layers: usize) -> usize {
        if snapshot.done { layers * self.passes() } else { snapshot.steps }
    }

    fn is_done(&self, snapshot: &Snapshot, _: usize) -> bool {
        snapshot.done
    }

    fn peak(&self, memory: &MemoryPlan, config: &Config, calibration: &Extent, rope: u64, element_size: usize) -> Peak {
        let written = self.tensors.iter().map(TensorPlan::byte_len).sum();
        let teacher = self.teacher.as_ref().map(|teacher| teacher.config());
        self.options.peak(memory, (config, teacher), written, calibration, rope, element_size)
    }

    fn seconds(&self, speed: &Speed, config: &Config, tokens: usize) -> f64 {
        self.options.seconds(speed, config, self.longest.min(tokens))
    }

    fn run(
        &self,
        gpu: &Gpu,
        Job { model, rows, counted, memory, directory, progress, .. }: Job<'_>,
        from: Option<&Snapshot>,
        commit: &mut dyn FnMut(&Snapshot) -> Result<bool>,
    ) -> Result<Snapshot> {
        let job = recover::Job {
            model,
            teacher: self.teacher.as_deref(),
            stay: None,
            rows,
            counted,
            options: &self.options,
            memory,
            tensors: &self.tensors,
            directory,
            progress,
        };
        let Recovered { snapshot, low_rank } = job.run(gpu, from, commit)?;
        if let (Some(path), true) = (&self.request.adapter, snapshot.done) {
            self.write_adapter(model, path, &low_rank)?;
        }
        Ok(snapshot)
    }

    fn pictures(&self) -> Vec<&'static str> {
        vec![chart::NAME]
    }

    fn report(&self, model: &Model, found: Option<&Snapshot>) -> RecoverReport {
        RecoverReport::new(model.config(), &self.options, found)
    }
}

impl Recover {
    /// Writes A and B as PEFT has them.
    fn write_adapter(&self, model: &Model, path: &Path, pairs: &[LowRank]) -> Result<()> {
        let Options { rank, alpha, dropout, .. } = self.options;
        // As whoever loads it finds the base.
        let base = repository_of(model.shown()).unwrap_or_else(|| model.shown().display().to_string());
        let form = AdapterForm { base, rank, alpha, dropout };
        let (config, tensors) = form.write(model.config(), pairs)?;
        let plan = |(name, shape, _): &AdapterTensor| TensorPlan {
            name: name.clone(),
            shape: shape.to_vec(),
            dtype: Dtype::F32,
        };
        let plans: Vec<TensorPlan> = tensors.iter().map(plan).collect();
        let bytes: Vec<u8> =
            tensors.iter().flat_map(|(.., values)| values.iter().flat_map(|value| value.to_le_bytes())).collect();
        let directory = OutputDirectory::create(path, self.force)?;
        directory.write("adapter_config.json", config.as_bytes())?;
        directory.write("adapter_model.safetensors", &tensor_file(&plans, &bytes))?;
        // By which it is known for an output, and may be replaced.
        let record = json!({ "tool_version": env!("CARGO_PKG_VERSION"), "output": directory.files_with_record()? });
        directory.write(RECORD, record.to_string().as_bytes())?;
        directory.finish()
    }

    /// Steps of all layers together.
    fn all_steps(&self) -> usize {
        self.options.steps * if self.options.mode == Mode::Blocks { self.config.layers.len() } else { 1 }
    }
}
