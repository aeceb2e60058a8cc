//! Compression as a run sees it.

use super::{
    super::{
        method::Method,
        request::Request,
        units::{grouped, percent_removed},
    },
    report::CompressReport,
    request::CompressRequest,
};
use crate::{
    checkpoint::TensorPlan,
    compress::{self, Axis, Options, Plan, Snapshot},
    error::{Error, Result},
    gpu::Gpu,
    model::{Config, Model},
    stream::{Extent, Job, MemoryPlan, Peak, Speed, Types},
};

/// Compression, planned for a model.
#[derive(Debug, Clone)]
pub struct Compress {
    pub options: Options,
    /// What is written; before the work, what would be by the curves of other models.
    pub plan: Plan,
    /// The axes that can be cut, and why others cannot.
    pub axes: Vec<Axis>,
    pub refused: Vec<(Axis, String)>,
}

impl Method for Compress {
    type Options = CompressRequest;
    type Report = CompressReport;
    type Snapshot = Snapshot;

    const COMPARES: bool = true;
    const MIXES: bool = true;
    const NAME: &'static str = "compress";
    const PHASE: &'static str = "compress";

    fn plan(model: &Model, request: &Request<CompressRequest>) -> Result<Self> {
        let dtype = request.dtype.map_or_else(|| Types::own(&model.store), Types::One);
        let options = request.method.options(dtype);
        options.check()?;
        let (axes, refused) = compress::axes(model.config(), &options)?;
        Ok(Self { plan: compress::guess(model.config(), &options)?, options, axes, refused })
    }

    fn options(&self) -> CompressRequest {
        let Options { goal, effort, per_layer, ridge, .. } = self.options;
        CompressRequest { goal, axes: Some(self.axes.clone()), effort, per_layer, ridge }
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
        let config = model.config();
        let before = config.parameters();
        let names: Vec<String> = self.axes.iter().map(Axis::to_string).collect();
        format!(
            "{}: {} parameters to about {} ({:+.2} %), by cutting some of {}",
            config.architecture.model_type,
            grouped(before),
            grouped(self.plan.parameters),
            -percent_removed(before, self.plan.parameters),
            names.join(", ")
        )
    }

    fn warnings(&self, _: &Model) -> Vec<String> {
        self.refused.iter().map(|(_, reason)| format!("{reason} (left whole)")).collect()
    }

    fn pictures(&self) -> Vec<&'static str> {
        vec![super::chart::NAME]
    }

    fn settled(&self, model: &Model, found: &Snapshot) -> Result<Self> {
        let Some((best, _)) = found.written() else { return Ok(self.clone()) };
        let plan = Plan::new(model.config(), best.sizes.clone(), best.basis, &self.options.dtype)?;
        Ok(Self { plan, ..self.clone() })
    }

    fn passes(&self) -> usize {
        self.options.passes()
    }

    fn passed(&self, snapshot: &Snapshot, layers: usize) -> usize {
        snapshot.passed(layers)
    }

    fn is_done(&self, snapshot: &Snapshot, _: usize) -> bool {
        snapshot.written().is_some()
    }

    fn peak(&self, memory: &MemoryPlan, config: &Config, calibration: &Extent, rope: u64, element_size: usize) -> Peak {
        compress::peak(memory, config, self.plan.byte_len(), calibration, rope, element_size)
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
        if rows.len() < 2 {
            let reason = "one sequence to calibrate on: at least two are needed, as one is measured on and not fitted to; \
                          give more text, or lower --cal-max-seqlen";
            return Err(Error::BadTokens(reason.into()));
        }
        compress::Job { model, rows, options: &self.options, memory, directory, progress }.run(gpu, from, commit)
    }

    fn report(&self, model: &Model, found: Option<&Snapshot>) -> CompressReport {
        let settled = found.and_then(|found| self.settled(model, found).ok());
        let plan = settled.as_ref().map_or(&self.plan, |settled| &settled.plan);
        CompressReport::new(model, &self.axes, plan, found)
    }
}
