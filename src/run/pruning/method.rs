//! Pruning as a run sees it.

use std::path::PathBuf;

use super::{
    super::{
        method::{Besides, Method},
        request::Request,
        units::{grouped, percent_changed},
    },
    report::PruneReport,
    request::{PruneLayers, PruneRefit, PruneRequest},
    snapshot::PruneSnapshot,
};
use crate::{
    checkpoint::{Dtype, FileTarget, TensorFile, TensorPlan},
    compress,
    error::{Error, Result},
    gpu::Gpu,
    model::{Config, Model},
    prune::{self, Groups, LayerImportance, Options, Plan, Snapshot},
    stream::{Extent, Job, MemoryPlan, Peak, Speed, Types},
};

/// Pruning, planned for a model.
#[derive(Debug, Clone)]
pub struct Prune {
    pub options: Options,
    /// What is written; before the work, what would be if all layers lost as much.
    pub plan: Plan,
    refit: PruneRefit,
    write_importance: Option<PathBuf>,
}

/// The ridge of the re-fit, as a share of the regressors' mean energy: that of a compression.
const RIDGE: f64 = 0.03;

impl Method for Prune {
    type Options = PruneRequest;
    type Report = PruneReport;
    type Snapshot = PruneSnapshot;

    const NAME: &'static str = "prune";
    const PHASE: &'static str = "prune";

