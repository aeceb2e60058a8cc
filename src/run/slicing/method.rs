//! Slicing as a run sees it.

use super::{
    super::{
        method::Method,
        request::Request,
        units::{grouped, percent_changed},
    },
    report::SliceReport,
    request::SliceRequest,
};
use crate::{
    checkpoint::TensorPlan,
    error::{Error, Result},
    fit::least_tied_width,
    gpu::Gpu,
    model::{Config, Model},
    slice::{self, Cut, Head, Options, Plan, Snapshot},
    stream::{Extent, Job, MemoryPlan, Peak, Speed, Types},
};

/// Slicing, planned for a model.
#[derive(Debug, Clone)]
pub struct Slice {
    pub options: Options,
    pub plan: Plan,
}

impl Method for Slice {
    type Options = SliceRequest;
    type Report = SliceReport;
    type Snapshot = Snapshot;

    const NAME: &'static str = "slicegpt";
    const PHASE: &'static str = "slice";

    fn plan(model: &Model, request: &Request<SliceRequest>) -> Result<Self> {
        let dtype = request.dtype.map_or_else(|| Types::own(&model.store), Types::One);
        let rows_per_batch = request.calibration.cal_batch_size;
        let mut options = request.method.options(model.config(), request.seed, dtype, rows_per_batch);
        let mut plan = Plan::new(model.config(), &options)?;
        let final_norm = if plan.tied { model.store.ends()?.final_norm } else { None };
        // So many weights of the final norm may be unusual that the width does not hold their coordinates.
        let least = final_norm.map(|norm| least_tied_width(&norm.weight));
        if let Some(least) = least.filter(|least| least.is_none_or(|least| plan.width < least)) {
            if request.method.head == Some(Head::Tied) {
                let reason = least.map_or_else(
                    || "none of the weights of the final norm is usual".to_owned(),
                    |least| {
                        format!(
                            "a width of at least {least} is needed, as {} weights of the final norm are unusual",
                            least - 1
                        )
                    },
                );
                return Err(Error::Usage(format!("--head tied: {reason}; cut less, or leave out --head")));
            }
            options.head = Head::Untied;
            plan = Plan::new(model.config(), &options)?;
        }
        Ok(Self { plan, options })
    }

    fn options(&self) -> SliceRequest {
        let Options { cut, basis, refit, signal, ridge, slice_head, head, orientation, .. } = self.options;
        let round_interval = Some(self.plan.round_interval);
        let (refit, signal, head) = (Some(refit), Some(signal), Some(head));
        SliceRequest { cut, basis, refit, signal, ridge, slice_head, head, round_interval, orientation }
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

    fn config_json(&self, calibration_sha256: &str) -> Result<String> {
        self.plan.config_json(calibration_sha256)
    }

    fn summary(&self, model: &Model) -> String {
        let (config, plan) = (model.config(), &self.plan);
        format!(
            "{} of width {} to {}: {} parameters to {} ({:+.2} %)",
            config.architecture.model_type,
            config.hidden_size,
            plan.width,
            grouped(plan.original_parameters),
            grouped(plan.sliced_parameters),
            percent_changed(plan.original_parameters, plan.sliced_parameters)
        )
    }

    fn warnings(&self, model: &Model) -> Vec<String> {
        let Plan { original_parameters, sliced_parameters, .. } = self.plan;
        let larger = match self.options.cut {
            Cut::Sparsity(sparsity) if sliced_parameters >= original_parameters => Some(format!(
                "the result is larger than the original: {sliced_parameters} parameters instead of \
                 {original_parameters}; shortcuts and an untied head cost more than --sparsity {sparsity} saves"
            )),
            _ => None,
        };
        larger.into_iter().chain(self.demanded(model.config())).collect()
    }

    fn settled(&self, _: &Model, _: &Snapshot) -> Result<Self> {
        Ok(self.clone())
    }

    fn passes(&self) -> usize {
        self.options.passes()
    }

    fn passed(&self, snapshot: &Snapshot, layers: usize) -> usize {
        snapshot.passed(layers)
    }

    fn peak(&self, memory: &MemoryPlan, config: &Config, calibration: &Extent, rope: u64, element_size: usize) -> Peak {
        memory.peak(config, &self.plan, &self.options, calibration, rope, element_size)
    }

    fn seconds(&self, speed: &Speed, config: &Config, tokens: usize) -> f64 {
        speed.slice_seconds(config, &self.plan, &self.options, tokens)
    }

    fn run(
        &self,
        gpu: &Gpu,
        Job { model, rows, memory, directory, progress, .. }: Job<'_>,
        from: Option<&Snapshot>,
        commit: &mut dyn FnMut(&Snapshot) -> Result<bool>,
    ) -> Result<Snapshot> {
        let (options, plan) = (&self.options, &self.plan);
        slice::Job { model, rows, options, plan, memory, directory, progress }.run(gpu, from, commit)
    }

    fn report(&self, model: &Model, found: Option<&Snapshot>) -> SliceReport {
        SliceReport::new(model, &self.options, &self.plan, found.map_or(&[], |snapshot| &snapshot.sites))
    }
}

impl Slice {
    /// What a user should know of the width that was asked for and what other programs demand of it.
    fn demanded(&self, config: &Config) -> Option<String> {
        let plan = &self.plan;
        let interval = if plan.stock { config.stock_interval() } else { 1 };
        match self.options.round_interval {
            Some(_) if !plan.stored_width.is_multiple_of(interval) => Some(format!(
                "transformers refuses a {} of width {}, which is no multiple of its {interval} attention heads; leave \
                 out --round-interval",
                config.architecture.model_type, plan.stored_width
            )),
            None if interval > 1 && plan.round_interval != 8 => Some(format!(
                "the width is rounded to a multiple of {}: transformers demands one of the {interval} attention heads",
                plan.round_interval
            )),
            _ => None,
        }
    }
}
