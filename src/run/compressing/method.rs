//! Compression as a run sees it.

use std::path::Path;

use super::{
    super::{
        method::Method,
        recovering::LOSSES,
        request::Request,
        units::{grouped, percent_changed},
    },
    ranking::{ranking, ranking_peak, ranking_seconds},
    recovery::{CompressSnapshot, Made, Recovery},
    report::CompressReport,
    request::{CompressImportance, CompressRequest},
};
use crate::{
    checkpoint::TensorPlan,
    compress::{self, Axis, Goal, Options, Plan, Sensing},
    error::{Error, Result},
    gpu::Gpu,
    model::{Config, Model, Resize},
    recover,
    stream::{Extent, Job, MemoryPlan, Peak, Sitting, Speed, Types},
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

/// Finds what heads and channels leave by, from where it was stopped; returns false if it is stopped again.
fn rank(
    gpu: &Gpu,
    sensing: Sensing,
    found: &mut CompressSnapshot,
    commit: &mut dyn FnMut(&CompressSnapshot) -> Result<bool>,
) -> Result<bool> {
    let (from, directory) = (found.gradients.clone().unwrap_or_default(), sensing.directory);
    let ranked = ranking(
        gpu,
        sensing,
        &mut Sitting::after(from, &mut |passed| {
            found.gradients = Some(passed.clone());
            commit(found)
        }),
    )?;
    if ranked.is_none() {
        return Ok(false);
    }
    let passed = found.gradients.take();
    found.ranking = ranked;
    let goes_on = commit(found)?;
    passed.iter().for_each(|passed| passed.remove(directory));
    Ok(goes_on)
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
    recovery: Option<Recovery>,
}

/// Where nothing is cut every tensor is copied, and no more sequences than these go through the layers.
const FEW: usize = 2;

impl Compress {
    /// How much of a calibration goes through the layers.
    fn needed(&self, calibration: Extent) -> Extent {
        let few = FEW * calibration.longest;
        let tokens = if self.axes.is_empty() { calibration.tokens.min(few) } else { calibration.tokens };
        Extent { tokens, ..calibration }
    }

    /// Whether heads and channels leave by LLM-Pruner's gradients.
    fn ranks(&self) -> bool {
        self.request.importance == CompressImportance::Taylor && !self.axes.is_empty()
    }
}

impl Method for Compress {
    type Options = CompressRequest;
    type Report = CompressReport;
    type Snapshot = CompressSnapshot;

    const COMPARES: bool = true;
    const NAME: &'static str = "compress";
    const PHASE: &'static str = "compress";

    fn inputs(request: &CompressRequest) -> Option<&Path> {
        request.vocabulary.as_ref()?.file()
    }

    fn plan(model: &Model, request: &Request<CompressRequest>) -> Result<Self> {
        let dtype = request.dtype.map_or_else(|| Types::own(&model.store), Types::One);
        let mut options = request.method.options(request.seed, dtype);
        options.check()?;
        request.method.check(model.config())?;
        if request.method.vocabulary.is_some() {
            options.goal = left(options.goal, &options.axes, model);
        } else if options.axes.is_empty() {
            return Err(Error::Usage("--axes: expected at least one".into()));
        }
        let (mut axes, refused) = compress::axes(model.config(), &options)?;
        let plan = compress::guess(model.config(), &options)?;
        if plan.sizes == Resize::whole(model.config()) {
            // It is small enough: no axis is probed, and nothing is needed to choose by.
            options.axes.clear();
            axes.clear();
        }
        let recovery = Recovery::new(&request.method, request.seed, &options.dtype);
        if let Some(recovery) = &recovery {
            if axes.is_empty() {
                return Err(Error::Usage(
                    "--recover: no layer is cut, and what is left of the model is as it was; leave it out, or ask for less"
                        .into(),
                ));
            }
            recovery.check(model.config(), &axes)?;
        }
        Ok(Self { request: request.method.clone(), plan, options, axes, refused, recovery })
    }

    fn mixes(&self) -> bool {
        !self.axes.is_empty()
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
            "{}: {} parameters to about {} ({:+.2} %){}{}{}",
            config.architecture.model_type,
            grouped(before),
            grouped(self.plan.parameters),
            percent_changed(before, self.plan.parameters),
            if names.is_empty() { "" } else { ", by cutting some of " },
            names.join(", "),
            self.recovery.as_ref().map_or_else(String::new, |recovery| format!(", then {recovery}"))
        )
    }

    fn warnings(&self, model: &Model) -> Vec<String> {
        let words = model.whole_vocabulary().map(|_| {
            "perplexity, KL and top tokens are of the tokens that are left, also for the original, and a text takes \
             more of these; bits per byte are compared with the original as it is"
                .to_owned()
        });
        self.refused.iter().map(|(_, reason)| format!("{reason} (left whole)")).chain(words).collect()
    }

    fn pictures(&self) -> Vec<&'static str> {
        let loss = self.recovery.is_some().then_some(LOSSES);
        [super::chart::NAME].into_iter().chain(loss).collect()
    }

    fn settled(&self, model: &Model, found: &CompressSnapshot) -> Result<Self> {
        let Some((best, _)) = found.cut.written() else { return Ok(self.clone()) };
        let plan = Plan::new(model.config(), best.sizes.clone(), best.basis, &self.options.dtype)?;
        Ok(Self { plan, ..self.clone() })
    }

    fn passes(&self) -> usize {
        let training = self.recovery.as_ref().map_or(0, Recovery::passes);
        // In place of the gradients that selections go by otherwise.
        usize::from(self.ranks() && !self.options.senses()) + self.options.passes() + training
    }

    fn passed(&self, snapshot: &CompressSnapshot, layers: usize) -> usize {
        let ranking = snapshot.gradients.as_ref().map_or(0, |passed| passed.layers(layers));
        let ranked = snapshot.ranking.as_ref().map_or(ranking, |_| layers);
        ranked + snapshot.cut.passed(layers) + snapshot.recovery.as_ref().map_or(0, |recovery| recovery.steps)
    }

    fn is_done(&self, snapshot: &CompressSnapshot, _: usize) -> bool {
        match (&self.recovery, &snapshot.recovery) {
            (Some(_), recovery) => recovery.as_ref().is_some_and(|recovery| recovery.done),
            (None, _) => snapshot.cut.written().is_some(),
        }
    }

    fn peak(&self, memory: &MemoryPlan, config: &Config, calibration: &Extent, rope: u64, element_size: usize) -> Peak {
        let (written, calibration) = (self.plan.byte_len(), &self.needed(*calibration));
        let mut cut = compress::peak(memory, config, written, calibration, rope, element_size);
        if memory.keeps_dense {
            cut.host += self.options.recorded_bytes(config, calibration);
        }
        if self.ranks() {
            cut = cut.max(ranking_peak(memory, config, calibration, rope, element_size));
        } else if self.options.senses() {
            cut.disk += compress::sensed_bytes(config);
            cut = cut.max(compress::sensing_peak(memory, config, calibration, rope, element_size));
        }
        let Some(recovery) = &self.recovery else { return cut };
        // What is left is no larger than what is cut.
        let trained = recovery.peak(memory, config, written, calibration, rope, element_size);
        Peak {
            gpu: cut.gpu.max(trained.gpu),
            upload: cut.upload.max(trained.upload),
            host: cut.host.max(trained.host),
            disk: cut.disk.max(written + trained.disk),
        }
    }

    fn seconds(&self, speed: &Speed, config: &Config, tokens: usize) -> f64 {
        let tokens = self.needed(Extent { tokens, longest: config.max_position_embeddings }).tokens;
        let training = self.recovery.as_ref().map_or(0.0, |recovery| recovery.seconds(speed, config, tokens));
        let ranked = if self.ranks() { ranking_seconds(speed, config, tokens) } else { 0.0 };
        ranked + self.options.seconds(speed, config, tokens) + training
    }

    fn run(
        &self,
        gpu: &Gpu,
        Job { model, rows, memory, directory, progress, .. }: Job<'_>,
        from: Option<&CompressSnapshot>,
        commit: &mut dyn FnMut(&CompressSnapshot) -> Result<bool>,
    ) -> Result<CompressSnapshot> {
        if rows.len() < 2 {
            let reason = "one sequence to calibrate on: at least two are needed, as one is measured on and not \
                          fitted to; give more text, or lower --cal-max-seqlen";
            return Err(Error::BadTokens(reason.into()));
        }
        let rows = if self.axes.is_empty() { &rows[..FEW] } else { rows };
        // What is trained afterwards is read where it was written, and written elsewhere.
        let draft = self.recovery.as_ref().map(|_| directory.draft()).transpose()?;
        let mut found = from.cloned().unwrap_or_default();
        if found.cut.written().is_none() {
            let directory = draft.as_ref().unwrap_or(directory);
            if self.ranks() && found.ranking.is_none() {
                let sensing = Sensing { model, rows, memory, directory, progress };
                if !rank(gpu, sensing, &mut found, commit)? {
                    return Ok(found);
                }
            }
            let ranking = found.ranking.as_deref();
            let job = compress::Job { model, rows, options: &self.options, ranking, memory, directory, progress };
            let mut goes_on = true;
            found.cut = job.run(gpu, from.map(|from| &from.cut), |cut| {
                let ranking = found.ranking.clone();
                goes_on = commit(&CompressSnapshot { ranking, cut: cut.clone(), ..CompressSnapshot::default() })?;
                Ok(goes_on)
            })?;
            if !goes_on || found.cut.written().is_none() {
                return Ok(found);
            }
        }
        let (Some(recovery), Some(draft)) = (&self.recovery, draft) else { return Ok(found) };
        let settled = self.settled(model, &found)?;
        draft.write("config.json", settled.config_json("")?.as_bytes())?;
        let (tensors, from) = (settled.plan.tensors.as_slice(), found.recovery.take());
        let stay = settled.plan.sizes.layers.as_slice();
        let made = Made { dense: model, stay, draft: &draft, rows, memory, tensors, directory, progress };
        let CompressSnapshot { ranking, cut, .. } = found;
        let with = |recovery: &recover::Snapshot| CompressSnapshot {
            gradients: None,
            ranking: ranking.clone(),
            cut: cut.clone(),
            recovery: Some(recovery.clone()),
        };
        let mut each = |recovery: &recover::Snapshot| commit(&with(recovery));
        let trained = recovery.run(gpu, made, from.as_ref(), &mut each)?;
        Ok(with(&trained))
    }

    fn report(&self, model: &Model, found: Option<&CompressSnapshot>) -> CompressReport {
        let settled = found.and_then(|found| self.settled(model, found).ok());
        let plan = settled.as_ref().map_or(&self.plan, |settled| &settled.plan);
        let trained = found.and_then(|found| found.recovery.as_ref());
        let report = |recovery: &Recovery| recovery.report(&plan.config, model.config(), &plan.sizes.layers, trained);
        let recovery = self.recovery.as_ref().map(report);
        CompressReport::new(model, &self.axes, plan, found.map(|found| &found.cut)).with(recovery)
    }
}
