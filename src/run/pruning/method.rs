//! Pruning as a run sees it.

use super::{
    super::{
        method::Method,
        request::Request,
        units::{grouped, percent_removed},
    },
    report::PruneReport,
    request::{PruneLayers, PruneRequest},
};
use crate::{
    checkpoint::TensorPlan,
    error::{Error, Result},
    gpu::Gpu,
    model::{Config, Model},
    prune::{self, Groups, Options, Plan, Snapshot},
    stream::{Extent, Job, MemoryPlan, Peak, Speed, Types},
};

/// Pruning, planned for a model.
#[derive(Debug, Clone)]
pub struct Prune {
    pub options: Options,
    /// What is written; before the work, what would be if all layers lost as much.
    pub plan: Plan,
}

impl Method for Prune {
    type Options = PruneRequest;
    type Report = PruneReport;
    type Snapshot = Snapshot;

    const NAME: &'static str = "prune";
    const PHASE: &'static str = "prune";

    fn plan(model: &Model, request: &Request<PruneRequest>) -> Result<Self> {
        let dtype = request.dtype.map_or_else(|| Types::own(&model.store), Types::One);
        let config = model.config();
        let options = request.method.options(config, request.seed, dtype);
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
                "--ratio {}: not one head or channel of layers {}..{} would leave; raise it",
                options.ratio, options.layers.start, options.layers.end
            )));
        }
        Ok(Self { options, plan })
    }

    fn options(&self) -> PruneRequest {
        let Options { ratio, ref layers, importance, aggregate, global, iterations, groups, .. } = self.options;
        let layers = Some(PruneLayers::Some(layers.clone()));
        PruneRequest { ratio, layers, importance, aggregate, global, iterations, groups }
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
        format!(
            "{}: {} parameters to {}{} ({:+.2} %), from layers {} to {}",
            config.architecture.model_type,
            grouped(before),
            if options.global { "about " } else { "" },
            grouped(self.plan.parameters),
            -percent_removed(before, self.plan.parameters),
            options.layers.start,
            options.layers.end - 1
        )
    }

    fn warnings(&self, _: &Model) -> Vec<String> {
        Vec::new()
    }

    fn settled(&self, model: &Model, found: &Snapshot) -> Result<Self> {
        if found.rounds < self.options.iterations {
            return Ok(self.clone());
        }
        Ok(Self { plan: Plan::of(model.config(), &found.kept, &self.options.dtype)?, ..self.clone() })
    }

    fn passes(&self) -> usize {
        self.options.iterations + 1
    }

    fn passed(&self, snapshot: &Snapshot, layers: usize) -> usize {
        snapshot.rounds * layers + snapshot.written
    }

    fn is_done(&self, snapshot: &Snapshot, _: usize) -> bool {
        snapshot.done
    }

    fn peak(&self, memory: &MemoryPlan, config: &Config, calibration: &Extent, rope: u64, element_size: usize) -> Peak {
        self.options.peak(memory, config, self.plan.byte_len(), calibration, rope, element_size)
    }

    fn seconds(&self, speed: &Speed, config: &Config, tokens: usize) -> f64 {
        self.options.seconds(speed, config, tokens)
    }

    fn run(
        &self,
        gpu: &Gpu,
        Job { model, rows, memory, directory, progress, .. }: Job<'_>,
        from: Option<&Snapshot>,
        commit: &mut dyn FnMut(&Snapshot) -> Result<bool>,
    ) -> Result<Snapshot> {
        prune::Job { model, rows, options: &self.options, memory, directory, progress }.run(gpu, from, commit)
    }

    fn report(&self, model: &Model, found: Option<&Snapshot>) -> PruneReport {
        let settled = found.and_then(|found| self.settled(model, found).ok());
        let plan = settled.as_ref().map_or(&self.plan, |settled| &settled.plan);
        PruneReport::new(model, &self.options, plan, found)
    }
}
