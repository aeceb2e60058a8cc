//! Compression as a run sees it.

use std::path::Path;

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
    compress::{self, Axis, Goal, Options, Plan, Snapshot},
    error::{Error, Result},
    gpu::Gpu,
    model::{Config, MIXTURE, Model},
    stream::{Extent, Job, MemoryPlan, Peak, Speed, Types},
};

/// What is still to be done for a goal, of a model that has lost tokens; nothing, if no axis may be cut.
fn left(goal: Goal, axes: &[Axis], model: &Model) -> Goal {
    match goal {
        _ if axes.is_empty() => Goal::Parameters(0.0),
        Goal::Parameters(share) => {
            let whole = model.stored_parameters() as f64 / model.config().parameters() as f64;
            Goal::Parameters(1.0 - (1.0 - share) * whole)
        }
        Goal::Bytes(_) => goal,
    }
}

/// Compression, planned for a model.
#[derive(Debug, Clone)]
pub struct Compress {
    /// As it was asked for.
    request: CompressRequest,
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

    fn inputs(request: &CompressRequest) -> Option<&Path> {
        request.vocabulary.as_ref()?.file()
    }

    fn plan(model: &Model, request: &Request<CompressRequest>) -> Result<Self> {
        let dtype = request.dtype.map_or_else(|| Types::own(&model.store), Types::One);
        if model.config().is_mixture() {
            return Err(Error::Usage(MIXTURE.into()));
        }
        let mut options = request.method.options(dtype);
        options.check()?;
        if request.method.vocabulary.is_some() {
            options.goal = left(options.goal, &options.axes, model);
        } else if options.axes.is_empty() {
            return Err(Error::Usage("--axes: expected at least one".into()));
        }
        let (axes, refused) = compress::axes(model.config(), &options)?;
        let plan = compress::guess(model.config(), &options)?;
        Ok(Self { request: request.method.clone(), plan, options, axes, refused })
    }

    fn options(&self) -> CompressRequest {
        CompressRequest { axes: Some(self.axes.clone()), ..self.request.clone() }
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
        let before = model.stored_parameters();
        let names: Vec<String> = self.axes.iter().map(Axis::to_string).collect();
        format!(
            "{}: {} parameters to about {} ({:+.2} %){}{}",
            config.architecture.model_type,
            grouped(before),
            grouped(self.plan.parameters),
            -percent_removed(before, self.plan.parameters),
            if names.is_empty() { "" } else { ", by cutting some of " },
            names.join(", ")
        )
    }

    fn warnings(&self, model: &Model) -> Vec<String> {
        let words = model.whole_vocabulary().map(|_| {
            "perplexity, KL and top tokens are compared with the original over the tokens that are left, which a text \
             is \
             written with otherwise; bits per byte are compared with the original as it is"
                .to_owned()
        });
        self.refused.iter().map(|(_, reason)| format!("{reason} (left whole)")).chain(words).collect()
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
            let reason = "one sequence to calibrate on: at least two are needed, as one is measured on and not fitted \
                 to; \
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