    fn besides(options: &PruneRequest) -> Option<Besides<'_>> {
        options.write_importance.as_deref().map(|path| Besides::File("--write-importance", path))
    }

    fn write_besides(&self, target: FileTarget, found: &PruneSnapshot) -> Result<()> {
        let of_layer = |one: &LayerImportance| {
            let name = |kind: &str| format!("layers.{}.{kind}", one.layer);
            [("attention", &one.attention), ("mlp", &one.mlp), ("experts", &one.experts)]
                .map(|(kind, values)| (name(kind), values.clone()))
        };
        let tensors = found.ranked.importances.iter().flat_map(of_layer);
        let tensors = tensors.chain([("residual".to_owned(), found.ranked.coordinate_importances.clone())]);
        let tensors: Vec<_> = tensors.filter(|(_, values)| !values.is_empty()).collect();
        let plan = |(name, values): &(String, Vec<f64>)| TensorPlan {
            name: name.clone(),
            shape: vec![values.len()],
            dtype: Dtype::F64,
        };
        let mut file = TensorFile::create(target, tensors.iter().map(plan).collect())?;
        for (name, values) in &tensors {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            file.write(name, &bytes)?;
        }
        file.finish()
    }

    fn plan(model: &Model, request: &Request<PruneRequest>) -> Result<Self> {
        let dtype = request.dtype.map_or_else(|| Types::own(&model.store), Types::One);
        let config = model.config();
        // As it is stored, unless it is fitted or wanted in another type.
        let copied = request.dtype.is_none() && request.method.refit == PruneRefit::None;
        let in_mxfp4 = if copied { model.store.in_mxfp4() } else { Vec::new() };
        let options = Options { in_mxfp4, ..request.method.options(config, request.seed, dtype) };
        options.check(config)?;
        let plan = Plan::guess(config, &options)?;
        if plan.parameters == config.parameters() && options.groups == Groups::Experts {
            return Err(Error::Usage(format!(
                "--experts {}: not one expert would leave; raise it, if a layer has more than a token goes to",
                options.ratio
            )));
        }
        if plan.parameters == config.parameters() {
            return Err(Error::Usage(format!(
                "--ratio {}: not one {} of layers {}..{} would leave; raise it",
                options.ratio,
                if options.groups == Groups::Coordinates { "coordinate" } else { "head or channel" },
                options.layers.start,
                options.layers.end
            )));
        }
        let PruneRequest { refit, ref write_importance, .. } = request.method;
        if refit == PruneRefit::Writes && options.groups == Groups::Coordinates {
            let reason = "--refit writes: with fewer coordinates nothing is fitted; compress --axes width does that";
            return Err(Error::Usage(reason.into()));
        }
        Ok(Self { options, plan, refit, write_importance: write_importance.clone() })
    }

    fn options(&self) -> PruneRequest {
        let Options { ratio, ref layers, importance, aggregate, global, iterations, groups, .. } = self.options;
        let layers = Some(PruneLayers::Some(layers.clone()));
        let write_importance = self.write_importance.clone();
        let refit = self.refit;
        PruneRequest { ratio, layers, importance, aggregate, global, iterations, groups, refit, write_importance }
    }

    fn types(&self) -> &Types {
        &self.options.dtype
    }

    fn config(&self) -> &Config {
        &self.plan.config
    }

    fn tensors(&self) -> &[TensorPlan] {
        &self.plan.tensors
    }

    fn config_json(&self, _: &str) -> Result<String> {
        let mut text = serde_json::to_string_pretty(&self.plan.config.raw).map_err(Error::internal)?;
        text.push('\n');
        Ok(text)
    }

    fn summary(&self, model: &Model) -> String {
        let (config, options) = (model.config(), &self.options);
        let before = config.parameters();
        let of = match options.groups {
            Groups::Coordinates => {
                format!("{} of {} coordinates left", self.plan.config.hidden_size, config.hidden_size)
            }
            _ => format!("from layers {} to {}", options.layers.start, options.layers.end - 1),
        };
        format!(
            "{}: {} parameters to {}{} ({:+.2} %), {of}",
            config.architecture.model_type,
            grouped(before),
            if options.global { "about " } else { "" },
            grouped(self.plan.parameters),
            percent_changed(before, self.plan.parameters)
        )
    }

    fn warnings(&self, _: &Model) -> Vec<String> {
        Vec::new()
    }

    fn settled(&self, model: &Model, PruneSnapshot { ranked: found, .. }: &PruneSnapshot) -> Result<Self> {
        if found.rounds < self.options.iterations {
            return Ok(self.clone());
        }
        Ok(Self { plan: found.plan(model.config(), &self.options)?, ..self.clone() })
    }

    fn passes(&self) -> usize {
        self.options.iterations + 1
    }

    fn passed(&self, PruneSnapshot { ranked, fitting }: &PruneSnapshot, layers: usize) -> usize {
        ranked.ranked(layers) + fitting.as_ref().map_or(ranked.written, |fitting| fitting.layers)
    }

    fn is_done(&self, snapshot: &PruneSnapshot, _: usize) -> bool {
        snapshot.ranked.done
    }

    fn peak(&self, memory: &MemoryPlan, config: &Config, calibration: &Extent, rope: u64, element_size: usize) -> Peak {
        let ranked = self.options.peak(memory, config, self.plan.byte_len(), calibration, rope, element_size);
        match self.refit {
            PruneRefit::None => ranked,
            PruneRefit::Writes => {
                let written = self.plan.byte_len();
                ranked.max(compress::peak(memory, config, written, calibration, rope, element_size))
            }
        }
    }

    fn seconds(&self, speed: &Speed, config: &Config, tokens: usize) -> f64 {
        let refit = match self.refit {
            PruneRefit::None => 0.0,
            // The original, what the writes read of the smaller model, and that one.
            PruneRefit::Writes => 3.0 * speed.forward_seconds(config, tokens),
        };
        self.options.seconds(speed, config, tokens) + refit
    }

    fn run(
        &self,
        gpu: &Gpu,
        Job { model, rows, memory, directory, progress, .. }: Job<'_>,
        from: Option<&PruneSnapshot>,
        commit: &mut dyn FnMut(&PruneSnapshot) -> Result<bool>,
    ) -> Result<PruneSnapshot> {
        let prune = prune::Job { model, rows, options: &self.options, memory, directory, progress };
        let ranking = from.map(|from| &from.ranked);
        let alone = &mut |ranked: &Snapshot| commit(&PruneSnapshot { ranked: ranked.clone(), fitting: None });
        if self.refit == PruneRefit::None {
            return Ok(PruneSnapshot { ranked: prune.run(gpu, ranking, alone)?, fitting: None });
        }
        let mut state = from.cloned().unwrap_or_default();
        if state.ranked.done || !prune.rank(gpu, &mut state.ranked, alone)? {
            return Ok(state);
        }
        let kept = state.ranked.kept.clone();
        let plan = compress::plan_of_selection(model.config(), &kept, &self.options.dtype)?;
        let job = Job {
            model,
            rows,
            counted: None,
            watched: 0,
            memory,
            output: &plan.config,
            tensors: &plan.tensors,
            directory,
            progress,
        };
        let from = state.fitting.clone();
        let done = compress::refit_selection(gpu, job, &plan, &kept, RIDGE, from.as_ref(), &mut |fitting| {
            state.fitting = Some(fitting.clone());
            commit(&state)
        })?;
        if done {
            state.ranked.done = true;
            commit(&state)?;
        }
        Ok(state)
    }

    fn report(&self, model: &Model, found: Option<&PruneSnapshot>) -> PruneReport {
        let settled = found.and_then(|found| self.settled(model, found).ok());
        let plan = settled.as_ref().map_or(&self.plan, |settled| &settled.plan);
        PruneReport::new(model, &self.options, plan, self.refit, found.map(|found| &found.ranked))
    }
}
